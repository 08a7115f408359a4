//! No secret appears in a log of any level, in the help, in an error or on a command line.

use std::fs;

use testkit::client::Client;
use testkit::pki::{Authority, Folder, Time};
use testkit::process::{ServeCommand, complete, rollcall};
use testkit::{mesh_client, until};

use super::redis_access::{ACL, Guarded, PASSWORD};

const TOKEN: &str = "tok-3141592653589793238462643383279";
const REDIS_URL: &str = "redis://me:url-hunter2@127.0.0.1:1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_logged_or_on_a_command_line() {
    let redis = Guarded::start(ACL).await;
    let (authority, folder) = (Authority::new("mesh"), Folder::new());
    let issued = authority.issue("127.0.0.1", Time::Now);
    let mesh = folder.mesh(&authority.pem, &issued);
    let token = folder.write("token", TOKEN);
    let start = |name: &str| {
        let https = ["--tls-cert", &folder.text("node.pem"), "--tls-key", &folder.text("node.key")];
        let more = ["--mesh-token-file", &token, "--log", "debug"];
        // The test sends plain requests to the other node.
        let start = redis.node(name).with(&mesh).with(&more);
        if name == "https" { start.with(&https) } else { start }
    };
    let (one, https) = (start("one").ready().await, start("https").ready().await);
    let client = Client::connect(one.public, "foo", &["a"]).await.unwrap();
    until("the nodes answer each other", || async { one.roll("a").await == complete(&[&client.id]) }).await;
    // A wrong token must not appear in a log either.
    let mut stranger = mesh_client(one.mesh);
    assert!(stranger.lookup_sockets(rollcall::mesh::proto::LookupSocketsRequest::default()).await.is_err());
    let key = issued.key.lines().nth(1).unwrap();
    for node in [&one, &https] {
        let log = node.log();
        assert!(log.contains("DEBUG"), "the log has the debug level");
        let command_line = fs::read_to_string(format!("/proc/{}/cmdline", node.pid())).unwrap();
        for secret in [TOKEN, PASSWORD, key] {
            let leak = log.lines().find(|line| line.contains(secret));
            assert_eq!(leak, None, "in the log of {}", node.name);
            assert!(!command_line.contains(secret));
        }
    }
}

#[test]
fn no_secret_of_the_environment_is_in_help_errors_or_logs() {
    let folder = Folder::new();
    folder.write("short", "hunter2-token");
    let refused = |start: ServeCommand| start.env("ROLLCALL_REDIS", REDIS_URL).refused();
    let mut said = vec![
        refused(ServeCommand::named("one").with(&["--deadline", "soon"])),
        refused(ServeCommand::named("one").with(&["--redis-password-file", &folder.text("short")])),
        refused(ServeCommand::named("one").with(&["--redis-ca", &folder.text("short")])),
        refused(ServeCommand::named("one").with(&["--mesh-token-file", &folder.text("short")])),
        ServeCommand::named("one").env("ROLLCALL_REDIS", "http://me:url-hunter2@127.0.0.1").refused(),
        ServeCommand::named("one").env("ROLLCALL_REDIS", "redis://me:url-hunter2@:x/y").refused(),
    ];
    for command in ["serve", "dev"] {
        let help = rollcall().args([command, "--help"]).env("ROLLCALL_REDIS", REDIS_URL).output().unwrap();
        assert!(help.status.success());
        said.push(String::from_utf8(help.stdout).unwrap());
    }
    for said in said {
        assert!(!said.contains("hunter2"), "{said}");
    }
}
