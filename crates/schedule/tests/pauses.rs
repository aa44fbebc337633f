//! Endpoints that ask to be left alone: 429 or 503 with Retry-After.
#![allow(clippy::unwrap_used, missing_docs)]

mod webhooks;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use uuid::Uuid;
use webhooks::{at, definition, offer, webhook_id};
use webhooks_core::request::Event;
use webhooks_core::verdict;
use webhooks_schedule::{
    Batch, Claim, Definition, Ended, Hindrance, How, Hurried, Lifetime, Limits, NotTried, Now,
    OutboxKey, Recorded, Scheduler, Unit,
};

const LIMITS: Limits = Limits {
    max_in_flight: 40,
    concurrent: 5,
    per_minute: 0,
    disable_after_ms: 0,
};
const TEST: &str = "webhook.test";

/// Webhooks with these numbers, whose queue has been read.
fn scheduler(webhooks: usize) -> Scheduler {
    let mut scheduler = Scheduler::new();
    for number in 0..webhooks {
        scheduler.put(known(number), false);
    }
    let (_, until) = scheduler.wants_due(at(0)).unwrap();
    scheduler.due_rows(Vec::new(), until, None, at(0));
    scheduler
}

fn known(number: usize) -> Definition {
    definition(number, true, &Lifetime::default())
}

/// Starts what may start.
fn claims(scheduler: &mut Scheduler, ms: u64) -> Vec<Claim> {
    scheduler.tick(at(ms));
    std::iter::from_fn(|| scheduler.claim(&LIMITS, at(ms))).collect()
}

fn end(scheduler: &mut Scheduler, claim: &Claim, code: u16, retry_after: Option<u64>, ms: u64) {
    let ended = Ended {
        token: claim.token,
        result: verdict::Ended::Status {
            code,
            retry_after: retry_after.map(|it| it.to_string()),
        },
        timed_out: false,
        started_ms: at(ms).unix_ms,
        duration_ms: 0,
        excerpt: None,
        remark: None,
    };
    scheduler.ended(ended, &LIMITS, at(ms), None);
}

fn refuse(scheduler: &mut Scheduler, claim: &Claim, seconds: u64, ms: u64) {
    end(scheduler, claim, 429, Some(seconds), ms);
}

fn accept(scheduler: &mut Scheduler, claim: &Claim, ms: u64) {
    end(scheduler, claim, 200, None, ms);
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

/// One webhook, of which the first five of ten events were refused for so many seconds.
fn five_refused(seconds: u64) -> Scheduler {
    let mut scheduler = scheduler(1);
    for event in 0..10 {
        offer(&mut scheduler, event, at(0));
    }
    let first = claims(&mut scheduler, 0);
    assert_eq!(numbers(&first), [0, 1, 2, 3, 4]);
    for claim in &first {
        refuse(&mut scheduler, claim, seconds, 10);
    }
    write(&mut scheduler);
    scheduler
}

#[test]
fn until_then_nothing_starts_and_what_was_refused_goes_first() {
    let mut scheduler = five_refused(3);
    assert!(claims(&mut scheduler, 10).is_empty());
    assert!(claims(&mut scheduler, 3_009).is_empty());
    let mut made = Vec::new();
    loop {
        let started = claims(&mut scheduler, 3_010);
        if started.is_empty() {
            break;
        }
        made.extend(numbers(&started));
        for claim in &started {
            accept(&mut scheduler, claim, 3_010);
        }
        write(&mut scheduler);
    }
    let (refused, others) = made.split_at(5);
    assert_eq!(
        refused
            .iter()
            .copied()
            .collect::<std::collections::BTreeSet<_>>(),
        (0..5).collect()
    );
    // The others wait in their rows.
    assert_eq!(others, []);
    assert_eq!(scheduler.wants_rows(1).len(), 1);
}

#[test]
fn after_a_pause_there_is_one_at_a_time_until_the_endpoint_takes_more() {
    let mut scheduler = five_refused(3);
    scheduler.tick(at(3_010));
    for event in 10..60 {
        offer(&mut scheduler, event, at(3_010));
    }
    let mut at_once = Vec::new();
    let mut running = claims(&mut scheduler, 3_010);
    for _ in 0..20 {
        at_once.push(running.len());
        let claim = running.remove(0);
        accept(&mut scheduler, &claim, 3_010);
        write(&mut scheduler);
        running.extend(claims(&mut scheduler, 3_010));
    }
    assert_eq!(
        at_once,
        [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5]
    );
}

#[test]
fn who_is_refused_again_pauses_again_and_has_lost_one_attempt_alone() {
    let mut scheduler = five_refused(3);
    let probe = claims(&mut scheduler, 3_010);
    assert_eq!(probe.len(), 1);
    refuse(&mut scheduler, &probe[0], 5, 3_010);
    assert_eq!(write(&mut scheduler)[0].endings[0].attempts, 2);
    // A second longer than it says, since it did not mean what it said.
    assert!(claims(&mut scheduler, 9_009).is_empty());
    let next = claims(&mut scheduler, 9_010);
    assert_ne!(
        numbers(&next),
        numbers(&probe),
        "it has fewer attempts left than others"
    );
    accept(&mut scheduler, &next[0], 9_010);
    let then = claims(&mut scheduler, 9_010);
    assert_eq!(
        numbers(&then),
        numbers(&probe),
        "but once they pass, it is the next"
    );
}

#[test]
fn an_answer_to_what_started_before_makes_the_pause_longer_and_never_shorter() {
    let mut scheduler = scheduler(1);
    for event in 0..10 {
        offer(&mut scheduler, event, at(0));
    }
    let first = claims(&mut scheduler, 0);
    refuse(&mut scheduler, &first[0], 3, 0);
    refuse(&mut scheduler, &first[1], 10, 100);
    refuse(&mut scheduler, &first[2], 1, 200);
    accept(&mut scheduler, &first[3], 300);
    write(&mut scheduler);
    assert!(claims(&mut scheduler, 10_099).is_empty());
    assert_eq!(claims(&mut scheduler, 10_100).len(), 1);
}

#[test]
fn what_hangs_since_before_the_pause_does_not_keep_others_when_it_is_over() {
    let mut scheduler = scheduler(1);
    for event in 0..10 {
        offer(&mut scheduler, event, at(0));
    }
    let first = claims(&mut scheduler, 0);
    assert_eq!(first.len(), 5);
    refuse(&mut scheduler, &first[0], 2, 0);
    write(&mut scheduler);
    assert_eq!(claims(&mut scheduler, 2_000).len(), 1);
}

#[test]
fn other_webhooks_go_on() {
    let mut scheduler = scheduler(2);
    offer(&mut scheduler, 0, at(0));
    for claim in claims(&mut scheduler, 0) {
        if claim.target.webhook == webhook_id(0) {
            refuse(&mut scheduler, &claim, 60, 0);
        } else {
            accept(&mut scheduler, &claim, 0);
        }
    }
    for event in 1..4 {
        offer(&mut scheduler, event, at(1));
    }
    let made = claims(&mut scheduler, 1);
    assert_eq!(made.len(), 3);
    assert!(made.iter().all(|it| it.target.webhook == webhook_id(1)));
}

#[test]
fn the_worker_wakes_when_a_pause_ends() {
    let mut scheduler = five_refused(3);
    scheduler.tick(at(1_000));
    write(&mut scheduler);
    // What was refused would be due by its schedule.
    scheduler.tick(at(1_010));
    assert_eq!(scheduler.wake_in(at(1_010)), Some(2_000));
}

#[test]
fn no_pause_is_longer_than_a_day_also_after_one_that_was_too_short() {
    const DAY_MS: u64 = 86_400_000;
    let mut scheduler = five_refused(3);
    let probe = claims(&mut scheduler, 3_010);
    refuse(&mut scheduler, &probe[0], DAY_MS / 1_000, 3_010);
    write(&mut scheduler);
    let stats = scheduler.take_stats().pop().unwrap();
    assert_eq!(
        stats.1.pause.and_then(|it| it.until_ms),
        Some(at(3_010 + DAY_MS).unix_ms)
    );
    assert!(claims(&mut scheduler, 3_009 + DAY_MS).is_empty());
    assert_eq!(claims(&mut scheduler, 3_010 + DAY_MS).len(), 1);
}

// A clock that was wrong

#[test]
fn a_pause_that_was_begun_under_a_clock_that_was_ahead_ends_when_that_is_set_back() {
    const YEAR_MS: i64 = 365 * 86_400_000;
    let ahead = |ms: u64| Now {
        mono_ms: ms,
        unix_ms: at(ms).unix_ms + YEAR_MS,
    };
    for answered_before in [true, false] {
        let mut scheduler = scheduler(1);
        for event in 0..10 {
            offer(&mut scheduler, event, at(0));
        }
        scheduler.tick(ahead(0));
        let claim = scheduler.claim(&LIMITS, ahead(0)).unwrap();
        let ended = Ended {
            token: claim.token,
            result: verdict::Ended::Status {
                code: 429,
                retry_after: Some("60".to_owned()),
            },
            timed_out: false,
            started_ms: ahead(0).unix_ms,
            duration_ms: 0,
            excerpt: None,
            remark: None,
        };
        if answered_before {
            scheduler.ended(ended, &LIMITS, ahead(10), None);
            scheduler.tick(ahead(10));
            let _ = scheduler.take_stats();
            scheduler.tick(at(20));
            let stats = scheduler.take_stats().pop().unwrap();
            assert_eq!(stats.1.pause.map(|it| it.until_ms), Some(None));
        } else {
            scheduler.tick(at(10));
            scheduler.ended(ended, &LIMITS, at(10), None);
        }
        write(&mut scheduler);
        assert_eq!(claims(&mut scheduler, 60_020).len(), 1);
    }
}

#[test]
fn a_pause_of_a_day_outlasts_a_clock_that_is_set_back_a_little() {
    let mut scheduler = five_refused(86_400);
    scheduler.tick(at(40_000));
    scheduler.tick(at(10));
    assert!(claims(&mut scheduler, 86_400_009).is_empty());
    assert_eq!(claims(&mut scheduler, 86_400_010).len(), 1);
}

/// Sends a test, which the endpoint answers with a pause of so many seconds.
fn refuse_test(scheduler: &mut Scheduler, seconds: u64, ms: u64) {
    let event = Arc::new(Event {
        id: Uuid::from_u128(1_000_000 + u128::from(ms)),
        event_type: TEST.to_owned(),
        created_ms: at(ms).unix_ms,
        data: "{}".to_owned(),
    });
    let outbox = OutboxKey {
        id: event.id,
        block: 0,
        offset: 1,
    };
    let index = scheduler.index_of(webhook_id(0)).unwrap();
    scheduler.offer(outbox, &event, &[index], at(ms));
    while let Some(claim) = scheduler.claim(&LIMITS, at(ms)) {
        refuse(scheduler, &claim, seconds, ms);
    }
}

#[test]
fn a_pause_that_becomes_longer_again_and_again_takes_no_more_memory() {
    let mut scheduler = scheduler(1);
    for ms in 0..1_000 {
        refuse_test(&mut scheduler, 80_000, ms);
        write(&mut scheduler);
    }
    let text = format!("{scheduler:?}");
    let pauses = text.split("pauses: [").nth(1).unwrap();
    let pauses = &pauses[..pauses.find(']').unwrap()];
    assert_eq!(pauses.matches("Reverse").count(), 1);
    // It ends when the last answer says.
    scheduler.tick(at(80_000_000));
    assert!(scheduler.wake_in(at(80_000_000)).unwrap() > 0);
    assert!(claims(&mut scheduler, 80_000_998).is_empty());
    assert!(!claims(&mut scheduler, 80_000_999).is_empty());
}

#[test]
fn a_pause_that_is_shorter_than_one_that_was_ended_ends_in_time() {
    let mut scheduler = five_refused(60);
    let mut moved = known(0);
    moved.url = "http://127.0.0.1/moved".to_owned();
    scheduler.put(moved, false);
    for claim in claims(&mut scheduler, 2_000) {
        refuse(&mut scheduler, &claim, 10, 2_000);
    }
    write(&mut scheduler);
    assert!(claims(&mut scheduler, 11_999).is_empty());
    assert_eq!(claims(&mut scheduler, 12_000).len(), 1);
}

// When it ends before

#[test]
fn another_url_or_activation_ends_it_and_another_change_does_not() {
    let mut moved = known(0);
    moved.url = "http://127.0.0.1/moved".to_owned();
    let mut resumed = known(0);
    resumed.activation = 1;
    for (mut definition, ends) in [(moved, true), (resumed, true), (known(0), false)] {
        let mut scheduler = five_refused(60);
        let _ = scheduler.take_stats();
        let index = scheduler.index_of(webhook_id(0)).unwrap();
        definition.keep_pause(scheduler.definition(index));
        let url = definition.url.clone();
        scheduler.put(definition, false);
        let started = claims(&mut scheduler, 100);
        assert_eq!(started.len(), if ends { 5 } else { 0 }, "{url}");
        let stats = scheduler.take_stats().pop();
        let told = stats.and_then(|(_, it)| it.pause);
        assert_eq!(told.map(|it| it.until_ms), ends.then_some(None));
    }
}

#[test]
fn when_tables_are_read_again_after_a_dump_the_longer_pause_holds() {
    let (unwritten, shorter, longer) = (known(0), paused(30_000), paused(90_000));
    for (mut read, ends_ms) in [(unwritten, 60_010), (shorter, 60_010), (longer, 90_000)] {
        let mut scheduler = five_refused(60);
        let _ = scheduler.take_stats();
        let index = scheduler.index_of(webhook_id(0)).unwrap();
        read.merge_pause(scheduler.definition(index));
        scheduler.put(read, false);
        assert!(
            !scheduler.has_stats(),
            "the tables are not told that it is over"
        );
        assert!(claims(&mut scheduler, 110).is_empty());
        write(&mut scheduler);
        assert!(claims(&mut scheduler, ends_ms - 1).is_empty());
        assert_eq!(claims(&mut scheduler, ends_ms).len(), 1);
    }
    let mut moved = known(0);
    moved.url = "http://127.0.0.1/moved".to_owned();
    moved.merge_pause(&paused(60_000));
    assert_eq!(moved.paused_until_ms, None);
}

#[test]
fn what_was_refused_goes_first_when_the_pause_is_ended_early_and_never_sooner_than_scheduled() {
    let mut moved = known(0);
    moved.url = "http://127.0.0.1/moved".to_owned();
    let mut resumed = known(0);
    resumed.activation = 1;
    for definition in [moved, resumed] {
        // The schedule says a second.
        for (ended_ms, again_ms) in [(100, 1_010), (5_000, 5_000)] {
            let mut scheduler = five_refused(86_400);
            for ms in [100, ended_ms] {
                scheduler.tick(at(ms));
                write(&mut scheduler);
            }
            scheduler.put(definition.clone(), false);
            write(&mut scheduler);
            if ended_ms < again_ms {
                assert!(claims(&mut scheduler, again_ms - 1).is_empty());
            }
            let mut again = numbers(&claims(&mut scheduler, again_ms));
            again.sort_unstable();
            assert_eq!(again, [0, 1, 2, 3, 4], "{}", definition.url);
        }
    }
}

#[test]
fn a_row_of_what_was_refused_is_due_as_scheduled() {
    let mut scheduler = scheduler(1);
    offer(&mut scheduler, 0, at(0));
    for claim in claims(&mut scheduler, 0) {
        refuse(&mut scheduler, &claim, 86_400, 10);
    }
    let units = scheduler.take_units();
    // The URL may change while no worker runs.
    assert_eq!(units[0].endings[0].how, How::RetryAt(at(1_010).unix_ms));
}

#[test]
fn what_the_old_url_answers_says_nothing_of_the_new_one() {
    let mut scheduler = scheduler(1);
    for event in 0..10 {
        offer(&mut scheduler, event, at(0));
    }
    let before = claims(&mut scheduler, 0);
    let mut moved = known(0);
    moved.url = "http://127.0.0.1/moved".to_owned();
    scheduler.put(moved, false);
    refuse(&mut scheduler, &before[0], 60, 10);
    assert_eq!(claims(&mut scheduler, 10).len(), 1);
}

// What does not wait

#[test]
fn a_test_does_not_wait() {
    let mut scheduler = five_refused(60);
    let event = Arc::new(Event {
        id: Uuid::from_u128(1_000),
        event_type: TEST.to_owned(),
        created_ms: at(20).unix_ms,
        data: "{}".to_owned(),
    });
    let index = scheduler.index_of(webhook_id(0)).unwrap();
    let outbox = OutboxKey {
        id: event.id,
        block: 0,
        offset: 1,
    };
    scheduler.offer(outbox, &event, &[index], at(20));
    let made = claims(&mut scheduler, 20);
    assert_eq!(numbers(&made), [999]);
    accept(&mut scheduler, &made[0], 21);
    assert!(
        claims(&mut scheduler, 21).is_empty(),
        "the others wait still"
    );
}

#[test]
fn a_test_that_is_refused_is_tried_again_after_the_pause() {
    for active in [true, false] {
        let mut definition = known(0);
        definition.active = active;
        let mut scheduler = Scheduler::new();
        scheduler.put(definition, false);
        let event = Arc::new(Event {
            id: Uuid::from_u128(1_000),
            event_type: TEST.to_owned(),
            created_ms: at(20).unix_ms,
            data: "{}".to_owned(),
        });
        let outbox = OutboxKey {
            id: event.id,
            block: 0,
            offset: 1,
        };
        let (_, until) = scheduler.wants_due(at(0)).unwrap();
        scheduler.due_rows(Vec::new(), until, None, at(0));
        let index = scheduler.index_of(webhook_id(0)).unwrap();
        scheduler.offer(outbox, &event, &[index], at(20));
        let made = claims(&mut scheduler, 20);
        refuse(&mut scheduler, &made[0], 30, 20);
        write(&mut scheduler);
        for ms in [2_000, 30_019] {
            assert!(claims(&mut scheduler, ms).is_empty());
        }
        assert_eq!(numbers(&claims(&mut scheduler, 30_020)), [999]);
    }
}

fn hurry(scheduler: &mut Scheduler, delivery: Uuid, ms: u64) {
    let outbox = OutboxKey {
        id: Uuid::from_u128(5_000 + u128::from(ms)),
        block: 0,
        offset: 1,
    };
    let webhook = webhook_id(0);
    scheduler.hurry(outbox, Hurried { delivery, webhook }, at(ms));
    write(scheduler);
}

/// Deliveries that users want and whose rows are fetched now.
fn fetched(scheduler: &mut Scheduler) -> Vec<Uuid> {
    let wanted = scheduler.wants_hurried(64);
    wanted.into_iter().map(|it| it.delivery).collect()
}

#[test]
fn a_delivery_that_a_user_wants_does_not_wait_wherever_it_is() {
    let mut scheduler = five_refused(30);
    let delivery = |number: u128| {
        let event = Uuid::from_u128(number + 1);
        webhooks_core::id::delivery(event, webhook_id(0), 0)
    };
    // Refused; ready, and fresh; with a row of its own, in no memory.
    hurry(&mut scheduler, delivery(2), 20);
    assert_eq!(numbers(&claims(&mut scheduler, 20)), [2]);
    hurry(&mut scheduler, delivery(6), 21);
    assert_eq!(numbers(&claims(&mut scheduler, 21)), [6]);
    scheduler.tick(at(500));
    write(&mut scheduler);
    hurry(&mut scheduler, Uuid::from_u128(77), 501);
    assert_eq!(fetched(&mut scheduler), [Uuid::from_u128(77)]);
    scheduler.hurried_rows(vec![row(77, false)], at(501));
    assert_eq!(numbers(&claims(&mut scheduler, 501)), [77]);
}

#[test]
fn a_fresh_delivery_that_stands_behind_others_gets_its_row_when_a_user_wants_it() {
    let mut scheduler = scheduler(2);
    offer(&mut scheduler, 0, at(0));
    for claim in claims(&mut scheduler, 0) {
        if claim.target.webhook == webhook_id(0) {
            refuse(&mut scheduler, &claim, 60, 0);
        }
    }
    write(&mut scheduler);
    for event in 1..20 {
        offer(&mut scheduler, event, at(1));
    }
    let wanted = webhooks_core::id::delivery(Uuid::from_u128(20), webhook_id(0), 0);
    hurry(&mut scheduler, wanted, 2);
    assert_eq!(fetched(&mut scheduler), [wanted]);
}

#[test]
fn many_that_users_want_do_not_wait_though_the_endpoint_refuses_one_after_the_other() {
    let mut scheduler = scheduler(1);
    for number in 0..20 {
        hurry(&mut scheduler, row(number, false).id, number as u64);
    }
    assert_eq!(scheduler.wants_hurried(64).len(), 20);
    let rows = (0..20).map(|number| row(number, false)).collect();
    scheduler.hurried_rows(rows, at(20));
    let mut made = 0;
    for ms in 20..100 {
        for claim in claims(&mut scheduler, ms) {
            made += usize::from(claim.attempt == 1);
            refuse(&mut scheduler, &claim, 3_600, ms);
        }
        write(&mut scheduler);
    }
    assert_eq!(made, 20);
}

#[test]
fn a_delivery_that_came_by_itself_while_its_row_was_fetched_is_wanted_still() {
    let mut scheduler = scheduler(1);
    hurry(&mut scheduler, row(7, false).id, 0);
    assert_eq!(scheduler.wants_hurried(64).len(), 1);
    // It was refused before, and is read with the retries.
    scheduler.put(paused(5_000), false);
    scheduler.reread_due();
    let (_, until) = scheduler.wants_due(at(1)).unwrap();
    scheduler.due_rows(vec![row(7, true)], until, None, at(1));
    assert!(claims(&mut scheduler, 1).is_empty());
    scheduler.hurried_rows(vec![row(7, true)], at(2));
    assert_eq!(numbers(&claims(&mut scheduler, 2)), [7]);
}

/// A user wants one delivery after the other, with events of so many bytes, and the endpoint takes none of them.
fn want_many(scheduler: &mut Scheduler, numbers: std::ops::Range<u128>, bytes: usize) {
    for number in numbers {
        hurry(scheduler, row(number, false).id, number as u64);
        take_wanted(scheduler, bytes);
    }
}

/// Rows that the scheduler asks for since users want their deliveries; how many.
fn take_wanted(scheduler: &mut Scheduler, bytes: usize) -> usize {
    let rows: Vec<_> = fetched(scheduler)
        .into_iter()
        .map(|id| large_row(0, id.as_u128(), bytes, false))
        .collect();
    let count = rows.len();
    scheduler.hurried_rows(rows, at(1_000));
    count
}

#[test]
fn many_that_users_want_keep_no_other_webhook_from_its_queue() {
    for bytes in [2, 100_000, 1 << 20] {
        let mut scheduler = scheduler(1);
        want_many(&mut scheduler, 0..900, bytes);
        assert!(claims(&mut scheduler, 1_000).len() <= 5);
        assert!(gets_rows(&mut scheduler, 1), "{bytes}");
    }
}

#[test]
fn what_users_want_waits_without_a_row_in_memory_for_those_before_it() {
    let mut scheduler = scheduler(1);
    want_many(&mut scheduler, 0..100, 2);
    assert_eq!(take_wanted(&mut scheduler, 2), 0, "64 are ready");
    assert_ne!(
        scheduler.rows_in(at(1_000)),
        Some(0),
        "nor is the worker kept busy"
    );
    let mut made = 0;
    for ms in 1_000..1_200 {
        for claim in claims(&mut scheduler, ms) {
            made += usize::from(claim.attempt == 1);
            refuse(&mut scheduler, &claim, 3_600, ms);
        }
        write(&mut scheduler);
        take_wanted(&mut scheduler, 2);
    }
    assert_eq!(made, 100, "all go on while the webhook is paused");
}

#[test]
fn one_that_a_user_wants_goes_on_when_others_take_all_room() {
    let mut scheduler = Scheduler::new();
    scheduler.put(known(0), false);
    scheduler.put(known(1), true);
    let _ = scheduler.wants_rows(10);
    let rows = (1..=20)
        .map(|it| large_row(1, it, 1 << 20, false))
        .collect();
    scheduler.rows(webhook_id(1), rows, Some(20), true, at(0));
    hurry(&mut scheduler, row(7, false).id, 1);
    hurry(&mut scheduler, row(8, false).id, 2);
    assert_eq!(fetched(&mut scheduler), [row(7, false).id]);
    scheduler.hurried_rows(vec![row(7, false)], at(2));
    assert!(
        fetched(&mut scheduler).is_empty(),
        "the next comes after it"
    );
}

#[test]
fn one_webhook_alone_does_not_take_the_places_of_what_users_want() {
    let mut scheduler = scheduler(2);
    want_many(&mut scheduler, 0..2_000, 2);
    let (delivery, webhook) = (Uuid::from_u128(1 << 64), webhook_id(1));
    let outbox = OutboxKey {
        id: Uuid::from_u128(1),
        block: 0,
        offset: 1,
    };
    scheduler.hurry(outbox, Hurried { delivery, webhook }, at(3_000));
    write(&mut scheduler);
    assert_eq!(fetched(&mut scheduler), [delivery]);
}

/// The first webhook, paused until so many milliseconds.
fn paused(ms: u64) -> Definition {
    let mut definition = known(0);
    definition.paused_until_ms = Some(at(ms).unix_ms);
    definition
}

// Rows

/// The row of a delivery that is due.
fn row(number: u128, refused: bool) -> Recorded {
    Recorded {
        id: Uuid::from_u128(number),
        webhook: webhook_id(0),
        event: Arc::new(Event {
            id: Uuid::from_u128(number + 1),
            event_type: "memory.created".to_owned(),
            created_ms: at(0).unix_ms,
            data: "{}".to_owned(),
        }),
        seq: i64::try_from(number).unwrap(),
        attempts: u32::from(refused),
        attempts_before: 0,
        due_ms: None,
        created_ms: at(0).unix_ms,
        refused,
        undecided: None,
    }
}

#[test]
fn a_pause_that_the_tables_know_holds_after_a_restart() {
    let mut scheduler = Scheduler::new();
    let mut definition = known(0);
    definition.paused_until_ms = Some(at(5_000).unix_ms);
    scheduler.put(definition, true);
    assert!(
        scheduler.wants_rows(1).is_empty(),
        "none are kept in memory meanwhile"
    );
    assert!(claims(&mut scheduler, 4_999).is_empty());
    // One that was refused comes with the retries.
    let (_, until) = scheduler.wants_due(at(4_999)).unwrap();
    scheduler.due_rows(vec![row(9, true)], until, None, at(4_999));
    assert_eq!(numbers(&claims(&mut scheduler, 5_000)), [9]);
    assert_eq!(scheduler.wants_rows(1).len(), 1, "now the others are read");
}

#[test]
fn what_waits_for_a_pause_is_left_to_its_rows() {
    let mut scheduler = scheduler(1);
    for event in 0..50 {
        offer(&mut scheduler, event, at(0));
    }
    for claim in claims(&mut scheduler, 0) {
        refuse(&mut scheduler, &claim, 60, 0);
    }
    scheduler.tick(at(1_000));
    let units = write(&mut scheduler);
    assert_eq!(units.iter().map(|it| it.queued.len()).sum::<usize>(), 45);
    scheduler.tick(at(60_000));
    let wanted = scheduler.wants_rows(1);
    assert_eq!(
        (wanted[0].most, scheduler.rows_in(at(60_000))),
        (64, Some(0)),
        "now they are read"
    );
}

#[test]
fn what_was_ready_when_a_pause_began_is_left_to_its_rows() {
    let mut scheduler = Scheduler::new();
    scheduler.put(known(0), true);
    let most = scheduler.wants_rows(1)[0].most;
    let rows = (1..=most as u128).map(|it| row(it, false)).collect();
    let last = i64::try_from(most).unwrap();
    scheduler.rows(webhook_id(0), rows, Some(last), false, at(0));
    let first = claims(&mut scheduler, 0);
    assert_eq!(first.len(), 5);
    for claim in &first {
        refuse(&mut scheduler, claim, 60, 0);
    }
    write(&mut scheduler);
    scheduler.tick(at(60_000));
    // Five were refused.
    let wanted = scheduler.wants_rows(1);
    assert_eq!((wanted[0].after, wanted[0].most), (5, 64));
}

/// Whether a webhook that comes now ever gets a row read, while the others are paused for a day.
fn gets_rows(scheduler: &mut Scheduler, number: usize) -> bool {
    scheduler.put(known(number), true);
    [800, 60_000, 3_600_000, 80_000_000].into_iter().any(|ms| {
        scheduler.tick(at(ms));
        write(scheduler);
        let wanted = scheduler.wants_rows(100);
        wanted.iter().any(|it| it.webhook == webhook_id(number))
    })
}

/// The row of a delivery with an event of so many bytes.
fn large_row(webhook: usize, number: u128, bytes: usize, refused: bool) -> Recorded {
    let mut it = row(number, refused);
    it.id = Uuid::from_u128(((webhook as u128) << 64) | number);
    it.webhook = webhook_id(webhook);
    Arc::get_mut(&mut it.event).unwrap().data = "x".repeat(bytes);
    it
}

#[test]
fn many_paused_webhooks_with_large_rows_keep_no_other_from_its_queue() {
    const WEBHOOKS: usize = 80;
    let mut scheduler = Scheduler::new();
    for number in 0..WEBHOOKS {
        let mut definition = known(number);
        definition.paused_until_ms = Some(at(86_400_000).unix_ms);
        scheduler.put(definition, true);
    }
    for _ in 0..200 {
        for wanted in scheduler.wants_rows(10) {
            let number = (0..WEBHOOKS).find(|&it| webhook_id(it) == wanted.webhook);
            let from = u128::try_from(wanted.after.max(0)).unwrap() + 1;
            let rows: Vec<_> = (from..from + wanted.most as u128)
                .map(|it| large_row(number.unwrap(), it, 1 << 20, false))
                .collect();
            let upto = rows.last().map(|row| row.seq);
            scheduler.rows(wanted.webhook, rows, upto, true, at(0));
        }
    }
    assert!(gets_rows(&mut scheduler, WEBHOOKS));
}

#[test]
fn a_large_event_for_many_paused_webhooks_keeps_no_other_from_its_queue() {
    const WEBHOOKS: usize = 70;
    let mut scheduler = scheduler(WEBHOOKS);
    offer(&mut scheduler, 0, at(0));
    for ms in 0..20 {
        for claim in claims(&mut scheduler, ms) {
            refuse(&mut scheduler, &claim, 86_400, ms);
        }
    }
    write(&mut scheduler);
    webhooks::offer_data(&mut scheduler, 1, "x".repeat(1 << 20), at(30));
    for ms in [200, 600, 700] {
        scheduler.tick(at(ms));
        write(&mut scheduler);
    }
    assert!(gets_rows(&mut scheduler, WEBHOOKS));
}

#[test]
fn what_was_refused_takes_no_room_from_others_until_the_pause_is_over() {
    const WEBHOOKS: usize = 70;
    let mut scheduler = Scheduler::new();
    for number in 0..WEBHOOKS {
        let mut definition = known(number);
        definition.paused_until_ms = Some(at(86_400_000).unix_ms);
        scheduler.put(definition, true);
    }
    let (_, until) = scheduler.wants_due(at(0)).unwrap();
    let rows = (0..WEBHOOKS).map(|it| large_row(it, 1, 1 << 20, true));
    scheduler.due_rows(rows.collect(), until, None, at(0));
    scheduler.put(known(WEBHOOKS), true);
    scheduler.tick(at(100));
    assert_eq!(
        scheduler.wants_rows(100)[0].most,
        64,
        "as if there were none"
    );
    scheduler.tick(at(86_400_000));
    // Those whose data were not kept are read again.
    let read = scheduler.wants_rows(100).len();
    assert_eq!(claims(&mut scheduler, 86_400_000).len(), 8);
    assert_eq!(read, WEBHOOKS - 8);
}

#[test]
fn what_cannot_be_tried_once_a_pause_has_begun_takes_no_room_either() {
    let mut scheduler = Scheduler::new();
    scheduler.put(known(0), true);
    let _ = scheduler.wants_rows(1);
    let rows = (1..=5).map(|it| row(it, false)).collect();
    scheduler.rows(webhook_id(0), rows, Some(5), false, at(0));
    let first = claims(&mut scheduler, 0);
    refuse(&mut scheduler, &first[0], 60, 0);
    let it = NotTried {
        token: first[1].token,
        reason: "a test".to_owned(),
        hindrance: Hindrance::OutOfReach,
        started_ms: at(0).unix_ms,
    };
    assert!(scheduler.not_tried(it, &LIMITS, at(1), None));
    for claim in &first[2..] {
        accept(&mut scheduler, claim, 1);
    }
    write(&mut scheduler);
    assert!(scheduler.idle(), "nothing is ready");
    scheduler.tick(at(60_000));
    assert_eq!(scheduler.wants_rows(1)[0].after, 1);
}

#[test]
fn the_tables_are_told_of_a_pause_soon() {
    let mut scheduler = scheduler(1);
    offer(&mut scheduler, 0, at(0));
    assert!(!scheduler.has_new_pause());
    let first = claims(&mut scheduler, 0);
    refuse(&mut scheduler, &first[0], 60, 0);
    assert!(scheduler.has_new_pause());
    let stats = scheduler.take_stats();
    let pause = stats[0].1.pause.clone().unwrap();
    assert_eq!(
        (pause.until_ms, pause.url.as_str()),
        (Some(at(60_000).unix_ms), "http://127.0.0.1/")
    );
    assert!(!scheduler.has_new_pause());
    // They could not be told.
    scheduler.put_back_stats(stats);
    assert_eq!(scheduler.take_stats()[0].1.pause, Some(pause));
}

// A receiver that counts

/// How a receiver limits, and what it says in `Retry-After`.
#[derive(Clone, Copy, Debug)]
struct Receiver {
    most: usize,
    span_ms: u64,
    sliding: bool,
    says: Says,
    /// How long an answer takes.
    answer_ms: u64,
}

#[derive(Clone, Copy, Debug)]
enum Says {
    /// The time until the next may pass, rounded up to seconds.
    Up,
    /// The same, cut off to seconds.
    Down,
    /// Always so many seconds.
    Always(u64),
}

impl Receiver {
    /// Whether a request passes; else what is said.
    fn judge(&self, passed: &mut Vec<u64>, ms: u64) -> Result<(), u64> {
        let begins = if self.sliding {
            (ms + 1).saturating_sub(self.span_ms)
        } else {
            ms - ms % self.span_ms
        };
        passed.retain(|&at| at >= begins);
        if passed.len() < self.most {
            passed.push(ms);
            return Ok(());
        }
        let free = if self.sliding { passed[0] } else { begins } + self.span_ms;
        let left = free - ms;
        Err(match self.says {
            Says::Up => left.div_ceil(1_000),
            Says::Down => left / 1_000,
            Says::Always(seconds) => seconds,
        })
    }
}

/// Sends events to a receiver; how many deliveries failed, how many refusals there were, and how long it took.
fn send(events: u64, receiver: Receiver) -> (usize, usize, u64) {
    let mut scheduler = scheduler(1);
    let mut rows: BTreeMap<i64, Recorded> = BTreeMap::new();
    let mut all: HashMap<Uuid, Arc<Event>> = HashMap::new();
    let mut running: Vec<(u64, Claim, u16, Option<u64>)> = Vec::new();
    let (mut passed, mut offered, mut over, mut failed, mut refused) = (Vec::new(), 0, 0, 0, 0);
    let mut ms = 0;
    while ms < 600_000 {
        while offered < events && scheduler.room() > 0 {
            offer(&mut scheduler, offered, at(ms));
            offered += 1;
        }
        scheduler.tick(at(ms));
        while let Some(claim) = scheduler.claim(&LIMITS, at(ms)) {
            all.insert(claim.event.id, Arc::clone(&claim.event));
            let judged = receiver.judge(&mut passed, ms);
            refused += usize::from(judged.is_err());
            let (code, said) = judged.map_or_else(|said| (429, Some(said)), |()| (200, None));
            running.push((ms + receiver.answer_ms, claim, code, said));
        }
        for (_, claim, code, said) in running.extract_if(.., |it| it.0 <= ms) {
            end(&mut scheduler, &claim, code, said, ms);
        }
        let units = scheduler.take_units();
        let batch = Batch::of(&units);
        for ending in &batch.log {
            over += 1;
            failed += usize::from(ending.how == How::Failed);
        }
        rows.retain(|_, row| !batch.deletes.contains(&row.id));
        for new in batch.inserts.iter().chain(&batch.updates) {
            let event = Arc::new(Event {
                id: new.event,
                event_type: "memory.created".to_owned(),
                created_ms: at(0).unix_ms,
                data: "{}".to_owned(),
            });
            let row = Recorded {
                id: new.id,
                event,
                seq: new.seq,
                attempts: new.attempts,
                due_ms: new.due_ms,
                refused: new.status.is_some_and(verdict::is_refusal),
                ..row(0, false)
            };
            rows.retain(|_, known| known.id != row.id);
            rows.insert(row.seq, row);
        }
        for unit in &units {
            scheduler.written(unit);
        }
        for wanted in scheduler.wants_rows(1) {
            let due = |row: &&Recorded| row.due_ms.is_none_or(|due| due <= at(ms).unix_ms);
            let behind = rows
                .range(wanted.after.saturating_add(1)..)
                .map(|(_, row)| row);
            let found: Vec<Recorded> = behind.filter(due).take(wanted.most).cloned().collect();
            let more = found.len() == wanted.most;
            let upto = found.last().map(|row| row.seq);
            scheduler.rows(wanted.webhook, found, upto, more, at(ms));
        }
        if let Some((after, until)) = scheduler.wants_due(at(ms)) {
            let key = |row: &Recorded| (row.due_ms.unwrap_or(i64::MIN), row.id);
            let mut found: Vec<Recorded> = rows
                .values()
                .filter(|row| row.due_ms.is_some())
                .cloned()
                .collect();
            found.retain(|row| key(row) > after && key(row).0 <= until);
            scheduler.due_rows(found, until, None, at(ms));
        }
        if over == usize::try_from(events).unwrap() {
            return (failed, refused, ms);
        }
        // What has ended lets others start.
        let ended = if units.is_empty() { u64::MAX } else { 1 };
        let answered = running.iter().map(|(at, ..)| at.saturating_sub(ms)).min();
        let wake = answered.into_iter().chain(scheduler.wake_in(at(ms))).min();
        let wake = wake.map(|it| it.min(ended));
        ms += wake.unwrap_or(1).max(1);
    }
    (usize::MAX, refused, u64::MAX)
}

#[test]
fn no_delivery_fails_at_a_receiver_that_says_when_it_takes_more() {
    for most in [1, 2, 3, 4, 5, 8, 20, 100] {
        for sliding in [false, true] {
            for (says, span_ms) in [
                (Says::Up, 2_000),
                (Says::Up, 1_000),
                (Says::Up, 700),
                (Says::Down, 1_000),
                (Says::Always(2), 2_000),
                (Says::Always(5), 2_000),
                // What is said is too short.
                (Says::Down, 2_000),
                (Says::Always(1), 2_000),
            ] {
                let is_too_short = matches!(says, Says::Down | Says::Always(1)) && span_ms > 1_000;
                if is_too_short && most == 1 {
                    continue;
                }
                for answer_ms in [1, 30, 400] {
                    let receiver = Receiver {
                        most,
                        span_ms,
                        sliding,
                        says,
                        answer_ms,
                    };
                    let events = 40 + 8 * most as u64;
                    let (failed, refused, took) = send(events, receiver);
                    println!("{receiver:?}: {refused} refused, {took} ms");
                    assert_eq!(failed, 0, "{receiver:?}");
                }
            }
        }
    }
}
