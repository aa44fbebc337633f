//! The members of a row that filters look at, and no others: reading a whole row into memory costs more than
//! all that is done with it.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::fmt;

/// Those members of a JSON object that are wanted; [`Value::Null`] for any other text.
#[must_use]
pub fn select(text: &str, wanted: &HashSet<String>) -> Value {
    let mut reader = serde_json::Deserializer::from_str(text);
    Wanted(wanted)
        .deserialize(&mut reader)
        .and_then(|row| reader.end().map(|()| row))
        .unwrap_or(Value::Null)
}

struct Wanted<'a>(&'a HashSet<String>);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut row = Map::new();
        while let Some(key) = members.next_key_seed(Key(self.0))? {
            match key {
                Some(key) => {
                    row.insert(key, members.next_value()?);
                }
                None => {
                    members.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Value::Object(row))
    }
}

/// A key, if it is wanted.
struct Key<'a>(&'a HashSet<String>);

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.contains(key).then(|| key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wanted_is_read_as_it_stands() {
        let wanted = ["a", "metadata"].map(str::to_owned).into();
        let text = r#"{"a":1.0,"b":[1,{"a":2}],"metadata":{"x":"y"},"\u0061":10e-1}"#;
        let row = select(text, &wanted);
        assert_eq!(row["metadata"], json!({"x": "y"}));
        assert_eq!(row["a"].to_string(), "10e-1", "the last of equal keys");
        assert_eq!(row.as_object().unwrap().len(), 2);
        for broken in ["[1]", "7", "{", "{}x", ""] {
            assert_eq!(select(broken, &wanted), Value::Null);
        }
    }
}
