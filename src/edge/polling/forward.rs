//! Forwarding of polling requests between nodes: `rollcall.v1.PollingService`.
//!
//! Owns the conversion of requests and responses to the wire types, for both ends, and the gRPC service of the node that
//! has the session. [`crate::mesh::peers`] sends the requests, [`super::sessions`] answers them.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use tonic::{Request, Status};

use super::sessions::{PollingSessions, SessionRequest};
use super::signed_session_id::SignedSessionId;
use crate::mesh::proto::polling_service_server::PollingService;
use crate::mesh::{MAX_FORWARDED_BYTES, proto};

/// Answers requests for the sessions of this node that arrived at other nodes.
pub struct ForwardedPolling(pub Arc<PollingSessions>);

#[tonic::async_trait]
impl PollingService for ForwardedPolling {
    async fn forward(
        &self,
        request: Request<proto::ForwardRequest>,
    ) -> Result<tonic::Response<proto::ForwardResponse>, Status> {
        let request = request.into_inner();
        let (id, asked) = decode(&request)?;
        // If the caller cancels the call, this future is dropped, and the poll ends.
        let response = self.0.answer(&id, asked).await;
        encode_response(response).await.map(tonic::Response::new)
    }
}

pub fn encode(id: &SignedSessionId<'_>, asked: SessionRequest) -> proto::ForwardRequest {
    let (asked, payload) = match asked {
        SessionRequest::Poll => (proto::Asked::Poll, Bytes::new()),
        SessionRequest::Post(payload) => (proto::Asked::Post, payload),
        SessionRequest::Release => (proto::Asked::Release, Bytes::new()),
    };
    proto::ForwardRequest { session: id.as_str().to_owned(), asked: asked.into(), payload: payload.into() }
}

fn decode(request: &proto::ForwardRequest) -> Result<(SignedSessionId<'_>, SessionRequest), Status> {
    let id = SignedSessionId::parse(&request.session);
    let id = id.ok_or_else(|| Status::invalid_argument("session is not a signed session id"))?;
    let asked = match request.asked() {
        proto::Asked::Poll => SessionRequest::Poll,
        proto::Asked::Post => SessionRequest::Post(Bytes::copy_from_slice(&request.payload)),
        proto::Asked::Release => SessionRequest::Release,
        proto::Asked::Unspecified => return Err(Status::invalid_argument("asked is missing")),
    };
    Ok((id, asked))
}

async fn encode_response(response: Response) -> Result<proto::ForwardResponse, Status> {
    let (parts, body) = response.into_parts();
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let body = to_bytes(body, MAX_FORWARDED_BYTES).await;
    Ok(proto::ForwardResponse {
        status: parts.status.as_u16().into(),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: body
            .map_err(|_| Status::resource_exhausted("the response is larger than a forwarded response may be"))?
            .into(),
    })
}

/// The response for the client; `None` when the other node sent an invalid one.
pub fn decode_response(forwarded: proto::ForwardResponse) -> Option<Response> {
    let mut response = Response::new(Body::from(forwarded.body));
    let status = StatusCode::from_u16(u16::try_from(forwarded.status).ok()?).ok()?;
    *response.status_mut() = Some(status).filter(|status| !status.is_informational())?;
    if !forwarded.content_type.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::try_from(forwarded.content_type).ok()?);
    }
    Some(response)
}
