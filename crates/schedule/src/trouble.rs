//! Which webhooks fail, for the server's log: what begins and what ends, never each delivery.
//!
//! A webhook is told of when an attempt fails after one that did not, and again when one succeeds. An endpoint that
//! wavers would fill the log so; therefore a webhook that was told of is left alone for [`QUIET_MS`], and of all together
//! no more than [`MOST_A_MINUTE`] are said to fail. Who goes on failing is told of later.

use std::collections::HashMap;
use uuid::Uuid;

/// Time between two times that a webhook is said to fail, in milliseconds.
const QUIET_MS: u64 = 600_000;
/// How many webhooks are said to fail in a minute.
const MOST_A_MINUTE: u32 = 30;

const MINUTE_MS: u64 = 60_000;

/// What the log is to say of a webhook.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum News {
    /// It began to fail.
    Fails,
    /// It fails no longer.
    Recovered,
}

#[derive(Debug, Default)]
struct Trouble {
    fails: bool,
    /// The log says that it fails.
    is_told: bool,
    /// When the log last said so, monotonic milliseconds.
    told_ms: Option<u64>,
}

/// The webhooks that fail, or did a short while ago.
#[derive(Debug, Default)]
pub struct Troubles {
    of: HashMap<Uuid, Trouble>,
    /// When the minute began that `told` counts, monotonic milliseconds.
    minute_ms: u64,
    told: u32,
}

impl Troubles {
    /// An attempt has ended. What the log is to say of it, if anything. `now_ms`: monotonic milliseconds.
    pub fn attempted(&mut self, webhook: Uuid, succeeded: bool, now_ms: u64) -> Option<News> {
        if succeeded {
            return self.succeeded(webhook, now_ms);
        }
        if now_ms >= self.minute_ms + MINUTE_MS {
            self.minute_ms = now_ms;
            self.told = 0;
        }
        let trouble = self.of.entry(webhook).or_default();
        trouble.fails = true;
        if trouble.is_told || !trouble.may_be_told(now_ms) || self.told >= MOST_A_MINUTE {
            return None;
        }
        trouble.is_told = true;
        trouble.told_ms = Some(now_ms);
        self.told += 1;
        Some(News::Fails)
    }

    fn succeeded(&mut self, webhook: Uuid, now_ms: u64) -> Option<News> {
        let trouble = self.of.get_mut(&webhook)?;
        trouble.fails = false;
        let was_told = std::mem::take(&mut trouble.is_told);
        // What else has been quiet for long enough goes with it.
        if was_told || trouble.may_be_told(now_ms) {
            self.of.retain(|_, it| it.fails || !it.may_be_told(now_ms));
        }
        was_told.then_some(News::Recovered)
    }

    /// The webhook failed when the worker before this one ended, which has told of it.
    pub fn fails_already(&mut self, webhook: Uuid) {
        let trouble = self.of.entry(webhook).or_default();
        (trouble.fails, trouble.is_told) = (true, true);
    }

    /// The webhook was switched off or deleted.
    pub fn forget(&mut self, webhook: Uuid) {
        self.of.remove(&webhook);
    }
}

impl Trouble {
    fn may_be_told(&self, now_ms: u64) -> bool {
        self.told_ms.is_none_or(|at| now_ms >= at + QUIET_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: bool = true;
    const FAILED: bool = false;

    fn webhook(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn the_first_failure_and_the_first_success_after_it_are_told() {
        let mut troubles = Troubles::default();
        let a = webhook(1);
        assert_eq!(troubles.attempted(a, FINE, 0), None);
        assert_eq!(troubles.attempted(a, FAILED, 1), Some(News::Fails));
        assert_eq!(troubles.attempted(a, FAILED, 2), None);
        assert_eq!(troubles.attempted(a, FINE, 3), Some(News::Recovered));
        assert_eq!(troubles.attempted(a, FINE, 4), None);
    }

    #[test]
    fn an_endpoint_that_wavers_is_told_of_now_and_then() {
        let mut troubles = Troubles::default();
        let told = (0..2 * QUIET_MS)
            .step_by(100)
            .filter_map(|now| troubles.attempted(webhook(1), now % 200 == 0, now))
            .count();
        assert_eq!(told, 4);
    }

    #[test]
    fn what_goes_on_failing_unsaid_is_told_later() {
        let mut troubles = Troubles::default();
        let a = webhook(1);
        troubles.attempted(a, FAILED, 0);
        troubles.attempted(a, FINE, 1);
        assert_eq!(troubles.attempted(a, FAILED, 2), None);
        assert_eq!(troubles.attempted(a, FAILED, QUIET_MS - 1), None);
        assert_eq!(troubles.attempted(a, FAILED, QUIET_MS), Some(News::Fails));
    }

    #[test]
    fn an_outage_of_all_is_told_a_few_at_a_time() {
        let mut troubles = Troubles::default();
        let told = |troubles: &mut Troubles, now| {
            (0..100)
                .filter(|&it| troubles.attempted(webhook(it), FAILED, now).is_some())
                .count()
        };
        let most = MOST_A_MINUTE as usize;
        assert_eq!(told(&mut troubles, MINUTE_MS), most);
        assert_eq!(told(&mut troubles, MINUTE_MS + 1), 0);
        assert_eq!(told(&mut troubles, 2 * MINUTE_MS), most);
    }

    #[test]
    fn what_a_worker_before_has_told_of_is_only_told_to_recover() {
        let mut troubles = Troubles::default();
        troubles.fails_already(webhook(1));
        assert_eq!(troubles.attempted(webhook(1), FAILED, 1), None);
        assert_eq!(
            troubles.attempted(webhook(1), FINE, 2),
            Some(News::Recovered)
        );
    }

    #[test]
    fn memory_holds_those_alone_that_fail_or_did_lately() {
        let mut troubles = Troubles::default();
        for it in 0..20 {
            troubles.attempted(webhook(it), FAILED, 0);
            troubles.attempted(webhook(it), FINE, 1);
        }
        assert_eq!(troubles.of.len(), 20);
        troubles.attempted(webhook(99), FAILED, QUIET_MS);
        troubles.attempted(webhook(99), FINE, QUIET_MS + 1);
        assert_eq!(troubles.of.len(), 1);
        troubles.forget(webhook(99));
        assert_eq!(troubles.of.len(), 0);
    }
}
