//! A way to peers that can be unplugged: nothing passes any more, and neither end hears of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use shoal_swarm::Multiaddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

#[derive(Clone, Default)]
pub struct Plug(Arc<AtomicBool>);

impl Plug {
    /// From now on what is sent is swallowed.
    pub fn unplug(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Where a peer is reached by this way, instead of at its own address.
    pub async fn to(&self, peer: &Multiaddr) -> Multiaddr {
        let port = peer.to_string().rsplit_once('/').unwrap().1.parse().unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plug = self.clone();
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let Ok(there) = TcpStream::connect(peer).await else { continue };
                let ((from_here, to_here), (from_there, to_there)) = (here.into_split(), there.into_split());
                tokio::spawn(plug.clone().pass(from_here, to_there));
                tokio::spawn(plug.clone().pass(from_there, to_here));
            }
        });
        format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
    }

    async fn pass(self, mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin) {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if !self.0.load(Ordering::Relaxed) && to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}
