//! Keys from a URL: fetched, fetched again every so often, and kept when the source is down.
//!
//! Owns the fetching and its pace. One task does it all, so there is never more than one request under way, and whoever
//! meets a key that is not known asks that task to look early: no more often than the pace allows, however many keys
//! are made up. The source may hang, die, lie or never end: an answer is bounded in time and size, and one that makes
//! no sense changes nothing. What is a key is decided in [`super::keys`].

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, Url};
use rustls::ClientConfig;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::keys::KeySet;
use crate::auth::crypto::{provider, system_roots};

/// The most bytes of an answer: sets of keys have a few thousand.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// How often the source is asked, and how long that may take.
#[derive(Debug, Clone, Copy)]
pub struct JwksIntervals {
    pub every: Duration,
    /// After a failure.
    pub again: Duration,
    /// Between two requests that did not wait for their time, because a token named a key that is not known.
    pub early: Duration,
    /// One request, and whoever waits for it.
    pub within: Duration,
}

impl Default for JwksIntervals {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(300),
            again: Duration::from_secs(5),
            early: Duration::from_secs(10),
            within: Duration::from_secs(2),
        }
    }
}

/// The keys at a URL. Cheap to clone.
#[derive(Clone)]
pub struct Jwks(Arc<JwksState>);

struct JwksState {
    url: Url,
    client: Client,
    pace: JwksIntervals,
    /// A token came whose key is not known.
    wanted: Notify,
    latest: watch::Sender<FetchedKeys>,
}

#[derive(Default)]
struct FetchedKeys {
    keys: Option<Arc<KeySet>>,
    /// How many requests have begun and ended.
    begun: u64,
    ended: u64,
    /// The last one brought keys.
    good: bool,
}

impl Jwks {
    /// Nothing is fetched before [`Self::keep`] runs.
    ///
    /// # Errors
    /// When this machine has no certificates to know the source by.
    pub fn new(url: Url, pace: JwksIntervals) -> anyhow::Result<Self> {
        let mut builder = Client::builder()
            // Elsewhere nobody has checked the scheme, and the keys would be the other's.
            .redirect(Policy::none())
            .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")));
        if url.scheme() == "https" {
            builder = builder.use_preconfigured_tls(tls().context("--jwks")?);
        } else {
            // It is on this machine, where no proxy gets to.
            builder = builder.no_proxy();
        }
        let client = builder.build().context("--jwks: nothing can be fetched")?;
        let (latest, _) = watch::channel(FetchedKeys::default());
        Ok(Self(Arc::new(JwksState { url, client, pace, wanted: Notify::new(), latest })))
    }

    /// The keys of the last good answer.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.0.latest.borrow().keys.clone()
    }

    /// Keys that have what is missing, or else those of a request that began after this call. `None`: neither came in
    /// time.
    pub async fn renewed(&self, have_it: impl Fn(&KeySet) -> bool) -> Option<Arc<KeySet>> {
        let mut latest = self.0.latest.subscribe();
        let begun = latest.borrow().begun;
        self.0.wanted.notify_one();
        // A request that was under way may bring it already: a crowd with a new key needs one alone.
        let have_it = |latest: &FetchedKeys| latest.keys.as_deref().is_some_and(&have_it);
        let known = latest.wait_for(|latest| latest.ended > begun || have_it(latest));
        let latest = timeout(self.0.pace.within, known).await.ok()?.ok()?;
        latest.keys.clone().filter(|_| latest.good || have_it(&latest))
    }

    /// Keeps the keys up to date, for ever.
    pub async fn keep(self) {
        let JwksState { pace, wanted, latest, .. } = &*self.0;
        let mut early_from = Instant::now();
        let mut complained = false;
        loop {
            latest.send_modify(|latest| latest.begun += 1);
            let fetched = timeout(pace.within, self.fetch()).await;
            let fetched = fetched.unwrap_or_else(|_elapsed| bail!("it did not answer in {:?}", pace.within));
            let good = fetched.is_ok();
            match &fetched {
                Ok(keys) if complained || latest.borrow().keys.is_none() => {
                    info!(source = %self.shown(), algorithms = ?keys.algorithms(), "the keys of tokens are there");
                    complained = false;
                }
                Err(error) if !complained => {
                    let kept = if latest.borrow().keys.is_some() {
                        "those of before stay in use"
                    } else {
                        "no client is let in"
                    };
                    warn!(source = %self.shown(), error = format!("{error:#}"), "the keys of tokens cannot be fetched, {kept}");
                    complained = true;
                }
                Ok(_) | Err(_) => {}
            }
            latest.send_modify(|latest| {
                latest.ended = latest.begun;
                latest.good = good;
                latest.keys = fetched.ok().map(Arc::new).or_else(|| latest.keys.take());
            });
            let next = Instant::now() + if good { pace.every } else { pace.again };
            let early = async {
                wanted.notified().await;
                sleep_until(early_from).await;
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = early => early_from = Instant::now() + pace.early,
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<KeySet> {
        let JwksState { url, client, .. } = &*self.0;
        // An error would show the URL with its query.
        let response = client.get(url.clone()).send().await.map_err(reqwest::Error::without_url)?;
        ensure!(response.status() == 200, "it answers {}", response.status());
        Ok(KeySet::of_jwks(&body(response).await?)?)
    }

    /// The URL without its query, which may hold a secret.
    fn shown(&self) -> Url {
        let mut shown = self.0.url.clone();
        shown.set_query(None);
        shown
    }
}

/// Trusts whom this machine trusts.
fn tls() -> anyhow::Result<ClientConfig> {
    let nobody = "this machine trusts nobody: install ca-certificates, or set SSL_CERT_FILE";
    let trusted = system_roots().context(nobody)?;
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().context("cannot set up TLS")?;
    Ok(builder.with_root_certificates(trusted).with_no_client_auth())
}

async fn body(mut response: Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        ensure!(
            body.len() + chunk.len() <= MAX_ANSWER_BYTES,
            "its answer is larger than {} KiB",
            MAX_ANSWER_BYTES >> 10
        );
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
