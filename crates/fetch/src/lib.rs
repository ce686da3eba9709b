//! Sessions: store, swarm and upstream brought together; the one place that decides where a byte comes from.
//!
//! [`Fetch`] carries out the face [`Pulls`], which is all that the gateway and the command line know:
//!
//! - a **tag** is resolved upstream, once for all who ask at the same moment; where upstream cannot be asked, the last known digest is
//!   served and says so (`tags`);
//! - a **manifest** comes from the store, else from a peer within the budget, else from upstream (`manifests`);
//! - a **blob** that is not in the store comes through a session, which all its readers share (`session`). Who reads which leaf from whom
//!   is decided by the blob's coordinator, one of the nodes (`coordinators`); its leaves are at once there for other nodes (`live`);
//! - a blob for which there is no room goes through without being stored (`through`).
//!
//! [`Fetch::file`] reads what other IPFS peers provide: any UnixFS file by its CID (`dag`).
//!
//! Every byte that a reader gets was checked before: leaves from peers against their CIDs, and the whole against its digest before the
//! leaf that completes it is given out. Peers that lied are avoided (`reputation`), and where all are silent nobody is waited for
//! (`roll_call`).

mod belonging;
mod bounded;
mod config;
mod coordinators;
mod dag;
mod descriptors;
mod face;
mod fetch;
mod flights;
mod heard;
mod live;
mod manifests;
mod ranges;
mod reading;
mod recall;
mod reputation;
mod rights;
mod roll_call;
mod search;
mod session;
mod shown;
mod sizes;
mod small;
mod tags;
mod through;
mod trace;
mod words;

pub use config::{Config, Rights, Serve};
pub use descriptors::{Descriptor, Parsed, Platform};
pub use face::{Admission, BlobInfo, Body, Error, Manifest, Passed, Pulls, Resolved};
pub use fetch::Fetch;
pub use shoal_coordination::Limits;
pub use shoal_upstream::{Credential, Item};
pub use shown::{Shown, announce, tag_key};
pub use trace::{Counted, Counters, Trace};

/// What upstream's refusal means for whoever asked for `what`.
fn upstream_error(what: String, error: &shoal_upstream::Error) -> Error {
    use shoal_upstream::Error as Upstream;
    let reason = error.to_string();
    match error {
        Upstream::NotServed(registry) => Error::NotServed(registry.clone()),
        Upstream::NotFound { .. } => Error::NotFound { what, reason },
        Upstream::Denied { .. } => Error::Denied { what, reason },
        Upstream::Invalid { .. } => Error::Corrupt { what, reason },
        Upstream::OutOfRange { offset, size, .. } => Error::OutOfRange { start: *offset, size: *size },
        Upstream::Config(_)
        | Upstream::RateLimited { .. }
        | Upstream::Unreachable { .. }
        | Upstream::Refused { .. } => Error::Unavailable { what, reason },
    }
}
