//! The rate limit of one webhook: no 60 seconds hold more than so many attempt starts.
//!
//! What counts is when requests reach the receiver, which lies somewhere between the start and the
//! end of an attempt. So the window slides over the ends: an attempt occupies a place from its start
//! until 60 seconds after its end. Two attempts that use the same place then start at least 60
//! seconds apart, wherever on the way they were slow.
//!
//! All times are milliseconds of a monotonic clock, of any origin. A step back is taken as no time
//! having passed.

use std::collections::VecDeque;

/// How long an attempt occupies its place after its end, in milliseconds: 60 seconds, and one more
/// because times are cut to whole milliseconds.
pub const OCCUPIED_MS: u64 = 60_001;

/// The sliding window. Empty, it is a few words; full, 4 bytes for each place.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// What `ends` count from.
    base_ms: u64,
    /// Ends of attempts that still occupy their places, ascending, in milliseconds since `base_ms`.
    ends: VecDeque<u32>,
    /// The latest time that was heard of.
    latest_ms: u64,
    /// There was no limit when last asked: nothing is recorded.
    unlimited: bool,
}

impl Window {
    /// A window in which nothing has happened. Allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            base_ms: 0,
            ends: VecDeque::new(),
            latest_ms: 0,
            unlimited: false,
        }
    }

    /// An attempt ended now.
    ///
    /// Never holds more ends than the highest limit that was in force for them, because
    /// [`Window::may_start`] allows no more attempts.
    pub fn ended(&mut self, now_ms: u64) {
        self.advance(now_ms);
        if !self.unlimited {
            self.push(now_ms);
        }
    }

    /// Whether an attempt may start now, when `in_flight` have started and not ended, under this
    /// `limit` of starts in 60 seconds; 0: no limit.
    ///
    /// # Errors
    /// Not now; the time when to ask again, if nothing else ends or starts by then. `u64::MAX` if
    /// attempts in flight alone are in the way.
    pub fn may_start(&mut self, now_ms: u64, in_flight: u32, limit: u32) -> Result<(), u64> {
        self.unlimited = limit == 0;
        if self.unlimited {
            self.ends = VecDeque::new();
            self.latest_ms = now_ms;
            return Ok(());
        }
        self.advance(now_ms);
        let Some(free) = limit.checked_sub(in_flight).filter(|&free| free > 0) else {
            return Err(u64::MAX);
        };
        let places = usize::try_from(free).unwrap_or(usize::MAX);
        // As many as are too many must leave, the oldest first.
        match self.ends.len().checked_sub(places) {
            None => Ok(()),
            Some(last) => {
                let end = self
                    .ends
                    .get(last)
                    .copied()
                    .map_or(now_ms, |end| self.base_ms + u64::from(end));
                Err(end.saturating_add(OCCUPIED_MS))
            }
        }
    }

    /// Takes in attempts that ended before a restart, at times of the same clock, in any order.
    pub fn seed(&mut self, ends_ms: impl IntoIterator<Item = u64>) {
        let mut all: Vec<u64> = self
            .ends
            .iter()
            .map(|&end| self.base_ms + u64::from(end))
            .collect();
        all.extend(ends_ms);
        all.sort_unstable();
        self.ends.clear();
        if let Some(&last) = all.last() {
            let latest = self.latest_ms.max(last);
            self.latest_ms = latest;
            for end in all.into_iter().filter(|end| latest - end < OCCUPIED_MS) {
                self.push(end);
            }
        }
    }

    /// Appends an end that is not before the last one.
    fn push(&mut self, end_ms: u64) {
        if self.ends.is_empty() {
            self.base_ms = end_ms;
        }
        // Under a limit the base moves along long before 49 days are over, see advance().
        self.ends
            .push_back(u32::try_from(end_ms.saturating_sub(self.base_ms)).unwrap_or(u32::MAX));
    }

    fn advance(&mut self, now_ms: u64) {
        if now_ms < self.latest_ms {
            self.step_back(now_ms);
        }
        self.latest_ms = now_ms;
        // All ends are within OCCUPIED_MS of now, so what counts from the base fits.
        let Some(until) = now_ms.checked_sub(OCCUPIED_MS) else {
            return;
        };
        while self
            .ends
            .front()
            .is_some_and(|&end| self.base_ms + u64::from(end) <= until)
        {
            self.ends.pop_front();
        }
        if let Some(&first) = self.ends.front().filter(|&&first| first >= u32::MAX / 2) {
            self.base_ms += u64::from(first);
            self.ends.iter_mut().for_each(|end| *end -= first);
        }
    }

    /// The clock was set back: what is in the window keeps its age.
    fn step_back(&mut self, now_ms: u64) {
        let step = self.latest_ms - now_ms;
        let lost = step.saturating_sub(self.base_ms);
        self.base_ms = self.base_ms.saturating_sub(step);
        // Times before the clock's origin become the origin.
        let lost = u32::try_from(lost).unwrap_or(u32::MAX);
        self.ends
            .iter_mut()
            .for_each(|end| *end = end.saturating_sub(lost));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const MINUTE: u64 = 60_000;

    #[test]
    fn a_place_is_free_a_minute_after_the_end() {
        let mut window = Window::new();
        assert_eq!(window.may_start(1_000, 0, 2), Ok(()));
        window.ended(1_500);
        window.ended(1_700);
        assert_eq!(window.may_start(2_000, 0, 2), Err(1_500 + MINUTE + 1));
        assert_eq!(
            window.may_start(1_500 + MINUTE, 0, 2),
            Err(1_500 + MINUTE + 1)
        );
        assert_eq!(window.may_start(1_501 + MINUTE, 0, 2), Ok(()));
        assert_eq!(window.may_start(1_501 + MINUTE, 1, 2), Err(1_701 + MINUTE));
        assert_eq!(window.may_start(1_701 + MINUTE, 1, 2), Ok(()));
    }

    #[test]
    fn attempts_in_flight_occupy_places() {
        let mut window = Window::new();
        assert_eq!(window.may_start(0, 1, 2), Ok(()));
        assert_eq!(window.may_start(0, 2, 2), Err(u64::MAX));
        assert_eq!(window.may_start(0, 3, 2), Err(u64::MAX));
        window.ended(10);
        assert_eq!(window.may_start(10, 1, 2), Err(10 + MINUTE + 1));
        assert_eq!(window.may_start(10, 1, 3), Ok(()));
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let mut window = Window::new();
        window.ended(5);
        assert_eq!(window.may_start(5, 1_000_000, 0), Ok(()));
        window.ended(6);
        assert_eq!(window.ends.capacity(), 0);
        assert_eq!(window.may_start(7, 0, 1), Ok(()));
        window.ended(8);
        assert!(window.may_start(9, 0, 1).is_err());
    }

    #[test]
    fn a_lower_limit_counts_what_is_there() {
        let mut window = Window::new();
        (0..10).for_each(|ms| window.ended(ms));
        assert_eq!(window.may_start(10, 0, 3), Err(7 + MINUTE + 1));
        assert_eq!(window.may_start(7 + MINUTE + 1, 0, 3), Ok(()));
    }

    #[test]
    fn a_restart_opens_no_new_window() {
        let mut window = Window::new();
        window.seed([70_000, 5, 69_000]);
        assert_eq!(window.ends.len(), 2);
        assert_eq!(window.may_start(71_000, 0, 2), Err(69_000 + MINUTE + 1));
        window.seed([]);
        window.seed([70_500]);
        assert_eq!(window.may_start(71_000, 0, 3), Err(69_000 + MINUTE + 1));
        assert_eq!(window.may_start(69_001 + MINUTE, 0, 3), Ok(()));
    }

    #[test]
    fn a_clock_that_steps_back_does_not_wedge() {
        let mut window = Window::new();
        window.ended(10_000_000);
        window.ended(10_030_000);
        // 30 seconds old and new; now it is one o'clock again.
        assert_eq!(window.may_start(1_000_000, 0, 2), Err(970_000 + MINUTE + 1));
        assert_eq!(window.may_start(970_001 + MINUTE, 0, 2), Ok(()));
        // Back to before the clock's origin.
        assert_eq!(window.may_start(3, 0, 1), Err(MINUTE + 1));
        assert_eq!(window.may_start(MINUTE + 1, 0, 1), Ok(()));
    }

    #[test]
    fn months_under_load_are_counted_from_a_base_that_moves() {
        let mut window = Window::new();
        let mut now = 0;
        while now < 1 << 34 {
            if window.may_start(now, 0, 3).is_ok() {
                window.ended(now);
            }
            assert!(window.ends.len() <= 3);
            now += 29_000;
        }
        assert!(window.base_ms > 1 << 33);
    }

    #[test]
    fn nearly_the_whole_limit_is_used_when_work_waits() {
        let mut window = Window::new();
        let (mut now, mut started) = (0, Vec::new());
        while now < 10 * MINUTE {
            match window.may_start(now, 0, 1_000) {
                Ok(()) => {
                    started.push(now);
                    window.ended(now + 1);
                    now += 1;
                }
                Err(at) => now = at.max(now + 1),
            }
        }
        for from in (0..9).map(|minute| minute * MINUTE) {
            let within = started
                .iter()
                .filter(|&&at| (from..from + MINUTE).contains(&at))
                .count();
            assert!(
                (950..=1_000).contains(&within),
                "{within} in the minute from {from}"
            );
        }
    }

    proptest! {
        /// Plays random attempts and checks the promise at the receiver, wherever between start and
        /// end each request arrives.
        #[test]
        fn no_minute_holds_more_arrivals_than_the_limit(
            steps in prop::collection::vec((0u64..20_000, 0u64..6_000, 0.0f64..=1.0), 1..300),
            limit in 1u32..8,
            origin in prop_oneof![Just(0u64), Just(u64::from(u32::MAX) - 50_000), 0u64..1 << 45],
        ) {
            let mut window = Window::new();
            let (mut now, mut in_flight, mut arrivals) = (origin, Vec::new(), Vec::new());
            for (wait, lasts, part) in steps {
                now += wait;
                in_flight.sort_unstable();
                while in_flight.first().is_some_and(|&end| end <= now) {
                    window.ended(in_flight.remove(0));
                }
                let flying = in_flight.len() as u32;
                match window.may_start(now, flying, limit) {
                    Ok(()) => {
                        arrivals.push(now + (lasts as f64 * part) as u64);
                        in_flight.push(now + lasts);
                    }
                    Err(u64::MAX) => prop_assert!(flying >= limit),
                    Err(at) => {
                        // The time that is given is the first that works.
                        prop_assert!(at > now && at <= now + OCCUPIED_MS);
                        let mut probe = window.clone();
                        prop_assert!(probe.may_start(at - 1, flying, limit).is_err());
                        prop_assert!(probe.may_start(at, flying, limit).is_ok());
                    }
                }
                prop_assert!(window.ends.len() + in_flight.len() <= limit as usize);
            }
            arrivals.sort_unstable();
            for group in arrivals.windows(limit as usize + 1) {
                prop_assert!(group[limit as usize] - group[0] > MINUTE);
            }
        }

        #[test]
        fn any_clock_is_survived(times in prop::collection::vec((any::<u64>(), any::<bool>()), 1..50), limit: u32, in_flight: u32) {
            let mut window = Window::new();
            for (now, ended) in times {
                if ended {
                    window.ended(now);
                } else if let Err(at) = window.may_start(now, in_flight, limit) {
                    prop_assert!(at > now);
                    prop_assert!(at == u64::MAX || at <= now.saturating_add(OCCUPIED_MS));
                }
            }
            window.seed([0, u64::MAX, 5]);
            let _ = window.may_start(0, 0, 1);
        }
    }
}
