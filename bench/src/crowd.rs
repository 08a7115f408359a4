//! The crowd: raw WebSocket clients that do nothing but be there, and come and go when told.
//!
//! Owns the processes that they are split over, because one process may hold only so many connections, and because the
//! crowd should not be in the way of who asks. Each has its [`share`] of [`member`]s, spread evenly over the processes of
//! the system.

pub mod member;
pub mod share;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures::future::try_join_all;

use crate::apart::Apart;
use crate::system::Protocol;

/// The most clients of one process.
const SHARE_MOST: usize = 5_000;

/// Of everybody: the id that the server gave, and the user.
pub type Pairs = BTreeSet<(String, String)>;

pub struct Crowd {
    shares: Vec<Apart>,
}

/// How a crowd came back after all its connections were cut.
pub struct Return {
    pub pairs: Pairs,
    /// By id, when the client was told that it is in, in time since 1970.
    pub back: BTreeMap<String, Duration>,
    /// How many attempts to connect failed, by reason.
    pub failures: BTreeMap<String, usize>,
}

impl Crowd {
    /// Connects so many clients. Returns how long it took.
    ///
    /// # Errors
    /// When one of them is not let in.
    pub async fn fill(
        protocol: Protocol,
        addresses: &[SocketAddr],
        room: &str,
        size: usize,
    ) -> Result<(Self, Duration)> {
        let name = protocol.to_possible_value().context("every protocol has a name")?;
        let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        let mut crowd = Self { shares: Vec::new() };
        let mut orders = Vec::new();
        for first in (0..size).step_by(SHARE_MOST) {
            let number = first.to_string();
            let mut arguments = vec!["crowd", name.get_name(), room, &number];
            arguments.extend(addresses.iter().map(String::as_str));
            crowd.shares.push(Apart::start(&arguments)?);
            orders.push(format!("fill {}", SHARE_MOST.min(size - first)));
        }
        // The clock does not run before they have started.
        crowd.all("ids").await?;
        let began = Instant::now();
        let filling = crowd.shares.iter_mut().zip(&orders).map(|(share, order)| share.order(order));
        try_join_all(filling).await?;
        let took = began.elapsed();
        Ok((crowd, took))
    }

    /// The (id, user) of everybody.
    ///
    /// # Errors
    /// When a process of the crowd has ended.
    pub async fn pairs(&mut self) -> Result<Pairs> {
        let lines = self.all("ids").await?;
        lines.iter().map(|line| words(line).map(|[id, user]| (id, user))).collect()
    }

    /// From now on so many of them go each second, and others come in their places.
    ///
    /// # Errors
    /// When a process of the crowd has ended.
    pub async fn churn(&mut self, each_second: usize) -> Result<()> {
        let (count, mut left) = (self.shares.len(), each_second);
        for (place, share) in self.shares.iter_mut().enumerate() {
            let part = left.div_ceil(count - place);
            left -= part;
            share.order(&format!("churn {part}")).await?;
        }
        Ok(())
    }

    /// All connections are cut off at once, and everybody comes back at will. Ends when all of them are back.
    ///
    /// # Errors
    /// When somebody is not back in time.
    pub async fn storm(&mut self) -> Result<Return> {
        let mut returned = Return { pairs: Pairs::new(), back: BTreeMap::new(), failures: BTreeMap::new() };
        for line in self.all("storm").await? {
            if let Some(failure) = line.strip_prefix("again ") {
                let (count, why) = failure.split_once(' ').context("a failure has a reason")?;
                *returned.failures.entry(why.to_owned()).or_default() += count.parse::<usize>()?;
                continue;
            }
            let [id, user, when] = words(&line)?;
            returned.back.insert(id.clone(), Duration::from_micros(when.parse()?));
            returned.pairs.insert((id, user));
        }
        Ok(returned)
    }

    /// Everybody goes.
    ///
    /// # Errors
    /// When a process of the crowd fails.
    pub async fn leave(self) -> Result<()> {
        try_join_all(self.shares.into_iter().map(Apart::end)).await.map(drop)
    }

    /// What all of them answer to an order.
    async fn all(&mut self, order: &str) -> Result<Vec<String>> {
        let answers = try_join_all(self.shares.iter_mut().map(|share| share.order(order))).await?;
        Ok(answers.concat())
    }
}

fn words<const COUNT: usize>(line: &str) -> Result<[String; COUNT]> {
    let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
    words.try_into().ok().with_context(|| format!("not {COUNT} words: {line}"))
}
