//! From JSON text to values that can be asked.
//!
//! Not by `serde_json`'s own way: with arbitrary precision it takes an object whose first key is the
//! private name of its numbers for a number, and fails for the whole text if it is not one. Whoever
//! can write a row could so hide it from every filter.

use super::JsonError;
use super::cursor::{Cursor, unexpected};
use serde_json::{Map, Number, Value};
use std::collections::HashSet;

/// How deep arrays and objects may nest in what is read. More than
/// [`MAX_DEPTH`](super::MAX_DEPTH), since a value of that depth may stand in a row's data, in its changes
/// and in an envelope.
const READ_DEPTH: usize = 128;

/// Reads a JSON text. Of several equal keys the last one's value counts, as in JavaScript.
///
/// # Errors
/// The text is not JSON, is nested deeper than 128 levels, or holds half of a surrogate pair.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    let mut cursor = Cursor::of(text)?;
    value(&mut cursor, 0)
}

/// Those members of a JSON object that are wanted, as [`parse`] reads them. Of the others only the syntax is looked
/// at: to read a whole row into memory costs more than all that is done with it.
///
/// # Errors
/// As [`parse`], or the text is no object.
pub fn parse_members(text: &str, wanted: &HashSet<String>) -> Result<Value, JsonError> {
    let mut cursor = Cursor::of(text)?;
    let mut members = Map::new();
    cursor.take(b'{')?;
    if cursor.peek()? != b'}' {
        loop {
            let raw = cursor.string()?;
            let plain = raw.get(1..raw.len() - 1).filter(|it| !it.contains('\\'));
            let key = match plain {
                Some(key) => wanted.get(key).cloned(),
                None => Some(unescaped(raw)?).filter(|key| wanted.contains(key)),
            };
            cursor.take(b':')?;
            match key {
                Some(key) => {
                    members.insert(key, value(&mut cursor, 1)?);
                }
                None => skip(&mut cursor)?,
            }
            if cursor.peek()? == b'}' {
                break;
            }
            cursor.take(b',')?;
        }
    }
    Ok(Value::Object(members))
}

fn skip(cursor: &mut Cursor<'_>) -> Result<(), JsonError> {
    match cursor.peek()? {
        b'{' | b'[' => cursor.skip_nested()?,
        b'"' => {
            cursor.string()?;
        }
        b'-' | b'0'..=b'9' => {
            cursor.number();
        }
        _ => {
            cursor.word();
        }
    }
    Ok(())
}

fn value(cursor: &mut Cursor<'_>, depth: usize) -> Result<Value, JsonError> {
    match cursor.peek()? {
        b'{' | b'[' if depth == READ_DEPTH => Err(JsonError::TooDeep),
        b'{' => object(cursor, depth + 1),
        b'[' => array(cursor, depth + 1),
        b'"' => string(cursor).map(Value::String),
        b'-' | b'0'..=b'9' => {
            let number: Number = cursor.number().parse().map_err(|_| unexpected())?;
            Ok(Value::Number(number))
        }
        _ => match cursor.word() {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(unexpected()),
        },
    }
}

fn array(cursor: &mut Cursor<'_>, depth: usize) -> Result<Value, JsonError> {
    let mut items = Vec::new();
    cursor.take(b'[')?;
    if cursor.peek()? != b']' {
        loop {
            items.push(value(cursor, depth)?);
            if cursor.peek()? == b']' {
                break;
            }
            cursor.take(b',')?;
        }
    }
    cursor.take(b']')?;
    Ok(Value::Array(items))
}

fn object(cursor: &mut Cursor<'_>, depth: usize) -> Result<Value, JsonError> {
    let mut members = Map::new();
    cursor.take(b'{')?;
    if cursor.peek()? != b'}' {
        loop {
            let key = string(cursor)?;
            cursor.take(b':')?;
            members.insert(key, value(cursor, depth)?);
            if cursor.peek()? == b'}' {
                break;
            }
            cursor.take(b',')?;
        }
    }
    cursor.take(b'}')?;
    Ok(Value::Object(members))
}

fn string(cursor: &mut Cursor<'_>) -> Result<String, JsonError> {
    unescaped(cursor.string()?)
}

fn unescaped(raw: &str) -> Result<String, JsonError> {
    // All that a string can still have against it is half of a surrogate pair.
    serde_json::from_str(raw).map_err(|_| JsonError::LoneSurrogate)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_read_as_they_stand() {
        let text = " { \"a\" : [ 1 , -2.50 , true , null, \"\\u00e9\\n\\ud83c\\udf89\\\"\" ] , \"b\":{} , \"c\":[]}";
        let value = parse(text).unwrap();
        assert_eq!(value["a"][4], json!("é\n🎉\""));
        assert_eq!(value["a"][1].to_string(), "-2.50");
        assert_eq!(value["b"], json!({}));
        assert_eq!(parse("\"x\"").unwrap(), json!("x"));
        assert_eq!(parse(" 7 ").unwrap().to_string(), "7");
    }

    #[test]
    fn of_an_object_only_what_is_wanted_is_read() {
        let wanted = ["a", "metadata"].map(str::to_owned).into();
        let text = r#"{"a":1.0,"b":[1,{"a":"]}\\\""}],"c":"\"","d":null,"metadata":{"x":"y"},"\u0061":10e-1,"\u0062":1}"#;
        let row = parse_members(text, &wanted).unwrap();
        assert_eq!(row["metadata"], json!({"x": "y"}));
        assert_eq!(row["a"].to_string(), "10e-1", "the last of equal keys");
        assert_eq!(row.as_object().map(Map::len), Some(2));
        assert_eq!(parse_members("{}", &wanted).unwrap(), json!({}));
        for broken in ["[1]", "7", "{", "{}x", ""] {
            assert!(parse_members(broken, &wanted).is_err(), "{broken}");
        }
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        assert_eq!(
            parse(r#"{"a":1,"b":2,"\u0061":3}"#).unwrap().to_string(),
            r#"{"a":3,"b":2}"#
        );
    }

    #[test]
    fn the_private_key_of_numbers_is_a_key_like_any_other() {
        for inner in ["\"5\"", "\"not a number\"", "7", "{}"] {
            let text = format!("{{\"$serde_json::private::Number\":{inner}}}");
            let nested = format!("{{\"a\":[{text}],\"source\":\"api\"}}");
            assert!(parse(&text).unwrap().is_object(), "{text}");
            assert_eq!(parse(&nested).unwrap()["source"], json!("api"), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_or_too_deep_is_refused() {
        for text in ["", "{", "[1,]", "{\"a\" 1}", "nul", "01", "'a'", "1 2"] {
            assert!(matches!(parse(text), Err(JsonError::Syntax(_))), "{text}");
        }
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(&nested(READ_DEPTH)).is_ok());
        for levels in [READ_DEPTH + 1, 10_000, 1_000_000] {
            assert_eq!(parse(&nested(levels)), Err(JsonError::TooDeep));
        }
        assert_eq!(parse("[\"\\ud800\"]"), Err(JsonError::LoneSurrogate));
    }
}
