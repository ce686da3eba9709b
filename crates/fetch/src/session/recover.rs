//! The whole does not match its digest: finding the leaf that is wrong, and who lied about it.
//!
//! Doubtful are the leaves for which only peers, or an earlier session, vouch. What is wrong with them is found in this order, all of it at
//! once where it can be:
//!
//! 1. Those who vouched are asked directly: a coordinator that said something else in their name is found out without upstream.
//! 2. Whoever has the whole blob by now has verified it: its outline says which leaves are wrong, and it has the right ones.
//! 3. Leaves are read from upstream again. All nodes in the same trouble reckon alike which of them reads which leaf ([`Audit`]) and ask one
//!    another for what they read, so that a lie costs the swarm one more copy at the most. The first to succeed serves all by 2.
//! 4. Where the others do nothing, this node reads what is left by itself.
//!
//! Meanwhile readers are given nothing that only peers vouch for. In the end the right leaves are known, and with them who lied.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::FuturesUnordered};
use shoal_content::{LeafHash, Outline, leaf::leaf_range};
use shoal_coordination::Source;
use shoal_store::Blob;
use shoal_swarm::PeerId;

use super::{
    audit::{Audit, Change},
    drive::{Driver, Said},
    local,
    reads::{ReadEvent, ReadState, next_read},
};
use crate::{
    face::Error,
    search::{Found, Search},
    trace::add,
};

/// Leaves had anew from peers at once.
const AT_ONCE: usize = 4;

/// Peers that share the reading. More would say too much to one another; of more, those are taken that are the same everywhere.
const MAX_READERS: usize = 16;

/// How often the others are asked for what they have read, and so much more for each leaf of the blob: their answers grow with it.
const ASK_EVERY: Duration = Duration::from_millis(100);
const ASK_EVERY_FOR_LEAF: Duration = Duration::from_micros(50);

/// How many times the slowest leaf from upstream here another reader may take before it is passed over.
const PATIENCE: u32 = 4;

/// Times that upstream may refuse or break off before this node leaves it to the others.
const MAX_BROKEN: u32 = 2;

/// The whole is tried again at once only when that has taken less than this part of the time since.
const TRY_SHARE: u32 = 4;

type Answer = (PeerId, Option<Outline>);

/// What is known while the whole does not match.
struct Doubt {
    audit: Audit<PeerId>,
    /// By whose word each leaf was what it was, and its hash then.
    said: BTreeMap<u64, Said>,
    before: BTreeMap<u64, LeafHash>,
    /// Peers with the whole blob, not tried yet; and all that ever were.
    holders: VecDeque<(PeerId, Arc<Outline>)>,
    named: BTreeSet<PeerId>,
    answers: FuturesUnordered<BoxFuture<'static, Answer>>,
    asked: BTreeSet<PeerId>,
    /// Those who answered, whatever they said.
    answered: BTreeSet<PeerId>,
    /// Something is believed otherwise than it was.
    has_changed: bool,
    /// Something here is otherwise than when the whole was last tried; when that was, and how long it took.
    is_untried: bool,
    tried: Instant,
    trying_took: Duration,
    slowest: Duration,
    read_at: Instant,
    broken: u32,
    trouble: Option<String>,
}

impl Driver<'_> {
    /// The blob, once what was wrong with it has been had anew.
    pub(super) async fn recover(&mut self) -> Result<Blob, Error> {
        let digest = self.session.digest;
        let doubtful: Vec<u64> = self.session.state().from_peers.iter().collect();
        if doubtful.is_empty() {
            let partial = self.partial.clone();
            // Nothing of it can be trusted; the next attempt begins anew.
            let _ = tokio::task::spawn_blocking(move || partial.discard()).await;
            return Err(Error::Corrupt {
                what: format!("blob {digest}"),
                reason: format!("upstream {} sent bytes that hash to something else", self.session.origin),
            });
        }
        add(&self.env.counters.lies, 1);
        tracing::warn!(%digest, doubtful = doubtful.len(), "a blob does not match: somebody lied about its leaves");
        self.note(format!("the whole does not match: {} leaves are doubtful", doubtful.len()));
        self.session.doubt();
        self.read = ReadState::None;
        let mut doubt = self.doubt_of(&doubtful);
        let blob = self.settle(&mut doubt).await?;
        // What this node told before was wrong.
        self.tell_last();
        Ok(blob)
    }

    fn doubt_of(&self, doubtful: &[u64]) -> Doubt {
        let me = self.env.swarm.local_peer();
        let before = self.hashes(doubtful);
        let said = self.said.clone();
        let peers = said.values().flat_map(|said| [said.witness, said.from]).chain([me]);
        let numbered = peers
            .filter(|peer| !self.env.reputation.is_avoided(peer))
            .map(|peer| (self.number(&peer), peer))
            .collect::<BTreeSet<_>>();
        let readers = numbered.into_iter().take(MAX_READERS).map(|(number, peer)| (peer, number)).collect();
        let leaves = before.iter().map(|(leaf, hash)| (*leaf, *hash, said.get(leaf).map(|said| said.witness)));
        let now = Instant::now();
        Doubt {
            audit: Audit::new(me, readers, leaves.collect::<Vec<_>>(), self.began.elapsed()),
            said,
            before,
            holders: VecDeque::new(),
            named: BTreeSet::new(),
            answers: FuturesUnordered::new(),
            asked: BTreeSet::new(),
            answered: BTreeSet::new(),
            has_changed: false,
            is_untried: false,
            tried: now,
            trying_took: Duration::ZERO,
            slowest: Duration::ZERO,
            read_at: now,
            broken: 0,
            trouble: None,
        }
    }

    /// A number of a peer for this blob that all nodes reckon alike.
    fn number(&self, peer: &PeerId) -> u64 {
        let hash = LeafHash::of(&[self.session.digest.hash(), &peer.to_bytes()].concat());
        hash.0.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
    }

    async fn settle(&mut self, doubt: &mut Doubt) -> Result<Blob, Error> {
        let mut search = Search::begin(&self.env.swarm, self.session.digest, Some(self.size));
        let leaves = u32::try_from(self.partial.outline().leaf_count()).unwrap_or(u32::MAX);
        let mut look = tokio::time::interval(ASK_EVERY + ASK_EVERY_FOR_LEAF * leaves);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while let Some((holder, outline)) = doubt.holders.pop_front() {
                if let Some(blob) = self.try_outline(doubt, holder, &outline).await? {
                    return Ok(blob);
                }
            }
            if std::mem::take(&mut doubt.has_changed) {
                self.have_changes(doubt).await?;
            }
            if doubt.is_untried
                && doubt.tried.elapsed() >= doubt.trying_took * TRY_SHARE
                && let Some(blob) = self.try_whole(doubt).await?
            {
                return Ok(blob);
            }
            if matches!(self.read, ReadState::None) {
                match doubt.audit.next_run() {
                    Some(run) => {
                        doubt.read_at = Instant::now();
                        self.open(run);
                    }
                    // Until the whole has been tried with what is believed, nothing more is asked for.
                    None if !doubt.is_untried && doubt.audit.changes().is_empty() && !doubt.audit.ask_more() => {
                        return Err(self.unsettled(doubt));
                    }
                    None => {}
                }
            }
            tokio::select! {
                Some((peer, word)) = doubt.answers.next(), if !doubt.answers.is_empty() => self.heard(doubt, peer, word),
                found = search.next(&self.env.reputation), if !search.is_over() => {
                    if let Found::Holder(peer, outline) = found {
                        self.holds(doubt, peer, outline);
                    }
                }
                event = next_read(&mut self.read) => self.read_again(doubt, event).await?,
                _ = look.tick() => {
                    let patience = (self.env.config.limits.stall * 2).max(doubt.slowest * PATIENCE);
                    for peer in doubt.audit.pass_over(patience, self.began.elapsed()) {
                        self.note(format!("{peer} reads nothing again: others do"));
                    }
                    self.ask_words(doubt);
                    doubt.has_changed = true;
                }
            }
        }
    }

    /// Asks those who vouched, and who may be reading, for their own word.
    fn ask_words(&self, doubt: &mut Doubt) {
        let peers: Vec<PeerId> = doubt.audit.readers().filter(|peer| !doubt.asked.contains(peer)).collect();
        for peer in peers {
            doubt.asked.insert(peer);
            let (swarm, digest) = (self.env.swarm.clone(), self.session.digest);
            let answer = async move { (peer, swarm.outline(peer, &digest).await.ok().flatten()) };
            doubt.answers.push(answer.boxed());
        }
    }

    fn heard(&self, doubt: &mut Doubt, peer: PeerId, word: Option<Outline>) {
        doubt.asked.remove(&peer);
        let Some(word) = word.filter(|word| word.size() == self.size) else { return };
        doubt.answered.insert(peer);
        doubt.audit.word(peer, |leaf| word.leaf(leaf), self.began.elapsed());
        doubt.has_changed = true;
        if word.is_complete() {
            self.holds(doubt, peer, Arc::new(word));
        }
    }

    fn holds(&self, doubt: &mut Doubt, peer: PeerId, outline: Arc<Outline>) {
        if outline.size() == self.size && doubt.named.insert(peer) {
            doubt.holders.push_back((peer, outline));
        }
    }

    /// Takes a holder at its word.
    async fn try_outline(
        &mut self,
        doubt: &mut Doubt,
        holder: PeerId,
        outline: &Outline,
    ) -> Result<Option<Blob>, Error> {
        let doubtful: Vec<u64> = doubt.audit.leaves().collect();
        let here = self.hashes(&doubtful);
        let differing = doubtful.iter().filter(|leaf| outline.leaf(**leaf) != here.get(leaf).copied());
        let changes: Vec<Change<PeerId>> = differing
            .filter_map(|leaf| Some(Change { leaf: *leaf, hash: outline.leaf(*leaf)?, from: vec![holder] }))
            .collect();
        if changes.is_empty() || self.have(doubt, changes.clone()).await? < changes.len() {
            return Ok(None);
        }
        self.note(format!("{holder} has the whole: its outline differs in {} leaves", changes.len()));
        let blob = self.try_whole(doubt).await?;
        if blob.is_none() {
            self.lied(holder, format!("reported wrong leaves for {}", self.session.digest));
        }
        Ok(blob)
    }

    /// Gets what is believed by now.
    async fn have_changes(&mut self, doubt: &mut Doubt) -> Result<(), Error> {
        let changes = doubt.audit.changes();
        if !changes.is_empty() {
            self.have(doubt, changes).await?;
        }
        Ok(())
    }

    /// Gets leaves anew from who says that he has them; gives how many came.
    async fn have(&mut self, doubt: &mut Doubt, changes: Vec<Change<PeerId>>) -> Result<usize, Error> {
        let (swarm, size) = (self.env.swarm.clone(), self.size);
        let mut blocks = stream::iter(changes)
            .map(|change| {
                let swarm = swarm.clone();
                async move {
                    let range = leaf_range(size, change.leaf);
                    for peer in change.from {
                        match swarm.block(peer, change.hash.cid(), 1).await {
                            Ok(bytes) if bytes.len() as u64 == range.end - range.start => {
                                return Some((change.leaf, change.hash, peer, bytes));
                            }
                            Ok(_) | Err(_) => {}
                        }
                    }
                    None
                }
            })
            .buffer_unordered(AT_ONCE);
        let mut came = 0;
        while let Some(block) = blocks.next().await {
            let Some((leaf, hash, peer, bytes)) = block else { continue };
            add(&self.env.counters.from_peers, bytes.len() as u64);
            self.replace(doubt, leaf, hash, bytes, Source::Peer(peer)).await?;
            came += 1;
        }
        Ok(came)
    }

    async fn replace(
        &mut self,
        doubt: &mut Doubt,
        leaf: u64,
        hash: LeafHash,
        bytes: Bytes,
        from: Source<PeerId>,
    ) -> Result<(), Error> {
        self.forget(leaf).await?;
        self.write(leaf, bytes, from, Some(hash));
        self.write_all().await?;
        doubt.audit.is_here(leaf, hash);
        doubt.is_untried = true;
        Ok(())
    }

    async fn read_again(&mut self, doubt: &mut Doubt, event: ReadEvent) -> Result<(), Error> {
        match event {
            ReadEvent::Opened(opened) => self.read = ReadState::Open(opened.reading),
            ReadEvent::End => self.read = ReadState::None,
            ReadEvent::Leaf(leaf, bytes) => {
                doubt.slowest = doubt.slowest.max(doubt.read_at.elapsed());
                doubt.read_at = Instant::now();
                add(&self.env.counters.from_upstream, bytes.len() as u64);
                add(&self.env.counters.read_again, bytes.len() as u64);
                self.session.state().trace.from_upstream += bytes.len() as u64;
                let hashed = bytes.clone();
                let hash = tokio::task::spawn_blocking(move || LeafHash::of(&hashed)).await;
                let hash = hash.map_err(|error| local(format!("hashing leaf {leaf}"), &error))?;
                doubt.audit.read(leaf, hash);
                if self.hashes(&[leaf]).get(&leaf) == Some(&hash) {
                    self.session.confirmed(leaf);
                } else {
                    self.note(format!("leaf {leaf} is otherwise upstream"));
                    self.replace(doubt, leaf, hash, bytes, Source::Upstream).await?;
                }
                doubt.has_changed = true;
            }
            ReadEvent::Broken(reason) => self.not_read(doubt, reason),
            ReadEvent::Refused(error) => self.not_read(doubt, error.to_string()),
        }
        Ok(())
    }

    fn not_read(&mut self, doubt: &mut Doubt, reason: String) {
        self.note(format!("upstream: {reason}"));
        self.read = ReadState::None;
        doubt.broken += 1;
        doubt.trouble = Some(reason);
        if doubt.broken >= MAX_BROKEN {
            doubt.audit.no_upstream();
        }
    }

    async fn try_whole(&mut self, doubt: &mut Doubt) -> Result<Option<Blob>, Error> {
        let began = Instant::now();
        let (partial, digest) = (self.partial.clone(), self.session.digest);
        let verified = tokio::task::spawn_blocking(move || partial.verify()).await;
        doubt.is_untried = false;
        doubt.tried = Instant::now();
        doubt.trying_took = began.elapsed();
        match verified {
            Ok(Ok(_)) => {}
            Ok(Err(shoal_store::Error::DigestMismatch { .. })) => return Ok(None),
            Ok(Err(error)) => return Err(local(format!("verifying blob {digest}"), &error)),
            Err(error) => return Err(local(format!("verifying blob {digest}"), &error)),
        }
        // Whoever finds the blob in the store finds the liar named.
        self.blame(doubt);
        self.try_commit().await
    }

    fn unsettled(&self, doubt: &Doubt) -> Error {
        let reason = match &doubt.trouble {
            Some(reason) => format!("peers lied about it, and upstream cannot settle it: {reason}"),
            None => format!("upstream {} sends bytes that hash to something else", self.session.origin),
        };
        Error::Corrupt { what: format!("blob {} of {}", self.session.digest, self.session.origin), reason }
    }

    fn hashes(&self, leaves: &[u64]) -> BTreeMap<u64, LeafHash> {
        let outline = self.partial.outline();
        leaves.iter().filter_map(|leaf| Some((*leaf, outline.leaf(*leaf)?))).collect()
    }

    async fn forget(&mut self, leaf: u64) -> Result<(), Error> {
        let (partial, digest) = (self.partial.clone(), self.session.digest);
        let hash = partial.outline().leaf(leaf);
        // Readers are told first: from now on they wait for it.
        self.session.doubted(leaf, hash);
        tokio::task::spawn_blocking(move || partial.forget_leaf(leaf))
            .await
            .map_err(|error| local(format!("forgetting leaf {leaf} of blob {digest}"), &error))?
            .map_err(|error| local(format!("forgetting leaf {leaf} of blob {digest}"), &error))?;
        self.env.shown.live.remove(hash);
        self.member.forget(leaf);
        Ok(())
    }

    /// Names those who said what turned out to be wrong.
    fn blame(&mut self, doubt: &Doubt) {
        let digest = self.session.digest;
        let doubtful: Vec<u64> = doubt.audit.leaves().collect();
        let right = self.hashes(&doubtful);
        let is_wrong = |leaf: &u64, hash: Option<LeafHash>| hash.is_some() && hash != right.get(leaf).copied();
        // What a peer said to this node itself leaves no doubt.
        let mut liars: BTreeSet<PeerId> = doubt
            .audit
            .readers()
            .filter(|peer| doubtful.iter().any(|leaf| is_wrong(leaf, doubt.audit.said(peer, *leaf))))
            .collect();
        let mut suspects: BTreeSet<(PeerId, PeerId)> = BTreeSet::new();
        for leaf in doubtful.iter().filter(|leaf| is_wrong(leaf, doubt.before.get(leaf).copied())) {
            let Some(said) = doubt.said.get(leaf) else { continue };
            match said.coordinator {
                // It told this node itself, as coordinator.
                None => {
                    liars.insert(said.witness);
                }
                Some(coordinator) if coordinator == said.witness => {
                    liars.insert(coordinator);
                }
                // Nobody else can have meant it.
                Some(_) if !doubt.answered.contains(&said.witness) => {
                    liars.insert(said.witness);
                }
                Some(coordinator) => {
                    suspects.insert((said.witness, coordinator));
                }
            }
        }
        let me = self.env.swarm.local_peer();
        liars.remove(&me);
        suspects.retain(|(witness, _)| *witness != me);
        suspects.retain(|(witness, coordinator)| !liars.contains(witness) && !liars.contains(coordinator));
        for liar in liars {
            self.lied(liar, format!("reported wrong leaves for {digest}"));
        }
        for (witness, coordinator) in suspects {
            self.note(format!("{witness} denies what {coordinator} says it reported: one of them lied"));
            self.env.reputation.suspect(witness, coordinator, &format!("wrong leaves for {digest}"));
        }
    }
}
