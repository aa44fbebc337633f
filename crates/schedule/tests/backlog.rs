//! What happens to endpoints that have fallen behind.
#![allow(clippy::unwrap_used, missing_docs)]

mod webhooks;

use std::sync::Arc;
use webhooks::{at, definition, offer, offer_data, webhook_id};
use webhooks_core::request::Event;
use webhooks_core::verdict;
use webhooks_schedule::{Claim, Ended, How, Lifetime, Limits, Recorded, Scheduler, Unit};

const LIMITS: Limits = Limits {
    max_in_flight: 40,
    concurrent: 5,
    per_minute: 0,
    disable_after_ms: 0,
};

fn answer(scheduler: &mut Scheduler, claim: &Claim, ms: u64) {
    answer_with(scheduler, claim, 200, ms);
}

fn answer_with(scheduler: &mut Scheduler, claim: &Claim, code: u16, ms: u64) {
    answer_under(scheduler, claim, code, &LIMITS, ms);
}

fn answer_under(scheduler: &mut Scheduler, claim: &Claim, code: u16, limits: &Limits, ms: u64) {
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
    scheduler.ended(ended, limits, at(ms), None);
}

/// Attempts of these events, in order, as far as they are made by this time; each is answered at once.
fn deliver(scheduler: &mut Scheduler, ms: u64) -> Vec<u128> {
    let mut made = Vec::new();
    while let Some(claim) = scheduler.claim(&LIMITS, at(ms)) {
        made.push(claim.event.id.as_u128());
        answer(scheduler, &claim, ms);
    }
    made
}

fn written(scheduler: &mut Scheduler) -> Vec<Unit> {
    let units = scheduler.take_units();
    for unit in &units {
        scheduler.written(unit);
    }
    units
}

#[test]
fn a_burst_for_one_endpoint_needs_no_queue() {
    let mut scheduler = Scheduler::new();
    scheduler.put(definition(0, true, &Lifetime::default()), false);
    for event in 0..500 {
        offer(&mut scheduler, event, at(0));
    }
    let expected: Vec<u128> = (1..=500).collect();
    assert_eq!(deliver(&mut scheduler, 1), expected);
    let units = written(&mut scheduler);
    assert!(units.iter().all(|unit| unit.queued.is_empty()));
}

#[test]
fn an_endpoint_that_has_caught_up_gets_what_follows_at_once() {
    let mut scheduler = Scheduler::new();
    scheduler.put(definition(0, true, &Lifetime::default()), false);
    for event in 0..500 {
        offer(&mut scheduler, event, at(0));
    }
    // Nothing is answered for so long that all of it gets queue rows.
    let hanging: Vec<Claim> = std::iter::from_fn(|| scheduler.claim(&LIMITS, at(0))).collect();
    assert_eq!(hanging.len(), 5);
    scheduler.tick(at(600));
    let queued: usize = written(&mut scheduler)
        .iter()
        .map(|it| it.queued.len())
        .sum();
    assert_eq!(queued, 500);
    for claim in &hanging {
        answer(&mut scheduler, claim, 600);
    }
    // What is in memory anyhow; then events come, before the rest has been fetched.
    assert_eq!(
        deliver(&mut scheduler, 600),
        (6..=64).collect::<Vec<u128>>()
    );
    for event in 500..510 {
        offer(&mut scheduler, event, at(600));
    }
    assert_eq!(deliver(&mut scheduler, 601), []);
    written(&mut scheduler);
    // The queue has nothing more: those that stood behind it go out without becoming rows.
    let wanting = scheduler.wants_rows(10);
    assert_eq!(wanting.len(), 1);
    scheduler.rows(webhook_id(0), Vec::new(), None, false, at(602));
    assert_eq!(
        deliver(&mut scheduler, 602),
        (501..=510).collect::<Vec<u128>>()
    );
    assert!(
        written(&mut scheduler)
            .iter()
            .all(|unit| unit.queued.is_empty())
    );
}

#[test]
fn what_waits_for_the_limit_of_its_webhook_takes_no_room_and_is_queued_in_order() {
    let limits = Limits {
        per_minute: 10,
        ..LIMITS
    };
    let mut scheduler = Scheduler::new();
    scheduler.put(definition(0, true, &Lifetime::default()), false);
    for event in 0..100 {
        offer(&mut scheduler, event, at(0));
    }
    while let Some(claim) = scheduler.claim(&limits, at(0)) {
        answer_under(&mut scheduler, &claim, 200, &limits, 0);
        scheduler.saved();
    }
    let room = scheduler.room();
    for event in 100..2_000 {
        offer(&mut scheduler, event, at(1));
    }
    assert_eq!(scheduler.room(), room, "the limit holds them for a minute");
    for ms in 1..6 {
        scheduler.tick(at(101 * ms));
    }
    let mut queued: Vec<_> = written(&mut scheduler)
        .into_iter()
        .flat_map(|unit| unit.queued)
        .map(|row| (row.seq, row.event.as_u128()))
        .collect();
    queued.sort_unstable();
    let events: Vec<u128> = queued.into_iter().map(|(_, event)| event).collect();
    let in_order = (11..=2_000).eq(events.iter().copied());
    assert!(
        in_order,
        "{} rows, from {:?} on",
        events.len(),
        events.first()
    );
}

#[test]
fn an_event_goes_ahead_of_others_only_for_a_webhook_of_which_nothing_waits() {
    let mut scheduler = Scheduler::new();
    for number in 0..2 {
        scheduler.put(definition(number, true, &Lifetime::default()), false);
    }
    let free = |scheduler: &Scheduler, number| {
        let index = scheduler.index_of(webhook_id(number)).unwrap();
        scheduler.waits_for_nothing(index, "memory.created")
    };
    assert!(free(&scheduler, 0));
    for event in 0..20 {
        offer_data(&mut scheduler, event, "{}".to_owned(), at(0));
    }
    assert!(!free(&scheduler, 0), "it has enough to do");
    deliver(&mut scheduler, 1);
    assert!(free(&scheduler, 0));
    scheduler.requeued(webhook_id(0));
    assert!(!free(&scheduler, 0), "its queue may hold rows");
    assert!(free(&scheduler, 1));
    scheduler.put(definition(1, false, &Lifetime::default()), false);
    assert!(!free(&scheduler, 1), "it is paused");
    let index = scheduler.index_of(webhook_id(1)).unwrap();
    assert!(scheduler.waits_for_nothing(index, "webhook.test"));
}

#[test]
fn a_full_memory_makes_room_by_writing_what_has_waited_longest() {
    let mut scheduler = Scheduler::new();
    scheduler.put(definition(0, true, &Lifetime::default()), false);
    for event in 0..3_000 {
        offer(&mut scheduler, event, at(0));
    }
    assert_eq!((scheduler.room(), scheduler.room_ahead()), (0, 0));
    scheduler.make_room(at(0));
    assert!(
        scheduler.room_ahead() == 0,
        "3,000 are more than twice the room"
    );
    for _ in 0..4 {
        scheduler.make_room(at(0));
    }
    assert!(scheduler.room_ahead() > 0);
    assert!(!written(&mut scheduler).is_empty());
}

#[test]
fn large_events_that_wait_for_their_next_attempt_are_not_all_in_memory_and_all_are_sent() {
    let mut scheduler = Scheduler::new();
    scheduler.put(definition(0, true, &Lifetime::default()), false);
    let (_, until) = scheduler.wants_due(at(0)).unwrap();
    scheduler.due_rows(Vec::new(), until, None, at(0));
    let mut events = Vec::new();
    let mut rows = Vec::new();
    for number in 0..20 {
        events.push(offer_data(
            &mut scheduler,
            number,
            "x".repeat(1 << 20),
            at(0),
        ));
        let claim = scheduler.claim(&LIMITS, at(0)).unwrap();
        answer_with(&mut scheduler, &claim, 500, 0);
        let units = written(&mut scheduler);
        let ending = &units[0].endings[0];
        let due_ms = at(1_000).unix_ms;
        assert_eq!(ending.how, How::RetryAt(due_ms));
        rows.push(Recorded {
            id: ending.id,
            webhook: ending.webhook,
            event: Arc::clone(&claim.event),
            seq: ending.seq,
            attempts: 1,
            attempts_before: 0,
            refused: false,
            undecided: None,
            due_ms: Some(due_ms),
            created_ms: ending.created_ms,
        });
        if number >= 8 {
            // The event of the row is another one by the time it is read again.
            let row = rows.last_mut().unwrap();
            row.event = Arc::new(Event::clone(&row.event));
        } else {
            rows.pop();
        }
    }
    let in_memory = events.iter().filter(|it| it.upgrade().is_some()).count();
    assert_eq!(in_memory, 8, "8 MB of 20");
    assert_eq!(scheduler.wants_rows(10), [], "nothing is due");
    scheduler.tick(at(1_000));
    let mut made = deliver(&mut scheduler, 1_000);
    written(&mut scheduler);
    assert_eq!(scheduler.rows_in(at(1_000)), Some(0));
    let wanted = scheduler.wants_rows(10);
    assert_eq!(wanted.len(), 1);
    assert_eq!(
        (wanted[0].webhook, wanted[0].after),
        (webhook_id(0), rows[0].seq - 1)
    );
    scheduler.rows(webhook_id(0), rows, None, false, at(1_000));
    made.extend(deliver(&mut scheduler, 1_000));
    made.sort_unstable();
    assert_eq!(made, (1..=20).collect::<Vec<u128>>());
}
