//! TLS for the public port.
//!
//! Owns the protocols, which ALPN negotiates: HTTP/2 for REST and HTTP/1.1 for WebSocket on one port. Owns the certificate,
//! which is reloaded when its files change: new connections get the new one, and existing connections stay. [`pem`] parses
//! the files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{CertifiedKey as GeneratedCertificate, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::auth::crypto::provider;
use crate::auth::pem;
use crate::auth::reload::Reloadable;

/// The TLS acceptor of the public port, and its certificate.
pub struct Tls {
    pub acceptor: TlsAcceptor,
    /// The certificate that must be kept up to date. `None`: it is self-signed, and has no files.
    pub files: Option<Reloadable<CertifiedKey>>,
}

/// Presents the current certificate.
struct ReloadingCertificate(Reloadable<CertifiedKey>);

impl Tls {
    /// A new self-signed certificate for these names. No client trusts it by default, so it is for development.
    ///
    /// # Errors
    /// When a name is not valid in a certificate.
    pub fn self_signed(names: Vec<String>) -> anyhow::Result<Self> {
        let GeneratedCertificate { cert, signing_key } =
            generate_simple_self_signed(names).context("cannot make a self-signed certificate")?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = builder()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .context("cannot use the self-signed certificate")?;
        Ok(Self { acceptor: acceptor(config), files: None })
    }

    /// The certificate, with its intermediate certificates, and the key in these files.
    ///
    /// # Errors
    /// When a file cannot be read or parsed, or the key is not that of the certificate. The error names the file.
    pub fn from_files(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let files = [certificate, key].map(Path::to_owned);
        let certificate = Reloadable::open(files.to_vec(), move |contents| {
            pem::certified_key([&files[0], &files[1]], [&contents[0], &contents[1]])
        })?;
        let config =
            builder()?.with_no_client_auth().with_cert_resolver(Arc::new(ReloadingCertificate(certificate.clone())));
        Ok(Self { acceptor: acceptor(config), files: Some(certificate) })
    }
}

fn builder() -> anyhow::Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>> {
    ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().context("cannot set up TLS")
}

fn acceptor(mut config: ServerConfig) -> TlsAcceptor {
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }
}

impl fmt::Debug for ReloadingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReloadingCertificate(…)")
    }
}
