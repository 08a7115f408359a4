//! One process of the crowd: its clients, and the commands that it runs.
//!
//! | command | effect | reply |
//! |---|---|---|
//! | `fill <count>` | connects `count` clients | |
//! | `ids` | | `<id> <user>` of each client |
//! | `churn <each second>` | replaces that number of clients per second; 0 stops it | |
//! | `storm` | cuts all connections, then reconnects | `<id> <user> <microseconds since 1970>` of each client, and `failures <count> <reason>` |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::client::{CrowdClient, Target};
use crate::pace::Pace;
use crate::worker::serve_commands;

const MAX_CONCURRENT_CONNECTS: usize = 32;
const STORM_TIMEOUT: Duration = Duration::from_secs(90);

struct CrowdProcess {
    target: Arc<Target>,
    /// The number of its first client, over all processes of the crowd.
    first: usize,
    clients: Arc<Mutex<Vec<CrowdClient>>>,
    churn: Option<JoinHandle<()>>,
}

/// Runs commands until stdin is closed. Then the process ends, and its clients disconnect.
///
/// # Errors
/// When commands cannot be read.
pub async fn run(target: Target, first: usize) -> Result<()> {
    let mut process = CrowdProcess { target: Arc::new(target), first, clients: Arc::default(), churn: None };
    serve_commands(async |command, arguments| process.run_command(command, arguments).await).await
}

impl CrowdProcess {
    async fn run_command(&mut self, command: &str, arguments: &str) -> Result<Vec<String>> {
        match command {
            "fill" => self.fill(arguments.parse()?).await,
            "ids" => Ok(self.clients().iter().map(|client| format!("{} {}", client.id, client.user)).collect()),
            "churn" => {
                self.churn(arguments.parse()?);
                Ok(Vec::new())
            }
            "storm" => timeout(STORM_TIMEOUT, self.storm()).await.context("a client did not reconnect in time")?,
            _ => bail!("unknown command: {command}"),
        }
    }

    async fn fill(&mut self, count: usize) -> Result<Vec<String>> {
        let connecting = (self.first..self.first + count).map(|number| {
            let target = Arc::clone(&self.target);
            async move { CrowdClient::connect(&target, number, format!("user-{number}")).await }
        });
        let clients: Vec<CrowdClient> =
            stream::iter(connecting).buffer_unordered(MAX_CONCURRENT_CONNECTS).try_collect().await?;
        self.clients().extend(clients);
        Ok(Vec::new())
    }

    fn churn(&mut self, each_second: usize) {
        if let Some(churn) = self.churn.take() {
            churn.abort();
        }
        if each_second > 0 {
            let (target, clients, first) = (Arc::clone(&self.target), Arc::clone(&self.clients), self.first);
            self.churn = Some(tokio::spawn(replace_continuously(target, clients, first, each_second)));
        }
    }

    async fn storm(&mut self) -> Result<Vec<String>> {
        self.churn(0);
        let clients = std::mem::take(&mut *self.clients());
        self.target.cut.send_replace(());
        let mut reconnecting = JoinSet::new();
        for (number, client) in clients.into_iter().enumerate() {
            let (user, address) = (client.user, client.address_index);
            client.connection.await?;
            let target = Arc::clone(&self.target);
            reconnecting.spawn(async move { CrowdClient::reconnect(&target, number, user, address).await });
        }
        let mut reply = Vec::new();
        let mut failures: BTreeMap<String, usize> = BTreeMap::new();
        while let Some(reconnected) = reconnecting.join_next().await {
            let reconnected = reconnected?;
            let (client, when) = (reconnected.client, reconnected.when.duration_since(UNIX_EPOCH)?);
            reply.push(format!("{} {} {}", client.id, client.user, when.as_micros()));
            self.clients().push(client);
            for failure in reconnected.failures {
                *failures.entry(failure).or_default() += 1;
            }
        }
        reply.extend(failures.iter().map(|(reason, count)| format!("failures {count} {reason}")));
        Ok(reply)
    }

    fn clients(&self) -> MutexGuard<'_, Vec<CrowdClient>> {
        lock(&self.clients)
    }
}

/// Replaces `each_second` clients per second, until it is aborted.
async fn replace_continuously(
    target: Arc<Target>,
    clients: Arc<Mutex<Vec<CrowdClient>>>,
    first: usize,
    each_second: usize,
) {
    let (mut pace, mut next) = (Pace::new(each_second), first);
    loop {
        pace.next().await;
        next += 1;
        // The new client connects before the old one leaves, so the room keeps its size.
        let Ok(newcomer) = CrowdClient::connect(&target, next, format!("newcomer-{next}")).await else { continue };
        let mut clients = lock(&clients);
        let same_address = |client: &CrowdClient| client.address_index == newcomer.address_index;
        let oldest = clients.iter().position(same_address).unwrap_or_default();
        clients.remove(oldest).connection.abort();
        clients.push(newcomer);
    }
}

fn lock(clients: &Mutex<Vec<CrowdClient>>) -> MutexGuard<'_, Vec<CrowdClient>> {
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}
