//! The wire form of what members and coordinators say.
//!
//! Integers are LEB128 varints, leaf hashes 32 bytes, peers a length and so many bytes; a set of leaves is how many there could be and a bit
//! for each. A hash is said only where it is news: of a leaf that the coordinator granted it knows the hash. Peers are named once in a
//! message. Decoders allocate for what has come, never for what is announced.

use shoal_content::{LeafHash, LeafSet};

use crate::message::{Ask, Failure, Full, Grant, Ranges, Reply, Source};

/// Largest message, in bytes: the full state of a member of a blob of 64 GiB.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Longest name of a peer, in bytes. libp2p's are 38.
const MAX_PEER: usize = 64;

const VERSION: u64 = 4;

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends too early.
    #[error("the message ends too early")]
    Short,
    /// It has bytes after its end.
    #[error("the message has {0} bytes after its end")]
    Trailing(usize),
    /// It is of another version.
    #[error("the message has version {0}, not {VERSION}")]
    Version(u64),
    /// A field has a value that it cannot have.
    #[error("the message has a bad {0}")]
    Bad(&'static str),
}

impl<P> Ask<P> {
    /// The wire form; `name` gives a peer's bytes.
    pub fn encode(&self, name: impl Fn(&P) -> Vec<u8>) -> Vec<u8> {
        let mut out = Writer::new();
        out.number(self.sequence);
        out.option(self.size, Writer::number);
        out.number(u64::from(self.full.is_some()));
        if let Some(full) = &self.full {
            out.set(&full.leaves);
            out.hashes(&full.hashes);
            out.number(full.fetching.len() as u64);
            for (leaf, from) in &full.fetching {
                out.number(*leaf);
                out.bytes(&name(from));
            }
            out.pair(full.reading);
        }
        out.number(self.landed.len() as u64);
        for (leaf, hash) in &self.landed {
            out.number(*leaf);
            out.option(*hash, |out, hash| out.0.extend_from_slice(&hash.0));
        }
        out.number(self.failed.len() as u64);
        for (leaf, from, why) in &self.failed {
            out.number(*leaf);
            match from {
                Source::Upstream => out.bytes(&[]),
                Source::Peer(peer) => out.bytes(&name(peer)),
            }
            out.number(match why {
                Failure::Missing => 0,
                Failure::Stalled => 1,
                Failure::Wrong => 2,
                Failure::Needless => 3,
            });
        }
        out.number(u64::from(self.slots));
        out.number(u64::from(self.blobs));
        out.number(u64::from(self.upstream));
        out.number(match self.ranges {
            Ranges::Unknown => 0,
            Ranges::Given => 1,
            Ranges::Ignored => 2,
        });
        out.pair(self.wanted);
        out.option(self.crowd, Writer::number);
        out.0
    }

    /// Reads the wire form; `peer` reads a peer's bytes.
    pub fn decode(bytes: &[u8], peer: impl Fn(&[u8]) -> Option<P>) -> Result<Self, WireError> {
        let mut input = Reader::new(bytes)?;
        let sequence = input.number()?;
        let size = input.option(Reader::number)?;
        let full = match input.flag()? {
            true => {
                let (leaves, hashes) = (input.set()?, input.hashes()?);
                let count = input.count(2)?;
                let mut fetching = Vec::with_capacity(count);
                for _ in 0..count {
                    fetching.push((input.number()?, peer(input.peer()?).ok_or(WireError::Bad("peer"))?));
                }
                Some(Full { leaves, hashes, fetching, reading: input.pair()? })
            }
            false => None,
        };
        let count = input.count(2)?;
        let mut landed = Vec::with_capacity(count);
        for _ in 0..count {
            landed.push((input.number()?, input.option(Reader::hash)?));
        }
        let count = input.count(3)?;
        let mut failed = Vec::with_capacity(count);
        for _ in 0..count {
            let leaf = input.number()?;
            let from = match input.peer()? {
                [] => Source::Upstream,
                name => Source::Peer(peer(name).ok_or(WireError::Bad("peer"))?),
            };
            let why = match input.number()? {
                0 => Failure::Missing,
                1 => Failure::Stalled,
                2 => Failure::Wrong,
                3 => Failure::Needless,
                _ => return Err(WireError::Bad("failure")),
            };
            failed.push((leaf, from, why));
        }
        let slots = u32::try_from(input.number()?).map_err(|_| WireError::Bad("number of slots"))?;
        let blobs = u32::try_from(input.number()?).map_err(|_| WireError::Bad("number of blobs"))?;
        let upstream = input.flag()?;
        let ranges = match input.number()? {
            0 => Ranges::Unknown,
            1 => Ranges::Given,
            2 => Ranges::Ignored,
            _ => return Err(WireError::Bad("word on ranges")),
        };
        let wanted = input.pair()?;
        let crowd = input.option(Reader::number)?;
        input.end()?;
        Ok(Self { sequence, size, full, landed, failed, slots, blobs, upstream, ranges, wanted, crowd })
    }
}

impl<P> Reply<P> {
    /// The wire form; `name` gives a peer's bytes.
    pub fn encode(&self, name: impl Fn(&P) -> Vec<u8>) -> Vec<u8> {
        let mut out = Writer::new();
        out.number(self.sequence);
        out.option(self.size, Writer::number);
        out.number(u64::from(self.restate));
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut place = |peer: &P| {
            let name = name(peer);
            names.iter().position(|other| *other == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            }) as u64
        };
        let places: Vec<_> = self.grants.iter().map(|grant| (place(&grant.from), place(&grant.witness))).collect();
        out.number(names.len() as u64);
        for name in &names {
            out.bytes(name);
        }
        out.number(self.grants.len() as u64);
        for (grant, (from, witness)) in self.grants.iter().zip(places) {
            out.number(grant.leaf);
            out.0.extend_from_slice(&grant.hash.0);
            out.pair((from, witness));
        }
        out.option(self.read, Writer::pair);
        out.option(self.cut, Writer::number);
        out.number(u64::from(self.hopeless));
        out.number(self.tell.len() as u64);
        for run in &self.tell {
            out.pair(*run);
        }
        out.number(u64::from(self.crowd));
        out.0
    }

    /// Reads the wire form; `peer` reads a peer's bytes.
    pub fn decode(bytes: &[u8], peer: impl Fn(&[u8]) -> Option<P>) -> Result<Self, WireError> {
        let mut input = Reader::new(bytes)?;
        let sequence = input.number()?;
        let size = input.option(Reader::number)?;
        let restate = input.flag()?;
        let count = input.count(1)?;
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(input.peer()?);
        }
        let named = |place: u64| {
            let name = usize::try_from(place).ok().and_then(|place| names.get(place));
            name.and_then(|name| peer(name)).ok_or(WireError::Bad("peer"))
        };
        let count = input.count(35)?;
        let mut grants = Vec::with_capacity(count);
        for _ in 0..count {
            let (leaf, hash, (from, witness)) = (input.number()?, input.hash()?, input.pair()?);
            grants.push(Grant { leaf, hash, from: named(from)?, witness: named(witness)? });
        }
        let read = input.option(Reader::pair)?;
        let cut = input.option(Reader::number)?;
        let hopeless = input.flag()?;
        let count = input.count(2)?;
        let mut tell = Vec::with_capacity(count);
        for _ in 0..count {
            tell.push(input.pair()?);
        }
        let crowd = input.flag()?;
        input.end()?;
        Ok(Self { sequence, size, restate, grants, read, cut, hopeless, tell, crowd })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        let mut out = Self(Vec::new());
        out.number(VERSION);
        out
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(u8::try_from(number & 0x7f).unwrap_or(0) | 0x80);
            number >>= 7;
        }
        self.0.push(u8::try_from(number).unwrap_or(0));
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.number(u64::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }

    fn pair(&mut self, (first, second): (u64, u64)) {
        self.number(first);
        self.number(second);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn set(&mut self, leaves: &LeafSet) {
        self.number(leaves.capacity());
        let first = self.0.len();
        self.0.resize(first + usize::try_from(leaves.capacity().div_ceil(8)).unwrap_or(0), 0);
        for leaf in leaves.iter() {
            if let Some(byte) = usize::try_from(leaf / 8).ok().and_then(|at| self.0.get_mut(first + at)) {
                *byte |= 1 << (leaf % 8);
            }
        }
    }

    fn hashes(&mut self, leaves: &[(u64, LeafHash)]) {
        self.number(leaves.len() as u64);
        for (leaf, hash) in leaves {
            self.number(*leaf);
            self.0.extend_from_slice(&hash.0);
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut input = Self(bytes);
        match input.number()? {
            VERSION => Ok(input),
            other => Err(WireError::Version(other)),
        }
    }

    fn number(&mut self) -> Result<u64, WireError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(WireError::Short)?;
            self.0 = rest;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return Err(WireError::Bad("number"));
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(WireError::Bad("number"))
    }

    fn flag(&mut self) -> Result<bool, WireError> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Bad("flag")),
        }
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, WireError>) -> Result<Option<T>, WireError> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn pair(&mut self) -> Result<(u64, u64), WireError> {
        Ok((self.number()?, self.number()?))
    }

    /// A number of things of which each takes at least `least` bytes.
    fn count(&mut self, least: usize) -> Result<usize, WireError> {
        let count = usize::try_from(self.number()?).map_err(|_| WireError::Short)?;
        if count > self.0.len() / least { Err(WireError::Short) } else { Ok(count) }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(WireError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn peer(&mut self) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(self.number()?).map_err(|_| WireError::Short)?;
        if len > MAX_PEER {
            return Err(WireError::Bad("peer"));
        }
        self.take(len)
    }

    fn hash(&mut self) -> Result<LeafHash, WireError> {
        Ok(LeafHash(self.take(32)?.try_into().map_err(|_| WireError::Short)?))
    }

    fn set(&mut self) -> Result<LeafSet, WireError> {
        let count = self.number()?;
        let bytes = self.take(usize::try_from(count.div_ceil(8)).map_err(|_| WireError::Short)?)?;
        let mut set = LeafSet::empty(count);
        for (first, byte) in (0u64..).step_by(8).zip(bytes) {
            for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                if !set.insert(first + bit) {
                    return Err(WireError::Bad("set of leaves"));
                }
            }
        }
        Ok(set)
    }

    fn hashes(&mut self) -> Result<Vec<(u64, LeafHash)>, WireError> {
        let count = self.count(33)?;
        let mut leaves = Vec::with_capacity(count);
        for _ in 0..count {
            leaves.push((self.number()?, self.hash()?));
        }
        Ok(leaves)
    }

    fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(peer: &u32) -> Vec<u8> {
        peer.to_be_bytes().to_vec()
    }

    fn peer(bytes: &[u8]) -> Option<u32> {
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn leaves() -> impl Strategy<Value = Vec<(u64, LeafHash)>> {
        prop::collection::vec((any::<u64>(), any::<[u8; 32]>().prop_map(LeafHash)), 0..5)
    }

    fn from() -> impl Strategy<Value = Source<u32>> {
        prop_oneof![Just(Source::Upstream), any::<u32>().prop_map(Source::Peer)]
    }

    fn failure() -> impl Strategy<Value = Failure> {
        prop_oneof![Just(Failure::Missing), Just(Failure::Stalled), Just(Failure::Wrong), Just(Failure::Needless)]
    }

    proptest! {
        #[test]
        fn an_ask_reads_back_as_it_was_written(
            (sequence, size, slots, blobs, upstream, wanted) in any::<(u64, Option<u64>, u32, u32, bool, (u64, u64))>(),
            full in prop::option::of((
                prop::collection::vec(any::<bool>(), 0..50),
                leaves(),
                prop::collection::vec(any::<(u64, u32)>(), 0..4),
                any::<(u64, u64)>(),
            )),
            landed in prop::collection::vec((any::<u64>(), prop::option::of(any::<[u8; 32]>().prop_map(LeafHash))), 0..5),
            failed in prop::collection::vec((any::<u64>(), from(), failure()), 0..4),
            crowd in any::<Option<u64>>(),
            ranges in prop_oneof![Just(Ranges::Unknown), Just(Ranges::Given), Just(Ranges::Ignored)],
        ) {
            let full = full.map(|(bits, hashes, fetching, reading)| {
                let mut leaves = LeafSet::empty(bits.len() as u64);
                for (leaf, _) in (0..).zip(bits).filter(|(_, is_there)| *is_there) {
                    leaves.insert(leaf);
                }
                Full { leaves, hashes, fetching, reading }
            });
            let ask = Ask { sequence, size, full, landed, failed, slots, blobs, upstream, ranges, wanted, crowd };
            prop_assert_eq!(Ask::decode(&ask.encode(name), peer), Ok(ask));
        }

        #[test]
        fn a_reply_reads_back_as_it_was_written(
            (sequence, size, restate, read, cut, hopeless, crowd)
                in any::<(u64, Option<u64>, bool, Option<(u64, u64)>, Option<u64>, bool, bool)>(),
            grants in prop::collection::vec(any::<(u64, [u8; 32], u32, u32)>(), 0..4),
            tell in prop::collection::vec(any::<(u64, u64)>(), 0..4),
        ) {
            let grants = grants
                .into_iter()
                .map(|(leaf, hash, from, witness)| Grant { leaf, hash: LeafHash(hash), from, witness })
                .collect();
            let reply = Reply { sequence, size, restate, grants, read, cut, hopeless, tell, crowd };
            prop_assert_eq!(Reply::decode(&reply.encode(name), peer), Ok(reply));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Ask::decode(&bytes, peer);
            let _ = Reply::decode(&bytes, peer);
        }
    }

    #[test]
    fn an_announced_number_alone_allocates_nothing() {
        let mut out = Writer::new();
        out.number(1);
        out.number(0);
        out.number(0);
        out.number(u64::MAX);
        assert_eq!(Ask::decode(&out.0, peer), Err(WireError::Short));
    }
}
