//! How late a delivery thread comes to what is to be done. Written on that thread, read on the worker's main thread.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// How often a thread with requests under way looks how late it is. What blocks the thread for less may go unseen.
pub(crate) const TICK: Duration = Duration::from_millis(50);

/// The largest delay of the current and of the last minute.
#[derive(Debug)]
pub(crate) struct Lag {
    since: Instant,
    minutes: Mutex<Minutes>,
}

impl Lag {
    pub(crate) fn new(now: Instant) -> Lag {
        Lag {
            since: now,
            minutes: Mutex::default(),
        }
    }

    /// Notes that what was due came late by so much.
    pub(crate) fn note(&self, now: Instant, late: Duration) {
        lock(&self.minutes).note(self.minute(now), late);
    }

    pub(crate) fn largest(&self, now: Instant) -> Duration {
        lock(&self.minutes).largest(self.minute(now))
    }

    fn minute(&self, now: Instant) -> u64 {
        now.duration_since(self.since).as_secs() / 60
    }
}

#[derive(Debug, Default)]
struct Minutes {
    /// The minute of the last note.
    minute: u64,
    in_it: Duration,
    before_it: Duration,
}

impl Minutes {
    fn note(&mut self, minute: u64, late: Duration) {
        if minute > self.minute {
            self.before_it = match minute - self.minute {
                1 => self.in_it,
                _ => Duration::ZERO,
            };
            self.in_it = Duration::ZERO;
            self.minute = minute;
        }
        self.in_it = self.in_it.max(late);
    }

    fn largest(&self, minute: u64) -> Duration {
        match minute.saturating_sub(self.minute) {
            0 => self.in_it.max(self.before_it),
            1 => self.in_it,
            _ => Duration::ZERO,
        }
    }
}

/// When a thread looks next; nothing while no request is under way.
#[derive(Debug, Default)]
pub(crate) struct Tick(Option<Instant>);

impl Tick {
    /// Notes the delay if the time has come. `busy`: requests are under way.
    pub(crate) fn look(&mut self, now: Instant, busy: bool, lag: &Lag) {
        let due = self.0.filter(|due| *due <= now);
        if let Some(due) = due {
            lag.note(now, now - due);
        }
        self.0 = match self.0 {
            Some(due) if due > now => Some(due),
            _ => busy.then_some(now + TICK),
        };
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_largest_of_this_minute_and_the_last_is_kept() {
        let start = Instant::now();
        let lag = Lag::new(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(lag.largest(at(0)), ms(0));
        lag.note(at(1), ms(5));
        lag.note(at(2), ms(300));
        lag.note(at(59), ms(7));
        assert_eq!(lag.largest(at(59)), ms(300));
        // Without another note.
        assert_eq!(
            (lag.largest(at(119)), lag.largest(at(120))),
            (ms(300), ms(0))
        );
        lag.note(at(60), ms(20));
        assert_eq!(lag.largest(at(119)), ms(300));
        assert_eq!(
            (lag.largest(at(120)), lag.largest(at(180))),
            (ms(20), ms(0))
        );
        lag.note(at(120), ms(1));
        assert_eq!(lag.largest(at(120)), ms(20));
        // After a rest of minutes.
        lag.note(at(400), ms(2));
        assert_eq!(lag.largest(at(400)), ms(2));
    }

    #[test]
    fn a_thread_at_rest_has_no_tick_and_a_busy_one_notes_how_late_it_is() {
        let start = Instant::now();
        let (lag, mut tick) = (Lag::new(start), Tick::default());
        tick.look(start, false, &lag);
        assert_eq!(tick.next(), None);
        tick.look(start, true, &lag);
        assert_eq!(tick.next(), Some(start + TICK));
        // Looks in between change nothing.
        tick.look(start + TICK / 2, true, &lag);
        assert_eq!(
            (tick.next(), lag.largest(start)),
            (Some(start + TICK), ms(0))
        );
        let late = start + TICK + ms(120);
        tick.look(late, true, &lag);
        assert_eq!(
            (tick.next(), lag.largest(late)),
            (Some(late + TICK), ms(120))
        );
        // What was late is noted though nothing is under way any more.
        let end = late + TICK + ms(200);
        tick.look(end, false, &lag);
        assert_eq!((tick.next(), lag.largest(end)), (None, ms(200)));
    }
}
