//! Slow links: what is coming is waited for.

#[path = "common/mod.rs"]
mod common;

use common::Bed;
use futures::StreamExt;
use shoal_content::LEAF_SIZE;
use shoal_fetch::Pulls;
use shoal_upstream::fake::Fake;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_hears_that_a_leaf_is_coming_before_it_is_there() {
    let registry = Fake::start().await;
    let bytes: Vec<u8> = (0..LEAF_SIZE + 5).map(|at| (at % 251) as u8).collect();
    let digest = registry.put_blob("library/app", bytes.clone());
    let node = Bed::new().node(&registry).await;
    // The first leaf takes more than three seconds.
    registry.set_rate(Some(LEAF_SIZE / 3));
    let mut body = node.fetch.blob(&registry.origin("library/app"), &digest, None).await.unwrap();
    let (mut signs, mut read) = (0, Vec::new());
    while let Some(piece) = body.stream.next().await {
        let piece = piece.unwrap();
        signs += u32::from(piece.is_empty() && read.is_empty());
        read.extend_from_slice(&piece);
    }
    assert!(read == bytes);
    assert!(signs >= 1, "nothing was heard for three seconds");
}
