//! `rollcall users`: the roll call of a room, a line for each socket, and a last line with its completeness.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use crate::commands::args::AdminTarget;
use crate::commands::args::values::room;
use crate::commands::process::{CommandOutput, escaped_line, finish, json};
use crate::names::Room;
use crate::roll_call::document::{RollCallDocument, UNKNOWN_NODES};

#[derive(Debug, Args)]
pub struct UsersArgs {
    /// Name of the room
    #[arg(value_name = "ROOM", value_parser = room)]
    pub room: Room,

    #[command(flatten)]
    pub target: AdminTarget,

    /// Print one line of JSON: the answer of `/_/rooms/{room}`
    #[arg(long)]
    pub json: bool,
}

/// Runs the subcommand. The exit code says whether the answer is complete.
pub(super) async fn run(args: &UsersArgs) -> ExitCode {
    let output = ask(args).await.and_then(|roll| {
        let success = roll.complete;
        let text = if args.json { json(&roll)? } else { table(&roll) };
        Ok(CommandOutput { text, success })
    });
    finish(output)
}

async fn ask(args: &UsersArgs) -> Result<RollCallDocument<'static>, String> {
    args.target.client()?.roll_call(&args.room).await
}

/// The sockets, sorted by user, and the last line.
fn table(roll: &RollCallDocument<'_>) -> String {
    let mut rows: Vec<[String; 3]> = roll
        .users
        .iter()
        .map(|user| [&user.id_socket, &user.id_user, &user.node].map(|name| escaped_line(name)))
        .collect();
    rows.sort_by(|one, next| (&one[1], &one[0]).cmp(&(&next[1], &next[0])));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (sockets, users) = (width(0), width(1));
    let mut text = String::new();
    for [socket, user, node] in &rows {
        line(&mut text, format_args!("{socket:sockets$}  {user:users$}  {node}"));
    }
    line(&mut text, format_args!("{}", completeness(roll)));
    text
}

fn completeness(roll: &RollCallDocument<'_>) -> String {
    let people = roll.users.iter().map(|user| &user.id_user).collect::<HashSet<_>>().len();
    let counted = format!("{}, {}", counted(roll.users.len(), "socket"), counted(people, "user"));
    if roll.complete {
        return format!("complete: {counted}");
    }
    let silent = roll.nodes.iter().filter_map(|node| Some((node, node.error.as_ref()?)));
    let silent: Vec<_> = silent.map(|(node, why)| escaped_line(&format!("{} ({why})", node.name))).collect();
    let reason = match silent.is_empty() {
        true => UNKNOWN_NODES.to_owned(),
        false => format!("no answer from {}", silent.join(", ")),
    };
    let unresolved = roll.unresolved.map_or_else(|| "an unknown number of sockets".to_owned(), counted_sockets);
    format!("incomplete: {counted}; {reason}; {unresolved} unresolved")
}

fn counted_sockets(sockets: u64) -> String {
    usize::try_from(sockets).map_or_else(|_| format!("{sockets} sockets"), |sockets| counted(sockets, "socket"))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes any text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roll_call::document::{LocatedSocketDocument, NodeDocument};

    fn roll(complete: bool, unresolved: Option<u64>, error: Option<&str>) -> RollCallDocument<'static> {
        let user = |id_socket: &'static str, id_user: &'static str| LocatedSocketDocument {
            id_socket: id_socket.into(),
            id_user: id_user.into(),
            node: "node-1".into(),
        };
        let node = NodeDocument {
            id: "1".into(),
            name: "node-2".into(),
            vouched: 0,
            unchanged: false,
            error: error.map(|error| error.to_owned().into()),
            took_ms: 1.0,
        };
        RollCallDocument {
            room: "a".into(),
            complete,
            as_of: "now".into(),
            took_ms: 1.0,
            source: "directory".into(),
            nodes: vec![node],
            unresolved,
            users: vec![user("s-10", "foo"), user("s-2", "b\x1bar"), user("s-1", "foo")],
        }
    }

    #[test]
    fn the_last_line_reports_the_completeness() {
        let lines = "s-2   b\\u{1b}ar  node-1\ns-1   foo        node-1\ns-10  foo        node-1\n";
        assert_eq!(table(&roll(true, Some(0), None)), format!("{lines}complete: 3 sockets, 2 users\n"));
        let last = "incomplete: 3 sockets, 2 users; no answer from node-2 (deadline); 1 socket unresolved\n";
        assert_eq!(table(&roll(false, Some(1), Some("deadline"))), format!("{lines}{last}"));
        let last = "incomplete: 3 sockets, 2 users; the directory could not be read, or the node does not know all nodes yet; an unknown number of sockets unresolved\n";
        assert_eq!(table(&roll(false, None, None)), format!("{lines}{last}"));
    }
}
