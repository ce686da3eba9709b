//! The one call of the Container Runtime Interface that pulls: what kubelet sends, over containerd's socket.
//!
//! A gRPC call is one HTTP/2 request; `PullImageRequest` and `PullImageResponse` have one field each that matters here, so both are
//! written and read by hand. Source: `k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`, `ImageService.PullImage`.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::UnixStream;

const METHOD: &str = "http://containerd/runtime.v1.ImageService/PullImage";

/// Fields 1 and 2, length-delimited: the tags of all fields here.
const FIELD_ONE: u8 = 0x0a;
const FIELD_TWO: u8 = 0x12;

/// Pulls `image` as kubelet does, for a pod whose pull secret is `secret`, and gives the reference that containerd keeps it under.
pub fn pull_image(socket: &Path, image: &str, secret: Option<(&str, &str)>, limit: Duration) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::time::timeout(limit, call(socket, image, secret))
            .await
            .with_context(|| format!("no answer within {limit:?}"))?
    })
}

async fn call(socket: &Path, image: &str, secret: Option<(&str, &str)>) -> Result<String> {
    let stream = UnixStream::connect(socket).await.with_context(|| socket.display().to_string())?;
    let (mut client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::post(METHOD)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .expect("constants make a request");
    let (response, mut body) = client.send_request(request, false)?;
    body.send_data(framed(&request_message(image, secret)), true)?;

    let response = response.await?;
    ensure!(response.status() == 200, "HTTP status {}", response.status());
    let headers = response.headers().clone();
    let mut body = response.into_body();
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        message.extend_from_slice(&data);
    }
    let trailers = body.trailers().await?.unwrap_or(headers);
    connection.abort();
    let text = |name: &str| trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status").as_deref() {
        Some("0") => image_ref(&message).context("the answer is not a PullImageResponse"),
        status => bail!("PullImage {image}: gRPC status {status:?}: {}", text("grpc-message").unwrap_or_default()),
    }
}

/// `PullImageRequest { image: ImageSpec { image }, auth: AuthConfig { username, password } }`.
fn request_message(image: &str, secret: Option<(&str, &str)>) -> Vec<u8> {
    let mut message = field(FIELD_ONE, &field(FIELD_ONE, image.as_bytes()));
    if let Some((username, password)) = secret {
        let auth = [field(FIELD_ONE, username.as_bytes()), field(FIELD_TWO, password.as_bytes())].concat();
        message.extend(field(FIELD_TWO, &auth));
    }
    message
}

fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    let mut length = content.len();
    while length >= 0x80 {
        message.push(0x80 | (length & 0x7f) as u8);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(content);
    message
}

/// A gRPC frame: not compressed, length, message.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("a name is short"));
    frame.put_slice(message);
    frame.freeze()
}

/// `PullImageResponse { image_ref }` in its frame. A reference is shorter than 128 bytes, or has a length of two.
fn image_ref(frame: &[u8]) -> Option<String> {
    let message = frame.get(5..)?;
    let (&FIELD_ONE, rest) = message.split_first()? else { return None };
    let (&low, rest) = rest.split_first()?;
    let (length, rest) = if low < 0x80 {
        (usize::from(low), rest)
    } else {
        let (&high, rest) = rest.split_first()?;
        (usize::from(low & 0x7f) | usize::from(high) << 7, rest)
    };
    String::from_utf8(rest.get(..length)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::{framed, image_ref, request_message};

    #[test]
    fn a_request_is_a_string_in_a_message_in_a_message() {
        assert_eq!(request_message("a:b", None), b"\x0a\x05\x0a\x03a:b");
        assert_eq!(request_message("a", Some(("u", "pw"))), b"\x0a\x03\x0a\x01a\x12\x07\x0a\x01u\x12\x02pw");
        let long = "x".repeat(200);
        assert_eq!(&request_message(&long, None)[..6], b"\x0a\xcb\x01\x0a\xc8\x01");
    }

    #[test]
    fn the_reference_is_read_from_short_and_long_answers() {
        assert_eq!(image_ref(&framed(b"\x0a\x03abc")).as_deref(), Some("abc"));
        let long = "x".repeat(200);
        let answer = framed(&[b"\x0a\xc8\x01", long.as_bytes()].concat());
        assert_eq!(image_ref(&answer).as_deref(), Some(long.as_str()));
        assert_eq!(image_ref(&framed(b"\x0a\x05abc")), None);
    }
}
