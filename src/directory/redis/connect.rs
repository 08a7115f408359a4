//! How a Redis is reached, and whether it can be used.
//!
//! Owns the address and every credential: those of the URL and those in files, which are read again when they change and
//! count from the next connection on. A secret is in no error and no `Debug`. A Redis that answers and must be mended is
//! told apart from one that does not answer ([`Unfit`]), with what mends it.

use std::mem::{Discriminant, discriminant};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError,
    ServerErrorKind,
};
use anyhow::{Context as _, ensure};
use futures::future::join;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::CALL_TIMEOUT;
use crate::tls::{pem, provider, trusted_by_this_machine};
use crate::watched::{self, Watched};

/// The part of [`CALL_TIMEOUT`] that a TLS handshake may take.
const TLS_WITHIN: Duration = Duration::from_millis(700);
/// The longest password, in bytes.
const PASSWORD_MOST: usize = 1024;
/// The commands that a node sends, to be tried on a key of their own.
const PROBED: &[&[&str]] = &[
    &["SADD", "{}", "1"],
    &["EXPIRE", "{}", "1"],
    &["SMEMBERS", "{}"],
    &["SCARD", "{}"],
    &["SREM", "{}", "1"],
    &["SET", "{}", "1", "NX", "PX", "1000"],
    &["GET", "{}"],
    &["EXISTS", "{}"],
    &["UNLINK", "{}"],
    &["DEL", "{}"],
    &["TIME"],
    &["SCRIPT", "LOAD", "return 0"],
    // Of no script: whether it may be called is looked at before.
    &["EVALSHA", "0000000000000000000000000000000000000000", "1", "{}"],
];

/// Why a Redis that answers is not used. `Display` says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It could drop what this cluster relies on.
    #[error(
        "it may evict keys (maxmemory-policy is {0}), and the index with them; say `redis-cli CONFIG SET \
         maxmemory-policy noeviction` and keep it in its configuration, or pass --redis-allow-eviction"
    )]
    Evicts(String),
    /// It cannot be written to.
    #[error("it is a replica; name its master")]
    Replica,
    /// `INFO` lacks what every Redis says of itself.
    #[error("its INFO names no {0}")]
    Unknown(&'static str),
    /// Who answers may be anybody.
    #[error(
        "its certificate is not accepted ({0}); pass its CA with --redis-ca, and in --redis a host that its \
         certificate names"
    )]
    Untrusted(String),
    /// What listens there speaks no TLS.
    #[error("it does not speak TLS ({0}); say redis:// instead of rediss://, or name its TLS port")]
    NoTls(String),
    /// It does not accept this node's certificate, or misses one.
    #[error(
        "it does not accept this node's certificate ({0}); pass one of a CA that it knows with --redis-cert and --redis-key"
    )]
    Certificate(String),
    /// The user or the password is wrong, or missing.
    #[error(
        "it does not accept the user or the password ({0}); look at --redis-user and --redis-password-file, or the URL"
    )]
    Login(String),
    /// The user may not do what a node does.
    #[error("its user may not do what a node does ({0}); the README has the ACL that a node needs")]
    Permission(String),
}

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
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Why a URL cannot be used. Does not repeat the URL, since that may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a Redis URL that can be used, as in redis://127.0.0.1:6379 ({0})")]
pub struct InvalidUrl(String);

/// How a node proves who it is, and what it trusts, apart from what the URL says.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub user: Option<String>,
    /// A file with the password in it, and nothing else.
    pub password: Option<PathBuf>,
    /// The CAs that the certificate of Redis may be of; unless told otherwise, those of the system.
    pub ca: Option<PathBuf>,
    /// This node's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Where a Redis is, and how to get in.
pub struct Server {
    info: ConnectionInfo,
    tls: Option<Watched<Arc<ClientConfig>>>,
    password: Option<Watched<String>>,
}

/// A connection, and what drives it where that is not the library's.
#[derive(Clone)]
pub(super) struct Connection {
    pub redis: MultiplexedConnection,
    _driver: Option<Arc<AbortOnDropHandle<()>>>,
}

/// Whether a URL is one that can be used here.
///
/// # Errors
/// When it is not.
pub fn check_url(url: &str) -> Result<(), InvalidUrl> {
    parse(url).map(drop)
}

/// Whether a URL asks for TLS.
pub fn asks_for_tls(url: &str) -> bool {
    matches!(url.split_once("://"), Some(("rediss" | "valkeys", _)))
}

fn parse(url: &str) -> Result<ConnectionInfo, InvalidUrl> {
    let invalid = |error: RedisError| InvalidUrl(error.to_string());
    if !asks_for_tls(url) {
        return url.into_connection_info().map_err(invalid);
    }
    let (_, rest) = url.split_once("://").unwrap_or_default();
    if rest.contains('#') {
        return Err(InvalidUrl(
            "nothing may stand after a #; whose certificate is trusted is said by --redis-ca".into(),
        ));
    }
    // TLS is not made by the library, which need not know of it.
    format!("redis://{rest}").into_connection_info().map_err(invalid)
}

impl Server {
    /// # Errors
    /// When `url` is none that can be used here, a file cannot be read, or they do not go together.
    pub fn open(url: &str, access: &Access) -> anyhow::Result<Self> {
        let info = parse(url)?;
        let tls = asks_for_tls(url).then(|| watch_tls(access)).transpose()?;
        ensure!(
            tls.is_some() || access.ca.is_none() && access.certificate.is_none(),
            "--redis-ca, --redis-cert and --redis-key go with a rediss:// URL"
        );
        let password = access.password.clone().map(watch_password).transpose()?;
        let mut redis = info.redis_settings().clone();
        if let Some(user) = &access.user {
            redis = redis.set_username(user);
        }
        ensure!(
            redis.username().is_none() || redis.password().is_some() || password.is_some(),
            "a user without a password: pass --redis-password-file"
        );
        Ok(Self { info: info.set_redis_settings(redis), tls, password })
    }

    /// Where it is, without credentials.
    pub fn address(&self) -> String {
        match self.info.addr() {
            ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
            other => other.to_string(),
        }
    }

    /// Keeps the files read, for ever where there are any.
    pub(super) async fn keep(&self) {
        join(watched::keep(self.password.clone()), watched::keep(self.tls.clone())).await;
    }

    /// Connects with what the files say now. Not bounded in time.
    pub(super) async fn connect(&self) -> Result<Connection, ConnectError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL_TIMEOUT))
            .set_response_timeout(Some(CALL_TIMEOUT));
        let mut settings = self.info.redis_settings().clone();
        if let Some(password) = &self.password {
            settings = settings.set_password(password.current().as_str());
        }
        let (Some(tls), ConnectionAddr::Tcp(host, port)) = (&self.tls, self.info.addr()) else {
            let client = Client::open(self.info.clone().set_redis_settings(settings))?;
            let redis = client.get_multiplexed_async_connection_with_config(&config).await?;
            return Ok(Connection { redis, _driver: None });
        };
        let name = ServerName::try_from(host.clone());
        let name = name.map_err(|_| Unfit::Untrusted(format!("no certificate can name {host}")))?;
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

/// Tries whether the user may do what a node does, on this key, which is gone afterwards.
pub(super) async fn probe(connection: &mut MultiplexedConnection, key: &str) -> Result<(), ConnectError> {
    let mut commands = ::redis::pipe();
    for probed in PROBED {
        let [command, arguments @ ..] = probed else { continue };
        commands.cmd(command);
        for argument in arguments {
            commands.arg(argument.replace("{}", key));
        }
    }
    let answers: Result<::redis::Value, RedisError> = commands.query_async(connection).await;
    let Err(error) = answers else { return Ok(()) };
    // What else may be wrong is told by the calls that meet it.
    let Some(errors) = error.clone().into_server_errors() else { return Err(error.into()) };
    let refused = errors.iter().find(|(_, error)| error.code() == "NOPERM");
    refused.map_or(Ok(()), |(_, refused)| Err(Unfit::Permission(refused.to_string()).into()))
}

impl ConnectError {
    /// What trouble it is, whatever its particulars.
    pub fn kind(&self) -> (Discriminant<Self>, Option<Discriminant<Unfit>>) {
        let unfit = if let Self::Unfit(unfit) = self { Some(discriminant(unfit)) } else { None };
        (discriminant(self), unfit)
    }
}

impl From<RedisError> for ConnectError {
    fn from(error: RedisError) -> Self {
        let text = error.detail().map_or_else(|| error.to_string(), ToOwned::to_owned);
        let io = error.kind() == ErrorKind::Io;
        match error.kind() {
            ErrorKind::AuthenticationFailed => Unfit::Login(text).into(),
            ErrorKind::Server(ServerErrorKind::NoPerm) => Unfit::Permission(text).into(),
            _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS")) => Unfit::Login(text).into(),
            // In the words of rustls, whose error is in there as text alone.
            _ if io && text.contains("invalid peer certificate") => Unfit::Untrusted(text).into(),
            _ if io && text.contains("received fatal alert") => Unfit::Certificate(text).into(),
            _ if io && text.contains("received corrupt message") => Unfit::NoTls(text).into(),
            _ => Self::Failed(error),
        }
    }
}

fn watch_password(file: PathBuf) -> anyhow::Result<Watched<String>> {
    Watched::open(vec![file.clone()], move |contents| {
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

fn watch_tls(access: &Access) -> anyhow::Result<Watched<Arc<ClientConfig>>> {
    let (ca, certificate) = (access.ca.clone(), access.certificate.clone());
    let files = ca.iter().chain(certificate.iter().flat_map(|(certificate, key)| [certificate, key]));
    Watched::open(files.cloned().collect(), move |contents| {
        let mut contents = contents.iter();
        let mut next = || contents.next().map(Vec::as_slice).unwrap_or_default();
        let roots = match &ca {
            Some(ca) => pem::roots(ca, next())?,
            None => trusted_by_this_machine()
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
