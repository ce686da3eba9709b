//! From a TCP connection to an authenticated, encrypted one that carries many streams.
//!
//! Who does not know the swarm key gets no further than the handshake. Under [`Admission::Noise`] the key's hash is the prologue of the noise
//! handshake: both ends mix it into every authentication tag, so a stranger's handshake fails and the bytes that follow cost nothing more.
//! Under [`Admission::Pnet`] everything is encrypted once more, with XSalsa20, as Kubo and Helia do in a private swarm.

use std::time::Duration;

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    PeerId, Transport,
    core::{muxing::StreamMuxerBox, transport::Boxed, upgrade::Version},
    identity::Keypair,
    noise, pnet, tcp,
};

use crate::{config::Admission, error::Error, muxer};

/// How long a connection may take from its first packet to a peer that is known and admitted. A stranger or a silent peer holds a slot no longer.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// TCP, admission, noise and our muxer; public for measuring beside it what a stream costs. A dial that is not complete after `dial_timeout` fails.
pub fn build(keypair: &Keypair, admission: &Admission, dial_timeout: Duration) -> Result<Connections, Error> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true));
    let noise = noise::Config::new(keypair).map_err(|error| Error::Noise(error.to_string()))?;
    match admission {
        Admission::Open => Ok(upgrade(tcp, noise, muxer::Upgrade::default(), dial_timeout)),
        Admission::Noise(key) => {
            let noise = noise.with_prologue(key.prologue().to_vec());
            Ok(upgrade(tcp, noise, muxer::Upgrade::default(), dial_timeout))
        }
        Admission::Pnet(key) => {
            let pnet = pnet::PnetConfig::new(pnet::PreSharedKey::new(*key.bytes()));
            let tcp = tcp.and_then(move |socket, _| pnet.handshake(socket));
            Ok(upgrade(tcp, noise, muxer::Upgrade::with_steady_windows(), dial_timeout))
        }
    }
}

fn upgrade<T, C>(transport: T, noise: noise::Config, muxer: muxer::Upgrade, dial_timeout: Duration) -> Connections
where
    T: Transport<Output = C> + Send + Unpin + 'static,
    T::Error: Send + Sync,
    T::Dial: Send,
    T::ListenerUpgrade: Send,
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let upgraded = transport.upgrade(Version::V1Lazy).authenticate(noise).multiplex(muxer).timeout(HANDSHAKE_TIMEOUT);
    libp2p::core::transport::timeout::TransportTimeout::with_outgoing_timeout(upgraded, dial_timeout)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed()
}
