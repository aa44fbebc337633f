//! Finding the few filters that a row may match among very many, without trying each.
//!
//! A filter is filed under one of its keys, by the values it accepts there: the key whose values the fewest
//! other filters ask for. A row's value of that key then leads to it by hash. What is found may match; only
//! [`Filter::matches`] says whether it does.

use super::{Condition, Filter, found};
use crate::json::value_of;
use serde_json::Value;
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};

/// Members with their filters, filed.
#[derive(Debug)]
pub struct Index<T> {
    /// Members whose filter is empty.
    unfiltered: Vec<T>,
    /// By key, and the hash of a value.
    keys: HashMap<String, HashMap<u64, Vec<T>>>,
    /// What [`Index::candidates`] looks at in a row.
    wanted: HashSet<String>,
}

impl<T: Copy + Ord> Index<T> {
    /// Files members under their filters.
    pub fn of<'a>(members: impl Iterator<Item = (T, &'a Filter)> + Clone) -> Self {
        let mut asked: HashMap<(&str, u64), usize> = HashMap::new();
        let conditions = members.clone().flat_map(|(_, filter)| &filter.0);
        for condition in conditions {
            for value in hashes(condition) {
                *asked.entry((&condition.key, value)).or_default() += 1;
            }
        }
        let crowd = |condition: &Condition| -> usize {
            hashes(condition)
                .filter_map(|value| asked.get(&(condition.key.as_str(), value)))
                .sum()
        };
        let mut index = Self {
            unfiltered: Vec::new(),
            keys: HashMap::new(),
            wanted: HashSet::new(),
        };
        for (member, filter) in members {
            let Some(condition) = filter.0.iter().min_by_key(|it| crowd(it)) else {
                index.unfiltered.push(member);
                continue;
            };
            let values = index.keys.entry(condition.key.clone()).or_default();
            for value in hashes(condition) {
                values.entry(value).or_default().push(member);
            }
            for key in filter.0.iter().map(|it| it.key.as_str()) {
                index.wanted.insert(key.to_owned());
                index
                    .wanted
                    .extend(key.split('.').next().map(str::to_owned));
            }
        }
        if !index.wanted.is_empty() {
            index.wanted.insert("metadata".to_owned());
        }
        index
    }

    /// Members whose filter is empty: every row is for them.
    pub fn unfiltered(&self) -> &[T] {
        &self.unfiltered
    }

    /// Whether there are no others.
    pub fn is_unfiltered(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys of a row that its filters look at. `metadata` is among them.
    pub fn wanted(&self) -> &HashSet<String> {
        &self.wanted
    }

    /// Appends the members whose filters may match the row, each once. Those that are
    /// [unfiltered](Index::unfiltered) are not among them.
    pub fn candidates(&self, row: &Value, into: &mut Vec<T>) {
        let begin = into.len();
        for (key, values) in &self.keys {
            let at = |value: &Value| values.get(&hash(value)).into_iter().flatten().copied();
            match found(row, key) {
                None => {}
                Some(Value::Array(members)) => into.extend(members.iter().flat_map(at)),
                Some(value) => into.extend(at(value)),
            }
        }
        into[begin..].sort_unstable();
        let mut kept = begin;
        for next in begin..into.len() {
            if next == begin || into[next] != into[kept - 1] {
                into[kept] = into[next];
                kept += 1;
            }
        }
        into.truncate(kept);
    }
}

/// Of each value that a condition accepts.
fn hashes(condition: &Condition) -> impl Iterator<Item = u64> {
    let strings = condition
        .strings
        .iter()
        .map(|it| hash_of(&Scalar::Text(it)));
    let numbers = condition
        .numbers
        .iter()
        .map(|it| hash_of(&Scalar::Number(it)));
    let booleans = condition
        .booleans
        .iter()
        .map(|it| hash_of(&Scalar::Bool(*it)));
    let null = condition.null.then(|| hash_of(&Scalar::Null));
    strings.chain(numbers).chain(booleans).chain(null)
}

/// Equal for values that a filter takes to be equal.
fn hash(value: &Value) -> u64 {
    match value {
        Value::Null => hash_of(&Scalar::Null),
        Value::Bool(it) => hash_of(&Scalar::Bool(*it)),
        Value::Number(it) => hash_of(&Scalar::Number(&value_of(it.as_str()))),
        Value::String(it) => hash_of(&Scalar::Text(it)),
        // No filter asks for them.
        Value::Array(_) | Value::Object(_) => 0,
    }
}

#[derive(Hash)]
enum Scalar<'a> {
    Null,
    Bool(bool),
    /// As [`value_of`] spells it.
    Number(&'a str),
    Text(&'a str),
}

fn hash_of(value: &Scalar<'_>) -> u64 {
    let mut state = DefaultHasher::new();
    value.hash(&mut state);
    state.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn candidates(filters: &[Filter], row: &Value) -> Vec<usize> {
        let index = Index::of(filters.iter().enumerate());
        let mut found = index.unfiltered().to_vec();
        index.candidates(row, &mut found);
        found
    }

    #[test]
    fn a_filter_is_filed_under_its_rarest_value() {
        let filters: Vec<Filter> = (0..1_000)
            .map(|n| Filter::parse(&json!({"tags": "food", "shard": n})).unwrap())
            .collect();
        let row = json!({"tags": ["food", "drink"], "shard": 7.0});
        assert_eq!(candidates(&filters, &row), [7]);
    }

    #[test]
    fn a_member_is_found_once() {
        let filters = [Filter::parse(&json!({"tags": ["a", "b"]})).unwrap()];
        assert_eq!(candidates(&filters, &json!({"tags": ["a", "b", "a"]})), [0]);
    }

    fn scalar() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|it| json!(it)),
            prop_oneof![
                Just("1"),
                Just("1.0"),
                Just("10e-1"),
                Just("2"),
                Just("-0"),
                Just("0")
            ]
            .prop_map(|text| text.parse::<Value>().unwrap()),
            "[ab]{0,2}".prop_map(|it| json!(it)),
        ]
    }

    fn object() -> impl Strategy<Value = Value> {
        let value = prop_oneof![
            scalar(),
            proptest::collection::vec(scalar(), 0..3).prop_map(Value::Array)
        ];
        proptest::collection::hash_map(
            prop_oneof![Just("a"), Just("b"), Just("m.a"), Just("metadata")],
            value,
            0..3,
        )
        .prop_map(|it| json!(it))
    }

    proptest! {
        #[test]
        fn nothing_that_matches_is_missed(
            filters in proptest::collection::vec(object(), 0..8),
            row in object(),
            inner in object(),
            nested in any::<bool>(),
        ) {
            let filters: Vec<Filter> = filters.iter().map(|it| Filter::parse(it).unwrap()).collect();
            let mut row = row;
            if nested {
                row["metadata"] = inner;
            } else {
                row["m"] = inner;
            }
            let found = candidates(&filters, &row);
            for (number, filter) in filters.iter().enumerate() {
                if filter.matches(&row) {
                    prop_assert_eq!(found.iter().filter(|it| **it == number).count(), 1);
                }
            }
        }
    }
}
