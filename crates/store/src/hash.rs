//! Digest and leaf hashes of what is all there, in one pass over it.

use std::{fs::File, io, os::unix::fs::FileExt};

use shoal_content::{
    Algorithm, Digest, Hasher, LEAF_SIZE, LeafHash,
    leaf::{leaf_count, leaf_range},
};

/// Digest and leaf hashes of all of a file; `None` when `stop` said to stop. Holds one leaf in memory at a time.
pub(crate) fn hash_file(
    file: &File,
    algorithm: Algorithm,
    stop: &dyn Fn() -> bool,
) -> io::Result<Option<(Digest, Vec<LeafHash>)>> {
    let mut whole = Hasher::new(algorithm);
    let mut leaves = Vec::new();
    let mut buffer = vec![0; LEAF_SIZE as usize];
    let mut offset = 0;
    loop {
        if stop() {
            return Ok(None);
        }
        let len = fill(file, &mut buffer, offset)?;
        if len == 0 && offset > 0 {
            break;
        }
        let leaf = &buffer[..len];
        leaves.push(whole.update_with_leaf(leaf));
        offset += len as u64;
        if leaf.len() < buffer.len() {
            break;
        }
    }
    Ok(Some((whole.finish(), leaves)))
}

/// Digest and leaf hashes of bytes in memory.
pub(crate) fn hash_bytes(algorithm: Algorithm, content: &[u8]) -> (Digest, Vec<LeafHash>) {
    let size = content.len() as u64;
    let mut whole = Hasher::new(algorithm);
    let leaf = |index| {
        let range = leaf_range(size, index);
        whole.update_with_leaf(&content[range.start as usize..range.end as usize])
    };
    let leaves = (0..leaf_count(size)).map(leaf).collect();
    (whole.finish(), leaves)
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read_at(&mut buffer[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
