//! The program as a process: what it prints, how it fails, how it stops.

mod support;

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use support::{DEADLINE, KEY, flags};

fn shoal(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal"));
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    shoal(args).output().unwrap()
}

fn error(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn config_prints_each_value_with_its_source_in_both_forms() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shoal.toml");
    std::fs::write(&file, "# a\nquota = \"3GiB\"\n").unwrap();
    let file = file.to_str().unwrap();
    let mut command = shoal(&["config", "--config", file, "--log-level", "debug"]);
    let text = String::from_utf8(command.env("SHOAL_LOG_FORMAT", "json").output().unwrap().stdout).unwrap();
    assert!(text.contains(&format!("quota = \"3GiB\"  # file {file}:2\n")), "{text}");
    assert!(
        text.contains("level = \"debug\"  # flag --log-level\nformat = \"json\"  # env SHOAL_LOG_FORMAT\n"),
        "{text}"
    );
    let output = shoal(&["config", "--json"]).env("SHOAL_CONFIG", file).output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["values"]["quota"]["source"], format!("file {file}:2"));
    assert_eq!(json["values"]["log.level"]["source"], "default");
}

#[test]
fn a_wrong_configuration_fails_with_one_line_that_says_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shoal.toml");
    std::fs::write(&file, "quota = \"3GiB\"\nqouta = \"3GiB\"\n").unwrap();
    let path = file.to_str().unwrap();
    for command in ["config", "serve", "status", "install"] {
        let message = error(&run(&[command, "--config", path]));
        assert_eq!(message, format!("shoal: {path}:2: unknown key qouta, did you mean quota?\n"), "{command}");
    }
    let missing = dir.path().join("missing.toml");
    let message = error(&run(&["config", "--config", missing.to_str().unwrap()]));
    assert!(message.contains("missing.toml: No such file"), "{message}");
}

#[test]
fn a_command_without_a_node_says_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("admin.sock");
    for command in [vec!["status"], vec!["peers"], vec!["ls"], vec!["find", "alpine"], vec!["pull", "alpine"]] {
        let mut command = shoal(&command);
        let message = error(&command.args(["--socket", socket.to_str().unwrap()]).output().unwrap());
        let expected = format!("shoal: cannot reach the node at {}: ", socket.display());
        assert!(message.starts_with(&expected) && message.contains("is `shoal serve` running?"), "{message}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = shoal(&["config"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_generated_key_is_its_owners_and_never_replaces_another() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("swarm.key");
    let path = file.to_str().unwrap();
    assert!(run(&["key", "generate", "-o", path]).status.success());
    let key = std::fs::read_to_string(&file).unwrap();
    assert!(key.starts_with("/key/swarm/psk/1.0.0/\n/base16/\n"), "{key}");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let message = error(&run(&["key", "generate", "-o", path]));
    assert!(message.contains("never replaced"), "{message}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), key);
    let printed = run(&["key", "generate"]).stdout;
    assert!(printed.starts_with(b"/key/swarm/psk/1.0.0/\n") && printed != key.as_bytes());
}

#[test]
fn install_and_uninstall_work_on_a_mounted_tree_and_fail_loudly_where_they_refuse() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_str().unwrap();
    let hosts = root.path().join("etc/containerd/certs.d/_default/hosts.toml");
    std::fs::create_dir_all(root.path().join("etc/containerd")).unwrap();
    let dry = run(&["install", "--root", path, "--dry-run"]);
    assert!(dry.status.success() && !hosts.exists(), "{dry:?}");
    let output = run(&["install", "--root", path, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["steps"][0]["action"], "created");
    assert!(report["notes"][0].as_str().unwrap().contains("config_path is unset"), "{report}");
    assert!(std::fs::read_to_string(&hosts).unwrap().contains("http://127.0.0.1:5050"));
    assert!(run(&["uninstall", "--root", path]).status.success());
    assert!(!hosts.exists());

    std::fs::create_dir_all(hosts.parent().unwrap()).unwrap();
    std::fs::write(&hosts, "server = ").unwrap();
    let message = error(&run(&["install", "--root", path]));
    assert!(message.contains("1 of 1 files left as they were"), "{message}");
    assert_eq!(std::fs::read_to_string(&hosts).unwrap(), "server = ");
}

/// A node as a process; killed if the test leaves it running.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(flags: &[(String, String)]) -> (Self, std::sync::mpsc::Receiver<String>) {
        let flags: Vec<_> = flags.iter().map(|(name, value)| format!("--{name}={value}")).collect();
        let mut command = shoal(&["serve"]);
        let mut child = command.args(&flags).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, read) = std::sync::mpsc::sync_channel(4096);
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        (Self(child), read)
    }

    /// The exit status, within the deadline.
    fn wait(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the node does not stop");
            std::thread::yield_now();
        }
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so its id is still its own.
        assert_eq!(unsafe { libc::kill(self.0.id().cast_signed(), signal) }, 0);
    }
}

fn wait_for(lines: &std::sync::mpsc::Receiver<String>, what: &str) -> Vec<String> {
    let mut seen = Vec::new();
    let end = Instant::now() + DEADLINE;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => seen.push(line),
            Err(error) => panic!("no line with {what:?} ({error}) among {seen:#?}"),
        }
        if seen.last().is_some_and(|line| line.contains(what)) {
            return seen;
        }
    }
}

#[test]
fn a_node_serves_answers_commands_and_stops_on_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = "127.0.0.1:1".parse().unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (mut process, lines) = Process::start(&flags(dir.path(), nobody, &[]));
        wait_for(&lines, "node is ready");
        let socket = dir.path().join("admin.sock");
        let socket = socket.to_str().unwrap();
        let output = run(&["status", "--socket", socket]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("\npeer       12D3KooW") && text.contains("\nstore      0 B of 1.0 GiB"), "{text}");
        let output = run(&["ls", "--json", "--socket", socket]);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap(), serde_json::json!([]));
        process.signal(signal);
        assert!(process.wait().success(), "{:#?}", lines.iter().collect::<Vec<_>>());
        assert!(!dir.path().join("admin.sock").exists());
    }
}

#[test]
fn a_node_that_cannot_start_says_why_and_which_key_to_change() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = "127.0.0.1:1".parse().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let cases = [
        (("gateway-listen", address), "gateway.listen"),
        (("swarm-key-file", "/nonexistent/key".to_owned()), "swarm.key_file: there is no /nonexistent/key"),
        (("data-dir", "/proc/nothing".to_owned()), "data_dir"),
        (("swarm-listen", "/ip4/127.0.0.1/udp/1".to_owned()), "swarm"),
    ];
    for ((name, value), message) in cases {
        let mut given = flags(dir.path(), nobody, &[]);
        given.retain(|(flag, _)| flag != name);
        given.push((name.to_owned(), value));
        let (mut process, lines) = Process::start(&given);
        assert_eq!(process.wait().code(), Some(1), "{name}");
        let lines: Vec<_> = lines.iter().collect();
        let last = lines.last().map(String::as_str).unwrap_or_default();
        assert!(last.starts_with("shoal: ") && last.contains(message), "{name}: {lines:#?}");
    }
}

#[test]
fn a_node_without_a_key_makes_one_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut given = flags(dir.path(), "127.0.0.1:1".parse().unwrap(), &[]);
    given.retain(|(flag, _)| flag != "swarm-key-file");
    let key = dir.path().join("data/swarm.key");
    let mut read = Vec::new();
    for _ in 0..2 {
        let (mut process, lines) = Process::start(&given);
        wait_for(&lines, "node is ready");
        process.signal(libc::SIGTERM);
        assert!(process.wait().success());
        read.push(std::fs::read_to_string(&key).unwrap());
    }
    assert_eq!(read[0], read[1]);
    assert_ne!(read[0], KEY);
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
}
