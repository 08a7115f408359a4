//! Counts the bytes that the mesh sends and receives.
//!
//! Owns the counts of one node, and the stream wrapper that adds to them. The wrapper is below TLS: it counts bytes on the
//! network, not those of messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use strum::IntoStaticStr;
use tokio_util::io::{InspectReader, InspectWriter};

use super::io::Io;

/// The end of a connection that this node is. The names are values of a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
pub enum ConnectionEnd {
    /// This node connected and sends the requests.
    #[strum(serialize = "asking")]
    Client,
    /// This node accepted the connection and sends the responses.
    #[strum(serialize = "answering")]
    Server,
}

/// The bytes of all mesh connections of a node, by end. Clones share the counts.
#[derive(Clone, Default)]
pub struct ByteCounter(Arc<ByteCounts>);

#[derive(Default)]
struct ByteCounts {
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
}

impl ConnectionEnd {
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    pub fn name(self) -> &'static str {
        self.into()
    }
}

impl ByteCounter {
    pub fn sent(&self, end: ConnectionEnd) -> u64 {
        self.0.sent[end as usize].load(Ordering::Relaxed)
    }

    pub fn received(&self, end: ConnectionEnd) -> u64 {
        self.0.received[end as usize].load(Ordering::Relaxed)
    }

    /// Wraps a stream so that its bytes are counted.
    pub(crate) fn count<I: Io>(&self, stream: I, end: ConnectionEnd) -> impl Io + use<I> {
        let (received, sent) = (Arc::clone(&self.0), Arc::clone(&self.0));
        let reader = InspectReader::new(stream, move |bytes: &[u8]| {
            received.received[end as usize].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
        InspectWriter::new(reader, move |bytes: &[u8]| {
            sent.sent[end as usize].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_are_counted_at_the_end_that_they_pass() {
        let (stream, mut remote) = duplex(64);
        let counter = ByteCounter::default();
        let mut stream = counter.count(stream, ConnectionEnd::Client);
        stream.write_all(b"abc").await.unwrap();
        remote.write_all(b"defgh").await.unwrap();
        let mut read = [0; 5];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(counter.sent(ConnectionEnd::Client), 3);
        assert_eq!(counter.received(ConnectionEnd::Client), 5);
        assert_eq!(counter.sent(ConnectionEnd::Server), 0);
        assert_eq!(&read, b"defgh");
    }
}
