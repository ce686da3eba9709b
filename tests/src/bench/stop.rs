//! SIGINT, SIGTERM and SIGHUP end the program the way an error does: what was started is ended, what was made is removed.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    STOP.store(true, Ordering::SeqCst);
}

/// From now on these signals are noted. A program that is started later has them as they were.
pub(crate) fn on_signals() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is allowed in one.
        let before = unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
        ensure!(before != libc::SIG_ERR, "signal: {}", std::io::Error::last_os_error());
    }
    Ok(())
}

/// An error once one of them came: whoever waits asks at each look.
pub(crate) fn check() -> Result<()> {
    ensure!(!STOP.load(Ordering::SeqCst), "stopped by a signal");
    Ok(())
}
