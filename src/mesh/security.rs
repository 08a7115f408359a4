//! The closed mesh: how nodes prove themselves to each other.
//!
//! Owns both halves of it: what this node shows when it connects, and what it asks of whoever connects. Certificates
//! ([`certificates`]) and a shared token ([`tokens`]) may be asked for together, and both change with their files: a call
//! is let in by what is in them now, whatever its connection was made with. Whoever is not let in gets nothing, and is
//! logged once ([`refusals`]). The default asks nobody for anything, and costs nothing.

pub mod certificates;
pub mod guard;
pub mod refusals;
pub mod tokens;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{join, pending};
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;
use tonic::Status;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::header::{AUTHORIZATION, HeaderValue};
use tracing::warn;

use super::channel::Wire;
use crate::auth::reload;
use crate::auth::reload::Watched;
use certificates::Certificates;
use refusals::Refusals;
use tokens::Tokens;

/// How long a connection is used that was made with certificates. The other end's is judged when it is made.
const CONNECTION_AGE_MOST: Duration = Duration::from_secs(3600);
/// How often the certificate of a connection that stays is judged again: it runs out, too.
const JUDGED_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Where this node's certificate is, and the CAs of everybody's.
#[derive(Debug, Clone)]
pub struct Files {
    pub ca: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Cheap to clone. The default is an open mesh.
#[derive(Clone, Default)]
pub struct Security {
    certificates: Option<Watched<Certificates>>,
    tokens: Option<Watched<Tokens>>,
    refusals: Arc<Refusals>,
}

/// What a connection was made with.
#[derive(Clone)]
pub struct Proof {
    certificates: Arc<Certificates>,
    made: Instant,
}

/// Who is at the other end of a connection that was accepted. Each of its requests has it in its extensions.
#[derive(Clone)]
pub struct Peer(Arc<PeerState>);

struct PeerState {
    address: SocketAddr,
    /// `None`: nobody was asked for a certificate.
    shown: Option<Shown>,
}

/// The certificate that a peer has shown.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    judged: Mutex<(Arc<Certificates>, Instant)>,
}

impl Security {
    /// Reads the files. `advertised`: the address at which the others reach this node, whose host its certificate must
    /// name; `None` for somebody who asks nodes and is none.
    ///
    /// # Errors
    /// When a file cannot be read or makes no sense, or the others would not accept the certificate.
    pub fn open(files: Option<Files>, token_file: Option<PathBuf>, advertised: Option<&str>) -> anyhow::Result<Self> {
        let certificates = files.map(|files| Certificates::watch(files, advertised)).transpose()?;
        let tokens = token_file.map(Tokens::watch).transpose()?;
        Ok(Self { certificates, tokens, refusals: Arc::default() })
    }

    /// Keeps the files read, for ever.
    pub async fn keep(self) {
        join(reload::keep(self.certificates), reload::keep(self.tokens)).await;
        pending::<()>().await;
    }

    /// The certificates as they are now, where nodes show some.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.as_ref().map(Watched::current)
    }

    /// Whether nodes show certificates.
    pub fn shows_certificates(&self) -> bool {
        self.certificates.is_some()
    }

    /// Makes a connection to `host` one that both ends trust, and says what it was made with.
    ///
    /// # Errors
    /// Of the kind `InvalidData` where one end does not trust the other.
    pub async fn secure(&self, host: &str, wire: Box<dyn Wire>) -> io::Result<(Box<dyn Wire>, Option<Proof>)> {
        let Some(certificates) = self.certificates() else { return Ok((wire, None)) };
        let wire = certificates.connect(host, wire).await?;
        Ok((wire, Some(Proof { certificates, made: Instant::now() })))
    }

    /// Whether a connection that was made with this would be made the same way now.
    pub fn is_current(&self, proof: Option<&Proof>) -> bool {
        let (Some(proof), Some(certificates)) = (proof, &self.certificates) else { return true };
        Arc::ptr_eq(&proof.certificates, &certificates.current()) && proof.made.elapsed() < CONNECTION_AGE_MOST
    }

    /// What goes with each call.
    pub fn bearer(&self) -> Option<HeaderValue> {
        self.tokens.as_ref().map(|tokens| tokens.current().bearer())
    }

    /// Whether nothing is asked of a call.
    pub fn is_open(&self) -> bool {
        self.certificates.is_none() && self.tokens.is_none()
    }

    /// Lets a call in, or says why not.
    ///
    /// # Errors
    /// `UNAUTHENTICATED`.
    pub fn admit(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<(), Status> {
        let refused = if !self.knows(peer) {
            "certificate"
        } else if !self.is_told_a_token(headers) {
            "token"
        } else {
            return Ok(());
        };
        let address = peer.map(Peer::address);
        let ip = address.map_or_else(|| "unknown".to_owned(), |address| address.ip().to_string());
        if self.refusals.is_first(refused, &ip) {
            warn!(peer = address.map(tracing::field::display), "a call over the mesh is refused: no valid {refused}");
        }
        Err(Status::unauthenticated(format!("no valid {refused} of this mesh")))
    }

    fn knows(&self, peer: Option<&Peer>) -> bool {
        let Some(certificates) = self.certificates() else { return true };
        peer.and_then(|peer| peer.0.shown.as_ref()).is_some_and(|shown| shown.is_accepted_by(&certificates))
    }

    fn is_told_a_token(&self, headers: &HeaderMap) -> bool {
        let Some(tokens) = &self.tokens else { return true };
        headers.get(AUTHORIZATION).is_some_and(|given| tokens.current().have(given.as_bytes()))
    }

    /// What was refused is logged by whoever refuses it or is refused, but once.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }
}

impl Peer {
    pub fn unproven(address: SocketAddr) -> Self {
        Self(Arc::new(PeerState { address, shown: None }))
    }

    /// A peer that has shown this certificate, which these have accepted.
    pub fn proven(address: SocketAddr, chain: Vec<CertificateDer<'static>>, by: Arc<Certificates>) -> Self {
        let shown = Shown { chain, judged: Mutex::new((by, Instant::now())) };
        Self(Arc::new(PeerState { address, shown: Some(shown) }))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Whether it may speak for a node that is reached at `mesh`: where it has shown a certificate, that must name the
    /// host.
    pub fn speaks_for(&self, mesh: &str) -> bool {
        let Some(shown) = &self.0.shown else { return true };
        shown.chain.first().is_some_and(|certificate| certificates::names(certificate, mesh))
    }
}

impl Shown {
    /// A certificate is judged again when the CAs have changed, and from time to time, since it runs out.
    fn is_accepted_by(&self, certificates: &Arc<Certificates>) -> bool {
        let mut judged = self.judged.lock().expect("no code panics while it judges a certificate");
        let (by, when) = &*judged;
        if Arc::ptr_eq(by, certificates) && when.elapsed() < JUDGED_AGAIN_AFTER {
            return true;
        }
        let accepted = certificates.are_of_the_same_mesh(&self.chain);
        if accepted {
            *judged = (Arc::clone(certificates), Instant::now());
        }
        accepted
    }
}
