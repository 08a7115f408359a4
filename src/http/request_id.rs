//! Request ids: every answer names its request, and so does every line of the log about it.
//!
//! Owns the header `X-Request-Id`: taken from the request where it makes sense, so that an id goes through a chain of
//! services, and made where it does not. Problem documents carry it, too. Here also begins the span of a request that is
//! traced, since this stands around everything else.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::http::{HeaderName, HeaderValue, Method, Request, header};
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::problem::Problem;
use crate::telemetry::logging::request::{with_id, with_id_sync};
use crate::telemetry::traces;
use crate::telemetry::traces::TraceSampling;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken from a request, in bytes.
const ID_MOST: usize = 128;

/// The layer. `https`: what requests come by.
#[derive(Debug, Clone, Copy)]
pub struct RequestIds {
    pub https: bool,
    pub sampling: TraceSampling,
}

#[derive(Clone)]
pub struct Identified<S> {
    ids: RequestIds,
    inner: S,
}

impl<S> Layer<S> for RequestIds {
    type Service = Identified<S>;

    fn layer(&self, inner: S) -> Identified<S> {
        Identified { ids: *self, inner }
    }
}

impl<S, B> Service<Request<B>> for Identified<S>
where
    S: Service<Request<B>, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let id = given(&request).unwrap_or_else(made);
        let named = Some(id.clone());
        let traced = self.ids.sampling.request_span(&request, self.ids.https);
        let head = *request.method() == Method::HEAD;
        let answering = with_id_sync(id.clone(), || traced.in_scope(|| self.inner.call(request)));
        let answered = async move {
            let mut response = answering.instrument(traced.clone()).await?;
            traces::record_response(&traced, response.status());
            if let Some(problem) = response.extensions_mut().remove::<Problem>().filter(|_| !head) {
                *response.body_mut() = problem.document(Some(text(&id)));
                response.headers_mut().remove(header::CONTENT_LENGTH);
            }
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(response)
        };
        with_id(named, answered).boxed()
    }
}

/// The id that the request comes with, if it is one that can be shown anywhere.
fn given<B>(request: &Request<B>) -> Option<HeaderValue> {
    let mut values = request.headers().get_all(REQUEST_ID).iter();
    let (id, None) = (values.next()?, values.next()) else { return None };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=~@".contains(byte);
    ((1..=ID_MOST).contains(&id.len()) && id.as_bytes().iter().all(plain)).then(|| id.clone())
}

fn made() -> HeaderValue {
    HeaderValue::try_from(format!("{:016x}", rand::random::<u64>())).expect("hexadecimal digits")
}

fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use tower::service_fn;

    use super::*;
    use crate::telemetry::logging::request::current_id;

    #[tokio::test]
    async fn what_is_logged_names_the_request_before_and_while_its_answer_is_awaited() {
        let service = service_fn(|_: Request<()>| {
            let called = current_id();
            async move {
                assert_eq!((called, current_id()), (Some("a".parse().unwrap()), Some("a".parse().unwrap())));
                Ok::<_, Infallible>(Response::default())
            }
        });
        let request = Request::builder().header(REQUEST_ID, "a").body(()).unwrap();
        let answer =
            RequestIds { https: false, sampling: TraceSampling::default() }.layer(service).call(request).await.unwrap();
        assert_eq!((&answer.headers()[REQUEST_ID], current_id()), (&HeaderValue::from_static("a"), None));
    }

    #[test]
    fn an_id_is_taken_that_is_short_and_plain_and_there_once() {
        let request = |ids: &[&[u8]]| {
            let mut request = Request::builder();
            for id in ids {
                request = request.header(REQUEST_ID, *id);
            }
            given(&request.body(()).unwrap())
        };
        for id in ["a", "Root=1-67891233-abcdef012345678912345678", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"] {
            assert_eq!(request(&[id.as_bytes()]).unwrap(), id);
        }
        assert!(request(&[&[b'a'; ID_MOST]]).is_some());
        for hostile in [&b""[..], b"a b", b"a\"b", b"a\tb", b"<script>", b"{a}", b"caf\xc3\xa9", &[b'a'; ID_MOST + 1]] {
            assert_eq!(request(&[hostile]), None, "{hostile:?}");
        }
        assert_eq!(request(&[]), None);
        assert_eq!(request(&[b"a", b"b"]), None, "nobody knows which of two it is");
        assert_ne!(made(), made());
    }
}
