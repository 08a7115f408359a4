//! Requests of polling clients on their way to the node that has their session.
//!
//! Owns both ends of the translation: an [`Asked`] of a session to `rollcall.v1.PollingService` and back, and its answer
//! likewise. Sends nothing itself ([`crate::mesh::peers`]) and knows no sessions: what an id is worth is told by
//! [`crate::edge::polling::sessions`].

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use tonic::{Request, Status};

use crate::edge::polling::sessions::{Asked, Sessions};
use crate::edge::polling::signed_session_id::SignedSessionId;
use crate::mesh::proto::polling_service_server::{PollingService, PollingServiceServer};
use crate::mesh::{MAX_FORWARDED_BYTES, MAX_REQUEST_BYTES, proto};

/// The answering end.
pub struct Forwarded(Arc<Sessions>);

impl Forwarded {
    pub fn service(sessions: Arc<Sessions>) -> PollingServiceServer<Self> {
        PollingServiceServer::new(Self(sessions))
            .max_decoding_message_size(MAX_REQUEST_BYTES)
            .max_encoding_message_size(MAX_FORWARDED_BYTES)
    }
}

#[tonic::async_trait]
impl PollingService for Forwarded {
    async fn forward(
        &self,
        request: Request<proto::ForwardRequest>,
    ) -> Result<tonic::Response<proto::ForwardResponse>, Status> {
        let request = request.into_inner();
        let (id, asked) = decode(&request)?;
        // A caller that is not waiting any more drops this, and with it the poll.
        let response = self.0.answer(&id, asked).await;
        encode_answer(response).await.map(tonic::Response::new)
    }
}

pub fn encode(id: &SignedSessionId<'_>, asked: Asked) -> proto::ForwardRequest {
    let (asked, payload) = match asked {
        Asked::Poll => (proto::Asked::Poll, Bytes::new()),
        Asked::Post(payload) => (proto::Asked::Post, payload),
        Asked::Release => (proto::Asked::Release, Bytes::new()),
    };
    proto::ForwardRequest { session: id.as_str().to_owned(), asked: asked.into(), payload: payload.into() }
}

fn decode(request: &proto::ForwardRequest) -> Result<(SignedSessionId<'_>, Asked), Status> {
    let id = SignedSessionId::parse(&request.session);
    let id = id.ok_or_else(|| Status::invalid_argument("session is not a signed session id"))?;
    let asked = match request.asked() {
        proto::Asked::Poll => Asked::Poll,
        proto::Asked::Post => Asked::Post(Bytes::copy_from_slice(&request.payload)),
        proto::Asked::Release => Asked::Release,
        proto::Asked::Unspecified => return Err(Status::invalid_argument("asked is missing")),
    };
    Ok((id, asked))
}

async fn encode_answer(response: Response) -> Result<proto::ForwardResponse, Status> {
    let (parts, body) = response.into_parts();
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let body = to_bytes(body, MAX_FORWARDED_BYTES).await;
    Ok(proto::ForwardResponse {
        status: parts.status.as_u16().into(),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body.map_err(|_| Status::resource_exhausted("the answer is too large"))?.into(),
    })
}

/// The response for the client; `None` when it makes no sense.
pub fn decode_answer(answer: proto::ForwardResponse) -> Option<Response> {
    let mut response = Response::new(Body::from(answer.body));
    let status = StatusCode::from_u16(u16::try_from(answer.status).ok()?).ok()?;
    *response.status_mut() = Some(status).filter(|status| !status.is_informational())?;
    if !answer.content_type.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::try_from(answer.content_type).ok()?);
    }
    Some(response)
}
