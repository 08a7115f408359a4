//! The errors of the command line and of the configuration file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::commands::args::RedisUrl;

fn error(arguments: &str) -> String {
    let arguments = ["rollcall"].into_iter().chain(arguments.split_whitespace()).map(OsString::from);
    let stop = Cli::read(arguments).expect_err("an error");
    assert!(stop.failed);
    assert_eq!(stop.text.matches('\n').count(), 1, "one line: {}", stop.text);
    stop.text
}

#[test]
fn every_error_is_one_line_that_names_the_flag() {
    for (arguments, named) in [
        ("serve", "--identity"),
        ("serve --identity jwt", "pass --jwt-key FILE or --jwks URL"),
        ("serve --identity jwt --jwt-key a --jwks b", "exclude each other"),
        ("serve --identity query --jwt-key a", "--jwt-key is about tokens"),
        ("serve --identity query --jwks a", "--jwks is about tokens"),
        ("serve --identity query --jwt-issuer a", "--jwt-issuer is about tokens"),
        ("serve --identity query --jwt-audience a", "--jwt-audience is about tokens"),
        ("serve --identity query --jwt-user-claim a", "--jwt-user-claim is about tokens"),
        ("serve --identity query --jwt-grace 1s", "--jwt-grace is about tokens"),
        ("serve --identity jwt --jwt-key a --jwt-grace soon", "--jwt-grace"),
        ("serve --identity jwt --jwt-key a --jwt-issuer a,,b", "--jwt-issuer, --jwt-audience"),
        ("serve --identity jwt --jwks http://example.org/keys", "must be https"),
        ("serve --identity jwt --jwks http://127.0.0.1.example.org/keys", "must be https"),
        ("serve --identity jwt --jwks http://localhost@example.org/keys", "must not contain a user"),
        ("serve --identity jwt --jwks ftp://example.org/keys", "an https URL or a file"),
        ("serve --identity jwt --jwks https://", "is not a URL"),
        ("serve --identity jwt --jwt-key a --api-access token", "pass --api-token-file"),
        ("serve --identity jwt --jwt-key a --api-token-file a", "unless --api-access token"),
        ("serve --identity query --api-token-file a", "unless --api-access token"),
        ("serve --identity query --api-access jwt", "the tokens of --identity jwt"),
        ("serve --identity query --api-access everyone", "--api-access"),
        ("serve --identity query --mesh-listen 0.0.0.0:1", "--mesh-advertise"),
        ("serve --identity query --mesh-listen 0.0.0.0:1 --mesh-advertise a:1", "open to the network"),
        ("serve --identity query --mesh-listen 10.0.0.1:1", "--mesh-token-file"),
        ("serve --identity query --mesh-cert a --mesh-key b", "--mesh-ca"),
        ("serve --identity query --mesh-ca a --mesh-cert b", "--mesh-key"),
        ("serve --identity query --mesh-listen 10.0.0.1:1 --mesh-ca a", "--mesh-cert"),
        ("serve --identity query --tls-cert a", "--tls-key"),
        ("serve --identity query --tls-key a", "--tls-cert"),
        ("serve --identity query --redis-user a", "--redis-user"),
        ("serve --identity query --redis-ca a", "--redis-ca"),
        ("serve --identity query --redis redis://a --redis-ca a", "rediss://"),
        ("serve --identity query --redis rediss://a --redis-cert a", "--redis-key"),
        ("serve --identity query --redis redis://a --redis-user a", "--redis-password-file"),
        ("serve --identity query --redis redis://a@b", "--redis-password-file"),
        ("serve --identity query --redis redis://a@b --redis-user c --redis-password-file d", "--redis-user"),
        ("serve --identity query --redis rediss://a/#insecure", "--redis-ca"),
        ("serve --identity query --redis redis-sentinel://a:1,b:1", "/mymaster"),
        ("serve --identity query --redis redis-sentinel://a/main/x", "--redis"),
        ("serve --identity query --redis redis-cluster://a,,b", "host is missing"),
        ("serve --identity query --redis redis-cluster://a/1", "no database but 0"),
        ("serve --identity query --redis rediss-cluster://a#insecure", "--redis-ca"),
        ("serve --identity query --redis redis-cluster://a --redis-ca b", "rediss://"),
        ("serve --identity query --redis redis-cluster://a --redis-prefix :", "as in {rollcall}:"),
        ("serve --identity query --redis redis://a --redis-sentinel-user b", "redis-sentinel://"),
        ("serve --identity query --redis redis-cluster://a --redis-sentinel-password-file b", "redis-sentinel://"),
        ("serve --identity query --redis redis-sentinel://a/main --redis-sentinel-user b", "-password-file is missing"),
        ("serve --identity query --redis-sentinel-password-file a", "--redis-sentinel-password-file"),
        ("dev --redis redis-sentinel://a", "/mymaster"),
        ("dev --redis-password-file a", "--redis"),
        ("certs a", "--out"),
        ("certs --out a", "<NAME>"),
        ("certs --out a --days 0 b", "--days"),
        ("serve --identity query --mesh-advertise a", "--mesh-advertise"),
        ("serve --identity query --otlp-endpoint collector:4317", "--otlp-endpoint"),
        ("serve --identity query --otlp-endpoint ftp://a", "must be the URL of a collector"),
        ("serve --identity query --otlp-endpoint http://hush@a", "pass --otlp-headers-file"),
        ("serve --identity query --otlp-headers-file a", "--otlp-endpoint, which is missing"),
        ("serve --identity query --otlp-endpoint http://a --otlp-headers-file b", "must be https"),
        ("serve --identity query --otlp-endpoint http://127.0.0.1.example.org --otlp-headers-file b", "must be https"),
        ("serve --identity query --trace-ratio 1.1", "--trace-ratio"),
        ("serve --identity query --trace-ratio NaN", "--trace-ratio"),
        ("serve --identity query --log-format xml", "--log-format"),
        ("log --admin nowhere", "--admin"),
        ("serve --identity query --mesh-advertise auto", "--redis is missing"),
        ("serve --identity query --deadline 6s", "--deadline"),
        ("serve --identity query --threads 0", "--threads"),
        ("serve --identity query --lease 10ms", "--lease"),
        ("serve --identity query --node-name a/b", "--node-name"),
        ("serve --identity query --cors-origin example.org", "--cors-origin"),
        ("serve --identity query --listen nowhere", "--listen"),
        ("serve --identity query --redis http://127.0.0.1", "--redis"),
        ("serve --identity query --transports polling", "--transports"),
        ("serve --identity query --trusted-proxy 10.0.0.0/33", "--trusted-proxy"),
        ("serve --identity query --trusted-proxy none,10.0.0.1", "--trusted-proxy"),
        ("serve --identity query --connections 0", "--connections"),
        ("serve --identity query --connections-per-address 1.5", "--connections-per-address"),
        ("serve --identity query --sockets-per-address many", "--sockets-per-address"),
        ("serve --identity query --sockets-per-user 0", "`none` turns the limit off"),
        ("serve --identity query --handshakes-per-second 5:", "--handshakes-per-second"),
        ("serve --identity query --events-per-second 0", "--events-per-second"),
        ("serve --identity query --bytes-per-second 1", "--bytes-per-second"),
        ("serve --identity query --requests-at-once 0", "--requests-at-once"),
        ("serve --identity query --head-size 1KiB", "--head-size"),
        ("serve --identity query --message-size 1MiB", "--message-size"),
        ("serve --identity query --head-within 1ms", "--head-within"),
        ("serve --identity query --connect-within 2h", "--connect-within"),
        ("serve --identity query --answer-within soon", "--answer-within"),
        ("health --admin nowhere", "--admin"),
        ("status --admin nowhere", "--admin"),
        ("users", "<ROOM>"),
        ("users socket.io", "must not be"),
        ("users a --admin nowhere", "--admin"),
        ("dev --nodes 33", "--nodes"),
        ("dev --tls perhaps", "--tls"),
    ] {
        assert!(error(arguments).contains(named), "{arguments}");
    }
}

#[test]
fn a_password_on_the_command_line_is_refused_and_not_printed() {
    for url in [
        "redis://:hunter2@127.0.0.1",
        "redis://me:hunter2@127.0.0.1/0",
        "rediss://:hunter2@127.0.0.1",
        "redis-sentinel://:hunter2@127.0.0.1,127.0.0.2/main",
        "rediss-cluster://a,me:hunter2@127.0.0.1",
        "redis-cluster://a,b:hunter2",
        "hunter2",
    ] {
        let text = error(&format!("serve --identity query --redis {url}"));
        assert!(text.contains("--redis") && !text.contains("hunter2"), "{text}");
    }
    assert_eq!(format!("{:?}", "redis://:hunter2@127.0.0.1".parse::<RedisUrl>().unwrap()), "RedisUrl(…)");
}

#[test]
fn secrets_in_the_jwks_url_are_not_printed() {
    for url in [
        "https://me:hunter2@example.org/keys",
        "http://example.org/keys?secret=hunter2",
        "x://hunter2",
        "https://:hunter2",
    ] {
        let text = error(&format!("serve --identity jwt --jwks {url}"));
        assert!(text.contains("--jwks") && !text.contains("hunter2"), "{text}");
    }
    let cli = ["rollcall", "serve", "--identity", "jwt", "--jwks", "https://example.org/keys?secret=hunter2"];
    let cli = Cli::read(cli.map(OsString::from)).unwrap();
    assert!(!format!("{cli:?}").contains("hunter2"));
}

#[test]
fn keys_come_from_files_https_or_loopback() {
    for arguments in [
        "serve --identity jwt --jwks keys.json --jwt-issuer a,b --jwt-issuer c --jwt-audience d --jwt-grace 0s",
        "serve --identity jwt --jwks https://example.org/keys?tenant=a --api-access open",
        "serve --identity jwt --jwks http://localhost:8080/keys",
        "serve --identity jwt --jwks http://127.0.0.2/keys",
        "serve --identity jwt --jwks http://[::1]:8080/keys",
        "serve --identity jwt --jwt-key a --jwt-user-claim email --jwt-grace 1h",
        "serve --identity jwt --jwt-key a --api-access token --api-token-file b",
        "serve --identity query --api-access token --api-token-file b",
    ] {
        let read = Cli::read(["rollcall"].into_iter().chain(arguments.split_whitespace()).map(OsString::from));
        assert!(read.is_ok(), "{arguments}: {read:?}");
    }
}

#[test]
fn help_is_not_a_failure() {
    let stop = Cli::read(["rollcall", "serve", "--help"].map(OsString::from)).expect_err("help");
    assert!(!stop.failed && stop.text.contains("ROLLCALL_MESH_ADVERTISE"));
}

/// The error for a file with these lines and this mode, without the name of its folder.
fn file_error(lines: &str, mode: u32) -> String {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.toml");
    fs::write(&file, lines).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    let text = error(&format!("serve --config {}", file.display()));
    text.replace(&format!("{}/", folder.path().display()), "")
}

#[test]
fn every_file_error_names_the_line_and_no_secret() {
    for (lines, named) in [
        (
            "identity = 'query'\nleese = '4s'",
            "a.toml:2: `leese` is not a flag of `rollcall serve`: did you mean `lease`?",
        ),
        (
            "ROLLCALL_MESH_LISTEN = ''",
            "a.toml:1: `ROLLCALL_MESH_LISTEN` is not a flag of `rollcall serve`: did you mean `mesh-listen`?",
        ),
        ("redis_password = 'hunter2'", "did you mean `redis-password-file`?"),
        ("hunter = 'hunter2'", "a.toml:1: `hunter` is not a flag of `rollcall serve`\n"),
        ("config = 'a.toml'", "`config` is not a flag"),
        ("json = true", "`json` is not a flag"),
        ("help = true", "`help` is not a flag"),
        ("\n\n[redis]\nurl = 'redis://:hunter2@a'", "a.toml:3: sections are not supported"),
        ("redis.url = 'redis://:hunter2@a'", "a.toml:1: sections are not supported"),
        ("redis = {url = 'redis://:hunter2@a'}", "a.toml:1: sections are not supported"),
        ("[[redis]]\nurl = 'redis://:hunter2@a'", "a.toml:1: sections are not supported"),
        ("redis = 'redis://:hunter2@a", "a.toml:1: not valid TOML: "),
        ("a = 1\nredis = hunter2", "a.toml:2: not valid TOML: "),
        ("lease = '5s'\nlease = '6s'", "a.toml:2: not valid TOML: duplicate key"),
        ("redis = ['redis://:hunter2@a']", "a.toml:1: redis must be one value, not a list"),
        ("redis = 1979-05-27", "a.toml:1: redis must be a string or a number"),
        ("cors-origin = [['hunter2']]", "a.toml:1: cors-origin must be a list of strings or numbers"),
        ("redis-allow-eviction = 'yes'", "a.toml:1: redis-allow-eviction must be true or false"),
        ("threads = 99999999999999999999999999999999999999999", "a.toml:1: threads must be a string or a number"),
        (
            "identity = 'query'\n\nlease = '10ms'",
            "a.toml:3: invalid value '10ms' for '--lease <DURATION>': must be from",
        ),
        ("identity = 'query'\nthreads = 0", "a.toml:2: invalid value '0' for '--threads <COUNT>'"),
        ("identity = 'quer'", "a.toml:1: invalid value 'quer' for '--identity <HOW>'"),
        ("identity = 'query'\nredis-ca = 'a'", "--redis, which is missing (--redis-ca is in a.toml:2)"),
        ("identity = 'query'\njwt-key = 'a'", "(--jwt-key is in a.toml:2, --identity is in a.toml:1)"),
        ("identity = 'query'\ncors-origin = ['https://a', 'b']", "a.toml:2: invalid value 'b' for '--cors-origin"),
        ("redis = 'hunter2'\nidentity = 'query'", "(--redis is in a.toml:1)"),
        (
            "jwks = 'https://:hunter2@a/'\nidentity = 'jwt'",
            "--jwks must not contain a user or a password (--jwks is in a.toml:1)",
        ),
        ("lease = '5s'", "--identity is missing"),
        ("", "--identity is missing"),
    ] {
        let text = file_error(lines, 0o600);
        assert!(text.contains(named) && !text.contains("hunter2"), "{lines}: {text}");
    }
}

#[test]
fn a_password_is_read_from_a_private_file_only() {
    let lines = "identity = 'query'\nredis = 'redis://:hunter2@a'\nlease = '1ms'";
    // The error about the lease shows that the password was accepted.
    assert!(file_error(lines, 0o640).contains("--lease"));
    let lines = lines.replace("1ms", "5s");
    let text = file_error(&lines, 0o644);
    assert!(text.contains("every user of this machine can read a.toml") && text.contains("(--redis is in a.toml:2)"));
    assert!(!text.contains("hunter2"));
}

#[test]
fn only_regular_files_up_to_a_megabyte_are_read() {
    let folder = TempDir::new().unwrap();
    let of = |name: &str| folder.path().join(name).display().to_string();
    fs::write(of("large"), "#".repeat((1 << 20) + 1)).unwrap();
    fs::write(of("bytes"), b"identity = '\xff'").unwrap();
    for (file, named) in [
        (of(""), "is not a regular file"),
        ("/dev/zero".to_owned(), "is not a regular file"),
        (of("nowhere"), "cannot be read"),
        (of("large"), "larger than 1 MiB"),
        (of("bytes"), "not UTF-8"),
    ] {
        let text = error(&format!("serve --config {file}"));
        assert!(text.contains(named) && text.contains("--config"), "{text}");
    }
}

#[test]
fn command_line_errors_are_reported_despite_a_file() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.toml");
    fs::write(&file, "identity = 'query'\nlease = '6s'\nlog = 'debug'\n").unwrap();
    let file = file.display();
    for (arguments, named) in [
        (format!("serve --config {file} --bogus"), "'--bogus'"),
        (format!("serve --lease 1ms --config {file}"), "invalid value '1ms' for '--lease"),
        (format!("serve --config {file} --lease"), "a value is required for '--lease"),
        (format!("serve --config {file} --config {file}"), "cannot be used multiple times"),
        (format!("serve --config {file} -- more"), "'more'"),
    ] {
        assert!(error(&arguments).contains(named), "{arguments}");
    }
    let read = |arguments: String| {
        let arguments = arguments.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let Ok(Cli { command: Command::Serve(serve), log }) = Cli::read(arguments) else { panic!("refused") };
        (serve.lease, log.levels.unwrap())
    };
    let seconds = Duration::from_secs;
    assert_eq!(read(format!("rollcall serve --config {file} --")), (seconds(6), "debug".to_owned()));
    assert_eq!(read(format!("rollcall --log warn serve --config {file}")), (seconds(6), "warn".to_owned()));
    assert_eq!(read(format!("rollcall serve --lease 7s --config {file}")), (seconds(7), "debug".to_owned()));
}

#[test]
fn probe_and_audit_read_the_file_of_a_node() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.toml");
    fs::write(&file, "identity = 'jwt'\nadmin-listen = '127.0.0.1:9007'\nredis = 'redis://a'\n").unwrap();
    let read = |command: &str| Cli::read(["rollcall", command, "--config", file.to_str().unwrap()].map(OsString::from));
    let Ok(Cli { command: Command::Health(health), .. }) = read("health") else { panic!("refused") };
    assert_eq!(health.admin.as_str(), "127.0.0.1:9007");
    let Ok(Cli { command: Command::Audit(audit), .. }) = read("audit") else { panic!("refused") };
    assert_eq!(audit.redis.url.unwrap().as_str(), "redis://a");
}

#[test]
fn every_variable_is_named_after_its_flag() {
    let mut command = Cli::command();
    command.build();
    for name in ["serve", "config"] {
        let flags = command.find_subcommand(name).unwrap().get_arguments();
        for flag in
            flags.filter(|flag| flag.get_long().is_some_and(|long| !["help", "version", "json"].contains(&long)))
        {
            let long = flag.get_long().unwrap();
            let variable = format!("ROLLCALL_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "--{long}");
        }
    }
}
