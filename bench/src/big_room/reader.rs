//! A worker process that requests one path repeatedly.
//!
//! | command | effect | reply |
//! |---|---|---|
//! | `read <seconds>` | sequential requests on one connection | `<answers> <incomplete> <median> <maximum>`, in milliseconds |

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::measure::{self, Requester};
use crate::report::percentile;
use crate::worker::{Worker, serve_commands};

pub struct Reader(Worker);

#[derive(Debug, Clone, Copy)]
pub struct ReadResult {
    pub answers: usize,
    pub incomplete: usize,
    /// In milliseconds, as `longest`.
    pub median: f64,
    pub longest: f64,
}

impl Reader {
    /// # Errors
    /// When the process does not start.
    pub fn start(address: SocketAddr, path: &str) -> Result<Self> {
        Ok(Self(Worker::start(&["reader", &address.to_string(), path])?))
    }

    /// # Errors
    /// When a request fails.
    pub async fn read(&mut self, time: Duration) -> Result<ReadResult> {
        let lines = self.0.send(&format!("read {}", time.as_secs_f64())).await?;
        let numbers: Vec<f64> = lines.concat().split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [answers, incomplete, median, longest] = numbers[..].try_into().context("four numbers")?;
        Ok(ReadResult { answers: answers as usize, incomplete: incomplete as usize, median, longest })
    }
}

/// Runs commands until stdin is closed.
///
/// # Errors
/// When no server listens at the address.
pub async fn run(address: SocketAddr, path: String) -> Result<()> {
    let mut requester = Requester::for_path(address, path).await?;
    serve_commands(async |command, arguments| {
        ensure!(command == "read", "unknown command: {command}");
        let time = Duration::try_from_secs_f64(arguments.parse()?)?;
        let mut incomplete = 0;
        let request = async || {
            let (complete, _) = requester.request().await?;
            incomplete += usize::from(!complete);
            Ok(())
        };
        let mut took = measure::sequential(time, request).await?;
        took.sort_unstable();
        let (median, longest) = (percentile(&took, 0.5), percentile(&took, 1.0));
        Ok(vec![format!("{} {incomplete} {median} {longest}", took.len())])
    })
    .await
}
