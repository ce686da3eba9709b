//! The corner of protobuf that dag-pb and UnixFS use: varints and length-delimited fields; fixed-width ones are skipped.

use super::DagError;

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const DELIMITED: u8 = 2;
const FIXED32: u8 = 5;

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Of a fixed width, which no field of ours has.
    Fixed,
}

/// The fields of a message, in order.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u64, Value<'a>)>, DagError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let (field, wire_type) = (tag >> 3, (tag & 7) as u8);
        // Field numbers end at 2^29 - 1, and 0 is none.
        if field == 0 || field >= 1 << 29 {
            return Err(DagError::Protobuf("a field number is out of range"));
        }
        let value = match wire_type {
            VARINT => Value::Varint(self.varint()?),
            DELIMITED => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            FIXED64 => self.take(8).map(|_| Value::Fixed)?,
            FIXED32 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(DagError::Protobuf("a field has an unknown wire type")),
        };
        Ok(Some((field, value)))
    }

    fn varint(&mut self) -> Result<u64, DagError> {
        let (value, rest) = varint(self.rest)?;
        self.rest = rest;
        Ok(value)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], DagError> {
        let taken = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let (taken, rest) = taken.ok_or(DagError::Protobuf("a field is longer than its message"))?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Reads a varint from the front; gives it and what follows.
pub(super) fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), DagError> {
    let mut value = 0u64;
    for (&byte, at) in bytes.iter().zip(0u32..10) {
        let part = u64::from(byte & 0x7f);
        // The tenth byte holds the one bit that is left of 64.
        if at == 9 && byte > 1 {
            return Err(DagError::Protobuf("a varint is larger than 64 bits"));
        }
        value |= part << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, &bytes[at as usize + 1..]));
        }
    }
    Err(DagError::Protobuf("a varint does not end"))
}

/// Appends a varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a field that is a varint.
pub(super) fn put_number(out: &mut Vec<u8>, field: u64, value: u64) {
    put_varint(out, field << 3 | u64::from(VARINT));
    put_varint(out, value);
}

/// Appends a field that is bytes or a message.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    put_varint(out, field << 3 | u64::from(DELIMITED));
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(message: &[u8]) -> Result<Vec<(u64, Value<'_>)>, DagError> {
        let mut fields = Fields::of(message);
        let mut found = Vec::new();
        while let Some(field) = fields.next()? {
            found.push(field);
        }
        Ok(found)
    }

    #[test]
    fn fields_of_fixed_width_are_skipped() {
        let message = [0x09, 1, 2, 3, 4, 5, 6, 7, 8, 0x15, 1, 2, 3, 4, 0x18, 7];
        assert_eq!(all(&message).unwrap(), [(1, Value::Fixed), (2, Value::Fixed), (3, Value::Varint(7))]);
    }

    #[test]
    fn what_is_not_protobuf_is_refused() {
        for bad in [&[0x00u8, 1] as &[u8], &[0x0b], &[0x0a, 2, 1], &[0x08], &[0x08, 0x80], &[0x09, 1], &[0x0a; 1]] {
            assert!(all(bad).is_err(), "{bad:?}");
        }
        let mut huge = vec![0x08];
        huge.extend([0xff; 9]);
        huge.push(2);
        assert!(all(&huge).is_err());
        let endless = [&[0x0a][..], &[0xff; 9], &[1]].concat();
        assert!(all(&endless).is_err());
    }

    proptest! {
        #[test]
        fn a_number_reads_back_as_it_was_written(field in 1u64..1 << 29, value: u64, bytes: Vec<u8>) {
            let mut message = Vec::new();
            put_number(&mut message, field, value);
            put_bytes(&mut message, field, &bytes);
            prop_assert_eq!(all(&message), Ok(vec![(field, Value::Varint(value)), (field, Value::Bytes(&bytes))]));
        }
    }
}
