//! mTLS between nodes: one CA file, and one certificate that a node presents as client and as server.
//!
//! Owns the TLS settings. The mesh uses TLS 1.3 and HTTP/2 only. Both ends present a certificate of the CA, and the server's
//! certificate names the host that the client dialled. Files that other nodes would reject are not used, so a rotation in
//! the wrong order has no effect. TLS sessions are not resumed, because a resumed session skips the certificate check.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, sink};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::auth::crypto::provider;
use crate::auth::pem;
use crate::auth::reload::Reloadable;
use crate::mesh::io::Io;

/// The time that a rejected connection stays open, so that its client can read the TLS alert.
const ALERT_TIMEOUT: Duration = Duration::from_secs(1);
/// The limit of the bytes that are read from the client meanwhile.
const MAX_DRAINED_BYTES: u64 = 64 << 10;

/// The files of a node: its certificate and key, and the CAs of all nodes.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The TLS settings of both ends, from one version of the files.
pub struct Certificates {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Certificates {
    /// # Errors
    /// When a file cannot be read, or a node with the same CA would not accept the certificate.
    pub fn watch(files: CertificateFiles, advertised: Option<&str>) -> anyhow::Result<Reloadable<Self>> {
        let advertised = advertised.map(ToOwned::to_owned);
        let paths = vec![files.ca.clone(), files.certificate.clone(), files.key.clone()];
        Reloadable::open(paths, move |contents| {
            Self::read(&files, [&contents[0], &contents[1], &contents[2]], advertised.as_deref())
        })
    }

    /// `advertised`: the address at which other nodes connect; the certificate must name its host.
    ///
    /// # Errors
    /// When a file is invalid, or a node with the same CA would not accept the certificate.
    pub fn read(
        files: &CertificateFiles,
        [ca, certificate, key]: [&[u8]; 3],
        advertised: Option<&str>,
    ) -> anyhow::Result<Self> {
        let roots = Arc::new(pem::roots(&files.ca, ca)?);
        let own = pem::certified_key([&files.certificate, &files.key], [certificate, key])?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).build()?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
        let [leaf, intermediates @ ..] = &own.cert[..] else {
            return Err(anyhow!("the certificate file has no certificate"));
        };
        let rejected = |error: &rustls::Error| {
            let error = error.to_string();
            let error = error.trim_start_matches("invalid peer certificate: ");
            let (certificate, ca) = (files.certificate.display(), files.ca.display());
            format!("nodes with the CA in {ca} would not accept the certificate in {certificate}: {error}")
        };
        clients.verify_client_cert(leaf, intermediates, UnixTime::now()).map_err(|error| anyhow!(rejected(&error)))?;
        if let Some(advertised) = advertised {
            let name = host(advertised).with_context(|| format!("{advertised} is not HOST:PORT"))?;
            let verified = servers.verify_server_cert(leaf, intermediates, &name, &[], UnixTime::now());
            verified.map_err(|error| anyhow!(rejected(&error)))?;
        }
        let own = Arc::new(SingleCertAndKey::from(own));
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(&clients))
            .with_cert_resolver(Arc::clone(&own) as _);
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(servers)
            .with_client_cert_resolver(own);
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into(), clients })
    }

    /// The client's handshake. It succeeds before the server has checked this node's certificate: the first read returns the
    /// alert of a rejection.
    ///
    /// # Errors
    /// When the handshake fails; of the kind `InvalidData` when this node rejects the server's certificate.
    pub async fn connect(&self, host: &str, io: Box<dyn Io>) -> io::Result<Box<dyn Io>> {
        let name = server_name(host).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Box::new(self.connector.connect(name, io).await?))
    }

    /// The server's handshake. Returns the stream and the certificate chain of the client.
    ///
    /// # Errors
    /// When this node rejects the client's certificate, or the client closes the connection.
    pub async fn accept<T>(&self, stream: T) -> io::Result<(TlsStream<T>, Vec<CertificateDer<'static>>)>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        match self.acceptor.accept(stream).into_fallible().await {
            Ok(stream) => {
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
                Ok((stream, chain))
            }
            Err((error, stream)) => {
                // After the timeout the connection is closed, even if the client has not read the alert.
                let _ = timeout(ALERT_TIMEOUT, close_after_alert(stream)).await;
                Err(error)
            }
        }
    }

    /// Whether the chain belongs to one of the CAs and has not expired.
    pub fn accept_chain(&self, chain: &[CertificateDer<'static>]) -> bool {
        let [leaf, intermediates @ ..] = chain else { return false };
        self.clients.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
    }
}

/// Closes a connection so that the client can read the alert. It reads the client's data first: if the kernel closes a
/// socket with unread data, it sends a reset, and the client loses the alert.
async fn close_after_alert(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(MAX_DRAINED_BYTES), &mut sink()).await?;
    Ok(())
}

/// Whether a certificate names the host of this address.
pub fn names_host_of(certificate: &CertificateDer<'_>, address: &str) -> bool {
    let Some(name) = host(address) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// The host of `host:port`.
fn host(address: &str) -> Option<ServerName<'static>> {
    server_name(address.rsplit_once(':')?.0)
}

fn server_name(host: &str) -> Option<ServerName<'static>> {
    let host = host.trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(ip) => Some(ServerName::from(ip)),
        Err(_) => ServerName::try_from(host.to_owned()).ok(),
    }
}
