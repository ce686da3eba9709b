//! The node's own key, and with it its name in the swarm.
//!
//! A node keeps its name over restarts so that provider records that others hold of it stay true. The file holds the ed25519 key pair in
//! libp2p's protobuf form, readable by its owner only.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use libp2p::{PeerId, identity::Keypair};

use crate::error::Error;

/// Name of the key's file in the data directory.
pub const FILE_NAME: &str = "peer.key";

/// An ed25519 key in protobuf form is 68 bytes; what is much larger is another file.
const MAX_FILE_SIZE: u64 = 4096;

/// A peer's key pair. `Debug` shows its public name only.
#[derive(Clone)]
pub struct Identity(Keypair);

impl Identity {
    /// A new key that is kept nowhere.
    pub fn generate() -> Self {
        Self(Keypair::generate_ed25519())
    }

    /// Reads the key in `directory`, or makes it on first use.
    ///
    /// A file that is damaged, or that others may read, is an error: making a new key in its place would silently rename the node.
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE_NAME);
        match fs::metadata(&path) {
            Ok(metadata) => Self::read(&path, &metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => Self::create(directory, &path),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// The name of this peer.
    pub fn peer(&self) -> PeerId {
        self.0.public().to_peer_id()
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.0
    }

    fn read(path: &Path, metadata: &fs::Metadata) -> Result<Self, Error> {
        let damaged = |reason: String| Error::Identity { path: path.to_owned(), reason };
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(damaged("others may read it: `chmod 600` it if nobody has, remove it otherwise".into()));
        }
        if metadata.len() > MAX_FILE_SIZE {
            return Err(damaged(format!("it is {} bytes long, a key is 68", metadata.len())));
        }
        let bytes = fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        Keypair::from_protobuf_encoding(&bytes).map(Self).map_err(|error| damaged(error.to_string()))
    }

    fn create(directory: &Path, path: &Path) -> Result<Self, Error> {
        let identity = Self::generate();
        let encoded = identity.0.to_protobuf_encoding().map_err(|error| Error::Identity {
            path: path.to_owned(),
            reason: format!("the new key cannot be encoded: {error}"),
        })?;
        write_atomically(directory, path, &encoded).map_err(|source| Error::File { path: path.to_owned(), source })?;
        Ok(identity)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer())
    }
}

/// A crash leaves either no key or the whole key.
fn write_atomically(directory: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    let unfinished = directory.join(format!("{FILE_NAME}.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    written?;
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_its_name_over_restarts() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        let first = Identity::load(&data).unwrap();
        assert_eq!(Identity::load(&data).unwrap().peer(), first.peer());
        let mode = fs::metadata(data.join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_exposed_key_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE_NAME);
        Identity::load(directory.path()).unwrap();
        let mut bytes = fs::read(&path).unwrap();

        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Identity::load(directory.path()).unwrap_err().to_string();
        assert!(error.contains("chmod 600") && error.contains(FILE_NAME), "{error}");

        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        bytes.truncate(20);
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(Identity::load(directory.path()), Err(Error::Identity { .. })));
        assert_eq!(fs::read(&path).unwrap(), bytes);

        fs::write(&path, vec![0; 10_000]).unwrap();
        assert!(matches!(Identity::load(directory.path()), Err(Error::Identity { .. })));
    }

    #[test]
    fn the_secret_is_not_in_debug_output() {
        let identity = Identity::generate();
        assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.peer()));
    }
}
