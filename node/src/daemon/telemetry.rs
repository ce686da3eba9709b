//! Logging: to standard error, as text or as JSON.

use std::io::{IsTerminal, stderr};

use anyhow::anyhow;
use tracing_subscriber::{EnvFilter, fmt, fmt::format::FmtSpan};

use crate::config::{LogConfig, LogFormat};

/// Starts logging for this process.
pub(super) fn start(config: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(&config.level)?;
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
