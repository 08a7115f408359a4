//! The certificates of the mesh: one CA file and one certificate for both ends of a connection.
//!
//! Owns the terms: TLS 1.3, HTTP/2, both ends show a certificate of the CA, and that of the end that is connected to
//! names the host that was dialled. What this node's peers would not accept is refused when it is read, so a rotation in
//! the wrong order changes nothing. Nothing is resumed: every connection proves itself.

use std::io;
use std::net::IpAddr;
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

use super::Files;
use crate::auth::pem;
use crate::auth::reload::Watched;
use crate::auth::tls::provider;
use crate::mesh::channel::Wire;

/// How long a connection that is refused is kept, so that its other end reads why.
const FAREWELL_WITHIN: Duration = Duration::from_secs(1);
/// How much of what it says meanwhile is read, in bytes.
const FAREWELL_MOST: u64 = 64 << 10;

/// What this node shows, and whom it accepts.
pub struct Certificates {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Certificates {
    /// # Errors
    /// When a file cannot be read, or a node that goes by the same CA would not accept the certificate.
    pub fn watch(files: Files, advertised: Option<&str>) -> anyhow::Result<Watched<Self>> {
        let advertised = advertised.map(ToOwned::to_owned);
        let paths = vec![files.ca.clone(), files.certificate.clone(), files.key.clone()];
        Watched::open(paths, move |contents| {
            Self::read(&files, [&contents[0], &contents[1], &contents[2]], advertised.as_deref())
        })
    }

    /// `advertised`: the address whose host the certificate must name, where others reach whoever shows it.
    ///
    /// # Errors
    /// As for [`Certificates::watch`].
    pub fn read(files: &Files, [ca, certificate, key]: [&[u8]; 3], advertised: Option<&str>) -> anyhow::Result<Self> {
        let roots = Arc::new(pem::roots(&files.ca, ca)?);
        let shown = pem::certified_key([&files.certificate, &files.key], [certificate, key])?;
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).build()?;
        let servers = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
        let [leaf, between @ ..] = &shown.cert[..] else { return Err(anyhow!("there is no certificate")) };
        let unfit = |error: &rustls::Error| {
            let error = error.to_string();
            let error = error.trim_start_matches("invalid peer certificate: ");
            let (certificate, ca) = (files.certificate.display(), files.ca.display());
            format!("nodes that go by {ca} would not accept the certificate in {certificate}: {error}")
        };
        clients.verify_client_cert(leaf, between, UnixTime::now()).map_err(|error| anyhow!(unfit(&error)))?;
        if let Some(advertised) = advertised {
            let name = host(advertised).with_context(|| format!("{advertised} is not HOST:PORT"))?;
            let served = servers.verify_server_cert(leaf, between, &name, &[], UnixTime::now());
            served.map_err(|error| anyhow!(unfit(&error)))?;
        }
        let shown = Arc::new(SingleCertAndKey::from(shown));
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::clone(&clients))
            .with_cert_resolver(Arc::clone(&shown) as _);
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_webpki_verifier(servers)
            .with_client_cert_resolver(shown);
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = Resumption::disabled();
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into(), clients })
    }

    /// # Errors
    /// Of the kind `InvalidData` where one end does not trust the other. What the other end thinks of this node's
    /// certificate is only told by what it says next.
    pub async fn connect(&self, host: &str, wire: Box<dyn Wire>) -> io::Result<Box<dyn Wire>> {
        let name = server_name(host).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Box::new(self.connector.connect(name, wire).await?))
    }

    /// Returns the connection and the certificate that its other end has shown.
    ///
    /// # Errors
    /// When the other end is not trusted, or is told why and does not go on.
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
                // How that goes changes nothing.
                let _ = timeout(FAREWELL_WITHIN, part(stream)).await;
                Err(error)
            }
        }
    }

    /// Whether a certificate of this CA was shown, which has not run out.
    pub fn are_of_the_same_mesh(&self, chain: &[CertificateDer<'static>]) -> bool {
        let [leaf, between @ ..] = chain else { return false };
        self.clients.verify_client_cert(leaf, between, UnixTime::now()).is_ok()
    }
}

/// Closes a connection in a way that lets the other end read what it was told: what it says is read to its end, for
/// otherwise the kernel takes back what was sent.
async fn part(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    tokio::io::copy(&mut stream.take(FAREWELL_MOST), &mut sink()).await?;
    Ok(())
}

/// Whether a certificate names the host of this address.
pub fn names(certificate: &CertificateDer<'_>, address: &str) -> bool {
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
