//! Filters: they find what a plain reading of their rules finds.

use crate::halves;
use serde_json::Value;
use webhooks_core::filter::Filter;
use webhooks_core::json::parse;

pub(crate) fn law(bytes: &[u8]) {
    let (filter, row) = halves(bytes);
    let read = |bytes| {
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| parse(text).ok())
    };
    let (Some(rules), Some(row)) = (read(filter), read(row)) else {
        return;
    };
    let Ok(filter) = Filter::parse(&rules) else {
        return;
    };
    let matches = filter.matches(&row);
    assert_eq!(matches, plainly(&rules, &row), "{rules} on {row}");
    assert!(matches || !filter.is_empty(), "{row}");
    // What is stored is what was given.
    assert_eq!(
        parse(&rules.to_string()).ok().as_ref().map(Filter::parse),
        Some(Ok(filter))
    );
}

fn plainly(rules: &Value, row: &Value) -> bool {
    let Value::Object(rules) = rules else {
        return false;
    };
    rules.iter().all(|(key, wanted)| {
        let any = match wanted {
            Value::Array(any) => any.clone(),
            one => vec![one.clone()],
        };
        let found = look_up(row, key).or_else(|| look_up(row.get("metadata")?, key));
        let one_is = |value: &Value| any.iter().any(|wanted| same(wanted, value));
        match found {
            None => false,
            Some(Value::Array(members)) => members.iter().any(one_is),
            Some(value) => one_is(value),
        }
    })
}

fn look_up<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    if let Some(found) = object.get(key) {
        return Some(found);
    }
    let mut at = object;
    for part in key.split('.').filter(|_| key.contains('.')) {
        at = at.get(part)?;
    }
    key.contains('.').then_some(at)
}

fn same(wanted: &Value, value: &Value) -> bool {
    match (wanted, value) {
        (Value::Number(a), Value::Number(b)) => digits(a.as_str()) == digits(b.as_str()),
        (Value::Array(_) | Value::Object(_), _) => false,
        _ => wanted == value,
    }
}

/// Sign, digits without zeros at the ends, and the power of ten of the last one; zero is nothing.
fn digits(number: &str) -> Option<(bool, String, i128)> {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => {
            let limit = if exponent.starts_with('-') {
                i64::MIN
            } else {
                i64::MAX
            };
            (mantissa, exponent.parse::<i64>().unwrap_or(limit))
        }
        None => (number, 0),
    };
    let negative = mantissa.starts_with('-');
    let mantissa = mantissa.trim_start_matches('-');
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let kept = all.trim_end_matches('0');
    let power = i128::from(exponent) - fraction.len() as i128 + (all.len() - kept.len()) as i128;
    let kept = kept.trim_start_matches('0');
    (!kept.is_empty()).then(|| (negative, kept.to_owned(), power))
}
