//! TLS: the ring provider named explicitly, roots of the system or, where it has none, those compiled in.

use std::{fs, path::Path, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

use crate::{config::RegistryConfig, error::Error};

/// The system's roots, or webpki's where it has none: our image is built from nothing and has no `/etc/ssl`.
pub(crate) fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

/// The client side of TLS towards one registry at `host`.
pub(crate) fn client_config(
    roots: &RootCertStore,
    registry: &RegistryConfig,
    host: &str,
) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = roots.clone();
    if let Some(path) = &registry.ca {
        add_ca(&mut roots, path)?;
    }
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config(format!("TLS: {error}")))?;
    let mut config = if registry.insecure_skip_verify {
        let verifier = SkipOneHost::new(roots, provider, host)?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
    } else {
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    // One connection for each body under way: with HTTP/2 all leaves read at once would share one flow-control window,
    // and one lost packet would hold up all of them.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn add_ca(roots: &mut RootCertStore, path: &Path) -> Result<(), Error> {
    let refuse = |reason: String| Error::Config(format!("certificates in {}: {reason}", path.display()));
    let pem = fs::read(path).map_err(|error| refuse(error.to_string()))?;
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
        added += 1;
    }
    if added == 0 { Err(refuse("the file has no PEM certificate".into())) } else { Ok(()) }
}

/// Takes any certificate of one host and checks everybody else's: a registry without a proper certificate must not
/// open the object stores and token endpoints that it points to.
#[derive(Debug)]
struct SkipOneHost {
    checked: Arc<WebPkiServerVerifier>,
    host: ServerName<'static>,
}

impl SkipOneHost {
    fn new(roots: RootCertStore, provider: Arc<CryptoProvider>, host: &str) -> Result<Self, Error> {
        let checked = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::Config(format!("TLS: {error}")))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let host = ServerName::try_from(host).map_err(|error| Error::Config(format!("TLS: {error}")))?;
        Ok(Self { checked, host })
    }
}

impl ServerCertVerifier for SkipOneHost {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *server_name == self.host {
            return Ok(ServerCertVerified::assertion());
        }
        self.checked.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.checked.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.checked.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.checked.supported_verify_schemes()
    }
}
