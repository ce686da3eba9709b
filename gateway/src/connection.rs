//! One client's connection from accept to FIN.

use std::{convert::Infallible, future::Future, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    answer::Shared,
    line::{Line, part},
};

/// Most bytes of an answer that hyper holds for a connection before it asks the body for no more. A leaf is one buffer and
/// passes uncopied; this only keeps a second one from queueing behind it.
const WRITE_AHEAD: usize = 256 * 1024;

/// Serves a connection until the client or `stop` ends it, then parts by FIN.
pub(crate) async fn serve(shared: Arc<Shared>, tcp: Arc<TcpStream>, stop: impl Future<Output = ()>) {
    talk(&shared, &tcp, stop).await;
    part(&tcp).await;
}

/// Whether a client is on this machine. A socket for both families gives addresses of the older one in the form of the newer.
fn is_loopback(client: IpAddr) -> bool {
    client.to_canonical().is_loopback()
}

async fn talk(shared: &Arc<Shared>, tcp: &Arc<TcpStream>, stop: impl Future<Output = ()>) {
    let config = &shared.config;
    let (line, scissors) = Line::new(tcp.clone(), config.write_timeout);
    let is_local = tcp.peer_addr().is_ok_and(|peer| is_loopback(peer.ip()));
    let service = service_fn(|request: Request<Incoming>| {
        let (shared, scissors) = (shared.clone(), scissors.clone());
        async move {
            let (parts, _) = request.into_parts();
            Ok::<_, Infallible>(shared.answer(&parts, is_local, scissors).await)
        }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(config.header_timeout)
            .max_header_size(config.max_header_bytes)
            .max_buf_size(WRITE_AHEAD.max(config.max_header_bytes))
            .serve_connection(TokioIo::new(line), service)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            match timeout(config.drain, connection).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!(drain_ms = as_millis(config.drain), "connection cut: its request outlasted the shutdown");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        if is_slow_client(&error) {
            shared.metrics.slow_clients.inc();
            tracing::info!("connection cut: its client took no byte for too long");
        }
        tracing::debug!(%error, "connection ended");
    }
}

/// Only the line's own write time-out has this kind; hyper's header time-out is no error of input or output.
fn is_slow_client(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<std::io::Error>() {
            return cause.kind() == std::io::ErrorKind::TimedOut;
        }
        source = cause.source();
    }
    false
}

fn as_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_from_what_looks_like_it() {
        for (client, expected) in [
            ("127.0.0.1", true),
            ("127.8.9.10", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.0.0.1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("::ffff:10.0.0.1", false),
            ("::127.0.0.1", false),
            ("fe80::1", false),
        ] {
            assert_eq!(is_loopback(client.parse().unwrap()), expected, "{client}");
        }
    }
}
