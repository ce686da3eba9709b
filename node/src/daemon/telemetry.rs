//! Logging: to standard error, as text or as JSON.

use std::io::{IsTerminal, stderr};

use anyhow::anyhow;
use tracing_subscriber::{EnvFilter, fmt, fmt::format::FmtSpan};

use crate::config::{LogConfig, LogFormat};

/// Told again by ourselves, or not worth an operator's time: a lone node has nobody to ask for its place in the DHT.
/// Naming these targets in `log.level` brings them back.
const QUIET: &str = "libp2p_swarm=warn,libp2p_kad=error";

/// Starts logging for this process.
pub(super) fn start(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(format!("{QUIET},{}", config.level))?;
    let builder = fmt().with_env_filter(filter).with_writer(stderr).with_span_events(FmtSpan::NONE);
    let started = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        // The journal adds the time by itself.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => {
            builder.with_ansi(false).without_time().try_init()
        }
        LogFormat::Text => builder.with_ansi(stderr().is_terminal()).try_init(),
    };
    started.map_err(|error| anyhow!("cannot start logging: {error}"))
}
