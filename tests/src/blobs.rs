//! An upstream for what docker-registry is too slow and too well-behaved for: hundreds of new blobs, and an outage by a switch.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Serves blobs from memory on loopback, whatever repository they are asked for in.
#[derive(Debug)]
pub struct Blobs {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    blobs: Mutex<HashMap<String, Arc<Vec<u8>>>>,
    down: AtomicBool,
    sent: AtomicU64,
}

impl Blobs {
    /// Serves on a free port until the process ends.
    pub fn start() -> Result<Blobs> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || {
                    // A client that goes away is what the tests are about.
                    let _ = shared.serve(stream);
                });
            }
        });
        Ok(Blobs { address, shared })
    }

    /// `127.0.0.1:port`, its name as a registry.
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// Adds a blob and gives its digest.
    pub fn add(&self, content: Vec<u8>) -> String {
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(&content)));
        self.shared.blobs.lock().expect("no test panics while it holds this").insert(digest.clone(), Arc::new(content));
        digest
    }

    /// The content of a blob.
    pub fn content(&self, digest: &str) -> Option<Arc<Vec<u8>>> {
        self.shared.blobs.lock().expect("no test panics while it holds this").get(digest).cloned()
    }

    /// Forgets a blob.
    pub fn remove(&self, digest: &str) {
        self.shared.blobs.lock().expect("no test panics while it holds this").remove(digest);
    }

    /// From now on every connection is closed without an answer, or answered again.
    pub fn set_down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
    }

    /// Bytes of bodies sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || self.down.load(Ordering::SeqCst) {
                return Ok(());
            }
            let mut words = line.split_whitespace();
            let (method, path) =
                (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
            let mut range = None;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header)?;
                let header = header.trim().to_ascii_lowercase();
                if header.is_empty() {
                    break;
                }
                if let Some(bytes) = header.strip_prefix("range: bytes=") {
                    range = Some(bytes.to_owned());
                }
            }
            self.answer(&mut stream, &method, &path, range.as_deref())?;
        }
    }

    fn answer(&self, stream: &mut TcpStream, method: &str, path: &str, range: Option<&str>) -> Result<()> {
        let digest = path.split('?').next().and_then(|path| path.rsplit_once("/blobs/")).map(|(_, digest)| digest);
        let blob = digest
            .and_then(|digest| self.blobs.lock().expect("no test panics while it holds this").get(digest).cloned());
        let Some(blob) = blob else {
            let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
            return Ok(write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")?);
        };
        let total = blob.len();
        let (status, start, end) = match range.map(|range| parse_range(range, total)) {
            None => ("200 OK", 0, total),
            Some(Some((start, end))) => ("206 Partial Content", start, end),
            Some(None) => {
                return Ok(write!(stream, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 0\r\n\r\n")?);
            }
        };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n")?;
        write!(
            stream,
            "Content-Length: {}\r\nContent-Range: bytes {start}-{}/{total}\r\n\r\n",
            end - start,
            end.saturating_sub(1)
        )?;
        if method == "GET" {
            for piece in blob[start..end].chunks(64 << 10) {
                if self.down.load(Ordering::SeqCst) {
                    return Ok(stream.shutdown(std::net::Shutdown::Both)?);
                }
                stream.write_all(piece).context("the client went away")?;
                self.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            }
        }
        Ok(())
    }
}

/// `first-last` or `first-`, as a half-open range.
fn parse_range(range: &str, total: usize) -> Option<(usize, usize)> {
    let (first, last) = range.split_once('-')?;
    let start: usize = first.parse().ok()?;
    let end = if last.is_empty() { total } else { last.parse::<usize>().ok()?.checked_add(1)?.min(total) };
    (start < end).then_some((start, end))
}

/// Bytes that no one else has, the same for the same seed (xorshift64*).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
