//! `/shoal/outline/1`: asking a peer for a blob's outline, or for what it knows of a tag.
//!
//! One request and one answer on a stream, each a big-endian length of four bytes and so many bytes:
//!
//! ```text
//! request  := version (1)  kind 1 (1)  digest            a blob's outline
//!           | version (1)  kind 2 (1)  name              a tag, by its full name `registry/repository:tag`
//! answer   := version (1)  status (1: 0 not held, 2 too large to send, 3 busy, 4 not understood)
//!           | version (1)  status 1 (1)  outline
//!           | version (1)  status 5 (1)  digest  size (8)  resolved at, seconds since 1970 (8)  media type
//! digest   := hash function (1: its multicodec code)  hash
//! ```
//!
//! What follows the known fields is ignored, and a kind that is not known is answered with status 4, so later versions may add to both.
//! An answer is a hint from whoever gave it: nothing here, or behind, believes it before the blob's digest has matched.

use std::{io, sync::Arc};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use shoal_content::{Algorithm, Digest, Outline};

pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/outline/1");

/// Largest answer, in bytes: the outline of a blob of 128 GiB.
pub const MAX_ANSWER: usize = 4 << 20;

/// Largest request, in bytes; today's are 67.
const MAX_REQUEST: usize = 1024;

const VERSION: u8 = 1;
const OUTLINE: u8 = 1;
const TAG: u8 = 2;

const STATUS_TAG: u8 = 5;

/// What a peer may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Outline(Digest),
    /// What it knows of a tag.
    Tag(String),
    /// Something of a later version.
    Unknown,
}

/// What it may answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    NotHeld,
    Held(Arc<Outline>),
    Tag(KnownTag),
    TooLarge,
    Busy,
    NotUnderstood,
}

/// What a peer knows of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTag {
    /// What the tag named.
    pub digest: Digest,
    /// Size of the manifest or index in bytes.
    pub size: u64,
    /// When upstream said so, in seconds since 1970.
    pub resolved_at: u64,
    /// Media type of the manifest or index; at most 255 bytes.
    pub media_type: String,
}

/// Reads and writes the messages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codec;

pub(crate) type Behaviour = request_response::Behaviour<Codec>;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Answer;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        decode_request(&read_frame(io, MAX_REQUEST).await?)
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Answer>
    where
        T: AsyncRead + Unpin + Send,
    {
        decode_answer(&read_frame(io, MAX_ANSWER).await?)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &encode_request(&request)).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answer: Answer) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &encode_answer(&answer)).await
    }
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// Allocates for bytes that have come, not for bytes that are announced.
pub(crate) async fn read_frame<T: AsyncRead + Unpin>(io: &mut T, limit: usize) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(invalid(format!("a message of {length} bytes, more than {limit}")));
    }
    let mut message = Vec::new();
    io.take(length as u64).read_to_end(&mut message).await?;
    if message.len() < length {
        return Err(invalid(format!("a message that ends after {} of {length} bytes", message.len())));
    }
    Ok(message)
}

pub(crate) async fn write_frame<T: AsyncWrite + Unpin>(io: &mut T, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| invalid("a message of more than 4 GiB"))?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(message).await?;
    io.flush().await
}

/// The multicodec codes of both hash functions are below 128.
fn function(algorithm: Algorithm) -> u8 {
    algorithm.multihash_code() as u8
}

fn encode_request(request: &Request) -> Vec<u8> {
    match request {
        Request::Outline(digest) => [&[VERSION, OUTLINE], encode_digest(digest).as_slice()].concat(),
        Request::Tag(name) => [&[VERSION, TAG], name.as_bytes()].concat(),
        Request::Unknown => vec![VERSION, 0],
    }
}

fn decode_request(message: &[u8]) -> io::Result<Request> {
    let [_, kind, rest @ ..] = message else { return Err(invalid("a request that is too short")) };
    match *kind {
        OUTLINE => Ok(decode_digest(rest)?.map_or(Request::Unknown, |(digest, _)| Request::Outline(digest))),
        TAG => {
            let name = std::str::from_utf8(rest).map_err(|_| invalid("a tag's name that is not text"))?;
            Ok(Request::Tag(name.to_owned()))
        }
        _ => Ok(Request::Unknown),
    }
}

fn encode_digest(digest: &Digest) -> Vec<u8> {
    [&[function(digest.algorithm())], digest.hash()].concat()
}

/// A digest and what follows it; `None` where the hash function is not known.
fn decode_digest(bytes: &[u8]) -> io::Result<Option<(Digest, &[u8])>> {
    let code = bytes.first().ok_or_else(|| invalid("a digest that is missing"))?;
    let Some(algorithm) = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|known| function(*known) == *code)
    else {
        return Ok(None);
    };
    let too_short = || invalid("a digest that is too short");
    let end = 1 + algorithm.hash_len();
    let hash = bytes.get(1..end).ok_or_else(too_short)?;
    let digest = Digest::new(algorithm, hash).ok_or_else(too_short)?;
    Ok(Some((digest, &bytes[end..])))
}

fn decode_tag(bytes: &[u8]) -> io::Result<KnownTag> {
    let (digest, rest) = decode_digest(bytes)?.ok_or_else(|| invalid("a digest of an unknown hash function"))?;
    let numbers: &[u8; 16] = rest.first_chunk().ok_or_else(|| invalid("a tag that is too short"))?;
    let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let media_type = rest[16..].get(..255).unwrap_or(&rest[16..]);
    let media_type = std::str::from_utf8(media_type).map_err(|_| invalid("a media type that is not text"))?;
    Ok(KnownTag {
        digest,
        size: number(&numbers[..8]),
        resolved_at: number(&numbers[8..]),
        media_type: media_type.to_owned(),
    })
}

fn encode_answer(answer: &Answer) -> Vec<u8> {
    match answer {
        Answer::NotHeld => vec![VERSION, 0],
        Answer::Held(outline) => {
            let outline = outline.encode();
            if outline.len() + 2 > MAX_ANSWER {
                return vec![VERSION, 2];
            }
            [&[VERSION, 1], outline.as_slice()].concat()
        }
        Answer::Tag(tag) => [
            &[VERSION, STATUS_TAG],
            encode_digest(&tag.digest).as_slice(),
            &tag.size.to_be_bytes(),
            &tag.resolved_at.to_be_bytes(),
            tag.media_type.as_bytes(),
        ]
        .concat(),
        Answer::TooLarge => vec![VERSION, 2],
        Answer::Busy => vec![VERSION, 3],
        Answer::NotUnderstood => vec![VERSION, 4],
    }
}

fn decode_answer(message: &[u8]) -> io::Result<Answer> {
    let [_, status, rest @ ..] = message else { return Err(invalid("an answer that is too short")) };
    match status {
        0 => Ok(Answer::NotHeld),
        1 => Outline::decode(rest)
            .map(|outline| Answer::Held(Arc::new(outline)))
            .map_err(|error| invalid(error.to_string())),
        &STATUS_TAG => decode_tag(rest).map(Answer::Tag),
        2 => Ok(Answer::TooLarge),
        3 => Ok(Answer::Busy),
        4 => Ok(Answer::NotUnderstood),
        other => Err(invalid(format!("an answer of unknown status {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use proptest::prelude::*;
    use request_response::Codec as _;
    use shoal_content::{LEAF_SIZE, LeafHash};

    use super::*;

    fn outline(leaves: u64) -> Arc<Outline> {
        let hashes: Vec<LeafHash> = (0..leaves).map(|leaf| LeafHash([leaf as u8; 32])).collect();
        Arc::new(Outline::complete(leaves * LEAF_SIZE, &hashes).unwrap())
    }

    fn tag() -> Answer {
        Answer::Tag(KnownTag {
            digest: Digest::of(Algorithm::Sha512, b"manifest"),
            size: 8,
            resolved_at: 1 << 40,
            media_type: "application/vnd.oci.image.index.v1+json".into(),
        })
    }

    async fn answer_of(bytes: Vec<u8>) -> io::Result<Answer> {
        Codec.read_response(&PROTOCOL, &mut Cursor::new(bytes)).await
    }

    #[tokio::test]
    async fn messages_read_back_as_they_were_written() {
        let request = Request::Tag("registry.example/app:v1".into());
        let mut wire = Cursor::new(Vec::new());
        Codec.write_request(&PROTOCOL, &mut wire, request.clone()).await.unwrap();
        assert_eq!(Codec.read_request(&PROTOCOL, &mut Cursor::new(wire.into_inner())).await.unwrap(), request);
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let request = Request::Outline(Digest::of(algorithm, b"blob"));
            let mut wire = Cursor::new(Vec::new());
            Codec.write_request(&PROTOCOL, &mut wire, request.clone()).await.unwrap();
            let read = Codec.read_request(&PROTOCOL, &mut Cursor::new(wire.into_inner())).await.unwrap();
            assert_eq!(read, request);
        }
        let answers =
            [Answer::NotHeld, Answer::Held(outline(3)), Answer::TooLarge, Answer::Busy, Answer::NotUnderstood, tag()];
        for answer in answers {
            let mut wire = Cursor::new(Vec::new());
            Codec.write_response(&PROTOCOL, &mut wire, answer.clone()).await.unwrap();
            assert_eq!(answer_of(wire.into_inner()).await.unwrap(), answer);
        }
    }

    #[tokio::test]
    async fn an_outline_that_is_too_large_is_said_to_be() {
        let mut wire = Cursor::new(Vec::new());
        Codec.write_response(&PROTOCOL, &mut wire, Answer::Held(outline(150_000))).await.unwrap();
        assert_eq!(answer_of(wire.into_inner()).await.unwrap(), Answer::TooLarge);
    }

    #[tokio::test]
    async fn what_is_too_long_too_short_or_unknown_is_refused() {
        assert!(answer_of(u32::MAX.to_be_bytes().to_vec()).await.is_err());
        assert!(answer_of(vec![0, 0, 0, 9, 1, 0]).await.is_err());
        assert!(answer_of(vec![0, 0, 0, 1, 1]).await.is_err());
        assert!(answer_of(vec![0, 0, 0, 2, 1, 77]).await.is_err());
        assert!(answer_of(vec![0, 0, 0, 3, 1, 1, 9]).await.is_err());
    }

    #[test]
    fn a_request_of_a_later_version_is_understood_as_far_as_it_is_known() {
        let mut message = encode_request(&Request::Outline(Digest::of(Algorithm::Sha256, b"")));
        message[0] = 2;
        message.extend_from_slice(b"more");
        assert_eq!(decode_request(&message).unwrap(), Request::Outline(Digest::of(Algorithm::Sha256, b"")));
        assert_eq!(decode_request(&[2, 9]).unwrap(), Request::Unknown);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_request(&bytes);
            let _ = decode_answer(&bytes);
        }
    }
}
