//! Sentinels and a Redis Cluster with TLS and a login: Sentinels must authenticate in the same way as the master.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use testkit::client::Client;
use testkit::pki::Authority;
use testkit::process::{ServeCommand, complete};
use testkit::until;

use super::redis_access::{ACL, Guarded, PASSWORD};

const SENTINEL_PASSWORD: &str = "sentinel-horse-battery";

/// A Sentinel that watches a guarded Redis, accepts only TLS, and has its own user for nodes.
struct GuardedSentinel {
    process: Child,
    address: SocketAddr,
}

impl GuardedSentinel {
    async fn start(master: &Guarded) -> Self {
        let (ip, folder) = (master.address.ip(), &master.folder);
        let address = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        let configuration = format!(
            "sentinel monitor main {ip} {} 1\nsentinel auth-user main admin\nsentinel auth-pass main admin\n\
             user default off\nuser rollcall on >{SENTINEL_PASSWORD} -@all +sentinel|master\n",
            master.address.port()
        );
        let process = Command::new("redis-server")
            .args([&folder.write("sentinel.conf", &configuration), "--sentinel", "--port", "0"])
            .args(["--tls-port", &address.port().to_string(), "--bind", &ip.to_string(), "--tls-replication", "yes"])
            .args(["--tls-ca-cert-file", &folder.text("ca.pem"), "--tls-cert-file", &folder.text("server.pem")])
            .args(["--tls-key-file", &folder.text("server.key"), "--dir", &folder.text(".")])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed for the tests; `make tools` installs it");
        until("the Sentinel listens", || async { tokio::net::TcpStream::connect(address).await.is_ok() }).await;
        folder.write("sentinel-password", SENTINEL_PASSWORD);
        Self { process, address }
    }

    fn flags(&self, master: &Guarded, replaced: &[(&str, &str)]) -> Vec<String> {
        let (url, password) = (self.url("main"), master.folder.text("sentinel-password"));
        let own = [
            ("--redis", url.as_str()),
            ("--redis-sentinel-user", "rollcall"),
            ("--redis-sentinel-password-file", &password),
        ];
        master.flags(&[own.as_slice(), replaced].concat())
    }

    fn url(&self, name: &str) -> String {
        format!("rediss-sentinel://{}/{name}", self.address)
    }
}

impl Drop for GuardedSentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_with_their_own_tls_and_password_name_the_master() {
    let redis = Guarded::start(ACL).await;
    let sentinel = GuardedSentinel::start(&redis).await;
    let node = ServeCommand::named("one").with(&sentinel.flags(&redis, &[])).ready().await;
    let client = Client::connect(node.public, "foo", &["a"]).await.unwrap();
    assert_eq!(node.roll("a").await, complete(&[&client.id]));
    assert!(node.logged("connected to redis")[0].contains(&redis.address.to_string()));
    assert_eq!(node.logged("WARN"), Vec::<String>::new());
    assert!(!node.log().contains(SENTINEL_PASSWORD) && !node.log().contains(PASSWORD));

    let wrong = redis.folder.write("wrong", "hunter2-hunter2");
    let other_ca = redis.folder.write("other-ca", &Authority::new("other").pem);
    let (unknown, no_sentinel) = (sentinel.url("other"), format!("rediss-sentinel://{}/main", redis.address));
    let cases = [
        ("--redis-sentinel-password-file", wrong.as_str(), "a Sentinel does not let this node ask"),
        ("--redis-sentinel-user", "nobody", "a Sentinel does not let this node ask"),
        ("--redis-password-file", &wrong, "it does not accept the user or the password"),
        ("--redis-ca", &other_ca, "pass its CA with --redis-ca"),
        ("--redis", &unknown, "know no master by the name of other"),
        ("--redis", &no_sentinel, "a Sentinel does not let this node ask"),
    ];
    for (flag, value, says) in cases {
        let said = ServeCommand::named("one").with(&sentinel.flags(&redis, &[(flag, value)])).refused();
        assert!(said.contains(says), "{flag} {value}: {said}");
        assert!(!said.contains("hunter2") && !said.contains(SENTINEL_PASSWORD), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_is_used_over_tls() {
    let acl = format!("{} +cluster|slots", ACL.replace("~rollcall:*", "~{rollcall}:*"));
    let bus = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let options = ["--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", &bus];
    let redis = Guarded::start_with(&acl, &options).await;
    redis.cli(&["CONFIG", "SET", "cluster-announce-ip", &redis.address.ip().to_string()]);
    redis.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until("the Cluster is ok", || async { redis.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok") }).await;
    let url = format!("rediss-cluster://{}", redis.address);
    let node = ServeCommand::named("one").with(&redis.flags(&[("--redis", &url)])).ready().await;
    let client = Client::connect(node.public, "foo", &["a"]).await.unwrap();
    assert_eq!(node.roll("a").await, complete(&[&client.id]));
    until("the index lists the sockets of the node", || async { redis.cli(&["KEYS", "*"]).contains(":room:") }).await;
    assert!(redis.cli(&["KEYS", "*"]).lines().all(|key| key.starts_with("{rollcall}:")));
    assert_eq!(redis.cli(&["ACL", "LOG"]).trim(), "");
    assert_eq!(node.logged("WARN"), Vec::<String>::new());
    let said = ServeCommand::named("two").with(&redis.flags(&[])).refused();
    assert!(said.contains("use redis-cluster:// in --redis"), "{said}");
}
