//! `shoal pull`: an image into this node's store, with a bar for each blob.

use std::collections::HashMap;

use anyhow::{Context, bail};
use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use shoal_content::Digest;

use super::remote::Remote;
use crate::{
    admin::types::{PullEvent, PullRequest},
    output::{self, Output},
};

/// `shoal pull`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// Image, as runtimes name it
    image: String,
    /// Platform to pull of an image for several [default: this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// An event is some dozens of bytes, but for the list of blobs.
const MAX_LINE: usize = 16 << 20;

pub(crate) async fn pull(args: &PullArgs) -> anyhow::Result<()> {
    let client = args.remote.client()?;
    let request = PullRequest { image: args.image.clone(), platform: args.platform.clone() };
    let mut body = client.request(Method::POST, "/v1/pull", Bytes::from(serde_json::to_vec(&request)?)).await?;
    let mut view = View::new(args.remote.json);
    let mut buffer = BytesMut::new();
    while let Some(bytes) = client.next(&mut body).await? {
        buffer.extend_from_slice(&bytes);
        while let Some(end) = buffer.iter().position(|&byte| byte == b'\n') {
            let line = buffer.split_to(end);
            buffer.advance(1);
            let event: PullEvent =
                serde_json::from_slice(&line).context("the node sent an event of another version")?;
            if view.show(event)? {
                return Ok(());
            }
        }
        if buffer.len() > MAX_LINE {
            bail!("the node sent an event of more than {MAX_LINE} bytes");
        }
    }
    bail!("the node ended the pull of {} without a word: see its log", args.image)
}

struct View {
    json: bool,
    bars: MultiProgress,
    by_digest: HashMap<Digest, ProgressBar>,
}

impl View {
    fn new(json: bool) -> Self {
        Self { json, bars: MultiProgress::new(), by_digest: HashMap::new() }
    }

    /// True when the pull has ended well.
    fn show(&mut self, event: PullEvent) -> anyhow::Result<bool> {
        if self.json {
            Output::stdout().json_line(&event)?;
        }
        match event {
            PullEvent::Resolved { image, digest, stale, blobs } => {
                let stale = if stale { ", as last known: upstream cannot be asked" } else { "" };
                if !self.json {
                    Output::stdout().line(format!("{image} is {digest}{stale}"))?;
                    for (digest, size) in blobs {
                        let bar = self.bars.add(ProgressBar::new(size).with_style(style()));
                        bar.set_prefix(digest.hex().chars().take(12).collect::<String>());
                        self.by_digest.insert(digest, bar);
                    }
                }
                Ok(false)
            }
            PullEvent::Progress { digest, done } => {
                if let Some(bar) = self.by_digest.get(&digest) {
                    bar.set_position(done);
                }
                Ok(false)
            }
            PullEvent::Done { digest, .. } => {
                if let Some(bar) = self.by_digest.get(&digest) {
                    bar.finish();
                }
                Ok(false)
            }
            PullEvent::Finished { bytes, took_ms, by_source } => {
                if !self.json {
                    Output::stdout().line(format!(
                        "{} in {}: {} from peers, {} from upstream, {} from disk",
                        output::bytes(bytes),
                        output::time(took_ms),
                        output::bytes(by_source.peers),
                        output::bytes(by_source.upstream),
                        output::bytes(by_source.disk),
                    ))?;
                }
                Ok(true)
            }
            PullEvent::Failed { reason } => bail!("{reason}"),
        }
    }
}

fn style() -> ProgressStyle {
    let template = "{prefix} {bar:30} {binary_bytes:>11} of {binary_total_bytes:>11} {binary_bytes_per_sec:>13}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
