//! Whether a block is the one that a CID names.

use cid::Cid;

use crate::digest::{Algorithm, Digest};

/// Multihash code of the identity function: the CID carries the block itself.
pub(crate) const IDENTITY: u64 = 0x00;

/// Whether the CID's hash is one that [`cid_matches`] can check.
pub fn is_verifiable(cid: &Cid) -> bool {
    match cid.hash().code() {
        IDENTITY => true,
        _ => Digest::from_multihash(cid.hash()).is_some(),
    }
}

/// Whether `block` is the block that `cid` names: by SHA-256, SHA-512 or identity; any other or a truncated hash matches nothing.
///
/// A [`Cid`] holds at most 64 bytes of hash, so no identity block is longer.
///
/// ```
/// use shoal_content::{Cid, cid_matches};
///
/// let cid: Cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e".parse().unwrap();
/// assert!(cid_matches(&cid, b"hello world"));
/// assert!(!cid_matches(&cid, b"hello, world"));
/// ```
pub fn cid_matches(cid: &Cid, block: &[u8]) -> bool {
    let hash = cid.hash();
    let algorithm = match hash.code() {
        IDENTITY => return hash.digest() == block,
        0x12 => Algorithm::Sha256,
        0x13 => Algorithm::Sha512,
        _ => return false,
    };
    // Hashing is what costs, so a hash that cannot match is not computed.
    hash.digest().len() == algorithm.hash_len() && Digest::of(algorithm, block).hash() == hash.digest()
}

#[cfg(test)]
mod tests {
    use cid::multihash::Multihash;

    use super::*;

    #[test]
    fn a_block_matches_its_hash_and_no_other_does() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let cid = Cid::new_v1(0x55, Digest::of(algorithm, b"block").multihash());
            assert!(cid_matches(&cid, b"block") && is_verifiable(&cid));
            assert!(!cid_matches(&cid, b"Block"));
        }
        let v0: Cid = "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD".parse().unwrap();
        assert!(cid_matches(&v0, b"\x0a\x11\x08\x02\x12\x0bhello world\x18\x0b"));
    }

    #[test]
    fn an_identity_cid_is_its_block() {
        let cid = Cid::new_v1(0x55, Multihash::wrap(IDENTITY, b"tiny").unwrap());
        assert!(cid_matches(&cid, b"tiny") && !cid_matches(&cid, b"tine") && is_verifiable(&cid));
    }

    #[test]
    fn truncated_and_unknown_hashes_match_nothing() {
        let digest = Digest::of(Algorithm::Sha256, b"block");
        for (code, hash) in [(0x12, &digest.hash()[..20]), (0xb220, digest.hash()), (0x12, b"")] {
            let cid = Cid::new_v1(0x55, Multihash::wrap(code, hash).unwrap());
            assert!(!cid_matches(&cid, b"block") && !is_verifiable(&cid));
        }
    }
}
