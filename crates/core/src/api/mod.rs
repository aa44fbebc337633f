//! The REST API, as far as it is decided without the database: what a request says, and what is answered.
//!
//! A request comes as a query string or as a body. [`query`] and [`body`] judge it against a list of
//! [`Field`]s and name everything that is wrong at once; [`Problem`] says which error that is, from the
//! SQLSTATE of whatever failed or from here, and is written as the error envelope. There is no other place
//! that knows which error has which HTTP status.

pub mod body;
mod envelope;
pub mod query;

pub use envelope::{Code, Detail, Problem, success};

use serde_json::{Map, Value};

/// What a field holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A string.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number in this range, ends included.
    Whole(i64, i64),
    /// An array of strings.
    Texts,
    /// A point in time: RFC 3339, with an offset.
    Time,
    /// An object or null, which whoever is given it judges.
    Object,
    /// Whatever JSON there is, which whoever is given it judges.
    Any,
}

/// A key of a body, or a parameter of a query string.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it means when it is not there.
    pub absence: Absence,
}

/// What it means that a field is missing, or null.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Absence {
    /// An error.
    Refused,
    /// That its default holds; null means the same.
    Default,
    /// That it stays as it is. Null is a value like others.
    Unchanged,
}

impl Field {
    /// A field that must be given.
    #[must_use]
    pub const fn required(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            absence: Absence::Refused,
        }
    }

    /// A field that has a default.
    #[must_use]
    pub const fn optional(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            absence: Absence::Default,
        }
    }

    /// A field of a partial change.
    #[must_use]
    pub const fn change(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            absence: Absence::Unchanged,
        }
    }
}

/// The fields of a request, judged: each is there if it was given, and holds what its kind says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Input(Map<String, Value>);

impl Input {
    /// A text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A flag.
    #[must_use]
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.0.get(name)?.as_bool()
    }

    /// A whole number.
    #[must_use]
    pub fn whole(&self, name: &str) -> Option<i64> {
        whole(self.0.get(name)?)
    }

    /// A list of texts.
    #[must_use]
    pub fn texts(&self, name: &str) -> Option<Vec<String>> {
        let items = self.0.get(name)?.as_array()?;
        Some(
            items
                .iter()
                .filter_map(|it| it.as_str().map(str::to_owned))
                .collect(),
        )
    }

    /// A time, as Unix microseconds.
    #[must_use]
    pub fn time(&self, name: &str) -> Option<i64> {
        time(self.text(name)?)
    }

    /// Whatever it is.
    #[must_use]
    pub fn json(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All that was given, as one object.
    #[must_use]
    pub fn into_object(self) -> Map<String, Value> {
        self.0
    }
}

/// Why a value is not of this kind; `None`: it is.
fn complaint(kind: Kind, value: &Value) -> Option<String> {
    let fits = match kind {
        Kind::Text => value.is_string(),
        Kind::Flag => value.is_boolean(),
        Kind::Whole(low, high) => whole(value).is_some_and(|number| (low..=high).contains(&number)),
        Kind::Texts => value
            .as_array()
            .is_some_and(|items| items.iter().all(Value::is_string)),
        Kind::Time => value.as_str().and_then(time).is_some(),
        Kind::Object => value.is_object() || value.is_null(),
        Kind::Any => true,
    };
    (!fits).then(|| {
        format!(
            "must be {}",
            match kind {
                Kind::Text => "a string".to_owned(),
                Kind::Flag => "true or false".to_owned(),
                Kind::Whole(low, high) => format!("a whole number from {low} to {high}"),
                Kind::Texts => "an array of strings".to_owned(),
                Kind::Time => "a time such as 2024-01-15T10:30:00Z".to_owned(),
                Kind::Object => "an object or null".to_owned(),
                Kind::Any => "JSON".to_owned(),
            }
        )
    })
}

/// A whole number, however JSON spells it: `5`, `5.0` and `5e0` are one number.
fn whole(value: &Value) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    // Up to here every whole number has a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let number = value.as_f64()?;
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}

/// Unix microseconds of a time.
fn time(text: &str) -> Option<i64> {
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(at.as_microsecond())
}
