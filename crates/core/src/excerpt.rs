//! What is kept of an answer: foreign bytes as text for the log.

/// Text that Postgres can store: UTF-8 without NUL, at most `most` bytes, cut at the end of a character.
///
/// What is not UTF-8 becomes U+FFFD; a character that is incomplete only because `bytes`, having `most`
/// of them, end there is left out.
#[must_use]
pub fn of(bytes: &[u8], most: usize) -> String {
    let bytes = &bytes[..bytes.len().min(most)];
    let mut text = String::with_capacity(bytes.len());
    let mut seen = 0;
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().chars().filter(|char| *char != '\0'));
        seen += chunk.valid().len() + chunk.invalid().len();
        let unfinished = seen == bytes.len()
            && seen == most
            && std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
        if !chunk.invalid().is_empty() && !unfinished {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text.truncate(text.floor_char_boundary(most));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_text_that_postgres_can_store() {
        assert_eq!(of(b"ok", 1024), "ok");
        assert_eq!(of(b"a\0b", 1024), "ab");
        assert_eq!(of(b"a\xffb", 1024), "a\u{fffd}b");
        assert_eq!(of(b"a\xe2\x82", 1024), "a\u{fffd}");
    }

    #[test]
    fn an_excerpt_is_cut_at_the_end_of_a_character() {
        let body = "x".repeat(1023) + "\u{20ac}" + "more";
        assert_eq!(of(body.as_bytes(), 1024), "x".repeat(1023));
        assert_eq!(of(body.as_bytes(), 1026), "x".repeat(1023) + "\u{20ac}");
        // Each broken byte becomes three.
        let text = of(&[0xff; 5000], 1024);
        assert_eq!(text.len(), 1023);
        assert!(text.chars().all(|char| char == '\u{fffd}'));
        assert_eq!(of("€".as_bytes(), 0), "");
    }
}
