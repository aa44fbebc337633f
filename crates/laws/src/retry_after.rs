//! `Retry-After`: whatever an endpoint asks for, its delivery is due as scheduled, and the webhook pauses for as long as was
//! asked for, but no longer than a day.

use std::time::Duration;
use webhooks_core::retry::{Policy, delay};
use webhooks_core::time::{RETRY_AFTER_MAX, parse_retry_after};
use webhooks_core::verdict::{Ended, Verdict, judge};

pub(crate) fn law(bytes: &[u8]) {
    let (now, value) = bytes.split_at(bytes.len().min(8));
    let mut now_ms = [0; 8];
    now_ms[..now.len()].copy_from_slice(now);
    let value = String::from_utf8_lossy(value);
    for now_ms in [i64::from_le_bytes(now_ms), 0, 1_705_314_600_000] {
        let asked = parse_retry_after(&value, now_ms);
        assert!(
            asked.is_none_or(|asked| asked <= RETRY_AFTER_MAX),
            "{value}"
        );
        if let Ok(seconds) = value.parse::<u32>()
            && !value.starts_with('+')
        {
            let seconds = Duration::from_secs(seconds.into());
            assert_eq!(asked, Some(seconds.min(RETRY_AFTER_MAX)), "{value}");
        }
        let policy = Policy::default();
        let ended = Ended::Status {
            code: 503,
            retry_after: Some(value.clone().into_owned()),
        };
        let scheduled = delay(&policy, 2, None);
        let judged = judge(&ended, &policy, 1, now_ms, None);
        match judged.verdict {
            Verdict::Retry { after } => assert_eq!(after, scheduled, "{value}"),
            other => assert!(matches!(other, Verdict::Retry { .. }), "{other:?}"),
        }
        assert_eq!(judged.pause.is_some(), asked.is_some(), "{value}");
        if let (Some(pause), Some(asked)) = (judged.pause, asked) {
            assert!(
                (asked..=RETRY_AFTER_MAX).contains(&pause),
                "{value}: {pause:?}"
            );
        }
    }
}
