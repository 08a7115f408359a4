//! What goes over the mesh, counted in bytes.
//!
//! Owns the counts, for the whole process, and the stream that counts: below TLS, so that what is counted is what the
//! network carries.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::io::{InspectReader, InspectWriter};

use super::channel::Wire;

/// Which end of a connection this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It connected, and asks.
    Asking,
    /// It accepted, and answers.
    Answering,
}

/// What was sent and received, by end.
pub struct Traffic {
    sent: [AtomicU64; 2],
    received: [AtomicU64; 2],
}

/// That of this process.
pub static TRAFFIC: Traffic =
    Traffic { sent: [const { AtomicU64::new(0) }; 2], received: [const { AtomicU64::new(0) }; 2] };

impl End {
    pub const ALL: [Self; 2] = [Self::Asking, Self::Answering];

    pub fn name(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Answering => "answering",
        }
    }
}

impl Traffic {
    /// Bytes.
    pub fn sent(&self, end: End) -> u64 {
        self.sent[end as usize].load(Ordering::Relaxed)
    }

    /// Bytes.
    pub fn received(&self, end: End) -> u64 {
        self.received[end as usize].load(Ordering::Relaxed)
    }
}

/// The same stream, with what passes counted.
pub fn metered(stream: impl Wire, end: End) -> impl Wire {
    let count = |bytes: &'static AtomicU64| {
        move |passed: &[u8]| {
            bytes.fetch_add(passed.len() as u64, Ordering::Relaxed);
        }
    };
    let (sent, received) = (&TRAFFIC.sent[end as usize], &TRAFFIC.received[end as usize]);
    InspectWriter::new(InspectReader::new(stream, count(received)), count(sent))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn what_passes_is_counted_at_its_end() {
        let (one, mut other) = duplex(64);
        let mut metered = metered(one, End::Asking);
        let before = [TRAFFIC.sent(End::Asking), TRAFFIC.received(End::Asking)];
        metered.write_all(b"abc").await.unwrap();
        other.write_all(b"defgh").await.unwrap();
        let mut read = [0; 5];
        metered.read_exact(&mut read).await.unwrap();
        // Other tests of this process may count as well.
        assert!(TRAFFIC.sent(End::Asking) >= before[0] + 3);
        assert!(TRAFFIC.received(End::Asking) >= before[1] + 5);
        assert_eq!(&read, b"defgh");
    }
}
