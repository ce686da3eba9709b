//! OCI digests: `algorithm:hex`, as the image specification defines them.

use std::{fmt, str::FromStr};

use cid::multihash::Multihash;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::{
    leaf::LeafHash,
    sha256::{self, Sha256},
};

/// The hash functions registered by the OCI image specification that Shoal serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// Length of this algorithm's output in bytes.
    pub const fn hash_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// The name used in digests and in file paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The multicodec code of the hash function.
    pub const fn multihash_code(self) -> u64 {
        match self {
            Algorithm::Sha256 => 0x12,
            Algorithm::Sha512 => 0x13,
        }
    }
}

/// Why a string is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// There is no `:` between algorithm and hash.
    #[error("digest has no `algorithm:` in front")]
    NoAlgorithm,
    /// The algorithm is not one that Shoal serves.
    #[error("digest algorithm {0:?} is not sha256 or sha512")]
    UnknownAlgorithm(String),
    /// The hash is not lower-case hex of the algorithm's length.
    #[error("{algorithm} digest must be {expected} lower-case hex digits", algorithm = .0.as_str(), expected = .0.hash_len() * 2)]
    BadHash(Algorithm),
}

/// The digest of a blob: what a registry and a runtime name it by.
///
/// Ordered by algorithm, then by hash. A value of this type is always well-formed: file names and URLs may be made of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    hash: [u8; 64],
}

impl Digest {
    /// A digest from raw hash bytes; `None` when the length is not the algorithm's.
    pub fn new(algorithm: Algorithm, hash: &[u8]) -> Option<Self> {
        if hash.len() != algorithm.hash_len() {
            return None;
        }
        let mut bytes = [0; 64];
        bytes[..hash.len()].copy_from_slice(hash);
        Some(Self { algorithm, hash: bytes })
    }

    /// The SHA-256 digest with these hash bytes.
    pub fn sha256(hash: [u8; 32]) -> Self {
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&hash);
        Self { algorithm: Algorithm::Sha256, hash: bytes }
    }

    /// Hashes `content` whole.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// The hash function.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hash, 32 or 64 bytes.
    pub fn hash(&self) -> &[u8] {
        &self.hash[..self.algorithm.hash_len()]
    }

    /// The hash as lower-case hex, as used in file names.
    pub fn hex(&self) -> String {
        hex::encode(self.hash())
    }

    /// The multihash of the blob, which is also its key in the DHT.
    pub fn multihash(&self) -> Multihash<64> {
        Multihash::wrap(self.algorithm.multihash_code(), self.hash()).expect("a digest is at most 64 bytes")
    }

    /// The digest that this multihash stands for; `None` for other hash functions and truncated hashes.
    pub fn from_multihash(multihash: &Multihash<64>) -> Option<Self> {
        let algorithm = match multihash.code() {
            0x12 => Algorithm::Sha256,
            0x13 => Algorithm::Sha512,
            _ => return None,
        };
        Self::new(algorithm, multihash.digest())
    }
}

/// Hashes content that arrives in parts.
#[derive(Clone, Debug)]
pub struct Hasher(State);

#[derive(Clone, Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(sha2::Sha512::new())),
        })
    }

    /// Adds the next bytes.
    pub fn update(&mut self, content: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(content),
            State::Sha512(state) => state.update(content),
        }
    }

    /// Adds a leaf, and gives the leaf's own hash: one pass over the bytes, which costs hardly more than one hash of them
    /// where this is SHA-256 and the processor has instructions for it.
    pub fn update_with_leaf(&mut self, leaf: &[u8]) -> LeafHash {
        match &mut self.0 {
            State::Sha256(whole) => {
                let mut hash = Sha256::new();
                sha256::update_both([whole, &mut hash], leaf);
                LeafHash(hash.finish())
            }
            State::Sha512(whole) => {
                whole.update(leaf);
                LeafHash::of(leaf)
            }
        }
    }

    /// Adds bytes, and gives the hash of a leaf that has nothing to do with them. Where this is SHA-256 and the processor has instructions
    /// for it, both together take little more than the longer of them alone.
    pub fn update_beside(&mut self, content: &[u8], leaf: &[u8]) -> LeafHash {
        match &mut self.0 {
            State::Sha256(state) => {
                let mut hash = Sha256::new();
                sha256::update_two([state, &mut hash], [content, leaf]);
                LeafHash(hash.finish())
            }
            State::Sha512(state) => {
                state.update(content);
                LeafHash::of(leaf)
            }
        }
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        match self.0 {
            State::Sha256(state) => Digest::sha256(state.finish()),
            State::Sha512(state) => {
                let hash: [u8; 64] = state.finalize().into();
                Digest { algorithm: Algorithm::Sha512, hash }
            }
        }
    }
}

// === impl Digest ===

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, hash) = text.split_once(':').ok_or(ParseDigestError::NoAlgorithm)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(ParseDigestError::UnknownAlgorithm(other.chars().take(32).collect())),
        };
        let is_lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hash.len() != algorithm.hash_len() * 2 || !hash.bytes().all(is_lower_hex) {
            return Err(ParseDigestError::BadHash(algorithm));
        }
        let mut bytes = [0; 64];
        hex::decode_to_slice(hash, &mut bytes[..algorithm.hash_len()])
            .map_err(|_| ParseDigestError::BadHash(algorithm))?;
        Ok(Self { algorithm, hash: bytes })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_reads_back_as_it_was_written() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest, Digest::of(Algorithm::Sha256, b""));
        assert_eq!(Digest::from_multihash(&digest.multihash()), Some(digest));
        let long = Digest::of(Algorithm::Sha512, b"x");
        assert_eq!(long.to_string().parse::<Digest>().unwrap(), long);
        assert_eq!(Digest::from_multihash(&long.multihash()), Some(long));
    }

    #[test]
    fn what_is_not_a_digest_is_refused_with_the_reason() {
        assert_eq!("e3b0".parse::<Digest>(), Err(ParseDigestError::NoAlgorithm));
        assert_eq!("sha256:E3".parse::<Digest>(), Err(ParseDigestError::BadHash(Algorithm::Sha256)));
        assert_eq!(EMPTY.to_uppercase().parse::<Digest>(), Err(ParseDigestError::UnknownAlgorithm("SHA256".into())));
        assert_eq!(format!("{EMPTY}0").parse::<Digest>(), Err(ParseDigestError::BadHash(Algorithm::Sha256)));
        assert_eq!(EMPTY.replace('e', "E").parse::<Digest>(), Err(ParseDigestError::BadHash(Algorithm::Sha256)));
        assert_eq!("md5:00".parse::<Digest>(), Err(ParseDigestError::UnknownAlgorithm("md5".into())));
    }

    #[test]
    fn a_leaf_and_the_whole_are_hashed_in_one_pass_by_either_algorithm() {
        let content: Vec<u8> = (0..300_000u32).map(|at| (at % 253) as u8).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            // Leaves of a blob begin at whole blocks; others must come out right too.
            for cut in [100_000, 128_000] {
                let mut whole = Hasher::new(algorithm);
                for leaf in content.chunks(cut) {
                    assert_eq!(whole.update_with_leaf(leaf), LeafHash::of(leaf));
                }
                assert_eq!(whole.finish(), Digest::of(algorithm, &content));
            }
        }
    }

    #[test]
    fn a_leaf_hashed_beside_other_bytes_has_its_own_hash() {
        let content: Vec<u8> = (0..200_000u32).map(|at| (at % 253) as u8).collect();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for cut in [0, 64_000, 150_001, 200_000] {
                let (before, after) = content.split_at(cut);
                let mut whole = Hasher::new(algorithm);
                whole.update(b"begun");
                assert_eq!(whole.update_beside(before, after), LeafHash::of(after));
                let expected = Digest::of(algorithm, &[b"begun", before].concat());
                assert_eq!(whole.finish(), expected);
            }
        }
    }
}
