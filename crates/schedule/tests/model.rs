//! The scheduler against a model of the tables: whatever happens, in whatever order, with crashes between,
//! nothing is lost, and without crashes nothing is sent twice.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod webhooks;

use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;
use webhooks::{definition, webhook_id};
use webhooks_core::request::Event;
use webhooks_core::verdict;
use webhooks_schedule::{
    Batch, Claim, Ended, Hindrance, How, Lifetime, Limits, Moment, NotTried, Now, OutboxKey,
    QueueRow, Recorded, Scheduler, Snapshot, Unit,
};

const LIMITS: Limits = Limits {
    max_in_flight: 12,
    concurrent: 3,
    per_minute: 0,
    disable_after_ms: 0,
};

/// The tables, and what they say of the worker's writes.
#[derive(Default)]
struct Tables {
    webhooks: BTreeMap<Uuid, (usize, bool, Lifetime)>,
    /// With the number of the transaction, and the webhooks whose filters the event fits.
    outbox: BTreeMap<Uuid, (OutboxKey, Arc<Event>, u64, Vec<usize>)>,
    queue: BTreeMap<Uuid, Recorded>,
    log: HashMap<Uuid, How>,
    /// Rows of the queue that are passed over.
    set_aside: BTreeSet<Uuid>,
    events: HashMap<Uuid, Arc<Event>>,
}

impl Tables {
    /// As the worker writes them, in one transaction.
    fn write(&mut self, units: &[Unit]) {
        let batch = Batch::of(units);
        for ending in batch.log {
            assert_eq!(
                self.log.insert(ending.id, ending.how),
                None,
                "a delivery ends once"
            );
        }
        for id in batch.deletes {
            // Cancelling has moved the row of an outcome that comes late.
            let late = batch.late.iter().any(|ending| ending.id == id);
            assert!(
                self.queue.remove(&id).is_some() || late,
                "a queue row is removed once"
            );
        }
        for row in batch.inserts {
            let before = self.queue.insert(row.id, self.recorded(&row));
            assert!(before.is_none(), "a queue row is inserted once");
        }
        for row in batch.updates {
            let before = self.queue.insert(row.id, self.recorded(&row));
            assert!(before.is_some(), "a queue row is updated when it is there");
        }
        for ending in batch.late {
            self.log.insert(ending.id, How::Cancelled);
        }
        for quarantine in units.iter().filter_map(|unit| unit.quarantine.as_ref()) {
            self.set_aside.insert(quarantine.delivery);
        }
        for id in units.iter().flat_map(|unit| &unit.endings) {
            assert!(
                !(self.log.contains_key(&id.id) && self.queue.contains_key(&id.id)),
                "what has ended does not wait"
            );
        }
        for key in batch.outbox {
            assert!(
                self.outbox.remove(&key.id).is_some(),
                "an outbox row goes once"
            );
        }
    }

    fn recorded(&self, row: &QueueRow<'_>) -> Recorded {
        Recorded {
            id: row.id,
            webhook: row.webhook,
            event: Arc::clone(&self.events[&row.event]),
            seq: row.seq,
            attempts: row.attempts,
            attempts_before: 0,
            refused: row.status.is_some_and(verdict::is_refusal),
            undecided: row.undecided.then(|| "{}".to_owned()),
            due_ms: row.due_ms,
            created_ms: row.created_ms,
        }
    }
}

struct World {
    tables: Tables,
    scheduler: Scheduler,
    in_flight: Vec<Claim>,
    now: Now,
    events: u64,
    /// Successful answers by delivery.
    answered: HashMap<Uuid, u32>,
    /// Events with the webhooks that were switched on when they were committed.
    expected: BTreeSet<(Uuid, usize)>,
    /// Events with the webhooks that were switched off then, if only once.
    unwanted: BTreeSet<(Uuid, usize)>,
    switched_off: HashMap<usize, u32>,
    deleted: BTreeSet<usize>,
    crashes: u32,
    unread: Vec<Uuid>,
    /// What was taken for writing, and has not been written yet.
    held: Vec<Unit>,
    /// Until when webhooks are paused, Unix milliseconds.
    paused: HashMap<Uuid, i64>,
    /// Deleted webhooks whose rows are to be cancelled once everything has been written.
    cancelling: Vec<usize>,
}

impl World {
    fn new(webhooks: usize) -> Self {
        let mut world = Self {
            tables: Tables::default(),
            scheduler: Scheduler::new(),
            in_flight: Vec::new(),
            now: Now {
                mono_ms: 1_000_000,
                unix_ms: 1_700_000_000_000,
            },
            events: 0,
            answered: HashMap::new(),
            expected: BTreeSet::new(),
            unwanted: BTreeSet::new(),
            switched_off: HashMap::new(),
            deleted: BTreeSet::new(),
            crashes: 0,
            unread: Vec::new(),
            held: Vec::new(),
            paused: HashMap::new(),
            cancelling: Vec::new(),
        };
        for number in 0..webhooks {
            let lifetime = Lifetime {
                created: Some(world.moment()),
                ..Lifetime::default()
            };
            world
                .scheduler
                .put(definition(number, true, &lifetime), false);
            let row = (number, true, lifetime);
            world.tables.webhooks.insert(webhook_id(number), row);
        }
        world
    }

    /// All that has been committed is seen, and nothing is in progress.
    fn moment(&self) -> Moment {
        Moment {
            under: Snapshot {
                xmin: self.events + 1,
                xmax: self.events + 1,
                in_progress: Vec::new(),
            },
            at_ms: self.now.unix_ms,
        }
    }

    fn commit_event(&mut self, mask: u32) {
        self.events += 1;
        let id = webhooks_core::id::v7(
            self.now.unix_ms as u64,
            (self.events as u128).to_be_bytes()[6..].try_into().unwrap(),
        );
        let event = Arc::new(Event {
            id,
            event_type: "memory.created".to_owned(),
            created_ms: self.now.unix_ms,
            data: "{}".to_owned(),
        });
        let to: Vec<usize> = (0..self.tables.webhooks.len() + self.deleted.len())
            .filter(|number| mask & (1 << number) != 0)
            .collect();
        let key = OutboxKey {
            id,
            block: 0,
            offset: 1,
        };
        self.tables.events.insert(id, Arc::clone(&event));
        for (number, active, _) in self.tables.webhooks.values() {
            if to.contains(number) && *active {
                self.expected.insert((id, *number));
            } else if !*active && self.switched_off.get(number) == Some(&1) {
                self.unwanted.insert((id, *number));
            }
        }
        self.tables.outbox.insert(id, (key, event, self.events, to));
        self.unread.push(id);
    }

    fn dispatch(&mut self) {
        while self.scheduler.room() > 0 {
            let Some(id) = self.unread.pop() else { return };
            self.read(id, false);
        }
    }

    /// Looks at the events that are read last, and takes those that need not wait for the others.
    fn look_ahead(&mut self) {
        for place in (0..self.unread.len()).rev() {
            if self.scheduler.room_ahead() == 0 {
                self.scheduler.make_room(self.now);
            }
            if self.scheduler.room_ahead() > 0 {
                self.read(self.unread[place], true);
            }
        }
    }

    fn read(&mut self, id: Uuid, ahead: bool) {
        let Some((key, event, xid, to)) = self.tables.outbox.get(&id).cloned() else {
            return;
        };
        if self.scheduler.dispatched(id) {
            return;
        }
        let audience = self.scheduler.audience("memory.created", None);
        let chosen: Vec<usize> = audience
            .unfiltered()
            .iter()
            .copied()
            .filter(|&index| {
                let definition = self.scheduler.definition(index);
                let number = self.tables.webhooks[&definition.id].0;
                let lifetime = &definition.lifetime;
                to.contains(&number)
                    && lifetime.covers(definition.active, xid, event.created_ms, u64::MAX)
            })
            .collect();
        let free = |&index| self.scheduler.waits_for_nothing(index, &event.event_type);
        if !ahead || chosen.iter().any(free) {
            self.scheduler.offer(key, &event, &chosen, self.now);
        }
    }

    fn claim(&mut self) {
        while let Some(claim) = self.scheduler.claim(&LIMITS, self.now) {
            assert!(
                self.in_flight
                    .iter()
                    .all(|other| other.delivery != claim.delivery),
                "never twice at once"
            );
            let paused_until_ms = self.paused.get(&claim.target.webhook);
            assert!(
                paused_until_ms.is_none_or(|&until| until <= self.now.unix_ms),
                "nothing starts while its webhook is paused"
            );
            assert!(!self.tables.set_aside.contains(&claim.delivery));
            self.in_flight.push(claim);
        }
        assert!(self.in_flight.len() <= LIMITS.max_in_flight);
        let mut of: HashMap<Uuid, u32> = HashMap::new();
        for claim in &self.in_flight {
            *of.entry(claim.target.webhook).or_default() += 1;
        }
        assert!(of.values().all(|&count| count <= LIMITS.concurrent));
    }

    fn end(&mut self, which: usize, code: u16) {
        if self.in_flight.is_empty() {
            return;
        }
        let claim = self.in_flight.swap_remove(which % self.in_flight.len());
        let hindrance = match code {
            1 => Some(Hindrance::Shortage),
            2 => Some(Hindrance::OutOfReach),
            3 => Some(Hindrance::Defect),
            _ => None,
        };
        if let Some(hindrance) = hindrance {
            let it = NotTried {
                token: claim.token,
                reason: "a test".to_owned(),
                hindrance,
                started_ms: self.now.unix_ms,
            };
            self.scheduler.not_tried(it, &LIMITS, self.now, None);
            return;
        }
        let retry_after = (code == 429).then(|| "2".to_owned());
        if code == 429 {
            let until_ms = self.paused.entry(claim.target.webhook).or_default();
            *until_ms = (*until_ms).max(self.now.unix_ms + 2_001);
        }
        if code == 200 {
            *self.answered.entry(claim.delivery).or_default() += 1;
        }
        let (result, timed_out) = if code == 0 {
            (verdict::Ended::Error("timed out".to_owned()), true)
        } else {
            (verdict::Ended::Status { code, retry_after }, false)
        };
        let ended = Ended {
            token: claim.token,
            result,
            timed_out,
            started_ms: self.now.unix_ms,
            duration_ms: 1,
            excerpt: None,
            remark: None,
        };
        self.scheduler.ended(ended, &LIMITS, self.now, None);
    }

    fn settle(&mut self) {
        self.settle_part(usize::MAX);
        for number in std::mem::take(&mut self.cancelling) {
            self.cancel(number);
        }
        self.fetch();
    }

    /// Writes so many units, and fetches rows while others wait to be written.
    fn settle_part(&mut self, most: usize) {
        self.held.extend(self.scheduler.take_units());
        let units: Vec<Unit> = self.held.drain(..most.min(self.held.len())).collect();
        self.tables.write(&units);
        for unit in &units {
            self.scheduler.written(unit);
        }
        self.fetch();
    }

    fn fetch(&mut self) {
        for wanted in self.scheduler.wants_rows(10) {
            let (webhook, after, most) = (wanted.webhook, wanted.after, wanted.most.min(5));
            let mut rows: Vec<Recorded> = self
                .tables
                .queue
                .values()
                .filter(|row| row.webhook == webhook && row.seq > after)
                .filter(|row| !self.tables.set_aside.contains(&row.id))
                .filter(|row| row.due_ms.is_none_or(|due| due <= self.now.unix_ms))
                .cloned()
                .collect();
            rows.sort_by_key(|row| row.seq);
            let more = rows.len() >= most;
            rows.truncate(most);
            let upto = rows.last().map(|row| row.seq);
            self.scheduler.rows(webhook, rows, upto, more, self.now);
        }
        if let Some((after, until)) = self.scheduler.wants_due(self.now) {
            let mut rows: Vec<Recorded> = self
                .tables
                .queue
                .values()
                .filter(|row| {
                    row.due_ms
                        .is_some_and(|due| (due, row.id) > after && due <= until)
                })
                .filter(|row| !self.tables.set_aside.contains(&row.id))
                .cloned()
                .collect();
            rows.sort_by_key(|row| (row.due_ms, row.id));
            let full = rows.len() >= 5;
            rows.truncate(5);
            let last = rows.last().map(|row| (row.due_ms.unwrap_or(0), row.id));
            self.scheduler
                .due_rows(rows, until, last.filter(|_| full), self.now);
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms as i64;
        self.scheduler.tick(self.now);
    }

    fn switch(&mut self, number: usize, on: bool) {
        let moment = Some(self.moment());
        let Some((_, active, lifetime)) = self.tables.webhooks.get_mut(&webhook_id(number)) else {
            return;
        };
        match (*active, on) {
            (true, false) => {
                lifetime.paused = moment;
                *self.switched_off.entry(number).or_default() += 1;
                // Of several pauses only the last is known.
                let waiting = &self.tables.outbox;
                self.unwanted
                    .retain(|(event, of)| *of != number || !waiting.contains_key(event));
            }
            (false, true) => lifetime.resumed = moment,
            _ => {}
        }
        *active = on;
        let mut definition = definition(number, on, lifetime);
        if let Some(index) = self.scheduler.index_of(definition.id) {
            definition.keep_pause(self.scheduler.definition(index));
        }
        self.scheduler.put(definition, false);
    }

    fn delete(&mut self, number: usize) {
        if self.tables.webhooks.remove(&webhook_id(number)).is_some() {
            self.deleted.insert(number);
            self.scheduler.remove(webhook_id(number), self.now);
            self.cancelling.push(number);
            self.forget_undispatched(number);
        }
    }

    /// Of a deleted webhook, what had not become deliveries never will.
    fn forget_undispatched(&mut self, number: usize) {
        for id in self.tables.outbox.keys() {
            self.expected.remove(&(*id, number));
        }
    }

    fn cancel(&mut self, number: usize) {
        let gone: Vec<Uuid> = self
            .tables
            .queue
            .values()
            .filter(|row| row.webhook == webhook_id(number))
            .map(|row| row.id)
            .collect();
        for id in gone {
            self.tables.queue.remove(&id);
            self.tables.log.insert(id, How::Cancelled);
        }
    }

    fn crash(&mut self) {
        self.crashes += 1;
        // A worker does not start in the millisecond in which the one before ended.
        self.now.mono_ms += 10;
        self.now.unix_ms += 10;
        self.scheduler = Scheduler::new();
        self.in_flight.clear();
        self.held.clear();
        // The model's tables do not remember them.
        self.paused.clear();
        for (number, active, lifetime) in self.tables.webhooks.values() {
            self.scheduler
                .put(definition(*number, *active, lifetime), true);
        }
        for number in self.deleted.clone() {
            self.cancel(number);
            self.forget_undispatched(number);
        }
        self.unread = self.tables.outbox.keys().copied().collect();
    }

    fn heal(&mut self) {
        for number in 0..8 {
            self.switch(number, true);
        }
        for _ in 0..3_000 {
            self.dispatch();
            self.claim();
            while !self.in_flight.is_empty() {
                self.end(0, 200);
            }
            self.pass(97);
            self.settle();
            let set_aside = &self.tables.set_aside;
            if self.tables.outbox.is_empty()
                && self.tables.queue.keys().all(|id| set_aside.contains(id))
                && self.scheduler.idle()
            {
                return;
            }
        }
        panic!(
            "does not come to rest: outbox {}, queue {:?}, idle {}",
            self.tables.outbox.len(),
            self.tables
                .queue
                .values()
                .map(|row| (row.seq, row.due_ms, row.attempts))
                .collect::<Vec<_>>(),
            self.scheduler.idle()
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Event(u32),
    Burst(u32, u8),
    Dispatch,
    LookAhead,
    Claim,
    End(usize, u16),
    Settle,
    SettlePart(usize),
    Pass(u64),
    Switch(usize, bool),
    Delete(usize),
    Crash,
}

fn step(crashes: bool) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u32>().prop_map(Step::Event),
        1 => (any::<u32>(), 1..120_u8).prop_map(|(mask, count)| Step::Burst(mask, count)),
        8 => prop_oneof![3 => Just(Step::Dispatch), 1 => Just(Step::LookAhead)],
        8 => Just(Step::Claim),
        12 => (any::<usize>(), prop_oneof![
                8 => Just(200_u16),
                4 => Just(500_u16),
                2 => Just(0_u16),
                2 => Just(429_u16),
                // Not tried.
                2 => 1..4_u16,
            ])
            .prop_map(|(which, code)| Step::End(which, code)),
        8 => prop_oneof![Just(Step::Settle), (0..6_usize).prop_map(Step::SettlePart)],
        4 => prop_oneof![0..30_u64, 90..1_500_u64, Just(70_000_u64)].prop_map(Step::Pass),
        1 => (0..8_usize, any::<bool>()).prop_map(|(number, on)| Step::Switch(number, on)),
        u32::from(crashes) => (0..8_usize).prop_map(Step::Delete),
        u32::from(crashes) => Just(Step::Crash),
    ]
}

fn run(steps: Vec<Step>) -> World {
    let mut world = World::new(6);
    for step in steps {
        match step {
            Step::Event(mask) => world.commit_event(mask),
            Step::Burst(mask, count) => (0..count).for_each(|_| world.commit_event(mask)),
            Step::Dispatch => world.dispatch(),
            Step::LookAhead => world.look_ahead(),
            Step::Claim => world.claim(),
            Step::End(which, code) => world.end(which, code),
            Step::Settle => world.settle(),
            Step::SettlePart(most) => world.settle_part(most),
            Step::Pass(ms) => world.pass(ms),
            Step::Switch(number, on) => world.switch(number, on),
            Step::Delete(number) => world.delete(number),
            Step::Crash => world.crash(),
        }
    }
    world.heal();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn without_a_crash_each_delivery_ends_once_and_succeeds_at_most_once(
        steps in proptest::collection::vec(step(false), 1..300)
    ) {
        let world = run(steps);
        for (event, number) in &world.expected {
            let id = webhooks_core::id::delivery(*event, webhook_id(*number), 0);
            let how = world.tables.log.get(&id).copied();
            let answered = world.answered.get(&id).copied().unwrap_or(0);
            match how {
                Some(How::Delivered) => prop_assert_eq!(answered, 1),
                Some(How::Failed) => prop_assert_eq!(answered, 0),
                None if world.tables.set_aside.contains(&id) => {
                    prop_assert!(world.tables.queue.contains_key(&id));
                    prop_assert_eq!(answered, 0);
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }

    #[test]
    fn whatever_happens_nothing_is_lost(steps in proptest::collection::vec(step(true), 1..300)) {
        let world = run(steps);
        for (event, number) in &world.unwanted {
            let id = webhooks_core::id::delivery(*event, webhook_id(*number), 0);
            prop_assert_eq!(world.tables.log.get(&id), None, "committed while webhook {} was off", number);
        }
        for (event, number) in &world.expected {
            let id = webhooks_core::id::delivery(*event, webhook_id(*number), 0);
            match world.tables.log.get(&id) {
                Some(How::Delivered) => prop_assert!(world.answered.contains_key(&id)),
                Some(How::Failed) => {}
                Some(How::Cancelled) => prop_assert!(world.deleted.contains(number)),
                None if world.tables.set_aside.contains(&id) => {
                    prop_assert!(world.tables.queue.contains_key(&id));
                }
                other => prop_assert!(false, "{:?} of webhook {}", other, number),
            }
        }
    }
}

#[test]
fn what_has_been_answered_is_written_at_the_end_though_others_of_its_event_are_under_way() {
    let mut world = World::new(2);
    world.commit_event(0b11);
    world.commit_event(0b11);
    world.dispatch();
    world.claim();
    world.end(0, 200);
    assert_eq!(world.scheduler.units(), 0);
    world.scheduler.flush_ended(world.now);
    world.settle();
    assert_eq!(world.tables.log.len(), 1, "the one that was answered");
    assert_eq!(world.tables.queue.len(), 1, "the other of its event");
    assert_eq!(world.tables.outbox.len(), 1, "nothing of the other event");
}

#[test]
fn what_has_been_answered_is_written_within_40_ms_though_others_of_its_event_are_under_way() {
    let mut world = World::new(2);
    world.commit_event(0b11);
    world.dispatch();
    world.claim();
    world.pass(20);
    world.end(0, 200);
    world.pass(39);
    assert_eq!(world.scheduler.units(), 0, "it may be over any moment");
    assert_eq!(world.scheduler.wake_in(world.now), Some(1));
    world.pass(1);
    let units = world.scheduler.take_units();
    assert_eq!(
        (units[0].endings.len(), units[0].queued.len()),
        (1, 1),
        "the other goes on in the queue"
    );
    world.tables.write(&units);
    units.iter().for_each(|unit| world.scheduler.written(unit));
    world.end(0, 200);
    world.settle();
    assert_eq!(world.tables.log.len(), 2);
    assert!(world.tables.queue.is_empty());
}
