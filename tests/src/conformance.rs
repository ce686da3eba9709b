//! The conformance suite of the OCI distribution specification, and how a mirror is put before it.
//!
//! The suite pushes what it pulls, and a mirror takes no pushes. So a [`Split`] stands before both: what reads goes to the mirror,
//! everything else to the registry behind it. What the registry itself does wrong is nothing that a mirror could do right, so the
//! suite is run against the registry alone too, and what counts is what passes there.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{Daemon, ipfs::free, testbed::profile_folder};

const READY: Duration = Duration::from_secs(10);
/// The suite takes 20 s of a busy machine.
const LIMIT: &str = "300";
/// Longer than any head that the suite sends.
const MAX_HEAD: u64 = 64 << 10;
/// The suite's default.
const REPOSITORIES: [&str; 2] = ["conformance/repo1", "conformance/repo2"];

/// How often each test passed, by its name. Some names stand for several tests.
pub type Passed = BTreeMap<String, usize>;

/// The program: what `cargo xtask deps` built; `None` where it is not installed.
pub fn program() -> Result<Option<PathBuf>> {
    let target = profile_folder()?.parent().context("the profile's folder lies in target")?.to_owned();
    Ok(Some(target.join("tools/conformance/conformance")).filter(|program| program.is_file()))
}

/// Runs the suite against a registry, without what deletes, since a cache keeps by design what was deleted behind it.
pub fn check(program: &Path, registry: SocketAddr, results: &Path) -> Result<Passed> {
    let mut suite = Command::new("timeout");
    suite.arg(LIMIT).arg(program).env("OCI_REGISTRY", registry.to_string()).env("OCI_TLS", "disabled");
    for api in ["BLOBS", "MANIFESTS", "TAGS"] {
        suite.env(format!("OCI_API_{api}_DELETE"), "false");
    }
    for (number, repository) in REPOSITORIES.iter().enumerate() {
        suite.env(format!("OCI_REPO{}", number + 1), repository);
    }
    // It fails where one of its tests does; what it wrote is what counts.
    let _ = suite.env("OCI_RESULTS_DIR", results).output().context("starting the suite")?;
    let report = results.join("junit.xml");
    Ok(passed(&fs::read_to_string(&report).with_context(|| report.display().to_string())?))
}

fn passed(junit: &str) -> Passed {
    let mut passed = Passed::new();
    for test in junit.split("<testcase ").skip(1) {
        let head = test.split('>').next().unwrap_or_default();
        let value = |key: &str| head.split_once(&format!("{key}=\"")).and_then(|(_, rest)| rest.split_once('"'));
        if let (Some((name, _)), Some(("passed", _))) = (value("name"), value("status")) {
            *passed.entry(name.to_owned()).or_default() += 1;
        }
    }
    passed
}

/// Debian's docker-registry on loopback, empty, taking pushes.
#[derive(Debug)]
pub struct Empty {
    /// Where it listens.
    pub address: SocketAddr,
    _daemon: Daemon,
}

impl Empty {
    /// Starts one with all that it keeps in `folder`.
    pub fn start(folder: &Path) -> Result<Empty> {
        let address = free()?;
        fs::create_dir_all(folder)?;
        let config = folder.join("registry.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog:\n  accesslog:\n    disabled: true\n  level: error\n\
                 storage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
                folder.join("storage").display()
            ),
        )?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        let mut daemon = Daemon::start("docker-registry", &mut command, &folder.join("registry.log"))?;
        daemon.wait_until("listening", READY, || Ok(TcpStream::connect(address).ok().map(drop)))?;
        Ok(Empty { address, _daemon: daemon })
    }
}

/// What reads goes one way, everything else the other. Serves until the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Split {
    /// Where it listens.
    pub address: SocketAddr,
}

impl Split {
    /// Starts one.
    pub fn start(reads: SocketAddr, writes: SocketAddr) -> Result<Split> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || {
                    // The suite hangs up when it has seen enough.
                    let _ = pass(&stream, reads, writes);
                });
            }
        });
        Ok(Split { address })
    }
}

/// Passes one request and its answer, as they are but for the word that nothing follows on this connection.
fn pass(client: &TcpStream, reads: SocketAddr, writes: SocketAddr) -> Result<()> {
    let mut from = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    from.by_ref().take(MAX_HEAD).read_line(&mut line)?;
    ensure!(line.ends_with('\n'), "no request line");
    // How an upload stands is asked by GET too.
    let is_read = ["GET ", "HEAD "].iter().any(|method| line.starts_with(method)) && !line.contains("/blobs/uploads/");
    let mut server = TcpStream::connect(if is_read { reads } else { writes })?;
    server.write_all(format!("{line}Connection: close\r\n").as_bytes())?;
    let mut to = server.try_clone()?;
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
    });
    let mut back = client.try_clone()?;
    io::copy(&mut server, &mut back)?;
    client.shutdown(Shutdown::Both)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::passed;

    #[test]
    fn of_a_report_the_tests_that_passed_are_counted_by_name() {
        let test = |name: &str, status: &str| {
            format!("<testcase name=\"{name}\" classname=\"\" time=\"0.1\" status=\"{status}\">\n</testcase>\n")
        };
        let report = [test("a/get", "passed"), test("a/get", "passed"), test("b", "failure"), test("c", "skipped")];
        assert_eq!(passed(&format!("<testsuites>{}", report.concat())), [("a/get".to_owned(), 2)].into());
    }
}
