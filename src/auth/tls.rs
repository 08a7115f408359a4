//! TLS for the public port: certificates in, an acceptor out.
//!
//! Owns the choice of protocols: HTTP/2 for REST and HTTP/1.1 for WebSocket on one port, by ALPN; and that the files of
//! a certificate are read again when they change: whoever connects then is shown the new one, and whoever is connected
//! stays. What is in the files is read by [`pem`].

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{CertifiedKey as Made, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::auth::crypto::provider;
use crate::auth::pem;
use crate::auth::reload::Reloadable;

/// How the public port proves who it is.
pub struct Tls {
    pub acceptor: TlsAcceptor,
    /// What must be kept; `None`: nobody has a reason to trust the certificate, which was made at start.
    pub files: Option<Reloadable<CertifiedKey>>,
}

/// Shows the certificate as it is now.
struct ReloadingCertificate(Reloadable<CertifiedKey>);

impl Tls {
    /// A certificate made now, for these names, that nobody but its reader has a reason to trust.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn self_signed(names: Vec<String>) -> anyhow::Result<Self> {
        let Made { cert, signing_key } =
            generate_simple_self_signed(names).context("cannot make a self-signed certificate")?;
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = builder()?
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .context("the certificate and its key do not fit")?;
        Ok(Self { acceptor: acceptor(config), files: None })
    }

    /// The certificate, with those between it and its CA, and the key in these files.
    ///
    /// # Errors
    /// When one cannot be read, or they do not belong together; names the file.
    pub fn from_files(certificate: &Path, key: &Path) -> anyhow::Result<Self> {
        let files = [certificate, key].map(Path::to_owned);
        let watched = Reloadable::open(files.to_vec(), move |contents| {
            pem::certified_key([&files[0], &files[1]], [&contents[0], &contents[1]])
        })?;
        let config =
            builder()?.with_no_client_auth().with_cert_resolver(Arc::new(ReloadingCertificate(watched.clone())));
        Ok(Self { acceptor: acceptor(config), files: Some(watched) })
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
