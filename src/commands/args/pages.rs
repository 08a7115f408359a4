//! What a package of the program has beside it, made from what clap knows of the command line: completions for shells,
//! and pages of the manual.
//!
//! Owns their commands. Nothing of them is written by hand, so they say what `--help` says.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

#[derive(Debug, Args)]
pub struct Completions {
    /// The shell that they are for
    shell: Shell,
}

#[derive(Debug, Args)]
pub struct Manual {
    /// The command that the page is about. Unless told otherwise: about all of them
    #[arg(value_name = "COMMAND", conflicts_with = "out")]
    command: Option<String>,

    /// Write all pages into this folder, one for each command, instead of one to standard output
    #[arg(long, env = "ROLLCALL_MAN_OUT", value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Completions {
    pub fn make(&self) -> Vec<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "rollcall", &mut script);
        script
    }
}

impl Manual {
    /// The page, or nothing where pages are written.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn make(&self) -> anyhow::Result<Vec<u8>> {
        let mut all = Cli::command().disable_help_subcommand(true);
        all.build();
        if let Some(out) = &self.out {
            let context = || format!("--out: {}", out.display());
            fs::create_dir_all(out).with_context(context)?;
            clap_mangen::generate_to(Cli::command(), out).with_context(context)?;
            return Ok(Vec::new());
        }
        let about = match &self.command {
            Some(name) => all.find_subcommand(name).with_context(|| format!("there is no command {name}"))?,
            None => &all,
        };
        let mut page = Vec::new();
        Man::new(about.clone()).render(&mut page)?;
        Ok(page)
    }
}
