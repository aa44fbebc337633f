//! Canonical JSON: text that JavaScript gives back byte for byte from
//! `JSON.stringify(JSON.parse(text))`.
//!
//! Many receivers check a signature over the body as they serialise it again, so what is sent has
//! to be spelled as ECMAScript spells it (ECMA-262, sections 25.5 and 6.1.6.1.20): compact, keys
//! that look like array indices first, the last of several equal keys, numbers as the shortest
//! decimal of their double. The one exemption: a number whose value is not that of the shortest
//! decimal of its nearest double is kept as it was written, since the other spelling would be
//! another number.

mod cursor;
mod members;
mod number;
mod parse;
mod rewrite;
mod string;

pub use number::{write_f64, write_number};
pub use parse::{parse, parse_members};
pub use rewrite::{canonicalize, prune};
pub use string::write_string;

pub(crate) use number::value_of;

use members::Members;
use serde_json::Value;
use thiserror::Error;

/// How deep arrays and objects may nest. Wrapped in an envelope it still parses where 128 levels
/// are allowed, which is what `serde_json` does.
pub const MAX_DEPTH: usize = 100;

/// A text that cannot be sent as JSON.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum JsonError {
    /// Not JSON (RFC 8259).
    #[error("invalid JSON: {0}")]
    Syntax(String),
    /// U+0000 in a string, which neither Postgres nor many receivers can hold.
    #[error("JSON holds the character U+0000")]
    Nul,
    /// Half of a surrogate pair, which is not a character.
    #[error("JSON holds half of a surrogate pair")]
    LoneSurrogate,
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("JSON is nested too deeply")]
    TooDeep,
}

impl JsonError {
    /// What to do instead.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax(_) => None,
            Self::Nul => Some("Remove \\u0000 from strings and keys.".to_owned()),
            Self::LoneSurrogate => {
                Some("Write characters outside the basic plane as a pair of \\u escapes, or as themselves.".to_owned())
            }
            Self::TooDeep => Some(format!("At most {MAX_DEPTH} levels of arrays and objects are allowed.")),
        }
    }
}

/// Writes a parsed value as [`canonicalize`] writes its text.
///
/// U+0000 is written as `\u0000`, and depth is not limited: what was parsed here has been judged.
pub fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => write_number(number.as_str(), out),
        Value::String(text) => write_string(text, out),
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write_value(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut indices: Vec<(u32, &String, &Value)> = map
                .iter()
                .filter_map(|(key, value)| Some((members::index(key)?, key, value)))
                .collect();
            indices.sort_unstable_by_key(|&(index, ..)| index);
            let others = map.iter().filter(|(key, _)| members::index(key).is_none());
            let mut members = Members::open(out);
            for (key, value) in indices
                .into_iter()
                .map(|(_, key, value)| (key, value))
                .chain(others)
            {
                members.next(out);
                write_string(key, out);
                out.push(':');
                write_value(value, out);
            }
            members.close(out);
        }
    }
}

#[cfg(test)]
mod tests;
