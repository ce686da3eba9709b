//! The files of an image: what each path is, to compare what two programs unpacked.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::Path,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

/// Read at once while hashing.
const BUFFER: usize = 1 << 20;

/// Path below the root → what is there, in words that are equal exactly where the files are.
pub type Tree = BTreeMap<String, String>;

/// All files and symbolic links below `root`. Folders count only by what is in them: unpackers differ in those that a layer only implies.
pub fn read(root: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut folders = vec![root.to_owned()];
    let mut buffer = vec![0; BUFFER];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let about = fs::symlink_metadata(&path)?;
            let what = if about.is_dir() {
                folders.push(path);
                continue;
            } else if about.is_symlink() {
                format!("-> {}", fs::read_link(&path)?.display())
            } else {
                format!("{:o} {} {} {}", about.mode(), about.uid(), about.gid(), sha256(&path, &mut buffer)?)
            };
            tree.insert(path.strip_prefix(root)?.to_string_lossy().into_owned(), what);
        }
    }
    Ok(tree)
}

/// Fails with the first few differences, where there are any.
pub fn ensure_equal(expected: &Tree, found: &Tree) -> Result<()> {
    ensure!(!expected.is_empty(), "an empty tree proves nothing");
    let differing: Vec<String> = expected
        .keys()
        .chain(found.keys())
        .filter(|path| expected.get(*path) != found.get(*path))
        .take(10)
        .map(|path| format!("{path}: expected {:?}, found {:?}", expected.get(path), found.get(path)))
        .collect();
    ensure!(differing.is_empty(), "files differ:\n{}", differing.join("\n"));
    Ok(())
}

fn sha256(path: &Path, buffer: &mut [u8]) -> Result<String> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hash = Sha256::new();
    loop {
        let read = file.read(buffer)?;
        if read == 0 {
            return Ok(hex::encode(hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::{Tree, ensure_equal};

    #[test]
    fn a_missing_an_additional_and_a_changed_file_are_differences() {
        let tree =
            |files: &[(&str, &str)]| -> Tree { files.iter().map(|&(path, what)| (path.into(), what.into())).collect() };
        let expected = tree(&[("a", "1"), ("b", "2")]);
        assert!(ensure_equal(&expected, &expected).is_ok());
        for found in [tree(&[("a", "1")]), tree(&[("a", "1"), ("b", "2"), ("c", "3")]), tree(&[("a", "1"), ("b", "3")])]
        {
            assert!(ensure_equal(&expected, &found).is_err());
        }
        assert!(ensure_equal(&Tree::new(), &Tree::new()).is_err());
    }
}
