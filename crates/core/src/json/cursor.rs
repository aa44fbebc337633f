//! A place in a JSON text whose syntax has been judged.

use super::JsonError;
use serde::de::IgnoredAny;

/// Reads on from where it is.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Judges the syntax, without building anything and without recursion, and begins at the start.
    pub(super) fn of(text: &'a str) -> Result<Self, JsonError> {
        serde_json::from_str::<IgnoredAny>(text)
            .map_err(|error| JsonError::Syntax(error.to_string()))?;
        Ok(Self { text, at: 0 })
    }

    /// What it has moved over since it was at `start`.
    pub(super) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// The next byte that is not white space.
    pub(super) fn peek(&mut self) -> Result<u8, JsonError> {
        self.run(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r'));
        self.text
            .as_bytes()
            .get(self.at)
            .copied()
            .ok_or_else(unexpected)
    }

    /// Moves over white space and a byte that must follow it.
    pub(super) fn take(&mut self, expected: u8) -> Result<(), JsonError> {
        if self.peek()? != expected {
            return Err(unexpected());
        }
        self.at += 1;
        Ok(())
    }

    /// The next byte, whatever it is.
    pub(super) fn bump(&mut self) -> Result<u8, JsonError> {
        let byte = self
            .text
            .as_bytes()
            .get(self.at)
            .copied()
            .ok_or_else(unexpected)?;
        self.at += 1;
        Ok(byte)
    }

    /// Moves over bytes while `fits`. It must fit whole characters only: all or no bytes above 0x7f.
    pub(super) fn run(&mut self, fits: impl Fn(u8) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let length = rest
            .bytes()
            .position(|byte| !fits(byte))
            .unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Moves over a text that may follow; says whether it did.
    pub(super) fn follows(&mut self, text: &str) -> bool {
        let found = self.text[self.at..].starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    /// So many bytes, which must be whole characters.
    pub(super) fn some(&mut self, length: usize) -> Result<&'a str, JsonError> {
        let found = self
            .text
            .get(self.at..self.at + length)
            .ok_or_else(unexpected)?;
        self.at += length;
        Ok(found)
    }

    /// Moves over a number; `peek` has shown its first byte.
    pub(super) fn number(&mut self) -> &'a str {
        self.run(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
    }

    /// Moves over `true`, `false` or `null`; `peek` has shown its first byte.
    pub(super) fn word(&mut self) -> &'a str {
        self.run(|byte| byte.is_ascii_lowercase())
    }

    /// Moves over a string; returns it as it is written, with its quotes.
    pub(super) fn string(&mut self) -> Result<&'a str, JsonError> {
        self.peek()?;
        let start = self.at;
        self.take(b'"')?;
        loop {
            self.run(|byte| !matches!(byte, b'"' | b'\\'));
            match self.bump()? {
                b'"' => return Ok(self.since(start)),
                // What is escaped begins with an ASCII character, which may be a quote.
                _ => self.bump()?,
            };
        }
    }

    /// Moves over an array or object, however deep: without recursion. `peek` has shown that it is one.
    pub(super) fn skip_nested(&mut self) -> Result<(), JsonError> {
        let mut depth = 0_usize;
        loop {
            self.run(|byte| !matches!(byte, b'"' | b'{' | b'[' | b'}' | b']'));
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                _ => depth = depth.saturating_sub(1),
            }
            self.bump()?;
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

/// The syntax was judged before: nobody has seen this error.
pub(super) fn unexpected() -> JsonError {
    JsonError::Syntax("unexpected character".to_owned())
}
