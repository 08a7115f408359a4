//! One bidirectional stream per peer for lookups whose caller has a cached version (conditional lookups).
//!
//! Most answers are `unchanged`, and a unary call costs more than such an answer: headers, trailers, and the layers of both
//! ends. With four nodes on two cores and a room of 10, a roll call took 0.35 ms instead of 0.43 (median of 4 runs). It took
//! 38 µs of CPU per peer instead of 65. Owns the stream of one connection, and matches answers to requests. Owns no deadline
//! and no retry: a caller that gets no answer makes a unary call.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::SendStream;
use h2::client::SendRequest;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::codec::Codec;
use tonic::codegen::http::Request;
use tonic::codegen::http::header::HeaderValue;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;
use tracing::debug;

use super::MAX_REVALIDATED_BYTES;
use super::io::ResponseBody;
use super::proto::{LookupSocketsResponse, RevalidateRequest, RevalidateResponse};
use crate::telemetry::anomalies::{Anomalies, Anomaly};

/// Requests above this limit become unary calls, which have flow control of their own.
const MAX_PENDING_REQUESTS: usize = 1_000;
/// The prefix of a gRPC message: one byte for compression, and four for the length in network byte order
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>, Length-Prefixed-Message).
const MESSAGE_PREFIX_BYTES: usize = 5;

/// The stream of one connection under one token. It ends when this is dropped.
#[derive(Default)]
pub(crate) struct RevalidationStream {
    /// The token with which the stream was opened.
    bearer: Option<HeaderValue>,
    phase: Arc<Mutex<StreamPhase>>,
    closed: CancellationToken,
}

#[derive(Default)]
enum StreamPhase {
    /// Not opened yet, or ended by the peer.
    #[default]
    Closed,
    Opening,
    Open(OpenStream),
    /// The peer does not support the stream or sent an invalid answer. Not tried again on this connection.
    Unusable,
}

struct OpenStream {
    requests: SendStream<Bytes>,
    last_number: u64,
    /// In the order of the requests. The peer answers in the same order.
    pending: VecDeque<PendingRequest>,
}

struct PendingRequest {
    number: u64,
    answer: oneshot::Sender<Option<LookupSocketsResponse>>,
}

impl RevalidationStream {
    /// The stream with this token. If the token has changed, this replaces the current stream by one that is not open yet.
    pub(crate) fn with_bearer(current: &mut Arc<Self>, bearer: Option<HeaderValue>) -> Arc<Self> {
        if current.bearer != bearer {
            // Requests pending on the old stream hold a clone of it and are still answered.
            *current = Arc::new(Self { bearer, phase: Arc::default(), closed: CancellationToken::new() });
        }
        Arc::clone(current)
    }

    /// Opens the stream in a task. Requests use it only after the peer has accepted it.
    pub(crate) fn open(
        &self,
        requests: &SendRequest<Bytes>,
        head: impl FnOnce() -> Request<()>,
        anomalies: &Anomalies,
    ) {
        let mut phase = self.phase.lock();
        if !matches!(*phase, StreamPhase::Closed) {
            return;
        }
        *phase = StreamPhase::Opening;
        let (requests, head, anomalies) = (requests.clone(), head(), anomalies.clone());
        let (phase, closed) = (Arc::clone(&self.phase), self.closed.clone());
        tokio::spawn(async move {
            let ended = closed.run_until_cancelled(run(&phase, requests, head, &anomalies)).await;
            // Replacing an open stream drops its pending requests, whose callers then make unary calls.
            *phase.lock() = match ended {
                None | Some(Ok(())) => StreamPhase::Closed,
                // The peer may accept the next token.
                Some(Err(status)) if status.code() == Code::Unauthenticated => StreamPhase::Closed,
                Some(Err(status)) => {
                    debug!(%status, "revalidation stream to a peer ended; using unary lookups");
                    StreamPhase::Unusable
                }
            };
        });
    }

    /// Sets the number of the request, sends it, and waits for the answer. `None`: the caller should make a unary call.
    pub(crate) async fn ask(&self, request: RevalidateRequest) -> Option<LookupSocketsResponse> {
        let answer = match &mut *self.phase.lock() {
            StreamPhase::Open(stream) => stream.send(request)?,
            StreamPhase::Closed | StreamPhase::Opening | StreamPhase::Unusable => return None,
        };
        answer.await.ok().flatten()
    }
}

impl Drop for RevalidationStream {
    fn drop(&mut self) {
        self.closed.cancel();
    }
}

/// Opens the stream and delivers its answers until it ends.
async fn run(
    phase: &Mutex<StreamPhase>,
    requests: SendRequest<Bytes>,
    head: Request<()>,
    anomalies: &Anomalies,
) -> Result<(), Status> {
    let failed = |error: h2::Error| Status::from_error(error.into());
    // `ready` consumes the handle: an idle stream must not keep the connection open for other requests.
    let (response, requests) = requests.ready().await.map_err(failed)?.send_request(head, false).map_err(failed)?;
    let (head, body) = response.await.map_err(failed)?.into_parts();
    if let Some(rejection) = Status::from_header_map(&head.headers) {
        return Err(rejection);
    }
    let decoder = ProstCodec::<RevalidateRequest, RevalidateResponse>::default().decoder();
    // The cause of the stream's end is not reported, so the body gets a keep-alive flag of its own.
    let body = ResponseBody::new(body, Arc::default());
    let mut answers = Streaming::new_response(decoder, body, head.status, None, Some(MAX_REVALIDATED_BYTES));
    *phase.lock() = StreamPhase::Open(OpenStream { requests, last_number: 0, pending: VecDeque::new() });
    while let Some(answer) = answers.message().await? {
        if let StreamPhase::Open(stream) = &mut *phase.lock() {
            stream.deliver(answer, anomalies)?;
        }
    }
    Ok(())
}

impl OpenStream {
    /// Sends a request and returns the receiver of its answer.
    fn send(&mut self, mut request: RevalidateRequest) -> Option<oneshot::Receiver<Option<LookupSocketsResponse>>> {
        if self.pending.len() >= MAX_PENDING_REQUESTS {
            return None;
        }
        self.last_number += 1;
        request.number = self.last_number;
        let length = request.encoded_len();
        let mut message = BytesMut::with_capacity(MESSAGE_PREFIX_BYTES + length);
        message.put_u8(0);
        message.put_u32(u32::try_from(length).ok()?);
        request.encode(&mut message).expect("the buffer has the encoded length");
        // h2 buffers it beyond the flow-control window, which MAX_PENDING_REQUESTS bounds.
        self.requests.send_data(message.freeze(), false).ok()?;
        let (answer, receiver) = oneshot::channel();
        self.pending.push_back(PendingRequest { number: self.last_number, answer });
        Some(receiver)
    }

    /// Passes an answer to its caller, which may have stopped waiting.
    fn deliver(&mut self, response: RevalidateResponse, anomalies: &Anomalies) -> Result<(), Status> {
        let first = self.pending.pop_front().filter(|pending| pending.number == response.number);
        let Some(PendingRequest { answer, .. }) = first else {
            let detail = format_args!("revalidation answer {} without a request", response.number);
            anomalies.record(Anomaly::SenselessAnswer, detail);
            return Err(Status::internal("the peer sent an answer without a request"));
        };
        let _ = answer.send(response.answer);
        Ok(())
    }
}
