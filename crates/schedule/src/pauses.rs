//! Stages that pause, each by itself, since something they tried was rolled back.

use std::collections::HashMap;

/// The first pause, and the longest: each is twice as long as the one before while a stage fails again soon.
const FIRST_MS: u64 = 250;
const LONGEST_MS: u64 = 1_000;

/// Which stages pause, and until when.
#[derive(Debug, Default)]
pub struct Pauses(HashMap<&'static str, Pause>);

#[derive(Debug, Default)]
struct Pause {
    until_ms: u64,
    ms: u64,
}

impl Pauses {
    /// A stage failed at `now_ms`, and is not to be tried again for a while.
    pub fn begin(&mut self, stage: &'static str, now_ms: u64) {
        let pause = self.0.entry(stage).or_default();
        let again = pause.ms > 0 && now_ms < pause.until_ms + pause.ms;
        pause.ms = if again {
            (pause.ms * 2).min(LONGEST_MS)
        } else {
            FIRST_MS
        };
        pause.until_ms = now_ms + pause.ms;
    }

    /// How long a stage has still to pause, in milliseconds; 0: it may go on.
    #[must_use]
    pub fn left(&self, stage: &'static str, now_ms: u64) -> u64 {
        self.0
            .get(stage)
            .map_or(0, |pause| pause.until_ms.saturating_sub(now_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_that_fails_pauses_and_the_others_do_not() {
        let mut pauses = Pauses::default();
        pauses.begin("settle", 1_000);
        assert_eq!(pauses.left("settle", 1_000), 250);
        assert_eq!(pauses.left("settle", 1_250), 0);
        assert_eq!(pauses.left("dispatch", 1_000), 0);
    }

    #[test]
    fn what_fails_again_and_again_pauses_longer_up_to_a_second() {
        let mut pauses = Pauses::default();
        let mut now = 1_000;
        let mut waits = Vec::new();
        for _ in 0..5 {
            pauses.begin("settle", now);
            waits.push(pauses.left("settle", now));
            // It waited for a lock before it failed.
            now += pauses.left("settle", now) + 100;
        }
        assert_eq!(waits, [250, 500, 1_000, 1_000, 1_000]);
        pauses.begin("settle", now + 10_000);
        assert_eq!(
            pauses.left("settle", now + 10_000),
            250,
            "it had worked since"
        );
    }
}
