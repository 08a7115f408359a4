//! The shared token of the mesh, in a file with one token on each line.
//!
//! Owns the file format and the constant-time comparison. A node sends the first token and accepts all of them. To rotate
//! without rejected calls: add the new token on every node, move it to the first line on every node, then remove the old
//! one. Logs and errors never contain a token.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use subtle::{Choice, ConstantTimeEq as _};
use tonic::codegen::http::header::HeaderValue;

use crate::auth::reload::Reloadable;
use crate::auth::secret_lines::secret_lines;

/// Shorter tokens could be guessed.
const MIN_TOKEN_BYTES: usize = 32;
const MAX_TOKEN_BYTES: usize = 1024;
const SCHEME: &str = "Bearer ";

/// The tokens of one version of the file, at least one.
pub struct MeshTokens {
    /// Each with the scheme, as in the header.
    accepted: Vec<String>,
    first: HeaderValue,
}

impl MeshTokens {
    /// # Errors
    /// When the file cannot be read, or has no token.
    pub fn watch(file: PathBuf) -> anyhow::Result<Reloadable<Self>> {
        Reloadable::open(vec![file.clone()], move |contents| Self::read(&file, &contents[0]))
    }

    fn read(file: &Path, contents: &[u8]) -> anyhow::Result<Self> {
        let file = file.display();
        let lines = secret_lines(contents).with_context(|| format!("{file} is not UTF-8"))?;
        let mut accepted = Vec::new();
        for (number, token) in lines {
            ensure!(
                token.len() >= MIN_TOKEN_BYTES,
                "the token in line {number} of {file} is too short: at least {MIN_TOKEN_BYTES} characters, as \
                 `openssl rand -hex 32` makes them"
            );
            ensure!(
                token.len() <= MAX_TOKEN_BYTES && token.bytes().all(|byte| byte.is_ascii_graphic()),
                "line {number} of {file} is not a valid token: at most {MAX_TOKEN_BYTES} ASCII characters, without spaces"
            );
            accepted.push(format!("{SCHEME}{token}"));
        }
        let first = accepted.first().with_context(|| format!("no token in {file}: put one on each line"))?;
        let mut first = HeaderValue::try_from(first).context("the token is not valid in a header")?;
        first.set_sensitive(true);
        Ok(Self { accepted, first })
    }

    /// The `authorization` header of each call.
    pub fn bearer(&self) -> HeaderValue {
        self.first.clone()
    }

    /// Whether this header has an accepted token. The duration depends on the length of the header only.
    pub fn accepts(&self, header: &[u8]) -> bool {
        let found = self.accepted.iter().fold(Choice::from(0), |found, token| found | token.as_bytes().ct_eq(header));
        found.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "11111111111111111111111111111111";
    const OTHER: &str = "22222222222222222222222222222222";

    fn read(contents: &str) -> anyhow::Result<MeshTokens> {
        MeshTokens::read(Path::new("/mesh.token"), contents.as_bytes())
    }

    #[test]
    fn the_first_token_is_sent_and_all_are_accepted() {
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
            assert_eq!(tokens.accepts(given.as_bytes()), accepted, "{given}");
        }
    }

    #[test]
    fn a_file_without_valid_tokens_is_rejected_and_not_quoted() {
        for (contents, expected) in [
            (String::new(), "no token in /mesh.token"),
            ("# nothing\n".to_owned(), "no token in /mesh.token"),
            (format!("{ONE}\nhunter2\n"), "line 2 of /mesh.token is too short"),
            (format!("{ONE} {OTHER}"), "line 1 of /mesh.token is not a valid token"),
            ("é".repeat(40), "line 1 of /mesh.token is not a valid token"),
            (ONE.repeat(33), "line 1 of /mesh.token is not a valid token"),
        ] {
            let error = format!("{:#}", read(&contents).err().expect("the file is invalid"));
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains("hunter2") && !error.contains(ONE), "{error}");
        }
    }
}
