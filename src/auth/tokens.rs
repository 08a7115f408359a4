//! Named tokens of the API and of the admin port, from a file.
//!
//! Owns the format of the file, and a comparison in constant time, so that its duration reveals nothing about a token. Keeps
//! only the hash of each token. Performs no I/O.

use std::collections::HashSet;
use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use thiserror::Error;

use super::error::MAX_TOKEN_BYTES;
use super::secret_lines::secret_lines;
use crate::names::NodeName;

const MIN_TOKEN_BYTES: usize = 16;
/// Every request compares its token with all tokens of the file.
const MAX_TOKENS: usize = 1000;

/// The fault of a file of tokens. Names the line, and never contains its contents.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    #[error("line {0} is not `<name>: <token>`")]
    Line(usize),
    #[error("the name in line {0} must have 1 to 64 letters, digits, `.`, `_` and `-`")]
    Name(usize),
    #[error("the token in line {0} has fewer than 16 characters (`openssl rand -base64 32` makes one)")]
    TooShort(usize),
    #[error("the token in line {0} has more than 8192 characters")]
    TooLong(usize),
    #[error("the token in line {0} may only have letters, digits and `-._~+/`, and `=` at its end")]
    Alphabet(usize),
    #[error("the name in line {0} occurs twice")]
    NameTwice(usize),
    #[error("the token in line {0} occurs twice, under different names")]
    TokenTwice(usize),
    #[error("the file has no token")]
    Empty,
    #[error("the file has more than {MAX_TOKENS} tokens")]
    TooMany,
    #[error("the file is not UTF-8")]
    NotUtf8,
}

/// A token that this process presents to another one. Its `Debug` hides the token.
pub struct Secret(String);

/// The hashes of tokens, each with the name of its holder.
#[derive(Default)]
pub struct NamedTokens(Vec<NamedToken>);

struct NamedToken {
    name: String,
    hash: [u8; 32],
}

impl NamedTokens {
    /// Parses lines `<name>: <token>`; the colon is optional. See [`secret_lines`] for empty lines and comments.
    ///
    /// # Errors
    /// When the file has no token, or any line is invalid: the file is accepted as a whole or not at all.
    pub fn parse(contents: &[u8]) -> Result<Self, Error> {
        let lines = secret_lines(contents).map_err(|_| Error::NotUtf8)?;
        let (mut names, mut hashes, mut tokens) = (HashSet::new(), HashSet::new(), Vec::new());
        for (number, line) in lines {
            let (name, token) = split(line).ok_or(Error::Line(number))?;
            NodeName::parse(name).map_err(|_| Error::Name(number))?;
            match token.len() {
                ..MIN_TOKEN_BYTES => return Err(Error::TooShort(number)),
                MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES if is_bearer(token) => {}
                MIN_TOKEN_BYTES..=MAX_TOKEN_BYTES => return Err(Error::Alphabet(number)),
                _ => return Err(Error::TooLong(number)),
            }
            let hash = hash(token);
            if !names.insert(name) {
                return Err(Error::NameTwice(number));
            }
            if !hashes.insert(hash) {
                return Err(Error::TokenTwice(number));
            }
            tokens.push(NamedToken { name: name.to_owned(), hash });
        }
        match tokens.len() {
            0 => Err(Error::Empty),
            1..=MAX_TOKENS => Ok(Self(tokens)),
            _ => Err(Error::TooMany),
        }
    }

    /// The name of a token; `None` for an unknown token.
    pub fn name_of(&self, token: &str) -> Option<&str> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let hash = hash(token);
        // Compares with every token, also after a match: the duration must not depend on the token.
        let (mut known, mut match_index) = (Choice::from(0), 0_u32);
        for (index, token) in (0..).zip(&self.0) {
            let same = token.hash.ct_eq(&hash);
            match_index.conditional_assign(&index, same);
            known |= same;
        }
        let found = self.0.get(match_index as usize).filter(|_| known.into());
        found.map(|token| token.name.as_str())
    }
}

impl Secret {
    /// The first token of a file that [`NamedTokens::parse`] accepts.
    ///
    /// # Errors
    /// The errors of [`NamedTokens::parse`].
    pub fn first_of(contents: &[u8]) -> Result<Self, Error> {
        NamedTokens::parse(contents)?;
        let mut lines = secret_lines(contents).map_err(|_| Error::NotUtf8)?;
        let token = lines.find_map(|(_, line)| split(line)).map(|(_, token)| Self(token.to_owned()));
        token.ok_or(Error::Empty)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

fn split(line: &str) -> Option<(&str, &str)> {
    line.split_once([':', ' ', '\t']).map(|(name, token)| (name.trim(), token.trim()))
}

/// Whether the token has the syntax `b64token` of RFC 6750, so that it fits into an `Authorization` header.
fn is_bearer(token: &str) -> bool {
    let token = token.trim_end_matches('=');
    !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AAAAAAAAAAAAAAAA";
    const OTHER: &str = "abc-._~+/0123456789==";

    #[test]
    fn each_line_is_a_name_and_a_token() {
        let file = format!("# who may ask\r\n\r\n  dashboard: {ONE}\r\nbilling\t{OTHER}\nops:{ONE}2\n");
        let tokens = NamedTokens::parse(file.as_bytes()).unwrap();
        assert_eq!(tokens.name_of(ONE), Some("dashboard"));
        assert_eq!(tokens.name_of(OTHER), Some("billing"));
        assert_eq!(tokens.name_of(&format!("{ONE}2")), Some("ops"));
        for wrong in ["", "dashboard", &ONE[1..], &format!("{ONE} "), &"A".repeat(MAX_TOKEN_BYTES + 1)] {
            assert_eq!(tokens.name_of(wrong), None, "{wrong}");
        }
        let shown = Secret::first_of(file.as_bytes()).unwrap();
        assert_eq!((shown.expose(), format!("{shown:?}")), (ONE, "Secret(…)".to_owned()));
        assert_eq!(Secret::first_of(b"# nobody\n").err(), Some(Error::Empty));
    }

    #[test]
    fn errors_name_the_line_and_contain_none_of_its_contents() {
        let good = format!("ok: {ONE}\n");
        for (line, error) in [
            ("hushhushhushhushhush".to_owned(), Error::Line(2)),
            (format!("two words: {OTHER}"), Error::Alphabet(2)),
            (format!("caf\u{e9}: {OTHER}"), Error::Name(2)),
            (format!(": {OTHER}"), Error::Name(2)),
            ("short: hushhushhushhus".to_owned(), Error::TooShort(2)),
            (format!("long: {}", "A".repeat(MAX_TOKEN_BYTES + 1)), Error::TooLong(2)),
            ("odd: hushhushhush\"hush".to_owned(), Error::Alphabet(2)),
            ("odd: ================".to_owned(), Error::Alphabet(2)),
            (format!("ok: {OTHER}"), Error::NameTwice(2)),
            (format!("again: {ONE}"), Error::TokenTwice(2)),
        ] {
            let refused = NamedTokens::parse(format!("{good}{line}\n").as_bytes()).err().expect("it is refused");
            assert_eq!(refused, error, "{line}");
            assert!(!refused.to_string().contains("hush"), "{refused}");
        }
        assert_eq!(NamedTokens::parse(b"# nobody\n\n").err(), Some(Error::Empty));
        assert_eq!(NamedTokens::parse(b"a: \xff").err(), Some(Error::NotUtf8));
        let many: String = (0..=MAX_TOKENS).map(|number| format!("n{number}: {number:020}\n")).collect();
        assert_eq!(NamedTokens::parse(many.as_bytes()).err(), Some(Error::TooMany));
    }
}
