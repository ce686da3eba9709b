//! A registry with one image, and nodes on loopback with directories of their own.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use shoal::{
    admin::Client,
    config,
    daemon::{Node, Running},
};
use shoal_content::{Algorithm, Digest};
use tokio::{net::TcpListener, sync::oneshot};

/// Nothing here takes longer on the slowest machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A registry on loopback that knows `lib/app:v1`. Stops when it is dropped.
pub(crate) struct TestRegistry {
    pub(crate) address: SocketAddr,
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) manifest: Digest,
    _stop: oneshot::Sender<()>,
}

/// By name: media type and bytes.
type Content = Arc<HashMap<String, (&'static str, Vec<u8>)>>;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl TestRegistry {
    /// One with an image of layers of these sizes in bytes.
    pub(crate) async fn start(sizes: &[usize]) -> Self {
        let layers: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(index, size)| noise(index as u64, *size)).collect();
        let mut content = HashMap::new();
        let describe = |bytes: &[u8]| {
            let digest = Digest::of(Algorithm::Sha256, bytes);
            serde_json::json!({ "mediaType": "application/octet-stream", "digest": digest, "size": bytes.len() })
        };
        let config = b"{\"os\":\"linux\"}".to_vec();
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(&config),
            "layers": layers.iter().map(|layer| describe(layer)).collect::<Vec<_>>(),
        }))
        .unwrap();
        let manifest_digest = Digest::of(Algorithm::Sha256, &manifest);
        for blob in layers.iter().chain([&config]) {
            content.insert(Digest::of(Algorithm::Sha256, blob).to_string(), ("application/octet-stream", blob.clone()));
        }
        content.insert(manifest_digest.to_string(), (MANIFEST, manifest.clone()));
        content.insert("v1".to_owned(), (MANIFEST, manifest));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new()
            .route("/v2/lib/app/manifests/{name}", get(answer))
            .route("/v2/lib/app/blobs/{name}", get(answer))
            .with_state(Arc::new(content));
        tokio::spawn(async move {
            tokio::select! {
                result = async { axum::serve(listener, router).await } => result.unwrap(),
                _ = stopped => {}
            }
        });
        Self { address, layers, manifest: manifest_digest, _stop: stop }
    }

    pub(crate) fn image(&self) -> String {
        format!("{}/lib/app:v1", self.address)
    }

    pub(crate) fn layer(&self, index: usize) -> Digest {
        Digest::of(Algorithm::Sha256, &self.layers[index])
    }
}

async fn answer(State(content): State<Content>, Path(name): Path<String>) -> Response {
    let Some((media_type, bytes)) = content.get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let digest = Digest::of(Algorithm::Sha256, bytes).to_string();
    (
        [(header::CONTENT_TYPE, (*media_type).to_owned()), ("docker-content-digest".parse().unwrap(), digest)],
        bytes.clone(),
    )
        .into_response()
}

/// Bytes that look random, the same for the same seed.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
    .take(size)
    .collect()
}

/// A node of its own directory.
pub(crate) struct TestNode {
    pub(crate) running: Running,
    pub(crate) client: Client,
    pub(crate) dir: tempfile::TempDir,
}

/// The swarm key that all nodes of a test share.
pub(crate) const KEY: &str =
    "/key/swarm/psk/1.0.0/\n/base16/\n0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n";

/// Flags for a node in `dir` that serves the registry.
pub(crate) fn flags(dir: &std::path::Path, registry: SocketAddr, more: &[(&str, String)]) -> Vec<(String, String)> {
    let key = dir.join("swarm.key");
    std::fs::write(&key, KEY).unwrap();
    let text = |path: PathBuf| path.to_str().unwrap().to_owned();
    let mut flags = vec![
        ("data-dir", text(dir.join("data"))),
        ("quota", "1GiB".to_owned()),
        ("keep-free", "1".to_owned()),
        ("swarm-key-file", text(key)),
        ("swarm-listen", "/ip4/127.0.0.1/tcp/0".to_owned()),
        ("gateway-listen", "127.0.0.1:0".to_owned()),
        ("metrics-listen", "127.0.0.1:0".to_owned()),
        ("admin-socket", text(dir.join("admin.sock"))),
        ("registry", format!("{registry}=http://{registry};allow_private")),
    ];
    flags.extend(more.iter().map(|(name, value)| (*name, value.clone())));
    flags.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

impl TestNode {
    pub(crate) async fn start(registry: SocketAddr, peers: &[&TestNode]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peers = peers.iter().flat_map(|peer| peer.running.node().swarm().addresses());
        let more: Vec<_> = peers.map(|address| ("swarm-peers", address.to_string())).collect();
        let config = config::parse(None, &[], &flags(dir.path(), registry, &more)).unwrap().config;
        let client = Client::new(&config.admin_socket);
        let running = tokio::time::timeout(DEADLINE, Node::start(config)).await.unwrap().unwrap();
        Self { running, client, dir }
    }
}
