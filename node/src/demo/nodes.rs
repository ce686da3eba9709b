//! The nodes of the demonstration: separate processes of this very program.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use tokio::process::{Child, Command};

use crate::admin::{Client, types::Status};

/// How long a node may take until it serves.
const START: Duration = Duration::from_secs(20);

/// How long a node is given to stop by itself.
const STOP: Duration = Duration::from_secs(5);

/// How often a node that starts is asked whether it serves.
const POLL: Duration = Duration::from_millis(20);

/// A node under way. Dropping it kills it.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) status: Status,
    client: Client,
    child: Child,
    log: PathBuf,
}

impl Node {
    /// Starts a node with a folder of its own below `folder`, in a swarm with `peers`, for images of `registry`.
    pub(super) async fn start(folder: &Path, name: &str, registry: &str, peers: &[String]) -> Result<Self> {
        let own = folder.join(name);
        std::fs::create_dir_all(&own)?;
        let (socket, config, log) = (own.join("s"), own.join("shoal.toml"), own.join("log"));
        let peers = peers.iter().map(|peer| format!("{peer:?}")).collect::<Vec<_>>().join(", ");
        let text = format!(
            "data_dir = {data:?}\nquota = \"100GiB\"\n\n\
             [gateway]\nlisten = \"127.0.0.1:0\"\n\n\
             [swarm]\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\nkey_file = {key:?}\npeers = [{peers}]\n\n\
             [registries.{registry:?}]\nendpoint = \"http://{registry}\"\nallow_private = true\n\n\
             [admin]\nsocket = {socket:?}\n\n[metrics]\nlisten = \"127.0.0.1:0\"\n\n[log]\nlevel = \"info\"\n",
            data = own.join("data"),
            key = folder.join("swarm.key"),
        );
        std::fs::write(&config, text)?;
        let program = std::env::current_exe().context("finding this program's own file")?;
        let mut child = Command::new(program)
            .args(["serve", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&log)?)
            .stderr(std::fs::OpenOptions::new().append(true).open(&log)?)
            .kill_on_drop(true)
            .spawn()
            .context("starting a node")?;
        let client = Client::new(&socket);
        let status = wait(name, &client, &mut child, &log, |status| !status.addresses.is_empty()).await?;
        Ok(Self { name: name.to_owned(), status, client, child, log })
    }

    /// Waits until the node's status is as asked for.
    pub(super) async fn wait(&mut self, is_right: impl Fn(&Status) -> bool) -> Result<()> {
        self.status = wait(&self.name, &self.client, &mut self.child, &self.log, is_right).await?;
        Ok(())
    }

    /// Asks how the node stands.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        self.status = self.client.get("/v1/status").await?;
        Ok(())
    }

    /// Where peers find it.
    pub(super) fn address(&self) -> Option<String> {
        self.status.addresses.iter().find(|address| address.contains("/ip4/127.0.0.1/")).cloned()
    }

    /// Asks it to stop, and kills it when it does not.
    pub(super) async fn stop(mut self) -> Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: a plain system call; the process is our child and has not been waited for, so the id is its.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        Ok(())
    }
}

async fn wait(
    name: &str,
    client: &Client,
    child: &mut Child,
    log: &Path,
    is_right: impl Fn(&Status) -> bool,
) -> Result<Status> {
    let deadline = tokio::time::Instant::now() + START;
    loop {
        if let Some(exit) = child.try_wait()? {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            bail!("{name} ended ({exit}):\n{log}");
        }
        if let Ok(status) = client.get::<Status>("/v1/status").await
            && is_right(&status)
        {
            return Ok(status);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("{name} did not come up within {START:?}; its log: {}", log.display());
        }
        tokio::time::sleep(POLL).await;
    }
}
