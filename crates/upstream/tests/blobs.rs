//! Bodies: ranges, breaks, stalls, and registries that do not keep to what they say.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use shoal_content::{Algorithm, Digest};
use shoal_upstream::{
    BlobStream, Error, Upstream,
    fake::{Does, Fake, Fault, On},
};

const SIZE: usize = 1_000_000;

fn content() -> Bytes {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(SIZE).collect()
}

async fn blob() -> (Fake, Upstream, Digest) {
    let fake = Fake::start().await;
    let digest = fake.put_blob("a", content());
    let upstream = Upstream::new(&fake.config()).unwrap();
    (fake, upstream, digest)
}

async fn read(mut stream: BlobStream) -> Result<Bytes, Error> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes.freeze())
}

#[tokio::test]
async fn a_blob_comes_whole_by_one_request_without_a_range() {
    let (fake, upstream, digest) = blob().await;
    let stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    assert_eq!((stream.size(), stream.offset(), stream.end()), (Some(SIZE as u64), 0, Some(SIZE as u64)));
    assert!(stream.ranged());
    assert_eq!(read(stream).await.unwrap(), content());
    let [seen] = &fake.requests()[..] else { panic!("more than one request") };
    assert_eq!(seen.range, None);
    assert_eq!(upstream.counters().snapshot().bytes, SIZE as u64);
}

#[tokio::test]
async fn a_blob_comes_from_an_offset_and_by_range() {
    let (fake, upstream, digest) = blob().await;
    let origin = fake.origin("a");
    let stream = upstream.blob(&origin, &digest, 600_000).await.unwrap();
    assert_eq!((stream.size(), stream.offset()), (Some(SIZE as u64), 600_000));
    assert_eq!(read(stream).await.unwrap(), content().slice(600_000..));

    let stream = upstream.blob_range(&origin, &digest, 1000..2000).await.unwrap();
    assert_eq!((stream.size(), stream.offset(), stream.end()), (Some(SIZE as u64), 1000, Some(2000)));
    assert_eq!(read(stream).await.unwrap(), content().slice(1000..2000));

    let beyond = upstream.blob_range(&origin, &digest, 999_000..2_000_000).await.unwrap();
    assert_eq!(beyond.end(), Some(SIZE as u64));
    assert_eq!(read(beyond).await.unwrap(), content().slice(999_000..));
    assert_eq!(fake.sent(&digest), 400_000 + 1000 + 1000);
}

#[tokio::test]
async fn the_end_of_a_blob_is_an_empty_stream_and_beyond_it_there_is_none() {
    let (fake, upstream, digest) = blob().await;
    let origin = fake.origin("a");
    let end = upstream.blob(&origin, &digest, SIZE as u64).await.unwrap();
    assert_eq!(end.size(), Some(SIZE as u64));
    assert!(read(end).await.unwrap().is_empty());
    let beyond = upstream.blob(&origin, &digest, SIZE as u64 + 1).await.unwrap_err();
    assert!(matches!(beyond, Error::OutOfRange { size, .. } if size == SIZE as u64), "{beyond}");
    assert!(matches!(upstream.blob_range(&origin, &digest, 5..5).await, Err(Error::OutOfRange { .. })));
}

#[tokio::test]
async fn an_empty_blob_has_a_size_and_no_bytes() {
    let fake = Fake::start().await;
    let digest = fake.put_blob("a", Bytes::new());
    let upstream = Upstream::new(&fake.config()).unwrap();
    assert_eq!(upstream.blob_size(&fake.origin("a"), &digest).await.unwrap(), 0);
    let stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    assert!(read(stream).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_size_is_found_by_head_or_else_by_one_byte() {
    let (fake, upstream, digest) = blob().await;
    let origin = fake.origin("a");
    assert_eq!(upstream.blob_size(&origin, &digest).await.unwrap(), SIZE as u64);
    assert_eq!(fake.requests().last().unwrap().method, "HEAD");
    for does in [Does::Status(405), Does::Status(403), Does::NoLength] {
        fake.heal();
        fake.fault(Fault::always(On::Head, does));
        assert_eq!(upstream.blob_size(&origin, &digest).await.unwrap(), SIZE as u64);
        let last = fake.requests().pop().unwrap();
        assert_eq!((last.method.as_str(), last.range.as_deref()), ("GET", Some("bytes=0-0")));
    }
}

#[tokio::test]
async fn a_body_that_is_cut_goes_on_at_the_exact_byte() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::times(1, On::Blobs, Does::CutAfter(123_456)));
    let stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    assert_eq!(read(stream).await.unwrap(), content());
    assert_eq!(fake.requests()[1].range.as_deref(), Some("bytes=123456-999999"));
    assert_eq!(fake.sent(&digest), SIZE as u64, "no byte was asked for twice");
    assert_eq!(upstream.counters().snapshot().resumed, 1);
}

#[tokio::test]
async fn a_body_may_be_cut_any_number_of_times_while_it_gets_on() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::always(On::Blobs, Does::CutAfter(100_000)));
    let stream = upstream.blob_range(&fake.origin("a"), &digest, 5..SIZE as u64 - 5).await.unwrap();
    assert_eq!(read(stream).await.unwrap(), content().slice(5..SIZE - 5));
    assert_eq!(fake.requests().len(), 10);
}

#[tokio::test]
async fn a_body_that_does_not_get_on_is_given_up() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::always(On::Blobs, Does::CutAfter(10)));
    let stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    let error = read(stream).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("broke off"), "{error}");
    assert_eq!(fake.requests().len(), 4);
}

#[tokio::test]
async fn a_body_that_stalls_goes_on_over_another_connection() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::times(1, On::Blobs, Does::StallAfter(500_000)));
    let stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    assert_eq!(read(stream).await.unwrap(), content());
    assert_eq!(fake.requests()[1].range.as_deref(), Some("bytes=500000-999999"));
}

#[tokio::test]
async fn where_ranges_are_ignored_the_stream_says_so_and_still_heals() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::always(On::Blobs, Does::IgnoreRange));
    fake.fault(Fault::times(1, On::Blobs, Does::CutAfter(300_000)));
    let stream = upstream.blob(&fake.origin("a"), &digest, 1000).await.unwrap();
    assert_eq!((stream.offset(), stream.ranged()), (0, false));
    assert_eq!(read(stream).await.unwrap(), content());
    let counts = upstream.counters().snapshot();
    assert_eq!((counts.discarded, counts.resumed), (300_000, 1));
}

#[tokio::test]
async fn a_registry_that_breaks_and_then_fails_for_a_while_is_waited_for() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::times(1, On::Blobs, Does::CutAfter(300_000)));
    let mut stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    let first = stream.next().await.unwrap().unwrap();
    fake.fault(Fault::times(1, On::Blobs, Does::Status(503)));
    fake.fault(Fault::times(1, On::Blobs, Does::RetryAfter(429, 0)));
    let rest = read(stream).await.unwrap();
    assert_eq!([first, rest].concat(), content());
}

#[tokio::test]
async fn a_registry_that_is_stopped_and_started_in_the_middle_is_found_again() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::times(1, On::Blobs, Does::StallAfter(300_000)));
    let mut stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    let mut bytes = BytesMut::new();
    while bytes.len() < 300_000 {
        bytes.extend_from_slice(&stream.next().await.unwrap().unwrap());
    }
    fake.stop().await;
    fake.restart().await;
    bytes.extend_from_slice(&read(stream).await.unwrap());
    assert_eq!(bytes, content());
}

#[tokio::test]
async fn an_answer_that_is_not_the_range_that_was_asked_for_is_refused() {
    for (does, word) in [
        (Does::ShiftedRange, "asked for byte 1000 on and sent byte 1001"),
        (Does::NoContentRange, "no Content-Range"),
        (Does::Header("content-range".into(), "bytes 1000-1999/*junk".into()), "no Content-Range"),
        (Does::Header("content-range".into(), "bytes 1000-5000/1000000".into()), "longer than"),
        (Does::Header("content-encoding".into(), "gzip".into()), "compressed"),
    ] {
        let (fake, upstream, digest) = blob().await;
        fake.fault(Fault::always(On::Blobs, does.clone()));
        let error = upstream.blob_range(&fake.origin("a"), &digest, 1000..2000).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{does:?}: {error}");
        assert!(error.to_string().contains(word), "{does:?}: {error}");
    }
}

#[tokio::test]
async fn a_body_longer_than_announced_ends_in_an_error_and_not_in_more_bytes() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::always(On::Blobs, Does::Longer(1)));
    let mut stream = upstream.blob_range(&fake.origin("a"), &digest, 1000..2000).await.unwrap();
    let mut count = 0;
    let error = loop {
        match stream.next().await.expect("an error comes before the end") {
            Ok(piece) => count += piece.len(),
            Err(error) => break error,
        }
    };
    assert!(count <= 1000, "{count}");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_size_that_changes_in_the_middle_is_an_error() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::times(1, On::Blobs, Does::CutAfter(300_000)));
    let mut stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    stream.next().await.unwrap().unwrap();
    let lie = "bytes 300000-999999/1000001".to_owned();
    fake.fault(Fault::always(On::Blobs, Does::Header("content-range".into(), lie)));
    let error = read(stream).await.unwrap_err();
    assert!(error.to_string().contains("1000000 bytes and then as 1000001"), "{error}");
}

#[tokio::test]
async fn a_blob_without_length_comes_too() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::always(On::Blobs, Does::NoLength));
    let stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    assert_eq!((stream.size(), stream.end()), (None, None));
    assert_eq!(Digest::of(Algorithm::Sha256, &read(stream).await.unwrap()), digest);
}

#[tokio::test]
async fn a_stream_that_is_dropped_asks_for_nothing_more() {
    let (fake, upstream, digest) = blob().await;
    fake.fault(Fault::always(On::Blobs, Does::StallAfter(100_000)));
    let mut stream = upstream.blob(&fake.origin("a"), &digest, 0).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    fake.heal();
    upstream.blob_size(&fake.origin("a"), &digest).await.unwrap();
    assert_eq!(fake.requests().len(), 2);
}

#[tokio::test]
async fn leaves_read_one_after_another_share_a_connection() {
    let (fake, upstream, digest) = blob().await;
    for start in (0..500_000).step_by(50_000) {
        let stream = upstream.blob_range(&fake.origin("a"), &digest, start..start + 50_000).await.unwrap();
        read(stream).await.unwrap();
    }
    for start in (500_000..SIZE as u64).step_by(50_000) {
        let mut stream = upstream.blob_range(&fake.origin("a"), &digest, start..start + 50_000).await.unwrap();
        let mut count = 0;
        // Dropped with the last byte, before it has said that it ends.
        while count < 50_000 {
            count += stream.next().await.unwrap().unwrap().len();
        }
    }
    assert_eq!(fake.requests().len(), 20);
    assert_eq!(fake.connections(), 1);
}
