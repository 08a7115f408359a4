//! What operators ask from a terminal: `rollcall status` and `rollcall users`.
//!
//! Owns the asking ([`remote`]) and the telling: [`table`] writes how the cluster is, [`mod@users`] who is in a room. Whatever
//! answers, it is bounded, and what it says is text on a terminal and nothing else ([`shown`]). How the cluster is, and
//! who is in a room, is known by the node that is asked.

pub mod remote;
pub mod shown;
pub mod table;
pub mod users;

use std::io::{self, IsTerminal as _, Write};
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::sleep;

use crate::commands::args::{Status, Users};
use shown::one_line;

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Clears the screen, and goes to its upper left corner.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// What is printed, and whether all is well.
pub struct Told {
    pub text: String,
    pub well: bool,
}

/// `rollcall status`.
pub async fn status(asked: &Status) -> ExitCode {
    loop {
        let told = remote::status(&asked.asked).await.and_then(|status| {
            let well = status.well;
            let text = if asked.json { shown::json(&status)? } else { table::of(&status) };
            Ok(Told { text, well })
        });
        if !asked.watch {
            return end(told);
        }
        if io::stdout().is_terminal() && !asked.json {
            let _ = io::stdout().write_all(CLEAR.as_bytes());
        }
        let said = match told {
            Ok(told) => print(&told.text),
            Err(why) => {
                complain(&why);
                Ok(())
            }
        };
        if said.is_err() {
            return ExitCode::FAILURE;
        }
        sleep(WATCH_EVERY).await;
    }
}

/// `rollcall users`.
pub async fn users(asked: &Users) -> ExitCode {
    let told = remote::roll(&asked.asked, &asked.room).await.and_then(|answer| {
        let well = answer.complete;
        let text = if asked.json { shown::json(&answer)? } else { users::of(&answer) };
        Ok(Told { text, well })
    });
    end(told)
}

fn end(told: Result<Told, String>) -> ExitCode {
    match told {
        Ok(Told { text, well }) if print(&text).is_ok() && well => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

/// Fails where nobody reads any more.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn complain(why: &str) {
    eprintln!("rollcall: {}", one_line(why));
}
