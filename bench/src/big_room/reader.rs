//! Somebody who reads one roll again and again, in a process of its own.
//!
//! | order | what happens | what is answered |
//! |---|---|---|
//! | `read <seconds>` | one connection asks for so long | `<answers> <incomplete> <milliseconds, median> <the longest>` |

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::apart::{Apart, obey};
use crate::measure::{self, Asker};
use crate::report::at;

pub struct Reader(Apart);

/// What came of reading for a while.
#[derive(Debug, Clone, Copy)]
pub struct Read {
    pub answers: usize,
    pub incomplete: usize,
    /// Milliseconds.
    pub median: f64,
    pub longest: f64,
}

impl Reader {
    /// # Errors
    /// When the process does not start.
    pub fn start(address: SocketAddr, path: &str) -> Result<Self> {
        Ok(Self(Apart::start(&["reader", &address.to_string(), path])?))
    }

    /// # Errors
    /// When an answer is none.
    pub async fn read(&mut self, time: Duration) -> Result<Read> {
        let lines = self.0.order(&format!("read {}", time.as_secs_f64())).await?;
        let numbers: Vec<f64> = lines.concat().split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [answers, incomplete, median, longest] = numbers[..].try_into().context("four numbers")?;
        Ok(Read { answers: answers as usize, incomplete: incomplete as usize, median, longest })
    }
}

/// Reads when it is told to, until there are no more orders.
///
/// # Errors
/// When nobody listens at the address.
pub async fn run(address: SocketAddr, path: String) -> Result<()> {
    let mut asker = Asker::of(address, path).await?;
    obey(async |order, about| {
        ensure!(order == "read", "not an order: {order}");
        let time = Duration::try_from_secs_f64(about.parse()?)?;
        let mut incomplete = 0;
        let ask = async || {
            let (complete, _) = asker.ask().await?;
            incomplete += usize::from(!complete);
            Ok(())
        };
        let mut took = measure::one_after_another(time, ask).await?;
        took.sort_unstable();
        let (median, longest) = (at(&took, 0.5), at(&took, 1.0));
        Ok(vec![format!("{} {incomplete} {median} {longest}", took.len())])
    })
    .await
}
