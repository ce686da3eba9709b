//! Which CID some bytes have.

use shoal_content::{Algorithm, Cid, Digest};

use crate::wire::Prefix;

/// Whether [`cid_of`] can compute hashes like the one in `cid`.
pub(crate) fn supports(cid: &Cid) -> bool {
    algorithm(cid.hash().code(), u64::from(cid.hash().size())).is_some()
}

/// The CID of `data` under `prefix`. `None` for hash functions other than SHA-256 and SHA-512, for truncated hashes,
/// and for prefixes that no CID can have. Costs a hash of all of `data`, by `hash`: not for the network task.
pub(crate) fn cid_of(prefix: &Prefix, data: &[u8], hash: impl FnOnce(Algorithm, &[u8]) -> Digest) -> Option<Cid> {
    let algorithm = algorithm(prefix.hash_code, prefix.hash_len)?;
    if prefix.version > 1 || (prefix.version == 0 && (prefix.codec, prefix.hash_code) != (0x70, 0x12)) {
        return None;
    }
    let multihash = hash(algorithm, data).multihash();
    match prefix.version {
        0 => Cid::new_v0(multihash).ok(),
        _ => Some(Cid::new_v1(prefix.codec, multihash)),
    }
}

/// The CIDs that a bare block of version 1.0.0 may have been asked by, given its CIDv0: their hash is the same.
pub(crate) fn candidates(v0: &Cid) -> impl Iterator<Item = Cid> {
    const RAW: u64 = 0x55;
    const DAG_PB: u64 = 0x70;
    let hash = *v0.hash();
    [*v0, Cid::new_v1(RAW, hash), Cid::new_v1(DAG_PB, hash)].into_iter()
}

fn algorithm(code: u64, len: u64) -> Option<Algorithm> {
    [Algorithm::Sha256, Algorithm::Sha512]
        .into_iter()
        .find(|algorithm| algorithm.multihash_code() == code && algorithm.hash_len() as u64 == len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cid_is_computed_from_prefix_and_bytes() {
        let cid: Cid = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e".parse().unwrap();
        assert!(supports(&cid));
        assert_eq!(cid_of(&Prefix::of(&cid), b"hello world", Digest::of), Some(cid));
        assert_ne!(cid_of(&Prefix::of(&cid), b"hello worle", Digest::of), Some(cid));
        let v0: Cid = Cid::new_v0(*cid.hash()).unwrap();
        assert_eq!(cid_of(&Prefix::V0, b"hello world", Digest::of), Some(v0));
    }

    #[test]
    fn a_prefix_that_no_checkable_cid_has_gives_none() {
        let good = Prefix { version: 1, codec: 0x55, hash_code: 0x12, hash_len: 32 };
        assert!(cid_of(&good, b"", Digest::of).is_some());
        for bad in [
            Prefix { version: 2, ..good },
            Prefix { version: 0, ..good },
            Prefix { hash_code: 0, ..good },
            Prefix { hash_code: 0xb220, ..good },
            Prefix { hash_len: 20, ..good },
            Prefix { hash_len: u64::MAX, ..good },
        ] {
            assert_eq!(cid_of(&bad, b"", Digest::of), None, "{bad:?}");
        }
    }
}
