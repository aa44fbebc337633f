//! Filters: what must be in an event for a webhook to get it.

mod index;

pub use index::Index;

use crate::json::{value_of, write_value};
use crate::quote::quote;
use serde_json::Value;
use std::collections::HashSet;
use thiserror::Error;

/// The most keys in a filter.
pub const MAX_KEYS: usize = 50;
/// The largest filter, in bytes of compact JSON.
pub const MAX_BYTES: usize = 8_192;

/// A JSON value that is not a filter.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum FilterError {
    /// Something else than an object.
    #[error("filters must be an object")]
    NotAnObject,
    /// Over [`MAX_KEYS`].
    #[error("filters have too many keys: {0}")]
    TooManyKeys(usize),
    /// Over [`MAX_BYTES`].
    #[error("filters are too large: {0} bytes")]
    TooLarge(usize),
    /// An object, or an array that holds one or an array.
    #[error("filter \"{0}\" must be a string, number, boolean, null, or an array of those")]
    Nested(String),
}

impl FilterError {
    /// What to do instead.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAnObject => {
                r#"Use an object such as {"source": ["api", "import"], "tags": "work"}."#.to_owned()
            }
            Self::TooManyKeys(_) => format!("At most {MAX_KEYS} keys are allowed."),
            Self::TooLarge(_) => format!("At most {MAX_BYTES} bytes are allowed."),
            Self::Nested(_) => {
                r#"Dots in a key descend into objects: {"author.name": "Ann"}."#.to_owned()
            }
        })
    }
}

/// A filter; the default, without keys, matches everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter(Vec<Condition>);

/// One key, and what it may have. Sets, since a row may have as long an array as it likes: each of its
/// members is looked up once, however many values the filter lists.
#[derive(Clone, Debug, Default, PartialEq)]
struct Condition {
    key: String,
    strings: HashSet<String>,
    /// See [`value_of`].
    numbers: HashSet<String>,
    booleans: HashSet<bool>,
    null: bool,
}

impl Filter {
    /// Reads a filter: an object whose values are scalars or arrays of scalars.
    ///
    /// # Errors
    /// Another value, more than [`MAX_KEYS`], or more than [`MAX_BYTES`].
    pub fn parse(value: &Value) -> Result<Self, FilterError> {
        let object = value.as_object().ok_or(FilterError::NotAnObject)?;
        if object.len() > MAX_KEYS {
            return Err(FilterError::TooManyKeys(object.len()));
        }
        let mut written = String::new();
        write_value(value, &mut written);
        if written.len() > MAX_BYTES {
            return Err(FilterError::TooLarge(written.len()));
        }
        let conditions: Result<Vec<Condition>, FilterError> = object
            .iter()
            .map(|(key, value)| Condition::new(key, value))
            .collect();
        conditions.map(Self)
    }

    /// Whether it has no keys, and so matches everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a row, or an event's data, has what the filter asks for.
    ///
    /// Every key must match. A key is looked up in the row and then in its `metadata`; in each as it
    /// stands first, and then with its dots descending. The first value that is found is judged: a
    /// scalar of the filter matches an equal value or a member of an array, an array of the filter
    /// matches if one of its members does. Numbers are compared by value, strings exactly; null
    /// matches null, not absence. A number for `id` matches the string too that a row's id is sent as.
    #[must_use]
    pub fn matches(&self, row: &Value) -> bool {
        self.0
            .iter()
            .all(|condition| match found(row, &condition.key) {
                None => false,
                Some(Value::Array(members)) => {
                    members.iter().any(|member| condition.accepts(member))
                }
                Some(value) => condition.accepts(value),
            })
    }
}

impl Condition {
    fn new(key: &str, value: &Value) -> Result<Self, FilterError> {
        let mut condition = Self {
            key: key.to_owned(),
            ..Self::default()
        };
        let any = match value {
            Value::Array(any) => any.as_slice(),
            one => std::slice::from_ref(one),
        };
        for wanted in any {
            match wanted {
                Value::Null => condition.null = true,
                Value::Bool(wanted) => {
                    condition.booleans.insert(*wanted);
                }
                Value::Number(wanted) => {
                    condition.numbers.insert(value_of(wanted.as_str()));
                    // A row's id is sent as a string, of whatever type its column is.
                    if key == "id" {
                        condition.strings.insert(wanted.as_str().to_owned());
                    }
                }
                Value::String(wanted) => {
                    condition.strings.insert(wanted.clone());
                }
                Value::Array(_) | Value::Object(_) => {
                    return Err(FilterError::Nested(quote(key)));
                }
            }
        }
        Ok(condition)
    }

    fn accepts(&self, value: &Value) -> bool {
        match value {
            Value::Null => self.null,
            Value::Bool(value) => self.booleans.contains(value),
            Value::Number(value) => {
                !self.numbers.is_empty() && self.numbers.contains(&value_of(value.as_str()))
            }
            Value::String(value) => self.strings.contains(value),
            Value::Array(_) | Value::Object(_) => false,
        }
    }
}

/// What a row has for a key: itself, or in its `metadata`.
fn found<'a>(row: &'a Value, key: &str) -> Option<&'a Value> {
    lookup(row, key).or_else(|| {
        row.get("metadata")
            .and_then(|metadata| lookup(metadata, key))
    })
}

fn lookup<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).or_else(|| {
        if !key.contains('.') {
            return None;
        }
        key.split('.')
            .try_fold(object, |value, part| value.get(part))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn matches(filter: Value, row: &str) -> bool {
        Filter::parse(&filter)
            .unwrap()
            .matches(&row.parse().unwrap())
    }

    const ROW: &str = r#"{"source":"api","n":1.0,"big":12345678901234567890.5,"tags":["work",2,null],"nothing":null,
        "a.b":"literal","a":{"b":"nested","c":{"d":true}},"none":[],
        "metadata":{"source":"meta","lang":"de","x.y":1,"x":{"y":2,"z":3},"list":["p","q"]}}"#;

    #[test]
    fn every_key_must_match() {
        assert!(matches(json!({}), ROW) && matches(json!({}), "7"));
        assert!(matches(json!({"source": "api", "lang": "de"}), ROW));
        assert!(!matches(json!({"source": "api", "lang": "en"}), ROW));
        assert!(!matches(json!({"missing": "api"}), ROW));
        assert!(!matches(json!({"source": "api"}), "[]") && !matches(json!({"0": 1}), "[1]"));
    }

    #[test]
    fn the_row_comes_before_its_metadata_and_the_key_before_its_dots() {
        assert!(!matches(json!({"source": "meta"}), ROW));
        assert!(matches(json!({"metadata.source": "meta"}), ROW));
        assert!(matches(json!({"a.b": "literal"}), ROW) && !matches(json!({"a.b": "nested"}), ROW));
        assert!(matches(json!({"a.c.d": true}), ROW));
        assert!(matches(json!({"x.y": 1}), ROW) && !matches(json!({"x.y": 2}), ROW));
        assert!(matches(json!({"x.z": 3}), ROW) && matches(json!({"metadata.x.z": 3}), ROW));
        assert!(
            !matches(json!({"source.x": "api"}), ROW) && !matches(json!({"tags.0": "work"}), ROW)
        );
    }

    #[test]
    fn scalars_match_members_and_arrays_match_any() {
        assert!(matches(json!({"tags": "work"}), ROW) && matches(json!({"tags": 2}), ROW));
        assert!(!matches(json!({"tags": "wor"}), ROW));
        assert!(
            matches(json!({"tags": ["play", "work"]}), ROW)
                && !matches(json!({"tags": ["play"]}), ROW)
        );
        assert!(matches(json!({"source": ["api", "import"]}), ROW));
        assert!(matches(json!({"list": "q"}), ROW));
        assert!(!matches(json!({"source": []}), ROW) && !matches(json!({"none": []}), ROW));
    }

    #[test]
    fn a_number_finds_the_id_that_is_sent_as_a_string() {
        assert!(
            matches(json!({"id": 7}), r#"{"id":"7"}"#)
                && matches(json!({"id": [1, 7]}), r#"{"id":7}"#)
        );
        assert!(
            !matches(json!({"id": 7}), r#"{"id":"70"}"#)
                && !matches(json!({"key": 7}), r#"{"key":"7"}"#)
        );
    }

    #[test]
    fn values_are_compared_by_type_and_value() {
        let one = |text: &str| matches(json!({"n": text.parse::<Value>().unwrap()}), ROW);
        assert!(one("1") && one("1.0") && one("1e0") && one("10E-1"));
        assert!(!one("1.0000000000000000000001") && !one("\"1\"") && !one("true"));
        assert!(!matches(json!({"source": "API"}), ROW));
        let big: Value = "12345678901234567890.50".parse().unwrap();
        assert!(matches(json!({"big": big}), ROW));
    }

    #[test]
    fn null_is_a_value_and_not_absence() {
        assert!(matches(json!({"nothing": null}), ROW));
        assert!(matches(json!({"tags": null}), ROW));
        assert!(!matches(json!({"missing": null}), ROW) && !matches(json!({"source": null}), ROW));
        assert!(!matches(json!({"nothing": ["a"]}), ROW) && !matches(json!({"none": null}), ROW));
    }

    #[test]
    fn mistakes_are_named() {
        for value in [json!(null), json!([]), json!("x")] {
            assert_eq!(Filter::parse(&value), Err(FilterError::NotAnObject));
        }
        for value in [
            json!({"k": {}}),
            json!({"k": [[]]}),
            json!({"k": ["a", {"b": 1}]}),
        ] {
            let error = Filter::parse(&value).unwrap_err();
            assert_eq!(error, FilterError::Nested("k".to_owned()));
            assert!(
                error.to_string().starts_with("filter \"k\" must be") && error.hint().is_some()
            );
        }
        let keys = |n: usize| Value::Object((0..n).map(|n| (format!("k{n}"), json!(1))).collect());
        assert!(Filter::parse(&keys(50)).is_ok());
        assert_eq!(Filter::parse(&keys(51)), Err(FilterError::TooManyKeys(51)));
        let sized = |n: usize| json!({"k": "x".repeat(n - 8)});
        assert!(Filter::parse(&sized(8_192)).is_ok());
        assert_eq!(
            Filter::parse(&sized(8_193)),
            Err(FilterError::TooLarge(8_193))
        );
    }

    #[test]
    fn a_long_filter_and_a_long_array_are_no_work() {
        let wanted: Vec<u32> = (0..1_600).map(|n| n + 1_000).collect();
        let filter = Filter::parse(&json!({ "n": wanted })).unwrap();
        let row = json!({ "n": vec![7; 1_000_000] });
        let begun = std::time::Instant::now();
        assert!(!filter.matches(&row));
        // Each against each would be two thousand million comparisons: half a minute and more.
        assert!(begun.elapsed() < std::time::Duration::from_secs(5));
    }

    proptest! {
        #[test]
        fn a_rows_own_scalars_match_it(key in "[a-z.]{1,8}", text: String, number: i64, other: String) {
            prop_assume!(text != other);
            let row = json!({ &key: text, "a number": number });
            let both = Filter::parse(&json!({ &key: [other.as_str(), &text], "a number": number })).unwrap();
            let wrong = Filter::parse(&json!({ &key: other })).unwrap();
            prop_assert!(both.matches(&row));
            prop_assert!(!wrong.matches(&row));
        }
    }
}
