//! [`Message`] to protobuf. Blocks are not copied: a frame is a list of byte strings, headers and payloads in turn,
//! that are written one after the other.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use shoal_content::Cid;

use super::{
    message::{Block, Entry, Message, Prefix, Presence, Version, WantType},
    varint,
};

/// An encoded message with its length prefix, ready to be written.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    parts: VecDeque<Bytes>,
    left: usize,
}

impl Frame {
    /// Bytes that are still to be written.
    pub fn remaining(&self) -> usize {
        self.left
    }

    /// The next bytes to write; empty when all are written.
    pub fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    /// Notes that `count` bytes of [`Frame::chunk`] have been written.
    pub fn advance(&mut self, count: usize) {
        let Some(part) = self.parts.front_mut() else { return };
        let count = count.min(part.len());
        part.advance(count);
        self.left -= count;
        if part.is_empty() {
            self.parts.pop_front();
        }
    }

    /// All bytes in one string: a copy, for tests.
    pub fn to_vec(&self) -> Vec<u8> {
        self.parts.iter().flatten().copied().collect()
    }
}

impl Message {
    /// Encodes for a peer that speaks `version`, with the length prefix. What the version cannot say (WANT-HAVE and
    /// presences before 1.2.0) is left out; a block in the form of 1.0.0 loses its prefix.
    pub fn encode(&self, version: Version) -> Frame {
        let mut frame = FrameBuilder::new();
        self.put_wantlist(&mut frame.header, version);
        if version.has_presences() {
            for presence in &self.presences {
                put_presence(&mut frame.header, presence);
            }
            if self.pending_bytes != 0 {
                put_varint_field(&mut frame.header, 5, i64::from(self.pending_bytes) as u64);
            }
        }
        for block in &self.blocks {
            put_block_header(&mut frame.header, block, version);
            frame.payload(block.data.clone());
        }
        frame.finish()
    }

    fn put_wantlist(&self, out: &mut BytesMut, version: Version) {
        let entries = || {
            self.wants.iter().filter(|entry| entry.cancel || version.has_presences() || entry.want == WantType::Block)
        };
        let mut len: usize = entries().map(|entry| bytes_field_len(entry_len(entry, version))).sum();
        if self.full {
            len += 2;
        }
        if len == 0 {
            return;
        }
        put_bytes_header(out, 1, len);
        for entry in entries() {
            put_bytes_header(out, 1, entry_len(entry, version));
            put_entry(out, entry, version);
        }
        if self.full {
            put_varint_field(out, 2, 1);
        }
    }
}

fn entry_len(entry: &Entry, version: Version) -> usize {
    let mut len = bytes_field_len(entry.cid.encoded_len());
    if entry.priority != 0 {
        len += 1 + varint::len(i64::from(entry.priority) as u64);
    }
    if entry.cancel {
        len += 2;
    }
    if version.has_presences() {
        len += if entry.want == WantType::Have { 2 } else { 0 } + if entry.send_dont_have { 2 } else { 0 };
    }
    len
}

fn put_entry(out: &mut BytesMut, entry: &Entry, version: Version) {
    put_cid(out, &entry.cid);
    if entry.priority != 0 {
        put_varint_field(out, 2, i64::from(entry.priority) as u64);
    }
    if entry.cancel {
        put_varint_field(out, 3, 1);
    }
    if version.has_presences() {
        if entry.want == WantType::Have {
            put_varint_field(out, 4, 1);
        }
        if entry.send_dont_have {
            put_varint_field(out, 5, 1);
        }
    }
}

fn put_presence(out: &mut BytesMut, presence: &Presence) {
    let len = bytes_field_len(presence.cid.encoded_len()) + if presence.have { 0 } else { 2 };
    put_bytes_header(out, 4, len);
    put_cid(out, &presence.cid);
    if !presence.have {
        put_varint_field(out, 2, 1);
    }
}

fn put_block_header(out: &mut BytesMut, block: &Block, version: Version) {
    let prefix = match block.prefix {
        Some(prefix) if version > Version::V1_0 => prefix,
        None if version > Version::V1_0 => Prefix::V0,
        _ => return put_bytes_header(out, 2, block.data.len()),
    };
    let numbers = [prefix.version, prefix.codec, prefix.hash_code, prefix.hash_len];
    let prefix_len: usize = numbers.iter().map(|&number| varint::len(number)).sum();
    put_bytes_header(out, 3, bytes_field_len(prefix_len) + bytes_field_len(block.data.len()));
    put_bytes_header(out, 1, prefix_len);
    for number in numbers {
        varint::put(out, number);
    }
    put_bytes_header(out, 2, block.data.len());
}

fn put_cid(out: &mut BytesMut, cid: &Cid) {
    put_bytes_header(out, 1, cid.encoded_len());
    // Writing to a buffer that grows cannot fail.
    let _ = cid.write_bytes(out.writer());
}

/// Every field number of bitswap is below 16: its tag is one byte.
fn put_bytes_header(out: &mut BytesMut, field: u8, len: usize) {
    out.put_u8(field << 3 | 2);
    varint::put(out, len as u64);
}

fn put_varint_field(out: &mut BytesMut, field: u8, value: u64) {
    out.put_u8(field << 3);
    varint::put(out, value);
}

fn bytes_field_len(len: usize) -> usize {
    1 + varint::len(len as u64) + len
}

/// Collects headers in one buffer, cut wherever a payload comes between.
struct FrameBuilder {
    header: BytesMut,
    parts: VecDeque<Bytes>,
    /// The first header, kept apart for the length that is written in front of it last.
    first: Option<BytesMut>,
    body: usize,
}

impl FrameBuilder {
    fn new() -> Self {
        let header = BytesMut::zeroed(varint::MAX_LEN);
        Self { header, parts: VecDeque::new(), first: None, body: 0 }
    }

    fn payload(&mut self, data: Bytes) {
        self.cut();
        self.body += data.len();
        if !data.is_empty() {
            self.parts.push_back(data);
        }
    }

    fn cut(&mut self) {
        let header = self.header.split();
        if header.is_empty() {
            return;
        }
        self.body += header.len();
        if self.first.is_none() {
            self.body -= varint::MAX_LEN;
            self.first = Some(header);
        } else {
            self.parts.push_back(header.freeze());
        }
    }

    fn finish(mut self) -> Frame {
        self.cut();
        let mut first = self.first.unwrap_or_else(|| BytesMut::zeroed(varint::MAX_LEN));
        let len = varint::len(self.body as u64);
        let mut prefix = BytesMut::with_capacity(varint::MAX_LEN);
        varint::put(&mut prefix, self.body as u64);
        first.advance(varint::MAX_LEN - len);
        first[..len].copy_from_slice(&prefix);
        self.parts.push_front(first.freeze());
        Frame { parts: self.parts, left: self.body + len }
    }
}
