//! Protobuf to [`Message`], without trust: lengths are checked against the bytes that are there before anything is
//! made of them, nesting is as deep as the schema and no deeper, and what one frame may fill is counted.

use bytes::Bytes;
use shoal_content::Cid;

use super::{
    MAX_BLOCK_LEN, MAX_CID_LEN, MAX_ENTRIES, MAX_HASH_LEN, MIN_HASH_LEN,
    message::{Block, Entry, Message, Prefix, Presence, WantType},
    varint,
};
use crate::Error;

/// Multicodec of the identity hash: such a CID holds its content and is never asked for.
const IDENTITY: u64 = 0x00;

impl Message {
    /// Decodes a frame without its length prefix, copying it first. The engine uses [`Message::decode_shared`].
    pub fn decode(frame: &[u8]) -> Result<Message, Error> {
        Self::decode_shared(&Bytes::copy_from_slice(frame))
    }

    /// Decodes a frame without its length prefix. The blocks are slices of `frame`.
    ///
    /// Entries that break a limit (CIDs longer than 168 bytes, digests outside 20 to 128 bytes, identity CIDs, blocks
    /// over 2 MiB, more than [`MAX_ENTRIES`] of a kind) are left out and counted in [`Message::ignored`], as other
    /// implementations do; a frame that is not protobuf is an error.
    pub fn decode_shared(frame: &Bytes) -> Result<Message, Error> {
        let mut message = Message::default();
        let mut fields = Fields(frame);
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(wantlist)) => decode_wantlist(wantlist, &mut message)?,
                (2, Value::Bytes(data)) => push_block(&mut message, None, frame.slice_ref(data)),
                (3, Value::Bytes(payload)) => decode_payload(frame, payload, &mut message)?,
                (4, Value::Bytes(presence)) => decode_presence(presence, &mut message)?,
                (5, Value::Varint(pending)) => message.pending_bytes = pending as i32,
                _ => {}
            }
        }
        Ok(message)
    }
}

/// Where in a frame that begins with `head` the bytes of its first block begin; 0 when that cannot be seen.
pub(crate) fn block_at(head: &[u8]) -> usize {
    let mut rest = Fields(head);
    let is_within = |rest: &mut Fields<'_>| -> Option<bool> {
        let tag = rest.varint().ok()?;
        let len = rest.varint().ok()?;
        match tag {
            // `payload` is gone into: its `data` is what is looked for. A `block` is one itself.
            0x1a => Some(false),
            0x12 => Some(true),
            // What else has a length: `wantlist`, `blockPresences`, a payload's `prefix`.
            _ if tag & 7 == 2 => rest.take(len).ok().map(|_| false),
            _ if tag & 7 == 0 => Some(false),
            _ => None,
        }
    };
    loop {
        match is_within(&mut rest) {
            Some(true) => return head.len() - rest.0.len(),
            Some(false) => {}
            None => return 0,
        }
    }
}

fn decode_wantlist(bytes: &[u8], message: &mut Message) -> Result<(), Error> {
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(entry)) => match decode_entry(entry)? {
                Some(entry) if message.wants.len() < MAX_ENTRIES => message.wants.push(entry),
                _ => message.ignored += 1,
            },
            (2, Value::Varint(full)) => message.full = full != 0,
            _ => {}
        }
    }
    Ok(())
}

fn decode_entry(bytes: &[u8]) -> Result<Option<Entry>, Error> {
    let mut cid = None;
    let mut priority = 0;
    let mut cancel = false;
    let mut want = WantType::Block;
    let mut send_dont_have = false;
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => cid = decode_cid(bytes),
            (2, Value::Varint(value)) => priority = value as i32,
            (3, Value::Varint(value)) => cancel = value != 0,
            (4, Value::Varint(value)) => want = if value == 1 { WantType::Have } else { WantType::Block },
            (5, Value::Varint(value)) => send_dont_have = value != 0,
            _ => {}
        }
    }
    Ok(cid.map(|cid| Entry { cid, priority, cancel, want, send_dont_have }))
}

fn decode_payload(frame: &Bytes, bytes: &[u8], message: &mut Message) -> Result<(), Error> {
    let mut prefix = None;
    let mut data: &[u8] = &[];
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => prefix = decode_prefix(bytes),
            (2, Value::Bytes(bytes)) => data = bytes,
            _ => {}
        }
    }
    match prefix {
        Some(prefix) => push_block(message, Some(prefix), frame.slice_ref(data)),
        None => message.ignored += 1,
    }
    Ok(())
}

fn push_block(message: &mut Message, prefix: Option<Prefix>, data: Bytes) {
    if data.len() > MAX_BLOCK_LEN || message.blocks.len() >= MAX_ENTRIES {
        message.ignored += 1;
    } else {
        message.blocks.push(Block { prefix, data });
    }
}

fn decode_presence(bytes: &[u8], message: &mut Message) -> Result<(), Error> {
    let mut cid = None;
    let mut have = true;
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(bytes)) => cid = decode_cid(bytes),
            (2, Value::Varint(value)) => have = value == 0,
            _ => {}
        }
    }
    match cid {
        Some(cid) if message.presences.len() < MAX_ENTRIES => message.presences.push(Presence { cid, have }),
        _ => message.ignored += 1,
    }
    Ok(())
}

/// The CID in `bytes`; `None` when it is malformed, out of bounds or an identity CID.
fn decode_cid(bytes: &[u8]) -> Option<Cid> {
    if bytes.len() > MAX_CID_LEN {
        return None;
    }
    let mut rest = bytes;
    let cid = Cid::read_bytes(&mut rest).ok()?;
    let in_bounds = (MIN_HASH_LEN..=MAX_HASH_LEN).contains(&usize::from(cid.hash().size()));
    (rest.is_empty() && in_bounds && cid.hash().code() != IDENTITY).then_some(cid)
}

fn decode_prefix(bytes: &[u8]) -> Option<Prefix> {
    let mut rest = bytes;
    let mut next = || -> Option<u64> {
        let (value, len) = varint::read(rest).ok()??;
        rest = &rest[len..];
        Some(value)
    };
    let prefix = Prefix { version: next()?, codec: next()?, hash_code: next()?, hash_len: next()? };
    rest.is_empty().then_some(prefix)
}

/// Iterates over the fields of one protobuf message.
struct Fields<'a>(&'a [u8]);

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// A fixed-width number, which no field of bitswap is.
    Other,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Other)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Other)?,
            other => return Err(Error::WireType(other as u8)),
        };
        Ok(Some((tag >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let (value, len) = varint::read(self.0)?.ok_or(Error::Truncated)?;
        self.0 = &self.0[len..];
        Ok(value)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Error> {
        let len = usize::try_from(len).map_err(|_| Error::Truncated)?;
        let (head, tail) = self.0.split_at_checked(len).ok_or(Error::Truncated)?;
        self.0 = tail;
        Ok(head)
    }
}
