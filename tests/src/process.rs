//! Programs: those that run to their end, and those that stay.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::wait::wait_for;

/// How much of a log is shown when a test fails.
const LOG_LINES: usize = 40;

/// What a daemon gets to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// Runs a command to its end and gives what it printed; where it fails, the error says what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}: {}{}", output.status, printed, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(printed)
}

/// Like [`run`], of words that need no quoting.
pub fn sh(words: &str) -> Result<String> {
    let mut parts = words.split_whitespace();
    run(Command::new(parts.next().context("an empty command")?).args(parts))
}

/// A program that stays until it is stopped, killed or dropped.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// Starts `command`; what it prints is appended to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Daemon> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Daemon { name: name.to_owned(), child, log: log.to_owned(), ended: None })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> Result<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended.is_none())
    }

    /// What it printed so far.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }

    /// Waits until `look` gives something; fails at once where the program ends before.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let name = self.name.clone();
        wait_for(&format!("{name}: {what}"), limit, || {
            let found = look()?;
            if found.is_none() {
                ensure!(self.is_alive()?, "{name} ended ({:?}) before this: {what}\n{}", self.ended, self.log_tail());
            }
            Ok(found)
        })
    }

    /// SIGTERM, and its exit status; SIGKILL where it takes longer than ten seconds, which is an error.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        let ended = wait_for("an end after SIGTERM", GRACE, || {
            self.is_alive()?;
            Ok(self.ended)
        });
        if ended.is_err() {
            self.kill()?;
        }
        ended.with_context(|| self.name.clone())
    }

    /// SIGKILL, as when the machine dies.
    pub fn kill(&mut self) -> Result<()> {
        if self.is_alive()? {
            self.child.kill()?;
            self.ended = Some(self.child.wait()?);
        }
        Ok(())
    }

    /// SIGSTOP: it lives, keeps its connections, and does nothing.
    pub fn freeze(&mut self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// SIGCONT, after [`freeze`](Self::freeze).
    pub fn thaw(&mut self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    fn signal(&mut self, signal: i32) -> Result<()> {
        ensure!(self.is_alive()?, "{} has ended already: {:?}", self.name, self.ended);
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: kill(2) reads its two numbers only; the child has not been waited for, so its id is still its own.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "kill: {}", std::io::Error::last_os_error());
        Ok(())
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let killed = self.kill();
        if std::thread::panicking() {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("--- {} ({killed:?}), the end of its log:\n{}", self.name, self.log_tail());
            }
        }
    }
}
