//! Output of the subcommands to a terminal, with foreign text made harmless.
//!
//! Owns the escaping of control characters, bidirectional overrides and invisible characters. Rollcall's names contain no
//! control characters, but another program may answer on the port of a node.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::Serialize;

/// The output of a command, and whether its exit code is 0.
pub(super) struct CommandOutput {
    pub(super) text: String,
    pub(super) success: bool,
}

/// Prints the output or the error, and returns the exit code.
pub(super) fn finish(output: Result<CommandOutput, String>) -> ExitCode {
    match output {
        Ok(CommandOutput { text, success }) if print(&text).is_ok() && success => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Fails when standard output is closed.
pub(super) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

pub(super) fn print_error(error: &str) {
    eprintln!("rollcall: {}", one_line(error));
}

/// Escapes as in `\u{202e}`.
pub(super) fn one_line(text: &str) -> String {
    escaped(text, |shown, char| write!(shown, "\\u{{{:x}}}", u32::from(char)))
}

/// One line of JSON, escaped by the rules of JSON, so that the value stays the same.
///
/// # Errors
/// When the value cannot be serialised, which is a bug.
pub(super) fn json(value: &impl Serialize) -> Result<String, String> {
    let text = serde_json::to_string(value).map_err(|error| error.to_string())?;
    // JSON contains these characters only inside strings. Tag characters (U+E0000) need a surrogate pair.
    let mut text = escaped(&text, |shown, char| {
        let mut units = [0; 2];
        char.encode_utf16(&mut units).iter().try_for_each(|unit| write!(shown, "\\u{unit:04x}"))
    });
    text.push('\n');
    Ok(text)
}

/// At most `max` characters; a longer text loses its middle.
pub(super) fn shortened(text: &str, max: usize) -> String {
    let text = one_line(text);
    let length = text.chars().count();
    if length <= max {
        return text;
    }
    let kept = max.saturating_sub(1);
    let begin: String = text.chars().take(kept.div_ceil(2)).collect();
    let end: String = text.chars().skip(length - kept / 2).collect();
    format!("{begin}…{end}")
}

fn escaped(text: &str, escape: impl Fn(&mut String, char) -> std::fmt::Result) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if needs_escape(char) {
            escape(&mut shown, char).expect("a String takes any text");
        } else {
            shown.push(char);
        }
    }
    shown
}

fn needs_escape(char: char) -> bool {
    let invisible = matches!(
        char,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
    );
    char.is_control() || invisible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidirectional_characters_are_escaped() {
        assert_eq!(one_line("a\x1b[2Jb\nc\u{9b}d"), "a\\u{1b}[2Jb\\u{a}c\\u{9b}d");
        assert_eq!(one_line("abc\u{202e}cba"), "abc\\u{202e}cba");
        assert_eq!(one_line("café au lait 数学 👋"), "café au lait 数学 👋");
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let value = "a\x1b\u{9b}\u{202e}\u{e0041}\"\\\n";
        let text = json(&value).unwrap();
        assert!(!text.trim_end().chars().any(needs_escape), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn a_long_text_keeps_both_ends() {
        assert_eq!(shortened("node-1", 6), "node-1");
        assert_eq!(shortened("rollcall-frankfurt-node-17", 12), "rollca…de-17");
        assert_eq!(shortened("é".repeat(100).as_str(), 5), "éé…éé");
    }
}
