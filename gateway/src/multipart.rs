//! `multipart/byteranges`: several ranges of a blob in one body (RFC 9110, section 14.6). Pure.

use std::ops::Range;

use bytes::Bytes;
use shoal_content::Digest;

use crate::range::content_range;

/// The frames around the parts of a body: what stands before each part's bytes, and what ends the body.
pub(crate) struct Frames {
    /// For each range, in order, what stands before its bytes.
    pub(crate) heads: Vec<Bytes>,
    /// What follows the last part.
    pub(crate) tail: Bytes,
    /// Length of the whole body in bytes.
    pub(crate) length: u64,
    /// Its media type.
    pub(crate) media_type: String,
}

/// Frames for these ranges of a blob of `size` bytes. `None` when together they are longer than the blob: nobody needs that,
/// and a short request could ask for much.
pub(crate) fn frames(digest: &Digest, ranges: &[Range<u64>], size: u64) -> Option<Frames> {
    let mut bytes: u64 = 0;
    for range in ranges {
        bytes = bytes.checked_add(range.end - range.start)?;
    }
    if bytes > size {
        return None;
    }
    // A blob cannot hold its own digest, so no part can hold the boundary.
    let boundary = &digest.hex()[..digest.hex().len().min(64)];
    let mut length = bytes;
    let mut heads = Vec::with_capacity(ranges.len());
    for (index, range) in ranges.iter().enumerate() {
        let before = if index == 0 { "" } else { "\r\n" };
        let head = format!(
            "{before}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
            content_range(range, size)
        );
        length += head.len() as u64;
        heads.push(Bytes::from(head));
    }
    let tail = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    length += tail.len() as u64;
    Some(Frames { heads, tail, length, media_type: format!("multipart/byteranges; boundary={boundary}") })
}

#[cfg(test)]
mod tests {
    use shoal_content::Algorithm;

    use super::*;

    #[test]
    fn the_length_is_that_of_all_frames_and_parts() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let digest = Digest::of(algorithm, b"x");
            let frames = frames(&digest, &[0..2, 5..9], 100).unwrap();
            let framing: usize = frames.heads.iter().map(Bytes::len).sum::<usize>() + frames.tail.len();
            assert_eq!(frames.length, framing as u64 + 6);
            // RFC 2046 allows a boundary 70 characters.
            assert!(frames.media_type.len() <= "multipart/byteranges; boundary=".len() + 70);
        }
    }

    #[test]
    fn ranges_that_add_up_to_more_than_the_blob_are_refused() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        assert!(frames(&digest, &[0..60, 40..100], 100).is_none());
        assert!(frames(&digest, &[0..u64::MAX, 0..u64::MAX], u64::MAX).is_none());
        assert!(frames(&digest, &[0..60, 60..100], 100).is_some());
    }
}
