//! The side of the commands: one request, one connection.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::ErrorBody;

/// Far more than a list of every blob that a store can hold.
const MAX_ANSWER: usize = 64 << 20;

/// Why the node did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error("cannot reach the node at {socket}: {reason}; is `shoal serve` running? --socket names another socket", socket = socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The node answered with an error.
    #[error("{message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it said.
        message: String,
    },
    /// The connection broke, or what came cannot be understood.
    #[error("the node at {socket} broke off: {reason}", socket = socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What is the matter.
        reason: String,
    },
}

/// A way to the running node.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// The node that listens on this socket.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for a value.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.request(Method::GET, path, Bytes::new()).await?;
        let bytes = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| self.broken(error))?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| self.broken(error))
    }

    /// Sends a request; the answer's body is still to be read.
    pub async fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Incoming, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|error| ClientError::Unreachable { socket: self.socket.clone(), reason: error.to_string() })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "shoal")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return Ok(body);
        }
        let bytes = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| self.broken(error))?.to_bytes();
        let message = match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => body.error,
            Err(_) => format!("the node answered {status}"),
        };
        Err(ClientError::Refused { status, message })
    }

    /// The next bytes of an answer; `None` at its end.
    pub async fn next(&self, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(|error| self.broken(error))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    fn broken(&self, reason: impl std::fmt::Display) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }
}

/// A value as part of a query or a path.
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
