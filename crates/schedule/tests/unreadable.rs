//! A webhook whose row cannot be read sends nothing and loses nothing.
#![allow(clippy::unwrap_used, missing_docs)]

mod webhooks;

use std::sync::Arc;
use uuid::Uuid;
use webhooks::{at, definition, offer, offer_data, webhook_id};
use webhooks_core::filter::Filter;
use webhooks_core::request::Event;
use webhooks_core::verdict;
use webhooks_schedule::{
    Batch, Claim, Definition, Ended, How, Lifetime, Limits, OutboxKey, Recorded, Scheduler, Unit,
};

const LIMITS: Limits = Limits {
    max_in_flight: 40,
    concurrent: 5,
    per_minute: 0,
    disable_after_ms: 0,
};

fn readable() -> Definition {
    definition(0, true, &Lifetime::default())
}

fn without_secret() -> Definition {
    Definition {
        unreadable: Some("secret cannot be read".to_owned()),
        ..readable()
    }
}

fn without_filter() -> Definition {
    Definition {
        filter: None,
        unreadable: Some("filters cannot be read".to_owned()),
        ..readable()
    }
}

fn for_food() -> Definition {
    let filter = Filter::parse(&serde_json::json!({"tags": "food"})).unwrap();
    Definition {
        filter: Some(filter),
        ..readable()
    }
}

fn end(scheduler: &mut Scheduler, claim: &Claim, code: u16, ms: u64) {
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
}

/// Events that are sent by this time, in order; each is answered with success.
fn deliver(scheduler: &mut Scheduler, ms: u64) -> Vec<u128> {
    let mut made = Vec::new();
    while let Some(claim) = scheduler.claim(&LIMITS, at(ms)) {
        made.push(claim.event.id.as_u128());
        end(scheduler, &claim, 200, ms);
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

/// Queue rows as a table keeps them: what was queued, and is not gone.
#[derive(Default)]
struct Queue(Vec<Recorded>);

impl Queue {
    fn take(&mut self, units: &[Unit]) {
        let batch = Batch::of(units);
        for row in &batch.inserts {
            self.0.push(Recorded {
                id: row.id,
                webhook: row.webhook,
                event: Arc::new(Event {
                    id: row.event,
                    event_type: "memory.created".to_owned(),
                    created_ms: row.created_ms,
                    data: String::new(),
                }),
                seq: row.seq,
                attempts: row.attempts,
                attempts_before: 0,
                due_ms: row.due_ms,
                created_ms: row.created_ms,
                refused: false,
                undecided: row.undecided.then(|| match row.event.as_u128() {
                    1 => r#"{"tags":["food"]}"#.to_owned(),
                    _ => r#"{"tags":["drink"]}"#.to_owned(),
                }),
            });
        }
        for row in &batch.updates {
            let known = self.0.iter_mut().find(|it| it.id == row.id).unwrap();
            (known.attempts, known.due_ms) = (row.attempts, row.due_ms);
            known.undecided = None;
        }
        self.0.retain(|row| !batch.deletes.contains(&row.id));
    }

    /// Fetches what is asked for.
    fn fetch(&self, scheduler: &mut Scheduler, ms: u64) -> bool {
        let wanted = scheduler.wants_rows(10);
        for it in &wanted {
            let rows = self.0.iter().filter(|row| row.seq > it.after);
            let rows = rows.filter(|row| row.due_ms.is_none_or(|due| due <= at(ms).unix_ms));
            let rows: Vec<Recorded> = rows.cloned().collect();
            let upto = rows.last().map(|row| row.seq);
            scheduler.rows(it.webhook, rows, upto, false, at(ms));
        }
        !wanted.is_empty()
    }
}

#[test]
fn nothing_is_sent_while_the_secret_cannot_be_read_and_all_of_it_afterwards() {
    let (mut scheduler, mut queue) = (Scheduler::new(), Queue::default());
    scheduler.put(readable(), false);
    offer(&mut scheduler, 0, at(0));
    scheduler.put(without_secret(), false);
    offer(&mut scheduler, 1, at(0));
    assert_eq!(deliver(&mut scheduler, 0), []);
    for ms in [200, 400, 600, 800] {
        scheduler.tick(at(ms));
    }
    queue.take(&written(&mut scheduler));
    assert_eq!(queue.0.len(), 2);
    assert!(queue.0.iter().all(|row| row.undecided.is_none()));
    assert!(!queue.fetch(&mut scheduler, 800), "rows are left alone");
    assert_eq!(deliver(&mut scheduler, 800), []);
    scheduler.put(readable(), false);
    assert!(queue.fetch(&mut scheduler, 900));
    assert_eq!(deliver(&mut scheduler, 900), [1, 2]);
}

#[test]
fn a_retry_waits_too() {
    let (mut scheduler, mut queue) = (Scheduler::new(), Queue::default());
    scheduler.put(readable(), false);
    let (_, until) = scheduler.wants_due(at(0)).unwrap();
    scheduler.due_rows(Vec::new(), until, None, at(0));
    offer(&mut scheduler, 0, at(0));
    let claim = scheduler.claim(&LIMITS, at(0)).unwrap();
    end(&mut scheduler, &claim, 500, 0);
    queue.take(&written(&mut scheduler));
    scheduler.put(without_secret(), false);
    scheduler.tick(at(5_000));
    assert_eq!(deliver(&mut scheduler, 5_000), []);
    scheduler.put(readable(), false);
    assert!(queue.fetch(&mut scheduler, 6_000));
    assert_eq!(deliver(&mut scheduler, 6_000), [1]);
}

#[test]
fn a_test_waits_too_also_of_an_inactive_webhook() {
    let mut scheduler = Scheduler::new();
    let inactive = |it: Definition| Definition {
        active: false,
        ..it
    };
    scheduler.put(inactive(without_filter()), false);
    let event = Arc::new(Event {
        id: Uuid::from_u128(1),
        event_type: "webhook.test".to_owned(),
        created_ms: at(0).unix_ms,
        data: "{}".to_owned(),
    });
    let key = OutboxKey {
        id: event.id,
        block: 0,
        offset: 1,
    };
    let index = scheduler.index_of(webhook_id(0)).unwrap();
    scheduler.offer(key, &event, &[index], at(0));
    assert_eq!(deliver(&mut scheduler, 0), []);
    for ms in [200, 400, 600, 800] {
        scheduler.tick(at(ms));
    }
    let units = written(&mut scheduler);
    let queued = units[0].queued.first().unwrap().clone();
    assert!(queued.due_ms.is_some() && !queued.undecided);
    let row = || Recorded {
        id: queued.id,
        webhook: queued.webhook,
        event: Arc::clone(&event),
        seq: queued.seq,
        attempts: 0,
        attempts_before: 0,
        due_ms: queued.due_ms,
        created_ms: queued.created_ms,
        refused: false,
        undecided: None,
    };
    let (_, until) = scheduler.wants_due(at(900)).unwrap();
    scheduler.due_rows(vec![row()], until, None, at(900));
    assert_eq!(deliver(&mut scheduler, 900), []);
    scheduler.put(inactive(readable()), false);
    let (_, until) = scheduler.wants_due(at(1_000)).unwrap();
    scheduler.due_rows(vec![row()], until, None, at(1_000));
    assert_eq!(deliver(&mut scheduler, 1_000), [1]);
}

#[test]
fn a_filter_that_can_be_read_again_judges_what_came_meanwhile() {
    let (mut scheduler, mut queue) = (Scheduler::new(), Queue::default());
    scheduler.put(without_filter(), false);
    offer_data(&mut scheduler, 0, r#"{"tags":["food"]}"#.to_owned(), at(0));
    offer_data(&mut scheduler, 1, r#"{"tags":["drink"]}"#.to_owned(), at(0));
    // Repaired before anything has been written: the rows are judged all the same.
    scheduler.put(for_food(), false);
    assert_eq!(deliver(&mut scheduler, 0), []);
    scheduler.tick(at(200));
    queue.take(&written(&mut scheduler));
    assert_eq!(
        queue.0.iter().filter(|it| it.undecided.is_some()).count(),
        2
    );
    assert!(queue.fetch(&mut scheduler, 300));
    assert_eq!(deliver(&mut scheduler, 300), [1]);
    let units = written(&mut scheduler);
    let hows: Vec<How> = units
        .iter()
        .flat_map(|it| &it.endings)
        .map(|it| it.how)
        .collect();
    assert_eq!(hows, [How::Unwanted, How::Delivered]);
    assert_eq!(
        Batch::of(&units).log.len(),
        1,
        "what was not wanted leaves no trace"
    );
    queue.take(&units);
    assert!(queue.0.is_empty());
}

#[test]
fn what_waits_for_a_filter_goes_with_its_webhook() {
    let mut scheduler = Scheduler::new();
    scheduler.put(without_filter(), false);
    offer(&mut scheduler, 0, at(0));
    scheduler.remove(webhook_id(0), at(0));
    scheduler.tick(at(200));
    let units = written(&mut scheduler);
    assert_eq!(units.len(), 1);
    assert!(units[0].outbox.is_some() && units[0].queued.is_empty());
    assert!(scheduler.idle());
}

#[test]
fn other_webhooks_get_the_event_at_once() {
    let mut scheduler = Scheduler::new();
    scheduler.put(without_filter(), false);
    scheduler.put(definition(1, true, &Lifetime::default()), false);
    offer(&mut scheduler, 0, at(0));
    let claim = scheduler.claim(&LIMITS, at(0)).unwrap();
    assert_eq!(claim.target.webhook, webhook_id(1));
    end(&mut scheduler, &claim, 200, 0);
    assert!(scheduler.claim(&LIMITS, at(0)).is_none());
}
