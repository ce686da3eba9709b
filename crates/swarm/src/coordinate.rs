//! `/shoal/coordinate/1`: asking the coordinator of a blob which leaves to get from whom.
//!
//! A request and an answer on a stream, each a big-endian length of four bytes and so many bytes. What they say is not this crate's affair. The
//! answer may come late: the coordinator keeps a request until it has something to hand out.

use std::io;

use futures::{AsyncRead, AsyncWrite};
use libp2p::{StreamProtocol, request_response};

use crate::outlines::{read_frame, write_frame};

pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/shoal/coordinate/1");

/// Largest message, in bytes: all that a node has of a blob of 64 GiB.
pub(crate) const MAX_MESSAGE: usize = 4 << 20;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Codec;

pub(crate) type Behaviour = request_response::Behaviour<Codec>;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_frame(io, MAX_MESSAGE).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_frame(io, MAX_MESSAGE).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &request).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, answer: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_frame(io, &answer).await
    }
}
