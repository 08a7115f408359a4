//! The flags by which a node shows who it is, and asks others who they are: https, and the closed mesh.
//!
//! Owns what goes together, and that a mesh which others can reach is closed. What is in the files is read when the node
//! starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::auth::tls::Tls;
use crate::mesh::security::{Files, Security};

/// Https, and the closed mesh.
#[derive(Debug, Args)]
pub struct Trust {
    /// Serve https: the certificate, with those between it and its CA, PEM. Read again when it changes. Unless told
    /// otherwise, clients come by http
    #[arg(long, env = "ROLLCALL_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,

    /// The key of that certificate, PEM
    #[arg(long, env = "ROLLCALL_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,

    #[command(flatten)]
    pub mesh: MeshTrust,
}

/// How whoever speaks on a closed mesh shows who it is.
#[derive(Debug, Args)]
pub struct MeshTrust {
    /// Close the mesh with certificates: the CAs that those of all nodes are of, PEM. Read again when it changes.
    /// `rollcall certs` makes one
    #[arg(long, env = "ROLLCALL_MESH_CA", value_name = "FILE")]
    mesh_ca: Option<PathBuf>,

    /// This node's certificate, PEM, for both ends of a connection. It must name the host at which the others reach this
    /// node. Read again when it changes
    #[arg(long, env = "ROLLCALL_MESH_CERT", value_name = "FILE")]
    mesh_cert: Option<PathBuf>,

    /// The key of that certificate, PEM
    #[arg(long, env = "ROLLCALL_MESH_KEY", value_name = "FILE")]
    mesh_key: Option<PathBuf>,

    /// Close the mesh with a secret that all nodes share: a file with tokens of at least 32 characters, one on each line.
    /// The first is sent, all are accepted. Read again when it changes. Without certificates it can be read on the way
    #[arg(long, env = "ROLLCALL_MESH_TOKEN_FILE", value_name = "FILE")]
    mesh_token_file: Option<PathBuf>,
}

impl Trust {
    pub(super) fn check(&self, mesh: SocketAddr) -> Result<(), String> {
        together(&[("--tls-cert", self.tls_cert.is_some()), ("--tls-key", self.tls_key.is_some())])?;
        self.mesh.check()?;
        if mesh.ip().is_loopback() || self.mesh.closes() {
            return Ok(());
        }
        Err(format!(
            "--mesh-listen {mesh} is open to the network: close the mesh with --mesh-ca, --mesh-cert and --mesh-key \
             (`rollcall certs` makes them) or with --mesh-token-file, or listen on a loopback address, such as \
             127.0.0.1:{}",
            mesh.port()
        ))
    }

    /// How clients are served.
    ///
    /// # Errors
    /// When a file cannot be read or makes no sense.
    pub fn https(&self) -> anyhow::Result<Option<Tls>> {
        let files = self.tls_cert.as_ref().zip(self.tls_key.as_ref());
        files.map(|(certificate, key)| Tls::from_files(certificate, key).context("--tls-cert, --tls-key")).transpose()
    }
}

impl MeshTrust {
    pub(super) fn check(&self) -> Result<(), String> {
        together(&[
            ("--mesh-ca", self.mesh_ca.is_some()),
            ("--mesh-cert", self.mesh_cert.is_some()),
            ("--mesh-key", self.mesh_key.is_some()),
        ])
    }

    fn closes(&self) -> bool {
        self.mesh_ca.is_some() || self.mesh_token_file.is_some()
    }

    /// Who may speak on the mesh. `advertised`: where the others reach this node, if it is one.
    ///
    /// # Errors
    /// When a file cannot be read or makes no sense, or the others would not accept the certificate.
    pub fn open(&self, advertised: Option<&str>) -> anyhow::Result<Security> {
        let files = match (self.mesh_ca.clone(), self.mesh_cert.clone(), self.mesh_key.clone()) {
            (Some(ca), Some(certificate), Some(key)) => Some(Files { ca, certificate, key }),
            _ => None,
        };
        Security::open(files, self.mesh_token_file.clone(), advertised).context("the mesh cannot be closed")
    }
}

/// Flags of which all are given, or none.
fn together(flags: &[(&str, bool)]) -> Result<(), String> {
    let Some((missing, _)) = flags.iter().find(|(_, given)| !given) else { return Ok(()) };
    let Some((given, _)) = flags.iter().find(|(_, given)| *given) else { return Ok(()) };
    Err(format!("{given} needs {missing}, which is missing"))
}
