//! Certificate authorities, certificates and TLS ends for tests, valid and invalid.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rollcall::auth::crypto::provider;
use rollcall::auth::pem;
use rollcall::mesh::security::{CertificateFiles, Security};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::any_certificate::AnyCertificate;

pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub enum Time {
    Now,
    Past,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for TLS servers and TLS clients.
    pub fn issue(&self, name: &str, time: Time) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if let Time::Past = time {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        Issued { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// The certificate files of one node, in a temporary folder.
pub struct Folder(TempDir);

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    pub fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Replaces the file with a rename, as an atomic rotation does.
    pub fn write(&self, name: &str, contents: &str) -> String {
        let next = self.path("next");
        fs::write(&next, contents).unwrap();
        fs::rename(&next, self.path(name)).unwrap();
        self.text(name)
    }

    /// Writes the mesh certificates to files. Returns the flags that name the files.
    pub fn mesh(&self, ca: &str, issued: &Issued) -> Vec<String> {
        self.write("ca.pem", ca);
        self.write("node.pem", &issued.certificate);
        self.write("node.key", &issued.key);
        let flags = [("--mesh-ca", "ca.pem"), ("--mesh-cert", "node.pem"), ("--mesh-key", "node.key")];
        flags.iter().flat_map(|(flag, file)| [(*flag).to_owned(), self.text(file)]).collect()
    }

    /// Opens the files of [`Self::mesh`] as a node does.
    pub fn security(&self, advertised: &str) -> Security {
        let [ca, certificate, key] = ["ca.pem", "node.pem", "node.key"].map(|name| self.path(name));
        Security::open(Some(CertificateFiles { ca, certificate, key }), None, Some(advertised)).unwrap()
    }
}

/// A TLS connection from `source` that presents this certificate, if any, and accepts any server certificate.
pub async fn connect(
    source: [u8; 4],
    to: std::net::SocketAddr,
    shown: Option<&Issued>,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((source, 0).into())?;
    let stream = socket.connect(to).await?;
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate::default()));
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(shown) => config.with_client_cert_resolver(certified(shown)),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(to.ip()), stream).await
}

/// A TLS acceptor that presents this certificate and requests none from clients.
pub fn acceptor(shown: &Issued) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_cert_resolver(certified(shown));
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// A TLS client that trusts this CA and offers these ALPN protocols.
pub fn trusting(ca: &str, protocols: &[&str]) -> TlsConnector {
    let roots: RootCertStore = pem::roots(Path::new("ca"), ca.as_bytes()).unwrap();
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

fn certified(shown: &Issued) -> Arc<SingleCertAndKey> {
    let contents = [shown.certificate.as_bytes(), shown.key.as_bytes()];
    let certified = pem::certified_key([Path::new("certificate"), Path::new("key")], contents).unwrap();
    Arc::new(SingleCertAndKey::from(certified))
}
