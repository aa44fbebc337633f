//! How much of the room endpoints get that do not answer.
#![allow(clippy::unwrap_used, missing_docs)]

mod webhooks;

use webhooks::{at, definition, offer};
use webhooks_schedule::{Lifetime, Limits, Scheduler};

const LIMITS: Limits = Limits {
    max_in_flight: 40,
    concurrent: 5,
    per_minute: 0,
    disable_after_ms: 0,
};

/// Starts what may start, a few milliseconds apart, so that youth holds nothing back.
fn claim_all(scheduler: &mut Scheduler, from_ms: u64) -> usize {
    let mut started = 0;
    for step in 0..20 {
        while scheduler.claim(&LIMITS, at(from_ms + 10 * step)).is_some() {
            started += 1;
        }
    }
    started
}

#[test]
fn an_endpoint_that_turns_out_to_be_slow_starts_what_waits_without_another_event() {
    let mut scheduler = Scheduler::new();
    for number in 0..10 {
        scheduler.put(definition(number, true, &Lifetime::default()), false);
    }
    for event in 0..5 {
        offer(&mut scheduler, event, at(0));
    }
    // A quarter of the room for those of which nothing is known, and one for each of them.
    assert_eq!(claim_all(&mut scheduler, 0), 10);
    assert_eq!(claim_all(&mut scheduler, 500), 0);
    scheduler.tick(at(1_300));
    // Half of the room for those that are slow.
    assert_eq!(claim_all(&mut scheduler, 1_300), 10);
    assert_eq!(scheduler.in_flight(), LIMITS.max_in_flight / 2);
}
