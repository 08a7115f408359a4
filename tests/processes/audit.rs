//! `rollcall audit` over real nodes and a real Redis. A test changes the index by hand to create differences.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};

use rollcall::roster::Registration;
use serde_json::Value;
use tempfile::TempDir;
use testkit::client::Client;
use testkit::cluster::{Cluster, Index};
use testkit::process::{Process, rollcall, serve};
use testkit::redis_server::RedisServer;
use testkit::until;
use tokio::process::Command;

/// The result of an audit.
struct Audit {
    code: i32,
    report: Value,
    log: String,
}

async fn run(arguments: &[&str]) -> Output {
    let mut command = Command::from(rollcall());
    command.arg("audit").args(["--pause", "1500ms"]).args(arguments).stdin(Stdio::null());
    command.output().await.unwrap()
}

async fn audit(redis: &RedisServer, more: &[&str]) -> Audit {
    let url = redis.url();
    let output = run(&[&["--redis", url.as_str(), "--json"], more].concat()).await;
    let log = String::from_utf8(output.stderr).unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    Audit { code: output.status.code().unwrap(), report, log }
}

impl Audit {
    /// The differences, each as `<kind> <room> <socket or key> <member>`, without absent fields.
    fn differences(&self) -> BTreeSet<String> {
        let differences = self.report["differences"].as_array().unwrap_or_else(|| panic!("{}", self.log));
        let word = |of: &Value, key: &str| of[key].as_str().map(ToOwned::to_owned);
        let words = |of: &Value| ["kind", "room", "id_socket", "key", "member"].map(|key| word(of, key));
        differences.iter().map(|one| words(one).into_iter().flatten().collect::<Vec<_>>().join(" ")).collect()
    }
}

fn set<const N: usize>(words: [&str; N]) -> BTreeSet<String> {
    words.map(ToOwned::to_owned).into()
}

async fn tell(redis: &RedisServer, command: &[&str]) {
    let mut told = redis::cmd(command[0]);
    told.arg(&command[1..]);
    told.query_async::<redis::Value>(&mut redis.connection().await).await.unwrap();
}

/// Two nodes, and sockets of both in rooms that Redis lists.
async fn seated() -> (Cluster, Vec<Registration>) {
    let cluster = Cluster::start(2, Index::redis().await).await;
    let mut seats: Vec<_> = (0..2).map(|node| cluster.nodes[node].seat(&format!("s{node}"), "foo", "a:b")).collect();
    seats.extend((0..2500).map(|number| cluster.nodes[1].seat(&format!("h{number}"), "foo", "hall")));
    let listed = || async {
        let key = format!("rollcall:room:{}:hall", cluster.nodes[1].roster.incarnation());
        let mut redis = cluster.index.server().connection().await;
        redis::cmd("SCARD").arg(key).query_async::<usize>(&mut redis).await.unwrap() == 2500
    };
    until("the index lists all sockets", listed).await;
    (cluster, seats)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_matches_the_nodes_has_no_differences() {
    let (cluster, _seats) = seated().await;
    let audited = audit(cluster.index.server(), &[]).await;
    assert_eq!(audited.code, 0, "{}", audited.report);
    let told = ["complete", "looks", "rooms", "sockets"].map(|key| audited.report[key].to_string());
    assert_eq!(told, ["true", "1", "2", "2502"]);
    let names: BTreeSet<_> =
        audited.report["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str()).collect();
    assert_eq!(names.len(), 2, "{}", audited.report);
    let output = run(&["--redis", &cluster.index.server().url()]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "2 of 2 nodes, 2 rooms, 2502 sockets in them: redis agrees\n");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_difference_is_reported() {
    let (cluster, _seats) = seated().await;
    let redis = cluster.index.server();
    let [one, two] = [0, 1].map(|node| cluster.nodes[node].roster.incarnation());
    let hall = format!("rollcall:room:{two}:hall");
    tell(redis, &["SADD", &hall, "ghost"]).await;
    tell(redis, &["SADD", &format!("rollcall:room:{one}:a:b"), "s1"]).await;
    tell(redis, &["SREM", &hall, "h7"]).await;
    tell(redis, &["SADD", &format!("rollcall:owners:{}", "hall"), one.as_str(), "mallory\n"]).await;
    tell(redis, &["SREM", "rollcall:owners:a:b", two.as_str()]).await;
    tell(redis, &["SADD", "rollcall:room:00000000deadbeef-1:b", "s9"]).await;
    tell(redis, &["SET", "rollcall:other", "x"]).await;
    tell(redis, &["SET", "rollcall:owners:c", "x"]).await;
    tell(redis, &["SET", "another program's", "x"]).await;
    let audited = audit(redis, &[]).await;
    let expected = [
        "ghost hall ghost",
        "ghost a:b s1",
        "missing hall h7",
        "stale hall",
        "unclaimed a:b",
        "abandoned b",
        "foreign rollcall:other",
        "foreign rollcall:owners:c",
        "foreign rollcall:owners:hall mallory\\n",
    ];
    assert_eq!(audited.differences(), set(expected), "{}", audited.log);
    assert_eq!(audited.code, 1);
    assert_eq!(audited.report["looks"], 2);
    let output = run(&["--redis", &redis.url()]).await;
    let (name, text) = (&cluster.nodes[1].name, String::from_utf8(output.stdout).unwrap());
    assert_eq!(output.status.code(), Some(1));
    for line in [
        format!("ghost         ghost in \"hall\" is listed for {name} ({two}), which does not have it"),
        format!("missing       h7 in \"hall\" on {name} ({two}) is not listed"),
        "abandoned     \"b\" has entries of node 00000000deadbeef-1, which is gone".to_owned(),
        "2 of 2 nodes, 2 rooms, 2502 sockets in them: 9 differences".to_owned(),
    ] {
        assert!(text.lines().any(|told| told == line), "the output lacks {line}:\n{text}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_during_an_audit_are_no_differences() {
    let (cluster, mut seats) = seated().await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let node = &cluster.nodes[0];
    let churn = async {
        let mut number = 0_u64;
        while stopped.try_recv().is_err() {
            seats.push(node.seat(&format!("c{number}"), "foo", &format!("room-{}", number % 50)));
            if seats.len() > 2700 {
                seats.remove(2502);
            }
            number += 1;
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        number
    };
    let auditing = async {
        let mut audits = Vec::new();
        for _ in 0..3 {
            audits.push(audit(cluster.index.server(), &[]).await);
        }
        stop.send(()).unwrap();
        audits
    };
    let (came, audits) = tokio::join!(churn, auditing);
    assert!(came > 500, "{came} came");
    for audited in audits {
        assert_eq!(audited.differences(), set([]), "{}", audited.log);
        assert_eq!(audited.code, 0, "{}", audited.log);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_names_a_silent_node_and_judges_none_of_its_rows() {
    let redis = RedisServer::start_aged().await;
    let start = || Process::launch(serve().args(["--identity", "query", "--redis", &redis.url(), "--lease", "60s"]));
    let (silent, answers) = (start(), start());
    silent.is_ready().await;
    answers.is_ready().await;
    let _client = Client::connect(silent.public, "foo", &["a"]).await.unwrap();
    silent.stop().await;
    let audited = audit(&redis, &[]).await;
    silent.resume();
    assert_eq!(audited.code, 2, "{}", audited.report);
    assert_eq!(audited.report["complete"], false, "{}", audited.report);
    assert_eq!(audited.differences(), set([]));
    let mut errors: Vec<_> = audited.report["nodes"].as_array().unwrap().iter().map(|node| &node["error"]).collect();
    errors.sort_by_key(|error| error.to_string());
    assert_eq!(errors, [&Value::from("timeout after 5s"), &Value::Null]);
    until("the node answers again", || async { audit(&redis, &[]).await.code == 0 }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_a_killed_node_are_abandoned_until_a_roll_call() {
    let redis = RedisServer::start_aged().await;
    let start = || Process::launch(serve().args(["--identity", "query", "--redis", &redis.url(), "--lease", "1s"]));
    let (mut dies, stays) = (start(), start());
    dies.is_ready().await;
    stays.is_ready().await;
    let _client = Client::connect(dies.public, "foo", &["a"]).await.unwrap();
    until("the index matches the rosters", || async { audit(&redis, &[]).await.code == 0 }).await;
    dies.child.kill().unwrap();
    dies.child.wait().unwrap();
    until("the lease of the killed node expires", || async {
        audit(&redis, &[]).await.differences() == set(["abandoned a"])
    })
    .await;
    let repaired = || async {
        reqwest::get(format!("http://{}/a/users", stays.public)).await.unwrap();
        audit(&redis, &[]).await.code == 0
    };
    until("the roll call removes the abandoned entries", repaired).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_missing_in_redis_is_found_through_its_peers() {
    let (cluster, _seats) = seated().await;
    let forgetful = RedisServer::start_aged().await;
    let known = cluster.nodes[0].roster.incarnation();
    let lease = format!("rollcall:node:{known}");
    let mut redis = cluster.index.server().connection().await;
    let entry: String = redis::cmd("GET").arg(&lease).query_async(&mut redis).await.unwrap();
    tell(&forgetful, &["SET", &lease, &entry]).await;
    tell(&forgetful, &["SADD", "rollcall:nodes", known.as_str()]).await;
    let audited = audit(&forgetful, &[]).await;
    assert_eq!(audited.code, 1);
    let differences = audited.differences();
    assert!(differences.contains("unregistered"), "{differences:?}");
    assert!(differences.contains("unclaimed hall") && differences.contains("missing hall h7"), "{differences:?}");
    assert_eq!(audited.report["nodes"].as_array().unwrap().len(), 2);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_mesh_answers_only_an_authorized_audit() {
    let (redis, folder) = (RedisServer::start_aged().await, TempDir::new().unwrap());
    let [token, other] =
        ["mesh.token", "other.token"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    std::fs::write(&token, "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::write(&other, "fedcba9876543210fedcba9876543210\n").unwrap();
    let closed = ["--identity", "query", "--redis", &redis.url(), "--mesh-token-file", &token];
    let node = Process::launch(serve().args(closed));
    node.is_ready().await;
    assert_eq!(audit(&redis, &["--mesh-token-file", &token]).await.code, 0);
    for wrong in [&[][..], &["--mesh-token-file", &other]] {
        let audited = audit(&redis, wrong).await;
        assert_eq!(audited.code, 2);
        let error = audited.report["nodes"][0]["error"].as_str().unwrap();
        assert!(error.starts_with("the mesh rejected this audit"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_redis_is_not_a_clean_audit() {
    let redis = RedisServer::start_aged().await;
    // The ACL of a node without the commands of an audit.
    let node = "on >secret ~rollcall:* resetchannels -@all +info +time +get +set +del +exists +expire +unlink +sadd +srem \
                +smembers +scard +evalsha +script|load";
    let rules: Vec<_> = ["ACL", "SETUSER", "node"].into_iter().chain(node.split_whitespace()).collect();
    tell(&redis, &rules).await;
    let folder = TempDir::new().unwrap();
    let password = folder.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let user = ["--redis-user", "node", "--redis-password-file", password.to_str().unwrap()];
    let audited = audit(&redis, &user).await;
    assert_eq!(audited.code, 2);
    assert!(audited.log.contains("scan"), "{}", audited.log);
    tell(&redis, &["ACL", "SETUSER", "node", "+scan", "+sscan"]).await;
    assert_eq!(audit(&redis, &user).await.code, 0);
    let url = redis.url();
    drop(redis);
    let output = run(&["--redis", &url]).await;
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert_eq!(output.stdout.len(), 0, "{log}");
    assert!(log.contains("cannot read the redis"), "{log}");
}
