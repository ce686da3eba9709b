//! Debian's containerd, once for each host, with a root, a state and a socket of its own.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    cri,
    process::{Daemon, run},
    testbed::Host,
    tree::{self, Tree},
};

const READY: Duration = Duration::from_secs(20);
const PULL: Duration = Duration::from_secs(180);
const SHORT: Duration = Duration::from_secs(60);

/// Where containerd's CRI plugin keeps its images.
pub const CRI_NAMESPACE: &str = "k8s.io";
/// Where `ctr` keeps them unless told otherwise.
pub const CTR_NAMESPACE: &str = "default";

/// A containerd on a host.
#[derive(Debug)]
pub struct Containerd {
    /// Where it runs.
    pub host: Host,
    /// `config_path`: the folders with a `hosts.toml` for each registry.
    pub certs: PathBuf,
    pub(crate) socket: PathBuf,
    _daemon: Daemon,
}

impl Containerd {
    /// Starts one that knows no registry yet.
    pub fn start(host: &Host) -> Result<Containerd> {
        let folder = host.folder.join("containerd");
        let (root, state, certs) = (folder.join("root"), folder.join("state"), folder.join("certs.d"));
        let socket = folder.join("containerd.sock");
        for path in [&root, &state, &certs] {
            fs::create_dir_all(path)?;
        }
        let config = folder.join("config.toml");
        let shown = |path: &PathBuf| path.display().to_string();
        fs::write(
            &config,
            format!(
                r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
disable_tcp_service = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{certs}"
"#,
                root = shown(&root),
                state = shown(&state),
                socket = shown(&socket),
                opt = shown(&folder.join("opt")),
                certs = shown(&certs),
            ),
        )?;
        let mut command = host.command("containerd");
        command.arg("--config").arg(&config);
        let mut daemon = Daemon::start("containerd", &mut command, &folder.join("log"))?;
        daemon.wait_until("an answer to ctr version", READY, || {
            let answer = run(host.command_within(SHORT, "ctr").arg("--address").arg(&socket).arg("version"));
            Ok(answer.is_ok().then_some(()))
        })?;
        Ok(Containerd { host: host.clone(), certs, socket, _daemon: daemon })
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

    /// Pulls with `ctr`, which resolves and fetches in its own process.
    pub fn ctr_pull(&self, image: &str) -> Result<()> {
        let certs = self.certs.display().to_string();
        self.ctr(CTR_NAMESPACE, PULL, &["images", "pull", "--hosts-dir", &certs, image]).map(drop)
    }

    /// Pulls as kubelet does: containerd resolves and fetches.
    pub fn cri_pull(&self, image: &str) -> Result<String> {
        cri::pull_image(&self.socket, image, PULL)
    }

    /// The files that a container of an image has, which must have been pulled in `namespace`.
    pub fn files(&self, namespace: &str, image: &str) -> Result<Tree> {
        let target = self.host.folder.join("mounted");
        fs::create_dir_all(&target)?;
        let shown = target.display().to_string();
        // Outside of the host's namespaces, so that what is mounted is seen by this process too.
        let mut mount = std::process::Command::new("ctr");
        mount.arg("--address").arg(&self.socket).args(["--namespace", namespace, "images", "mount", image, &shown]);
        run(&mut mount)?;
        let files = tree::read(&target);
        let mut unmount = std::process::Command::new("ctr");
        unmount.arg("--address").arg(&self.socket).args([
            "--namespace",
            namespace,
            "images",
            "unmount",
            "--rm",
            &shown,
        ]);
        run(&mut unmount)?;
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
        let mut command = self.host.command_within(SHORT, "ctr");
        command.arg("--address").arg(&self.socket).args(["--namespace", namespace, "content", "get", digest]);
        let output = command.output()?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }

    fn ctr(&self, namespace: &str, limit: Duration, arguments: &[&str]) -> Result<String> {
        let mut command = self.host.command_within(limit, "ctr");
        command.arg("--address").arg(&self.socket).args(["--namespace", namespace]).args(arguments);
        run(&mut command)
    }
}
