//! A peer without manners, admitted to the swarm.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{Multiaddr, PeerId, Stream, Swarm, swarm::SwarmEvent};
use serde_json::{Value, json};
use shoal_bitswap::{
    Version,
    wire::{Block, Entry, Message, Prefix, WantType},
};
use shoal_content::{Algorithm, Cid, Digest, LeafHash};
use shoal_swarm::SwarmKey;
use tokio::task::JoinHandle;

use super::{
    bare,
    end::{number, text},
    raw::{Opened, Raw},
};
use crate::blobs::noise;

const PROTOCOL: &str = Version::V1_2.protocol();
/// A wantlist of so many entries is one message.
const ENTRIES: usize = 1000;
/// A stream that the victim does not let be opened in this time is passed over.
const OPENED_WITHIN: Duration = Duration::from_millis(500);
/// Limit of a message, by go-bitswap and here.
const MAX_MESSAGE: usize = 4 << 20;

/// Connections to the victim, kept open until the process ends.
pub(super) struct Rude {
    key: SwarmKey,
    address: Multiaddr,
    peer: PeerId,
    polled: Vec<JoinHandle<()>>,
    streams: Vec<Stream>,
}

impl Rude {
    pub(super) fn new(key: SwarmKey, address: Multiaddr, peer: PeerId) -> Self {
        Self { key, address, peer, polled: Vec::new(), streams: Vec::new() }
    }

    /// Abuses once, and again until `ms` are over; how often something was done.
    pub(super) async fn obey(&mut self, what: &str, command: &Value) -> Result<Value> {
        let until = Instant::now() + Duration::from_millis(number(command, "ms")?);
        let mut done = 0u64;
        loop {
            done += match what {
                "wants" => self.wants(done).await?,
                "streams" => self.many_streams().await?,
                "too long" => self.frames(&with_length(MAX_MESSAGE as u64 + 1, MAX_MESSAGE + 1), 50).await?,
                "endless" => self.frames(&with_length(1 << 63, 64 << 10), 500).await?,
                "unasked" => self.unasked(done).await?,
                "slow readers" => return self.slow_readers(text(command, "cids")?, until).await,
                other => bail!("nobody is that rude: {other:?}"),
            };
            if Instant::now() >= until {
                return Ok(json!({ "done": done }));
            }
        }
    }

    async fn connected(&self) -> Result<Swarm<Raw>> {
        let mut raw = bare::raw(PROTOCOL, self.key.clone())?;
        bare::connect(&mut raw, &self.address).await?;
        Ok(raw)
    }

    /// Polls the connection from now on; what the victim opens is kept and not read.
    fn keep(&mut self, mut raw: Swarm<Raw>) {
        self.polled.push(tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                if let SwarmEvent::Behaviour(opened) = raw.select_next_some().await {
                    kept.push(opened);
                }
            }
        }));
    }

    /// A hundred thousand wants of blocks that are not there, and again on the same stream, from one peer that takes no answer.
    async fn wants(&mut self, done: u64) -> Result<u64> {
        const WANTS: u64 = 100_000;
        let mut stream = match self.streams.pop() {
            Some(stream) => stream,
            None => {
                let mut raw = self.connected().await?;
                let stream = bare::open(&mut raw, self.peer).await?;
                self.keep(raw);
                stream
            }
        };
        for first in (done..done + WANTS).step_by(ENTRIES) {
            let wants = (first..).take(ENTRIES).map(|index| want(cid_of(index))).collect();
            let frame = Message { wants, ..Message::default() }.encode(Version::V1_2).to_vec();
            stream.write_all(&frame).await?;
        }
        stream.flush().await?;
        self.streams.push(stream);
        Ok(WANTS)
    }

    /// Ten thousand streams, as many at once as the connection bears.
    async fn many_streams(&mut self) -> Result<u64> {
        const STREAMS: u64 = 10_000;
        let mut raw = self.connected().await?;
        for _ in 0..STREAMS {
            match tokio::time::timeout(OPENED_WITHIN, bare::open(&mut raw, self.peer)).await {
                Ok(Ok(stream)) => self.streams.push(stream),
                // The connection is full, or was closed for it: another one.
                Ok(Err(_)) | Err(_) => {
                    self.streams.clear();
                    raw = self.connected().await?;
                }
            }
        }
        self.keep(raw);
        Ok(STREAMS)
    }

    /// The same bytes on one new stream after the other.
    async fn frames(&mut self, bytes: &Bytes, count: u64) -> Result<u64> {
        let mut raw = self.connected().await?;
        for _ in 0..count {
            let Ok(stream) = tokio::time::timeout(OPENED_WITHIN, bare::open(&mut raw, self.peer)).await else {
                raw = self.connected().await?;
                continue;
            };
            let (mut stream, bytes) = (stream?, bytes.clone());
            let written = tokio::spawn(async move {
                // It is refused half way.
                let _ = stream.write_all(&bytes).await;
                let _ = stream.flush().await;
            });
            tokio::pin!(written);
            loop {
                tokio::select! {
                    _ = &mut written => break,
                    _ = raw.select_next_some() => {}
                }
            }
        }
        self.keep(raw);
        Ok(count)
    }

    /// Blocks that nobody asked for: long ones, and short ones, which are worth reading.
    async fn unasked(&mut self, done: u64) -> Result<u64> {
        const LONG: u64 = 64;
        const SHORT: u64 = 500;
        let mut raw = self.connected().await?;
        let mut stream = bare::open(&mut raw, self.peer).await?;
        self.keep(raw);
        let lengths = (0..LONG).map(|_| 1 << 20).chain((0..SHORT).map(|_| 100 << 10));
        for (index, length) in (1..).zip(lengths) {
            let data = Bytes::from(noise(done + index, length));
            let blocks = vec![Block { prefix: Some(Prefix::of(&LeafHash::of(&data).cid())), data }];
            let frame = Message { blocks, ..Message::default() }.encode(Version::V1_2).to_vec();
            stream.write_all(&frame).await?;
        }
        stream.flush().await?;
        self.streams.push(stream);
        Ok(LONG + SHORT)
    }

    /// Peers that want all of a blob and read a byte of it each second.
    async fn slow_readers(&mut self, cids: &str, until: Instant) -> Result<Value> {
        const READERS: usize = 8;
        let cids: Vec<Cid> = cids.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        for _ in 0..READERS {
            let mut raw = self.connected().await?;
            let mut stream = bare::open(&mut raw, self.peer).await?;
            let message = Message { wants: cids.iter().map(|cid| want(*cid)).collect(), ..Message::default() };
            stream.write_all(&message.encode(Version::V1_2).to_vec()).await?;
            stream.flush().await?;
            self.streams.push(stream);
            self.polled.push(tokio::spawn(async move {
                loop {
                    if let SwarmEvent::Behaviour(Opened::ByPeer(stream)) = raw.select_next_some().await {
                        tokio::spawn(read_slowly(stream));
                    }
                }
            }));
        }
        tokio::time::sleep_until(until.into()).await;
        Ok(json!({ "done": READERS }))
    }
}

async fn read_slowly(mut stream: Stream) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    let mut byte = [0];
    loop {
        every.tick().await;
        if !matches!(stream.read(&mut byte).await, Ok(1)) {
            return;
        }
    }
}

/// A length, and some of the bytes that it announces.
fn with_length(length: u64, bytes: usize) -> Bytes {
    let mut frame = Vec::new();
    let mut rest = length;
    while rest >= 0x80 {
        frame.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    frame.push(rest as u8);
    frame.resize(frame.len() + bytes, 0x0a);
    frame.into()
}

fn want(cid: Cid) -> Entry {
    Entry { cid, priority: 1, cancel: false, want: WantType::Block, send_dont_have: true }
}

fn cid_of(seed: u64) -> Cid {
    LeafHash::of(&seed.to_le_bytes()).cid()
}

/// The key of a record that [`announce`] makes.
pub(super) fn key(index: u64) -> Digest {
    Digest::of(Algorithm::Sha256, &index.to_le_bytes())
}

/// Announces blobs that are not there, as fast as an honest node may.
pub(super) async fn announce(swarm: &shoal_swarm::Swarm, keys: u64) -> Result<Value> {
    swarm.listening().await.context("it listens")?;
    for index in 0..keys {
        swarm.announce(&key(index), &cid_of(index));
    }
    Ok(json!({ "done": keys }))
}
