//! Who reads which leaf of a blob from whom, while many nodes want it at once. Pure: events and times in, decisions out.
//!
//! For each blob one live peer, the nearest to its digest, is the [`Coordinator`]; every node that wants the blob is a [`Member`]. A member
//! keeps one request open at the coordinator: what has landed here, what failed, how many leaves it can take. The coordinator answers when it
//! has leaves to hand out, each as a [`Grant`]: this leaf, from that source. Sources are upstream, peers with the whole blob, and members
//! that have the leaf already. As the coordinator alone hands out, it knows what is under way and which source has a free slot: what a
//! simulation of swarms showed to be worth most.
//!
//! - A leaf leaves a scarce source, upstream or a holder, once, and is passed on by who took it: of what a member lacks, it is given what the
//!   fewest have or are about to have.
//! - A source has [`Limits::uploads`] leaves under way at most, so that whole leaves land early and can be passed on.
//! - A member that is alone reads upstream in one plain stream; when another comes, the stream is cut short and the rest divided.
//! - Whose link is far slower than the others' reads nothing from upstream that a quicker member wants, and is taken from last: it slows nobody
//!   but itself. Its leaves come in the order that its reader wants them in.
//! - What does not land in time is handed out anew, to somebody else or from somebody else.
//!
//! All that a coordinator knows is soft: its members told it. When it dies they tell the next nearest. Nothing that is said here is believed
//! beyond that: leaves are checked against hashes, and the whole against its digest, by who fetches them.

mod bits;
mod clock;
mod coordinator;
mod limits;
mod member;
mod message;
mod pace;

#[cfg(any(test, feature = "simulation"))]
pub mod simulation;
mod window;
mod wire;

pub use coordinator::Coordinator;
pub use limits::Limits;
pub use member::{Action, Member};
pub use message::{Ask, Failure, Full, Grant, Ranges, Reply, Source};
pub use wire::{MAX_MESSAGE, WireError};
