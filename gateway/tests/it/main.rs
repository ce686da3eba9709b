//! The gateway over real sockets, with content from memory and faults on order.

mod belonging;
mod blobs;
mod cut;
mod fake;
mod manifests;
mod names;
mod rights;
mod slow;
mod telling;
mod watchdog;
mod wire;
