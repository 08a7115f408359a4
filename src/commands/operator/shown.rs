//! What others say, made into text that a terminal takes for nothing more.
//!
//! Owns what is escaped: control characters, and those that turn the direction of what follows or cannot be seen. Names
//! cannot have the former, but who knows what answers.

use std::fmt::Write as _;

use serde::Serialize;

/// The text, with what is escaped written as in `\u{202e}`.
pub fn one_line(text: &str) -> String {
    escaped(text, |shown, char| write!(shown, "\\u{{{:x}}}", u32::from(char)))
}

/// One line of JSON. What is escaped is so by the rules of JSON: it is the same value.
///
/// # Errors
/// When it cannot be written down, which is a bug.
pub fn json(value: &impl Serialize) -> Result<String, String> {
    let text = serde_json::to_string(value).map_err(|error| error.to_string())?;
    // Outside of strings JSON has none of these, and all of them have 16 bits but for the tags.
    let mut text = escaped(&text, |shown, char| {
        let mut units = [0; 2];
        char.encode_utf16(&mut units).iter().try_for_each(|unit| write!(shown, "\\u{unit:04x}"))
    });
    text.push('\n');
    Ok(text)
}

/// At most so many characters; of what is longer the middle is left out.
pub fn shortened(text: &str, most: usize) -> String {
    let text = one_line(text);
    let length = text.chars().count();
    if length <= most {
        return text;
    }
    let kept = most.saturating_sub(1);
    let begin: String = text.chars().take(kept.div_ceil(2)).collect();
    let end: String = text.chars().skip(length - kept / 2).collect();
    format!("{begin}…{end}")
}

fn escaped(text: &str, escape: impl Fn(&mut String, char) -> std::fmt::Result) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if is_more_than_text(char) {
            escape(&mut shown, char).expect("a String takes any text");
        } else {
            shown.push(char);
        }
    }
    shown
}

fn is_more_than_text(char: char) -> bool {
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
    fn nothing_that_a_terminal_obeys_or_that_turns_the_text_around_is_left() {
        assert_eq!(one_line("a\x1b[2Jb\nc\u{9b}d"), "a\\u{1b}[2Jb\\u{a}c\\u{9b}d");
        assert_eq!(one_line("abc\u{202e}cba"), "abc\\u{202e}cba");
        assert_eq!(one_line("café au lait 数学 👋"), "café au lait 数学 👋");
    }

    #[test]
    fn escaped_json_is_the_same_value() {
        let value = "a\x1b\u{9b}\u{202e}\u{e0041}\"\\\n";
        let text = json(&value).unwrap();
        assert!(!text.trim_end().chars().any(is_more_than_text), "{text:?}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn what_is_too_long_keeps_its_ends() {
        assert_eq!(shortened("node-1", 6), "node-1");
        assert_eq!(shortened("rollcall-frankfurt-node-17", 12), "rollca…de-17");
        assert_eq!(shortened("é".repeat(100).as_str(), 5), "éé…éé");
    }
}
