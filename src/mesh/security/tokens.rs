//! The tokens of the mesh: a secret that all nodes share, in a file with one on each line.
//!
//! Owns the file's form and the comparison, whose time tells nothing. The first token is the one that is sent, and all
//! are accepted: a new one is added everywhere, then put first everywhere, and then the old one is removed, so that no
//! call is refused meanwhile. A token never gets into a log or an error.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use subtle::{Choice, ConstantTimeEq as _};
use tonic::codegen::http::header::HeaderValue;

use crate::auth::reload::Watched;

/// The shortest token, in bytes: what is shorter can be guessed.
const TOKEN_LEAST: usize = 32;
const TOKEN_MOST: usize = 1024;
const SCHEME: &str = "Bearer ";

/// At least one.
pub struct Tokens {
    /// As they are sent.
    accepted: Vec<String>,
    first: HeaderValue,
}

impl Tokens {
    /// # Errors
    /// When the file cannot be read, or has no token.
    pub fn watch(file: PathBuf) -> anyhow::Result<Watched<Self>> {
        Watched::open(vec![file.clone()], move |contents| Self::read(&file, &contents[0]))
    }

    fn read(file: &Path, contents: &[u8]) -> anyhow::Result<Self> {
        let file = file.display();
        let text = str::from_utf8(contents).with_context(|| format!("{file} is not text"))?;
        let mut accepted = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let token = line.trim();
            if token.is_empty() || token.starts_with('#') {
                continue;
            }
            ensure!(
                token.len() >= TOKEN_LEAST,
                "the token in line {number} of {file} is too short: at least {TOKEN_LEAST} characters, as \
                 `openssl rand -hex 32` makes them"
            );
            ensure!(
                token.len() <= TOKEN_MOST && token.bytes().all(|byte| byte.is_ascii_graphic()),
                "line {number} of {file} is no token: at most {TOKEN_MOST} ASCII characters, without spaces"
            );
            accepted.push(format!("{SCHEME}{token}"));
        }
        let first = accepted.first().with_context(|| format!("there is no token in {file}: one on each line"))?;
        let mut first = HeaderValue::try_from(first).context("a token cannot be sent")?;
        first.set_sensitive(true);
        Ok(Self { accepted, first })
    }

    /// What goes with each call.
    pub fn bearer(&self) -> HeaderValue {
        self.first.clone()
    }

    /// Whether this came with a call, and is one of them. Takes as long for each that is of the same length.
    pub fn have(&self, given: &[u8]) -> bool {
        let found = self.accepted.iter().fold(Choice::from(0), |found, token| found | token.as_bytes().ct_eq(given));
        found.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "11111111111111111111111111111111";
    const OTHER: &str = "22222222222222222222222222222222";

    fn read(contents: &str) -> anyhow::Result<Tokens> {
        Tokens::read(Path::new("/mesh.token"), contents.as_bytes())
    }

    #[test]
    fn the_first_is_sent_and_all_are_accepted() {
        let tokens = read(&format!("# rotated in May\n\n  {ONE}\r\n{OTHER}\n")).unwrap();
        assert_eq!(tokens.bearer(), format!("Bearer {ONE}"));
        assert!(tokens.bearer().is_sensitive());
        for (given, accepted) in [
            (format!("Bearer {ONE}"), true),
            (format!("Bearer {OTHER}"), true),
            (format!("bearer {ONE}"), false),
            (ONE.to_owned(), false),
            (format!("Bearer {}", &ONE[1..]), false),
            (format!("Bearer {ONE}1"), false),
            ("Bearer # rotated in May".to_owned(), false),
            ("Bearer ".to_owned(), false),
            (String::new(), false),
        ] {
            assert_eq!(tokens.have(given.as_bytes()), accepted, "{given}");
        }
    }

    #[test]
    fn a_file_without_a_token_that_can_be_used_is_refused_without_repeating_it() {
        for (contents, said) in [
            (String::new(), "no token in /mesh.token"),
            ("# nothing\n".to_owned(), "no token in /mesh.token"),
            (format!("{ONE}\nhunter2\n"), "line 2 of /mesh.token is too short"),
            (format!("{ONE} {OTHER}"), "line 1 of /mesh.token is no token"),
            ("é".repeat(40), "line 1 of /mesh.token is no token"),
            (ONE.repeat(33), "line 1 of /mesh.token is no token"),
        ] {
            let error = format!("{:#}", read(&contents).err().expect("it is refused"));
            assert!(error.contains(said), "{error}");
            assert!(!error.contains("hunter2") && !error.contains(ONE), "{error}");
        }
    }
}
