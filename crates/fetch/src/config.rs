//! What an operator may change about sessions.

use std::time::Duration;

use shoal_coordination::Limits;

/// When bytes that only peers vouch for may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Serve {
    /// As their leaves land: a lie costs a runtime one failed attempt.
    #[default]
    Stream,
    /// When the whole digest has matched.
    Verified,
}

/// To whom images are given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Rights {
    /// To whoever may read them upstream: without credentials, or with those that the request brings. Where upstream cannot be asked, what it
    /// said before holds; a repository of which it has never said anything is open, and so is what is not known to belong to another one.
    #[default]
    Caller,
    /// The same, but while upstream cannot be asked a repository of which it has never said anything is closed, and so is what it has never
    /// said to belong there.
    Strict,
    /// To whoever reaches this node: what the node may read and what it holds, all may, under whatever repository they ask for it.
    Node,
}

/// Configuration of [`crate::Fetch`].
#[derive(Clone, Debug)]
pub struct Config {
    /// When bytes that only peers vouch for may leave.
    pub serve: Serve,
    /// To whom images are given.
    pub rights: Rights,
    /// How long a right that upstream has granted is relied on.
    pub right_ttl: Duration,
    /// How long it is relied on that something belongs to a repository.
    pub belongs_ttl: Duration,
    /// Slots and time limits of coordination.
    pub limits: Limits,
    /// How long a tag's digest is believed without asking upstream again.
    pub tag_ttl: Duration,
    /// How long upstream may take to resolve a tag before the last known digest is served.
    pub resolve_timeout: Duration,
    /// How long a peer may take to give a manifest.
    pub manifest_timeout: Duration,
    /// Sessions at once; further blobs wait for a place.
    pub max_sessions: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            serve: Serve::Stream,
            rights: Rights::default(),
            // A withdrawn secret opens nothing for longer than this.
            right_ttl: Duration::from_secs(300),
            // Longer than a pull lasts; what is deleted upstream is given out for no longer than this.
            belongs_ttl: Duration::from_secs(3600),
            limits: Limits::default(),
            // Long enough for one pull's HEAD and GET, short enough that a moved tag is seen by the next one.
            tag_ttl: Duration::from_secs(5),
            resolve_timeout: Duration::from_secs(5),
            manifest_timeout: Duration::from_millis(500),
            max_sessions: 256,
        }
    }
}
