//! Dials one Redis address, with the credentials and TLS settings of this node.
//!
//! Owns every credential. Files with credentials are read again when they change, and the new content is used from the
//! next connection on. No error and no `Debug` output contains a secret. Owns no decision about where to connect
//! ([`discovery`](super::discovery)) and none about what answers ([`preflight`](super::preflight)).

use std::path::PathBuf;
use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
};
use anyhow::{Context as _, ensure};
use futures::future::join3;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::error::{CALL_TIMEOUT, ConnectError, Incompatible, TLS_HANDSHAKE_TIMEOUT};
use crate::auth::crypto::{provider, system_roots};
use crate::auth::pem;
use crate::auth::reload;
use crate::auth::reload::Reloadable;

const MAX_PASSWORD_BYTES: usize = 1024;

/// Credentials and trust anchors, in addition to what the URL contains.
#[derive(Debug, Clone, Default)]
pub struct RedisAccess {
    pub user: Option<String>,
    /// A file that holds the password and nothing else.
    pub password: Option<PathBuf>,
    /// The CAs that may have issued the certificate of Redis. Default: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// This node's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    pub sentinel_user: Option<String>,
    /// A file that holds the password for the Sentinels.
    pub sentinel_password: Option<PathBuf>,
}

/// Opens connections to Redis servers and Sentinels.
pub(super) struct RedisDialer {
    tls: Option<Reloadable<Arc<ClientConfig>>>,
    redis: RedisLogin,
    sentinel: RedisLogin,
}

struct RedisLogin {
    settings: RedisConnectionInfo,
    password: Option<Reloadable<String>>,
}

/// An open connection. Cheap to clone; the last clone that is dropped closes it.
#[derive(Clone)]
pub(super) struct OpenConnection {
    pub(super) redis: MultiplexedConnection,
    /// The task that drives a TLS connection. Those without TLS are driven by the library.
    _driver: Option<Arc<AbortOnDropHandle<()>>>,
}

impl RedisLogin {
    fn open(mut settings: RedisConnectionInfo, user: Option<&str>, password: Option<PathBuf>) -> anyhow::Result<Self> {
        let password = password.map(open_password).transpose()?;
        // Otherwise the library sends CLIENT SETINFO, which the ACL of a node need not permit.
        settings = settings.set_skip_set_lib_name();
        if let Some(user) = user {
            settings = settings.set_username(user);
        }
        ensure!(
            settings.username().is_none() || settings.password().is_some() || password.is_some(),
            "a user without a password: pass --redis-password-file"
        );
        Ok(Self { settings, password })
    }

    fn current(&self) -> RedisConnectionInfo {
        let settings = self.settings.clone();
        match &self.password {
            Some(password) => settings.set_password(password.current().as_str()),
            None => settings,
        }
    }
}

impl RedisDialer {
    /// `settings`: the credentials and the database from the URL.
    ///
    /// # Errors
    /// If a file cannot be read, or files for TLS are given without `tls`.
    pub(super) fn open(tls: bool, settings: RedisConnectionInfo, access: &RedisAccess) -> anyhow::Result<Self> {
        let tls = tls.then(|| open_tls(access)).transpose()?;
        ensure!(
            tls.is_some() || access.ca.is_none() && access.certificate.is_none(),
            "--redis-ca, --redis-cert and --redis-key need a rediss:// URL"
        );
        let redis = RedisLogin::open(settings, access.user.as_deref(), access.password.clone())?;
        // The credentials in the URL are those of the master, not of the Sentinels.
        let settings = "redis://localhost".into_connection_info()?.redis_settings().clone();
        let sentinel = RedisLogin::open(settings, access.sentinel_user.as_deref(), access.sentinel_password.clone())?;
        Ok(Self { tls, redis, sentinel })
    }

    /// Runs forever and reloads the files when they change.
    pub(super) async fn reload_files(&self) {
        let [redis, sentinel] =
            [&self.redis, &self.sentinel].map(|login| reload::reload_on_change(login.password.clone()));
        join3(redis, sentinel, reload::reload_on_change(self.tls.clone())).await;
    }

    /// Connects to a Redis or a node of a Cluster. Has no timeout of its own.
    pub(super) async fn dial(&self, to: &ConnectionAddr) -> Result<OpenConnection, ConnectError> {
        self.connect(to, self.redis.current()).await
    }

    /// Connects to a Sentinel. Has no timeout of its own.
    pub(super) async fn dial_sentinel(&self, to: &ConnectionAddr) -> Result<OpenConnection, ConnectError> {
        self.connect(to, self.sentinel.current()).await
    }

    async fn connect(
        &self,
        to: &ConnectionAddr,
        settings: RedisConnectionInfo,
    ) -> Result<OpenConnection, ConnectError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_TIMEOUT))
            .set_response_timeout(Some(CALL_TIMEOUT));
        let (Some(tls), ConnectionAddr::Tcp(host, port)) = (&self.tls, to) else {
            let client = Client::open(to.clone().into_connection_info()?.set_redis_settings(settings))?;
            let redis = client.get_multiplexed_async_connection_with_config(&config).await?;
            return Ok(OpenConnection { redis, _driver: None });
        };
        let name = ServerName::try_from(host.clone());
        let name = name.map_err(|_| Incompatible::Untrusted(format!("no certificate can name {host}")))?;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(RedisError::from)?;
        stream.set_nodelay(true).map_err(RedisError::from)?;
        let connector = TlsConnector::from(Arc::clone(&*tls.current()));
        let stream = timeout(TLS_HANDSHAKE_TIMEOUT, connector.connect(name, stream)).await;
        let stream = stream.map_err(|_elapsed| ConnectError::TlsTimeout)?.map_err(RedisError::from)?;
        let (redis, driver) = MultiplexedConnection::new_with_config(&settings, stream, config).await?;
        let driver = Arc::new(AbortOnDropHandle::new(tokio::spawn(driver)));
        Ok(OpenConnection { redis, _driver: Some(driver) })
    }
}

fn open_password(file: PathBuf) -> anyhow::Result<Reloadable<String>> {
    Reloadable::open(vec![file.clone()], move |contents| {
        password(&contents[0]).with_context(|| format!("there is no password in {}", file.display()))
    })
}

/// Reads a file that holds one line.
fn password(contents: &[u8]) -> anyhow::Result<String> {
    let text = str::from_utf8(contents).context("it is not text")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    ensure!(!text.is_empty(), "it is empty");
    ensure!(text.len() <= MAX_PASSWORD_BYTES && !text.contains(['\n', '\0']), "it is not one line");
    Ok(text.to_owned())
}

fn open_tls(access: &RedisAccess) -> anyhow::Result<Reloadable<Arc<ClientConfig>>> {
    let (ca, certificate) = (access.ca.clone(), access.certificate.clone());
    let files = ca.iter().chain(certificate.iter().flat_map(|(certificate, key)| [certificate, key]));
    Reloadable::open(files.cloned().collect(), move |contents| {
        let mut contents = contents.iter();
        let mut next = || contents.next().map(Vec::as_slice).unwrap_or_default();
        let roots = match &ca {
            Some(ca) => pem::roots(ca, next())?,
            None => system_roots().context("the system has no trusted CAs; pass the CA of Redis with --redis-ca")?,
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match &certificate {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let certified_key = pem::certified_key([certificate, key], [next(), next()])?;
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key)))
            }
        };
        Ok(Arc::new(config))
    })
}
