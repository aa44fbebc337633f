//! Bodies: JSON objects with known keys.

use super::{Absence, Detail, Field, Input, Problem, complaint};
use crate::json;
use crate::quote::quote;
use serde_json::{Map, Value};

/// The object that a body holds; an empty body is an empty object.
///
/// # Errors
/// What is not JSON, or no object.
pub fn object(body: &str) -> Result<Map<String, Value>, Problem> {
    if body.trim_matches([' ', '\t', '\r', '\n']).is_empty() {
        return Ok(Map::new());
    }
    // Judges more than the parser does: what it lets through, Postgres cannot hold.
    let judged = json::canonicalize(body, &mut String::with_capacity(body.len()));
    match judged.and_then(|()| json::parse(body)) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::body("the body must be a JSON object".to_owned())),
        Err(error) => Err(Problem::body(error.to_string())),
    }
}

/// The text that the bytes of a body are.
///
/// # Errors
/// They are not UTF-8.
pub fn text(bytes: &[u8]) -> Result<&str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| Problem::body("the body is not valid UTF-8".to_owned()))
}

/// A body that came as text, if it is as long as the request says (`Content-Length`, where there is one). What hands bodies
/// on as text may have cut it at a NUL byte, or have put other characters in place of bytes that are no UTF-8.
///
/// # Errors
/// It is not what was sent.
pub fn whole<'a>(text: &'a str, content_length: Option<&str>) -> Result<&'a str, Problem> {
    match content_length.and_then(|length| length.trim().parse::<usize>().ok()) {
        Some(length) if text.len() != length => {
            let message = "the body holds a NUL byte, or is not valid UTF-8";
            Err(Problem::body(message.to_owned()))
        }
        _ => Ok(text),
    }
}

/// Judges an object: every key is one of the fields and as its field says, or one of `ignored`, which are
/// passed over.
///
/// # Errors
/// All that is wrong with it.
pub fn judge(
    object: Map<String, Value>,
    fields: &[Field],
    ignored: &[&str],
) -> Result<Input, Problem> {
    let (input, details) = examine(object, fields, ignored);
    if details.is_empty() {
        Ok(input)
    } else {
        Err(Problem::invalid(details))
    }
}

/// The same for whoever has more to say about the values: the fields that are as they must be, and all that is wrong
/// with the others.
#[must_use]
pub fn examine(
    object: Map<String, Value>,
    fields: &[Field],
    ignored: &[&str],
) -> (Input, Vec<Detail>) {
    let mut details = Vec::new();
    let mut input = Map::new();
    for (key, value) in object {
        let Some(field) = fields.iter().find(|field| field.name == key) else {
            if !ignored.contains(&key.as_str()) {
                details.push(Detail {
                    field: quote(&key),
                    message: unknown(fields),
                });
            }
            continue;
        };
        if value.is_null() && field.absence != Absence::Unchanged {
            continue;
        }
        match complaint(field.kind, &value) {
            Some(message) => details.push(Detail {
                field: key,
                message,
            }),
            None => {
                input.insert(key, value);
            }
        }
    }
    missing(fields, &input, &mut details);
    (Input(input), details)
}

/// Adds the fields that must be there and are not, unless something is wrong with them already.
pub(super) fn missing(fields: &[Field], input: &Map<String, Value>, details: &mut Vec<Detail>) {
    for field in fields {
        let named = details.iter().any(|detail| detail.field == field.name);
        if field.absence == Absence::Refused && !named && !input.contains_key(field.name) {
            details.push(Detail {
                field: field.name.to_owned(),
                message: "is required".to_owned(),
            });
        }
    }
}

fn unknown(fields: &[Field]) -> String {
    if fields.is_empty() {
        return "is not known: there are no keys".to_owned();
    }
    let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
    format!("is not known; known are {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Code, Kind};
    use super::*;

    const FIELDS: &[Field] = &[
        Field::required("url", Kind::Text),
        Field::required("events", Kind::Texts),
        Field::optional("active", Kind::Flag),
        Field::optional("count", Kind::Whole(0, 10)),
        Field::optional("since", Kind::Time),
        Field::change("filters", Kind::Object),
    ];

    fn judged(body: &str) -> Result<Input, Problem> {
        judge(object(body)?, FIELDS, &["id"])
    }

    /// Fields that are complained about, in order.
    fn wrong(body: &str) -> Vec<String> {
        let problem = judged(body).unwrap_err();
        assert_eq!(problem.code, Code::Validation);
        problem.details.into_iter().map(|it| it.field).collect()
    }

    #[test]
    fn what_fits_is_there() {
        let input = judged(
            r#"{"url":"u","events":["a","b"],"active":false,"count":5.0,"id":7,"since":"2024-01-15T11:30:00.5+01:00","filters":null}"#,
        )
        .unwrap();
        assert_eq!(input.text("url"), Some("u"));
        assert_eq!(input.texts("events").unwrap(), ["a", "b"]);
        assert_eq!(input.flag("active"), Some(false));
        assert_eq!(input.whole("count"), Some(5));
        assert_eq!(input.time("since"), Some(1_705_314_600_500_000));
        assert_eq!(input.json("filters"), Some(&Value::Null));
        assert_eq!(input.json("id"), None);
    }

    #[test]
    fn null_is_not_there_where_there_is_a_default() {
        let input = judged(r#"{"url":"u","events":[],"active":null}"#).unwrap();
        assert_eq!(input.flag("active"), None);
        assert_eq!(input.json("active"), None);
    }

    #[test]
    fn all_that_is_wrong_is_named_at_once() {
        assert_eq!(
            wrong(r#"{"url":1,"active":"yes","count":11,"color":"red","since":"yesterday"}"#),
            ["url", "active", "count", "color", "since", "events"]
        );
        assert_eq!(wrong("{}"), ["url", "events"]);
        assert_eq!(wrong(r#"{"url":null,"events":["a"]}"#), ["url"]);
        assert_eq!(wrong(r#"{"url":"u","events":["a",1]}"#), ["events"]);
        assert_eq!(
            wrong(r#"{"url":"u","events":["a"],"count":1.5}"#),
            ["count"]
        );
        assert_eq!(
            wrong(r#"{"url":"u","events":["a"],"count":1e300}"#),
            ["count"]
        );
        assert_eq!(
            wrong(r#"{"url":"u","events":["a"],"filters":[]}"#),
            ["filters"]
        );
    }

    #[test]
    fn what_is_no_object_is_the_bodys_fault() {
        for body in [
            "[]",
            "null",
            "\"x\"",
            "7",
            "{",
            "{\"a\":1}{",
            "nonsense",
            "{\"a\":\"\\u0000\"}",
        ] {
            assert_eq!(wrong(body), ["body"], "{body}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert_eq!(wrong(&deep), ["body"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_the_bodys_fault() {
        let judged = |bytes: &[u8]| text(bytes).and_then(object);
        assert_eq!(judged(b""), Ok(Map::new()));
        assert!(judged("{\"a\":\"ü\"}".as_bytes()).is_ok());
        for bytes in [
            b"\xff\xfe".as_slice(),
            b"{\"a\":\"\xe9\"}",
            b"\0",
            b"\0x",
            b"{}\0",
            b"{\"a\":1}\0{\"b\":2}",
            b"{\"a\":\"\0\"}",
        ] {
            let problem = judged(bytes).unwrap_err();
            assert_eq!(problem.code, Code::Validation);
            assert_eq!(problem.details.len(), 1, "{bytes:?}");
            assert_eq!(problem.details[0].field, "body");
        }
    }

    #[test]
    fn a_text_that_is_not_as_long_as_what_was_sent_is_the_bodys_fault() {
        for (body, length) in [
            ("", Some("0")),
            ("{}", Some("2")),
            ("ü", Some("2")),
            ("{}", None),
            ("{}", Some("")),
            ("{}", Some("two")),
        ] {
            assert_eq!(whole(body, length), Ok(body));
        }
        for (body, length) in [("", "2"), ("{}", "3"), ("\u{fffd}", "1")] {
            let problem = whole(body, Some(length)).unwrap_err();
            assert_eq!(problem.code, Code::Validation);
            assert_eq!(problem.details[0].field, "body");
        }
    }

    #[test]
    fn an_empty_body_is_an_empty_object() {
        for body in ["", " \r\n\t", "{}"] {
            assert_eq!(object(body).unwrap(), Map::new());
        }
    }

    #[test]
    fn what_others_wrote_is_quoted() {
        let body = format!("{{\"{}\":1}}", "x".repeat(1_000));
        assert!(wrong(&body)[0].chars().count() <= 101);
    }
}
