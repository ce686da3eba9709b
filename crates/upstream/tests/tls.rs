//! HTTPS: whose certificates are taken, and that nobody leaves it unasked.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt;
use shoal_content::{Digest, Origin, Registry};
use shoal_upstream::{
    Config, Error, RegistryConfig, Upstream,
    fake::{Does, Fake, Fault, On},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, pem::PemObject},
    },
};

/// A fake registry, and HTTPS in front of it under the name `localhost`, with a certificate that signs itself.
struct Secure {
    fake: Fake,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Secure {
    async fn start() -> Self {
        let fake = Fake::start().await;
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), made.cert.pem()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(made.key_pair.serialize_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let plain = fake.address();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut outside = acceptor.accept(stream).await.ok()?;
                    let mut inside = TcpStream::connect(plain).await.ok()?;
                    tokio::io::copy_bidirectional(&mut outside, &mut inside).await.ok()
                });
            }
        });
        Self { fake, address, directory }
    }

    fn ca(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn registry(&self) -> Registry {
        format!("localhost:{}", self.address.port()).parse().unwrap()
    }

    fn origin(&self) -> Origin {
        Origin { registry: self.registry(), repository: "a".parse().unwrap() }
    }

    fn upstream(&self, rules: RegistryConfig) -> Result<Upstream, Error> {
        let rules = RegistryConfig { allow_private: true, ..rules };
        Upstream::new(&Config { registries: [(self.registry(), rules)].into(), ..self.fake.config() })
    }

    fn trusting(&self) -> RegistryConfig {
        RegistryConfig { ca: Some(self.ca()), ..RegistryConfig::default() }
    }
}

async fn read(upstream: &Upstream, origin: &Origin, digest: &Digest) -> Result<Vec<u8>, Error> {
    let stream = upstream.blob(origin, digest, 0).await?;
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    Ok(pieces.concat())
}

#[tokio::test]
async fn a_registry_is_reached_over_https_with_its_own_authority() {
    let secure = Secure::start().await;
    let digest = secure.fake.put_blob("a", "hello");
    let upstream = secure.upstream(secure.trusting()).unwrap();
    assert_eq!(read(&upstream, &secure.origin(), &digest).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_certificate_of_nobody_is_refused_at_once_and_the_error_says_what_to_set() {
    let secure = Secure::start().await;
    let digest = secure.fake.put_blob("a", "hello");
    let upstream = secure.upstream(RegistryConfig::default()).unwrap();
    let error = read(&upstream, &secure.origin(), &digest).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("set `ca` for registry localhost"), "{error}");
    assert_eq!(upstream.counters().snapshot().retries, 0);
    assert!(secure.fake.requests().is_empty());
}

#[tokio::test]
async fn checking_may_be_switched_off_for_a_registry_and_not_for_where_it_redirects_to() {
    let secure = Secure::start().await;
    let digest = secure.fake.put_blob("a", "hello");
    let skip = RegistryConfig { insecure_skip_verify: true, ..RegistryConfig::default() };
    let upstream = secure.upstream(skip.clone()).unwrap();
    assert_eq!(read(&upstream, &secure.origin(), &digest).await.unwrap(), b"hello");

    // The same server under its address, which is another name.
    let elsewhere = format!("https://127.0.0.1:{}/v2/a/blobs/{digest}", secure.address.port());
    secure.fake.fault(Fault::times(1, On::Blobs, Does::RedirectTo(elsewhere)));
    let error = read(&upstream, &secure.origin(), &digest).await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn nobody_is_sent_from_https_to_plain_http_unless_the_operator_allows_it() {
    let secure = Secure::start().await;
    let store = Fake::start().await;
    let digest = secure.fake.put_blob("a", "hello");
    store.put_blob("a", "hello");
    secure.fake.fault(Fault::always(On::Blobs, Does::Redirect(store.url().to_string())));
    let error = read(&secure.upstream(secure.trusting()).unwrap(), &secure.origin(), &digest).await.unwrap_err();
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    assert!(error.to_string().contains("allow_downgrade"), "{error}");
    assert!(store.requests().is_empty());

    let rules = RegistryConfig { allow_downgrade: true, ..secure.trusting() };
    let upstream = secure.upstream(rules).unwrap();
    assert_eq!(read(&upstream, &secure.origin(), &digest).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_file_without_certificates_is_a_configuration_error_that_names_it() {
    let secure = Secure::start().await;
    for content in ["", "nonsense", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        fs::write(secure.ca(), content).unwrap();
        let error = secure.upstream(secure.trusting()).unwrap_err();
        assert!(matches!(&error, Error::Config(text) if text.contains("ca.pem")), "{error}");
    }
    fs::remove_file(secure.ca()).unwrap();
    assert!(matches!(secure.upstream(secure.trusting()), Err(Error::Config(_))));
}
