//! The flags of https on the public port, and of mTLS and tokens on the mesh port.
//!
//! Owns which flags belong together, and the authentication of a mesh without configuration: off loopback it is refused, on
//! loopback it is the [shared token](super::mesh_token) of the user. The files are read when the node starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::mesh_token::{create_if_missing, shared_token_file};
use super::origin::ImpliedValue;
use crate::auth::tls::Tls;
use crate::mesh::security::{CertificateFiles, Security};

/// https and mesh authentication.
#[derive(Debug, Args)]
pub struct TlsArgs {
    /// Serve https with this certificate chain (PEM: the certificate, then the intermediate ones). Reloaded when it changes.
    /// Default: http
    #[arg(long, env = "ROLLCALL_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, PEM
    #[arg(long, env = "ROLLCALL_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    /// Accept every local process on the mesh port, without authentication; only on a loopback address. No effect with
    /// --mesh-ca or --mesh-token-file. Default: the nodes of one user on one machine share a token, in a file that the
    /// first of them creates (~/.local/state/rollcall/mesh.token)
    #[arg(long, env = "ROLLCALL_MESH_OPEN")]
    mesh_open: bool,

    #[command(flatten)]
    mesh: MeshAuthArgs,
}

/// Authentication on the mesh port.
#[derive(Debug, Args)]
pub struct MeshAuthArgs {
    /// Authenticate nodes by mutual TLS: the CAs that issue the certificates of all nodes, PEM. Reloaded when it changes.
    /// `rollcall certs` creates one
    #[arg(long, env = "ROLLCALL_MESH_CA", value_name = "FILE")]
    mesh_ca: Option<PathBuf>,

    /// Certificate of this node, PEM, for both client and server authentication. It must name the host of
    /// --mesh-advertise. Reloaded when it changes
    #[arg(long, env = "ROLLCALL_MESH_CERT", value_name = "FILE")]
    mesh_cert: Option<PathBuf>,

    /// Private key of --mesh-cert, PEM
    #[arg(long, env = "ROLLCALL_MESH_KEY", value_name = "FILE")]
    mesh_key: Option<PathBuf>,

    /// Authenticate nodes by a shared secret: a file with tokens of at least 32 characters, one a line. The first is sent,
    /// all are accepted. Reloaded when it changes. Without --mesh-ca the token crosses the network unencrypted
    #[arg(long, env = "ROLLCALL_MESH_TOKEN_FILE", value_name = "FILE")]
    mesh_token_file: Option<PathBuf>,
}

impl TlsArgs {
    pub(crate) fn check(&self, mesh: SocketAddr) -> Result<(), String> {
        all_or_none(&[("--tls-cert", self.tls_cert.is_some()), ("--tls-key", self.tls_key.is_some())])?;
        self.mesh.check()?;
        if mesh.ip().is_loopback() || self.mesh.is_authenticated() {
            return Ok(());
        }
        Err(format!(
            "--mesh-listen {mesh} is open to the network: authenticate nodes with --mesh-ca, --mesh-cert and --mesh-key \
             (`rollcall certs` creates them) or with --mesh-token-file, or listen on a loopback address, such as \
             127.0.0.1:{}",
            mesh.port()
        ))
    }

    /// The token file that applies because no authentication is configured.
    pub(crate) fn implied(&self) -> Option<ImpliedValue> {
        let file = shared_token_file().filter(|_| !self.mesh_open && !self.mesh.is_authenticated())?;
        Some(ImpliedValue { flag: "mesh-token-file", value: file.display().to_string(), by: "mesh-open" })
    }

    /// The authentication of the mesh port of this node, which other nodes reach at `advertised`, if that is
    /// known yet. Creates the shared token
    /// unless the mesh is configured.
    ///
    /// # Errors
    /// A file cannot be read, parsed or created, or the certificate does not name the host of `advertised`.
    pub fn open_mesh(&self, advertised: Option<&str>) -> anyhow::Result<Security> {
        if self.mesh.is_authenticated() || self.mesh_open {
            return self.mesh.open(advertised);
        }
        let remedy = "local processes must authenticate on the mesh port: pass --mesh-token-file FILE, or --mesh-open to \
                      accept them all";
        let file = shared_token_file().context("neither HOME nor XDG_STATE_HOME is set, for a shared token");
        let file = file.and_then(|file| create_if_missing(&file).map(|()| file)).context(remedy)?;
        Security::open(None, Some(file), advertised).context(remedy)
    }

    /// The certificate of the public port, if https is on.
    ///
    /// # Errors
    /// A file cannot be read or parsed.
    pub fn https(&self) -> anyhow::Result<Option<Tls>> {
        let files = self.tls_cert.as_ref().zip(self.tls_key.as_ref());
        files.map(|(certificate, key)| Tls::from_files(certificate, key).context("--tls-cert, --tls-key")).transpose()
    }
}

impl MeshAuthArgs {
    pub(crate) fn check(&self) -> Result<(), String> {
        all_or_none(&[
            ("--mesh-ca", self.mesh_ca.is_some()),
            ("--mesh-cert", self.mesh_cert.is_some()),
            ("--mesh-key", self.mesh_key.is_some()),
        ])
    }

    fn is_authenticated(&self) -> bool {
        self.mesh_ca.is_some() || self.mesh_token_file.is_some()
    }

    /// The credentials of a client that is not a node: as configured, or the shared token of this user, if there is one.
    ///
    /// # Errors
    /// A file cannot be read or parsed.
    pub fn open_client(&self) -> anyhow::Result<Security> {
        match shared_token_file().filter(|file| !self.is_authenticated() && file.exists()) {
            Some(file) => Security::open(None, Some(file), None).context("cannot authenticate on the mesh"),
            None => self.open(None),
        }
    }

    fn open(&self, advertised: Option<&str>) -> anyhow::Result<Security> {
        let files = match (self.mesh_ca.clone(), self.mesh_cert.clone(), self.mesh_key.clone()) {
            (Some(ca), Some(certificate), Some(key)) => Some(CertificateFiles { ca, certificate, key }),
            _ => None,
        };
        Security::open(files, self.mesh_token_file.clone(), advertised).context("cannot authenticate the mesh")
    }
}

/// Requires all of these flags or none.
fn all_or_none(flags: &[(&str, bool)]) -> Result<(), String> {
    let Some((missing, _)) = flags.iter().find(|(_, given)| !given) else { return Ok(()) };
    let Some((given, _)) = flags.iter().find(|(_, given)| *given) else { return Ok(()) };
    Err(format!("{given} needs {missing}, which is missing"))
}
