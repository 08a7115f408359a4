//! So many connections of a listener that others serve: one more is closed as it comes.
//!
//! Owns the counting for the mesh, whose callers are few and known, and whom nobody has to tell anything in HTTP/1.1.

use std::io;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_stream::{Stream, StreamExt};
use tracing::warn;

/// The connections that are accepted while there are fewer than `most`: each is one for as long as it keeps what `count`
/// is given with it.
pub fn so_many<T, C>(
    accepted: impl Stream<Item = io::Result<T>>,
    most: usize,
    count: impl Fn(T, OwnedSemaphorePermit) -> C,
) -> impl Stream<Item = io::Result<C>> {
    let open = Arc::new(Semaphore::new(most));
    let mut complained = false;
    accepted.filter_map(move |accepted| {
        let connection = match accepted {
            Ok(connection) => connection,
            Err(error) => return Some(Err(error)),
        };
        let Ok(one) = Arc::clone(&open).try_acquire_owned() else {
            if !complained {
                warn!(most, "too many connections to the mesh, closing those that come until there is room");
                complained = true;
            }
            return None;
        };
        complained = false;
        Some(Ok(count(connection, one)))
    })
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, duplex};
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::*;

    #[tokio::test]
    async fn one_too_many_is_closed_and_there_is_room_when_another_has_gone() {
        let (come, coming) = mpsc::unbounded_channel();
        let mut accepted = Box::pin(so_many(UnboundedReceiverStream::new(coming), 2, |stream, one| (stream, one)));
        let come = || {
            let (client, stream) = duplex(1);
            come.send(Ok(stream)).unwrap();
            client
        };
        let _clients = [come(), come()];
        let one = accepted.next().await.unwrap().unwrap();
        let _other = accepted.next().await.unwrap().unwrap();
        let mut closed = come();
        assert!(accepted.next().now_or_never().is_none(), "it is one too many");
        assert_eq!(closed.read(&mut [0]).await.unwrap(), 0);
        drop(one);
        let _client = come();
        assert!(accepted.next().await.is_some_and(|accepted| accepted.is_ok()));
    }
}
