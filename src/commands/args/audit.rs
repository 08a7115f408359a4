//! The flags of `rollcall audit`.

use std::time::Duration;

use clap::Args;

use super::RedisArgs;
use super::file::FileArgs;
use super::trust::MeshTrust;
use super::values::pause;

#[derive(Debug, Args)]
pub struct Audit {
    #[command(flatten)]
    file: FileArgs,

    #[command(flatten)]
    pub redis: RedisArgs,

    #[command(flatten)]
    pub mesh: MeshTrust,

    /// How long after the first look the second one begins, where something differs. What is under way differs only once
    #[arg(long, default_value = "4s", env = "ROLLCALL_AUDIT_PAUSE", value_name = "DURATION", value_parser = pause)]
    pub pause: Duration,

    /// Print JSON
    #[arg(long, env = "ROLLCALL_AUDIT_JSON")]
    pub json: bool,
}

impl Audit {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.redis.url.is_none() {
            return Err("--redis is missing: the audit compares what it says with what the nodes say".to_owned());
        }
        self.mesh.check()
    }
}
