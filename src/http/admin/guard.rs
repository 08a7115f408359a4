//! Who gets into the closed group of the admin port.
//!
//! Owns the decision and its refusals. Changing something takes a token, always. Reading takes one where the port can be
//! reached from other machines, and where there are tokens at all; otherwise whoever is on this machine may read. Then a
//! browser on this machine is the danger: a page from elsewhere whose host suddenly resolves to this machine (DNS
//! rebinding) says so in `Host`, and one that sends something across origins in `Origin`.

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

/// Cheap to clone.
#[derive(Clone)]
pub struct AdminGuard {
    tokens: Option<Reloadable<NamedTokens>>,
    /// Nobody reaches the port but from this machine.
    local: bool,
}

/// Whose token a request came with: in the extensions of every request that changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operator(pub SmolStr);

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    /// There are no tokens, and it takes one.
    NoTokens,
    TokenMissing,
    TokenUnknown,
    /// Asked under a name that is not this machine's own.
    ForeignHost,
    /// Asked by a page that is not of this port.
    ForeignOrigin,
}

/// In front of the closed group.
pub async fn let_in(State(guard): State<AdminGuard>, mut request: Request, next: Next) -> Response {
    let admitted = guard.admit(request.method(), request.uri(), request.headers());
    let mut response = match admitted {
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
    /// `address`: where the port listens.
    pub fn new(tokens: Option<Reloadable<NamedTokens>>, address: IpAddr) -> Self {
        Self { tokens, local: address.to_canonical().is_loopback() }
    }

    fn admit(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Option<Operator>, Refused> {
        let changing = !matches!(*method, Method::GET | Method::HEAD);
        if headers.get_all(header::ORIGIN).iter().any(|origin| !is_own(origin, headers)) {
            return Err(Refused::ForeignOrigin);
        }
        match &self.tokens {
            Some(tokens) => {
                let presented = bearer(headers).ok_or(Refused::TokenMissing)?;
                let name = tokens.current().name_of(presented.token()).map(SmolStr::from);
                name.map(|name| Some(Operator(name))).ok_or(Refused::TokenUnknown)
            }
            None if changing || !self.local => Err(Refused::NoTokens),
            None if is_this_machine(uri, headers) => Ok(None),
            None => Err(Refused::ForeignHost),
        }
    }
}

/// Whether everything that the request says of where it goes to is a loopback name or address.
fn is_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
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

/// Whether a page of this origin came from the host that is asked. TLS may end in front of the port.
fn is_own(origin: &HeaderValue, headers: &HeaderMap) -> bool {
    let own = || {
        let authority =
            origin.to_str().ok()?.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?.1;
        Some(headers.get(header::HOST)?.to_str().ok()?.eq_ignore_ascii_case(authority))
    };
    own().unwrap_or(false)
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let problem = |detail: &str| Problem::forbidden(detail).into_response();
        match self {
            Self::NoTokens => problem(
                "this takes a token, and this node was given none: start it with --admin-token-file; without one, only \
                 reading is possible, and only while --admin-listen is a loopback address",
            ),
            Self::TokenMissing => Problem::unauthorized("pass a token of --admin-token-file in Authorization: Bearer")
                .with(header::WWW_AUTHENTICATE, CHALLENGE),
            Self::TokenUnknown => {
                Problem::unauthorized("this is no token of --admin-token-file").with(header::WWW_AUTHENTICATE, INVALID)
            }
            Self::ForeignHost => problem(
                "without a token this is for this machine alone: ask by a loopback address or localhost, or start the \
                 node with --admin-token-file",
            ),
            Self::ForeignOrigin => problem("pages of other origins get nothing here"),
        }
    }
}
