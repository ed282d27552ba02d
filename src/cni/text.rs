//! Makes text from others safe to show and to pass on.

use std::fmt::Write as _;

/// Whether a character could change how a terminal shows the text around it: control characters, invisible characters, and those
/// that change the direction of writing.
pub fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with such characters escaped as in JSON.
pub fn escaped(text: &str) -> String {
    escaped_but(text, &[])
}

/// The same as [`escaped`], but line breaks and tabs are kept: a JSON string may contain them, and readers of errors expect them.
pub fn escaped_lines(text: &str) -> String {
    escaped_but(text, &['\n', '\t'])
}

fn escaped_but(text: &str, kept: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_deceptive(c) && !kept.contains(&c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(escaped, "\\u{unit:04x}");
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// The text, cut to at most `most` bytes, with a note about how much is missing.
pub fn shortened(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        let missing = text.len() - end;
        text.truncate(end);
        let _ = write!(text, "… ({missing} bytes more)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misleading_characters_are_escaped() {
        assert_eq!(escaped("a\u{202e}b\n\u{e0041}"), "a\\u202eb\\u000a\\udb40\\udc41");
        assert_eq!(escaped_lines("a\u{1b}[2J\n\tb"), "a\\u001b[2J\n\tb");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(shortened("short".into(), 5), "short");
        assert_eq!(shortened("aüü".into(), 4), "aü… (2 bytes more)");
    }
}
