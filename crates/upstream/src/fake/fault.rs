//! Faults that a [`Fake`](super::Fake) can be told to have.

use std::time::Duration;

use shoal_content::Digest;

/// Something that goes wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    /// On which requests.
    pub on: On,
    /// What happens.
    pub does: Does,
    /// How often; `None` for ever.
    pub times: Option<u32>,
}

/// Requests that a fault acts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum On {
    /// Any but for a token.
    Any,
    /// For blobs.
    Blobs,
    /// For this blob.
    Blob(Digest),
    /// For manifests.
    Manifests,
    /// For tokens.
    Tokens,
    /// HEAD of anything.
    Head,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub enum Does {
    /// This status in place of an answer.
    Status(u16),
    /// This status, with `Retry-After` in seconds.
    RetryAfter(u16, u64),
    /// The headers come this late.
    SlowHeaders(Duration),
    /// The connection closes after so many bytes of a body.
    CutAfter(u64),
    /// No more bytes come after so many of a body, and the connection stays open.
    StallAfter(u64),
    /// One bit of a body's first byte is flipped.
    WrongBytes,
    /// Ranges are ignored: 200 and everything.
    IgnoreRange,
    /// A 206 that starts a byte late, and says so.
    ShiftedRange,
    /// A 206 without `Content-Range`.
    NoContentRange,
    /// So many bytes more than there should be, in a body without length.
    Longer(usize),
    /// No `Content-Length`.
    NoLength,
    /// No `Docker-Content-Digest`.
    NoContentDigest,
    /// This `Docker-Content-Digest`.
    ContentDigest(String),
    /// This `Content-Type`.
    ContentType(String),
    /// This header beside the others.
    Header(String, String),
    /// 307 to this URL with the path of the request behind it.
    Redirect(String),
    /// 307 to exactly this.
    RedirectTo(String),
}

impl Fault {
    /// For ever.
    pub fn always(on: On, does: Does) -> Self {
        Self { on, does, times: None }
    }

    /// The next `times` times.
    pub fn times(times: u32, on: On, does: Does) -> Self {
        Self { on, does, times: Some(times) }
    }
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum For {
    Blob(Digest),
    Manifest,
    Token,
    Other,
}

impl On {
    fn matches(&self, wanted: &For, is_head: bool) -> bool {
        match self {
            Self::Any => *wanted != For::Token,
            Self::Blobs => matches!(wanted, For::Blob(_)),
            Self::Blob(digest) => *wanted == For::Blob(*digest),
            Self::Manifests => *wanted == For::Manifest,
            Self::Tokens => *wanted == For::Token,
            Self::Head => is_head,
        }
    }
}

/// The faults that act on a request; they are used up by it.
pub(super) fn take(faults: &mut Vec<Fault>, wanted: &For, is_head: bool) -> Vec<Does> {
    let mut taken = Vec::new();
    for fault in faults.iter_mut() {
        if fault.on.matches(wanted, is_head) {
            taken.push(fault.does.clone());
            if let Some(times) = &mut fault.times {
                *times -= 1;
            }
        }
    }
    faults.retain(|fault| fault.times != Some(0));
    taken
}
