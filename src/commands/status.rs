//! `rollcall status`: the state of the cluster, as JSON or as a table of at most 100 columns.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use crate::commands::args::AdminTarget;
use crate::commands::process::{CommandOutput, escaped_line, finish, json, print, print_error, shortened};
use crate::status::{BusyRoom, ClusterStatus, LastMinute, NodeRow, ReportedDetails};

/// The interval of `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// ANSI: cursor to the upper left corner, erase the screen and the scrollback.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J\x1b[3J";
/// The busiest rooms in the table.
const ROOM_ROWS: usize = 5;
const NAME_COLUMNS: usize = 28;
const ROOM_COLUMNS: usize = 60;

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub target: AdminTarget,

    /// Print one line of JSON: the answer of `/_/status`
    #[arg(long)]
    pub json: bool,

    /// Repeat every two seconds until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// Runs the subcommand. With `--watch` it ends at Ctrl-C, or when standard output is closed.
pub(super) async fn run(args: &StatusArgs) -> ExitCode {
    loop {
        let output = ask(args).await.and_then(|status| {
            let success = status.well;
            let text = if args.json { json(&status)? } else { table(&status) };
            Ok(CommandOutput { text, success })
        });
        if !args.watch {
            return finish(output);
        }
        if io::stdout().is_terminal() && !args.json {
            let _ = io::stdout().write_all(CLEAR_SCREEN.as_bytes());
        }
        let printed = match output {
            Ok(output) => print(&output.text),
            Err(error) => {
                print_error(&error);
                Ok(())
            }
        };
        if printed.is_err() {
            return ExitCode::FAILURE;
        }
        sleep(WATCH_INTERVAL).await;
    }
}

async fn ask(args: &StatusArgs) -> Result<ClusterStatus, String> {
    args.target.client()?.cluster_status().await
}

/// The nodes, the totals, and the busiest rooms.
fn table(status: &ClusterStatus) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| {
        writeln!(text, "{}", line.to_string().trim_end()).expect("a String takes any text");
    };
    line(format_args!(
        "{:NAME_COLUMNS$} {:14} {:>8} {:>7} {:>8} {:>8} {:>6} {:>7} {:>6}",
        "NODE", "STATE", "SOCKETS", "ROOMS", "CALLS/S", "P99", "LEASE", "RTT", "UP"
    ));
    for node in &status.nodes {
        let asked = if node.id == status.asked { " *" } else { "" };
        let name = format!("{}{asked}", shortened(&node.name, NAME_COLUMNS - asked.len()));
        match &node.report {
            Some(report) => line(format_args!("{name:NAME_COLUMNS$} {}", row(node, report, !asked.is_empty()))),
            None => line(format_args!("{name:NAME_COLUMNS$} {}", silence(node))),
        }
    }
    line(format_args!(""));
    line(format_args!("{}", summary(status)));
    if status.directory != "ok" {
        line(format_args!("The directory {}.", escaped_line(&status.directory)));
    }
    if !status.busiest_rooms.is_empty() {
        line(format_args!(""));
        line(format_args!("{:ROOM_COLUMNS$} {:>18} {:>6}", "BUSIEST ROOMS", "SOCKETS", "NODES"));
    }
    for room in status.busiest_rooms.iter().take(ROOM_ROWS) {
        line(format_args!(
            "{:ROOM_COLUMNS$} {:>18} {:>6}",
            shortened(&room.room, ROOM_COLUMNS),
            sockets(room),
            room.nodes
        ));
    }
    text
}

/// The word in the column STATE. "Isolated": the node has no lease and too few nodes confirmed it. "Not indexed": the
/// directory does not hold all of its rooms yet, so every roll call asks it.
fn state(report: &ReportedDetails) -> &'static str {
    match report {
        ReportedDetails { is_active: false, .. } => "isolated",
        ReportedDetails { draining: true, .. } => "draining",
        ReportedDetails { whole: false, .. } => "not indexed",
        _ => "healthy",
    }
}

fn row(node: &NodeRow, report: &ReportedDetails, is_asked: bool) -> String {
    let LastMinute { per_second, p99_ms, .. } = report.roll_calls.last_minute;
    let lease = match report.lease_left_ms {
        None => "none".to_owned(),
        Some(left) if left > 999_000 => ">999s".to_owned(),
        Some(left) => format!("{:.1}s", left as f64 / 1000.0),
    };
    let round_trip = if is_asked { "-".to_owned() } else { milliseconds(Some(node.round_trip_ms)) };
    format!(
        "{:14} {:>8} {:>7} {:>8} {:>8} {lease:>6} {round_trip:>7} {:>6}",
        state(report),
        short(report.sockets, 8),
        short(report.rooms, 7),
        rate(per_second),
        milliseconds(p99_ms),
        age(report.uptime_ms / 1000),
    )
}

fn silence(node: &NodeRow) -> String {
    let error = escaped_line(node.error.as_deref().unwrap_or("nothing"));
    if error == "older" {
        return "responds, but its version is too old to report its state".to_owned();
    }
    let heard = node.heard_ms.map_or_else(|| "never seen".to_owned(), |ms| format!("last seen {} ago", age(ms / 1000)));
    let lease = if node.leased { "leased" } else { "no lease" };
    let circuit = if node.circuit_open { ", circuit open" } else { "" };
    format!("not responding ({error}), {heard}, {lease}{circuit}")
}

fn summary(status: &ClusterStatus) -> String {
    let fine = status.nodes.iter().filter(|node| node.report.as_ref().is_some_and(|report| report.is_active)).count();
    let LastMinute { per_second, incomplete, p50_ms, p99_ms } = status.roll_calls.last_minute;
    let per_second = rate(per_second);
    format!(
        "{fine} of {} nodes respond and are active; {} sockets.\nIn the last minute: {per_second} roll calls/s, p50 {}, \
         p99 {}, {incomplete} incomplete.",
        status.nodes.len(),
        status.sockets,
        milliseconds(p50_ms),
        milliseconds(p99_ms),
    )
}

fn sockets(room: &BusyRoom) -> String {
    let sockets = short(room.sockets, 9);
    if room.most > room.sockets { format!("{sockets} or more") } else { sockets }
}

fn milliseconds(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 10_000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.0}s", ms / 1000.0),
    }
}

/// At most `columns` characters: a faulty node may report a number that no node can have.
fn short(count: u64, columns: usize) -> String {
    let text = count.to_string();
    if text.len() <= columns { text } else { format!("{:.1e}", count as f64) }
}

fn rate(per_second: f64) -> String {
    if per_second < 100_000.0 { format!("{per_second:.1}") } else { format!("{per_second:.1e}") }
}

/// The two largest units of a duration in seconds.
fn age(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if days > 9_999 => ">9999d".to_owned(),
        () if days > 99 => format!("{days}d"),
        () if days > 0 => format!("{days}d{}h", hours % 24),
        () if hours > 0 => format!("{hours}h{}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::RollCallSeries;

    fn calls(per_second: f64) -> RollCallSeries {
        RollCallSeries {
            bucket_ms: 5_000,
            until_ms: 0,
            calls: vec![],
            incomplete: vec![],
            p50_ms: vec![],
            p99_ms: vec![],
            last_minute: LastMinute { per_second, incomplete: 2, p50_ms: Some(0.42), p99_ms: None },
        }
    }

    fn node(name: &str, error: Option<&str>, report: Option<ReportedDetails>) -> NodeRow {
        NodeRow {
            id: name.into(),
            name: name.into(),
            mesh: "127.0.0.1:7001".into(),
            error: error.map(Into::into),
            round_trip_ms: 12.34,
            circuit_open: error == Some("deadline"),
            leased: true,
            heard_ms: Some(65_000),
            report,
        }
    }

    fn report() -> ReportedDetails {
        ReportedDetails {
            version: "0.1.0".into(),
            since: "then".into(),
            uptime_ms: 90_061_000,
            sockets: 12_345_678,
            rooms: 1_234_567,
            is_active: true,
            whole: true,
            draining: false,
            lease_left_ms: Some(4_321),
            roll_calls: calls(12_345.6),
        }
    }

    #[test]
    fn the_table_is_never_wider_than_a_hundred_columns() {
        let busy = BusyRoom { room: "r\x1b".repeat(100).into(), sockets: 123_456_789, most: 987_654_321, nodes: 1_000 };
        let status = ClusterStatus {
            well: false,
            as_of: "now".into(),
            took_ms: 1.0,
            asked: "node-1".into(),
            directory: "does not answer; roll calls ask every node".into(),
            sockets: 12_345_678,
            nodes: vec![
                node("node-1", None, Some(report())),
                node(&"x".repeat(64), None, Some(ReportedDetails { draining: true, lease_left_ms: None, ..report() })),
                node(
                    "liar",
                    None,
                    Some(ReportedDetails {
                        sockets: u64::MAX,
                        rooms: u64::MAX,
                        uptime_ms: u64::MAX,
                        lease_left_ms: Some(u64::MAX),
                        roll_calls: calls(u64::MAX as f64),
                        ..report()
                    }),
                ),
                node("lost", None, Some(ReportedDetails { is_active: false, ..report() })),
                node("new", None, Some(ReportedDetails { whole: false, ..report() })),
                node("hangs", Some("deadline"), None),
                node("old", Some("older"), None),
            ],
            busiest_rooms: vec![busy; 20],
            roll_calls: calls(12_345.6),
        };
        let text = table(&status);
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        assert!(!text.contains('\x1b'));
        for expected in [
            "node-1 *                     healthy        12345678 1234567  12345.6        -   4.3s       -   1d1h",
            "draining",
            "isolated",
            "not indexed",
            "not responding (deadline), last seen 1m5s ago, leased, circuit open",
            "responds, but its version is too old to report its state",
            "4 of 7 nodes respond and are active",
            "123456789 or more",
            "The directory does not answer",
        ] {
            assert!(text.contains(expected), "{expected}:\n{text}");
        }
        assert_eq!(text.matches("123456789 or more").count(), ROOM_ROWS);
    }
}
