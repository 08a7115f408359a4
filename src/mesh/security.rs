//! Authentication between nodes: mTLS ([`certificates`]), a shared token ([`tokens`]), or both.
//!
//! Owns both sides: the credentials that this node presents when it connects, and the verification of a peer's. Files are
//! reloaded when they change. Each call is checked against their current contents, even if its connection is older. An
//! unauthenticated call gets `UNAUTHENTICATED` and one log line. By default the mesh is open, and checks nothing. Owns no
//! authorization of HTTP callers (`auth`). Tests: `tests/processes/trust.rs`.

pub mod certificates;
pub mod guard;
pub mod tokens;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join, pending};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::{AUTHORIZATION, HeaderValue};
use tracing::warn;

use super::io::Io;
use crate::auth::reload;
use crate::auth::reload::Reloadable;
use crate::telemetry::logging::throttle::LogThrottle;
pub use certificates::CertificateFiles;
use certificates::Certificates;
use tokens::MeshTokens;

/// An mTLS connection is replaced after this time, because a client checks the server's certificate only when it connects.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(3600);
/// The server checks the certificate of an open connection again after this time, because it may have expired.
const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The same rejection of a peer is logged again after this time.
const LOG_INTERVAL: Duration = Duration::from_secs(600);
/// The throttle compares this much of a peer's name. The peer chooses the name, and memory must be bounded.
const MAX_LOGGED_CHARACTERS: usize = 64;

/// Cheap to clone. The default is an open mesh.
#[derive(Clone, Default)]
pub struct Security {
    certificates: Option<Reloadable<Certificates>>,
    tokens: Option<Reloadable<MeshTokens>>,
    rejection_log: Arc<RejectionLogThrottle>,
}

/// Rejected connections and calls, by kind and by peer, of both ends of connections.
struct RejectionLogThrottle(LogThrottle<(&'static str, String)>);

/// The certificates that a connection was made with.
#[derive(Clone)]
pub struct ConnectionProof {
    certificates: Arc<Certificates>,
    made: Instant,
}

/// The client of an accepted connection. Each request has it in its extensions.
#[derive(Clone)]
pub struct PeerIdentity(Arc<PeerCredentials>);

struct PeerCredentials {
    address: SocketAddr,
    /// `None`: the mesh uses no certificates.
    certificate: Option<PeerCertificate>,
}

struct PeerCertificate {
    chain: Vec<CertificateDer<'static>>,
    /// The certificates (CAs) and the time of the last successful check.
    checked: Mutex<(Arc<Certificates>, Instant)>,
}

impl Default for RejectionLogThrottle {
    fn default() -> Self {
        Self(LogThrottle::per_interval(LOG_INTERVAL))
    }
}

impl Security {
    /// Reads the files. `advertised`: the address at which other nodes reach this node; the certificate must name its host.
    /// `None` for a client that is not a node.
    ///
    /// # Errors
    /// When a file cannot be read or is invalid, or other nodes would not accept the certificate.
    pub fn open(
        files: Option<CertificateFiles>,
        token_file: Option<PathBuf>,
        advertised: Option<&str>,
    ) -> anyhow::Result<Self> {
        let certificates = files.map(|files| Certificates::watch(files, advertised)).transpose()?;
        let tokens = token_file.map(MeshTokens::watch).transpose()?;
        Ok(Self { certificates, tokens, rejection_log: Arc::default() })
    }

    /// Reloads the files when they change. Never returns.
    pub async fn reload_on_change(self) {
        join(reload::reload_on_change(self.certificates), reload::reload_on_change(self.tokens)).await;
        pending::<()>().await;
    }

    /// The current certificates; `None` without mTLS.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.as_ref().map(Reloadable::current)
    }

    /// Whether the mesh uses mTLS.
    pub fn shows_certificates(&self) -> bool {
        self.certificates.is_some()
    }

    /// Performs the TLS handshake with `host`, if the mesh uses mTLS.
    ///
    /// # Errors
    /// When the handshake fails; of the kind `InvalidData` when one end rejects the other's certificate.
    pub async fn secure(&self, host: &str, io: Box<dyn Io>) -> io::Result<(Box<dyn Io>, Option<ConnectionProof>)> {
        let Some(certificates) = self.certificates() else { return Ok((io, None)) };
        let io = certificates.connect(host, io).await?;
        Ok((io, Some(ConnectionProof { certificates, made: Instant::now() })))
    }

    /// Whether a connection with this proof may still be used: the certificates are unchanged and it is not too old.
    pub fn is_current(&self, proof: Option<&ConnectionProof>) -> bool {
        let (Some(proof), Some(certificates)) = (proof, &self.certificates) else { return true };
        Arc::ptr_eq(&proof.certificates, &certificates.current()) && proof.made.elapsed() < MAX_CONNECTION_AGE
    }

    /// The `authorization` header of each call.
    pub fn bearer(&self) -> Option<HeaderValue> {
        self.tokens.as_ref().map(|tokens| tokens.current().bearer())
    }

    /// Whether calls need no credentials.
    pub fn is_open(&self) -> bool {
        self.certificates.is_none() && self.tokens.is_none()
    }

    /// Checks the credentials of a call.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`.
    pub fn authenticate(&self, peer: Option<&PeerIdentity>, headers: &HeaderMap) -> Result<(), Status> {
        let invalid = if !self.has_valid_certificate(peer) {
            "certificate"
        } else if !self.has_valid_token(headers) {
            "token"
        } else {
            return Ok(());
        };
        let address = peer.map(PeerIdentity::address);
        let ip = address.map_or_else(|| "unknown".to_owned(), |address| address.ip().to_string());
        if self.permits_log(invalid, &ip) {
            warn!(client = address.map(tracing::field::display), "rejected a mesh call without a valid {invalid}");
        }
        Err(Status::unauthenticated(format!("no valid {invalid} of this mesh")))
    }

    fn has_valid_certificate(&self, peer: Option<&PeerIdentity>) -> bool {
        let Some(certificates) = self.certificates() else { return true };
        let certificate = peer.and_then(|peer| peer.0.certificate.as_ref());
        certificate.is_some_and(|certificate| certificate.is_accepted_by(&certificates))
    }

    fn has_valid_token(&self, headers: &HeaderMap) -> bool {
        let Some(tokens) = &self.tokens else { return true };
        headers.get(AUTHORIZATION).is_some_and(|given| tokens.current().accepts(given.as_bytes()))
    }

    /// Whether the rejection of a connection or call may be logged. `kind`: the rejected thing.
    pub fn permits_log(&self, kind: &'static str, peer: &str) -> bool {
        self.rejection_log.0.permits((kind, peer.chars().take(MAX_LOGGED_CHARACTERS).collect()))
    }
}

impl PeerIdentity {
    /// A peer in a mesh without mTLS.
    pub fn without_certificate(address: SocketAddr) -> Self {
        Self(Arc::new(PeerCredentials { address, certificate: None }))
    }

    /// A peer whose certificate `accepted_by` has accepted in the TLS handshake.
    pub fn with_certificate(
        address: SocketAddr,
        chain: Vec<CertificateDer<'static>>,
        accepted_by: Arc<Certificates>,
    ) -> Self {
        let certificate = PeerCertificate { chain, checked: Mutex::new((accepted_by, Instant::now())) };
        Self(Arc::new(PeerCredentials { address, certificate: Some(certificate) }))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Whether the peer may announce the status of a node at the address `mesh`. With mTLS, its certificate must name the
    /// host.
    pub fn may_announce(&self, mesh: &str) -> bool {
        let Some(presented) = &self.0.certificate else { return true };
        presented.chain.first().is_some_and(|certificate| certificates::names_host_of(certificate, mesh))
    }
}

impl PeerCertificate {
    /// Checks the certificate again if the CAs have changed or the last check is old.
    fn is_accepted_by(&self, certificates: &Arc<Certificates>) -> bool {
        let mut checked = self.checked.lock();
        let (last_certificates, last_check) = &*checked;
        if Arc::ptr_eq(last_certificates, certificates) && last_check.elapsed() < CERTIFICATE_CHECK_INTERVAL {
            return true;
        }
        let accepted = certificates.accept_chain(&self.chain);
        if accepted {
            *checked = (Arc::clone(certificates), Instant::now());
        }
        accepted
    }
}
