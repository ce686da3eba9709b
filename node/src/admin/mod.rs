//! The admin API: how the other commands ask the running node. HTTP/1.1 with JSON over a unix socket of mode 0600,
//! so who may use it is decided by the file system.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`types::Status`] |
//! | `GET /v1/peers` | [`types::Peer`]s |
//! | `GET /v1/blobs` | [`types::HeldBlob`]s |
//! | `GET /v1/blobs/<digest or CID>?from=<registry/repository>` | the bytes |
//! | `GET /v1/find?what=<digest or image>` | [`types::Found`] for each blob |
//! | `GET /v1/traces` | [`shoal_fetch::Trace`]s: how each blob came to this node, newest first |
//! | `POST /v1/pull` with [`types::PullRequest`] | a line of JSON for each [`types::PullEvent`] |
//!
//! Errors are `{"error": "…"}` with a fitting status.

pub mod client;
pub(crate) mod find;
pub(crate) mod pull;
pub mod server;
pub mod types;

pub use client::{Client, ClientError};
