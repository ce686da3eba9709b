//! Peers that lie: real hosts of the swarm, without a store or a session, which say what they like.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use shoal_content::{Algorithm, Cid, Digest, LeafHash, Outline, leaf::leaf_range};
use shoal_coordination::{Action, Ask, Coordinator, Failure, Grant, Limits, Reply, Source};
use shoal_swarm::{Blocks, KnownTag, PeerId, Provides, Swarm};
use tokio::sync::oneshot;

use super::content;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Member {
    /// Takes leaves to read from upstream, and passes on something else; abides by it when it is asked.
    WrongLeaves,
    /// The same, but to who asks directly it says nothing.
    WrongLeavesDenied,
    /// Takes leaves to read from upstream, and reads nothing.
    Idle,
    /// Says that it has all leaves, which it has not.
    Offers,
    /// The same, of leaves that nobody has.
    OffersOthers,
    /// Sends other bytes than those of the block.
    Corrupt,
    /// Disputes all that it is given.
    Disputes,
    /// Does nothing.
    Nothing,
}

/// What a coordinator does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Grants {
    /// Gives nothing to anybody.
    Nothing,
    /// Gives all to who asks first.
    AllToOne,
    /// Says that nobody has what is lacking.
    Hopeless,
    /// Names sources that have nothing.
    EmptySources,
    /// Coordinates well, but names wrong hashes, in the name of who read the leaf.
    WrongHashes,
    /// The same in its own name.
    WrongHashesOwn,
    /// Disposes of nothing: does not answer.
    Silence,
}

/// A blob that is lied about.
#[derive(Clone)]
pub struct Target {
    pub digest: Digest,
    pub bytes: Bytes,
}

impl Target {
    pub fn leaves(&self) -> u64 {
        shoal_content::leaf::leaf_count(self.bytes.len() as u64)
    }

    fn leaf(&self, leaf: u64) -> Bytes {
        let range = leaf_range(self.bytes.len() as u64, leaf);
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    fn hash(&self, leaf: u64) -> LeafHash {
        LeafHash::of(&self.leaf(leaf))
    }

    /// Other bytes of the same length.
    fn other(&self, leaf: u64) -> Bytes {
        content(9_000 + leaf, self.leaf(leaf).len())
    }
}

/// How it answers as a coordinator.
type Answers = Box<dyn Fn(PeerId, Vec<u8>) -> Option<oneshot::Receiver<Vec<u8>>> + Send + Sync>;

/// What it makes of a grant.
type Lies = Box<dyn Fn(&mut Grant<PeerId>) + Send>;

/// What it shows to the swarm.
#[derive(Default)]
struct Face {
    blocks: Mutex<HashMap<Cid, Bytes>>,
    words: Mutex<HashMap<Digest, Outline>>,
    coordinates: OnceLock<Answers>,
}

impl Blocks for Face {
    fn size(&self, cid: &Cid) -> Option<u64> {
        self.blocks.lock().unwrap().get(cid).map(|bytes| bytes.len() as u64)
    }

    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        Ok(self.blocks.lock().unwrap().get(cid).cloned())
    }
}

impl Provides for Face {
    fn outline(&self, digest: &Digest) -> Option<Arc<Outline>> {
        self.words.lock().unwrap().get(digest).cloned().map(Arc::new)
    }

    fn coordinate(&self, peer: PeerId, request: Vec<u8>) -> Option<oneshot::Receiver<Vec<u8>>> {
        self.coordinates.get()?(peer, request)
    }

    fn tag(&self, _: &str) -> Option<KnownTag> {
        None
    }
}

/// A peer that lies.
#[derive(Clone)]
pub struct Liar {
    pub swarm: Swarm,
    face: Arc<Face>,
}

impl Liar {
    pub async fn join(bed: &mut super::Bed) -> Self {
        let face = Arc::new(Face::default());
        let swarm = bed.join(face.clone()).await;
        Self { swarm, face }
    }

    pub fn peer(&self) -> PeerId {
        self.swarm.local_peer()
    }

    /// Takes part in a pull as a member, until it is dropped by the coordinator or the task is.
    pub fn takes_part(&self, target: Target, how: Member) -> tokio::task::JoinHandle<()> {
        let liar = self.clone();
        tokio::spawn(async move { liar.member(target, how).await })
    }

    async fn member(&self, target: Target, how: Member) {
        if how == Member::Nothing {
            return;
        }
        let size = target.bytes.len() as u64;
        let count = target.leaves();
        let offered = |leaf| match how {
            Member::Offers => Some(target.hash(leaf)),
            Member::OffersOthers => Some(LeafHash::of(b"nobody has it")),
            _ => None,
        };
        let mut outline = Outline::growing(size).unwrap();
        for leaf in 0..count {
            if let Some(hash) = offered(leaf) {
                outline.set(leaf, hash);
            }
        }
        let began = Instant::now();
        let mut member = shoal_coordination::Member::new(outline, Limits::default());
        member.want(0..count);
        let mut word = Outline::growing(size).unwrap();
        loop {
            let Ok(nearest) = self.swarm.nearest(&target.digest, 2).await else { return };
            let Some(coordinator) = nearest.into_iter().flatten().next() else { return };
            let Some(ask) = member.ask() else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            let Ok(answer) = self.swarm.coordinate(coordinator, encode(&target.digest, &ask)).await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                member.new_coordinator();
                continue;
            };
            if member.is_complete() {
                return;
            }
            let Ok(reply) = Reply::decode(&answer, |bytes| PeerId::from_bytes(bytes).ok()) else { return };
            let now = began.elapsed();
            for action in member.reply(reply, now) {
                let (first, end) = match action {
                    Action::Fetch(grant) if how == Member::Disputes => {
                        member.failed(grant.leaf, Source::Peer(grant.from), Failure::Wrong);
                        continue;
                    }
                    Action::Fetch(grant) => {
                        member.landed(grant.leaf, grant.hash, Source::Peer(grant.from), now);
                        continue;
                    }
                    Action::Read { first, end } if !matches!(how, Member::Idle | Member::Disputes) => (first, end),
                    _ => continue,
                };
                for leaf in first..end {
                    let bytes = target.other(leaf);
                    let hash = if how == Member::Corrupt { target.hash(leaf) } else { LeafHash::of(&bytes) };
                    self.face.blocks.lock().unwrap().insert(hash.cid(), bytes);
                    word.set(leaf, hash);
                    member.landed(leaf, hash, Source::Upstream, now);
                }
                if how != Member::WrongLeavesDenied {
                    self.face.words.lock().unwrap().insert(target.digest, word.clone());
                }
            }
        }
    }

    /// Coordinates a blob in its way.
    pub fn coordinates(&self, targets: Vec<Target>, how: Grants) {
        let cores: Vec<(Target, Arc<Mutex<Core>>)> = targets
            .into_iter()
            .map(|target| {
                let core = Core::new(&target);
                (target, core)
            })
            .collect();
        for (target, core) in &cores {
            if matches!(how, Grants::WrongHashes | Grants::WrongHashesOwn) {
                for leaf in 0..target.leaves() {
                    let other = target.other(leaf);
                    self.face.blocks.lock().unwrap().insert(LeafHash::of(&other).cid(), other);
                }
                tokio::spawn(pass_time(core.clone()));
            }
        }
        let me = self.peer();
        let answer = move |peer: PeerId, request: Vec<u8>| {
            let (digest, ask) = decode(&request)?;
            let (target, core) = cores.iter().find(|(target, _)| target.digest == digest)?;
            let (reply, answered) = oneshot::channel();
            core.lock().unwrap().asked(target, how, me, peer, ask, reply);
            Some(answered)
        };
        assert!(self.face.coordinates.set(Box::new(answer)).is_ok(), "it coordinates already");
    }
}

/// A coordinator that lies: at its heart an honest one.
struct Core {
    honest: Coordinator<PeerId>,
    began: Instant,
    open: HashMap<(PeerId, u64), oneshot::Sender<Vec<u8>>>,
    first: Option<PeerId>,
    peers: Vec<PeerId>,
    lie: Lies,
}

async fn pass_time(core: Arc<Mutex<Core>>) {
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut core = core.lock().unwrap();
        let now = core.began.elapsed();
        let replies = core.honest.tick(now);
        core.deliver(replies);
    }
}

impl Core {
    fn new(target: &Target) -> Arc<Mutex<Self>> {
        let mut honest = Coordinator::new(target.bytes.len() as u64, Limits::default(), Duration::ZERO).unwrap();
        honest.search_over(Duration::ZERO);
        let core = Self {
            honest,
            began: Instant::now(),
            open: HashMap::new(),
            first: None,
            peers: Vec::new(),
            lie: Box::new(|_| {}),
        };
        Arc::new(Mutex::new(core))
    }

    fn asked(
        &mut self,
        target: &Target,
        how: Grants,
        me: PeerId,
        peer: PeerId,
        ask: Ask<PeerId>,
        answer: oneshot::Sender<Vec<u8>>,
    ) {
        if !self.peers.contains(&peer) {
            self.peers.push(peer);
        }
        let first = *self.first.get_or_insert(peer);
        let mut reply = Reply::empty(ask.sequence, Some(target.bytes.len() as u64));
        match how {
            Grants::Silence => return,
            Grants::Nothing => {}
            Grants::AllToOne if peer == first => reply.read = Some((0, target.leaves())),
            Grants::AllToOne => {}
            Grants::Hopeless => reply.hopeless = true,
            Grants::EmptySources => {
                let sources = self.peers.iter().filter(|source| **source != peer).chain([&me]).cycle();
                let leaves = (0..target.leaves()).take(ask.slots as usize);
                reply.grants = leaves
                    .zip(sources)
                    .map(|(leaf, from)| Grant { leaf, hash: target.hash(leaf), from: *from, witness: *from })
                    .collect();
            }
            Grants::WrongHashes | Grants::WrongHashesOwn => {
                if self.open.is_empty() && self.peers.len() == 1 {
                    let target = target.clone();
                    self.lie = Box::new(move |grant| {
                        grant.hash = LeafHash::of(&target.other(grant.leaf));
                        grant.from = me;
                        if how == Grants::WrongHashesOwn {
                            grant.witness = me;
                        }
                    });
                }
                self.open.insert((peer, ask.sequence), answer);
                let now = self.began.elapsed();
                let replies = self.honest.ask(peer, ask, now);
                self.deliver(replies);
                return;
            }
        }
        let _ = answer.send(reply.encode(|peer| peer.to_bytes()));
    }

    fn deliver(&mut self, replies: Vec<(PeerId, Reply<PeerId>)>) {
        for (peer, mut reply) in replies {
            // One in three is a lie.
            for grant in reply.grants.iter_mut().filter(|grant| grant.leaf % 3 == 0) {
                (self.lie)(grant);
            }
            if let Some(open) = self.open.remove(&(peer, reply.sequence)) {
                let _ = open.send(reply.encode(|peer| peer.to_bytes()));
            }
        }
    }
}

/// The request's wire form: hash function, hash, and what is asked.
fn encode(digest: &Digest, ask: &Ask<PeerId>) -> Vec<u8> {
    assert_eq!(digest.algorithm(), Algorithm::Sha256);
    [&[0x12], digest.hash(), &ask.encode(|peer| peer.to_bytes())].concat()
}

fn decode(request: &[u8]) -> Option<(Digest, Ask<PeerId>)> {
    let digest = Digest::new(Algorithm::Sha256, request.get(1..33)?)?;
    Some((digest, Ask::decode(&request[33..], |bytes| PeerId::from_bytes(bytes).ok()).ok()?))
}
