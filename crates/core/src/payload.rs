//! Making `data` fit under `webhooks.max_payload`, by leaving out what is long.
//!
//! First `content` goes, then `changes` too, then everything but `object` and `id`; whichever fits
//! first is sent, with `"truncated":true` behind the rest.

use crate::json::write_string;
use serde_json::Value;

const TRUNCATED: &str = "truncated";

/// Appends `data`, or as much of it as fits into `limit` bytes, to `out`. Returns whether it shrank.
///
/// `data` is canonical JSON, as [`canonicalize`](crate::json::canonicalize) writes it. What remains
/// in the end, `{"object":…,"id":…,"truncated":true}` with whichever of the two exist and fit, is
/// appended even if it is longer than `limit`.
pub fn shrink(data: &str, limit: usize, out: &mut String) -> bool {
    if data.len() <= limit {
        out.push_str(data);
        return false;
    }
    shrink_without(data, Omitted::Content, limit, out);
    true
}

/// Members that were left out of `data` before it was written, because they were too long by
/// themselves.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Omitted {
    /// Nothing.
    #[default]
    Nothing,
    /// `content`.
    Content,
    /// `content` and `changes`.
    Changes,
}

/// Appends `data` without at least these members, marked as truncated, as [`shrink`] does for
/// data that are too long.
pub fn shrink_without(data: &str, omitted: Omitted, limit: usize, out: &mut String) {
    let members = members(data);
    let before = out.len();
    for (stage, without) in [
        (Omitted::Nothing, &[][..]),
        (Omitted::Content, &["content"][..]),
        (Omitted::Changes, &["content", "changes"][..]),
    ] {
        if stage < omitted {
            continue;
        }
        let keep = members
            .iter()
            .filter(|member| !without.contains(&member.name));
        write(keep, out);
        if out.len() - before <= limit {
            return;
        }
        out.truncate(before);
    }
    let mut room = limit.saturating_sub(MARK.len() + 2);
    let kept = ["object", "id"].into_iter().filter_map(|name| {
        let member = members.iter().find(|member| member.name == name)?;
        let left = room.checked_sub(member.text.len() + 1)?;
        room = left;
        Some(member)
    });
    write(kept, out);
}

/// What is sent of a row that cannot be shown: `{"object":…,"id":…,"truncated":true}`.
#[must_use]
pub fn minimal(object: &str, id: &str) -> String {
    let mut out = String::with_capacity(object.len() + id.len() + 40);
    out.push_str("{\"object\":");
    write_string(object, &mut out);
    out.push_str(",\"id\":");
    write_string(id, &mut out);
    out.push(',');
    out.push_str(MARK);
    out.push('}');
    out
}

const MARK: &str = "\"truncated\":true";

/// Whether something was left out of `data` when it was stored: the mark stands behind the rest.
#[must_use]
pub fn is_truncated(data: &str) -> bool {
    data.strip_suffix('}')
        .and_then(|rest| rest.strip_suffix(MARK))
        .is_some_and(|rest| rest == "{" || rest.ends_with(','))
}

/// One member of an object.
struct Member<'a> {
    /// The key as it stands between its quotes. Keys that matter here hold nothing to escape.
    name: &'a str,
    /// Key, colon and value.
    text: &'a str,
}

fn write<'a>(members: impl Iterator<Item = &'a Member<'a>>, out: &mut String) {
    out.push('{');
    for member in members.filter(|member| member.name != TRUNCATED) {
        out.push_str(member.text);
        out.push(',');
    }
    out.push_str(MARK);
    out.push('}');
}

/// The members of an object in canonical JSON; none if it is not an object.
fn members(data: &str) -> Vec<Member<'_>> {
    let mut found = Vec::new();
    let Some(inside) = data
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
    else {
        return found;
    };
    let bytes = inside.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        let key_end = string_end(bytes, start);
        let end = value_end(bytes, key_end);
        // Both ends are at ASCII characters; were the text no JSON, there would be no member.
        if let (Some(name), Some(text)) =
            (inside.get(start + 1..key_end - 1), inside.get(start..end))
        {
            found.push(Member { name, text });
        }
        start = end + 1;
    }
    found
}

/// The `id` in `data`, as text. `beginning`: canonical JSON, or as much of it as there is. `None`: it is not in there, or is
/// neither a string nor a number.
#[must_use]
pub fn id(beginning: &str) -> Option<String> {
    let inside = beginning.strip_prefix('{')?;
    let whole = inside.strip_suffix('}');
    let inside = whole.unwrap_or(inside);
    let bytes = inside.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        let key_end = string_end(bytes, start);
        let end = value_end(bytes, key_end);
        if inside.get(start..key_end)? == "\"id\"" {
            // What is cut off has no comma behind it.
            let value = inside.get(key_end + 1..end)?;
            return match serde_json::from_str(value).ok()? {
                _ if end == bytes.len() && whole.is_none() => None,
                Value::String(id) => Some(id),
                Value::Number(id) => Some(id.to_string()),
                _ => None,
            };
        }
        start = end + 1;
    }
    None
}

/// Where the string that begins at `start` ends, behind its closing quote.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    loop {
        match bytes.get(at) {
            Some(b'\\') => at += 2,
            Some(b'"') => return at + 1,
            Some(_) => at += 1,
            None => return bytes.len().max(start + 2),
        }
    }
}

/// Where the comma behind a value is, or the end.
fn value_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start;
    let mut depth = 0_usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const DATA: &str = r#"{"7":1,"object":"memory","id":"a,}","content":"\"]}{long","tags":["x",{"content":1}],"changes":{"content":{"from":"a","to":"b"}},"z":null}"#;

    fn shrunk(data: &str, limit: usize) -> String {
        let mut out = String::from("before");
        let shrank = shrink(data, limit, &mut out);
        assert_eq!(shrank, data.len() > limit);
        out.strip_prefix("before").unwrap().to_owned()
    }

    #[test]
    fn what_fits_is_copied() {
        assert_eq!(shrunk(DATA, DATA.len()), DATA);
    }

    #[test]
    fn content_goes_then_changes_then_all_but_object_and_id() {
        let without_content = r#"{"7":1,"object":"memory","id":"a,}","tags":["x",{"content":1}],"changes":{"content":{"from":"a","to":"b"}},"z":null,"truncated":true}"#;
        let without_changes = r#"{"7":1,"object":"memory","id":"a,}","tags":["x",{"content":1}],"z":null,"truncated":true}"#;
        let least = r#"{"object":"memory","id":"a,}","truncated":true}"#;
        assert_eq!(shrunk(DATA, DATA.len() - 1), without_content);
        assert_eq!(shrunk(DATA, without_content.len()), without_content);
        assert_eq!(shrunk(DATA, without_content.len() - 1), without_changes);
        assert_eq!(shrunk(DATA, without_changes.len() - 1), least);
        assert_eq!(shrunk(DATA, least.len()), least);
        assert_eq!(least, minimal("memory", "a,}"));
    }

    #[test]
    fn what_was_left_out_before_counts_as_a_step() {
        let data = r#"{"object":"memory","id":"1","changes":{"a":1},"z":null}"#;
        let without = |omitted, limit| {
            let mut out = String::new();
            shrink_without(data, omitted, limit, &mut out);
            out
        };
        assert_eq!(
            without(Omitted::Content, 100),
            r#"{"object":"memory","id":"1","changes":{"a":1},"z":null,"truncated":true}"#
        );
        assert_eq!(
            without(Omitted::Changes, 100),
            r#"{"object":"memory","id":"1","z":null,"truncated":true}"#
        );
        assert_eq!(
            without(Omitted::Changes, 50),
            r#"{"object":"memory","id":"1","truncated":true}"#
        );
    }

    #[test]
    fn what_there_is_of_object_and_id_is_kept() {
        assert_eq!(
            shrunk(r#"{"a":"long long long long"}"#, 20),
            r#"{"truncated":true}"#
        );
        assert_eq!(
            shrunk(r#"{"a":"long long long long","id":7}"#, 30),
            r#"{"id":7,"truncated":true}"#
        );
        let data = format!(r#"{{"id":"{}","object":"o"}}"#, "x".repeat(100));
        assert_eq!(shrunk(&data, 40), r#"{"object":"o","truncated":true}"#);
        for data in [
            "\"a long string, not an object\"",
            "[1,2,3,4,5,6,7,8,9,10,11,12,13]",
            "12345678901234567890",
        ] {
            assert_eq!(shrunk(data, 5), r#"{"truncated":true}"#);
        }
    }

    #[test]
    fn the_id_is_found_also_in_the_beginning_of_data() {
        let of = |beginning: &str| id(beginning);
        assert_eq!(of(DATA), Some("a,}".to_owned()));
        assert_eq!(of(&DATA[..40]), Some("a,}".to_owned()));
        assert_eq!(
            of(r#"{"id":12345678901234567890}"#),
            Some("12345678901234567890".to_owned())
        );
        assert_eq!(
            of(r#"{"x":{"id":"inner"},"id":"a\"b"}"#),
            Some("a\"b".to_owned())
        );
        for none in [
            "",
            "{",
            "{}",
            "[1]",
            "7",
            r#"{"a":1}"#,
            r#"{"id":null}"#,
            r#"{"id":["a"]}"#,
            // Cut off within it.
            r#"{"id":12"#,
            r#"{"id":"12"#,
            r#"{"id":"12}"#,
            r#"{"id":{"a":1}"#,
            r#"{"id""#,
            r#"{"i"#,
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn the_id_of_no_beginning_is_another() {
        let data = r#"{"object":"memory","id":"äöü-1","content":"x"}"#;
        for end in (0..data.len()).filter(|&end| data.is_char_boundary(end)) {
            let found = id(&data[..end]);
            assert!(
                found.is_none() || found.as_deref() == Some("äöü-1"),
                "{end}"
            );
        }
    }

    #[test]
    fn what_was_truncated_is_known_by_its_mark() {
        let data = r#"{"object":"memory","id":"1","content":"aaaaaaaaaaaaaaaaaaaa"}"#;
        for limit in [60, 50, 40, 25, 0] {
            let mut small = String::new();
            assert_eq!(
                shrink(data, limit, &mut small),
                is_truncated(&small),
                "{small}"
            );
        }
        assert!(is_truncated(&minimal("memory", "1")));
        for whole in [
            data,
            "{}",
            r#"{"truncated":false}"#,
            r#"{"a":{"truncated":true}}"#,
            r#"{"a,\"truncated":true}"#,
            r#"{"a":",\"truncated\":true}"}"#,
        ] {
            assert!(!is_truncated(whole), "{whole}");
        }
    }

    #[test]
    fn truncated_is_said_once_and_last() {
        let data = r#"{"truncated":false,"content":"aaaaaaaaaaaaaaaaaaaa","id":"1"}"#;
        assert_eq!(
            shrunk(data, data.len() - 1),
            r#"{"id":"1","truncated":true}"#
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Into::into),
            "[a\"\\\\,{}é\\[\\]:]{0,12}".prop_map(Into::into)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let key = "content|changes|object|id|truncated|[a-z\"\\\\,]{1,4}|[0-9]";
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::hash_map(key, inner, 0..6)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_left_is_canonical_and_from_the_data(value in json(), limit in 0usize..200) {
            let mut data = String::new();
            crate::json::write_value(&value, &mut data);
            let out = shrunk(&data, limit);
            let left: serde_json::Value = serde_json::from_str(&out).unwrap();
            let mut again = String::new();
            crate::json::write_value(&left, &mut again);
            prop_assert_eq!(&again, &out);
            if data.len() > limit {
                let mut left = left.as_object().unwrap().clone();
                prop_assert_eq!(left.shift_remove("truncated"), Some(true.into()));
                let last = out.strip_suffix('}').is_some_and(|rest| rest.ends_with(MARK));
                prop_assert!(last);
                prop_assert!(out.len() <= limit || left.is_empty());
                for (key, kept) in &left {
                    prop_assert_eq!(value.get(key), Some(kept));
                }
            }
        }

        #[test]
        fn text_that_is_no_json_does_not_panic(data in "[{}\\[\\]\",:\\\\aé]{0,20}", limit in 0usize..10) {
            shrink(&data, limit, &mut String::new());
            shrink(&format!("{{{data}}}"), limit, &mut String::new());
        }
    }
}
