//! Requests that could not be made, for reasons that are not their endpoint's.
#![allow(clippy::unwrap_used, missing_docs)]

mod webhooks;

use std::sync::Arc;
use uuid::Uuid;
use webhooks::{at, definition, offer, webhook_id};
use webhooks_core::verdict;
use webhooks_schedule::{
    Claim, Ended, Hindrance, How, Lifetime, Limits, NotTried, Recorded, Scheduler, Unit,
};

const LIMITS: Limits = Limits {
    max_in_flight: 40,
    concurrent: 5,
    per_minute: 1_000,
    disable_after_ms: 0,
};
const HOUR_MS: u64 = 3_600_000;

fn scheduler(webhooks: usize, events: u64) -> Scheduler {
    let mut scheduler = Scheduler::new();
    for number in 0..webhooks {
        scheduler.put(definition(number, true, &Lifetime::default()), false);
    }
    for event in 0..events {
        offer(&mut scheduler, event, at(0));
    }
    scheduler
}

/// Starts what may start.
fn claims(scheduler: &mut Scheduler, ms: u64) -> Vec<Claim> {
    scheduler.tick(at(ms));
    std::iter::from_fn(|| scheduler.claim(&LIMITS, at(ms))).collect()
}

/// Whether it waits.
fn hinder(scheduler: &mut Scheduler, claim: &Claim, hindrance: Hindrance, ms: u64) -> bool {
    let it = NotTried {
        token: claim.token,
        reason: "a test".to_owned(),
        hindrance,
        started_ms: at(ms).unix_ms,
    };
    scheduler.not_tried(it, &LIMITS, at(ms), None)
}

fn succeed(scheduler: &mut Scheduler, claim: &Claim, ms: u64) {
    let ended = Ended {
        token: claim.token,
        result: verdict::Ended::Status {
            code: 200,
            retry_after: None,
        },
        timed_out: false,
        started_ms: at(ms).unix_ms,
        duration_ms: 0,
        excerpt: None,
        remark: None,
    };
    scheduler.ended(ended, &LIMITS, at(ms), None);
}

fn write(scheduler: &mut Scheduler) -> Vec<Unit> {
    let units = scheduler.take_units();
    for unit in &units {
        scheduler.written(unit);
    }
    units
}

/// Which events these are about, by number.
fn numbers(claims: &[Claim]) -> Vec<u128> {
    claims.iter().map(|it| it.event.id.as_u128() - 1).collect()
}

#[test]
fn nothing_is_counted_and_nothing_is_logged() {
    let mut scheduler = scheduler(1, 1);
    let mut ms = 0;
    for _ in 0..10 {
        let started = claims(&mut scheduler, ms);
        assert_eq!(started[0].attempt, 1);
        assert!(hinder(&mut scheduler, &started[0], Hindrance::Shortage, ms));
        ms += 5_000;
    }
    assert!(
        write(&mut scheduler)
            .iter()
            .all(|unit| unit.endings.is_empty())
    );
    assert!(!scheduler.has_stats());
    assert_eq!((scheduler.in_flight(), scheduler.hindered()), (0, 1));
    let started = claims(&mut scheduler, ms);
    succeed(&mut scheduler, &started[0], ms);
    assert_eq!(scheduler.take_stats()[0].1.attempts, 1);
    assert_eq!(scheduler.hindered(), 0);
}

#[test]
fn the_rate_window_gets_its_start_back() {
    let mut scheduler = scheduler(1, 1);
    let few = Limits {
        per_minute: 1,
        ..LIMITS
    };
    let first = scheduler.claim(&few, at(0)).unwrap();
    hinder(&mut scheduler, &first, Hindrance::Shortage, 0);
    scheduler.tick(at(1_000));
    assert!(scheduler.claim(&few, at(1_000)).is_some());
}

#[test]
fn it_waits_in_its_place() {
    let mut scheduler = scheduler(1, 10);
    let first = claims(&mut scheduler, 0);
    assert_eq!(numbers(&first), [0, 1, 2, 3, 4]);
    for place in [3, 1, 4, 0, 2] {
        hinder(&mut scheduler, &first[place], Hindrance::OutOfReach, 1);
    }
    assert_eq!(numbers(&claims(&mut scheduler, 2_000)), [0, 1, 2, 3, 4]);
}

#[test]
fn what_is_out_of_reach_delays_its_webhook_alone_longer_and_longer() {
    let mut scheduler = scheduler(2, 1);
    let (mut ms, mut rests) = (0, Vec::new());
    for claim in claims(&mut scheduler, 0) {
        if claim.target.webhook == webhook_id(1) {
            succeed(&mut scheduler, &claim, 0);
        } else {
            hinder(&mut scheduler, &claim, Hindrance::OutOfReach, 0);
        }
    }
    offer(&mut scheduler, 1, at(1));
    let other = claims(&mut scheduler, 1);
    assert_eq!(other.len(), 1);
    assert_eq!(other[0].target.webhook, webhook_id(1));
    succeed(&mut scheduler, &other[0], 1);
    for _ in 0..7 {
        let rest = (1..60_000).find(|rest| !claims(&mut scheduler, ms + rest).is_empty());
        // Which has started two; they are not tried again either.
        rests.push(rest.unwrap());
        ms += rest.unwrap();
        for token in 0..20 {
            let it = NotTried {
                token,
                reason: "a test".to_owned(),
                hindrance: Hindrance::OutOfReach,
                started_ms: at(ms).unix_ms,
            };
            scheduler.not_tried(it, &LIMITS, at(ms), None);
        }
    }
    assert_eq!(rests, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
}

#[test]
fn a_shortage_delays_all_for_a_moment_and_then_one_finds_out() {
    let mut scheduler = scheduler(3, 5);
    let started = claims(&mut scheduler, 0);
    assert!(started.len() > 5);
    for claim in &started {
        assert!(hinder(&mut scheduler, claim, Hindrance::Shortage, 0));
    }
    assert_eq!(scheduler.wake_in(at(0)), Some(100));
    assert!(claims(&mut scheduler, 99).is_empty());
    let probe = claims(&mut scheduler, 100);
    assert_eq!(probe.len(), 1);
    hinder(&mut scheduler, &probe[0], Hindrance::Shortage, 100);
    assert!(claims(&mut scheduler, 299).is_empty());
    let probe = claims(&mut scheduler, 300);
    succeed(&mut scheduler, &probe[0], 301);
    assert_eq!(
        claims(&mut scheduler, 301).len(),
        2,
        "one more than has worked"
    );
}

#[test]
fn after_an_hour_it_is_an_attempt_that_failed() {
    let mut scheduler = scheduler(1, 1);
    let started = claims(&mut scheduler, 0);
    assert!(hinder(
        &mut scheduler,
        &started[0],
        Hindrance::OutOfReach,
        0
    ));
    let started = claims(&mut scheduler, HOUR_MS - 1);
    assert!(hinder(
        &mut scheduler,
        &started[0],
        Hindrance::OutOfReach,
        HOUR_MS - 1
    ));
    let started = claims(&mut scheduler, HOUR_MS + 100_000);
    assert!(!hinder(
        &mut scheduler,
        &started[0],
        Hindrance::OutOfReach,
        HOUR_MS + 100_000
    ));
    let units = write(&mut scheduler);
    let ending = units.iter().flat_map(|unit| &unit.endings).next().unwrap();
    assert_eq!(ending.attempts, 1);
    assert!(matches!(ending.how, How::RetryAt(_)));
    assert_eq!(
        ending.attempt.as_ref().unwrap().error.as_deref(),
        Some("a test")
    );
}

/// Hinders whatever starts in so many milliseconds; how many attempts that made.
fn hinder_all(scheduler: &mut Scheduler, ms: std::ops::Range<u64>) -> usize {
    let mut attempts = 0;
    for ms in ms.step_by(500) {
        for claim in claims(scheduler, ms) {
            let waits = hinder(scheduler, &claim, Hindrance::OutOfReach, ms);
            attempts += usize::from(!waits);
        }
        write(scheduler);
    }
    attempts
}

#[test]
fn the_hour_is_that_of_the_webhook_for_all_that_waits() {
    let mut scheduler = scheduler(1, 20);
    assert_eq!(hinder_all(&mut scheduler, 0..HOUR_MS), 0);
    // Five at once, each thirty seconds.
    assert_eq!(hinder_all(&mut scheduler, HOUR_MS..HOUR_MS + 180_000), 20);
}

/// The row of the first event's delivery to the first webhook.
fn first_row() -> Recorded {
    let event = webhooks_core::request::Event {
        id: Uuid::from_u128(1),
        event_type: "memory.created".to_owned(),
        created_ms: at(0).unix_ms,
        data: "{}".to_owned(),
    };
    Recorded {
        id: webhooks_core::id::delivery(event.id, webhook_id(0), 0),
        webhook: webhook_id(0),
        event: Arc::new(event),
        seq: 1,
        attempts: 0,
        attempts_before: 0,
        due_ms: None,
        created_ms: at(0).unix_ms,
        refused: false,
        undecided: None,
    }
}

#[test]
fn the_hour_is_counted_whatever_leaves_memory_meanwhile() {
    let mut scheduler = scheduler(1, 1);
    assert_eq!(hinder_all(&mut scheduler, 0..HOUR_MS / 2), 0);
    let lifetime = Lifetime::default();
    scheduler.put(definition(0, false, &lifetime), false);
    scheduler.put(definition(0, true, &lifetime), true);
    let queued = write(&mut scheduler);
    assert!(queued.is_empty(), "it has its row");
    assert_eq!(scheduler.wants_rows(1).len(), 1);
    let row = first_row();
    let half_ms = HOUR_MS / 2;
    scheduler.rows(webhook_id(0), vec![row], Some(1), false, at(half_ms));
    assert_eq!(hinder_all(&mut scheduler, half_ms..HOUR_MS), 0);
    assert_eq!(hinder_all(&mut scheduler, HOUR_MS..HOUR_MS + 60_000), 1);
}

#[test]
fn what_comes_later_has_its_own_hour_and_a_request_that_is_made_ends_it() {
    let mut scheduler = scheduler(1, 1);
    assert_eq!(hinder_all(&mut scheduler, 0..HOUR_MS - 60_000), 0);
    offer(&mut scheduler, 1, at(HOUR_MS - 60_000));
    let late_ms = 2 * HOUR_MS - 60_000;
    // The first one has one attempt now, and then its own hour.
    assert_eq!(hinder_all(&mut scheduler, HOUR_MS - 60_000..late_ms), 1);
    let started = claims(&mut scheduler, late_ms + 40_000);
    succeed(&mut scheduler, &started[0], late_ms + 40_000);
    write(&mut scheduler);
    let begin = late_ms + 41_000;
    assert_eq!(
        hinder_all(&mut scheduler, begin..begin + HOUR_MS - 60_000),
        0
    );
}

#[test]
fn a_delivery_at_which_the_worker_fails_three_times_is_passed_over() {
    let mut scheduler = scheduler(1, 2);
    let mut ms = 0;
    for number in 1..=3 {
        let started = claims(&mut scheduler, ms);
        assert_eq!(numbers(&started)[0], 0);
        let waits = hinder(&mut scheduler, &started[0], Hindrance::Defect, ms);
        assert_eq!(waits, number < 3);
        for claim in &started[1..] {
            succeed(&mut scheduler, claim, ms);
        }
        ms += 10_000;
    }
    let units = write(&mut scheduler);
    let aside: Vec<_> = units
        .iter()
        .filter_map(|it| it.quarantine.as_ref())
        .collect();
    assert_eq!(aside.len(), 1);
    assert_eq!(
        (aside[0].webhook, aside[0].error.as_str()),
        (webhook_id(0), "a test")
    );
    assert!(
        units
            .iter()
            .any(|it| it.queued.iter().any(|row| row.id == aside[0].delivery)),
        "it has a row"
    );
    assert!(claims(&mut scheduler, ms).is_empty());
    assert!(scheduler.idle());
}

#[test]
fn a_delivery_that_is_passed_over_does_not_come_back_before_that_is_written() {
    let mut scheduler = Scheduler::new();
    scheduler.put(definition(0, true, &Lifetime::default()), true);
    assert_eq!(scheduler.wants_rows(1).len(), 1);
    scheduler.rows(webhook_id(0), vec![first_row()], Some(1), false, at(0));
    let mut ms = 0;
    for _ in 0..3 {
        let started = claims(&mut scheduler, ms);
        hinder(&mut scheduler, &started[0], Hindrance::Defect, ms);
        ms += 10_000;
    }
    let units = scheduler.take_units();
    assert!(units.iter().any(|it| it.quarantine.is_some()));
    scheduler.requeued(webhook_id(0));
    assert_eq!(scheduler.wants_rows(1).len(), 1);
    scheduler.rows(webhook_id(0), vec![first_row()], Some(1), false, at(ms));
    assert!(claims(&mut scheduler, ms).is_empty());
    for unit in &units {
        scheduler.written(unit);
    }
    assert!(claims(&mut scheduler, ms).is_empty());
    // Somebody has looked at it, and deleted that it is set aside.
    scheduler.requeued(webhook_id(0));
    assert_eq!(scheduler.wants_rows(1).len(), 1);
    scheduler.rows(webhook_id(0), vec![first_row()], Some(1), false, at(ms));
    assert_eq!(claims(&mut scheduler, ms).len(), 1);
}

#[test]
fn of_a_webhook_that_was_switched_off_or_deleted_meanwhile_nothing_is_tried_again() {
    let mut scheduler = scheduler(2, 1);
    let started = claims(&mut scheduler, 0);
    scheduler.put(definition(0, false, &Lifetime::default()), false);
    scheduler.remove(webhook_id(1), at(1));
    for claim in &started {
        hinder(&mut scheduler, claim, Hindrance::Shortage, 1);
    }
    assert!(claims(&mut scheduler, 60_000).is_empty());
    let units = write(&mut scheduler);
    assert_eq!(
        units.iter().map(|it| it.queued.len()).sum::<usize>(),
        1,
        "it waits"
    );
    let endings: Vec<_> = units.iter().flat_map(|it| &it.endings).collect();
    assert_eq!((endings.len(), endings[0].how), (1, How::Cancelled));
}
