//! The swarm key: 32 secret bytes that admit a peer.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::error::Error;

const HEADER: &str = "/key/swarm/psk/1.0.0/";
const ENCODING: &str = "/base16/";

/// Keeps this use of the key apart from every other one.
const PROLOGUE_DOMAIN: &[u8] = b"shoal/swarm-key/noise-prologue/1\0";

/// The key of a private swarm. Its file has the form that Kubo and Helia read:
///
/// ```text
/// /key/swarm/psk/1.0.0/
/// /base16/
/// <64 hex digits>
/// ```
///
/// `Display` writes that file, secret and all; `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct SwarmKey([u8; 32]);

impl SwarmKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What is mixed into the noise handshake: a hash, so that the key itself cannot be told from it.
    pub(crate) fn prologue(&self) -> [u8; 32] {
        Sha256::new().chain_update(PROLOGUE_DOMAIN).chain_update(self.0).finalize().into()
    }
}

impl FromStr for SwarmKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |line, reason| Error::SwarmKey { line, reason };
        let mut lines = text.lines().map(str::trim_end);
        match lines.next() {
            Some(HEADER) => {}
            Some(_) => return Err(wrong(1, "it is not `/key/swarm/psk/1.0.0/`")),
            None => return Err(wrong(1, "the file is empty")),
        }
        match lines.next() {
            Some(ENCODING) => {}
            Some("/base64/" | "/bin/") => return Err(wrong(2, "only the encoding `/base16/` is supported")),
            Some(_) => return Err(wrong(2, "it is not `/base16/`")),
            None => return Err(wrong(2, "it is missing")),
        }
        let digits = lines.next().ok_or(wrong(3, "the key is missing"))?;
        if digits.len() != 64 {
            return Err(wrong(3, "the key is not 64 hex digits long"));
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                return Err(wrong(3, "the key has a character that is not a hex digit"));
            };
            *byte = (high << 4 | low) as u8;
        }
        match lines.position(|line| !line.is_empty()) {
            Some(at) => Err(wrong(4 + at, "nothing may follow the key")),
            None => Ok(Self(key)),
        }
    }
}

impl fmt::Display for SwarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HEADER}\n{ENCODING}\n")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        writeln!(f)
    }
}

impl fmt::Debug for SwarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SwarmKey(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGITS: &str = "00ff1122334455667788990011223344556677889900112233445566778899aA";

    fn reason(text: &str) -> (usize, &'static str) {
        match text.parse::<SwarmKey>() {
            Err(Error::SwarmKey { line, reason }) => (line, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_reads_back_as_it_was_written() {
        let key = SwarmKey::generate();
        assert_eq!(key.to_string().parse::<SwarmKey>().unwrap(), key);
        assert_ne!(SwarmKey::generate(), key);
        let libp2p: libp2p::pnet::PreSharedKey = key.to_string().parse().unwrap();
        assert_eq!(libp2p, libp2p::pnet::PreSharedKey::new(*key.bytes()));
    }

    #[test]
    fn files_of_kubo_are_read_with_any_line_ends() {
        for text in [
            format!("{HEADER}\n{ENCODING}\n{DIGITS}"),
            format!("{HEADER}\r\n{ENCODING}\r\n{DIGITS}\r\n"),
            format!("{HEADER}\n{ENCODING}\n{DIGITS}\n\n"),
        ] {
            let key: SwarmKey = text.parse().unwrap();
            assert_eq!(key.bytes()[..3], [0x00, 0xff, 0x11]);
            assert_eq!(key.bytes()[31], 0xaa);
        }
    }

    #[test]
    fn an_error_names_the_line_that_is_wrong() {
        assert_eq!(reason("").0, 1);
        assert_eq!(reason("/key/swarm/psk/2.0.0/\n").0, 1);
        assert_eq!(reason(HEADER).0, 2);
        assert_eq!(reason(&format!("{HEADER}\n/base64/\nAAAA")), (2, "only the encoding `/base16/` is supported"));
        assert_eq!(reason(&format!("{HEADER}\n{ENCODING}")).0, 3);
        assert_eq!(reason(&format!("{HEADER}\n{ENCODING}\nabc")).0, 3);
        assert_eq!(reason(&format!("{HEADER}\n{ENCODING}\n{}", "é".repeat(32))).0, 3);
        assert_eq!(reason(&format!("{HEADER}\n{ENCODING}\n{DIGITS}\n\n{DIGITS}")).0, 5);
    }

    #[test]
    fn the_key_is_neither_in_debug_output_nor_on_the_wire() {
        let key: SwarmKey = format!("{HEADER}\n{ENCODING}\n{DIGITS}").parse().unwrap();
        assert!(!format!("{key:?}").contains("00ff"));
        assert_ne!(&key.prologue(), key.bytes());
        assert_ne!(key.prologue(), SwarmKey::from_bytes([0; 32]).prologue());
    }
}
