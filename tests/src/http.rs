//! HTTP/1.1 as a runtime sees it: what came of the body is kept, and how it ended is told, since both decide what a runtime does.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

/// No answer and no byte for this long is a hang.
const SILENCE: Duration = Duration::from_secs(30);
const MAX_HEAD: usize = 64 << 10;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// As much of the body as came.
    pub body: Vec<u8>,
    /// How the connection ended before the body was whole; `None` where it is whole.
    pub cut: Option<Cut>,
}

/// An end before Content-Length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// FIN: runtimes resume or go elsewhere.
    Closed,
    /// RST: containerd fails the pull.
    Reset,
    /// Nothing for half a minute.
    Silent,
}

impl Answer {
    /// A header's value; the name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// Sends a request without a body and takes all that comes. `headers` are whole lines without their ends.
pub fn request(stream: TcpStream, method: &str, target: &str, headers: &[&str]) -> Result<Answer> {
    exchange(stream, method, target, headers, usize::MAX)
}

/// Sends a GET, takes the first `limit` bytes of the body, if it has so many, and hangs up.
pub fn take(stream: TcpStream, target: &str, headers: &[&str], limit: usize) -> Result<Answer> {
    let mut answer = exchange(stream, "GET", target, headers, limit)?;
    answer.body.truncate(limit);
    Ok(answer)
}

fn exchange(mut stream: TcpStream, method: &str, target: &str, headers: &[&str], limit: usize) -> Result<Answer> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let host = stream.peer_addr()?;
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes())?;

    let mut received = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let head_end = loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        ensure!(received.len() < MAX_HEAD, "an endless head");
        let read = stream.read(&mut buffer).context("waiting for the head of an answer")?;
        ensure!(read > 0, "closed before the head of an answer ended");
        received.extend_from_slice(&buffer[..read]);
    };
    let head = String::from_utf8_lossy(&received[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
    let mut answer = Answer {
        status: status.with_context(|| format!("no status in {head:?}"))?,
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        body: received.split_off(head_end + 4),
        cut: None,
    };
    let length = answer.header("content-length").map(str::parse::<usize>).transpose().context("Content-Length")?;
    let length = if method == "HEAD" { Some(0) } else { length };
    while answer.body.len() < limit && length.is_none_or(|length| answer.body.len() < length) {
        match stream.read(&mut buffer) {
            Ok(0) => {
                answer.cut = length.map(|_| Cut::Closed);
                break;
            }
            Ok(read) => answer.body.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                answer.cut = Some(Cut::Reset);
                break;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                answer.cut = Some(Cut::Silent);
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(answer)
}

/// Sends a GET and counts the bytes of the body, keeping none of them.
pub fn drain(mut stream: TcpStream, target: &str) -> Result<u64> {
    stream.set_read_timeout(Some(SILENCE))?;
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", stream.peer_addr()?)?;
    let mut buffer = vec![0; 256 << 10];
    let mut head = Vec::new();
    let mut body = loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0 && head.len() < MAX_HEAD, "no head of an answer");
        head.extend_from_slice(&buffer[..read]);
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break (head.len() - at - 4) as u64;
        }
    };
    ensure!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head[..head.len().min(200)]));
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(body),
            read => body += read as u64,
        }
    }
}
