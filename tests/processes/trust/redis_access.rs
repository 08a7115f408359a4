//! Redis with TLS and a login: a node needs only the documented ACL. An error of Redis leads to a message with the
//! remedy.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use testkit::client::Client;
use testkit::pki::{Authority, Folder, Time};
use testkit::process::{ServeCommand, complete};
use testkit::redis_server::own_ip;
use testkit::until;

pub(crate) const PASSWORD: &str = "correct-horse-battery-staple";
pub(crate) const SECOND_PASSWORD: &str = "another-horse-another-staple";
/// The ACL rules of a node, as docs/REDIS.md documents them.
pub(crate) const ACL: &str = "~rollcall:* resetchannels -@all +info +time +get +set +del +exists +expire +unlink +sadd +srem \
                       +smembers +scard +evalsha +script|load";

/// A redis-server that accepts only TLS, and requires a client certificate and a user name.
pub(crate) struct Guarded {
    process: Child,
    pub address: SocketAddr,
    /// A second address of the server, which its certificate does not name.
    unnamed: SocketAddr,
    pub folder: Folder,
}

impl Guarded {
    pub(crate) async fn start(acl: &str) -> Self {
        Self::start_with(acl, &[]).await
    }

    pub(crate) async fn start_with(acl: &str, options: &[&str]) -> Self {
        let (authority, folder) = (Authority::new("redis"), Folder::new());
        let [ip, unnamed] = [(); 2].map(|()| Ipv4Addr::from(own_ip()));
        let server = authority.issue(&ip.to_string(), Time::Now);
        let client = authority.issue("rollcall", Time::Now);
        let files = [
            ("ca.pem", &authority.pem),
            ("server.pem", &server.certificate),
            ("server.key", &server.key),
            ("client.pem", &client.certificate),
            ("client.key", &client.key),
        ];
        for (name, contents) in files {
            folder.write(name, contents);
        }
        folder.write("password", &format!("{PASSWORD}\n"));
        let users = format!(
            "user default off\nuser rollcall on >{PASSWORD} >{SECOND_PASSWORD} {acl}\nuser admin on >admin ~* &* +@all\n"
        );
        folder.write("users.acl", &users);
        let address = TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap();
        let process = Command::new("redis-server")
            .args(["--port", "0", "--tls-port", &address.port().to_string(), "--bind", &ip.to_string()])
            .args([&unnamed.to_string(), "--tls-auth-clients", "yes", "--tls-ca-cert-file", &folder.text("ca.pem")])
            .args(["--tls-cert-file", &folder.text("server.pem"), "--tls-key-file", &folder.text("server.key")])
            .args(["--aclfile", &folder.text("users.acl"), "--save", "", "--appendonly", "no"])
            .args(options)
            .arg("--dir")
            .arg(folder.path("."))
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is needed for the tests; `make tools` installs it");
        let unnamed = (unnamed, address.port()).into();
        let server = Self { process, address, unnamed, folder };
        until("redis-server answers", || async { server.cli(&["PING"]).trim() == "PONG" }).await;
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("rediss://{}", self.address)
    }

    /// Runs `redis-cli` as administrator, and returns its output.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-h", &self.address.ip().to_string(), "-p", &self.address.port().to_string(), "--tls"])
            .args(["--cacert", &self.folder.text("ca.pem")])
            .args(["--cert", &self.folder.text("client.pem"), "--key", &self.folder.text("client.key")])
            .args(["--user", "admin", "--pass", "admin", "--no-auth-warning"])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The flags of a node, with `replaced` values. An empty value removes its flag.
    pub(crate) fn flags(&self, replaced: &[(&str, &str)]) -> Vec<String> {
        let mut flags = vec![("--redis", self.url()), ("--redis-user", "rollcall".to_owned())];
        for (flag, file) in [
            ("--redis-password-file", "password"),
            ("--redis-ca", "ca.pem"),
            ("--redis-cert", "client.pem"),
            ("--redis-key", "client.key"),
        ] {
            flags.push((flag, self.folder.text(file)));
        }
        for (flag, value) in replaced {
            flags.retain(|(name, _)| name != flag);
            if !value.is_empty() {
                flags.push((flag, (*value).to_owned()));
            }
        }
        flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    pub(crate) fn node(&self, name: &str) -> ServeCommand {
        ServeCommand::named(name).with(&self.flags(&[]))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_need_no_more_than_the_documented_acl() {
    let document = include_str!("../../../docs/REDIS.md");
    let document = document.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(document.contains(ACL), "docs/REDIS.md documents these rules");
    let redis = Guarded::start(ACL).await;
    let (one, other) = tokio::join!(redis.node("one").ready(), redis.node("other").ready());
    let client = Client::connect(one.public, "foo", &["a", "b"]).await.unwrap();
    assert_eq!(other.roll("a").await, complete(&[&client.id]));
    until("the index lists the sockets of the node", || async { redis.cli(&["KEYS", "*"]).contains(":room:") }).await;
    assert!(redis.cli(&["KEYS", "*"]).lines().all(|key| key.starts_with("rollcall:")));
    // The other nodes remove the entries of a dead node, and a node releases an empty room.
    let dies = redis.node("dies").ready().await;
    let _gone = Client::connect(dies.public, "bar", &["a"]).await.unwrap();
    assert_eq!(other.roll("a").await.sockets.len(), 2);
    drop(dies);
    until("the index has no entry of the dead node", || async {
        other.roll("a").await == complete(&[&client.id])
            && redis.cli(&["SMEMBERS", "rollcall:owners:a"]).lines().count() == 1
            && redis.cli(&["SMEMBERS", "rollcall:nodes"]).lines().count() == 2
    })
    .await;
    client.leave("b").await;
    until("the node releases the room", || async { redis.cli(&["EXISTS", "rollcall:owners:b"]).trim() == "0" }).await;
    for node in [&one, &other] {
        assert_eq!(node.logged("WARN"), Vec::<String>::new());
    }
    // Redis denied no command either.
    assert_eq!(redis.cli(&["ACL", "LOG"]).trim(), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_part_of_the_acl_is_needed() {
    for (left_out, what) in ACL.split(' ').filter(|part| part.starts_with('+')).map(|part| (part, &part[1..])) {
        let acl = ACL.replace(&format!(" {left_out}"), "").replace(left_out, "");
        let redis = Guarded::start(&format!("{acl} ")).await;
        let said = redis.node("one").refused();
        assert!(
            said.contains("its user may not do what a node does") && said.contains("docs/REDIS.md"),
            "{what}: {said}"
        );
        assert!(!said.contains(PASSWORD), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_rejects_the_node_is_reported_with_the_remedy() {
    let redis = Guarded::start(ACL).await;
    let (folder, other) = (Folder::new(), Authority::new("other"));
    let foreign = other.issue("rollcall", Time::Now);
    let file = |name: &str, contents: &str| folder.write(name, contents);
    // A web server, which does not speak the protocol of Redis.
    let web = ServeCommand::named("web").ready().await;
    let cases = [
        (vec![("--redis-ca", file("ca", &other.pem))], "pass its CA with --redis-ca"),
        (vec![("--redis-ca", String::new())], "--redis-ca"),
        (vec![("--redis-cert", String::new()), ("--redis-key", String::new())], "--redis-cert and --redis-key"),
        (
            vec![("--redis-cert", file("cert", &foreign.certificate)), ("--redis-key", file("key", &foreign.key))],
            "--redis-cert and --redis-key",
        ),
        (vec![("--redis-password-file", file("password", "hunter2-hunter2"))], "--redis-password-file"),
        (vec![("--redis-user", String::new()), ("--redis-password-file", String::new())], "--redis-user"),
        (vec![("--redis-user", "nobody".to_owned())], "--redis-user"),
        (vec![("--redis", format!("rediss://{}", redis.unnamed))], "a host name that is in the certificate"),
        (vec![("--redis", format!("rediss://{}", web.admin))], "does not speak TLS"),
        (vec![("--redis-prefix", "elsewhere:".to_owned())], "its user may not do"),
        (vec![("--redis-key", folder.text("nothing"))], "cannot read"),
        (vec![("--redis-password-file", file("empty", "\n"))], "there is no password in"),
    ];
    for (replaced, says) in cases {
        let replaced: Vec<(&str, &str)> = replaced.iter().map(|(flag, value)| (*flag, value.as_str())).collect();
        let said = ServeCommand::named("one").with(&redis.flags(&replaced)).refused();
        assert!(said.contains(says), "{replaced:?}: {said}");
        assert_eq!(said.lines().filter(|line| line.contains("ERROR")).count(), 1, "{said}");
        assert!(!said.contains(PASSWORD) && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_is_used_by_the_next_connection() {
    let redis = Guarded::start(ACL).await;
    let node = redis.node("one").ready().await;
    let client = Client::connect(node.public, "foo", &["a"]).await.unwrap();
    redis.cli(&["ACL", "SETUSER", "rollcall", &format!("<{PASSWORD}")]);
    redis.cli(&["CLIENT", "KILL", "USER", "rollcall"]);
    node.logs("cannot use redis; retrying").await;
    let complained = node.logged("cannot use redis");
    assert!(complained.len() == 1 && complained[0].contains("--redis-password-file"), "{complained:?}");
    redis.folder.write("password", SECOND_PASSWORD);
    until("the node reconnects", || async { node.logged("connected to redis").len() == 2 }).await;
    until("the answers of the node are complete", || async { node.roll("a").await == complete(&[&client.id]) }).await;
    assert!(!node.log().contains(PASSWORD) && !node.log().contains(SECOND_PASSWORD));
}
