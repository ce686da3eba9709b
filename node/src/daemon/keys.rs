//! The swarm key's file.

use std::{
    fs,
    io::{self, ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, bail};
use shoal_swarm::SwarmKey;

/// Where the key is when nobody says.
const FILE: &str = "swarm.key";

/// Reads the swarm key. A file that is named must be there; the one in the data directory is made on the first start, so that a node never
/// stands open: it is a swarm of its own until others are given its key.
pub(super) fn swarm_key(named: Option<&Path>, data_dir: &Path) -> anyhow::Result<SwarmKey> {
    let own = data_dir.join(FILE);
    let path = named.unwrap_or(&own);
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => {
            let key = SwarmKey::generate();
            write_new(path, &key).with_context(|| format!("cannot write {}", path.display()))?;
            tracing::info!(path = %path.display(), "made a swarm key: give this file to every node that is to join");
            return Ok(key);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("swarm.key_file: there is no {}: `shoal key generate` makes one", path.display());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read the swarm key {}", path.display())),
    };
    // A Secret's volume is readable by the group at times; by everybody it is a slip.
    if let Ok(metadata) = fs::metadata(path)
        && metadata.permissions().mode() & 0o007 != 0
    {
        tracing::warn!(path = %path.display(), "the swarm key can be read by every user of this machine");
    }
    text.parse().with_context(|| format!("{} is not a swarm key", path.display()))
}

/// Writes a key where none is, readable by its owner only. Another key is never replaced.
pub(crate) fn write_new(path: &Path, key: &SwarmKey) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.to_string().as_bytes())?;
    file.sync_all()
}
