//! Numbers, spelled as ECMAScript's `Number::toString` does where that keeps their value.

use super::string::write_string;

/// Integers of so many digits are doubles exactly, and spelled alike.
const PLAIN_DIGITS: usize = 15;

/// Writes a number.
///
/// `text` is a number of JSON, or what Postgres writes for a `numeric` or a float. If its decimal
/// value is that of the shortest decimal of the nearest double, JavaScript's spelling of that
/// double is written (`-0` is `0`), and otherwise the text exactly. Postgres's `NaN` and
/// `Infinity`, and whatever else is not a number, are written as strings, as `to_json` does.
pub fn write_number(text: &str, out: &mut String) {
    if is_plain_integer(text.as_bytes()) {
        out.push_str(text);
        return;
    }
    let (Some(decimal), Ok(double)) = (Decimal::parse(text), text.parse::<f64>()) else {
        write_string(text, out);
        return;
    };
    if double.is_finite() {
        let mut buffer = ryu_js::Buffer::new();
        let spelled = buffer.format_finite(double);
        if Decimal::parse(spelled).is_some_and(|shortest| shortest.equals(&decimal)) {
            out.push_str(spelled);
            return;
        }
    }
    out.push_str(text);
}

/// Writes a double as JavaScript does; what is not finite as `null`, as `JSON.stringify` does.
pub fn write_f64(number: f64, out: &mut String) {
    if number.is_finite() {
        out.push_str(ryu_js::Buffer::new().format_finite(number));
    } else {
        out.push_str("null");
    }
}

/// A number of JSON in one spelling for each value, exactly: that of `1`, `1.0` and `10e-1` is the same.
pub(crate) fn value_of(text: &str) -> String {
    let Some(decimal) = Decimal::parse(text).filter(|it| !it.is_zero()) else {
        return "0".to_owned();
    };
    let mut digits: String = [decimal.whole, decimal.fraction]
        .iter()
        .flat_map(|part| part.iter().copied().map(char::from))
        .collect();
    digits.truncate(digits.trim_end_matches('0').len());
    let sign = if decimal.negative { "-" } else { "" };
    format!("{sign}{digits}e{}", decimal.point)
}

fn is_plain_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => {
            rest.len() < PLAIN_DIGITS && rest.iter().all(u8::is_ascii_digit)
        }
        _ => false,
    }
}

/// A decimal number as it is written, with nothing rounded.
struct Decimal<'a> {
    negative: bool,
    /// Digits before the point, without zeros in front.
    whole: &'a [u8],
    /// Digits behind the point, without zeros in front if `whole` is empty.
    fraction: &'a [u8],
    /// Where the point is, counted from before the first digit that is not zero.
    point: i64,
}

impl<'a> Decimal<'a> {
    /// Reads what the grammar of JSON calls a number.
    fn parse(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (negative, bytes) = match bytes {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, bytes),
        };
        let (whole, rest) = digits(bytes);
        if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
            return None;
        }
        let (fraction, rest) = match rest {
            [b'.', rest @ ..] => match digits(rest) {
                ([], _) => return None,
                found => found,
            },
            _ => (&[][..], rest),
        };
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', b'-', rest @ ..] => -magnitude(rest)?,
            [b'e' | b'E', b'+', rest @ ..] | [b'e' | b'E', rest @ ..] => magnitude(rest)?,
            _ => return None,
        };
        let whole = without_zeros(whole);
        let significant = if whole.is_empty() {
            without_zeros(fraction)
        } else {
            fraction
        };
        let skipped = fraction.len() - significant.len();
        let point = i64::try_from(whole.len()).ok()? - i64::try_from(skipped).ok()?;
        Some(Self {
            negative,
            whole,
            fraction: significant,
            point: point.saturating_add(exponent),
        })
    }

    fn equals(&self, other: &Self) -> bool {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => true,
            (false, false) => {
                self.negative == other.negative
                    && self.point == other.point
                    && self.same_digits(other)
            }
            _ => false,
        }
    }

    fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    fn same_digits(&self, other: &Self) -> bool {
        let mut ours = self.whole.iter().chain(self.fraction);
        let mut theirs = other.whole.iter().chain(other.fraction);
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return true,
                (a, b) if a.unwrap_or(&b'0') == b.unwrap_or(&b'0') => {}
                _ => return false,
            }
        }
    }
}

fn digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(bytes.len());
    bytes.split_at(end)
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let start = digits
        .iter()
        .position(|&digit| digit != b'0')
        .unwrap_or(digits.len());
    &digits[start..]
}

/// An exponent without its sign. One that is too large for the type has long left the doubles.
fn magnitude(bytes: &[u8]) -> Option<i64> {
    match digits(bytes) {
        (found @ [_, ..], []) => Some(found.iter().fold(0_i64, |sum, &digit| {
            sum.saturating_mul(10)
                .saturating_add(i64::from(digit - b'0'))
        })),
        _ => None,
    }
}
