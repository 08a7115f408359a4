//! Worker processes: this program, started again with a hidden subcommand.
//!
//! Owns both ends of their protocol. A command is one line on stdin. The reply is any number of lines on stdout, then
//! `done`, or `failed` with the reason. A worker ends when its stdin is closed.

use std::env;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const DONE: &str = "done";
const FAILED: &str = "failed ";

/// Killed when this is dropped.
pub struct Worker {
    process: Child,
    commands: ChildStdin,
    replies: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// # Errors
    /// When the process does not start.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let commands = process.stdin.take().context("its input is piped")?;
        let replies = BufReader::new(process.stdout.take().context("its output is piped")?).lines();
        Ok(Self { process, commands, replies })
    }

    /// Returns the lines of the reply.
    ///
    /// # Errors
    /// The reason that the worker gives, or that it has ended.
    pub async fn send(&mut self, command: &str) -> Result<Vec<String>> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        let mut reply = Vec::new();
        while let Some(line) = self.replies.next_line().await? {
            if line == DONE {
                return Ok(reply);
            }
            if let Some(reason) = line.strip_prefix(FAILED) {
                bail!("{reason}");
            }
            reply.push(line);
        }
        bail!("a worker process has ended")
    }

    /// Closes the input of the worker, and waits until the process has ended.
    ///
    /// # Errors
    /// When the worker fails.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.commands);
        let status = self.process.wait().await?;
        ensure!(status.success(), "a worker process ended with {status}");
        Ok(())
    }

    /// # Errors
    /// When the worker has ended.
    pub fn pid(&self) -> Result<u32> {
        self.process.id().context("a worker process has ended")
    }
}

/// Runs the commands on stdin until it is closed. `run` gets the first word of a command, and the rest of its line.
///
/// # Errors
/// When stdin or stdout fails. An error of `run` is sent as a reply.
pub async fn serve_commands(mut run: impl AsyncFnMut(&str, &str) -> Result<Vec<String>>) -> Result<()> {
    let mut commands = BufReader::new(tokio::io::stdin()).lines();
    let mut replies = tokio::io::stdout();
    while let Some(line) = commands.next_line().await? {
        let (command, arguments) = line.split_once(' ').unwrap_or((&line, ""));
        let mut reply = match run(command, arguments).await {
            Ok(mut reply) => {
                reply.push(DONE.to_owned());
                reply.join("\n")
            }
            Err(error) => format!("{FAILED}{error:#}").replace('\n', " "),
        };
        reply.push('\n');
        replies.write_all(reply.as_bytes()).await?;
        replies.flush().await?;
    }
    Ok(())
}
