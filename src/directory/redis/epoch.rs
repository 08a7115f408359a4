//! Epochs and leases in Redis: the two scripts that write them, and the check that an epoch is valid.
//!
//! Owns the format of both values. An epoch names the history of the data by the `master_replid` of the server that
//! created it. Redis chooses a new random one at each start and each promotion, so an epoch ends when the data may have
//! become older. A replica is never trusted: it may have the identifier of a master and lag behind it. The epoch expires
//! before every lease and every owner set that readers trust because of it, so a clock step cannot remove these alone.
//!
//! A lease has a counter that each renewal increases. A node that finds an older one knows that the index went back.

use std::time::Duration;

use ::redis::Pipeline;
use serde::{Deserialize, Serialize};

use crate::directory::NodeEntry;
use crate::index::Epoch;
use crate::names::NodeId;

/// `KEYS`: the lease, the set of nodes, and the epoch. `ARGV`: the content of the lease, the node, the lease in
/// milliseconds, and the lifetime of the epoch. Then a new name for an epoch, the `run_id` of the process, and an epoch
/// that must be replaced, or an empty string. Keeps a valid epoch, or begins one. Returns whether the lease was written, the epoch,
/// and the `master_replid`.
///
/// An epoch is `<name>.<master_replid>.<Unix time of creation>@<run_id>`. Nodes of earlier versions need the `run_id` at
/// the end, and accept this format. They write epochs without a `master_replid`, which are replaced here.
pub(super) const REGISTER: &str = r"
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local epoch = redis.call('GET', KEYS[3])
if not epoch or epoch == ARGV[7] or not string.find(epoch, '.' .. replid .. '.', 1, true) then
  epoch = ARGV[5] .. '.' .. replid .. '.' .. redis.call('TIME')[1] .. '@' .. ARGV[6]
end
redis.call('SET', KEYS[3], epoch, 'PX', ARGV[4])
local written = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[3])
if written then redis.call('SADD', KEYS[2], ARGV[2]) end
return {written and 1 or 0, epoch, replid}
";

/// `KEYS`: as in [`REGISTER`]. `ARGV`: the first four of [`REGISTER`]. Renews a lease that exists, and the epoch if it is
/// valid. Returns the previous content of the lease, the epoch, and the `master_replid`.
pub(super) const RENEW: &str = r"
local previous = redis.call('GET', KEYS[1])
if not previous then return {false, false, false} end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
redis.call('SADD', KEYS[2], ARGV[2])
local replid = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local epoch = redis.call('GET', KEYS[3])
if epoch and string.find(epoch, '.' .. replid .. '.', 1, true) then
  redis.call('SET', KEYS[3], epoch, 'PX', ARGV[4])
end
return {previous, epoch, replid}
";

/// The content of a lease: the entry of the node, and how often this incarnation has renewed it.
#[derive(Serialize)]
struct LeaseContent<'a> {
    #[serde(flatten)]
    entry: &'a NodeEntry,
    renewal: u64,
}

/// The part of a lease that its next renewal reads.
#[derive(Deserialize)]
struct RenewalCounter {
    renewal: u64,
}

/// The record of the renewals of this process, to be compared with the content that the next renewal finds.
#[derive(Default)]
pub(super) struct LeaseRecord {
    node: Option<NodeId>,
    /// The counter of the last renewal that was answered.
    confirmed: u64,
    /// The counter of the last renewal that was sent.
    sent: u64,
    /// An epoch in which the index went back. The next registration replaces it.
    outdated: Option<Epoch>,
}

impl LeaseRecord {
    /// The content of a new lease.
    pub(super) fn register(&mut self, node: &NodeId, entry: &NodeEntry) -> String {
        (self.node, self.confirmed, self.sent) = (Some(node.clone()), 0, 0);
        encode(entry, 0)
    }

    /// The content and the counter of the next renewal.
    pub(super) fn renew(&mut self, node: &NodeId, entry: &NodeEntry) -> (String, u64) {
        if self.node.as_ref() != Some(node) {
            self.register(node, entry);
        }
        self.sent += 1;
        (encode(entry, self.sent), self.sent)
    }

    /// Records the answer to a renewal. Returns whether `previous`, which the renewal replaced, is one of the contents that
    /// this process wrote, and no older than the last confirmed one. A renewal without an answer may have been executed.
    pub(super) fn confirm(&mut self, node: &NodeId, counter: u64, previous: &[u8]) -> bool {
        if self.node.as_ref() != Some(node) {
            return true;
        }
        let found = serde_json::from_slice::<RenewalCounter>(previous).map(|previous| previous.renewal);
        let is_current = found.is_ok_and(|found| (self.confirmed..self.sent).contains(&found));
        self.confirmed = self.confirmed.max(counter);
        is_current
    }

    /// Makes the next registration begin another epoch.
    pub(super) fn distrust(&mut self, epoch: Option<Epoch>) {
        self.outdated = epoch;
    }

    /// The epoch that the next registration must replace; empty if there is none.
    pub(super) fn outdated(&self) -> String {
        self.outdated.as_ref().map(|epoch| epoch.0.to_string()).unwrap_or_default()
    }
}

/// Adds the commands that read the epoch. They come last, after all that the epoch vouches for: the server can be made a
/// replica and a master again between two commands, and clients stay connected meanwhile.
pub(super) fn read_epoch(commands: &mut Pipeline, key: &str) {
    commands.cmd("GET").arg(key);
    commands.cmd("INFO").arg("replication");
}

/// Parses the answers to [`read_epoch`]. `None` if there is no epoch, or it was created in another history of the data.
pub(super) fn parse_epoch(value: Option<Vec<u8>>, info: &str) -> Option<Epoch> {
    epoch_in(value, replication_id(info)?)
}

/// Returns the epoch if it was created in the history with this `master_replid`.
pub(super) fn epoch_in(value: Option<Vec<u8>>, replid: &str) -> Option<Epoch> {
    let value = String::from_utf8(value?).ok()?;
    let (created, _run_id) = value.split_once('@')?;
    let (named, _time) = created.rsplit_once('.')?;
    let (_name, created_in) = named.rsplit_once('.')?;
    (created_in == replid).then(|| Epoch(value.into()))
}

/// Returns the `master_replid` of a master, from `INFO replication`. `None` for a replica.
pub(super) fn replication_id(info: &str) -> Option<&str> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    field("master_replid").filter(|_| field("role") == Some("master"))
}

/// Returns the age of an epoch; `now` is the Unix time by the clock of Redis. Zero if the value contains no time.
pub(super) fn epoch_age(epoch: &Epoch, now: Duration) -> Duration {
    let began = epoch.0.split_once('@').and_then(|(created, _)| created.rsplit_once('.')?.1.parse::<u64>().ok());
    // The time of creation is in whole seconds, so the true age may be up to a second less. Too young is the safe error.
    let age = began.map_or(Duration::ZERO, |began| now.saturating_sub(Duration::from_secs(began)));
    age.saturating_sub(Duration::from_secs(1))
}

fn encode(entry: &NodeEntry, renewal: u64) -> String {
    serde_json::to_string(&LeaseContent { entry, renewal }).expect("an entry contains only strings and a flag")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::NodeName;

    const INFO: &str =
        "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:abc\r\nmaster_replid2:def\r\n";

    fn entry() -> NodeEntry {
        NodeEntry { name: NodeName::from_any("node"), mesh: "127.0.0.1:1".into(), since: "".into(), draining: false }
    }

    #[test]
    fn an_epoch_is_valid_only_in_the_history_it_names() {
        let parse = |value: &str, info: &str| parse_epoch(Some(value.as_bytes().to_vec()), info);
        let valid = "0123.abc.1700000000@run";
        assert_eq!(parse(valid, INFO), Some(Epoch(valid.into())));
        assert_eq!(parse("0123.def.1700000000@run", INFO), None, "the previous history");
        assert_eq!(parse("abc.1700000000@run", INFO), None, "an epoch of an earlier version names no history");
        assert_eq!(parse(valid, &INFO.replace("role:master", "role:slave")), None, "a replica");
        assert_eq!(parse(valid, &INFO.replace("master_replid:abc", "")), None, "a server without the field");
        assert_eq!(parse_epoch(None, INFO), None);
        let age = |now| epoch_age(&Epoch(valid.into()), Duration::from_secs(now));
        assert_eq!(age(1_700_000_010), Duration::from_secs(9));
        assert_eq!(age(1_600_000_000), Duration::ZERO, "the clock went back");
    }

    #[test]
    fn an_older_or_foreign_lease_is_not_current() {
        let node = NodeId::new_process();
        let mut record = LeaseRecord::default();
        let first = record.register(&node, &entry());
        let (second, counter) = record.renew(&node, &entry());
        assert!(record.confirm(&node, counter, first.as_bytes()));
        let (unanswered, _) = record.renew(&node, &entry());
        let (_, counter) = record.renew(&node, &entry());
        let mut either = LeaseRecord { node: record.node.clone(), ..record };
        assert!(either.confirm(&node, counter, unanswered.as_bytes()), "the renewal without an answer was executed");
        let (_, counter) = either.renew(&node, &entry());
        assert!(!either.confirm(&node, counter, second.as_bytes()), "older than the confirmed one");
        let (_, counter) = either.renew(&node, &entry());
        assert!(!either.confirm(&node, counter, b"{}"), "not written by this process");
    }
}
