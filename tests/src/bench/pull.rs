//! One pull by `ctr` that unpacks nothing.
//!
//! With version 1 it is `content fetch`: `ctr` resolves and fetches, and sends what it fetched to containerd. With version 2 containerd's transfer
//! service does all of it, as when kubelet asks.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
    process::{Command, Stdio},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::stop;
use crate::{
    Containerd,
    containerd::{CTR_NAMESPACE, FOREIGN},
    wait_for,
};

/// How much of what `ctr` printed is told where it failed.
const LAST_WORDS: usize = 300;

/// A pull under way.
#[derive(Debug)]
pub(crate) struct Pull {
    /// When it began.
    pub(crate) began: Instant,
    pid: libc::pid_t,
    waiting: JoinHandle<io::Result<Ended>>,
    log: PathBuf,
    killed: Option<Duration>,
}

/// How a pull ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    /// When.
    pub(crate) at: Instant,
    /// The image is whole, and containerd has verified each blob.
    pub(crate) whole: bool,
    /// CPU seconds of `ctr`.
    pub(crate) cpu: f64,
}

impl Pull {
    /// Starts one on the host of `containerd`, which finds mirrors in its certs folder.
    pub(crate) fn start(containerd: &Containerd, image: &str) -> Result<Pull> {
        let log = containerd.host.folder.join("ctr.log");
        let out = File::create(&log)?;
        let programs = &containerd.config.programs;
        let mut command: Command = containerd.host.command(programs.ctr());
        command.arg("--address").arg(&containerd.socket).args(["--namespace", CTR_NAMESPACE]);
        if programs.is_version_one() {
            command.args(["content", "fetch"]);
        } else {
            command.args(["images", "pull", "--platform", FOREIGN]);
        }
        command.arg("--hosts-dir").arg(&containerd.certs).arg(image);
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let began = Instant::now();
        let child = command.spawn().context("starting ctr")?;
        let pid = libc::pid_t::try_from(child.id())?;
        // Waited for by wait4(2), which also tells what it cost, and by a thread, so that the end is timed to the millisecond.
        let waiting = std::thread::spawn(move || wait(pid));
        Ok(Pull { began, pid, waiting, log, killed: None })
    }

    /// Whether it still runs.
    pub(crate) fn is_under_way(&self) -> bool {
        !self.waiting.is_finished()
    }

    /// Ends it.
    pub(crate) fn kill(&mut self) {
        if self.is_under_way() && self.killed.is_none() {
            self.killed = Some(self.began.elapsed());
            // SAFETY: kill(2) reads two numbers. The thread that waits has not told of an end; should that come in
            // between, the id is free for some microseconds and nobody's.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
        }
    }

    /// How it ended, once it has.
    pub(crate) fn ended(self) -> Result<Ended> {
        self.waiting.join().expect("waiting does not panic").context("waiting for ctr")
    }

    /// The last that it printed, or that it was not let.
    pub(crate) fn last_words(&self) -> String {
        if let Some(after) = self.killed {
            return format!("killed after {:.1} s", after.as_secs_f64());
        }
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let last = log.lines().rev().find(|line| line.starts_with("ctr: ")).unwrap_or("no word from ctr");
        last.chars().take(LAST_WORDS).collect()
    }
}

fn wait(pid: libc::pid_t) -> io::Result<Ended> {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: wait4(2) writes to the two places given, which live as long as the call; the process is our child.
        let ended = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if ended == pid {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let at = Instant::now();
    // SAFETY: a rusage is numbers only, for which zeros are valid, and wait4 has filled it.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Ended {
        at,
        whole: libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
    })
}

/// Pulls and waits, for what must be there before a run.
pub(crate) fn pull_now(containerd: &Containerd, image: &str, limit: Duration) -> Result<()> {
    let mut pull = Pull::start(containerd, image)?;
    let waited = wait_for("a pull before the run", limit, || {
        stop::check()?;
        Ok((!pull.is_under_way()).then_some(()))
    });
    if waited.is_err() {
        pull.kill();
    }
    let last_words = pull.last_words();
    ensure!(pull.ended()?.whole, "the pull before the run failed: {last_words}");
    waited
}
