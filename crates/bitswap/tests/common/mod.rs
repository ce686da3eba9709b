//! Real swarms over loopback: TCP, noise, yamux.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod muxer;
pub mod node;
pub mod raw;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, Transport,
    core::upgrade,
    identity,
    multiaddr::Protocol,
    noise,
    swarm::{self, NetworkBehaviour, SwarmEvent},
    tcp,
};
use shoal_bitswap::Blocks;
use shoal_content::{Algorithm, Cid, Digest};

/// For whatever a test waits for.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A swarm with one behaviour, listening nowhere.
pub fn swarm<B: NetworkBehaviour>(behaviour: B) -> Swarm<B> {
    let key = identity::Keypair::generate_ed25519();
    let peer = PeerId::from_public_key(&key.public());
    let transport = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise::Config::new(&key).expect("a key pair signs"))
        .multiplex(muxer::Upgrade)
        .boxed();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3600));
    Swarm::new(transport, behaviour, peer, config)
}

/// Listens on a free port of loopback.
pub async fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>) -> Multiaddr {
    let any = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
    swarm.listen_on(any).expect("loopback can be listened on");
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            return address;
        }
    }
}

/// Connects the first to the second.
pub async fn connect<A: NetworkBehaviour, B: NetworkBehaviour>(a: &mut Swarm<A>, b: &mut Swarm<B>) {
    let known = b.listeners().next().cloned();
    let address = match known {
        Some(address) => address,
        None => listen(b).await,
    };
    a.dial(address).expect("loopback can be dialled");
    let (mut here, mut there) = (false, false);
    while !(here && there) {
        tokio::select! {
            event = a.select_next_some() => here |= matches!(event, SwarmEvent::ConnectionEstablished { .. }),
            event = b.select_next_some() => there |= matches!(event, SwarmEvent::ConnectionEstablished { .. }),
        }
    }
}

/// The CID of a raw block.
pub fn cid_of(data: &[u8]) -> Cid {
    Cid::new_v1(0x55, Digest::of(Algorithm::Sha256, data).multihash())
}

/// Bytes that differ by seed and do not repeat.
pub fn bytes(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = std::iter::repeat_with(move || next().to_le_bytes()).flatten();
    words.take(len).collect()
}

/// Blocks in memory.
#[derive(Default)]
pub struct Memory {
    blocks: Mutex<HashMap<Cid, Bytes>>,
}

impl Memory {
    pub fn put(&self, data: Bytes) -> Cid {
        let cid = cid_of(&data);
        self.put_as(cid, data);
        cid
    }

    /// Stores bytes under a CID that need not be theirs.
    pub fn put_as(&self, cid: Cid, data: Bytes) {
        self.blocks.lock().unwrap().insert(cid, data);
    }

    /// Fills with `count` blocks of `len` bytes.
    pub fn fill(&self, seed: u64, count: usize, len: usize) -> Vec<Cid> {
        (0..count as u64).map(|index| self.put(bytes(seed * 1_000_003 + index + 1, len))).collect()
    }
}

impl Blocks for Memory {
    fn size(&self, cid: &Cid) -> Option<u64> {
        self.blocks.lock().unwrap().get(cid).map(|data| data.len() as u64)
    }

    fn read(&self, cid: &Cid) -> io::Result<Option<Bytes>> {
        Ok(self.blocks.lock().unwrap().get(cid).cloned())
    }
}

/// Stands between two ends of a TCP connection.
pub struct Relay(Arc<tokio::sync::Notify>);

impl Relay {
    /// From now on nothing passes; the connections stay open.
    pub fn freeze(&self) {
        self.0.notify_one();
    }
}

/// A relay to `address`; the address to dial instead. Ends with the runtime.
pub async fn relay(address: Multiaddr) -> (Multiaddr, Relay) {
    let port = address.iter().find_map(|part| match part {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    let to = ("127.0.0.1", port.expect("a TCP address"));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let dial = format!("/ip4/127.0.0.1/tcp/{}", listener.local_addr().expect("bound").port());
    let freeze = Arc::<tokio::sync::Notify>::default();
    let frozen = Arc::clone(&freeze);
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.expect("a connection");
        let mut far = tokio::net::TcpStream::connect(to).await.expect("the other end listens");
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = frozen.notified() => {}
        }
        // Both sockets stay open.
        std::future::pending::<()>().await;
    });
    (dial.parse().expect("an address"), Relay(freeze))
}
