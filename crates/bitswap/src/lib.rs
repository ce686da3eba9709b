//! Bitswap as a libp2p behaviour with a sans-I/O engine.
//!
//! Bitswap moves blocks, each named by the hash in its CID. A peer sends its *wantlist*; whoever has a wanted block
//! sends it, on a stream of its own. [`Behaviour`] speaks `/ipfs/bitswap/1.2.0` and, with peers that know no better,
//! 1.1.0 and 1.0.0. It decides nothing about *which* peer to ask for *what*: its user does (`want_block`, `cancel`),
//! and gets an [`Event`] for each answer.
//!
//! ```text
//!  user ── want_block, cancel ──►┌──────────────┐              ┌─────────┐
//!       ◄─ Block, Have, Failed ──│  Behaviour   │── Command ──►│ Handler │══ control stream ══► peer
//!                                │ client server│              │  (one a │══ block stream ════►
//!  Blocks ◄─ blocking pool ──────│              │◄── Report ───│  conn.) │◄═ its streams ══════
//!                                └──────────────┘              └─────────┘
//! ```
//!
//! - `client` and `server` are plain state machines: entries and blocks in, messages and jobs out, the time passed in.
//!   The client keeps what we want of whom. The server keeps what peers want of us and chooses what is sent next: the
//!   peer served least, of its wants the highest priority, of equal ones the block that this node has sent least.
//! - `handler` owns the streams of one connection: two of ours, opened when needed (wants and presences never wait
//!   behind a megabyte of block), and those that the peer opens.
//! - Hashing, [`Blocks::size`] and [`Blocks::read`] run on tokio's blocking pool, a bounded number at once.
//!
//! A block is copied by neither end: it is read from the store as `Bytes` and written as header and slice; it is
//! received into the one allocation of its message, of which the user gets a slice.
//!
//! Everything is bounded ([`Config`]) and counted ([`Counters`], [`Ledger`]). Back-pressure runs from the user to the
//! peer: when checked blocks are not taken, the handler stops reading. What a peer makes us keep is freed when it
//! disconnects. A peer that stalls loses its stream after [`Config::progress_timeout`] and holds back nobody else.
//!
//! Never believed: bytes are hashed before [`Event::Block`], and are only ever a block that was asked of that peer.

mod behaviour;
mod blocks;
mod client;
mod config;
mod error;
mod event;
mod handler;
mod jobs;
mod ledger;
#[cfg(test)]
mod seeded;
mod server;
mod verify;
#[doc(hidden)]
pub mod wire;

pub use behaviour::Behaviour;
pub use blocks::Blocks;
pub use config::Config;
pub use error::{Error, Failure};
pub use event::Event;
pub use ledger::{Counters, Ledger};
pub use wire::Version;
