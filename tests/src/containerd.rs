//! containerd, once for each host, with a root, a state and a socket of its own: Debian's, or the one of today that `cargo xtask deps` builds.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    cri,
    process::{Daemon, run},
    testbed::{Host, profile_folder},
    tree::{self, Tree},
};

const READY: Duration = Duration::from_secs(20);
const PULL: Duration = Duration::from_secs(180);
const SHORT: Duration = Duration::from_secs(60);

/// Where containerd's CRI plugin keeps its images.
pub const CRI_NAMESPACE: &str = "k8s.io";
/// Where `ctr` keeps them unless told otherwise.
pub const CTR_NAMESPACE: &str = "default";

/// A platform that no image of the tests is for. `ctr images pull` asks for unpacking, and is told of this one where nothing shall be.
pub(crate) const FOREIGN: &str = "linux/s390x";

/// A containerd and its `ctr`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// As `containerd --version` says it, with the distribution's suffix.
    pub version: String,
    folder: Option<PathBuf>,
}

/// How a containerd is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which one.
    pub programs: Programs,
    /// CRI and `ctr` pull with the client's code, as before version 2, and not by the transfer service.
    pub by_client: bool,
    /// Bytes of a chunk of parallel layer fetch, which version 2.1 brought; 0: one request for each layer.
    pub chunk: u64,
    /// The transfer service unpacks images for [`FOREIGN`] alone, and so none of ours. It must be told to unpack something.
    pub keep_packed: bool,
}

impl Programs {
    /// Debian's, in PATH.
    pub fn debian() -> Result<Programs> {
        Programs::new(None)
    }

    /// Those in a folder.
    pub fn within(folder: &Path) -> Result<Programs> {
        Programs::new(Some(folder.to_owned()))
    }

    /// What clusters run: the folder that `SHOAL_CONTAINERD` names, or what `cargo xtask deps` built; `None` where it is not installed.
    pub fn of_today() -> Result<Option<Programs>> {
        if let Some(folder) = std::env::var_os("SHOAL_CONTAINERD") {
            return Programs::within(Path::new(&folder)).map(Some);
        }
        let folder =
            profile_folder()?.parent().context("the profile's folder lies in target")?.join("tools/containerd");
        folder.join("containerd").is_file().then(|| Programs::within(&folder)).transpose()
    }

    fn new(folder: Option<PathBuf>) -> Result<Programs> {
        let mut programs = Programs { version: String::new(), folder };
        // `containerd PACKAGE VERSION REVISION`
        let printed = run(Command::new(programs.path("containerd")).arg("--version"))?;
        programs.version =
            printed.split_whitespace().nth(2).with_context(|| format!("no version: {printed}"))?.to_owned();
        Ok(programs)
    }

    fn path(&self, program: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(|| PathBuf::from(program), |folder| folder.join(program))
    }

    /// The path of `ctr`, or its name.
    pub(crate) fn ctr(&self) -> PathBuf {
        self.path("ctr")
    }

    /// Version 1 has no transfer service, and another file of configuration.
    pub(crate) fn is_version_one(&self) -> bool {
        self.version.starts_with("1.")
    }
}

impl Config {
    /// As it is without a word of configuration.
    pub fn of(programs: Programs) -> Config {
        Config { programs, by_client: false, chunk: 0, keep_packed: false }
    }

    fn text(&self, folder: &Path) -> String {
        let at = |name: &str| folder.join(name).display().to_string();
        let head = format!(
            r#"root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{socket}"
[ttrpc]
address = "{socket}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
disable_tcp_service = true
"#,
            root = at("root"),
            state = at("state"),
            socket = at("containerd.sock"),
            opt = at("opt"),
        );
        let certs = at("certs.d");
        if self.programs.is_version_one() {
            return format!(
                r#"version = 2
{head}[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{certs}"
"#
            );
        }
        // NRI has one socket for the whole machine. The chunk's size counts where the pull is done.
        let chunk = format!("concurrent_layer_fetch_buffer = {}\n", self.chunk);
        let (client, transfer) = if self.by_client { (chunk.as_str(), "") } else { ("", chunk.as_str()) };
        let mut text = format!(
            r#"version = 3
{head}[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
use_local_image_pull = {by_client}
{client}[plugins."io.containerd.cri.v1.images".registry]
config_path = "{certs}"
[plugins."io.containerd.transfer.v1.local"]
{transfer}"#,
            by_client = self.by_client,
        );
        if self.keep_packed {
            let _ = writeln!(
                text,
                r#"check_platform_supported = true
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "{FOREIGN}"
snapshotter = "overlayfs"
differ = "walking""#
            );
        }
        text
    }
}

/// A containerd on a host.
#[derive(Debug)]
pub struct Containerd {
    /// Where it runs.
    pub host: Host,
    /// `config_path`: the folders with a `hosts.toml` for each registry.
    pub certs: PathBuf,
    pub(crate) config: Config,
    pub(crate) socket: PathBuf,
    daemon: Daemon,
}

impl Containerd {
    /// Starts Debian's, that knows no registry yet.
    pub fn start(host: &Host) -> Result<Containerd> {
        Containerd::start_as(host, &Config::of(Programs::debian()?))
    }

    /// Starts one that knows no registry yet.
    pub fn start_as(host: &Host, config: &Config) -> Result<Containerd> {
        let folder = host.folder.join("containerd");
        let (certs, socket) = (folder.join("certs.d"), folder.join("containerd.sock"));
        fs::create_dir_all(&certs)?;
        let file = folder.join("config.toml");
        fs::write(&file, config.text(&folder))?;
        let mut command = host.command(config.programs.path("containerd"));
        command.arg("--config").arg(&file);
        let mut daemon = Daemon::start("containerd", &mut command, &folder.join("log"))?;
        daemon.wait_until("an answer to ctr version", READY, || {
            let mut ask = host.command_within(SHORT, config.programs.ctr());
            let answer = run(ask.arg("--address").arg(&socket).arg("version"));
            Ok(answer.is_ok().then_some(()))
        })?;
        Ok(Containerd { host: host.clone(), certs, config: config.clone(), socket, daemon })
    }

    /// Says that `registry` speaks plain HTTP and has no mirror.
    pub fn pull_directly(&self, registry: &str) -> Result<()> {
        let folder = self.certs.join(registry);
        fs::create_dir_all(&folder)?;
        fs::write(
            folder.join("hosts.toml"),
            format!("[host.\"http://{registry}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"),
        )?;
        Ok(())
    }

    /// Pulls with `ctr`, which resolves and fetches in its own process, or has the transfer service do so.
    pub fn ctr_pull(&self, image: &str) -> Result<()> {
        let certs = self.certs.display().to_string();
        let mut words = vec!["images", "pull", "--hosts-dir", &certs];
        if self.config.by_client && !self.config.programs.is_version_one() {
            words.push("--local");
        }
        words.push(image);
        self.ctr(CTR_NAMESPACE, PULL, &words).map(drop)
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        self.daemon.log()
    }

    /// Pulls as kubelet does: containerd resolves and fetches.
    pub fn cri_pull(&self, image: &str) -> Result<String> {
        cri::pull_image(&self.socket, image, None, PULL)
    }

    /// The same for a pod with a pull secret: user and password.
    pub fn cri_pull_with(&self, image: &str, secret: (&str, &str)) -> Result<String> {
        cri::pull_image(&self.socket, image, Some(secret), PULL)
    }

    /// The files that a container of an image has, which must have been pulled in `namespace`.
    pub fn files(&self, namespace: &str, image: &str) -> Result<Tree> {
        let target = self.host.folder.join("mounted");
        fs::create_dir_all(&target)?;
        let shown = target.display().to_string();
        self.ctr_there(&["--namespace", namespace, "images", "mount", image, &shown])?;
        // Seen from where it is mounted.
        let files = tree::read(Path::new(&format!("/proc/{}/root{shown}", self.daemon.pid())));
        self.ctr_there(&["--namespace", namespace, "images", "unmount", "--rm", &shown])?;
        files
    }

    /// Forgets all images of a namespace, by whatever names, and their content, before it returns.
    pub fn remove_all(&self, namespace: &str) -> Result<()> {
        let names = self.ctr(namespace, SHORT, &["images", "ls", "--quiet"])?;
        let mut remove = vec!["images", "remove", "--sync"];
        remove.extend(names.split_whitespace());
        self.ctr(namespace, SHORT, &remove)?;
        let left = self.content(namespace)?;
        ensure!(left.is_empty(), "content is left after {names} was removed: {left:?}");
        Ok(())
    }

    /// Digests of all content in a namespace.
    pub fn content(&self, namespace: &str) -> Result<Vec<String>> {
        Ok(self.ctr(namespace, SHORT, &["content", "ls", "--quiet"])?.split_whitespace().map(str::to_owned).collect())
    }

    /// Bytes of a blob as containerd has it.
    pub fn blob(&self, namespace: &str, digest: &str) -> Result<Vec<u8>> {
        let mut command = self.host.command_within(SHORT, self.config.programs.ctr());
        command.arg("--address").arg(&self.socket).args(["--namespace", namespace, "content", "get", digest]);
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    fn ctr(&self, namespace: &str, limit: Duration, arguments: &[&str]) -> Result<String> {
        let mut command = self.host.command_within(limit, self.config.programs.ctr());
        command.arg("--address").arg(&self.socket).args(["--namespace", namespace]).args(arguments);
        run(&mut command)
    }

    /// Among the mounts of containerd, which since version 2.2 does a part of the mounting.
    fn ctr_there(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.arg("--mount").arg(format!("--target={}", self.daemon.pid())).arg(self.config.programs.ctr());
        run(command.arg("--address").arg(&self.socket).args(arguments))
    }
}
