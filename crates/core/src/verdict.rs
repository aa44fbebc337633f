//! The verdict on an attempt: delivered, again later, or failed; and when to give up on a webhook.

use crate::retry::{Policy, delay};
use crate::time::parse_retry_after;
use std::time::Duration;

/// So many deliveries must have failed before a webhook is switched off for it.
pub const DISABLE_FAILURES: u64 = 20;

const GONE: u16 = 410;
const TOO_MANY_REQUESTS: u16 = 429;
const SERVICE_UNAVAILABLE: u16 = 503;

/// The shortest pause. `Retry-After` counts in whole seconds, and many receivers cut off the rest: 0 means less than one.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// How an attempt ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Ended {
    /// The endpoint answered.
    Status {
        /// The status code.
        code: u16,
        /// The header `Retry-After`, as it came.
        retry_after: Option<String>,
    },
    /// It did not, and why.
    Error(String),
}

impl Ended {
    /// A status of the class 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Ended::Status { code: 200..300, .. })
    }
}

/// What becomes of the delivery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Done.
    Delivered,
    /// Another attempt, so long after the end of this one.
    Retry {
        /// How long.
        after: Duration,
    },
    /// No more attempts.
    Failed,
}

/// What becomes of the delivery and of its webhook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Judgement {
    /// Of the delivery.
    pub verdict: Verdict,
    /// The webhook is to be switched off: the endpoint said that it is gone (410).
    pub disable: bool,
    /// The endpoint asks for a pause of this length, counted from the end of this attempt: 429 or 503 with `Retry-After`. No
    /// delivery goes to the webhook until then; when it ends, each is due as scheduled.
    pub pause: Option<Duration>,
}

/// Whether this status refuses a request for reasons of load: what was sent may be sent again later.
#[must_use]
pub fn is_refusal(status: u16) -> bool {
    matches!(status, TOO_MANY_REQUESTS | SERVICE_UNAVAILABLE)
}

/// Judges an attempt.
///
/// `attempt_in_round` is its number, from 1, since the delivery was queued or queued again;
/// `now_unix_ms` is what a date in `Retry-After` is compared with; `jitter` is as for [`delay`].
#[must_use]
pub fn judge(
    ended: &Ended,
    policy: &Policy,
    attempt_in_round: u32,
    now_unix_ms: i64,
    jitter: Option<f64>,
) -> Judgement {
    let verdict = match ended {
        Ended::Status {
            code: 200..=299, ..
        } => Verdict::Delivered,
        Ended::Status { code: GONE, .. } => {
            return Judgement {
                verdict: Verdict::Failed,
                disable: true,
                pause: None,
            };
        }
        _ if attempt_in_round >= policy.max_attempts => Verdict::Failed,
        // The pause alone makes it wait for longer than scheduled: when that is ended, nothing is left of it.
        _ => Verdict::Retry {
            after: delay(policy, attempt_in_round.saturating_add(1), jitter),
        },
    };
    Judgement {
        verdict,
        disable: false,
        pause: asked_for(ended, now_unix_ms).map(|asked| asked.max(PAUSE_MIN)),
    }
}

/// How long the endpoint asks to wait, at most a day; only some statuses may ask.
fn asked_for(ended: &Ended, now_unix_ms: i64) -> Option<Duration> {
    match ended {
        Ended::Status { code, retry_after } if is_refusal(*code) => {
            parse_retry_after(retry_after.as_deref()?, now_unix_ms)
        }
        _ => None,
    }
}

/// Whether a webhook is to be switched off because nothing gets through.
///
/// `failed_since_success` deliveries have failed and none was delivered since `failing_since_ms`,
/// when the first of them failed. It takes [`DISABLE_FAILURES`], over `disable_after_ms`
/// milliseconds; 0 there: never.
#[must_use]
pub fn should_disable(
    failed_since_success: u64,
    failing_since_ms: Option<i64>,
    now_ms: i64,
    disable_after_ms: i64,
) -> bool {
    disable_after_ms > 0
        && failed_since_success >= DISABLE_FAILURES
        && failing_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= disable_after_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status(code: u16, retry_after: Option<&str>) -> Ended {
        Ended::Status {
            code,
            retry_after: retry_after.map(str::to_owned),
        }
    }

    fn verdict(ended: &Ended, attempt: u32) -> Verdict {
        let judged = judge(ended, &Policy::default(), attempt, 0, None);
        assert!(!judged.disable);
        judged.verdict
    }

    fn retry(seconds: u64) -> Verdict {
        Verdict::Retry {
            after: Duration::from_secs(seconds),
        }
    }

    #[test]
    fn success_is_any_2xx() {
        for code in [200, 201, 202, 204, 299] {
            assert_eq!(verdict(&status(code, None), 1), Verdict::Delivered);
            assert_eq!(verdict(&status(code, Some("60")), 3), Verdict::Delivered);
        }
    }

    #[test]
    fn all_else_retries_until_the_last_attempt() {
        let error = Ended::Error("connection refused".to_owned());
        for ended in [
            status(100, None),
            status(199, None),
            status(300, None),
            status(301, None),
            status(404, None),
            status(500, None),
            error,
        ] {
            assert_eq!(verdict(&ended, 1), retry(1));
            assert_eq!(verdict(&ended, 2), retry(2));
            assert_eq!(verdict(&ended, 3), Verdict::Failed);
            assert_eq!(verdict(&ended, 4), Verdict::Failed);
        }
    }

    #[test]
    fn gone_fails_at_once_and_disables() {
        let judged = judge(&status(410, Some("5")), &Policy::default(), 1, 0, None);
        assert_eq!(
            judged,
            Judgement {
                verdict: Verdict::Failed,
                disable: true,
                pause: None,
            }
        );
    }

    #[test]
    fn an_endpoint_pauses_its_webhook_by_429_and_503_with_retry_after() {
        let pause =
            |ended: &Ended, attempt| judge(ended, &Policy::default(), attempt, 0, None).pause;
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for code in [429, 503] {
            assert_eq!(pause(&status(code, Some("60")), 1), seconds(60));
            assert_eq!(
                pause(&status(code, Some("60")), 3),
                seconds(60),
                "the last attempt"
            );
            assert_eq!(pause(&status(code, Some("999999999")), 1), seconds(86_400));
            assert_eq!(pause(&status(code, Some("0")), 1), seconds(1));
            let past = "Thu, 01 Jan 1970 00:00:00 GMT";
            assert_eq!(pause(&status(code, Some(past)), 1), seconds(1));
            assert_eq!(pause(&status(code, Some("soon")), 1), None);
            assert_eq!(pause(&status(code, None), 1), None);
        }
        for code in [200, 301, 410, 500, 502, 504] {
            assert_eq!(pause(&status(code, Some("60")), 1), None, "{code}");
        }
        assert_eq!(pause(&Ended::Error("timed out".to_owned()), 1), None);
    }

    #[test]
    fn retry_after_is_honoured_for_429_and_503_alone() {
        // The next attempt starts when the pause is over, and never sooner than the schedule.
        let next = |value, attempt| {
            let ended = status(429, Some(value));
            let other = status(503, Some(value));
            let judged = judge(&ended, &Policy::default(), attempt, 0, None);
            assert_eq!(judged, judge(&other, &Policy::default(), attempt, 0, None));
            let Verdict::Retry { after } = judged.verdict else {
                return judged.verdict;
            };
            Verdict::Retry {
                after: after.max(judged.pause.unwrap_or_default()),
            }
        };
        assert_eq!(next("60", 1), retry(60));
        assert_eq!(next("Thu, 01 Jan 1970 00:02:00 GMT", 1), retry(120));
        assert_eq!(next("60", 3), Verdict::Failed);
        // Never later than a day.
        assert_eq!(next("0", 2), retry(2));
        assert_eq!(next("1", 2), retry(2));
        assert_eq!(next("1e300", 2), retry(2));
        assert_eq!(next("999999999999999999999", 1), retry(86_400));
        assert_eq!(verdict(&status(500, Some("60")), 1), retry(1));
        assert_eq!(verdict(&status(301, Some("60")), 1), retry(1));
    }

    #[test]
    fn a_webhook_is_switched_off_after_20_failures_over_the_time() {
        const DAY: i64 = 86_400_000;
        assert!(should_disable(20, Some(0), 5 * DAY, 5 * DAY));
        assert!(!should_disable(19, Some(0), 5 * DAY, 5 * DAY));
        assert!(!should_disable(20, Some(1), 5 * DAY, 5 * DAY));
        assert!(!should_disable(20, None, 5 * DAY, 5 * DAY));
        assert!(!should_disable(1_000, Some(0), i64::MAX, 0));
    }

    #[test]
    fn the_pause_alone_delays_what_was_refused() {
        for code in [429, 503] {
            assert_eq!(verdict(&status(code, Some("60")), 1), retry(1));
            assert_eq!(verdict(&status(code, Some("60")), 2), retry(2));
        }
    }

    proptest! {
        #[test]
        fn no_retry_is_sooner_than_the_schedule(code in 100u16..600, value: String, seconds: u64, attempt in 1u32..99, now: i64) {
            let policy = Policy { max_attempts: 100, ..Policy::default() };
            for retry_after in [Some(value), Some(seconds.to_string()), None] {
                let ended = Ended::Status { code, retry_after };
                if let Verdict::Retry { after } = judge(&ended, &policy, attempt, now, None).verdict {
                    prop_assert_eq!(after, delay(&policy, attempt + 1, None));
                    prop_assert!(after <= Duration::from_secs(86_400));
                } else {
                    prop_assert!(code == 410 || (200..300).contains(&code));
                }
            }
        }
    }
}
