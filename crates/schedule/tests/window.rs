//! What the rate window promises over a crash.
#![allow(clippy::unwrap_used, missing_docs)]

mod webhooks;

use webhooks::{at, definition, offer};
use webhooks_core::verdict;
use webhooks_schedule::{Ended, Lifetime, Limits, Scheduler};

const LIMITS: Limits = Limits {
    max_in_flight: 40,
    concurrent: 5,
    per_minute: 1_000,
    disable_after_ms: 0,
};
/// Of 1000 a minute, so many are kept free after a restart.
const RESERVE: usize = 40;

/// Makes attempts that are answered at once, until none may start.
fn deliver(scheduler: &mut Scheduler) -> usize {
    let mut made = 0;
    while let Some(claim) = scheduler.claim(&LIMITS, at(1)) {
        made += 1;
        let ended = Ended {
            token: claim.token,
            result: verdict::Ended::Status {
                code: 200,
                retry_after: None,
            },
            timed_out: false,
            started_ms: at(1).unix_ms,
            duration_ms: 0,
            excerpt: None,
            remark: None,
        };
        scheduler.ended(ended, &LIMITS, at(1), None);
    }
    made
}

fn waiting(webhooks: usize, events: u64) -> Scheduler {
    let mut scheduler = Scheduler::new();
    for number in 0..webhooks {
        scheduler.put(definition(number, true, &Lifetime::default()), false);
    }
    for event in 0..events {
        offer(&mut scheduler, event, at(0));
    }
    scheduler
}

#[test]
fn a_crash_takes_no_more_attempts_than_the_window_keeps_free_after_it() {
    let mut scheduler = waiting(1, 200);
    let mut made = Vec::new();
    loop {
        made.push(deliver(&mut scheduler));
        if !scheduler.waits_for_saving() {
            break;
        }
        assert_eq!(deliver(&mut scheduler), 0);
        scheduler.saved();
    }
    assert_eq!(made, [RESERVE; 5]);
}

#[test]
fn what_is_under_way_counts_among_them() {
    let mut scheduler = waiting(1, 200);
    let hanging: Vec<_> = std::iter::from_fn(|| scheduler.claim(&LIMITS, at(1)))
        .take(4)
        .collect();
    assert_eq!(hanging.len() + deliver(&mut scheduler), RESERVE);
    assert!(scheduler.waits_for_saving());
    scheduler.saved();
    assert_eq!(hanging.len() + deliver(&mut scheduler), RESERVE);
}

#[test]
fn each_webhook_has_its_own() {
    let mut scheduler = waiting(3, 100);
    assert_eq!(deliver(&mut scheduler), 3 * RESERVE);
    scheduler.saved();
    assert_eq!(deliver(&mut scheduler), 3 * RESERVE);
    scheduler.saved();
    assert_eq!(deliver(&mut scheduler), 3 * (100 - 2 * RESERVE));
    assert!(!scheduler.waits_for_saving());
}

#[test]
fn what_ended_after_the_mark_is_not_safe_when_what_ended_before_is() {
    let mut scheduler = waiting(1, 200);
    assert_eq!(deliver(&mut scheduler), RESERVE);
    scheduler.mark_unsaved();
    scheduler.saved_to_mark();
    assert_eq!(deliver(&mut scheduler), RESERVE);
    scheduler.saved_to_mark();
    assert_eq!(deliver(&mut scheduler), 0, "nothing was marked");
    scheduler.mark_unsaved();
    scheduler.saved_to_mark();
    assert_eq!(deliver(&mut scheduler), RESERVE);
}

#[test]
fn a_webhook_that_waits_since_the_mark_is_not_forgotten() {
    let mut scheduler = waiting(1, 100);
    assert_eq!(deliver(&mut scheduler), RESERVE);
    scheduler.mark_unsaved();
    scheduler.put(definition(1, true, &Lifetime::default()), false);
    for event in 1_000..1_100 {
        offer(&mut scheduler, event, at(0));
    }
    assert_eq!(deliver(&mut scheduler), RESERVE, "of the second");
    scheduler.saved_to_mark();
    assert_eq!(deliver(&mut scheduler), RESERVE, "of the first");
    assert!(scheduler.waits_for_saving(), "the second says so again");
    scheduler.mark_unsaved();
    scheduler.saved_to_mark();
    assert_eq!(deliver(&mut scheduler), 2 * RESERVE);
}

#[test]
fn rows_to_write_are_counted_as_well_as_units() {
    let mut scheduler = waiting(3, 10);
    scheduler.tick(at(10_000));
    scheduler.tick(at(20_000));
    assert_eq!((scheduler.units(), scheduler.unit_rows()), (10, 30));
    assert_eq!(scheduler.take_units().len(), 10);
    assert_eq!((scheduler.units(), scheduler.unit_rows()), (0, 0));
    assert_eq!(scheduler.units_made(), 10);
}
