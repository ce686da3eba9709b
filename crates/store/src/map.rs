//! The map of a partial: an append-only log of its verified leaves.
//!
//! Header: magic (8 bytes), version (1), algorithm's multihash code (1), hash (64, zero-padded), size (8), CRC-32 (4).
//! Records, all alike: kind (1: written 1, forgotten 2), leaf index (8), leaf hash (32), CRC-32 of the record before it (4).
//! All integers big-endian. The first record that is short or whose CRC does not match ends the log.
//!
//! The log is never synced: it says where verified leaves should be, and each is hashed again when the partial is resumed.

use std::{
    fs::{File, OpenOptions},
    io::{BufReader, Read},
    path::Path,
};

use shoal_content::{Digest, LeafHash, leaf::leaf_count};

use crate::{
    disk::Disk,
    error::{Error, Result},
};

const MAGIC: &[u8; 8] = b"shoalmap";
const VERSION: u8 = 1;
const HEADER: usize = 8 + 1 + 1 + 64 + 8 + 4;
const RECORD: usize = 1 + 8 + 32 + 4;
const WRITTEN: u8 = 1;
const FORGOTTEN: u8 = 2;

/// What a record says of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It was written, and has this hash.
    Written(u64, LeafHash),
    /// It is not to be relied on any more.
    Forgotten(u64),
}

/// The open log of one partial.
#[derive(Debug)]
pub(crate) struct Map {
    file: File,
    /// Where the next record goes: what a failed append left behind is written over.
    end: u64,
}

impl Map {
    /// Starts an empty log, in place of any that is there.
    pub(crate) fn create(disk: &dyn Disk, path: &Path, digest: &Digest, size: u64) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).map_err(Error::io(
                "create",
                path,
                HEADER as u64,
            ))?;
        disk.write_at(&file, &header(digest, size), 0).map_err(Error::io("write", path, HEADER as u64))?;
        Ok(Self { file, end: HEADER as u64 })
    }

    /// Opens the log of this blob and gives the hash of each leaf that it says is there. `None` when it is missing, of
    /// another blob, size or version, or damaged at its beginning.
    pub(crate) fn resume(path: &Path, digest: &Digest, size: u64) -> Result<Option<(Self, Vec<Option<LeafHash>>)>> {
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", path, 0)(error)),
        };
        let mut reader = BufReader::new(&file);
        let mut found = [0; HEADER];
        if reader.read_exact(&mut found).is_err() || found != header(digest, size) {
            return Ok(None);
        }

        let Ok(count) = usize::try_from(leaf_count(size)) else { return Ok(None) };
        let mut leaves = vec![None; count];
        let mut end = HEADER as u64;
        let mut record = [0; RECORD];
        while reader.read_exact(&mut record).is_ok() {
            let Some(entry) = decode(&record) else { break };
            let (index, state) = match entry {
                Entry::Written(index, hash) => (index, Some(hash)),
                Entry::Forgotten(index) => (index, None),
            };
            let Some(slot) = usize::try_from(index).ok().and_then(|index| leaves.get_mut(index)) else { break };
            *slot = state;
            end += RECORD as u64;
        }
        // Records beyond the first bad one could come back to life behind new ones.
        file.set_len(end).map_err(Error::io("truncate", path, 0))?;
        Ok(Some((Self { file, end }, leaves)))
    }

    /// Adds a record.
    pub(crate) fn append(&mut self, disk: &dyn Disk, path: &Path, entry: Entry) -> Result<()> {
        disk.write_at(&self.file, &encode(entry), self.end).map_err(Error::io("write", path, RECORD as u64))?;
        self.end += RECORD as u64;
        Ok(())
    }
}

/// The size that a map's header states; `None` when there is no sound header of this blob.
pub(crate) fn size_of(path: &Path, digest: &Digest) -> Option<u64> {
    let mut found = [0; HEADER];
    File::open(path).ok()?.read_exact(&mut found).ok()?;
    let size = u64::from_be_bytes(found[HEADER - 12..HEADER - 4].try_into().ok()?);
    (found == header(digest, size)).then_some(size)
}

fn header(digest: &Digest, size: u64) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..8].copy_from_slice(MAGIC);
    out[8] = VERSION;
    out[9] = digest.algorithm().multihash_code() as u8;
    out[10..10 + digest.hash().len()].copy_from_slice(digest.hash());
    out[74..82].copy_from_slice(&size.to_be_bytes());
    let check = crc32fast::hash(&out[..HEADER - 4]);
    out[HEADER - 4..].copy_from_slice(&check.to_be_bytes());
    out
}

fn encode(entry: Entry) -> [u8; RECORD] {
    let (kind, index, hash) = match entry {
        Entry::Written(index, hash) => (WRITTEN, index, hash.0),
        Entry::Forgotten(index) => (FORGOTTEN, index, [0; 32]),
    };
    let mut out = [0; RECORD];
    out[0] = kind;
    out[1..9].copy_from_slice(&index.to_be_bytes());
    out[9..41].copy_from_slice(&hash);
    let check = crc32fast::hash(&out[..RECORD - 4]);
    out[RECORD - 4..].copy_from_slice(&check.to_be_bytes());
    out
}

fn decode(record: &[u8; RECORD]) -> Option<Entry> {
    let (body, check) = record.split_at(RECORD - 4);
    if crc32fast::hash(body).to_be_bytes() != check {
        return None;
    }
    let index = u64::from_be_bytes(body[1..9].try_into().ok()?);
    match body[0] {
        WRITTEN => Some(Entry::Written(index, LeafHash(body[9..].try_into().ok()?))),
        FORGOTTEN => Some(Entry::Forgotten(index)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use shoal_content::{Algorithm, LEAF_SIZE};

    use super::*;
    use crate::disk::SystemDisk;

    const SIZE: u64 = 5 * LEAF_SIZE;

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha512, b"map")
    }

    fn written(path: &Path) -> Vec<Option<LeafHash>> {
        Map::resume(path, &digest(), SIZE).unwrap().unwrap().1
    }

    #[test]
    fn the_last_word_on_a_leaf_holds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("map");
        let mut map = Map::create(&SystemDisk, &path, &digest(), SIZE).unwrap();
        let hash = |byte| LeafHash([byte; 32]);
        for entry in [
            Entry::Written(1, hash(1)),
            Entry::Written(4, hash(4)),
            Entry::Forgotten(1),
            Entry::Written(0, hash(9)),
            Entry::Forgotten(0),
            Entry::Written(0, hash(2)),
        ] {
            map.append(&SystemDisk, &path, entry).unwrap();
        }
        assert_eq!(written(&path), [Some(hash(2)), None, None, None, Some(hash(4))]);
        assert_eq!(size_of(&path, &digest()), Some(SIZE));
    }

    #[test]
    fn a_log_cut_anywhere_yields_the_records_before_the_cut_and_goes_on_from_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("map");
        let mut map = Map::create(&SystemDisk, &path, &digest(), SIZE).unwrap();
        for index in 0..3 {
            map.append(&SystemDisk, &path, Entry::Written(index, LeafHash([7; 32]))).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let Some((mut map, leaves)) = Map::resume(&path, &digest(), SIZE).unwrap() else {
                assert!(cut < HEADER);
                continue;
            };
            assert_eq!(leaves.iter().flatten().count(), (cut - HEADER) / RECORD);
            map.append(&SystemDisk, &path, Entry::Written(4, LeafHash([8; 32]))).unwrap();
            assert_eq!(written(&path)[4], Some(LeafHash([8; 32])));
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_log_or_refuses_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("map");
        let mut map = Map::create(&SystemDisk, &path, &digest(), SIZE).unwrap();
        for index in 0..3 {
            map.append(&SystemDisk, &path, Entry::Written(index, LeafHash([7; 32]))).unwrap();
        }
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            fs::write(&path, &flipped).unwrap();
            match Map::resume(&path, &digest(), SIZE).unwrap() {
                None => assert!(at < HEADER),
                Some((_, leaves)) => assert_eq!(leaves.iter().flatten().count(), (at - HEADER) / RECORD),
            }
        }
    }

    #[test]
    fn the_map_of_another_blob_or_size_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("map");
        Map::create(&SystemDisk, &path, &digest(), SIZE).unwrap();
        assert!(Map::resume(&path, &digest(), SIZE + 1).unwrap().is_none());
        assert!(Map::resume(&path, &Digest::of(Algorithm::Sha512, b"other"), SIZE).unwrap().is_none());
        assert!(Map::resume(&directory.path().join("none"), &digest(), SIZE).unwrap().is_none());
        assert_eq!(size_of(&path, &Digest::of(Algorithm::Sha256, b"other")), None);
    }
}
