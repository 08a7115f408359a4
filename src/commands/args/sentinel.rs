//! The flags for Sentinels, which have users and passwords of their own.

use std::path::PathBuf;

use clap::Args;

/// How Sentinels let this node ask where the master is.
#[derive(Debug, Args)]
pub struct SentinelArgs {
    /// For `redis-sentinel://`: the user that the Sentinels know this node by, if not the default one
    #[arg(long = "redis-sentinel-user", env = "ROLLCALL_REDIS_SENTINEL_USER", value_name = "NAME")]
    pub(super) sentinel_user: Option<String>,

    /// For `redis-sentinel://`: a file with the password that the Sentinels ask for in its one line, if they do. Theirs
    /// is another one than that of Redis. Read again when it changes, for the next connection
    #[arg(long = "redis-sentinel-password-file", env = "ROLLCALL_REDIS_SENTINEL_PASSWORD_FILE", value_name = "FILE")]
    pub(super) sentinel_password_file: Option<PathBuf>,
}

impl SentinelArgs {
    /// `sentinels`: there are any to show them to.
    pub(super) fn check(&self, sentinels: bool) -> Result<(), String> {
        let given = [
            ("--redis-sentinel-user", self.sentinel_user.is_some()),
            ("--redis-sentinel-password-file", self.sentinel_password_file.is_some()),
        ];
        if let Some((flag, _)) = given.iter().find(|(_, given)| *given && !sentinels) {
            return Err(format!("{flag} is for Sentinels: --redis must be a redis-sentinel:// URL"));
        }
        if self.sentinel_user.is_some() && self.sentinel_password_file.is_none() {
            return Err("--redis-sentinel-password-file is missing: a user of Sentinels has a password".to_owned());
        }
        Ok(())
    }
}
