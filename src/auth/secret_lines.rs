//! The lines of a file with secrets: tokens, named tokens, headers.
//!
//! Owns the line format: spaces at both ends, empty lines, and lines that begin with `#` are ignored. Owns no meaning of a
//! line, and logs none.

use std::str::Utf8Error;

/// The lines with content, each with its line number, from 1.
///
/// # Errors
/// When the file is not UTF-8.
pub(crate) fn secret_lines(contents: &[u8]) -> Result<impl Iterator<Item = (usize, &str)>, Utf8Error> {
    let lines = (1..).zip(str::from_utf8(contents)?.lines().map(str::trim));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')))
}
