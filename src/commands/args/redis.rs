//! The flags of Redis and of its Sentinels.
//!
//! Owns which flags belong together. A password comes from the environment or from a file, never from the command line,
//! and no error repeats it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::origin::{Origin, Origins};
use super::values::RedisUrl;
use crate::directory::redis::RedisDirectory;
use crate::directory::redis::connect::RedisAccess;
use crate::directory::redis::slot::tagged;
use crate::directory::redis::url::{RedisTarget, Topology};

/// The Redis that the nodes of a cluster share.
#[derive(Debug, Args)]
pub struct RedisArgs {
    /// Redis that the nodes share: `redis://127.0.0.1:6379`, or `rediss://` for TLS. With Sentinels:
    /// `redis-sentinel://a:26379,b:26379/mymaster`; a Redis Cluster: `redis-cluster://a:6379,b:6379`. Pass a URL with a
    /// password in the environment variable, or in a --config file that only its owner can read. Default: none, and the
    /// cluster is this process
    #[arg(long = "redis", env = "ROLLCALL_REDIS", value_name = "URL", hide_env_values = true)]
    pub url: Option<RedisUrl>,

    /// Redis ACL user. Default: the default user
    #[arg(long = "redis-user", env = "ROLLCALL_REDIS_USER", value_name = "NAME")]
    user: Option<String>,

    /// File with the password in one line. Reloaded for each new connection
    #[arg(long = "redis-password-file", env = "ROLLCALL_REDIS_PASSWORD_FILE", value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// For `rediss://`: CAs that may issue the certificate of Redis, PEM. Reloaded when it changes. Default: the CAs that
    /// this machine trusts
    #[arg(long = "redis-ca", env = "ROLLCALL_REDIS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,

    /// For `rediss://`: client certificate of this node, PEM. Reloaded when it changes
    #[arg(long = "redis-cert", env = "ROLLCALL_REDIS_CERT", value_name = "FILE")]
    certificate: Option<PathBuf>,

    /// Private key of --redis-cert, PEM
    #[arg(long = "redis-key", env = "ROLLCALL_REDIS_KEY", value_name = "FILE")]
    key: Option<PathBuf>,

    #[command(flatten)]
    pub sentinel: SentinelArgs,

    /// Prefix of every key in Redis; clusters that share a Redis need different ones. On a Redis Cluster it becomes a hash
    /// tag, `{rollcall}:`, unless it contains one
    #[arg(long = "redis-prefix", default_value = "rollcall:", env = "ROLLCALL_REDIS_PREFIX", value_name = "PREFIX")]
    pub prefix: String,

    /// Accept a Redis whose maxmemory-policy evicts keys. After an eviction, answers may lack sockets and still say that
    /// they are complete
    #[arg(long = "redis-allow-eviction", env = "ROLLCALL_REDIS_ALLOW_EVICTION")]
    pub allow_eviction: bool,
}

/// The credentials for the Sentinels, which are not those of Redis.
#[derive(Debug, Args)]
pub struct SentinelArgs {
    /// For `redis-sentinel://`: user of the Sentinels. Default: the default user
    #[arg(long = "redis-sentinel-user", env = "ROLLCALL_REDIS_SENTINEL_USER", value_name = "NAME")]
    sentinel_user: Option<String>,

    /// For `redis-sentinel://`: file with the password of the Sentinels in one line, which is not that of Redis. Reloaded
    /// for each new connection
    #[arg(long = "redis-sentinel-password-file", env = "ROLLCALL_REDIS_SENTINEL_PASSWORD_FILE", value_name = "FILE")]
    sentinel_password_file: Option<PathBuf>,
}

impl SentinelArgs {
    fn check(&self, has_sentinels: bool) -> Result<(), String> {
        let flags = [
            ("--redis-sentinel-user", self.sentinel_user.is_some()),
            ("--redis-sentinel-password-file", self.sentinel_password_file.is_some()),
        ];
        if let Some((flag, _)) = flags.iter().find(|(_, given)| *given && !has_sentinels) {
            return Err(format!("{flag} is for Sentinels: --redis must be a redis-sentinel:// URL"));
        }
        if self.sentinel_user.is_some() && self.sentinel_password_file.is_none() {
            return Err("--redis-sentinel-password-file is missing: a Sentinel user needs a password".to_owned());
        }
        Ok(())
    }
}

impl RedisArgs {
    pub(crate) fn check(&self, origins: &Origins) -> Result<(), String> {
        let files = [
            ("--redis-password-file", self.password_file.is_some()),
            ("--redis-ca", self.ca.is_some()),
            ("--redis-cert", self.certificate.is_some()),
            ("--redis-key", self.key.is_some()),
        ];
        let given = |flags: &[(&'static str, bool)]| flags.iter().find(|(_, given)| *given).map(|(flag, _)| *flag);
        let Some(url) = &self.url else {
            let alone = given(&files).or(self.user.as_ref().map(|_| "--redis-user"));
            alone.map_or(Ok(()), |flag| Err(format!("{flag} needs --redis, which is missing")))?;
            return self.sentinel.check(false);
        };
        let target = RedisTarget::parse(url.as_str()).map_err(|error| format!("--redis: {error}"))?;
        let has_password = url.has_password();
        if has_password {
            refuse_readable_password(origins.of("redis"))?;
        }
        if has_password && self.password_file.is_some() {
            return Err("--redis-password-file: the URL of --redis contains a password already".to_owned());
        }
        if url.has_user() && self.user.is_some() {
            return Err("--redis-user: the URL of --redis contains a user already".to_owned());
        }
        if (url.has_user() || self.user.is_some()) && !has_password && self.password_file.is_none() {
            return Err("--redis-password-file is missing: a Redis user needs a password".to_owned());
        }
        if let Some(flag) = given(&files[1..]).filter(|_| !target.tls) {
            return Err(format!("{flag} is for TLS: --redis must be a rediss:// URL"));
        }
        if target.topology == Topology::Cluster && tagged(&self.prefix).is_none() {
            return Err(
                "--redis-prefix: on a Redis Cluster all keys share one hash tag, and this prefix cannot become one; pass \
                 one, as in {rollcall}:"
                    .to_owned(),
            );
        }
        self.sentinel.check(matches!(target.topology, Topology::Sentinel { .. }))?;
        if self.certificate.is_some() != self.key.is_some() {
            return Err("--redis-cert and --redis-key belong together, and one of them is missing".to_owned());
        }
        Ok(())
    }

    /// The directory in Redis, if --redis is given. Does not connect yet.
    ///
    /// # Errors
    /// A file cannot be read or parsed.
    pub fn open(&self) -> anyhow::Result<Option<RedisDirectory>> {
        let Some(url) = &self.url else { return Ok(None) };
        let access = RedisAccess {
            user: self.user.clone(),
            password: self.password_file.clone(),
            ca: self.ca.clone(),
            certificate: self.certificate.clone().zip(self.key.clone()),
            sentinel_user: self.sentinel.sentinel_user.clone(),
            sentinel_password: self.sentinel.sentinel_password_file.clone(),
        };
        let redis =
            RedisDirectory::with(url.as_str(), &access, &self.prefix, self.allow_eviction).context("--redis")?;
        Ok(Some(redis))
    }
}

/// Refuses a password that every user of the machine can read.
fn refuse_readable_password(origin: &Origin) -> Result<(), String> {
    match origin {
        Origin::Flag => {
            Err("--redis: every user of this machine can read the command line: pass a URL with a password in \
                 ROLLCALL_REDIS or in a --config file, or pass --redis-password-file"
                .to_owned())
        }
        Origin::File(place) if place.world_readable => Err(format!(
            "--redis: every user of this machine can read {}, which contains a password: restrict it (chmod o-r), or put \
             the password into a file of its own (redis-password-file)",
            place.file
        )),
        Origin::File(_) | Origin::Environment(_) | Origin::Default => Ok(()),
    }
}
