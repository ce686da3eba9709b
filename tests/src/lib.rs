//! Whole-program tests: real containerds, a real registry and the `shoal` program, on hosts made of network namespaces.
//!
//! A [`Testbed`] is one network: a switch, and hosts on it with an address each. On a host run a [`Registry`] (Debian's
//! docker-registry), a [`Containerd`] or a [`Shoal`]. All of it ends, and is removed, when the testbed is dropped; what a
//! killed run left behind is removed by the next one. Only one testbed exists on a machine at a time: the others wait.
//!
//! The tests need root and Debian's packages, so they are marked `#[ignore]` and `cargo xtask test` runs them where it can.
//!
//! | module | what it is |
//! |---|---|
//! | [`testbed`] | the network, its hosts, their links and counters |
//! | [`process`] | programs on a host, and their logs |
//! | [`image`] | a real image of more than 200 MiB, made of this machine's own files |
//! | [`registry`] | docker-registry and what it counted |
//! | [`containerd`], [`cri`] | containerd, by `ctr` and by what kubelet calls |
//! | [`shoal`] | the program under test |
//! | [`node`] | both on one host, the one installed in front of the other |
//! | [`http`] | what a runtime sees of the gateway |
//! | [`blobs`] | an upstream of many blobs, with a switch |
//! | [`conformance`] | the official suite of what a registry must do |
//! | [`tree`] | the files of an image, compared |
//! | [`ipfs`] | Kubo and Helia |
//! | [`wait`] | waiting for an event, with a deadline |
//! | [`bench`] | how near a swarm comes to what its links allow, beside what else does this job |
//! | [`bitswap`] | what blocks between nodes cost, beside a bare stream |

pub mod bench;
pub mod bitswap;
pub mod blobs;
pub mod conformance;
pub mod containerd;
pub mod cri;
pub mod http;
pub mod image;
pub mod ipfs;
pub mod node;
pub mod process;
pub mod registry;
pub mod shoal;
pub mod testbed;
pub mod tree;
pub mod wait;

pub use crate::{
    containerd::Containerd,
    image::RealImage,
    node::Node,
    process::{Daemon, run},
    registry::Registry,
    shoal::{Setup, Shoal},
    testbed::{Host, Testbed},
    wait::wait_for,
};
