//! One process of the crowd: its members, and the orders that they are under.
//!
//! | order | what happens | what is answered |
//! |---|---|---|
//! | `fill <count>` | so many connect | |
//! | `ids` | | `<id> <user>` of each |
//! | `churn <each second>` | from now on so many go and others come, none for 0 | |
//! | `storm` | all connections are cut, and everybody comes back | `<id> <user> <microseconds since 1970>` of each, and `again <attempts> <why>` |

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::member::{Member, Place};
use crate::apart::obey;
use crate::pace::Pace;

/// How many of one process connect at once.
const AT_ONCE: usize = 32;
/// How long a storm may last.
const BACK_WITHIN: Duration = Duration::from_secs(90);

struct Share {
    place: Arc<Place>,
    /// The number of its first member, over all processes of the crowd.
    first: usize,
    members: Arc<Mutex<Vec<Member>>>,
    churn: Option<JoinHandle<()>>,
}

/// Obeys until there are no more orders; then everybody goes.
///
/// # Errors
/// When orders cannot be read.
pub async fn run(place: Place, first: usize) -> Result<()> {
    let mut share = Share { place: Arc::new(place), first, members: Arc::default(), churn: None };
    obey(async |order, about| share.carry_out(order, about).await).await
}

impl Share {
    async fn carry_out(&mut self, order: &str, about: &str) -> Result<Vec<String>> {
        match order {
            "fill" => self.fill(about.parse()?).await,
            "ids" => Ok(self.members().iter().map(|member| format!("{} {}", member.id, member.user)).collect()),
            "churn" => {
                self.churn(about.parse()?);
                Ok(Vec::new())
            }
            "storm" => timeout(BACK_WITHIN, self.storm()).await.context("not everybody was back in time")?,
            _ => bail!("not an order: {order}"),
        }
    }

    async fn fill(&mut self, count: usize) -> Result<Vec<String>> {
        let connecting = (self.first..self.first + count).map(|number| {
            let place = Arc::clone(&self.place);
            async move { Member::connect(&place, number, format!("user-{number}")).await }
        });
        let members: Vec<Member> = stream::iter(connecting).buffer_unordered(AT_ONCE).try_collect().await?;
        self.members().extend(members);
        Ok(Vec::new())
    }

    fn churn(&mut self, each_second: usize) {
        if let Some(churn) = self.churn.take() {
            churn.abort();
        }
        if each_second > 0 {
            let (place, members, first) = (Arc::clone(&self.place), Arc::clone(&self.members), self.first);
            self.churn = Some(tokio::spawn(come_and_go(place, members, first, each_second)));
        }
    }

    async fn storm(&mut self) -> Result<Vec<String>> {
        self.churn(0);
        let members = std::mem::take(&mut *self.members());
        self.place.cut.send_replace(());
        let mut coming_back = JoinSet::new();
        for (number, member) in members.into_iter().enumerate() {
            let (user, at) = (member.user, member.at);
            member.stays.await?;
            let place = Arc::clone(&self.place);
            coming_back.spawn(async move { Member::come_back(&place, number, user, at).await });
        }
        let mut answer = Vec::new();
        let mut failures: BTreeMap<String, usize> = BTreeMap::new();
        while let Some(returned) = coming_back.join_next().await {
            let returned = returned?;
            let (member, when) = (returned.member, returned.when.duration_since(UNIX_EPOCH)?);
            answer.push(format!("{} {} {}", member.id, member.user, when.as_micros()));
            self.members().push(member);
            for failure in returned.failures {
                *failures.entry(failure).or_default() += 1;
            }
        }
        answer.extend(failures.iter().map(|(why, count)| format!("again {count} {why}")));
        Ok(answer)
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        lock(&self.members)
    }
}

/// So many members go each second, and others come in their places, for ever.
async fn come_and_go(place: Arc<Place>, members: Arc<Mutex<Vec<Member>>>, first: usize, each_second: usize) {
    let (mut pace, mut next) = (Pace::new(each_second), first);
    loop {
        pace.next().await;
        next += 1;
        // Nobody goes before another is there, so the room keeps its size.
        let Ok(newcomer) = Member::connect(&place, next, format!("newcomer-{next}")).await else { continue };
        let mut members = lock(&members);
        let oldest = members.iter().position(|member| member.at == newcomer.at).unwrap_or_default();
        members.remove(oldest).stays.abort();
        members.push(newcomer);
    }
}

fn lock(members: &Mutex<Vec<Member>>) -> MutexGuard<'_, Vec<Member>> {
    members.lock().unwrap_or_else(PoisonError::into_inner)
}
