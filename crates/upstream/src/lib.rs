//! Registries: authentication, manifests, ranged reads.
//!
//! [`Upstream`] asks the registries that images belong to. What goes in is an [`Origin`](shoal_content::Origin) and a
//! tag or digest; what comes out is a verified [`Manifest`], a [`Descriptor`], or a [`BlobStream`] of bytes that nobody
//! has verified yet: who stores them hashes them. What fails is an [`Error`] that names registry, repository, thing and
//! host, and says what to do.
//!
//! A call becomes requests in four layers, each of which knows only the one below it:
//!
//! | layer | modules | what it does |
//! |---|---|---|
//! | face | `upstream`, `blob` | says what is wanted, checks what came; takes up a body that broke |
//! | request | `wire`, `auth` | attempts, proof of right, redirects, what a status means |
//! | dial | `dial`, `site`, `tls` | one HTTP request to one host, with its deadlines |
//! | rules | `guard`, `challenge`, `redirect`, `circuit`, `backoff`, `resume`, `range`, `token`, `manifest`, `passthrough` | pure: decide, and are tested, without a network |
//!
//! **Rules that are never bent.** No address is dialled that the operator has not allowed: public ones always, loopback
//! and private ones where `allow_private` is set for the registry, metadata and link-local ones never; a name is judged
//! by the addresses that are really dialled. Credentials go to the registry's own scheme, host and port and to a token
//! endpoint of its domain. Redirects are followed by hand, five at most, without `Authorization` elsewhere, and not
//! from HTTPS to HTTP. The `urls` of foreign layers are not read. Secrets are [`Redacted`]; URLs of object stores,
//! which are signed, appear in no error.
//!
//! **Waiting.** Every connection, answer and body piece has a deadline. Attempts are bounded in number and time,
//! `Retry-After` is honoured up to a limit, and a host that gave no answer is not asked again for a second or more, so
//! that who comes next hears "no" at once and can go on without it.
//!
//! HTTP/1.1 only: with HTTP/2 all leaves that a node reads at once would share one window and one lost packet.
//!
//! With the feature `fake`, the module `fake` is a registry with faults to order, for the tests of whoever stands on
//! this crate.

mod auth;
mod backoff;
mod blob;
mod challenge;
mod circuit;
mod config;
mod counters;
mod credentials;
mod dial;
mod error;
#[cfg(feature = "fake")]
pub mod fake;
mod guard;
mod manifest;
mod passthrough;
mod range;
mod redirect;
mod resume;
mod retry_after;
mod secret;
mod site;
mod tls;
mod token;
mod upstream;
mod wire;

pub use backoff::Backoff;
pub use blob::BlobStream;
pub use config::{Config, RegistryConfig, Retry, Timeouts};
pub use counters::{Counters, Snapshot};
pub use error::{Asked, Error, Item};
pub use manifest::{Descriptor, MAX_MANIFEST, Manifest};
pub use passthrough::{MAX_PASSED, Passed};
pub use secret::{Credential, CredentialKey, Redacted};
pub use upstream::Upstream;
