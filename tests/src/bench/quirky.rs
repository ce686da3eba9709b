//! A registry with the habits of others: it serves what distribution has stored, in a process of its own, so that its cost is seen.

use std::{
    fmt,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::registry::REPOSITORY;

/// How an upstream differs from distribution's registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quirk {
    None,
    NoRanges,
    Redirect,
    Limited,
    TooMany,
    Slow,
}

/// Name on the command line, and what it does.
pub(crate) const QUIRKS: &[(Quirk, &str, &str)] = &[
    (Quirk::None, "plain", "distribution's registry"),
    (Quirk::NoRanges, "no-ranges", "answers every range with the whole"),
    (Quirk::Redirect, "redirect", "sends who asks for a blob to another place"),
    (Quirk::Limited, "limited", "gives each connection a quarter of its link"),
    (Quirk::TooMany, "429", "refuses every third request for a blob, to be asked again in a second"),
    (Quirk::Slow, "slow", "needs a second before the first byte of each blob's answer"),
];

/// The word by which this program is started as such a registry.
pub(crate) const SERVE: &str = "--serve-quirky";

const PORT: u16 = 5000;
/// Where [`Quirk::Redirect`] leads.
const OTHER_PORT: u16 = 5001;
/// Connections at the same time that fill the link under [`Quirk::Limited`].
pub(crate) const SHARES: f64 = 4.0;
const REFUSED_ONE_OF: u64 = 3;
const SLOWNESS: Duration = Duration::from_secs(1);
/// A request of an honest client is smaller.
const MOST_LINES: usize = 100;

impl fmt::Display for Quirk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(QUIRKS.iter().find(|(quirk, ..)| quirk == self).map_or("?", |(_, name, _)| name))
    }
}

/// Words after the program's name that [`serve`] takes.
pub(crate) fn arguments(quirk: Quirk, storage: &Path, host: std::net::Ipv4Addr, bytes_per_second: u64) -> Vec<String> {
    let storage = storage.display().to_string();
    vec![SERVE.to_owned(), quirk.to_string(), storage, host.to_string(), bytes_per_second.to_string()]
}

#[derive(Debug)]
struct Server {
    quirk: Quirk,
    storage: PathBuf,
    other: SocketAddr,
    /// For a connection; 0 where it does not matter.
    bytes_per_second: u64,
    asked: AtomicU64,
}

/// Serves until it is killed.
pub(crate) fn serve(words: &[String]) -> Result<()> {
    let [quirk, storage, host, rate] = words else { bail!("{SERVE} QUIRK STORAGE ADDRESS RATE") };
    let (quirk, ..) = QUIRKS.iter().find(|(_, name, _)| name == quirk).context("no such quirk")?;
    let host: std::net::IpAddr = host.parse()?;
    let server = Arc::new(Server {
        quirk: *quirk,
        storage: storage.into(),
        other: (host, OTHER_PORT).into(),
        bytes_per_second: rate.parse()?,
        asked: AtomicU64::new(0),
    });
    let other = TcpListener::bind(server.other)?;
    let redirected = Arc::clone(&server);
    std::thread::spawn(move || accept(&redirected, &other, true));
    accept(&server, &TcpListener::bind((host, PORT))?, false);
    Ok(())
}

fn accept(server: &Arc<Server>, listener: &TcpListener, is_other: bool) {
    for stream in listener.incoming().flatten() {
        let server = Arc::clone(server);
        std::thread::spawn(move || {
            // Clients that go away are usual.
            let _ = server.converse(stream, is_other);
        });
    }
}

struct Request {
    method: String,
    path: String,
    range: Option<(u64, Option<u64>)>,
}

impl Server {
    fn converse(&self, mut stream: TcpStream, is_other: bool) -> Result<()> {
        stream.set_nodelay(true)?;
        if self.quirk == Quirk::Limited {
            pace(&stream, self.bytes_per_second)?;
        }
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(request) = read_request(&mut reader)? {
            let (status, bytes) = self.answer(&mut stream, &request, is_other)?;
            log(&request, status, bytes);
        }
        Ok(())
    }

    fn answer(&self, stream: &mut TcpStream, request: &Request, is_other: bool) -> Result<(u16, u64)> {
        let path = request.path.split('?').next().unwrap_or_default();
        let repository = format!("/v2/{REPOSITORY}");
        if let Some(digest) = path.strip_prefix(&format!("{repository}/blobs/")) {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            match self.quirk {
                Quirk::Redirect if !is_other => {
                    let location = format!("Location: http://{}{}\r\n", self.other, request.path);
                    return short(stream, "307 Temporary Redirect", &location);
                }
                Quirk::TooMany if number.is_multiple_of(REFUSED_ONE_OF) => {
                    return short(stream, "429 Too Many Requests", "Retry-After: 1\r\n");
                }
                // Being slow is what it is for.
                #[allow(clippy::disallowed_methods)]
                Quirk::Slow => std::thread::sleep(SLOWNESS),
                _ => {}
            }
            return self.send(stream, request, digest, "application/octet-stream");
        }
        if let Some(reference) = path.strip_prefix(&format!("{repository}/manifests/")) {
            let digest = if reference.starts_with("sha256:") {
                reference.to_owned()
            } else {
                let link = format!("repositories/{REPOSITORY}/_manifests/tags/{reference}/current/link");
                fs::read_to_string(self.root().join(link)).unwrap_or_default()
            };
            let media_type = self.media_type(&digest).unwrap_or_default();
            return self.send(stream, request, &digest, &media_type);
        }
        short(stream, if path == "/v2/" { "200 OK" } else { "404 Not Found" }, "")
    }

    fn root(&self) -> PathBuf {
        self.storage.join("docker/registry/v2")
    }

    fn data(&self, digest: &str) -> Option<PathBuf> {
        let hex = digest.strip_prefix("sha256:").filter(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()))?;
        Some(self.root().join("blobs/sha256").join(hex.get(..2)?).join(hex).join("data"))
    }

    fn media_type(&self, digest: &str) -> Option<String> {
        let manifest: Value = serde_json::from_slice(&fs::read(self.data(digest)?).ok()?).ok()?;
        Some(manifest["mediaType"].as_str()?.to_owned())
    }

    fn send(&self, stream: &mut TcpStream, request: &Request, digest: &str, media_type: &str) -> Result<(u16, u64)> {
        let Some(mut file) = self.data(digest).and_then(|path| File::open(path).ok()) else {
            return short(stream, "404 Not Found", "");
        };
        let size = file.metadata()?.len();
        let range = request.range.filter(|_| self.quirk != Quirk::NoRanges);
        let (status, start, end) = match range {
            None => ("200 OK", 0, size),
            Some((start, last)) => ("206 Partial Content", start, last.map_or(size, |last| (last + 1).min(size))),
        };
        if start > end || (range.is_some() && start == size) {
            return short(stream, "416 Range Not Satisfiable", &format!("Content-Range: bytes */{size}\r\n"));
        }
        let mut head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\nContent-Length: {}\r\n",
            end - start
        );
        if range.is_some() {
            head.push_str(&format!("Content-Range: bytes {start}-{}/{size}\r\n", end - 1));
        }
        if self.quirk != Quirk::NoRanges {
            head.push_str("Accept-Ranges: bytes\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        let mut sent = 0;
        if request.method == "GET" {
            file.seek(SeekFrom::Start(start))?;
            let copied = io::copy(&mut file.take(end - start), stream);
            sent = end - start;
            if copied.is_err() {
                // How much of it went out is not known; an upper bound is.
                log(request, 499, sent);
            }
            copied?;
        }
        Ok((status[..3].parse()?, sent))
    }
}

/// An answer without a body.
fn short(stream: &mut TcpStream, status: &str, more: &str) -> Result<(u16, u64)> {
    write!(stream, "HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\n\r\n")?;
    Ok((status[..3].parse()?, 0))
}

/// In the form of docker-registry's access log.
#[expect(clippy::print_stdout, reason = "its output is its log")]
fn log(request: &Request, status: u16, bytes: u64) {
    println!("- - - [-] \"{} {} HTTP/1.1\" {status} {bytes} \"\" \"\"", request.method, request.path);
}

fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut range = None;
    for _ in 0..MOST_LINES {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_ascii_lowercase();
        if header.is_empty() {
            return Ok(Some(Request { method, path, range }));
        }
        if let Some((first, last)) = header.strip_prefix("range: bytes=").and_then(|range| range.split_once('-')) {
            range = first.parse().ok().map(|first| (first, last.parse().ok()));
        }
    }
    bail!("a request without an end")
}

/// The kernel sends no faster on this connection.
fn pace(stream: &TcpStream, bytes_per_second: u64) -> Result<()> {
    let size = libc::socklen_t::try_from(size_of::<u64>())?;
    // SAFETY: setsockopt(2) reads as many bytes as it is told from a number that lives as long as the call.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const bytes_per_second).cast(),
            size,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error()).context("SO_MAX_PACING_RATE");
    }
    Ok(())
}
