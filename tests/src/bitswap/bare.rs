//! The ends of a bare stream: the transport of the swarm, one protocol, bytes from memory.

use anyhow::{Context, Result};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    identity::Keypair,
    swarm::{self, SwarmEvent},
};
use serde_json::{Value, json};
use shoal_swarm::{Admission, SwarmKey};
use std::time::{Duration, Instant};

use super::raw::{Opened, Raw};
use crate::blobs::noise;

const PROTOCOL: &str = "/shoal/bare/1";
/// What is written and read at once: a leaf.
const PIECE: usize = 1 << 20;
const DIAL: Duration = Duration::from_secs(5);

/// A peer that speaks one protocol, and that badly.
pub(super) fn raw(protocol: &'static str, key: SwarmKey) -> Result<Swarm<Raw>> {
    let keypair = Keypair::generate_ed25519();
    let peer = keypair.public().to_peer_id();
    let transport = shoal_swarm::transport(&keypair, &Admission::Noise(key), DIAL)?;
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(Duration::from_secs(3600));
    Ok(Swarm::new(transport, Raw::new(protocol), peer, config))
}

/// The next stream that it has opened to the peer.
pub(super) async fn open(raw: &mut Swarm<Raw>, peer: PeerId) -> Result<libp2p::Stream> {
    raw.behaviour_mut().open(peer);
    loop {
        match raw.select_next_some().await {
            SwarmEvent::Behaviour(Opened::ByUs(stream)) => return Ok(stream),
            SwarmEvent::ConnectionClosed { cause, .. } => anyhow::bail!("the connection closed: {cause:?}"),
            _ => {}
        }
    }
}

/// Connects to the peer.
pub(super) async fn connect(raw: &mut Swarm<Raw>, address: &Multiaddr) -> Result<()> {
    raw.dial(address.clone())?;
    loop {
        match raw.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => return Ok(()),
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
}

/// Listens, and tells where; then whoever opens a stream gets `size` bytes on it.
pub(super) async fn serve(key: SwarmKey, size: u64, told: impl FnOnce(Value) -> Result<()>) -> Result<()> {
    let piece = noise(7, PIECE);
    let mut raw = raw(PROTOCOL, key)?;
    raw.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let mut told = Some(told);
    loop {
        match raw.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                if let Some(told) = told.take() {
                    told(json!({ "address": address.to_string(), "peer": raw.local_peer_id().to_string() }))?;
                }
            }
            SwarmEvent::Behaviour(Opened::ByPeer(mut stream)) => {
                let piece = piece.clone();
                tokio::spawn(async move {
                    let mut left = size;
                    while left > 0 {
                        let count = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                        if stream.write_all(&piece[..count]).await.is_err() {
                            break;
                        }
                        left -= count as u64;
                    }
                    let _ = stream.close().await;
                });
            }
            _ => {}
        }
    }
}

/// Reads a stream of the other end to its end.
pub(super) async fn read(key: SwarmKey, address: &Multiaddr, peer: PeerId, size: u64) -> Result<Value> {
    let mut raw = raw(PROTOCOL, key)?;
    connect(&mut raw, address).await?;
    let mut stream = open(&mut raw, peer).await?;
    let polling = tokio::spawn(async move {
        loop {
            raw.select_next_some().await;
        }
    });
    let began = Instant::now();
    let mut buffer = vec![0; PIECE];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer).await.context("reading the bare stream")? {
            0 => break,
            count => received += count as u64,
        }
    }
    let took = began.elapsed();
    polling.abort();
    anyhow::ensure!(received == size, "{received} bytes came of {size}");
    Ok(json!({ "verified": took.as_secs_f64() }))
}
