//! How much of the room endpoints get that do not answer.
#![allow(clippy::unwrap_used, missing_docs)]

mod webhooks;

use std::sync::Arc;
use uuid::Uuid;
use webhooks::{at, definition, offer, webhook_id};
use webhooks_core::request::Event;
use webhooks_core::verdict;
use webhooks_schedule::{Claim, Ended, Lifetime, Limits, Recorded, Scheduler};

const LIMITS: Limits = Limits {
    max_in_flight: 40,
    concurrent: 5,
    per_minute: 0,
    disable_after_ms: 0,
};

/// Starts what may start.
fn claim_all(scheduler: &mut Scheduler, now_ms: u64) -> usize {
    std::iter::from_fn(|| scheduler.claim(&LIMITS, at(now_ms))).count()
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

fn end(scheduler: &mut Scheduler, claim: &Claim, timed_out: bool) {
    let result = if timed_out {
        verdict::Ended::Error("timeout".to_owned())
    } else {
        verdict::Ended::Status {
            code: 200,
            retry_after: None,
        }
    };
    let ended = Ended {
        token: claim.token,
        result,
        timed_out,
        started_ms: at(0).unix_ms,
        duration_ms: 1,
        excerpt: None,
        remark: None,
    };
    scheduler.ended(ended, &LIMITS, at(1), None);
    for unit in scheduler.take_units() {
        scheduler.written(&unit);
    }
}

/// Rows of a webhook's queue, of so many bytes each.
fn queue(number: usize, rows: std::ops::Range<i64>, bytes: usize) -> Vec<Recorded> {
    rows.map(|seq| {
        let id = Uuid::from_u128(((number as u128 + 1) << 64) + seq as u128);
        Recorded {
            id,
            webhook: webhook_id(number),
            event: Arc::new(Event {
                id,
                event_type: "memory.created".to_owned(),
                created_ms: at(0).unix_ms,
                data: "x".repeat(bytes),
            }),
            seq,
            attempts: 0,
            attempts_before: 0,
            refused: false,
            undecided: None,
            due_ms: None,
            created_ms: at(0).unix_ms,
        }
    })
    .collect()
}

/// Endpoints with a backlog of large events, of which the last one answers. They have fetched what they may.
fn four_hold_all_they_can() -> Scheduler {
    const DEAD: usize = 4;
    let mut scheduler = Scheduler::new();
    for number in 0..=DEAD {
        scheduler.put(definition(number, true, &Lifetime::default()), false);
    }
    offer(&mut scheduler, 0, at(0));
    let claims: Vec<Claim> = std::iter::from_fn(|| scheduler.claim(&LIMITS, at(0))).collect();
    assert_eq!(claims.len(), DEAD + 1);
    for claim in &claims {
        let alive = claim.target.webhook == webhook_id(DEAD);
        end(&mut scheduler, claim, !alive);
    }
    for number in 0..DEAD {
        scheduler.has_rows(webhook_id(number));
    }
    let mut fetched = Vec::new();
    while let Some(&wanted) = scheduler.wants_rows(1).first() {
        let number = (0..DEAD)
            .find(|&it| webhook_id(it) == wanted.webhook)
            .unwrap();
        let rows = queue(
            number,
            1..1 + i64::try_from(wanted.most).unwrap(),
            800 << 10,
        );
        fetched.push((number, rows.len()));
        scheduler.rows(wanted.webhook, rows, None, true, at(2));
        // This one hangs.
        assert!(scheduler.claim(&LIMITS, at(2)).is_some());
    }
    // Each a few, and 8 MB are full.
    assert_eq!(fetched, [(0, 4), (1, 4), (2, 4), (3, 4)]);
    scheduler
}

#[test]
fn endpoints_that_do_not_answer_leave_room_for_those_that_do() {
    let mut scheduler = four_hold_all_they_can();
    assert_eq!(scheduler.rows_in(at(2)), Some(0), "retries, at the start");
    let (_, until) = scheduler.wants_due(at(2)).unwrap();
    scheduler.due_rows(Vec::new(), until, None, at(2));
    assert_ne!(scheduler.rows_in(at(2)), Some(0), "nobody has room");
    scheduler.has_rows(webhook_id(4));
    for seq in 1..10 {
        assert_eq!(scheduler.rows_in(at(2)), Some(0));
        let wanted = scheduler.wants_rows(10);
        assert_eq!(
            wanted
                .iter()
                .map(|it| (it.webhook, it.most))
                .collect::<Vec<_>>(),
            [(webhook_id(4), 1)]
        );
        scheduler.rows(
            webhook_id(4),
            queue(4, seq..seq + 1, 800 << 10),
            None,
            true,
            at(2),
        );
        assert_eq!(scheduler.wants_rows(10), [], "it has something to do");
        let claim = scheduler.claim(&LIMITS, at(3)).unwrap();
        assert_eq!(claim.target.webhook, webhook_id(4));
        end(&mut scheduler, &claim, false);
    }
}

#[test]
fn an_endpoint_that_times_out_keeps_the_next_few_and_leaves_the_rest_to_its_rows() {
    let mut scheduler = Scheduler::new();
    scheduler.put(definition(0, true, &Lifetime::default()), true);
    let wanted = scheduler.wants_rows(10);
    let rows = queue(0, 1..1 + i64::try_from(wanted[0].most).unwrap(), 10);
    assert_eq!(rows.len(), 64);
    scheduler.rows(webhook_id(0), rows, Some(64), true, at(0));
    let claim = scheduler.claim(&LIMITS, at(0)).unwrap();
    end(&mut scheduler, &claim, true);
    let mut made = Vec::new();
    for _ in 0..4 {
        let claim = scheduler.claim(&LIMITS, at(2)).unwrap();
        made.push(claim.event.id.as_u128() & 0xffff);
        end(&mut scheduler, &claim, false);
    }
    assert_eq!(made, [2, 3, 4, 5]);
    assert!(scheduler.claim(&LIMITS, at(2)).is_none());
    let wanted = scheduler.wants_rows(10);
    assert_eq!((wanted[0].after, wanted[0].most), (5, 64));
}
