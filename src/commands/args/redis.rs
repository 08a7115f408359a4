//! The flags of the directory that nodes of different processes share.
//!
//! Owns what goes together and what does not. A secret is taken from the environment or from a file, never from the
//! command line, and is in no refusal.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::origin::{Origin, Origins};
use super::sentinel::SentinelArgs;
use super::values::RedisUrl;
use crate::directory::redis::Redis;
use crate::directory::redis::connect::Access;
use crate::directory::redis::slot::tagged;
use crate::directory::redis::url::{Target, Way};

/// The directory that nodes of different processes share.
#[derive(Debug, Args)]
pub struct RedisArgs {
    /// The Redis that the nodes share, as in `redis://127.0.0.1:6379`, or `rediss://` for TLS. Whose master Sentinels
    /// know: `redis-sentinel://a:26379,b:26379/mymaster`; a Cluster: `redis-cluster://a:6379,b:6379`. A URL with a
    /// password belongs in the environment variable, or in a --config file that not everybody can read. Unless told
    /// otherwise: none, and nobody outside this process is known
    #[arg(long = "redis", env = "ROLLCALL_REDIS", value_name = "URL", hide_env_values = true)]
    pub url: Option<RedisUrl>,

    /// The user that Redis knows this node by, if not the default one
    #[arg(long = "redis-user", env = "ROLLCALL_REDIS_USER", value_name = "NAME")]
    user: Option<String>,

    /// A file with the password of that user in its one line. Read again when it changes, for the next connection
    #[arg(long = "redis-password-file", env = "ROLLCALL_REDIS_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// For `rediss://`: the CAs that the certificate of Redis may be of, PEM. Unless told otherwise, those that this
    /// machine trusts. Read again when it changes
    #[arg(long = "redis-ca", env = "ROLLCALL_REDIS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// For `rediss://`: the certificate that this node shows to Redis, PEM. Read again when it changes
    #[arg(long = "redis-cert", env = "ROLLCALL_REDIS_CERT", value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// The key of that certificate, PEM
    #[arg(long = "redis-key", env = "ROLLCALL_REDIS_KEY", value_name = "FILE")]
    key: Option<PathBuf>,

    #[command(flatten)]
    pub sentinel: SentinelArgs,

    /// What the name of every key in Redis begins with. On a Cluster it is made a hash tag, `{rollcall}:`, unless there is
    /// one in it
    #[arg(long = "redis-prefix", default_value = "rollcall:", env = "ROLLCALL_REDIS_PREFIX", value_name = "PREFIX")]
    pub prefix: String,

    /// Use a Redis whose maxmemory-policy lets it evict keys. Whatever it evicts of the index is then missing from it,
    /// and so are its sockets from answers that say they are complete
    #[arg(long = "redis-allow-eviction", env = "ROLLCALL_REDIS_ALLOW_EVICTION")]
    pub allow_eviction: bool,
}

impl RedisArgs {
    pub(super) fn check(&self, origins: &Origins) -> Result<(), String> {
        let files = [
            ("--redis-password-file", self.password_file.is_some()),
            ("--redis-ca", self.ca.is_some()),
            ("--redis-cert", self.certificate.is_some()),
            ("--redis-key", self.key.is_some()),
        ];
        let given = |flags: &[(&'static str, bool)]| flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag);
        let Some(url) = &self.url else {
            let alone = given(&files).or(self.user.as_ref().map(|_| "--redis-user"));
            alone.map_or(Ok(()), |flag| Err(format!("{flag} goes with --redis, which is missing")))?;
            return self.sentinel.check(false);
        };
        let target = Target::parse(url.as_str()).map_err(|error| format!("--redis: {error}"))?;
        let has_password = url.has_password();
        if has_password {
            not_for_all_to_read(origins.of("redis"))?;
        }
        if has_password && self.password_file.is_some() {
            return Err("--redis-password-file: there is a password in the URL of --redis already".to_owned());
        }
        if url.has_user() && self.user.is_some() {
            return Err("--redis-user: there is a user in the URL of --redis already".to_owned());
        }
        if (url.has_user() || self.user.is_some()) && !has_password && self.password_file.is_none() {
            return Err("--redis-password-file is missing: a user of Redis has a password".to_owned());
        }
        if let Some(flag) = given(&files[1..]).filter(|_| !target.tls) {
            return Err(format!("{flag} is for TLS: --redis must be a rediss:// URL"));
        }
        if target.way == Way::Cluster && tagged(&self.prefix).is_none() {
            return Err(
                "--redis-prefix: on a Cluster all keys must have one hash tag, and none can be made of this; say one, \
                 as in {rollcall}:"
                    .to_owned(),
            );
        }
        self.sentinel.check(matches!(target.way, Way::Sentinel { .. }))?;
        if self.certificate.is_some() != self.key.is_some() {
            return Err("--redis-cert and --redis-key go together, and one of them is missing".to_owned());
        }
        Ok(())
    }

    /// What was asked for, if anything was. Does not connect.
    ///
    /// # Errors
    /// When a file cannot be read or makes no sense.
    pub fn open(&self) -> anyhow::Result<Option<Redis>> {
        let Some(url) = &self.url else { return Ok(None) };
        let access = Access {
            user: self.user.clone(),
            password: self.password_file.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone().zip(self.key.clone()),
            sentinel_user: self.sentinel.sentinel_user.clone(),
            sentinel_password: self.sentinel.sentinel_password_file.clone(),
        };
        let redis = Redis::with(url.as_str(), &access, &self.prefix, self.allow_eviction).context("--redis")?;
        Ok(Some(redis))
    }
}

/// Refuses a password where every user of the machine can read it.
fn not_for_all_to_read(origin: &Origin) -> Result<(), String> {
    match origin {
        Origin::Flag => {
            Err("--redis: every user of this machine can read a command line, so a URL with a password is \
                             taken from ROLLCALL_REDIS or from a --config file only; or pass --redis-password-file"
                .to_owned())
        }
        Origin::File(place) if place.read_by_all => Err(format!(
            "--redis: every user of this machine can read {}, so there can be no password in it: take that right away \
             (chmod o-r), or name a file that has it (redis-password-file)",
            place.file
        )),
        Origin::File(_) | Origin::Environment(_) | Origin::Default => Ok(()),
    }
}
