//! The flags of the admin port, at both of its ends: the node's, and that of the commands that ask it.
//!
//! Owns how the tokens get from a file to where they are used. The file is the same for both: the node takes every token
//! in it, and a command shows the first.

use std::path::PathBuf;

use clap::Args;

use super::access::read;
use super::values::Advertised;
use crate::auth::reload::Watched;
use crate::auth::tokens::{Secret, Tokens};
use crate::commands::admin_client::AdminClient;

/// What a node is told.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// A file of lines `<name>: <token>`: whoever has one of the tokens may see who is where, and change the levels of the
    /// log, on the admin port. Without one, nothing can be changed there, and only this machine can look. Read again when
    /// it changes
    #[arg(long, env = "ROLLCALL_ADMIN_TOKEN_FILE", value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// What a command is told that asks a node.
#[derive(Debug, Args)]
pub struct Asked {
    /// The node's admin port. Where that listens on every address, it is asked over loopback
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    admin: Advertised,

    /// The node's --admin-token-file, or one with a line of it: the first token is shown to the node
    #[arg(long, env = "ROLLCALL_ADMIN_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl AdminArgs {
    /// Reads the file.
    ///
    /// # Errors
    /// The flag, and what is wrong with its file.
    pub fn open(&self) -> anyhow::Result<Option<Watched<Tokens>>> {
        self.admin_token_file.as_ref().map(|file| read("--admin-token-file", file, Tokens::parse)).transpose()
    }
}

impl Asked {
    /// Reads the file.
    ///
    /// # Errors
    /// The flag, and what is wrong with its file.
    pub fn client(&self) -> anyhow::Result<AdminClient> {
        let file = self.token_file.as_ref();
        let token = file.map(|file| read("--token-file", file, Secret::first_of)).transpose()?;
        Ok(AdminClient::new(self.admin.as_str(), token.map(|token| token.current())))
    }
}
