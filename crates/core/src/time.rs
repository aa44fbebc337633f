//! Points in time as text: ISO 8601 for bodies, and what `Retry-After` holds.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

/// The longest wait that an endpoint can ask for: a day.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);

const MS_PER_DAY: i64 = 86_400_000;

/// A time in UTC with milliseconds, such as `2024-01-15T10:30:00.000Z`. See [`write_iso_millis`].
#[must_use]
pub fn iso_millis(unix_ms: i64) -> String {
    let mut out = String::with_capacity(24);
    write_iso_millis(unix_ms, &mut out);
    out
}

/// Appends a time in UTC as JavaScript's `Date.prototype.toISOString` writes it.
///
/// The calendar is the proleptic Gregorian one. Years outside 0 to 9999 have a sign and at least
/// six digits (ECMA-262, section 21.4.1.32.1).
pub fn write_iso_millis(unix_ms: i64, out: &mut String) {
    let (year, month, day) = civil(unix_ms.div_euclid(MS_PER_DAY));
    let in_day = unix_ms.rem_euclid(MS_PER_DAY);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, milli) = (in_day / 1_000 % 60, in_day % 1_000);
    // Writing to a String cannot fail.
    let _ = match year {
        0..=9_999 => write!(out, "{year:04}"),
        _ => write!(out, "{year:+07}"),
    };
    let _ = write!(
        out,
        "-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z"
    );
}

/// A time in UTC with as many digits as it needs: milliseconds, and microseconds where there are
/// any. `2024-01-15T10:30:00.000Z`, `2024-01-15T10:30:00.123456Z`.
#[must_use]
pub fn iso_micros(unix_us: i64) -> String {
    let mut out = iso_millis(unix_us.div_euclid(1_000));
    let micros = unix_us.rem_euclid(1_000);
    if micros != 0 {
        out.pop();
        // Writing to a String cannot fail.
        let _ = write!(out, "{micros:03}Z");
    }
    out
}

/// Year, month and day of a day counted from 1970-01-01: Howard Hinnant's `civil_from_days`, which
/// counts from 1 March of the year 0 in eras of 400 years.
const fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

/// How long a `Retry-After` header asks to wait (RFC 9110, section 10.2.3), at most
/// [`RETRY_AFTER_MAX`].
///
/// Whole seconds, or a date in any of HTTP's three forms; a date in the past is zero. `None` for
/// anything else.
#[must_use]
pub fn parse_retry_after(value: &str, now_unix_ms: i64) -> Option<Duration> {
    let value = value.trim_matches([' ', '\t']);
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only too many digits can make it fail.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    let at_ms = i64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    let wait = u64::try_from(at_ms.saturating_sub(now_unix_ms)).unwrap_or(0);
    Some(Duration::from_millis(wait).min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn microseconds_are_kept_where_there_are_any() {
        assert_eq!(
            iso_micros(1_705_314_600_000_000),
            "2024-01-15T10:30:00.000Z"
        );
        assert_eq!(
            iso_micros(1_705_314_600_123_000),
            "2024-01-15T10:30:00.123Z"
        );
        assert_eq!(
            iso_micros(1_705_314_600_123_006),
            "2024-01-15T10:30:00.123006Z"
        );
        assert_eq!(iso_micros(-1), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn times_are_written_as_javascript_writes_them() {
        // What new Date(ms).toISOString() gives in node.
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (1_705_314_600_000, "2024-01-15T10:30:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
            (-62_167_219_200_000, "0000-01-01T00:00:00.000Z"),
            (-62_167_219_200_001, "-000001-12-31T23:59:59.999Z"),
            (8_640_000_000_000_000, "+275760-09-13T00:00:00.000Z"),
            (-8_640_000_000_000_000, "-271821-04-20T00:00:00.000Z"),
        ] {
            assert_eq!(iso_millis(ms), text);
        }
        assert!(iso_millis(i64::MIN).starts_with('-') && iso_millis(i64::MAX).starts_with('+'));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        const NOW: i64 = 784_111_777_000; // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, seconds) in [
            ("0", 0),
            ("120", 120),
            (" 5\t", 5),
            ("007", 7),
            ("86400", 86_400),
            ("86401", 86_400),
            ("99999999999999999999999999", 86_400),
            ("Sun, 06 Nov 1994 08:50:37 GMT", 60),
            ("Sunday, 06-Nov-94 08:49:38 GMT", 1),
            ("Sun Nov  6 08:49:47 1994", 10),
            ("Sun, 06 Nov 1994 08:49:36 GMT", 0),
            ("Thu, 01 Jan 2099 00:00:00 GMT", 86_400),
        ] {
            assert_eq!(
                parse_retry_after(value, NOW),
                Some(Duration::from_secs(seconds)),
                "{value}"
            );
        }
        let half = parse_retry_after("Sun, 06 Nov 1994 08:49:38 GMT", NOW + 500);
        assert_eq!(half, Some(Duration::from_millis(500)));
    }

    #[test]
    fn garbage_in_retry_after_is_nothing() {
        for value in [
            "",
            " ",
            "1e300",
            "-1",
            "+1",
            "1.5",
            "0x10",
            "soon",
            "٣",
            "é",
            "1 2",
            "1, 2",
            "Sun, 06 Nov",
        ] {
            assert_eq!(parse_retry_after(value, 0), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_day_later_is_another_day(days in -3_000_000i64..3_000_000) {
            let (a, b) = (civil(days), civil(days + 1));
            prop_assert!((1..=12).contains(&a.1) && (1..=31).contains(&a.2));
            prop_assert!(a < b);
            prop_assert!(b.2 == a.2 + 1 || (b.2 == 1 && a.2 >= 28));
        }

        #[test]
        fn any_retry_after_is_at_most_a_day(value: String, now: i64) {
            prop_assert!(parse_retry_after(&value, now).is_none_or(|wait| wait <= RETRY_AFTER_MAX));
        }
    }
}
