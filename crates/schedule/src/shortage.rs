//! The server has no descriptor, thread or memory for another request.
//!
//! Then all requests fail alike, whatever their endpoint, and to go on trying makes it worse. All starts rest for a moment, which
//! the first request that works ends; afterwards no more are under way than there were when it failed, and one to find out.
//! That number grows slowly, and the limit is forgotten when nothing has failed for a while.

/// The first rest, and the longest: each is twice as long as the one before, while nothing works between.
const FIRST_MS: u64 = 100;
const LONGEST_MS: u64 = 5_000;
/// Time without a failure after which requests are limited no longer.
const FORGET_MS: u64 = 10_000;

/// What is known of it. Times are monotonic milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Shortage {
    /// How many requests the server has resources for; `None`: no shortage is known.
    most: Option<usize>,
    /// Requests that have worked since `most` grew last.
    worked: usize,
    rest_ms: u64,
    until_ms: u64,
    failed_ms: u64,
}

impl Shortage {
    /// Whether a request may start, with so many under way.
    pub(crate) fn allows(&self, in_flight: usize, now_ms: u64) -> bool {
        self.most
            .is_none_or(|most| in_flight <= most && now_ms >= self.until_ms)
    }

    /// A request could not be made, and so many others are under way.
    pub(crate) fn failed(&mut self, in_flight: usize, now_ms: u64) {
        self.most = Some(self.most.map_or(in_flight, |most| most.min(in_flight)));
        self.worked = 0;
        self.failed_ms = now_ms;
        // Many that were started at once fail at once: that is one failure.
        if now_ms >= self.until_ms {
            self.rest_ms = (self.rest_ms * 2).clamp(FIRST_MS, LONGEST_MS);
            self.until_ms = now_ms + self.rest_ms;
        }
    }

    /// A request was made, whatever came of it.
    pub(crate) fn worked(&mut self, now_ms: u64) {
        let Some(most) = &mut self.most else {
            return;
        };
        (self.rest_ms, self.until_ms) = (0, 0);
        self.worked += 1;
        if self.worked > *most {
            self.worked = 0;
            *most += 1;
        }
        if now_ms >= self.failed_ms + FORGET_MS {
            self.most = None;
        }
    }

    /// In how many milliseconds a rest ends.
    pub(crate) fn ends_in(&self, now_ms: u64) -> Option<u64> {
        self.most?;
        self.until_ms.checked_sub(now_ms).filter(|&left| left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_starts_rest_longer_and_longer_until_one_works() {
        let mut shortage = Shortage::default();
        let (mut now, mut rests) = (1_000, Vec::new());
        for _ in 0..8 {
            assert!(shortage.allows(0, now));
            shortage.failed(0, now);
            let rest = shortage.ends_in(now).unwrap_or(0);
            assert!(!shortage.allows(0, now + rest - 1));
            rests.push(rest);
            now += rest;
        }
        assert_eq!(rests, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        shortage.failed(0, now);
        shortage.worked(now + 1);
        assert!(shortage.allows(0, now + 1));
        shortage.failed(0, now + 1);
        assert_eq!(shortage.ends_in(now + 1), Some(100));
    }

    #[test]
    fn many_that_fail_at_once_rest_as_long_as_one() {
        let mut shortage = Shortage::default();
        for in_flight in (3..20).rev() {
            shortage.failed(in_flight, 1_000);
        }
        assert_eq!(shortage.ends_in(1_000), Some(100));
    }

    #[test]
    fn afterwards_no_more_are_under_way_than_there_was_room_for_and_one_to_find_out() {
        let mut shortage = Shortage::default();
        shortage.failed(3, 1_000);
        assert!(shortage.allows(3, 1_100) && !shortage.allows(4, 1_100));
        for _ in 0..4 {
            shortage.worked(1_101);
        }
        assert!(shortage.allows(4, 1_101) && !shortage.allows(5, 1_101));
    }

    #[test]
    fn it_is_forgotten_when_nothing_has_failed_for_a_while() {
        let mut shortage = Shortage::default();
        shortage.failed(3, 1_000);
        shortage.worked(1_000 + FORGET_MS - 1);
        assert!(!shortage.allows(100, 1_000 + FORGET_MS - 1));
        shortage.worked(1_000 + FORGET_MS);
        assert!(shortage.allows(100, 1_000 + FORGET_MS));
        assert_eq!(shortage.ends_in(1_000), None);
    }
}
