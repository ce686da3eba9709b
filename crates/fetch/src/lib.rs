//! Sessions: the one place that decides where a byte comes from.

pub mod face;

pub use face::{Body, BlobInfo, Error, Manifest, Passed, Pulls, Resolved};
