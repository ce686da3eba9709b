//! `shoal get`: a blob's bytes, checked against its digest once more on this side.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::Method;
use shoal_content::{Digest, Hasher};

use super::remote::Remote;
use crate::{
    admin::{Client, client::percent_encoded},
    output::Output,
};

/// `shoal get`
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// Digest of a blob, or CID of any file of the swarm
    name: String,
    /// File to write; standard output without it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Repository to fetch it through when this node does not hold it
    #[arg(long, value_name = "REGISTRY/REPOSITORY")]
    from: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(crate) async fn get(args: &GetArgs) -> anyhow::Result<()> {
    let client = args.remote.client()?;
    let from = args.from.as_deref().map(|from| format!("?from={}", percent_encoded(from))).unwrap_or_default();
    let path = format!("/v1/blobs/{}{from}", percent_encoded(&args.name));
    let digest: Option<Digest> = args.name.parse().ok();
    let Some(file) = &args.output else {
        let size = receive(&client, &path, digest, &mut Output::stdout()).await?;
        tracing::debug!(size, "written");
        return Ok(());
    };
    let half = with_suffix(file, ".part");
    let mut out = File::create(&half).with_context(|| format!("cannot write {}", half.display()))?;
    let received = receive(&client, &path, digest, &mut out).await;
    let kept = received.and_then(|size| {
        out.sync_all()?;
        fs::rename(&half, file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(size)
    });
    let size = match kept {
        Ok(size) => size,
        Err(error) => {
            // What is not whole is not left lying about; the first error is the one to tell.
            let _ = fs::remove_file(&half);
            return Err(error);
        }
    };
    let mut out = Output::stdout();
    if args.remote.json {
        out.json(&serde_json::json!({ "name": args.name, "size": size, "file": file }))?;
    }
    Ok(())
}

async fn receive(client: &Client, path: &str, digest: Option<Digest>, out: &mut impl Write) -> anyhow::Result<u64> {
    let mut body = client.request(Method::GET, path, Bytes::new()).await?;
    let mut hasher = digest.map(|digest| Hasher::new(digest.algorithm()));
    let mut size = 0;
    while let Some(bytes) = client.next(&mut body).await? {
        if let Some(hasher) = &mut hasher {
            hasher.update(&bytes);
        }
        size += bytes.len() as u64;
        out.write_all(&bytes)?;
    }
    out.flush()?;
    match (digest, hasher.map(Hasher::finish)) {
        (Some(wanted), Some(got)) if wanted != got => bail!("what came is {got}, not {wanted}"),
        _ => Ok(size),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
