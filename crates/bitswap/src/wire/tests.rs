use bytes::Bytes;
use proptest::{collection::vec, prelude::*};
use shoal_content::{Algorithm, Cid, Digest};

use super::*;
use crate::Error;

const RAW: u64 = 0x55;

fn cid(content: &[u8]) -> Cid {
    Cid::new_v1(RAW, Digest::of(Algorithm::Sha256, content).multihash())
}

fn body(frame: &Frame) -> Vec<u8> {
    let bytes = frame.to_vec();
    let (len, taken) = varint::read(&bytes).unwrap().unwrap();
    assert_eq!(len as usize, bytes.len() - taken);
    assert_eq!(frame.remaining(), bytes.len());
    bytes[taken..].to_vec()
}

fn entries() -> impl Strategy<Value = Entry> {
    (any::<u64>(), any::<i32>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(seed, priority, cancel, have, send_dont_have)| Entry {
            cid: cid(&seed.to_le_bytes()),
            priority,
            cancel,
            want: if have { WantType::Have } else { WantType::Block },
            send_dont_have,
        },
    )
}

fn messages() -> impl Strategy<Value = Message> {
    let blocks = vec(vec(any::<u8>(), 0..300), 0..5).prop_map(|blocks| {
        let block = |data: Vec<u8>| Block { prefix: Some(Prefix::of(&cid(&data))), data: data.into() };
        blocks.into_iter().map(block).collect::<Vec<_>>()
    });
    let presences = vec((any::<u64>(), any::<bool>()), 0..5).prop_map(|presences| {
        let presence = |(seed, have): (u64, bool)| Presence { cid: cid(&seed.to_le_bytes()), have };
        presences.into_iter().map(presence).collect::<Vec<_>>()
    });
    (vec(entries(), 0..20), any::<bool>(), blocks, presences, any::<i32>()).prop_map(
        |(wants, full, blocks, presences, pending_bytes)| Message {
            wants,
            full,
            blocks,
            presences,
            pending_bytes,
            ignored: 0,
        },
    )
}

proptest! {
    #[test]
    fn a_message_reads_back_as_it_was_written(message in messages()) {
        let read = Message::decode(&body(&message.encode(Version::V1_2))).unwrap();
        prop_assert_eq!(read, message);
    }

    #[test]
    fn an_old_version_gets_what_it_understands(message in messages()) {
        for version in [Version::V1_0, Version::V1_1] {
            let read = Message::decode(&body(&message.encode(version))).unwrap();
            prop_assert!(read.presences.is_empty());
            let wants = message.wants.iter().filter(|entry| entry.cancel || entry.want == WantType::Block).count();
            prop_assert_eq!(read.wants.len(), wants);
            prop_assert!(read.wants.iter().all(|entry| entry.want == WantType::Block && !entry.send_dont_have));
            prop_assert_eq!(read.blocks.len(), message.blocks.len());
            for (read, written) in read.blocks.iter().zip(&message.blocks) {
                prop_assert_eq!(&read.data, &written.data);
                prop_assert_eq!(read.prefix.is_some(), version == Version::V1_1);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..2000)) {
        prop_assert!(super::block_at(&bytes) <= bytes.len());
        if let Ok(message) = Message::decode(&bytes) {
            let again = Message::decode(&body(&message.encode(Version::V1_2))).unwrap();
            prop_assert_eq!(again.blocks.len(), message.blocks.len());
            prop_assert_eq!(again.presences, message.presences);
        }
    }

    #[test]
    fn a_damaged_message_never_panics(message in messages(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = body(&message.encode(Version::V1_2));
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Message::decode(&bytes);
            let _ = Message::decode(&bytes[..at]);
            prop_assert!(super::block_at(&bytes[..at]) <= at);
        }
    }

    #[test]
    fn a_frame_may_be_written_in_pieces_of_any_size(message in messages(), step in 1_usize..50) {
        let mut frame = message.encode(Version::V1_2);
        let whole = frame.to_vec();
        let mut written = Vec::new();
        while frame.remaining() > 0 {
            let count = step.min(frame.chunk().len());
            written.extend_from_slice(&frame.chunk()[..count]);
            frame.advance(count);
        }
        prop_assert_eq!(written, whole);
        prop_assert!(frame.chunk().is_empty());
    }
}

#[test]
fn the_bytes_are_those_of_the_schema() {
    let message = Message {
        wants: vec![Entry {
            cid: cid(b"hello world"),
            priority: 1,
            cancel: false,
            want: WantType::Have,
            send_dont_have: true,
        }],
        full: true,
        ..Message::default()
    };
    let cid = cid(b"hello world").to_bytes();
    let mut expected = vec![50, 0x0a, 48, 0x0a, 44, 0x0a, 36];
    expected.extend_from_slice(&cid);
    expected.extend_from_slice(&[0x10, 1, 0x20, 1, 0x28, 1, 0x10, 1]);
    assert_eq!(message.encode(Version::V1_2).to_vec(), expected);
}

#[test]
fn a_block_is_a_slice_of_its_frame_and_the_frame_a_slice_of_the_block() {
    let data = Bytes::from(vec![7; 1 << 20]);
    let message = Message {
        blocks: vec![Block { prefix: Some(Prefix::of(&cid(&data))), data: data.clone() }],
        ..Message::default()
    };
    let mut frame = message.encode(Version::V1_2);
    let header = frame.chunk().len();
    frame.advance(header);
    assert_eq!(frame.chunk().as_ptr(), data.as_ptr());

    let bytes = Bytes::from(body(&message.encode(Version::V1_2)));
    let read = Message::decode_shared(&bytes).unwrap();
    assert!(bytes.as_ptr_range().contains(&read.blocks[0].data.as_ptr()));
}

#[test]
fn where_a_block_begins_is_seen_from_the_first_bytes_of_its_frame() {
    let content = Bytes::from(vec![5; 3000]);
    let of = |prefix| Message { blocks: vec![Block { prefix, data: content.clone() }], ..Message::default() };
    let prefix = Prefix { version: 1, codec: 0x55, hash_code: 0x12, hash_len: 32 };
    for version in [Version::V1_2, Version::V1_0] {
        let bytes = body(&of(Some(prefix)).encode(version));
        let at = super::block_at(&bytes[..64]);
        assert_eq!(bytes[at..at + 3000], content[..], "{version:?}");
        assert!(bytes[..at].iter().all(|byte| *byte != 5), "{version:?}");
    }
    // After a wantlist, presences or a number; and where it cannot be seen.
    let wants = [0x0a, 2, 0x10, 1, 0x28, 9, 0x1a, 200, 1, 0x0a, 1, 7, 0x12, 190, 1, 1, 1];
    assert_eq!(super::block_at(&wants), wants.len() - 2);
    for short in [&wants[..5], &[0x0a, 200, 1], &[], &[0xff; 20], &[0x0d, 0, 0, 0, 0, 0x12, 1]] {
        assert_eq!(super::block_at(short), 0, "{short:?}");
    }
}

#[test]
fn lengths_beyond_the_frame_are_refused_without_allocating() {
    for len in [5, 1 << 31, 1 << 63, u64::MAX] {
        let mut bytes = bytes::BytesMut::from(&[0x0a][..]);
        varint::put(&mut bytes, len);
        bytes.extend_from_slice(&[0; 4]);
        assert!(matches!(Message::decode(&bytes), Err(Error::Truncated)), "{len}");
    }
}

#[test]
fn groups_and_unknown_wire_types_are_refused_and_unknown_fields_skipped() {
    assert!(matches!(Message::decode(&[0x0b]), Err(Error::WireType(3))));
    assert!(matches!(Message::decode(&[0x0f]), Err(Error::WireType(7))));
    let unknown = [0x7a, 2, 1, 2, 0x78, 5, 0x79, 0, 0, 0, 0, 0, 0, 0, 0, 0x7d, 0, 0, 0, 0];
    assert_eq!(Message::decode(&unknown).unwrap(), Message::default());
}

#[test]
fn deep_garbage_costs_no_stack() {
    let mut bytes = Vec::new();
    for _ in 0..100_000 {
        let mut outer = bytes::BytesMut::from(&[0x0a][..]);
        varint::put(&mut outer, bytes.len() as u64);
        bytes.splice(0..0, outer);
        if bytes.len() > 20_000 {
            break;
        }
    }
    let message = Message::decode(&bytes);
    assert!(message.is_ok_and(|message| message.wants.is_empty()));
}

#[test]
fn cids_out_of_bounds_are_left_out_and_counted() {
    let short = Cid::new_v1(RAW, Digest::of(Algorithm::Sha256, b"x").multihash().truncate(19));
    let identity = [0x01, 0x55, 0x00, 0x14].into_iter().chain([1; 20]).collect::<Vec<u8>>();
    let long = [0x01, 0x55, 0x12, 0xa6, 0x01].into_iter().chain([1; 166]).collect::<Vec<u8>>();
    for bad in [short.to_bytes(), identity, long, vec![], vec![0xff; 40]] {
        let entry_len = bad.len() + 1 + varint::len(bad.len() as u64);
        let mut bytes = bytes::BytesMut::from(&[0x0a][..]);
        varint::put(&mut bytes, (entry_len + 1 + varint::len(entry_len as u64)) as u64);
        bytes.extend_from_slice(&[0x0a]);
        varint::put(&mut bytes, entry_len as u64);
        bytes.extend_from_slice(&[0x0a]);
        varint::put(&mut bytes, bad.len() as u64);
        bytes.extend_from_slice(&bad);
        let message = Message::decode(&bytes).unwrap();
        assert_eq!((message.wants.len(), message.ignored), (0, 1), "{bad:?}");
    }
}

#[test]
fn a_frame_of_empty_entries_fills_no_memory() {
    let mut bytes = bytes::BytesMut::from(&[0x0a][..]);
    varint::put(&mut bytes, 4 << 20);
    for _ in 0..2 << 20 {
        bytes.extend_from_slice(&[0x0a, 0]);
    }
    let message = Message::decode(&bytes).unwrap();
    assert_eq!((message.wants.len(), message.ignored), (0, 2 << 20));

    let blocks: Vec<u8> = std::iter::repeat_n([0x12, 0], 100_000).flatten().collect();
    let message = Message::decode(&blocks).unwrap();
    assert_eq!((message.blocks.len(), message.ignored), (MAX_ENTRIES, 100_000 - MAX_ENTRIES));
}

#[test]
fn a_block_over_two_mebibytes_is_left_out() {
    let data = Bytes::from(vec![0; MAX_BLOCK_LEN + 1]);
    let message = Message { blocks: vec![Block { prefix: Some(Prefix::V0), data }], ..Message::default() };
    let read = Message::decode(&body(&message.encode(Version::V1_2))).unwrap();
    assert_eq!((read.blocks.len(), read.ignored), (0, 1));
}
