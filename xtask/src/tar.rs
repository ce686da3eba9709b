//! An archive in the `ustar` format (POSIX.1-1988), written so that the same content gives the same bytes.

use std::io::{Result, Write};

const BLOCK: usize = 512;

/// An archive that is being written. Times are zero.
pub(crate) struct Archive<W: Write> {
    to: W,
}

/// Who owns an entry, and what its mode is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// User and group.
    pub(crate) id: u32,
    /// Permission bits.
    pub(crate) mode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub(crate) fn new(to: W) -> Archive<W> {
        Archive { to }
    }

    /// Adds a folder; `path` has no slash at its ends.
    pub(crate) fn folder(&mut self, path: &str, access: Access) -> Result<()> {
        self.to.write_all(&header(&format!("{path}/"), b'5', 0, access))
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, access: Access, content: &[u8]) -> Result<()> {
        self.to.write_all(&header(path, b'0', content.len(), access))?;
        self.to.write_all(content)?;
        self.to.write_all(&[0; BLOCK][..content.len().next_multiple_of(BLOCK) - content.len()])
    }

    /// Two empty blocks are the end.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.to.write_all(&[0; 2 * BLOCK])?;
        Ok(self.to)
    }
}

fn header(path: &str, kind: u8, size: usize, access: Access) -> [u8; BLOCK] {
    // The name field has 100 bytes; no name here is longer.
    assert!(path.len() <= 100, "{path} is too long for a tar header");
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, path.as_bytes());
    put(100, format!("{:07o}\0", access.mode).as_bytes());
    put(108, format!("{:07o}\0", access.id).as_bytes());
    put(116, format!("{:07o}\0", access.id).as_bytes());
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    // The sum is taken with blanks in its own place.
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Access, Archive};

    #[test]
    fn tar_reads_back_what_was_written() {
        let folder = std::env::temp_dir().join(format!("xtask-tar-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut archive = Archive::new(Vec::new());
        archive.folder("a", Access { id: 65532, mode: 0o755 }).unwrap();
        archive.file("a/b", Access { id: 0, mode: 0o644 }, &[b'x'; 513]).unwrap();
        archive.file("empty", Access { id: 0, mode: 0o600 }, b"").unwrap();
        std::fs::write(folder.join("t.tar"), archive.finish().unwrap()).unwrap();
        let listed = Command::new("tar")
            .args(["--list", "--verbose", "--numeric-owner", "--utc", "--file"])
            .arg(folder.join("t.tar"))
            .output()
            .unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
        let listed = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["drwxr-xr-x", "65532/65532", "0", "1970-01-01", "00:00", "a/"]);
        assert_eq!(lines[1], ["-rw-r--r--", "0/0", "513", "1970-01-01", "00:00", "a/b"]);
        assert_eq!(lines[2], ["-rw-------", "0/0", "0", "1970-01-01", "00:00", "empty"]);
    }
}
