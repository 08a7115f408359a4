//! What is refused, and how it is said.

use super::*;

fn refusal(arguments: &str) -> String {
    let arguments = ["rollcall"].into_iter().chain(arguments.split_whitespace()).map(OsString::from);
    let stop = Cli::read(arguments).expect_err("refused");
    assert!(stop.failed);
    assert_eq!(stop.text.matches('\n').count(), 1, "one line: {}", stop.text);
    stop.text
}

#[test]
fn every_refusal_is_one_line_that_names_the_flag() {
    for (arguments, named) in [
        ("serve", "--identity"),
        ("serve --identity query --mesh-listen 0.0.0.0:1", "--mesh-advertise"),
        ("serve --identity query --mesh-listen 0.0.0.0:1 --mesh-advertise a:1", "open to the network"),
        ("serve --identity query --mesh-advertise a", "--mesh-advertise"),
        ("serve --identity query --deadline 6s", "--deadline"),
        ("serve --identity query --threads 0", "--threads"),
        ("serve --identity query --lease 10ms", "--lease"),
        ("serve --identity query --node-name a/b", "--node-name"),
        ("serve --identity query --cors-origin example.org", "--cors-origin"),
        ("serve --identity query --listen nowhere", "--listen"),
        ("serve --identity query --redis http://127.0.0.1", "--redis"),
        ("serve --identity query --transports polling", "--transports"),
        ("dev --nodes 33", "--nodes"),
        ("dev --tls perhaps", "--tls"),
    ] {
        assert!(refusal(arguments).contains(named), "{arguments}");
    }
}

#[test]
fn a_password_is_neither_taken_from_the_command_line_nor_repeated() {
    for url in
        ["redis://:hunter2@127.0.0.1", "redis://me:hunter2@127.0.0.1/0", "rediss://:hunter2@127.0.0.1", "hunter2"]
    {
        let text = refusal(&format!("serve --identity query --redis {url}"));
        assert!(text.contains("--redis") && !text.contains("hunter2"), "{text}");
    }
    assert_eq!(format!("{:?}", "redis://:hunter2@127.0.0.1".parse::<RedisUrl>().unwrap()), "RedisUrl(…)");
}

#[test]
fn help_is_no_failure() {
    let stop = Cli::read(["rollcall", "serve", "--help"].map(OsString::from)).expect_err("help");
    assert!(!stop.failed && stop.text.contains("ROLLCALL_MESH_ADVERTISE"));
}
