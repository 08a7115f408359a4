//! Keys from a JWKS URL: fetched at intervals, and kept while the URL fails.
//!
//! Owns the requests and their rate. One task makes them, so that never more than one is in progress. A token with an unknown
//! key triggers an early request, at a limited rate: an attacker can invent any number of keys. The time and the size of a
//! response are limited, and an invalid response changes nothing. [`super::keys`] parses the key set.

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

/// Key sets have a few thousand bytes.
const MAX_RESPONSE_BYTES: usize = 256 << 10;

/// The times of the requests to the JWKS URL.
#[derive(Debug, Clone, Copy)]
pub struct JwksIntervals {
    /// From a successful request to the next one.
    pub refresh: Duration,
    /// From a failed request to the next one.
    pub retry: Duration,
    /// The minimum between two early requests, which tokens with an unknown key trigger.
    pub early: Duration,
    /// For a request, and for a token that waits for one.
    pub timeout: Duration,
}

impl Default for JwksIntervals {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(300),
            retry: Duration::from_secs(5),
            early: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
        }
    }
}

/// The keys at a JWKS URL. Cheap to clone.
#[derive(Clone)]
pub struct Jwks(Arc<JwksState>);

struct JwksState {
    url: Url,
    client: Client,
    intervals: JwksIntervals,
    /// Notified when a token has an unknown key.
    early_request: Notify,
    latest: watch::Sender<FetchedKeys>,
}

#[derive(Default)]
struct FetchedKeys {
    keys: Option<Arc<KeySet>>,
    /// The number of requests that have started.
    started: u64,
    /// The number of the last request that has ended.
    ended: u64,
    /// The last request returned keys.
    succeeded: bool,
}

impl Jwks {
    /// Sends no request: [`Self::refresh`] does.
    ///
    /// # Errors
    /// When the URL is https, and this machine has no CA certificates to verify the server.
    pub fn new(url: Url, intervals: JwksIntervals) -> anyhow::Result<Self> {
        let mut builder = Client::builder()
            // The command line has checked the scheme of this URL only. A redirect to http would let anyone in the network
            // replace the keys.
            .redirect(Policy::none())
            .user_agent(concat!("rollcall/", env!("CARGO_PKG_VERSION")));
        if url.scheme() == "https" {
            builder = builder.use_preconfigured_tls(tls().context("--jwks")?);
        } else {
            // http is permitted for loopback addresses only, which a proxy cannot reach.
            builder = builder.no_proxy();
        }
        let client = builder.build().context("--jwks: cannot create the HTTP client")?;
        let (latest, _) = watch::channel(FetchedKeys::default());
        Ok(Self(Arc::new(JwksState { url, client, intervals, early_request: Notify::new(), latest })))
    }

    /// The keys of the last successful request.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        self.0.latest.borrow().keys.clone()
    }

    /// Waits for a key set for which `has_key` is true, or for the result of a request that starts after this call.
    /// `None` after the timeout, or if that request fails.
    pub async fn wait_for_key(&self, has_key: impl Fn(&KeySet) -> bool) -> Option<Arc<KeySet>> {
        let mut latest = self.0.latest.subscribe();
        let started = latest.borrow().started;
        self.0.early_request.notify_one();
        // A request in progress may already return the key: many clients with a new key then need one request only.
        let has_key = |latest: &FetchedKeys| latest.keys.as_deref().is_some_and(&has_key);
        let known = latest.wait_for(|latest| latest.ended > started || has_key(latest));
        let latest = timeout(self.0.intervals.timeout, known).await.ok()?.ok()?;
        latest.keys.clone().filter(|_| latest.succeeded || has_key(&latest))
    }

    /// Keeps the keys up to date. Never returns.
    pub async fn refresh(self) {
        let JwksState { intervals, early_request, latest, .. } = &*self.0;
        let mut next_early = Instant::now();
        let mut failure_logged = false;
        loop {
            latest.send_modify(|latest| latest.started += 1);
            let fetched = timeout(intervals.timeout, self.fetch()).await;
            let fetched =
                fetched.unwrap_or_else(|_elapsed| bail!("timeout: no response within {:?}", intervals.timeout));
            let succeeded = fetched.is_ok();
            match &fetched {
                Ok(keys) if failure_logged || latest.borrow().keys.is_none() => {
                    info!(source = %self.url_for_logs(), algorithms = ?keys.algorithms(), "fetched the JWKS");
                    failure_logged = false;
                }
                Err(error) if !failure_logged => {
                    let effect = if latest.borrow().keys.is_some() {
                        "using the cached keys"
                    } else {
                        "rejecting all tokens until it succeeds"
                    };
                    warn!(source = %self.url_for_logs(), error = format!("{error:#}"), "cannot fetch JWKS; {effect}");
                    failure_logged = true;
                }
                Ok(_) | Err(_) => {}
            }
            latest.send_modify(|latest| {
                latest.ended = latest.started;
                latest.succeeded = succeeded;
                latest.keys = fetched.ok().map(Arc::new).or_else(|| latest.keys.take());
            });
            let next = Instant::now() + if succeeded { intervals.refresh } else { intervals.retry };
            let early = async {
                early_request.notified().await;
                sleep_until(next_early).await;
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = early => next_early = Instant::now() + intervals.early,
            }
        }
    }

    async fn fetch(&self) -> anyhow::Result<KeySet> {
        let JwksState { url, client, .. } = &*self.0;
        // With the URL, the error would contain the query, which may have a secret.
        let response = client.get(url.clone()).send().await.map_err(reqwest::Error::without_url)?;
        ensure!(response.status() == 200, "the response has status {}", response.status());
        Ok(KeySet::of_jwks(&body(response).await?)?)
    }

    /// The URL without its query, which may have a secret.
    fn url_for_logs(&self) -> Url {
        let mut url = self.0.url.clone();
        url.set_query(None);
        url
    }
}

/// Trusts the CAs of this machine.
fn tls() -> anyhow::Result<ClientConfig> {
    let no_roots = "this machine has no CA certificates: install ca-certificates, or set SSL_CERT_FILE";
    let roots = system_roots().context(no_roots)?;
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().context("cannot set up TLS")?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

async fn body(mut response: Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        ensure!(
            body.len() + chunk.len() <= MAX_RESPONSE_BYTES,
            "the response is larger than {} KiB",
            MAX_RESPONSE_BYTES >> 10
        );
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
