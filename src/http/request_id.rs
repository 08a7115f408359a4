//! Request ids: in the header `X-Request-Id` of every response, in problem documents, and in log lines.
//!
//! Owns a `tower` layer. It keeps the id of a request if the id is short and plain, so that one id passes through a chain of
//! services; otherwise it generates one. It also starts the span of a traced request, because it is the outermost layer.

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
/// In bytes. The layer replaces a longer id.
const MAX_ID_BYTES: usize = 128;

/// The layer. `https`: whether the port has TLS, for the spans.
#[derive(Debug, Clone, Copy)]
pub struct RequestIds {
    pub https: bool,
    pub sampling: TraceSampling,
}

#[derive(Clone)]
pub struct RequestIdService<S> {
    config: RequestIds,
    inner: S,
}

impl<S> Layer<S> for RequestIds {
    type Service = RequestIdService<S>;

    fn layer(&self, inner: S) -> RequestIdService<S> {
        RequestIdService { config: *self, inner }
    }
}

impl<S, B> Service<Request<B>> for RequestIdService<S>
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
        let id = id_of(&request).unwrap_or_else(new_id);
        let logged_id = Some(id.clone());
        let span = self.config.sampling.request_span(&request, self.config.https);
        let is_head = *request.method() == Method::HEAD;
        let inner = with_id_sync(id.clone(), || span.in_scope(|| self.inner.call(request)));
        let response = async move {
            let mut response = inner.instrument(span.clone()).await?;
            traces::record_response(&span, response.status());
            // The body of a problem contains the id, so it is written here and not where the problem occurred.
            if let Some(problem) = response.extensions_mut().remove::<Problem>().filter(|_| !is_head) {
                *response.body_mut() = problem.document(Some(text(&id)));
                response.headers_mut().remove(header::CONTENT_LENGTH);
            }
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(response)
        };
        with_id(logged_id, response).boxed()
    }
}

/// The id that the client sent, if it is safe to show in logs and pages.
fn id_of<B>(request: &Request<B>) -> Option<HeaderValue> {
    let mut values = request.headers().get_all(REQUEST_ID).iter();
    let (id, None) = (values.next()?, values.next()) else { return None };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=~@".contains(byte);
    ((1..=MAX_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(plain)).then(|| id.clone())
}

fn new_id() -> HeaderValue {
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
    async fn log_lines_of_the_handler_carry_the_request_id() {
        let service = service_fn(|_: Request<()>| {
            let id_in_call = current_id();
            async move {
                assert_eq!((id_in_call, current_id()), (Some("a".parse().unwrap()), Some("a".parse().unwrap())));
                Ok::<_, Infallible>(Response::default())
            }
        });
        let request = Request::builder().header(REQUEST_ID, "a").body(()).unwrap();
        let answer =
            RequestIds { https: false, sampling: TraceSampling::default() }.layer(service).call(request).await.unwrap();
        assert_eq!((&answer.headers()[REQUEST_ID], current_id()), (&HeaderValue::from_static("a"), None));
    }

    #[test]
    fn only_a_single_short_plain_id_is_kept() {
        let request = |ids: &[&[u8]]| {
            let mut request = Request::builder();
            for id in ids {
                request = request.header(REQUEST_ID, *id);
            }
            id_of(&request.body(()).unwrap())
        };
        for id in ["a", "Root=1-67891233-abcdef012345678912345678", "6f9619ff-8b86-d011-b42d-00cf4fc964ff"] {
            assert_eq!(request(&[id.as_bytes()]).unwrap(), id);
        }
        assert!(request(&[&[b'a'; MAX_ID_BYTES]]).is_some());
        for hostile in
            [&b""[..], b"a b", b"a\"b", b"a\tb", b"<script>", b"{a}", b"caf\xc3\xa9", &[b'a'; MAX_ID_BYTES + 1]]
        {
            assert_eq!(request(&[hostile]), None, "{hostile:?}");
        }
        assert_eq!(request(&[]), None);
        assert_eq!(request(&[b"a", b"b"]), None, "two ids are ambiguous");
        assert_ne!(new_id(), new_id());
    }
}
