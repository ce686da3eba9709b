//! The handle on a running swarm.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use libp2p::{Multiaddr, PeerId, kad::RecordKey};
use shoal_content::{Cid, Digest, Outline};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    Provides,
    config::Config,
    error::{BlockError, Error},
    event_loop::{Command, EventLoop},
    outlines::{Answer, KnownTag, Request},
    peers::PeerInfo,
    provided::Provided,
    wants::{Abandoned, Reply, WantId},
};

/// Commands that wait for the event loop.
const COMMANDS: usize = 1024;

/// Providers of one lookup that its caller has not taken yet; more are passed over.
const FOUND: usize = 64;

/// Peers that went away and that a listener has not heard of yet.
const DEPARTURES: usize = 256;

/// Announcements under way together. Each is a few messages over connections that stand, so this many keep the rate well above a
/// thousand keys a second and below what a peer would feel.
const MAX_ANNOUNCING: usize = 64;

/// A running node of the swarm; clones stand for the same node. When the last is dropped the node leaves.
#[derive(Clone, Debug)]
pub struct Swarm {
    peer: PeerId,
    commands: mpsc::Sender<Command>,
    abandoned: Arc<Abandoned>,
    next_want: Arc<AtomicU64>,
    provided: Arc<Provided>,
    addresses: watch::Receiver<Vec<Multiaddr>>,
    departures: broadcast::Sender<PeerId>,
    outline_timeout: Duration,
    block_timeout: Duration,
}

impl Swarm {
    /// Starts a node on the current tokio runtime. When it returns, the node listens; peers come as they are found.
    pub fn start(config: Config, provides: Arc<dyn Provides>) -> Result<Self, Error> {
        let peer = config.identity.peer();
        let provided = Arc::new(Provided::new(config.provider_ttl, MAX_ANNOUNCING, rand::random()));
        let (commands, commands_taken) = mpsc::channel(COMMANDS);
        let abandoned = Arc::new(Abandoned::default());
        let (addresses_told, addresses) = watch::channel(Vec::new());
        let (outline_timeout, block_timeout) = (config.outline_timeout, config.block_timeout);
        let departures = broadcast::Sender::new(DEPARTURES);
        let event_loop = EventLoop::new(
            config,
            provides,
            Arc::clone(&provided),
            addresses_told,
            commands_taken,
            Arc::clone(&abandoned),
            departures.clone(),
        )?;
        tokio::spawn(event_loop.run());
        let next_want = Arc::new(AtomicU64::new(0));
        Ok(Self {
            peer,
            commands,
            abandoned,
            next_want,
            provided,
            addresses,
            departures,
            outline_timeout,
            block_timeout,
        })
    }

    /// This node's name.
    pub fn local_peer(&self) -> PeerId {
        self.peer
    }

    /// The addresses that peers are told to find this node at.
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.addresses.borrow().clone()
    }

    /// Waits until this node is to be found somewhere.
    pub async fn listening(&self) -> Result<Vec<Multiaddr>, Error> {
        let mut addresses = self.addresses.clone();
        let listening = addresses.wait_for(|addresses| !addresses.is_empty()).await;
        listening.map(|addresses| addresses.clone()).map_err(|_| Error::Stopped)
    }

    /// Peers that hold a blob, as they are found: those that this node knows of at once, then those that others know of.
    /// This node is not among them. The channel closes when the search has ended; dropping it ends the search.
    pub fn providers(&self, digest: &Digest) -> mpsc::Receiver<PeerId> {
        self.find(RecordKey::from(digest.multihash()))
    }

    /// Peers that hold a block, as [`Self::providers`].
    pub fn providers_of_cid(&self, cid: &Cid) -> mpsc::Receiver<PeerId> {
        self.find(RecordKey::from(*cid.hash()))
    }

    /// Asks a peer for a blob's outline; `None` when it does not hold the blob. What it says is a hint and no more.
    /// Connects to the peer if need be.
    pub async fn outline(&self, peer: PeerId, digest: &Digest) -> Result<Option<Outline>, Error> {
        match self.ask(peer, Request::Outline(*digest)).await? {
            Answer::Held(outline) => Ok(Some(Arc::unwrap_or_clone(outline))),
            Answer::NotHeld => Ok(None),
            _ => Err(Error::BadAnswer { peer, reason: "asked for an outline, it gave something else".into() }),
        }
    }

    /// Asks a peer what it knows of a tag, by its full name `registry/repository:tag`. What it says is a hint and no more.
    /// Connects to the peer if need be.
    pub async fn tag(&self, peer: PeerId, name: &str) -> Result<Option<KnownTag>, Error> {
        match self.ask(peer, Request::Tag(name.to_owned())).await? {
            Answer::Tag(tag) => Ok(Some(tag)),
            Answer::NotHeld => Ok(None),
            _ => Err(Error::BadAnswer { peer, reason: "asked for a tag, it gave something else".into() }),
        }
    }

    async fn ask(&self, peer: PeerId, request: Request) -> Result<Answer, Error> {
        let (reply, answer) = oneshot::channel();
        let ask = async {
            let command = Command::Ask { peer, request, reply };
            self.commands.send(command).await.map_err(|_| Error::Stopped)?;
            answer.await.map_err(|_| Error::Stopped)?
        };
        tokio::time::timeout(self.outline_timeout, ask).await.map_err(|_| Error::Timeout(peer))?
    }

    /// Gets a block from a peer; it matches the CID. Of what is wanted of one peer, the highest priority is sent first.
    /// Dropping the future withdraws the want. Connects to the peer if need be.
    pub async fn block(&self, peer: PeerId, cid: Cid, priority: i32) -> Result<Bytes, BlockError> {
        let (reply, answer) = oneshot::channel();
        self.want(peer, cid, priority, Reply::Block(reply), answer).await
    }

    /// Asks a peer whether it has a block.
    pub async fn have(&self, peer: PeerId, cid: Cid) -> Result<bool, BlockError> {
        let (reply, answer) = oneshot::channel();
        self.want(peer, cid, 0, Reply::Have(reply), answer).await
    }

    /// Keeps a blob announced, by its digest and by its root, until [`Self::withdraw`]. Returns at once.
    pub fn announce(&self, digest: &Digest, root: &Cid) {
        self.provided.announce(digest, root);
    }

    /// No longer announces a blob. Peers that have heard of it find out when they ask.
    pub fn withdraw(&self, digest: &Digest) {
        self.provided.withdraw(digest);
    }

    /// A block has been stored: peers that wait for it are sent it.
    pub fn have_now(&self, cid: Cid) {
        // Lost when the event loop is swamped: the peer then asks again.
        let _ = self.commands.try_send(Command::HaveNow { cid });
    }

    /// Those who may coordinate a blob, nearest to its digest first; this node is `None` among them.
    pub async fn nearest(&self, digest: &Digest, count: usize) -> Result<Vec<Option<PeerId>>, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Nearest { digest: *digest, count, reply };
        self.commands.send(command).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// Asks a peer as the coordinator of a blob. It may keep the request open.
    pub async fn coordinate(&self, peer: PeerId, request: Vec<u8>) -> Result<Vec<u8>, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Coordinate { peer, request, reply };
        self.commands.send(command).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// Bytes that bitswap has had from each of these peers since they connected, those of blocks that are not whole yet included; 0
    /// of peers that are not connected. What grows is alive, however slow.
    pub async fn arrived(&self, peers: Vec<PeerId>) -> Result<Vec<u64>, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Arrived { peers, reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// Peers that go, from now on. A receiver that lags loses the oldest.
    pub fn departures(&self) -> broadcast::Receiver<PeerId> {
        self.departures.subscribe()
    }

    /// The connected peers.
    pub async fn peers(&self) -> Result<Vec<PeerInfo>, Error> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Peers { reply }).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// Leaves the swarm: closes all connections and frees the port. Other calls then fail.
    pub async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Command::Shutdown { reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    fn find(&self, key: RecordKey) -> mpsc::Receiver<PeerId> {
        let (reply, found) = mpsc::channel(FOUND);
        if self.commands.try_send(Command::Providers { key, reply }).is_err() {
            tracing::debug!("a lookup was dropped: the swarm is swamped or stopped");
        }
        found
    }

    async fn want<T>(
        &self,
        peer: PeerId,
        cid: Cid,
        priority: i32,
        reply: Reply,
        answer: oneshot::Receiver<Result<T, BlockError>>,
    ) -> Result<T, BlockError> {
        let id = WantId(self.next_want.fetch_add(1, Ordering::Relaxed));
        let mut guard = Withdraw { id: Some(id), abandoned: &self.abandoned };
        let wait = async {
            let command = Command::Want { id, peer, cid, priority, reply };
            self.commands.send(command).await.map_err(|_| BlockError::Stopped)?;
            answer.await.map_err(|_| BlockError::Stopped)?
        };
        let result = tokio::time::timeout(self.block_timeout, wait).await;
        if result.is_ok() {
            guard.id = None;
        }
        result.map_err(|_| BlockError::Timeout)?
    }
}

/// Withdraws a want when its future is dropped or has run out of time.
struct Withdraw<'a> {
    id: Option<WantId>,
    abandoned: &'a Abandoned,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.abandoned.push(id);
        }
    }
}
