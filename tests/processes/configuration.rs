//! The configuration file and `rollcall config`: the tests run the program with a clean environment.
//!
//! The tests take the flags from the command line definition of the program, so that they cover every new flag.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use clap::{Arg, ArgAction, CommandFactory as _};
use rollcall::commands::cli::Cli;
use serde_json::Value;
use tempfile::TempDir;
use testkit::process::{Process, rollcall};
use testkit::programs::repository;

/// Flags and their values.
type Flags = &'static [(&'static str, &'static str)];

/// Sets of flags that are valid together. Every flag is accepted in one of these sets.
const CONTEXTS: [Flags; 8] = [
    &[("identity", "query")],
    &[("identity", "jwt"), ("jwt-key", "a")],
    &[("identity", "jwt")],
    &[("identity", "query"), ("api-access", "token"), ("api-token-file", "a")],
    &[
        ("identity", "query"),
        ("tls-cert", "a"),
        ("tls-key", "a"),
        ("mesh-ca", "a"),
        ("mesh-cert", "a"),
        ("mesh-key", "a"),
    ],
    &[
        ("identity", "query"),
        ("redis", "rediss://a"),
        ("redis-user", "a"),
        ("redis-password-file", "a"),
        ("redis-ca", "a"),
        ("redis-cert", "a"),
        ("redis-key", "a"),
    ],
    &[
        ("identity", "query"),
        ("redis", "redis-sentinel://a/b"),
        ("redis-sentinel-user", "a"),
        ("redis-sentinel-password-file", "a"),
    ],
    &[("identity", "query"), ("otlp-endpoint", "https://a.example"), ("otlp-headers-file", "a")],
];
/// Candidate values: every flag without a fixed list of values accepts at least two of these.
const VALUES: [&str; 20] = [
    "3",
    "4",
    "1s",
    "2s",
    "32KiB",
    "64KiB",
    "2MiB",
    "3MiB",
    "127.0.0.1:1",
    "127.0.0.1:2",
    "10.0.0.1",
    "10.0.0.2",
    "https://a.example",
    "https://b.example",
    "redis://a",
    "redis://b",
    "websocket",
    "websocket,polling",
    "0.25",
    "0.5",
];

/// The program, with nothing in its environment.
fn program() -> Command {
    let mut command = rollcall();
    command.env_clear();
    command
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The flags that a configuration file may set.
fn flags() -> Vec<Arg> {
    let mut command = Cli::command();
    command.build();
    let serve = command.find_subcommand("serve").unwrap().get_arguments();
    serve.filter(|flag| flag.get_env().is_some() && flag.get_id() != "config").cloned().collect()
}

/// The value of a flag in each source.
#[derive(Default)]
struct Given<'a> {
    flag: Option<&'a str>,
    environment: Option<&'a str>,
    file: Option<&'a str>,
}

/// The values of all flags, and the source of this one; `None` where it is refused.
fn effective(folder: &Path, flag: &Arg, context: &[(&str, &str)], given: &Given<'_>) -> Option<(Value, String)> {
    let name = flag.get_long().unwrap();
    let is_switch = matches!(flag.get_action(), ArgAction::SetTrue);
    let mut command = program();
    command.args(["config", "--json"]);
    command.args(given.flag.map_or_else(|| around(flag, context), |value| arguments(flag, context, value)));
    if let Some(value) = given.environment {
        command.env(flag.get_env().unwrap(), value);
    }
    if let Some(value) = given.file {
        let file = folder.join(format!("{name}.toml"));
        let value = if is_switch { value.to_owned() } else { format!("{value:?}") };
        fs::write(&file, format!("{name} = {value}\n")).unwrap();
        command.arg("--config").arg(file);
    }
    let output = command.output().unwrap();
    if !output.status.success() {
        return None;
    }
    let all: BTreeMap<String, Value> = serde_json::from_slice(&output.stdout).unwrap();
    let source = all[name]["source"].as_str().unwrap().to_owned();
    let values = all.into_iter().map(|(flag, mut shown)| (flag, shown["value"].take()));
    Some((values.collect(), source))
}

/// Two values of this flag, of which the first is accepted, and the context that it needs.
fn accepted(flag: &Arg) -> Option<(Flags, [String; 2])> {
    let words: Vec<String> = match (flag.get_action(), flag.get_value_parser().possible_values()) {
        (ArgAction::SetTrue, _) => vec!["true".to_owned(), "false".to_owned()],
        (_, Some(words)) => words.map(|word| word.get_name().to_owned()).collect(),
        (_, None) => VALUES.map(str::to_owned).into(),
    };
    CONTEXTS.iter().find_map(|context| {
        let (mut taken, refused): (Vec<_>, Vec<_>) = words.iter().partition(|word| {
            let arguments =
                ["rollcall".to_owned(), "config".to_owned()].into_iter().chain(arguments(flag, context, word));
            Cli::read(arguments.map(OsString::from)).is_ok()
        });
        // A value of a fixed list may be invalid in this context and valid in another one.
        if flag.get_value_parser().possible_values().is_some() {
            taken.extend(refused.into_iter().filter(|_| taken.len() == 1).collect::<Vec<_>>());
        }
        let (one, other) = (taken.first()?, taken.get(1)?);
        Some((*context, [(*one).clone(), (*other).clone()]))
    })
}

/// The arguments that set the flag to this value, with the flags of the context.
fn arguments(flag: &Arg, context: &[(&str, &str)], value: &str) -> Vec<String> {
    let name = flag.get_long().unwrap();
    let mut arguments = around(flag, context);
    match (flag.get_action(), value) {
        (ArgAction::SetTrue, "true") => arguments.push(format!("--{name}")),
        (ArgAction::SetTrue, _) => {}
        _ => arguments.push(format!("--{name}={value}")),
    }
    arguments
}

/// The arguments of the context, without the flag itself.
fn around(flag: &Arg, context: &[(&str, &str)]) -> Vec<String> {
    let others = context.iter().filter(|(other, _)| Some(*other) != flag.get_long());
    others.map(|(other, value)| format!("--{other}={value}")).collect()
}

fn in_order_of_rank(flag: &Arg) {
    let folder = TempDir::new().unwrap();
    let name = flag.get_long().unwrap();
    let (context, values) =
        accepted(flag).unwrap_or_else(|| panic!("--{name}: add two values, or what goes with it, to the lists above"));
    let [one, other] = values.each_ref().map(|value| Some(value.as_str()));
    let of = |flag_value, environment, file| {
        effective(folder.path(), flag, context, &Given { flag: flag_value, environment, file })
    };
    let (expected, source) = of(one, None, None).unwrap_or_else(|| panic!("--{name} is refused"));
    assert_eq!(source, "flag", "--{name}");
    let from = |source: &str| Some((expected.clone(), source.to_owned()));
    assert_eq!(of(None, one, None), from("environment"), "--{name}");
    assert_eq!(of(None, None, one), from("file"), "--{name}");
    assert!(of(None, None, other).is_none_or(|(values, _)| values != expected), "--{name}");
    assert_eq!(of(one, None, other), from("flag"), "--{name}");
    assert_eq!(of(one, other, other), from("flag"), "--{name}");
    assert_eq!(of(None, one, other), from("environment"), "--{name}");
}

#[test]
fn a_flag_means_the_same_on_the_command_line_and_elsewhere() {
    let flags = flags();
    assert!(flags.len() > 40, "the program has flags");
    // Nearly all of it is starting programs.
    std::thread::scope(|scope| {
        for some in flags.chunks(flags.len().div_ceil(4)) {
            scope.spawn(|| some.iter().for_each(in_order_of_rank));
        }
    });
}

/// A file that only its owner can read.
fn private(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    let mut open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&file).unwrap();
    open.write_all(text.as_bytes()).unwrap();
    file
}

/// A configuration without its comments.
fn without_sources(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once("  # ").expect("it has a source").0.to_owned()).collect()
}

#[test]
fn the_printed_configuration_is_an_equivalent_file() {
    let folder = TempDir::new().unwrap();
    let tokens =
        ["--identity=jwt", "--jwt-key=a b#'\"\\\u{e9}", "--jwt-issuer=a,b", "--trusted-proxy=none", "--threads=2"];
    for (redis, arguments) in [
        (None, &["--identity=query"][..]),
        (None, &tokens),
        (Some("redis://me:hunter2@a:1/3"), &["--identity=query", "--node-name=007", "--connections=none"]),
    ] {
        let mut command = program();
        command.arg("config").args(arguments).envs(redis.map(|url| ("ROLLCALL_REDIS", url)));
        let first = told(&command.output().unwrap());
        let file = private(folder.path(), "again.toml", &first);
        let again = told(&program().arg("config").arg("--config").arg(&file).output().unwrap());
        assert_eq!(without_sources(&first), without_sources(&again));
        let line = format!("  # file {}:2", file.display());
        assert!(again.lines().nth(1).unwrap().ends_with(&line), "{again}");
    }
}

#[test]
fn the_origin_of_each_value_is_printed() {
    let folder = TempDir::new().unwrap();
    let file = private(folder.path(), "a.toml", "# Ours.\nlease = \"7s\"\nlog = \"debug\"\ncors-origin = []\n");
    let mut command = program();
    command.args(["config", "--identity", "query", "--trusted-proxy", "none"]).env("ROLLCALL_CONFIG", &file);
    let text = told(&command.env("ROLLCALL_DEADLINE", "1s").env("ROLLCALL_LOG", "warn").output().unwrap());
    for line in [
        "identity = \"query\"  # flag".to_owned(),
        "deadline = \"1s\"  # environment ROLLCALL_DEADLINE".to_owned(),
        format!("lease = \"7s\"  # file {}:2", file.display()),
        format!("cors-origin = []  # file {}:4", file.display()),
        "drain = \"10s\"  # default".to_owned(),
        "log = \"warn\"  # environment ROLLCALL_LOG".to_owned(),
        "api-access = \"open\"  # default, by identity".to_owned(),
        "sockets-per-address = 1000  # default, by trusted-proxy".to_owned(),
        "# redis: not set".to_owned(),
    ] {
        assert!(text.lines().any(|is| is == line), "{line} is not in:\n{text}");
    }
}

#[test]
fn no_secret_is_printed_from_any_origin() {
    let folder = TempDir::new().unwrap();
    for (name, value) in [
        ("redis", "redis://:hunter2@a"),
        ("redis", "redis://me:hunter2@a:1/0"),
        ("redis", "rediss://me:hun@hunter2@a"),
        ("jwks", "https://a/keys?tenant=hunter2"),
        ("jwks", "https://a/keys?hunter2"),
        ("jwks", "https://a/keys#hunter2"),
    ] {
        let identity = if name == "jwks" { "jwt" } else { "query" };
        let variable = format!("ROLLCALL_{}", name.to_uppercase());
        let file = private(folder.path(), "a.toml", &format!("{name} = {value:?}\n"));
        let file = file.to_str().unwrap();
        for (variable, value) in [(variable.as_str(), value), ("ROLLCALL_CONFIG", file)] {
            for arguments in ["", "--json", "--lease=1ms", "--help"] {
                let mut command = program();
                command.env("ROLLCALL_IDENTITY", identity).env(variable, value);
                let output = command.arg("config").args(arguments.split_whitespace()).output().unwrap();
                let text = [output.stdout, output.stderr].concat();
                assert!(!String::from_utf8_lossy(&text).contains("hunter2"), "{variable} {value}: config {arguments}");
            }
        }
    }
}

#[test]
fn an_invalid_configuration_is_one_line_and_exit_code_2() {
    let folder = TempDir::new().unwrap();
    for (lines, named) in [
        ("leese = \"5s\"\n", "a.toml:1: `leese` is not a flag of `rollcall serve`: did you mean `lease`?\n"),
        ("identity = \"query\"\nlease = \"1ms\"\n", "a.toml:2: invalid value '1ms' for '--lease <DURATION>'"),
        ("identity = \"query\"\ntls-key = \"a\"\n", "--tls-key needs --tls-cert, which is missing (--tls-key is in "),
    ] {
        let file = private(folder.path(), "a.toml", lines);
        for command in ["serve", "config"] {
            let output = program().args([command, "--config"]).arg(&file).output().unwrap();
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert!(text.contains(named) && output.stdout.is_empty(), "{text}");
        }
    }
    let refused = program().args(["serve", "--identity=query"]).env("ROLLCALL_TLS_KEY", "a").output().unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert!(text.ends_with("which is missing (--tls-key is ROLLCALL_TLS_KEY)\n"), "{text}");
}

#[tokio::test]
async fn a_node_runs_with_a_configuration_file() {
    let folder = TempDir::new().unwrap();
    let lines = ["listen", "mesh-listen", "admin-listen"].map(|flag| format!("{flag} = \"127.0.0.1:0\"\n")).concat();
    let lines = format!("identity = \"query\"\nnode-name = \"of-the-file\"\nmesh-open = true\n{lines}");
    let node = Process::launch(program().arg("serve").arg("--config").arg(private(folder.path(), "a.toml", &lines)));
    node.is_ready().await;
    let told = reqwest::get(format!("http://{}/Maths/rollcall", node.public)).await.unwrap().text().await.unwrap();
    assert!(told.contains("\"of-the-file\""), "{told}");
}

#[test]
fn every_line_of_the_example_file_works() {
    let example = repository().join("deploy/rollcall.toml");
    told(&program().arg("config").arg("--config").arg(&example).output().unwrap());
    let folder = TempDir::new().unwrap();
    let text = fs::read_to_string(&example).unwrap();
    let is_setting = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let lines = text.lines().map(|line| line.strip_prefix("# ").filter(|line| is_setting(line)).unwrap_or(line));
    let all: Vec<&str> = lines.collect();
    assert!(all.iter().filter(|line| is_setting(line)).count() > 15, "the example has settings");
    let file = private(folder.path(), "a.toml", &all.join("\n"));
    told(&program().arg("config").arg("--config").arg(&file).output().unwrap());
    let mode = fs::metadata(&example).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0, "the example is not executable");
}

#[test]
fn shells_accept_the_completions() {
    for (shell, least) in [("bash", 10_000), ("zsh", 10_000), ("fish", 5_000), ("elvish", 5_000), ("powershell", 5_000)]
    {
        let script = told(&program().args(["completions", shell]).output().unwrap());
        assert!(script.len() > least && script.contains("mesh-listen"), "{shell}: {} bytes", script.len());
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            let output = bash.wait_with_output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            // The completions after two presses of the tab key.
            let complete = "COMP_WORDS=(rollcall serve --mesh-l); COMP_CWORD=2; _rollcall rollcall --mesh-l serve; echo ${COMPREPLY[@]}";
            let output = Command::new("bash").arg("-c").arg(format!("{script}\n{complete}")).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "--mesh-listen");
        }
    }
}

#[test]
fn every_command_has_a_valid_manual_page() {
    let folder = TempDir::new().unwrap();
    let mut command = program();
    // The pages must not contain values of the environment in which the command runs.
    command.env("ROLLCALL_REDIS", "redis://:hunter2@a").env("ROLLCALL_NODE_NAME", "hunter2").arg("man");
    told(&command.arg("--out").arg(folder.path()).output().unwrap());
    let commands: Vec<String> = Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let pages = commands.iter().map(|name| format!("rollcall-{name}.1")).chain(["rollcall.1".to_owned()]);
    let pages: Vec<PathBuf> = pages.map(|name| folder.path().join(name)).collect();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), pages.len());
    for page in &pages {
        let groff = Command::new("groff").args(["-man", "-ww", "-k", "-Tutf8"]).arg(page).output();
        let groff = groff.expect("groff is needed for the tests; `make tools` installs it");
        assert!(groff.status.success() && groff.stderr.is_empty(), "{}", String::from_utf8_lossy(&groff.stderr));
        assert!(!String::from_utf8_lossy(&groff.stdout).contains("hunter2"), "{}", page.display());
    }
    let serve = told(&program().args(["man", "serve"]).output().unwrap());
    assert_eq!(serve, fs::read_to_string(folder.path().join("rollcall-serve.1")).unwrap());
    assert!(serve.contains("ROLLCALL_MESH_LISTEN"));
    let refused = program().args(["man", "nothing"]).output().unwrap();
    assert!(!refused.status.success() && refused.stdout.is_empty());
}
