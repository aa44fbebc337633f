//! Attempts that fail: what is known of them, and a user who does not want to wait for the next.
#![allow(clippy::unwrap_used, missing_docs)]

mod webhooks;

use std::sync::Arc;
use uuid::Uuid;
use webhooks::{at, definition, offer, webhook_id};
use webhooks_core::request::Event;
use webhooks_core::retry::Policy;
use webhooks_core::verdict;
use webhooks_schedule::{
    Batch, Ended, Failing, How, Hurried, Lifetime, Limits, OutboxKey, Recorded, Scheduler, Unit,
};

const LIMITS: Limits = Limits {
    max_in_flight: 40,
    concurrent: 5,
    per_minute: 0,
    disable_after_ms: 0,
};

/// A webhook whose retries are 1, 5 and 25 seconds after the attempt before, and one event for it.
fn waiting() -> Scheduler {
    let mut scheduler = Scheduler::new();
    let mut definition = definition(0, true, &Lifetime::default());
    definition.policy = Policy {
        max_attempts: 4,
        backoff_multiplier: 5.0,
        max_delay: 3_600,
    };
    scheduler.put(definition, false);
    let (_, until) = scheduler.wants_due(at(0)).unwrap();
    scheduler.due_rows(Vec::new(), until, None, at(0));
    offer(&mut scheduler, 0, at(0));
    scheduler
}

/// Answers the attempt that may start now, if one may.
fn answered(scheduler: &mut Scheduler, code: u16, ms: u64) -> bool {
    let Some(claim) = scheduler.claim(&LIMITS, at(ms)) else {
        return false;
    };
    let ended = Ended {
        token: claim.token,
        result: verdict::Ended::Status {
            code,
            retry_after: None,
        },
        timed_out: false,
        started_ms: at(ms).unix_ms,
        duration_ms: 0,
        excerpt: None,
        remark: None,
    };
    scheduler.ended(ended, &LIMITS, at(ms), None);
    true
}

fn written(scheduler: &mut Scheduler) -> Vec<Unit> {
    let units = scheduler.take_units();
    for unit in &units {
        scheduler.written(unit);
    }
    units
}

/// A user asks for the delivery; `command` tells apart what asks.
fn hurry(scheduler: &mut Scheduler, delivery: Uuid, command: u128) {
    let outbox = OutboxKey {
        id: Uuid::from_u128(1_000 + command),
        block: 0,
        offset: 1,
    };
    let webhook = webhook_id(0);
    scheduler.hurry(outbox, Hurried { delivery, webhook }, at(0));
}

fn failing(scheduler: &mut Scheduler) -> Option<Failing> {
    scheduler.take_stats().pop().unwrap().1.failing
}

#[test]
fn attempts_that_fail_are_counted_until_one_succeeds() {
    let mut scheduler = waiting();
    assert!(answered(&mut scheduler, 500, 7));
    let first = Failing {
        since_ms: at(7).unix_ms,
        attempts: 1,
        status: Some(500),
        error: Some("the endpoint answered 500".to_owned()),
    };
    assert_eq!(failing(&mut scheduler), Some(first.clone()));
    written(&mut scheduler);
    scheduler.tick(at(1_007));
    assert!(answered(&mut scheduler, 403, 1_007));
    let second = Failing {
        attempts: 2,
        status: Some(403),
        error: Some("the endpoint answered 403".to_owned()),
        ..first
    };
    assert_eq!(failing(&mut scheduler), Some(second));
    written(&mut scheduler);
    scheduler.tick(at(6_007));
    assert!(answered(&mut scheduler, 204, 6_007));
    assert_eq!(failing(&mut scheduler), None);
}

#[test]
fn a_delivery_that_waits_is_attempted_when_a_user_asks_for_it() {
    let mut scheduler = waiting();
    assert!(answered(&mut scheduler, 500, 0));
    written(&mut scheduler);
    scheduler.tick(at(1_000));
    assert!(answered(&mut scheduler, 500, 1_000));
    let delivery = written(&mut scheduler)[0].endings[0].id;
    scheduler.tick(at(2_000));
    assert!(!answered(&mut scheduler, 500, 2_000), "it waits");
    hurry(&mut scheduler, delivery, 0);
    let units = written(&mut scheduler);
    assert_eq!(Batch::of(&units).hurried, [delivery], "its row becomes due");
    assert_eq!(Batch::of(&units).outbox.len(), 1);
    assert!(answered(&mut scheduler, 500, 2_000));
    let units = written(&mut scheduler);
    let (ending, next) = (&units[0].endings[0], at(27_000));
    assert_eq!(
        (ending.attempts, ending.how),
        (3, How::RetryAt(next.unix_ms))
    );
    // The time for which it waited before is no time of its any more.
    scheduler.tick(at(6_000));
    assert!(!answered(&mut scheduler, 500, 6_000));
    scheduler.tick(at(27_000));
    assert!(answered(&mut scheduler, 500, 27_000));
}

#[test]
fn what_is_under_way_is_not_attempted_once_more() {
    let mut scheduler = waiting();
    assert!(answered(&mut scheduler, 500, 0));
    let delivery = written(&mut scheduler)[0].endings[0].id;
    scheduler.tick(at(1_000));
    let claim = scheduler.claim(&LIMITS, at(1_000)).unwrap();
    assert_eq!(claim.delivery, delivery);
    hurry(&mut scheduler, delivery, 0);
    let units = written(&mut scheduler);
    assert!(Batch::of(&units).hurried.is_empty());
    assert_eq!(
        Batch::of(&units).outbox.len(),
        1,
        "the command is dealt with"
    );
    assert!(!answered(&mut scheduler, 500, 1_000));
}

#[test]
fn what_is_not_in_memory_is_read_again() {
    let mut scheduler = waiting();
    assert!(answered(&mut scheduler, 500, 0));
    written(&mut scheduler);
    assert!(scheduler.wants_rows(10).is_empty() && scheduler.wants_due(at(0)).is_none());
    hurry(&mut scheduler, Uuid::from_u128(77), 0);
    written(&mut scheduler);
    assert_eq!(scheduler.rows_in(at(0)), Some(0));
    assert_eq!(scheduler.wants_hurried(10)[0].delivery, Uuid::from_u128(77));
    scheduler.hurried_rows(vec![row(77, 0)], at(0));
    let claim = scheduler.claim(&LIMITS, at(0)).unwrap();
    assert_eq!((claim.delivery, claim.attempt), (Uuid::from_u128(77), 2));
    assert!(scheduler.wants_hurried(10).is_empty());
}

/// The row of a delivery that has been attempted once, and is due.
fn row(number: u128, due_ms: u64) -> Recorded {
    Recorded {
        id: Uuid::from_u128(number),
        webhook: webhook_id(0),
        event: Arc::new(Event {
            id: Uuid::from_u128(number + 1_000_000),
            event_type: "memory.created".to_owned(),
            created_ms: at(0).unix_ms,
            data: "{}".to_owned(),
        }),
        seq: 1,
        attempts: 1,
        attempts_before: 0,
        due_ms: Some(at(due_ms).unix_ms),
        created_ms: at(0).unix_ms,
        refused: false,
        undecided: None,
    }
}

#[test]
fn who_asks_again_and_again_does_not_keep_retries_of_others_from_being_read() {
    let mut scheduler = waiting();
    scheduler.reread_due();
    let mut next = Uuid::nil();
    for page in 0..20 {
        let ((_, after), until) = scheduler.wants_due(at(0)).unwrap();
        assert_eq!(after, next, "page {page}");
        next = Uuid::from_u128(page + 1);
        let full = Some((at(0).unix_ms, next));
        scheduler.due_rows(Vec::new(), until, full, at(0));
        hurry(&mut scheduler, Uuid::from_u128(77), page);
        // As a restore, and a test of a paused webhook that is tried again.
        scheduler.reread_due();
        written(&mut scheduler);
    }
    let (_, until) = scheduler.wants_due(at(0)).unwrap();
    scheduler.due_rows(Vec::new(), until, None, at(0));
    let ((from, _), until) = scheduler.wants_due(at(0)).unwrap();
    assert_eq!(from, i64::MIN, "from the beginning, once");
    scheduler.due_rows(Vec::new(), until, None, at(0));
    assert!(scheduler.wants_due(at(0)).is_none());
}
