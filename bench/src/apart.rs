//! Processes apart: this program started again, and told line by line what to do.
//!
//! Owns both ends of the talk: an order is one line, its answer any number of lines and then `done`, or `failed` and why.
//! A process apart ends when nobody gives orders any more.

use std::env;
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const DONE: &str = "done";
const FAILED: &str = "failed ";

/// A process apart, killed when this is dropped.
pub struct Apart {
    process: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Apart {
    /// Starts one with these arguments.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let orders = process.stdin.take().context("its input is piped")?;
        let answers = BufReader::new(process.stdout.take().context("its output is piped")?).lines();
        Ok(Self { process, orders, answers })
    }

    /// Gives an order. Returns the lines of its answer.
    ///
    /// # Errors
    /// Why it could not be carried out.
    pub async fn order(&mut self, order: &str) -> Result<Vec<String>> {
        self.orders.write_all(format!("{order}\n").as_bytes()).await?;
        let mut answer = Vec::new();
        while let Some(line) = self.answers.next_line().await? {
            if line == DONE {
                return Ok(answer);
            }
            if let Some(why) = line.strip_prefix(FAILED) {
                bail!("{why}");
            }
            answer.push(line);
        }
        bail!("a process apart has ended")
    }

    /// No more orders: it ends, and this when it has.
    ///
    /// # Errors
    /// When it fails.
    pub async fn end(mut self) -> Result<()> {
        drop(self.orders);
        let status = self.process.wait().await?;
        ensure!(status.success(), "a process apart ended with {status}");
        Ok(())
    }

    /// Its process id.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> Result<u32> {
        self.process.id().context("a process apart has ended")
    }
}

/// Carries out orders until there are no more. `carry_out` gets the order and what follows it on its line.
///
/// # Errors
/// When orders cannot be read or answered.
pub async fn obey(mut carry_out: impl AsyncFnMut(&str, &str) -> Result<Vec<String>>) -> Result<()> {
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    let mut answers = tokio::io::stdout();
    while let Some(line) = orders.next_line().await? {
        let (order, about) = line.split_once(' ').unwrap_or((&line, ""));
        let mut answer = match carry_out(order, about).await {
            Ok(mut answer) => {
                answer.push(DONE.to_owned());
                answer.join("\n")
            }
            Err(error) => format!("{FAILED}{error:#}").replace('\n', " "),
        };
        answer.push('\n');
        answers.write_all(answer.as_bytes()).await?;
        answers.flush().await?;
    }
    Ok(())
}
