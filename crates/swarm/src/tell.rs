//! Telling peers of what this node provides, many keys at a time.
//!
//! Kademlia as libp2p has it walks the DHT for every key that it announces and opens a stream to each of the twenty nearest: some forty
//! exchanges a key. A node that is connected to the whole swarm knows who is nearest without asking, and ADD_PROVIDER has no answer, so many
//! of them may follow one another on one stream. Ten thousand keys become a few hundred streams.
//!
//! On the wire this is Kademlia, and any Kademlia peer understands it: varint-framed `Message { type = ADD_PROVIDER, key, providerPeers }`.

use std::io;

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use libp2p::{Multiaddr, PeerId, StreamProtocol, request_response};

/// Keys told on one stream; some 8 KiB.
pub(crate) const MAX_KEYS: usize = 64;

/// Addresses of this node that are told with a key.
const MAX_ADDRESSES: usize = 8;

/// The fields of Kademlia's `Message` and `Peer` (libp2p specification, kad-dht) as protobuf tags.
const MESSAGE_TYPE: u8 = 1 << 3;
const MESSAGE_KEY: u8 = 2 << 3 | 2;
const MESSAGE_PROVIDER_PEERS: u8 = 9 << 3 | 2;
const PEER_ID: u8 = 1 << 3 | 2;
const PEER_ADDRESSES: u8 = 2 << 3 | 2;
const PEER_CONNECTION: u8 = 3 << 3;
const ADD_PROVIDER: u8 = 2;
const CONNECTED: u8 = 1;

/// Encoded ADD_PROVIDER messages, one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Vec<u8>);

/// Writes the messages and expects nothing back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codec;

pub(crate) type Behaviour = request_response::Behaviour<Codec>;

impl Told {
    /// Adds a message that says that `provider` provides `key`.
    pub(crate) fn add(&mut self, key: &[u8], provider: &PeerId, addresses: &[Multiaddr]) {
        let mut peer = Vec::new();
        field(&mut peer, PEER_ID, &provider.to_bytes());
        for address in addresses.iter().take(MAX_ADDRESSES) {
            field(&mut peer, PEER_ADDRESSES, &address.to_vec());
        }
        peer.extend_from_slice(&[PEER_CONNECTION, CONNECTED]);

        let mut message = vec![MESSAGE_TYPE, ADD_PROVIDER];
        field(&mut message, MESSAGE_KEY, key);
        field(&mut message, MESSAGE_PROVIDER_PEERS, &peer);
        varint(&mut self.0, message.len());
        self.0.extend_from_slice(&message);
    }
}

fn field(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    varint(out, value.len());
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Told;
    type Response = ();

    async fn read_request<T>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<Told>
    where
        T: AsyncRead + Unpin + Send,
    {
        // The behaviour is for outbound streams only: Kademlia itself takes the inbound ones.
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<()>
    where
        T: AsyncRead + Unpin + Send,
    {
        Ok(())
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, told: Told) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&told.0).await?;
        io.flush().await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, _: &mut T, (): ()) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        Ok(())
    }
}
