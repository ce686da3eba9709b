//! The same against a registry of the field, where this machine has one: Debian's `docker-registry`.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::TryStreamExt;
use shoal_content::{Algorithm, Digest, Origin, Reference, Registry};
use shoal_upstream::{Config, Credential, Error, RegistryConfig, Upstream};

const BINARY: &str = "/usr/bin/docker-registry";
/// `robot:secret`, as `htpasswd -B` writes it.
const HTPASSWD: &str = "robot:$2y$05$8VGCZLGKhHpp3qrVOf9L4.5eMgfZQVhdgHj71pPvRttkS2i/G8jm6";
const MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

struct Server {
    child: Child,
    registry: Registry,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Server {
    /// `None`, with the reason printed, where there is no such registry.
    async fn start(authentication: bool) -> Option<Self> {
        if !Path::new(BINARY).exists() {
            #[expect(clippy::print_stderr, reason = "what a test leaves out has to be seen")]
            {
                eprintln!("SKIPPED: {BINARY} is not here (Debian package docker-registry)");
            }
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = directory.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        );
        if authentication {
            fs::write(directory.path().join("htpasswd"), HTPASSWD).unwrap();
            config.push_str(&format!("auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n"));
        }
        let path = directory.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let child =
            Command::new(BINARY).arg("serve").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let registry: Registry = format!("127.0.0.1:{port}").parse().unwrap();
        let server = Self { child, registry, _directory: directory };
        server.wait_until_it_answers().await;
        Some(server)
    }

    async fn wait_until_it_answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while client().get(self.url("/v2/")).send().await.is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.registry)
    }

    fn origin(&self) -> Origin {
        Origin { registry: self.registry.clone(), repository: "lib/app".parse().unwrap() }
    }

    fn upstream(&self) -> Upstream {
        let rules = RegistryConfig {
            endpoint: Some(self.url("").parse().unwrap()),
            allow_private: true,
            ..RegistryConfig::default()
        };
        Upstream::new(&Config { registries: [(self.registry.clone(), rules)].into(), ..Config::default() }).unwrap()
    }

    async fn push_blob(&self, content: Bytes) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &content);
        let begin = client().post(self.url("/v2/lib/app/blobs/uploads/"));
        let begun = begin.basic_auth("robot", Some("secret")).send().await.unwrap();
        assert_eq!(begun.status(), 202);
        let location = begun.headers()["location"].to_str().unwrap().to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let put = client().put(format!("{location}{separator}digest={digest}"));
        let done = put.basic_auth("robot", Some("secret")).body(content).send().await.unwrap();
        assert_eq!(done.status(), 201);
        digest
    }

    async fn push_image(&self, layer: &Bytes) -> (Digest, Digest) {
        let layer_digest = self.push_blob(layer.clone()).await;
        let config = Bytes::from_static(b"{}");
        let config_digest = self.push_blob(config).await;
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MEDIA_TYPE}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer_digest}","size":{}}}]}}"#,
            layer.len()
        );
        let digest = Digest::of(Algorithm::Sha256, manifest.as_bytes());
        let put = client().put(self.url("/v2/lib/app/manifests/v1")).header("content-type", MEDIA_TYPE);
        let done = put.basic_auth("robot", Some("secret")).body(manifest).send().await.unwrap();
        assert_eq!(done.status(), 201);
        (digest, layer_digest)
    }
}

fn client() -> reqwest::Client {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build().unwrap()
}

#[tokio::test]
async fn an_image_comes_from_a_real_registry() {
    let Some(server) = Server::start(false).await else { return };
    let layer: Bytes = (0..3_000_000u32).map(|byte| (byte * 7 / 3) as u8).collect();
    let (manifest, digest) = server.push_image(&layer).await;
    let (upstream, origin) = (server.upstream(), server.origin());

    let found = upstream.resolve(&origin, &"v1".parse().unwrap()).await.unwrap();
    assert_eq!((found.digest, found.media_type.as_str()), (manifest, MEDIA_TYPE));
    for reference in ["v1".parse().unwrap(), Reference::Digest(manifest)] {
        let got = upstream.manifest(&origin, &reference).await.unwrap();
        assert_eq!((got.digest, got.bytes.len() as u64), (manifest, found.size));
    }
    assert_eq!(upstream.blob_size(&origin, &digest).await.unwrap(), layer.len() as u64);

    let stream = upstream.blob(&origin, &digest, 0).await.unwrap();
    assert_eq!((stream.size(), stream.offset(), stream.ranged()), (Some(3_000_000), 0, true));
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), layer);

    let stream = upstream.blob_range(&origin, &digest, 1_048_576..2_097_152).await.unwrap();
    assert_eq!((stream.offset(), stream.end(), stream.ranged()), (1_048_576, Some(2_097_152), true));
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), layer.slice(1_048_576..2_097_152));

    let beyond = upstream.blob(&origin, &digest, 3_000_001).await.unwrap_err();
    assert!(matches!(beyond, Error::OutOfRange { .. } | Error::Invalid { .. }), "{beyond}");

    let tags = upstream.passthrough(&origin, "tags/list", None).await.unwrap();
    assert!(String::from_utf8_lossy(&tags.body).contains("\"v1\""));
    let absent = Digest::of(Algorithm::Sha256, b"absent");
    assert!(matches!(upstream.blob_size(&origin, &absent).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_real_registry_with_passwords_gives_to_who_has_one() {
    let Some(server) = Server::start(true).await else { return };
    let (manifest, _) = server.push_image(&Bytes::from_static(b"layer")).await;
    let (upstream, origin) = (server.upstream(), server.origin());
    let reference = Reference::Digest(manifest);
    let error = upstream.manifest(&origin, &reference).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let wrong = upstream.with_access(Credential::basic("robot", "guess"));
    assert!(matches!(wrong.manifest(&origin, &reference).await, Err(Error::Denied { .. })));
    let right = upstream.with_access(Credential::basic("robot", "secret"));
    assert_eq!(right.manifest(&origin, &reference).await.unwrap().digest, manifest);
}
