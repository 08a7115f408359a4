//! The flags of `rollcall health`.

use clap::Args;

use super::file::FileArgs;
use super::values::Advertised;
use crate::commands::health::Question;

#[derive(Debug, Args)]
pub struct Health {
    #[command(flatten)]
    file: FileArgs,

    /// The node's admin port. Where that listens on every address, it is asked over loopback
    #[arg(long, default_value = "127.0.0.1:9001", env = "ROLLCALL_ADMIN_LISTEN", value_name = "HOST:PORT")]
    pub admin: Advertised,

    /// Ask whether the process answers (`/livez`), not whether new clients should be sent to it (`/readyz`)
    #[arg(long)]
    live: bool,
}

impl Health {
    pub fn question(&self) -> Question {
        if self.live { Question::Live } else { Question::Ready }
    }
}
