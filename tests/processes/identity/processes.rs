//! The binary with the flags of an operator: the documented commands, the errors at start, keys from an https URL, and
//! an output without secrets.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::client::Client;
use testkit::issuer::{Issuer, RSA_PEM, claims};
use testkit::process::{Process, serve};
use testkit::programs::rollcall_binary;
use testkit::{PATIENCE, listen_anywhere, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

/// The heading of the section whose commands a test runs.
const DOCUMENTED_COMMANDS: &str = "## First token";

/// Starts a node that logs everything.
fn begin(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Process {
    Process::launch(node(folder, arguments, environment).args(["--log", "debug"]))
}

async fn readiness(node: &Process) -> (u16, Value) {
    let response = node.get("/readyz").await;
    (response.status().as_u16(), response.json().await.unwrap())
}

fn node(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = serve();
    command.current_dir(folder).args(arguments).env("NO_PROXY", "*");
    command.envs(environment.iter().copied());
    command
}

/// Runs a node that must fail at start, and returns its output.
fn refused(folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let Output { status, stdout, stderr } = node(folder, arguments, environment).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && stdout.is_empty(), "{text}");
    assert_eq!(text.lines().count(), 1, "the error is one line: {text}");
    text
}

#[test]
fn unsuitable_keys_are_refused_in_one_line_without_secrets() {
    let folder = TempDir::new().unwrap();
    let here = folder.path();
    for (name, contents) in [
        ("short", "hunter2hunter2hunter2\n"),
        ("private", RSA_PEM),
        ("set", r#"{"keys":[]}"#),
        ("tokens", "ops: hunter2hunter2hunter2\nops: another-of-hunter2\n"),
        ("secret", "hunter2-hunter2-hunter2-hunter2-hunter2\n"),
    ] {
        std::fs::write(here.join(name), contents).unwrap();
    }
    for (arguments, expected) in [
        (vec!["--identity", "jwt", "--jwt-key", "none"], "--jwt-key: cannot read none"),
        (vec!["--identity", "jwt", "--jwt-key", "short"], "--jwt-key: short: the secret has 21 bytes"),
        (vec!["--identity", "jwt", "--jwt-key", "private"], "--jwt-key: private: this is a private key"),
        (vec!["--identity", "jwt", "--jwt-key", "set"], "--jwt-key: set: this looks like a public key or a set"),
        (vec!["--identity", "jwt", "--jwks", "set"], "--jwks: set: none of its keys"),
        (vec!["--identity", "jwt", "--jwks", "secret"], "--jwks: secret: it is not a JSON object"),
        (
            vec!["--identity", "query", "--api-access", "token", "--api-token-file", "tokens"],
            "--api-token-file: tokens: the name in line 2 occurs twice",
        ),
    ] {
        let text = refused(here, &arguments, &[]);
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("MII"), "{text}");
    }
    let by_environment = [("ROLLCALL_IDENTITY", "jwt"), ("ROLLCALL_JWT_KEY", "short")];
    assert!(refused(here, &[], &by_environment).contains("--jwt-key: short: the secret"));
    let url = [("ROLLCALL_JWKS", "https://me:hunter2@localhost/keys")];
    let text = refused(here, &["--identity", "jwt"], &url);
    assert!(text.contains("--jwks must not contain") && !text.contains("hunter2"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_of_a_client_or_caller_is_logged() {
    let folder = TempDir::new().unwrap();
    let secret = "a-secret-of-the-issuer-that-is-never-printed";
    let named = "a-token-of-the-dashboard-that-is-never-printed";
    std::fs::write(folder.path().join("key"), secret).unwrap();
    std::fs::write(folder.path().join("tokens"), format!("dashboard: {named}\n")).unwrap();
    let arguments = ["--identity", "jwt", "--jwt-key", "key", "--api-access", "token", "--api-token-file", "tokens"];
    let node = begin(folder.path(), &arguments, &[]);
    node.is_ready().await;
    let issuer = Issuer::secret("HS256", secret.as_bytes());
    let (good, forged) = (issuer.token(&claims(&json!({}))), Issuer::rsa("RS256").token(&claims(&json!({}))));
    let auth = |token: &str| json!({"token": token, "room": "Maths"}).to_string();
    let client = Client::with(node.public, "", &auth(&good)).await.unwrap();
    assert!(Client::with(node.public, "", &auth(&forged)).await.is_err());
    let http = reqwest::Client::new();
    let users = |token: &str| http.get(format!("http://{}/Maths/users", node.public)).bearer_auth(token).send();
    assert_eq!(users(named).await.unwrap().status().as_u16(), 200);
    assert_eq!(users(&good).await.unwrap().status().as_u16(), 401);
    let said = ["rejected a token", "authorized a roll call request caller=dashboard", "rejected an unknown API token"];
    until("the node has logged all three requests", || async { said.iter().all(|said| node.log().contains(said)) })
        .await;
    let log = node.log();
    let signature = |token: &str| token.rsplit_once('.').unwrap().1.to_owned();
    for shown in [secret, named, &signature(&good), &signature(&forged)] {
        assert!(!log.contains(shown), "{shown} is in the log");
    }
    client.drop_connection();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_over_https_from_trusted_servers_only() {
    let folder = TempDir::new().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let listener = listen_anywhere();
    let url = format!("https://localhost:{}/keys?secret=hunter2", listener.local_addr().unwrap().port());
    let issuer = Issuer::es256();
    let body = json!({"keys": [issuer.jwk("one")]}).to_string();
    let source = tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let _ = stream.read(&mut [0; 4096]).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let arguments = ["--identity", "jwt", "--jwks", &url];
    let trusted = folder.path().join("trusted.pem");
    std::fs::write(&trusted, cert.pem()).unwrap();

    let node = begin(folder.path(), &arguments, &[("SSL_CERT_FILE", trusted.to_str().unwrap())]);
    node.is_ready().await;
    let auth = json!({"token": issuer.named_token("one", &claims(&json!({}))), "room": "Maths"}).to_string();
    assert!(Client::with(node.public, "", &auth).await.is_ok());
    drop(node);

    std::fs::write(&trusted, "").unwrap();
    let nobody = [("SSL_CERT_FILE", trusted.to_str().unwrap()), ("SSL_CERT_DIR", "/nowhere")];
    assert!(refused(folder.path(), &arguments, &nobody).contains("--jwks: this machine has no CA certificates"));

    let other = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem();
    std::fs::write(&trusted, other).unwrap();
    let node = begin(folder.path(), &arguments, &[("SSL_CERT_FILE", trusted.to_str().unwrap())]);
    until("the node logs that it has no keys", || async {
        node.log().contains("cannot fetch JWKS; rejecting all tokens")
    })
    .await;
    let (status, readiness) = readiness(&node).await;
    assert_eq!(status, 503);
    assert_eq!(&readiness["ready"], &json!(false));
    assert!(readiness["identity"].as_str().unwrap().contains("no keys yet"), "{readiness}");
    assert!(!node.log().contains("hunter2"), "the query of the URL may be a secret");
    source.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_commands_make_a_working_token() {
    let document = include_str!("../../../docs/AUTHENTICATION.md");
    let (_, part) = document.split_once(DOCUMENTED_COMMANDS).expect("docs/AUTHENTICATION.md has the section");
    let commands: Vec<&str> = part.lines().map_while(|line| (!line.starts_with("##")).then_some(line)).collect();
    let commands: Vec<&str> = commands.iter().filter_map(|line| line.strip_prefix("    ")).collect();
    assert!(commands.len() > 5, "{commands:?}");
    let [public, mesh, admin] = [(); 3].map(|()| listen_anywhere().local_addr().unwrap().to_string());
    let script = commands.join("\n").replace("127.0.0.1:5001", &public).replace("127.0.0.1:9001", &admin);
    let folder = TempDir::new().unwrap();
    let binary = folder.path().join("target/release");
    std::fs::create_dir_all(&binary).unwrap();
    std::os::unix::fs::symlink(rollcall_binary(), binary.join("rollcall")).unwrap();
    let run = Command::new("bash")
        .args(["-m", "-eu", "-o", "pipefail", "-c", &script])
        .current_dir(folder.path())
        .envs([("ROLLCALL_LISTEN", &public), ("ROLLCALL_MESH_LISTEN", &mesh), ("ROLLCALL_ADMIN_LISTEN", &admin)])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ended = tokio::task::spawn_blocking(move || run.wait_with_output().unwrap());
    let Output { status, stdout, stderr } =
        tokio::time::timeout(PATIENCE + Duration::from_secs(10), ended).await.unwrap().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{stdout}\n{stderr}");
    assert!(stdout.trim_end().ends_with("[]"), "the roll of an empty room:\n{stdout}\n{stderr}");
}
