//! Authorization of operators on the admin port.
//!
//! Every change needs a token. Reading needs one if the port is reachable from other machines, or if tokens are configured;
//! otherwise every user of this machine may read. In that case the threat is a browser on this machine that shows a foreign
//! page. The header `Host` exposes a page whose host name resolves to this machine (DNS rebinding), and `Origin` exposes a
//! cross-origin request.

use std::net::IpAddr;
use std::str::FromStr as _;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use smol_str::SmolStr;

use crate::auth::reload::Reloadable;
use crate::auth::tokens::NamedTokens;
use crate::http::access::{CHALLENGE, INVALID, bearer};
use crate::problem::Problem;

/// Decides about the requests of the guarded routes. Cheap to clone.
#[derive(Clone)]
pub struct AdminGuard {
    tokens: Option<Reloadable<NamedTokens>>,
    /// The admin port listens on a loopback address.
    is_loopback: bool,
}

/// The name of the token of a request. Every request that changes something has it in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator(pub SmolStr);

/// The reason of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AdminRefusal {
    /// The request needs a token, and none is configured.
    NoTokens,
    TokenMissing,
    TokenUnknown,
    /// `Host` is not a loopback name.
    ForeignHost,
    /// `Origin` is not that of this port.
    ForeignOrigin,
}

/// The middleware of the guarded routes.
pub async fn authorize(State(guard): State<AdminGuard>, mut request: Request, next: Next) -> Response {
    let decision = guard.decide(request.method(), request.uri(), request.headers());
    let mut response = match decision {
        Ok(operator) => {
            if let Some(operator) = operator {
                request.extensions_mut().insert(operator);
            }
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

impl AdminGuard {
    /// `address`: the address of the listener.
    pub fn new(tokens: Option<Reloadable<NamedTokens>>, address: IpAddr) -> Self {
        Self { tokens, is_loopback: address.to_canonical().is_loopback() }
    }

    fn decide(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Option<Operator>, AdminRefusal> {
        let is_change = !matches!(*method, Method::GET | Method::HEAD);
        if headers.get_all(header::ORIGIN).iter().any(|origin| !is_same_origin(origin, headers)) {
            return Err(AdminRefusal::ForeignOrigin);
        }
        match &self.tokens {
            Some(tokens) => {
                let presented = bearer(headers).ok_or(AdminRefusal::TokenMissing)?;
                let name = tokens.current().name_of(presented.token()).map(SmolStr::from);
                name.map(|name| Some(Operator(name))).ok_or(AdminRefusal::TokenUnknown)
            }
            None if is_change || !self.is_loopback => Err(AdminRefusal::NoTokens),
            None if targets_loopback(uri, headers) => Ok(None),
            None => Err(AdminRefusal::ForeignHost),
        }
    }
}

/// Whether all names of the target in the request are loopback names or addresses.
fn targets_loopback(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter().peekable();
    let loopback = |authority: &Authority| {
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        address.map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address| address.to_canonical().is_loopback())
    };
    let parse = |host: &HeaderValue| Authority::from_str(host.to_str().ok()?).ok();
    hosts.peek().is_some()
        && hosts.all(|host| parse(host).is_some_and(|authority| loopback(&authority)))
        && uri.authority().is_none_or(loopback)
}

/// Whether the origin is the host of the request. The scheme may differ: TLS may end at a proxy in front of the port.
fn is_same_origin(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let own = || {
        let authority =
            origin.to_str().ok()?.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?.1;
        Some(headers.get(header::HOST)?.to_str().ok()?.eq_ignore_ascii_case(authority))
    };
    own().unwrap_or(false)
}

impl IntoResponse for AdminRefusal {
    fn into_response(self) -> Response {
        let problem = |detail: &str| Problem::forbidden(detail).into_response();
        match self {
            Self::NoTokens => problem(
                "this request needs a token, and none is configured: start the node with --admin-token-file. Without it, \
                 only reading is possible, and only while --admin-listen is a loopback address",
            ),
            Self::TokenMissing => Problem::unauthorized("pass a token of --admin-token-file in Authorization: Bearer")
                .with(header::WWW_AUTHENTICATE, CHALLENGE),
            Self::TokenUnknown => Problem::unauthorized("invalid token: use one of --admin-token-file")
                .with(header::WWW_AUTHENTICATE, INVALID),
            Self::ForeignHost => problem(
                "without tokens, the admin port accepts requests to a loopback address only: use 127.0.0.1, [::1] or \
                 localhost, or start the node with --admin-token-file",
            ),
            Self::ForeignOrigin => problem("the admin port refuses requests of pages of another origin"),
        }
    }
}
