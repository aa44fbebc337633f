//! What others wrote, inside of our messages.

/// The most characters that are repeated.
const MOST: usize = 100;

/// A text as a message may quote it: its beginning, if it is longer than any name there is, and control
/// characters as escapes, so that it stays on its line of the log.
#[must_use]
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len().min(4 * MOST));
    for (count, char) in text.chars().enumerate() {
        if count == MOST {
            quoted.push('…');
            break;
        }
        if char.is_control() {
            quoted.extend(char.escape_default());
        } else {
            quoted.push(char);
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_they_are() {
        assert_eq!(quote("memory.created"), "memory.created");
        assert_eq!(quote("größe \"x\" \\"), "größe \"x\" \\");
        assert_eq!(quote(&"é".repeat(100)), "é".repeat(100));
    }

    #[test]
    fn what_is_long_or_would_break_the_line_is_not() {
        assert_eq!(quote(&"é".repeat(101)), "é".repeat(100) + "…");
        assert_eq!(quote(&"x".repeat(1_000_000)).chars().count(), 101);
        assert_eq!(quote("a\nb\u{1b}[31m\u{85}"), "a\\nb\\u{1b}[31m\\u{85}");
    }
}
