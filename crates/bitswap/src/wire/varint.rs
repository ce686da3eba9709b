//! Unsigned LEB128, as both protobuf and libp2p's length prefixes use it.

use bytes::{BufMut, BytesMut};

use crate::Error;

/// The most bytes that a 64-bit varint takes.
pub(crate) const MAX_LEN: usize = 10;

/// Bytes that `value` takes.
pub(crate) fn len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

pub(crate) fn put(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The varint at the start of `input`, and how many bytes it takes. `Ok(None)` when `input` ends before it does.
pub(crate) fn read(input: &[u8]) -> Result<Option<(u64, usize)>, Error> {
    let mut value = 0_u64;
    for (index, &byte) in input.iter().take(MAX_LEN).enumerate() {
        let shift = 7 * index as u32;
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(Error::Varint);
        }
        value |= part << shift;
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    if input.len() >= MAX_LEN { Err(Error::Varint) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_reads_back_as_it_was_written_and_its_length_is_foretold() {
        for value in [0, 1, 127, 128, 300, 1 << 20, u64::from(u32::MAX), 1 << 63, u64::MAX] {
            let mut out = BytesMut::new();
            put(&mut out, value);
            assert_eq!(out.len(), len(value), "{value}");
            assert_eq!(read(&out).unwrap(), Some((value, out.len())), "{value}");
            assert_eq!(read(&out[..out.len() - 1]).unwrap(), None, "{value}");
        }
    }

    #[test]
    fn more_than_64_bits_are_refused() {
        assert!(matches!(read(&[0xff; 10]), Err(Error::Varint)));
        assert!(matches!(read(&[0x80; 11]), Err(Error::Varint)));
        let too_big = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        assert!(matches!(read(&too_big), Err(Error::Varint)));
    }
}
