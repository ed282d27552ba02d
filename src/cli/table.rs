//! Plain tables.

use crate::cni::text::is_deceptive;

/// Formats rows under headings, with columns as wide as their content.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        line.trim_end().to_owned() + "\n"
    };
    let mut text = line(&mut headings.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Text for one cell, without characters that could change how a terminal shows the rest.
pub(super) fn cell(text: &str) -> String {
    text.chars().map(|c| if is_deceptive(c) { '\u{fffd}' } else { c }).collect()
}

/// The same for a message, which may have several lines.
pub(super) fn message(text: &str) -> String {
    text.chars().map(|c| if is_deceptive(c) && c != '\n' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_change_how_the_rest_is_shown() {
        assert_eq!(cell("a\u{1b}[31m\u{202e}b\nä"), "a\u{fffd}[31m\u{fffd}b\u{fffd}ä");
    }
}
