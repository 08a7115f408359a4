//! How a Redis is connected to, and every credential.
//!
//! Owns what proves who this node is, and what it trusts: what the URL says and what files say, which are read again when
//! they change and count from the next connection on. A secret is in no error and no `Debug`. Where to connect to is
//! found by `Master`, and whether what answers can be used is judged by [`Incompatible`]: one that must be mended is told
//! apart from one that does not answer.

use std::mem::{Discriminant, discriminant};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo as _, RedisConnectionInfo, RedisError,
    ServerErrorKind,
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

use super::CALL_TIMEOUT;
use super::discovery::Master;
use super::preflight::{Incompatible, is_unknown_command};
use super::slot::{slot, tagged};
use super::url::{RedisTarget, Topology, host_and_port};
use crate::auth::crypto::{provider, system_roots};
use crate::auth::pem;
use crate::auth::reload;
use crate::auth::reload::Reloadable;

/// The part of [`CALL_TIMEOUT`] that a TLS handshake may take.
const TLS_WITHIN: Duration = Duration::from_millis(700);
/// The longest password, in bytes.
const PASSWORD_MOST: usize = 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(transparent)]
    Failed(RedisError),
    #[error("no answer within {CALL_TIMEOUT:?}")]
    Late,
    /// A Redis without TLS waits for more of what it takes for a command.
    #[error("no answer to the TLS handshake within {TLS_WITHIN:?}; is that its TLS port?")]
    NoTlsYet,
    /// A slot that is nobody's, in a Cluster that is being made or has lost a part.
    #[error("no node of the Cluster has the slot of the keys")]
    NoOwner,
    #[error("what it said of the master makes no sense")]
    Unclear,
    /// Another node of the Cluster has the keys, or too much of the Cluster is away.
    #[error("the Cluster does not let it have the keys now ({0})")]
    NotNow(String),
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
}

/// How a node proves who it is, and what it trusts, apart from what the URL says.
#[derive(Debug, Clone, Default)]
pub struct RedisAccess {
    pub user: Option<String>,
    /// A file with the password in it, and nothing else.
    pub password: Option<PathBuf>,
    /// The CAs that the certificate of Redis may be of; unless told otherwise, those of the system.
    pub ca: Option<PathBuf>,
    /// This node's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// The user that the Sentinels know this node by, and a file with the password.
    pub sentinel_user: Option<String>,
    pub sentinel_password: Option<PathBuf>,
}

/// Where a Redis is, and how to get in.
pub struct Server {
    master: Master,
    dialer: Dialer,
    prefix: String,
}

/// How to get in, wherever it is.
pub(super) struct Dialer {
    tls: Option<Reloadable<Arc<ClientConfig>>>,
    redis: Login,
    sentinel: Login,
}

struct Login {
    settings: RedisConnectionInfo,
    password: Option<Reloadable<String>>,
}

/// A connection, and what drives it where that is not the library's.
#[derive(Clone)]
pub(super) struct Connection {
    pub redis: MultiplexedConnection,
    _driver: Option<Arc<AbortOnDropHandle<()>>>,
}

impl Server {
    /// `prefix`: what keys begin with, before it is made a hash tag.
    ///
    /// # Errors
    /// When `url` is none that can be used here, a file cannot be read, or they do not go together.
    pub fn open(url: &str, access: &RedisAccess, prefix: &str) -> anyhow::Result<Self> {
        let RedisTarget { tls, topology, seeds, settings } = RedisTarget::parse(url)?;
        let tls = tls.then(|| watch_tls(access)).transpose()?;
        ensure!(
            tls.is_some() || access.ca.is_none() && access.certificate.is_none(),
            "--redis-ca, --redis-cert and --redis-key go with a rediss:// URL"
        );
        let prefix = if topology == Topology::Cluster { tagged(prefix) } else { Some(prefix.to_owned()) };
        let prefix = prefix.context("no hash tag can be made of the prefix of the keys")?;
        let redis = Login::open(settings, access.user.as_deref(), access.password.clone())?;
        let settings = "redis://localhost".into_connection_info()?.redis_settings().clone();
        let sentinel = Login::open(settings, access.sentinel_user.as_deref(), access.sentinel_password.clone())?;
        let master = Master::new(topology, seeds, slot(&prefix));
        Ok(Self { master, dialer: Dialer { tls, redis, sentinel }, prefix })
    }

    /// What keys begin with; on a Cluster, with a hash tag in it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where to begin, without credentials: itself, the Sentinels, or nodes of the Cluster.
    pub fn addresses(&self) -> Vec<String> {
        self.master.seeds().iter().map(host_and_port).collect()
    }

    pub(super) fn is_cluster(&self) -> bool {
        *self.master.topology() == Topology::Cluster
    }

    /// Keeps the files read, for ever where there are any.
    pub(super) async fn keep(&self) {
        let Dialer { tls, redis, sentinel } = &self.dialer;
        let passwords = [redis, sentinel].map(|login| reload::keep(login.password.clone()));
        let [redis, sentinel] = passwords;
        join3(redis, sentinel, reload::keep(tls.clone())).await;
    }

    /// Where the master is now. Bounded in time.
    pub(super) async fn find(&self) -> Result<ConnectionAddr, ConnectError> {
        self.master.find(&self.dialer).await
    }

    /// Ends when the master is somewhere else than `from`, and says where.
    pub(super) async fn moves(&self, from: &ConnectionAddr) -> ConnectionAddr {
        self.master.moves(&self.dialer, from).await
    }

    /// Connects to what has the keys, with what the files say now. Not bounded in time.
    pub(super) async fn connect(&self, to: &ConnectionAddr) -> Result<Connection, ConnectError> {
        self.dialer.dial(to).await
    }
}

impl Login {
    fn open(mut settings: RedisConnectionInfo, user: Option<&str>, password: Option<PathBuf>) -> anyhow::Result<Self> {
        let password = password.map(watch_password).transpose()?;
        // CLIENT is no command that the user of a node needs.
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

    fn now(&self) -> RedisConnectionInfo {
        let settings = self.settings.clone();
        match &self.password {
            Some(password) => settings.set_password(password.current().as_str()),
            None => settings,
        }
    }
}

impl Dialer {
    /// To a Redis, or a node of a Cluster. Not bounded in time.
    pub async fn dial(&self, to: &ConnectionAddr) -> Result<Connection, ConnectError> {
        self.connect(to, self.redis.now()).await
    }

    /// To a Sentinel. Not bounded in time.
    pub async fn sentinel(&self, to: &ConnectionAddr) -> Result<Connection, ConnectError> {
        self.connect(to, self.sentinel.now()).await
    }

    async fn connect(&self, to: &ConnectionAddr, settings: RedisConnectionInfo) -> Result<Connection, ConnectError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_TIMEOUT))
            .set_response_timeout(Some(CALL_TIMEOUT));
        let (Some(tls), ConnectionAddr::Tcp(host, port)) = (&self.tls, to) else {
            let client = Client::open(to.clone().into_connection_info()?.set_redis_settings(settings))?;
            let redis = client.get_multiplexed_async_connection_with_config(&config).await?;
            return Ok(Connection { redis, _driver: None });
        };
        let name = ServerName::try_from(host.clone());
        let name = name.map_err(|_| Incompatible::Untrusted(format!("no certificate can name {host}")))?;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(RedisError::from)?;
        stream.set_nodelay(true).map_err(RedisError::from)?;
        let connector = TlsConnector::from(Arc::clone(&*tls.current()));
        let stream = timeout(TLS_WITHIN, connector.connect(name, stream)).await;
        let stream = stream.map_err(|_elapsed| ConnectError::NoTlsYet)?.map_err(RedisError::from)?;
        let (redis, driver) = MultiplexedConnection::new_with_config(&settings, stream, config).await?;
        let driver = Arc::new(AbortOnDropHandle::new(tokio::spawn(driver)));
        Ok(Connection { redis, _driver: Some(driver) })
    }
}

impl ConnectError {
    /// What trouble it is, whatever its particulars.
    pub fn kind(&self) -> (Discriminant<Self>, Option<Discriminant<Incompatible>>) {
        let incompatible =
            if let Self::Incompatible(incompatible) = self { Some(discriminant(incompatible)) } else { None };
        (discriminant(self), incompatible)
    }
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        let text = error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned);
        let io = error.kind() == ErrorKind::Io;
        match error.kind() {
            ErrorKind::AuthenticationFailed => Incompatible::Login(text).into(),
            ErrorKind::Server(ServerErrorKind::NoPerm) => Incompatible::Permission(text).into(),
            _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => Incompatible::Login(text).into(),
            _ if is_unknown_command(&text) => Incompatible::Missing("INFO").into(),
            // In the words of rustls, whose error is in there as text alone.
            _ if io && text.contains("invalid peer certificate") => Incompatible::Untrusted(text).into(),
            _ if io && text.contains("received fatal alert") => Incompatible::Certificate(text).into(),
            _ if io && text.contains("received corrupt message") => Incompatible::NoTls(text).into(),
            _ => Self::Failed(error),
        }
    }
}

fn watch_password(file: PathBuf) -> anyhow::Result<Reloadable<String>> {
    Reloadable::open(vec![file.clone()], move |contents| {
        password(&contents[0]).with_context(|| format!("there is no password in {}", file.display()))
    })
}

/// The one line of a file.
fn password(contents: &[u8]) -> anyhow::Result<String> {
    let text = str::from_utf8(contents).context("it is not text")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    ensure!(!text.is_empty(), "it is empty");
    ensure!(text.len() <= PASSWORD_MOST && !text.contains(['\n', '\0']), "it is not one line");
    Ok(text.to_owned())
}

fn watch_tls(access: &RedisAccess) -> anyhow::Result<Reloadable<Arc<ClientConfig>>> {
    let (ca, certificate) = (access.ca.clone(), access.certificate.clone());
    let files = ca.iter().chain(certificate.iter().flat_map(|(certificate, key)| [certificate, key]));
    Reloadable::open(files.cloned().collect(), move |contents| {
        let mut contents = contents.iter();
        let mut next = || contents.next().map(Vec::as_slice).unwrap_or_default();
        let roots = match &ca {
            Some(ca) => pem::roots(ca, next())?,
            None => system_roots()
                .context("this machine has no CAs that it trusts: pass the CA of Redis with --redis-ca")?,
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match &certificate {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let shown = pem::certified_key([certificate, key], [next(), next()])?;
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
        };
        Ok(Arc::new(config))
    })
}
