//! Query strings.

use super::{Detail, Field, Input, Kind, Problem, body, complaint};
use serde_json::{Map, Value};
use std::borrow::Cow;
use url::form_urlencoded;

/// The parameters of a query string, decoded, in order.
///
/// # Errors
/// One that no text can hold: U+0000.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    let broken = pairs
        .iter()
        .find(|(name, value)| name.contains('\0') || value.contains('\0'));
    match broken {
        None => Ok(pairs),
        Some((name, _)) => Err(Problem::invalid(vec![Detail {
            field: crate::quote::quote(name),
            message: "must not hold the character U+0000".to_owned(),
        }])),
    }
}

/// Judges parameters: those that are fields, each at most once; others are passed over, since proxies and
/// browsers add their own. A parameter without a value is one that was not given.
///
/// # Errors
/// All that is wrong with them.
pub fn judge(pairs: &[(String, String)], fields: &[Field]) -> Result<Input, Problem> {
    let mut details = Vec::new();
    let mut input = Map::new();
    for field in fields {
        let mut given = pairs
            .iter()
            .filter(|(name, value)| name == field.name && !value.is_empty());
        let Some((name, text)) = given.next() else {
            continue;
        };
        let complaint = match (given.next(), value(field.kind, text)) {
            (Some(_), _) => Some(Cow::Borrowed("is given more than once")),
            (None, value) => {
                let complaint = complaint(field.kind, &value).map(Cow::Owned);
                input.insert(name.clone(), value);
                complaint
            }
        };
        if let Some(message) = complaint {
            details.push(Detail {
                field: name.clone(),
                message: message.into_owned(),
            });
        }
    }
    body::missing(fields, &input, &mut details);
    if details.is_empty() {
        Ok(Input(input))
    } else {
        Err(Problem::invalid(details))
    }
}

/// What a parameter's text means.
fn value(kind: Kind, text: &str) -> Value {
    let parsed = match kind {
        Kind::Flag => text.parse::<bool>().ok().map(Value::from),
        Kind::Whole(..) => text.parse::<i64>().ok().map(Value::from),
        _ => None,
    };
    parsed.unwrap_or_else(|| Value::from(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const FIELDS: &[Field] = &[
        Field::optional("active", Kind::Flag),
        Field::optional("event", Kind::Text),
        Field::optional("limit", Kind::Whole(1, 1_000)),
    ];

    fn judged(query: &str) -> Result<Input, Problem> {
        judge(&pairs(query)?, FIELDS)
    }

    fn wrong(query: &str) -> Vec<String> {
        let details = judged(query).unwrap_err().details;
        details.into_iter().map(|it| it.field).collect()
    }

    #[test]
    fn what_fits_is_there() {
        let input = judged("active=true&event=memory.%2A&limit=1000&utm_source=x").unwrap();
        assert_eq!(input.flag("active"), Some(true));
        assert_eq!(input.text("event"), Some("memory.*"));
        assert_eq!(input.whole("limit"), Some(1_000));
        assert_eq!(judged("").unwrap(), Input::default());
        assert_eq!(judged("limit=&active").unwrap(), Input::default());
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for limit in [
            "abc",
            "0",
            "1001",
            "-1",
            "1.5",
            "1e2",
            "99999999999999999999",
            "0x10",
        ] {
            assert_eq!(wrong(&format!("limit={limit}")), ["limit"], "{limit}");
        }
        for active in ["yes", "TRUE", "1", "null"] {
            assert_eq!(wrong(&format!("active={active}")), ["active"], "{active}");
        }
        assert_eq!(wrong("limit=x&active=y"), ["active", "limit"]);
        assert_eq!(wrong("limit=5&limit=6"), ["limit"]);
        assert_eq!(wrong("event=%00"), ["event"]);
    }

    #[test]
    fn what_is_no_utf8_is_replaced() {
        assert_eq!(judged("event=%ff").unwrap().text("event"), Some("\u{fffd}"));
    }
}
