//! What members and coordinators say to one another, and its wire form.
//!
//! Integers are LEB128 varints, leaf hashes 32 bytes, peers a length and so many bytes. Decoders allocate for what has come, never for what
//! is announced.

use shoal_content::{LeafHash, LeafSet};

/// Largest message, in bytes: the full state of a member of a blob of 64 GiB.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Longest name of a peer, in bytes. libp2p's are 38.
const MAX_PEER: usize = 64;

const VERSION: u64 = 1;

/// Where a leaf is had from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source<P> {
    /// The registry.
    Upstream,
    /// A peer.
    Peer(P),
}

/// What a member asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<P> {
    /// Counts the member's requests; the reply carries it back.
    pub sequence: u64,
    /// The blob's size in bytes, where the member knows it.
    pub size: Option<u64>,
    /// All that it has, when it asks for the first time or was asked to say it again.
    pub full: Option<Full>,
    /// What has landed since the last request: leaf and hash.
    pub landed: Vec<(u64, LeafHash)>,
    /// What was granted and did not come.
    pub failed: Vec<(u64, Source<P>, Failure)>,
    /// Leaves from peers that it can take beside those under way.
    pub slots: u32,
    /// Whether it can read from upstream.
    pub upstream: bool,
    /// Leaves that it wants, as a range; all for a whole blob.
    pub wanted: (u64, u64),
}

/// All that a member has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    /// Its leaves with their hashes.
    pub leaves: Vec<(u64, LeafHash)>,
    /// Leaves that it is reading from upstream by itself, as a range; empty when it is not.
    pub reading: (u64, u64),
}

/// Why a leaf did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The source has not got it.
    Missing,
    /// The source did not send it in time, or is gone.
    Stalled,
    /// The leaf's hash is not believed: who reported it lied before, or the leaf that it names cannot be one.
    Wrong,
}

/// What a coordinator answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply<P> {
    /// The request that this answers.
    pub sequence: u64,
    /// The blob's size in bytes, where it is known.
    pub size: Option<u64>,
    /// The coordinator does not know the member: it is to say all that it has.
    pub restate: bool,
    /// Leaves to get.
    pub grants: Vec<Grant<P>>,
    /// Leaves to read from upstream, in order, as a range.
    pub read: Option<(u64, u64)>,
    /// The read under way ends before this leaf.
    pub cut: Option<u64>,
    /// Nobody that the coordinator knows of can give what the member lacks.
    pub hopeless: bool,
}

/// A leaf to be had from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant<P> {
    /// The leaf.
    pub leaf: u64,
    /// Its hash, as `witness` reported it.
    pub hash: LeafHash,
    /// Whom to ask.
    pub from: P,
    /// Who said what the leaf's hash is.
    pub witness: P,
}

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

impl<P> Reply<P> {
    /// A reply that gives nothing.
    pub fn empty(sequence: u64, size: Option<u64>) -> Self {
        Self { sequence, size, restate: false, grants: Vec::new(), read: None, cut: None, hopeless: false }
    }

    /// Whether there is anything in it that the member has not known.
    pub fn is_empty(&self) -> bool {
        !self.restate && !self.hopeless && self.grants.is_empty() && self.read.is_none() && self.cut.is_none()
    }
}

impl Full {
    /// The leaves as a set; those outside the blob are left out.
    pub fn set(&self, count: u64) -> LeafSet {
        let mut set = LeafSet::empty(count);
        for (leaf, _) in &self.leaves {
            set.insert(*leaf);
        }
        set
    }
}

// === wire ===

impl<P> Ask<P> {
    /// The wire form; `name` gives a peer's bytes.
    pub fn encode(&self, name: impl Fn(&P) -> Vec<u8>) -> Vec<u8> {
        let mut out = Writer::new();
        out.number(self.sequence);
        out.option(self.size, Writer::number);
        out.number(u64::from(self.full.is_some()));
        if let Some(full) = &self.full {
            out.leaves(&full.leaves);
            out.pair(full.reading);
        }
        out.leaves(&self.landed);
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
            });
        }
        out.number(u64::from(self.slots));
        out.number(u64::from(self.upstream));
        out.pair(self.wanted);
        out.0
    }

    /// Reads the wire form; `peer` reads a peer's bytes.
    pub fn decode(bytes: &[u8], peer: impl Fn(&[u8]) -> Option<P>) -> Result<Self, WireError> {
        let mut input = Reader::new(bytes)?;
        let sequence = input.number()?;
        let size = input.option(Reader::number)?;
        let full = match input.flag()? {
            true => Some(Full { leaves: input.leaves()?, reading: input.pair()? }),
            false => None,
        };
        let landed = input.leaves()?;
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
                _ => return Err(WireError::Bad("failure")),
            };
            failed.push((leaf, from, why));
        }
        let slots = u32::try_from(input.number()?).map_err(|_| WireError::Bad("number of slots"))?;
        let upstream = input.flag()?;
        let wanted = input.pair()?;
        input.end()?;
        Ok(Self { sequence, size, full, landed, failed, slots, upstream, wanted })
    }
}

impl<P> Reply<P> {
    /// The wire form; `name` gives a peer's bytes.
    pub fn encode(&self, name: impl Fn(&P) -> Vec<u8>) -> Vec<u8> {
        let mut out = Writer::new();
        out.number(self.sequence);
        out.option(self.size, Writer::number);
        out.number(u64::from(self.restate));
        out.number(self.grants.len() as u64);
        for grant in &self.grants {
            out.number(grant.leaf);
            out.0.extend_from_slice(&grant.hash.0);
            out.bytes(&name(&grant.from));
            out.bytes(&name(&grant.witness));
        }
        out.option(self.read, Writer::pair);
        out.option(self.cut, Writer::number);
        out.number(u64::from(self.hopeless));
        out.0
    }

    /// Reads the wire form; `peer` reads a peer's bytes.
    pub fn decode(bytes: &[u8], peer: impl Fn(&[u8]) -> Option<P>) -> Result<Self, WireError> {
        let mut input = Reader::new(bytes)?;
        let sequence = input.number()?;
        let size = input.option(Reader::number)?;
        let restate = input.flag()?;
        let count = input.count(35)?;
        let mut grants = Vec::with_capacity(count);
        for _ in 0..count {
            let leaf = input.number()?;
            let hash = input.hash()?;
            let from = peer(input.peer()?).ok_or(WireError::Bad("peer"))?;
            let witness = peer(input.peer()?).ok_or(WireError::Bad("peer"))?;
            grants.push(Grant { leaf, hash, from, witness });
        }
        let read = input.option(Reader::pair)?;
        let cut = input.option(Reader::number)?;
        let hopeless = input.flag()?;
        input.end()?;
        Ok(Self { sequence, size, restate, grants, read, cut, hopeless })
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

    fn leaves(&mut self, leaves: &[(u64, LeafHash)]) {
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

    fn leaves(&mut self) -> Result<Vec<(u64, LeafHash)>, WireError> {
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
        prop_oneof![Just(Failure::Missing), Just(Failure::Stalled), Just(Failure::Wrong)]
    }

    proptest! {
        #[test]
        fn an_ask_reads_back_as_it_was_written(
            (sequence, size, slots, upstream, wanted) in any::<(u64, Option<u64>, u32, bool, (u64, u64))>(),
            full in prop::option::of((leaves(), any::<(u64, u64)>())),
            landed in leaves(),
            failed in prop::collection::vec((any::<u64>(), from(), failure()), 0..4),
        ) {
            let full = full.map(|(leaves, reading)| Full { leaves, reading });
            let ask = Ask { sequence, size, full, landed, failed, slots, upstream, wanted };
            prop_assert_eq!(Ask::decode(&ask.encode(name), peer), Ok(ask));
        }

        #[test]
        fn a_reply_reads_back_as_it_was_written(
            (sequence, size, restate, read, cut, hopeless)
                in any::<(u64, Option<u64>, bool, Option<(u64, u64)>, Option<u64>, bool)>(),
            grants in prop::collection::vec(any::<(u64, [u8; 32], u32, u32)>(), 0..4),
        ) {
            let grants = grants
                .into_iter()
                .map(|(leaf, hash, from, witness)| Grant { leaf, hash: LeafHash(hash), from, witness })
                .collect();
            let reply = Reply { sequence, size, restate, grants, read, cut, hopeless };
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
