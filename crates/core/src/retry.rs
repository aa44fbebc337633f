//! The schedule of retries: a webhook's policy, and the delay it gives before each attempt.

use crate::quote::quote;
use serde_json::Value;
use std::time::Duration;
use thiserror::Error;

/// Jitter is added to delays from this one on, in seconds.
const JITTER_FROM: f64 = 10.0;
/// The most that jitter adds, as a part of the delay.
const JITTER_PART: f64 = 0.1;

const MAX_ATTEMPTS: &str = "max_attempts";
const BACKOFF_MULTIPLIER: &str = "backoff_multiplier";
const MAX_DELAY: &str = "max_delay";

/// When to try again. Attempt n starts min(`backoff_multiplier`^(n-2), `max_delay`) seconds after
/// attempt n-1 ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Attempts in all, 1 to 100.
    pub max_attempts: u32,
    /// By which each delay is longer than the one before, 1 to 10.
    pub backoff_multiplier: f64,
    /// The longest delay in seconds, 1 to 86,400.
    pub max_delay: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff_multiplier: 2.0,
            max_delay: 300,
        }
    }
}

/// A JSON value that is not a retry policy.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum PolicyError {
    /// Neither an object nor null.
    #[error("retry_policy must be an object")]
    NotAnObject,
    /// A key that a policy does not have.
    #[error("retry_policy has an unknown key \"{0}\"")]
    UnknownKey(String),
    /// Not a number, or outside its range.
    #[error("retry_policy.{key} must be a number from {min} to {max}")]
    Range {
        /// Which key.
        key: &'static str,
        /// The lowest value.
        min: u32,
        /// The highest value.
        max: u32,
    },
    /// A fraction where only whole numbers are.
    #[error("retry_policy.{key} must be a whole number from {min} to {max}")]
    Fraction {
        /// Which key.
        key: &'static str,
        /// The lowest value.
        min: u32,
        /// The highest value.
        max: u32,
    },
}

impl PolicyError {
    /// What to do instead.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAnObject => {
                r#"Use an object such as {"max_attempts": 3, "backoff_multiplier": 2, "max_delay": 300}."#.to_owned()
            }
            Self::UnknownKey(_) => format!("The keys are {MAX_ATTEMPTS}, {BACKOFF_MULTIPLIER} and {MAX_DELAY}."),
            Self::Range { .. } | Self::Fraction { .. } => {
                "Leave the key out, or set it to null for its default.".to_owned()
            }
        })
    }
}

impl Policy {
    /// Takes a change: `null` is the default policy; an object changes the keys it has, and a key
    /// that is null gets its default.
    ///
    /// # Errors
    /// Anything but null and an object, an unknown key, or a value outside its range.
    pub fn merge(self, change: &Value) -> Result<Self, PolicyError> {
        let default = Self::default();
        let object = match change {
            Value::Null => return Ok(default),
            Value::Object(object) => object,
            _ => return Err(PolicyError::NotAnObject),
        };
        let mut policy = self;
        for (key, value) in object {
            match key.as_str() {
                MAX_ATTEMPTS => {
                    policy.max_attempts = whole(MAX_ATTEMPTS, value, 1, 100, default.max_attempts)?
                }
                BACKOFF_MULTIPLIER => {
                    policy.backoff_multiplier =
                        number(BACKOFF_MULTIPLIER, value, 1, 10, default.backoff_multiplier)?;
                }
                MAX_DELAY => {
                    policy.max_delay = whole(MAX_DELAY, value, 1, 86_400, default.max_delay)?
                }
                _ => return Err(PolicyError::UnknownKey(quote(key))),
            }
        }
        Ok(policy)
    }

    /// The policy as users see it; whole numbers without a point.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut multiplier = String::new();
        crate::json::write_f64(self.backoff_multiplier, &mut multiplier);
        let multiplier: Value = multiplier.parse().unwrap_or(Value::Null);
        serde_json::json!({
            MAX_ATTEMPTS: self.max_attempts,
            BACKOFF_MULTIPLIER: multiplier,
            MAX_DELAY: self.max_delay,
        })
    }
}

fn number(
    key: &'static str,
    value: &Value,
    min: u32,
    max: u32,
    default: f64,
) -> Result<f64, PolicyError> {
    if value.is_null() {
        return Ok(default);
    }
    value
        .as_f64()
        .filter(|number| (f64::from(min)..=f64::from(max)).contains(number))
        .ok_or(PolicyError::Range { key, min, max })
}

fn whole(
    key: &'static str,
    value: &Value,
    min: u32,
    max: u32,
    default: u32,
) -> Result<u32, PolicyError> {
    let number = number(key, value, min, max, f64::from(default))?;
    if number.fract() == 0.0 {
        // In range: no part of the value is lost.
        Ok(number as u32)
    } else {
        Err(PolicyError::Fraction { key, min, max })
    }
}

/// How long after the end of the attempt before does attempt number `attempt`, from 1, start.
///
/// `jitter`, in 0 to 1, adds up to a tenth to delays of 10 seconds and more.
#[must_use]
pub fn delay(policy: &Policy, attempt: u32, jitter: Option<f64>) -> Duration {
    let Some(exponent) = attempt.checked_sub(2) else {
        return Duration::ZERO;
    };
    let exponent = i32::try_from(exponent).unwrap_or(i32::MAX);
    // f64::min takes the longest delay also for what is not a number.
    let mut seconds = policy
        .backoff_multiplier
        .powi(exponent)
        .min(f64::from(policy.max_delay))
        .max(0.0);
    if let Some(jitter) = jitter.filter(|jitter| !jitter.is_nan() && seconds >= JITTER_FROM) {
        seconds += seconds * JITTER_PART * jitter.clamp(0.0, 1.0);
    }
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(u64::from(policy.max_delay)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn seconds(policy: &Policy, attempts: std::ops::RangeInclusive<u32>) -> Vec<f64> {
        attempts
            .map(|attempt| delay(policy, attempt, None).as_secs_f64())
            .collect()
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let policy = Policy {
            max_attempts: 100,
            ..Policy::default()
        };
        assert_eq!(seconds(&policy, 1..=6), [0.0, 1.0, 2.0, 4.0, 8.0, 16.0]);
        assert_eq!(seconds(&policy, 10..=12), [256.0, 300.0, 300.0]);
        assert_eq!(seconds(&policy, 0..=0), [0.0]);
        assert_eq!(seconds(&policy, u32::MAX..=u32::MAX), [300.0]);
        let slow = Policy {
            backoff_multiplier: 1.5,
            ..policy
        };
        assert_eq!(seconds(&slow, 2..=4), [1.0, 1.5, 2.25]);
        let flat = Policy {
            backoff_multiplier: 1.0,
            ..policy
        };
        assert_eq!(seconds(&flat, 2..=4), [1.0; 3]);
    }

    #[test]
    fn jitter_is_for_delays_of_ten_seconds_and_more() {
        let policy = Policy {
            backoff_multiplier: 10.0,
            ..Policy::default()
        };
        assert_eq!(delay(&policy, 2, Some(1.0)), Duration::from_secs(1));
        assert_eq!(delay(&policy, 3, Some(0.0)), Duration::from_secs(10));
        assert_eq!(delay(&policy, 3, Some(1.0)), Duration::from_secs(11));
        assert_eq!(delay(&policy, 3, Some(7.0)), Duration::from_secs(11));
        assert_eq!(delay(&policy, 4, Some(0.5)), Duration::from_secs(105));
        assert_eq!(
            delay(&Policy::default(), 5, Some(1.0)),
            Duration::from_secs(8)
        );
    }

    #[test]
    fn merge_goes_key_by_key_and_null_is_the_default() {
        let mine = Policy {
            max_attempts: 7,
            backoff_multiplier: 3.5,
            max_delay: 60,
        };
        assert_eq!(mine.merge(&Value::Null), Ok(Policy::default()));
        assert_eq!(mine.merge(&json!({})), Ok(mine));
        assert_eq!(
            mine.merge(&json!({"max_attempts": 2.0})),
            Ok(Policy {
                max_attempts: 2,
                ..mine
            })
        );
        assert_eq!(
            mine.merge(
                &json!({"max_attempts": null, "max_delay": 86_400, "backoff_multiplier": 1})
            ),
            Ok(Policy {
                max_attempts: 3,
                backoff_multiplier: 1.0,
                max_delay: 86_400
            })
        );
    }

    #[test]
    fn mistakes_name_the_key_and_the_range() {
        for (change, message) in [
            ("7", "retry_policy must be an object"),
            ("[]", "retry_policy must be an object"),
            (
                r#"{"attempts":1}"#,
                "retry_policy has an unknown key \"attempts\"",
            ),
            (
                r#"{"max_attempts":0}"#,
                "retry_policy.max_attempts must be a number from 1 to 100",
            ),
            (
                r#"{"max_attempts":101}"#,
                "retry_policy.max_attempts must be a number from 1 to 100",
            ),
            (
                r#"{"max_attempts":"3"}"#,
                "retry_policy.max_attempts must be a number from 1 to 100",
            ),
            (
                r#"{"max_attempts":true}"#,
                "retry_policy.max_attempts must be a number from 1 to 100",
            ),
            (
                r#"{"max_attempts":1e400}"#,
                "retry_policy.max_attempts must be a number from 1 to 100",
            ),
            (
                r#"{"max_attempts":2.5}"#,
                "retry_policy.max_attempts must be a whole number from 1 to 100",
            ),
            (
                r#"{"max_delay":0.5}"#,
                "retry_policy.max_delay must be a number from 1 to 86400",
            ),
            (
                r#"{"max_delay":86401}"#,
                "retry_policy.max_delay must be a number from 1 to 86400",
            ),
            (
                r#"{"max_delay":1.5}"#,
                "retry_policy.max_delay must be a whole number from 1 to 86400",
            ),
            (
                r#"{"backoff_multiplier":0.99}"#,
                "retry_policy.backoff_multiplier must be a number from 1 to 10",
            ),
            (
                r#"{"backoff_multiplier":10.1}"#,
                "retry_policy.backoff_multiplier must be a number from 1 to 10",
            ),
            (
                r#"{"backoff_multiplier":"NaN"}"#,
                "retry_policy.backoff_multiplier must be a number from 1 to 10",
            ),
        ] {
            let error = Policy::default()
                .merge(&change.parse().unwrap())
                .unwrap_err();
            assert_eq!(error.to_string(), message);
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn shown_as_it_was_given() {
        let text = r#"{"max_attempts":3,"backoff_multiplier":2,"max_delay":300}"#;
        assert_eq!(Policy::default().to_json().to_string(), text);
        let policy = Policy {
            backoff_multiplier: 1.5,
            ..Policy::default()
        };
        assert!(policy.to_json().to_string().contains(":1.5,"));
    }

    proptest! {
        #[test]
        fn a_policy_survives_being_shown(max_attempts in 1u32..=100, backoff_multiplier in 1.0f64..=10.0, max_delay in 1u32..=86_400) {
            let policy = Policy { max_attempts, backoff_multiplier, max_delay };
            prop_assert_eq!(Policy::default().merge(&policy.to_json()), Ok(policy));
        }

        #[test]
        fn delays_never_shrink_nor_pass_the_longest(multiplier in 1.0f64..=10.0, max_delay in 1u32..=86_400, attempt in 2u32..200, jitter in 0.0f64..1.0) {
            let policy = Policy { max_attempts: 100, backoff_multiplier: multiplier, max_delay };
            let this = delay(&policy, attempt, None);
            prop_assert!(this <= delay(&policy, attempt + 1, None));
            prop_assert!(this >= Duration::from_secs(1) && this <= Duration::from_secs(max_delay.into()));
            let later = delay(&policy, attempt, Some(jitter));
            prop_assert!(later >= this && later.as_secs_f64() <= this.as_secs_f64() * 1.1 + 1e-6);
        }

        #[test]
        fn nothing_in_a_policy_panics(multiplier: f64, max_delay: u32, attempt: u32, jitter: f64) {
            let policy = Policy { max_attempts: 1, backoff_multiplier: multiplier, max_delay };
            prop_assert!(delay(&policy, attempt, Some(jitter)) < Duration::MAX);
        }
    }
}
