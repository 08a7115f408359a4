//! The flags of https on the public port, and of mTLS and tokens on the mesh port.
//!
//! Owns which flags belong together, and the rule that a mesh port off loopback is authenticated. The files are read when
//! the node starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

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

    #[command(flatten)]
    pub mesh: MeshAuthArgs,
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

    /// The authentication of the mesh. `advertised`: the address of this node, unless the caller is a client only.
    ///
    /// # Errors
    /// A file cannot be read or parsed, or the certificate does not name the host of `advertised`.
    pub fn open(&self, advertised: Option<&str>) -> anyhow::Result<Security> {
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
