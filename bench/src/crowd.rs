//! The crowd: raw WebSocket clients that join one room, stay idle, and reconnect on command.
//!
//! Owns the worker processes of the crowd. One process may hold a limited number of connections, and the clients must not
//! delay the requester. Each [`process`] has a share of the [`client`]s, spread evenly over the processes of the system.

pub mod client;
pub mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures::future::try_join_all;

use crate::system::Protocol;
use crate::worker::Worker;

const MAX_CLIENTS_PER_PROCESS: usize = 5_000;

/// The (socket id, user id) pairs of a room.
pub type Listing = BTreeSet<(String, String)>;

pub struct Crowd {
    processes: Vec<Worker>,
}

/// The crowd after all its connections were cut and made again.
pub struct Reconnects {
    pub listing: Listing,
    /// By socket id: when the client received its acknowledgement, since 1970.
    pub acknowledged: BTreeMap<String, Duration>,
    /// Failed attempts to connect, by reason.
    pub failures: BTreeMap<String, usize>,
}

impl Crowd {
    /// Connects `size` clients. Returns the duration too.
    ///
    /// # Errors
    /// When a client is not accepted.
    pub async fn fill(
        protocol: Protocol,
        addresses: &[SocketAddr],
        room: &str,
        size: usize,
    ) -> Result<(Self, Duration)> {
        let name = protocol.to_possible_value().context("every protocol has a name")?;
        let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let mut crowd = Self { processes: Vec::new() };
        let mut commands = Vec::new();
        for first in (0..size).step_by(MAX_CLIENTS_PER_PROCESS) {
            let number = first.to_string();
            let mut arguments = vec!["crowd", name.get_name(), room, &number];
            arguments.extend(addresses.iter().map(String::as_str));
            crowd.processes.push(Worker::start(&arguments)?);
            commands.push(format!("fill {}", MAX_CLIENTS_PER_PROCESS.min(size - first)));
        }
        // A reply proves that the processes have started, so that their start is not measured.
        crowd.send_to_all("ids").await?;
        let began = Instant::now();
        let filling = crowd.processes.iter_mut().zip(&commands).map(|(process, command)| process.send(command));
        try_join_all(filling).await?;
        let took = began.elapsed();
        Ok((crowd, took))
    }

    /// # Errors
    /// When a process of the crowd has ended.
    pub async fn listing(&mut self) -> Result<Listing> {
        let lines = self.send_to_all("ids").await?;
        lines.iter().map(|line| words(line).map(|[id, user]| (id, user))).collect()
    }

    /// From now on, replaces `each_second` clients per second with new ones.
    ///
    /// # Errors
    /// When a process of the crowd has ended.
    pub async fn churn(&mut self, each_second: usize) -> Result<()> {
        let (count, mut left) = (self.processes.len(), each_second);
        for (index, process) in self.processes.iter_mut().enumerate() {
            let part = left.div_ceil(count - index);
            left -= part;
            process.send(&format!("churn {part}")).await?;
        }
        Ok(())
    }

    /// Cuts all connections at once, and waits until all clients have reconnected.
    ///
    /// # Errors
    /// When a client does not reconnect in time.
    pub async fn storm(&mut self) -> Result<Reconnects> {
        let mut reconnects =
            Reconnects { listing: Listing::new(), acknowledged: BTreeMap::new(), failures: BTreeMap::new() };
        for line in self.send_to_all("storm").await? {
            if let Some(failure) = line.strip_prefix("failures ") {
                let (count, reason) = failure.split_once(' ').context("a failure has a reason")?;
                *reconnects.failures.entry(reason.to_owned()).or_default() += count.parse::<usize>()?;
                continue;
            }
            let [id, user, when] = words(&line)?;
            reconnects.acknowledged.insert(id.clone(), Duration::from_micros(when.parse()?));
            reconnects.listing.insert((id, user));
        }
        Ok(reconnects)
    }

    /// Disconnects all clients.
    ///
    /// # Errors
    /// When a process of the crowd fails.
    pub async fn leave(self) -> Result<()> {
        try_join_all(self.processes.into_iter().map(Worker::stop)).await.map(drop)
    }

    /// Returns the replies of all processes, joined.
    async fn send_to_all(&mut self, command: &str) -> Result<Vec<String>> {
        let replies = try_join_all(self.processes.iter_mut().map(|process| process.send(command))).await?;
        Ok(replies.concat())
    }
}

fn words<const COUNT: usize>(line: &str) -> Result<[String; COUNT]> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    words.try_into().ok().with_context(|| format!("expected {COUNT} words: {line}"))
}
