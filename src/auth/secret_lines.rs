//! The lines of a file with secrets: tokens, named tokens, headers.
//!
//! Owns what is a line: spaces at both ends are ignored, and so are empty lines and lines that begin with `#`. Does not
//! know the content, and so cannot log it.

use std::str::Utf8Error;

/// The lines with content, each with its number in the file, from 1.
///
/// # Errors
/// When the file is not UTF-8.
pub(crate) fn secret_lines(contents: &[u8]) -> Result<impl Iterator<Item = (usize, &str)>, Utf8Error> {
    let lines = (1..).zip(str::from_utf8(contents)?.lines().map(str::trim));
    Ok(lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')))
}
