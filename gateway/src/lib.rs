//! The OCI endpoint that container runtimes talk to: HTTP in, sessions out.
//!
//! The gateway knows no peer and no file. All content comes from [`shoal_fetch::Pulls`]; what is decided here is how an answer
//! has to look and to end so that containerd, CRI-O, podman, Docker and lazy pullers make the best of it, above all when
//! something goes wrong. What fails a pull for good is a reset in the middle of a body, wrong bytes, headers without a body, and
//! headers that never come; what costs next to nothing is a fast 404, a FIN and a closed port. So:
//!
//! - an answer is 404 fast or its first bytes are there ([`Config`]: budgets);
//! - a body ends whole, or short by FIN, and its resume is then refused where the client has a next host;
//! - a client's slowness holds back nobody, and an abandoned request drops its stream;
//! - when the runtime hangs, a thread of its own closes the port.
//!
//! | module | what it holds |
//! |---|---|
//! | [`path`] | what a path and query ask for; pure |
//! | [`range`] | arithmetic of ranges; pure |
//! | `answer` | rules that all endpoints share; manifests, lists |
//! | `blob`, `body`, `multipart` | blobs, their bodies, several ranges at once |
//! | `deadline` | by when there must be something to answer with |
//! | [`failed`] | blobs whose body was cut lately; pure |
//! | `fault` | what each client is told when it cannot have something, and why |
//! | `link` | the next page of a list; pure |
//! | `line`, `connection` | a connection, which ends by FIN whatever happens |
//! | `gateway`, `door`, `watchdog` | accepting, and closing the port of a node that hangs |
//! | `config`, [`metrics`] | what it can be told, and what it counts |
//!
//! Requests carry credentials at times. No header of a request is logged or passed on.
//!
//! Routing is by hand: the kind of a request stands at the end of a path whose middle is a repository of any length, which
//! axum's router cannot match.

mod answer;
mod blob;
mod body;
mod config;
mod connection;
mod deadline;
mod door;
pub mod failed;
mod fault;
mod gateway;
mod line;
mod link;
pub mod metrics;
mod multipart;
pub mod path;
pub mod range;
mod watchdog;

pub use config::Config;
pub use gateway::Gateway;
pub use metrics::Metrics;

/// Why the gateway cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The listening socket is not usable.
    #[error("the gateway's listening socket cannot be used: {0}")]
    Socket(#[source] std::io::Error),
    /// The operating system gave no thread.
    #[error("cannot start the gateway's watchdog thread: {0}")]
    Watchdog(#[source] std::io::Error),
}
