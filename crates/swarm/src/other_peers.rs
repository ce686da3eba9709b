//! Tests with peers that are not Shoal: one with Kademlia as libp2p has it, and some that mean no good.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{AsyncRead, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, identify,
    identity::Keypair,
    kad,
    request_response::{self, ProtocolSupport},
    swarm::{self, NetworkBehaviour, SwarmEvent},
};
use shoal_content::{Algorithm, Cid, Digest, LeafHash, Outline};
use tokio::{sync::mpsc, time::timeout};

use crate::{Admission, Blocks, Config, Error, Identity, Provides, Swarm, behaviour::KADEMLIA, outlines, transport};

const DEADLINE: Duration = Duration::from_secs(20);

struct Nothing;

impl Blocks for Nothing {
    fn size(&self, _: &Cid) -> Option<u64> {
        None
    }

    fn read(&self, _: &Cid) -> io::Result<Option<Bytes>> {
        Ok(None)
    }
}

impl Provides for Nothing {
    fn outline(&self, _: &Digest) -> Option<Arc<Outline>> {
        None
    }
}

/// A node of ours that knows one peer.
fn node(seed: &Multiaddr) -> Swarm {
    let mut config = Config::new(Identity::generate(), Admission::Open);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.seeds = vec![seed.to_string().parse().unwrap()];
    Swarm::start(config, Arc::new(Nothing)).unwrap()
}

/// Starts a foreign peer. Returns it once it listens.
async fn listening<B: NetworkBehaviour>(behaviour: impl FnOnce(&Keypair) -> B) -> (libp2p::Swarm<B>, PeerId, Multiaddr)
where
    B::ToSwarm: std::fmt::Debug,
{
    let keypair = Keypair::generate_ed25519();
    let connections = transport::build(&keypair, &Admission::Open, Duration::from_secs(3)).unwrap();
    let peer = keypair.public().to_peer_id();
    let config = swarm::Config::with_tokio_executor().with_idle_connection_timeout(DEADLINE);
    let mut swarm = libp2p::Swarm::new(connections, behaviour(&keypair), peer, config);
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    loop {
        if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await {
            swarm.add_external_address(address.clone());
            return (swarm, peer, address);
        }
    }
}

#[derive(NetworkBehaviour)]
struct Stock {
    kademlia: kad::Behaviour<kad::store::MemoryStore>,
    identify: identify::Behaviour,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_kademlia_peer_takes_our_announcements_and_gives_us_its_own() {
    let (mut stock, stock_peer, address) = listening(|keypair| {
        let peer = keypair.public().to_peer_id();
        let mut kademlia =
            kad::Behaviour::with_config(peer, kad::store::MemoryStore::new(peer), kad::Config::new(KADEMLIA));
        kademlia.set_mode(Some(kad::Mode::Server));
        Stock { kademlia, identify: identify::Behaviour::new(identify::Config::new("x".into(), keypair.public())) }
    })
    .await;
    let theirs = Digest::of(Algorithm::Sha256, b"theirs");
    stock.behaviour_mut().kademlia.start_providing(kad::RecordKey::from(theirs.multihash())).unwrap();

    let node = node(&address);
    let digests: Vec<Digest> = (0..200u8).map(|number| Digest::of(Algorithm::Sha256, &[number])).collect();
    for digest in &digests {
        node.announce(digest, &LeafHash::of(&digest.hash()[..1]).cid());
    }
    let local = node.local_peer();
    let addresses = timeout(DEADLINE, node.listening()).await.unwrap().unwrap();

    let took = async {
        let mut missing = digests.clone();
        while !missing.is_empty() {
            if let SwarmEvent::Behaviour(StockEvent::Identify(identify::Event::Received { peer_id, info, .. })) =
                stock.select_next_some().await
            {
                for address in info.listen_addrs {
                    stock.behaviour_mut().kademlia.add_address(&peer_id, address);
                }
            }
            let store = stock.behaviour_mut().kademlia.store_mut();
            missing.retain(|digest| {
                let records = kad::store::RecordStore::providers(store, &kad::RecordKey::from(digest.multihash()));
                assert!(records.iter().all(|record| record.provider == local));
                let told = records.first().map(|record| record.addresses.clone());
                assert!(told.is_none_or(|told| told == [addresses[0].clone().with_p2p(local).unwrap()]));
                records.is_empty()
            });
        }
    };
    timeout(DEADLINE, took).await.expect("all records come");

    let serving = tokio::spawn(async move {
        loop {
            stock.select_next_some().await;
        }
    });
    let found = timeout(DEADLINE, async { node.providers(&theirs).recv().await }).await.unwrap();
    assert_eq!(found, Some(stock_peer));
    serving.abort();
}

/// Answers every request with the bytes that it holds.
#[derive(Clone)]
struct Raw(Vec<u8>);

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = ();
    type Response = ();

    async fn read_request<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<()> {
        Ok(())
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<()> {
        Ok(())
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        (): (),
    ) -> io::Result<()> {
        Ok(())
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        (): (),
    ) -> io::Result<()> {
        io.write_all(&self.0).await?;
        io.flush().await
    }
}

/// What a node of ours makes of a peer that answers every question about an outline with `bytes`; with nothing, it never answers.
async fn outline_of_peer_that_answers(bytes: Vec<u8>) -> Result<Option<Outline>, Error> {
    let is_silent = bytes.is_empty();
    let (mut liar, peer, address) = listening(|_| {
        request_response::Behaviour::with_codec(
            Raw(bytes),
            [(outlines::PROTOCOL, ProtocolSupport::Full)],
            request_response::Config::default(),
        )
    })
    .await;
    let (connected, mut is_connected) = mpsc::channel(1);
    let lying = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            match liar.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => drop(connected.try_send(())),
                SwarmEvent::Behaviour(request_response::Event::Message {
                    message: request_response::Message::Request { channel, .. },
                    ..
                }) if is_silent => held.push(channel),
                SwarmEvent::Behaviour(request_response::Event::Message {
                    message: request_response::Message::Request { channel, .. },
                    ..
                }) => drop(liar.behaviour_mut().send_response(channel, ())),
                _ => {}
            }
        }
    });
    let node = node(&address);
    timeout(DEADLINE, is_connected.recv()).await.expect("the peers meet");
    let asked = node.outline(peer, &Digest::of(Algorithm::Sha256, b"")).await;
    assert_eq!(node.peers().await.unwrap().len(), 1, "the node goes on");
    lying.abort();
    asked
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_answers_about_outlines_are_errors_that_name_the_peer() {
    let growing_by_a_lot = [&[1, 1, 1][..], &(1u64 << 39).to_be_bytes(), &[1]].concat();
    let with_length = |body: &[u8]| [&(body.len() as u32).to_be_bytes(), body].concat();
    for bytes in [
        u32::MAX.to_be_bytes().to_vec(),
        with_length(&[]),
        with_length(&[1, 99]),
        with_length(&[1, 1, 0xff, 0xff]),
        with_length(&growing_by_a_lot),
        // A tag where an outline was asked for.
        with_length(&[&[1, 5, 0x12][..], &[0; 32], &[0; 16]].concat()),
        [&100u32.to_be_bytes()[..], &[1, 1]].concat(),
    ] {
        let shown = format!("{bytes:?}");
        let answer = outline_of_peer_that_answers(bytes).await;
        assert!(matches!(answer, Err(Error::BadAnswer { .. })), "{shown}: {answer:?}");
    }
    let answer = outline_of_peer_that_answers(Vec::new()).await;
    assert!(matches!(answer, Err(Error::Timeout(_))), "{answer:?}");
}
