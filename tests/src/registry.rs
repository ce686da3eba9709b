//! Upstream: Debian's docker-registry, serving the real image from files that are kept between runs.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result};

use crate::{
    image::RealImage,
    process::{Daemon, run},
    testbed::{Host, work_folder},
};

/// As docker-registry's own default.
const PORT: u16 = 5000;
/// Names without a port can stand in a path, where `:` cannot.
const HTTP_PORT: u16 = 80;
const READY: Duration = Duration::from_secs(10);
const PUSH: Duration = Duration::from_secs(120);

/// User and password of a private registry.
pub const POD: (&str, &str) = ("pod", "secret");
/// The same as `htpasswd -B` writes it.
const HTPASSWD: &str = "pod:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// Where the real image is in the registry.
pub const REPOSITORY: &str = "debian/app";
/// Its tag.
pub const TAG: &str = "v1";

/// A registry on a host.
#[derive(Debug)]
pub struct Registry {
    /// Where it runs.
    pub host: Host,
    port: u16,
    daemon: Daemon,
}

/// Who may do what.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// All may read.
    Open,
    /// Who has the password may read.
    Private,
    /// All may write.
    Filled,
}

/// A request as the registry's access log has it.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// HTTP status.
    pub status: u16,
    /// Bytes of body that were written.
    pub bytes: u64,
}

impl Registry {
    /// A registry that has `image`, and takes nothing else.
    pub fn start(host: &Host, image: &RealImage) -> Result<Registry> {
        let storage = stored(host, image)?;
        Registry::serve(host, PORT, &storage, Mode::Open)
    }

    /// The same, for nobody but [`POD`].
    pub fn start_private(host: &Host, image: &RealImage) -> Result<Registry> {
        let storage = stored(host, image)?;
        Registry::serve(host, PORT, &storage, Mode::Private)
    }

    /// The same at the default port of HTTP, so that its name has no port in it.
    pub fn start_without_port(host: &Host, image: &RealImage) -> Result<Registry> {
        let storage = stored(host, image)?;
        Registry::serve(host, HTTP_PORT, &storage, Mode::Open)
    }

    /// `host[:port]`, what image names start with.
    pub fn name(&self) -> String {
        match self.port {
            HTTP_PORT => self.host.address.to_string(),
            port => format!("{}:{port}", self.host.address),
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.name())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (self.host.address, self.port).into()
    }

    /// The real image by tag.
    pub fn by_tag(&self) -> String {
        format!("{}/{REPOSITORY}:{TAG}", self.name())
    }

    /// The real image by digest.
    pub fn by_digest(&self, image: &RealImage) -> String {
        format!("{}/{REPOSITORY}@{}", self.name(), image.manifest.digest)
    }

    /// All requests so far that have ended.
    pub fn requests(&self) -> Result<Vec<Request>> {
        Ok(self.daemon.log()?.lines().filter_map(parse_access).collect())
    }

    /// Bytes of bodies sent so far, in answers that have ended.
    pub fn bytes_sent(&self) -> Result<u64> {
        Ok(self.requests()?.iter().filter(|request| request.method == "GET").map(|request| request.bytes).sum())
    }

    /// SIGKILL: connections are reset, and new ones refused.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.kill()
    }

    /// SIGSTOP: connections stay, and nothing comes.
    pub fn freeze(&mut self) -> Result<()> {
        self.daemon.freeze()
    }

    fn serve(host: &Host, port: u16, storage: &std::path::Path, mode: Mode) -> Result<Registry> {
        let config = host.folder.join("registry.yml");
        let read_only = mode != Mode::Filled;
        let auth = if mode == Mode::Private {
            let users = host.folder.join("htpasswd");
            fs::write(&users, HTPASSWD)?;
            format!("auth:\n  htpasswd:\n    realm: registry\n    path: {}\n", users.display())
        } else {
            String::new()
        };
        // Deleting is off and the files are shared by all tests, so read-only keeps one test from changing another's input.
        fs::write(
            &config,
            format!(
                "version: 0.1\n\
                 log:\n  accesslog:\n    disabled: false\n  level: warn\n\
                 storage:\n  filesystem:\n    rootdirectory: {}\n  maintenance:\n    readonly:\n      enabled: {read_only}\n\
                 http:\n  addr: 0.0.0.0:{port}\n{auth}",
                storage.display()
            ),
        )?;
        let mut command = host.command("docker-registry");
        command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        let mut daemon = Daemon::start("docker-registry", &mut command, &host.folder.join("registry.log"))?;
        let address = (host.address, port).into();
        daemon.wait_until("listening", READY, || Ok(host.connect(address).ok().map(drop)))?;
        Ok(Registry { host: host.clone(), port, daemon })
    }
}

/// The registry's files with the image in them: pushed once, then kept.
fn stored(host: &Host, image: &RealImage) -> Result<PathBuf> {
    let storage = work_folder()?.join(format!("registry-{}", image.manifest.digest.trim_start_matches("sha256:")));
    let complete = storage.join("complete");
    if complete.exists() {
        return Ok(storage);
    }
    if storage.exists() {
        fs::remove_dir_all(&storage)?;
    }
    fs::create_dir_all(&storage)?;
    let registry = Registry::serve(host, PORT, &storage, Mode::Filled)?;
    run(host
        .command_within(PUSH, "skopeo")
        .args(["copy", "--dest-tls-verify=false", "--quiet"])
        .arg(format!("oci:{}:{}", image.layout.display(), crate::image::NAME))
        .arg(format!("docker://{}", registry.by_tag())))
    .context("pushing the image to the registry")?;
    drop(registry);
    fs::remove_file(host.folder.join("registry.log"))?;
    fs::write(complete, "")?;
    Ok(storage)
}

/// A line of the combined log format: `ADDRESS - - [TIME] "METHOD PATH PROTOCOL" STATUS BYTES …`.
pub(crate) fn parse_access(line: &str) -> Option<Request> {
    let (_, rest) = line.split_once("] \"")?;
    let (request, rest) = rest.split_once("\" ")?;
    let mut request = request.split(' ');
    let mut answer = rest.split(' ');
    Some(Request {
        method: request.next()?.to_owned(),
        path: request.next()?.to_owned(),
        status: answer.next()?.parse().ok()?,
        bytes: answer.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::parse_access;

    #[test]
    fn a_line_of_the_access_log_gives_path_status_and_bytes() {
        let line = "10.88.0.2 - - [24/Nov/2026:10:00:00 +0000] \"GET /v2/a/blobs/sha256:00?ns=x HTTP/1.1\" 206 1234 \"\" \"agent\"";
        let request = parse_access(line).unwrap();
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/v2/a/blobs/sha256:00?ns=x"));
        assert_eq!((request.status, request.bytes), (206, 1234));
        assert!(parse_access("time=\"…\" level=warning msg=\"something else\"").is_none());
    }
}
