//! The flags of the admin port: for the node that serves it, and for the subcommands that ask it.
//!
//! Both sides read the same kind of token file. A node accepts every token in it; a subcommand sends the first.

use std::path::PathBuf;

use clap::Args;

use super::access::open_file;
use super::values::HostPort;
use crate::auth::reload::Reloadable;
use crate::auth::tokens::{NamedTokens, Secret};
use crate::commands::admin_client::AdminClient;

/// The flags of `serve`.
#[derive(Debug, Args)]
pub struct AdminPortArgs {
    /// File with lines `<name>: <token>`. A holder of one of these tokens may read the status of the cluster and the roll
    /// of any room on the admin port, and change the log levels. Without this file the levels cannot be changed, and only
    /// this machine can read. Reloaded when it changes
    #[arg(long, env = "ROLLCALL_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// The node that a subcommand asks.
#[derive(Debug, Args)]
pub struct AdminTarget {
    /// Admin port of the node. An address that means "all interfaces", such as 0.0.0.0, is asked over loopback
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    admin: HostPort,

    /// The --admin-token-file of the node, or a file with one line of it. The first token is sent
    #[arg(long, env = "ROLLCALL_ADMIN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl AdminPortArgs {
    /// Reads the token file.
    ///
    /// # Errors
    /// The flag, and what is wrong with its file.
    pub fn open(&self) -> anyhow::Result<Option<Reloadable<NamedTokens>>> {
        self.admin_token_file.as_ref().map(|file| open_file("--admin-token-file", file, NamedTokens::parse)).transpose()
    }
}

impl AdminTarget {
    /// Reads the token file.
    ///
    /// # Errors
    /// The flag, and what is wrong with its file.
    pub fn client(&self) -> anyhow::Result<AdminClient> {
        let file = self.token_file.as_ref();
        let token = file.map(|file| open_file("--token-file", file, Secret::first_of)).transpose()?;
        Ok(AdminClient::new(self.admin.as_str(), token.map(|token| token.current())))
    }
}
