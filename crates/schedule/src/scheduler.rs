//! The memory as a whole. See the crate's opening for the idea.

use crate::endpoint::{Definition, Pace, SLOW_MS, State, StatsDelta};
use crate::record::{Attempt, Disable, Ending, How, OutboxKey, Queued, Recorded, Unit};
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use uuid::Uuid;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::request::{Event, Target};
use webhooks_core::verdict::{self, Verdict};

/// The type of a test event, which goes to inactive webhooks too.
const TEST: &str = "webhook.test";
/// Fresh deliveries in memory at which reading the outbox pauses.
const FRESH_MAX: usize = 1_024;
/// Age at which a fresh event is written although not all of its deliveries have ended.
const GROUP_AGE_MS: u64 = 100;
/// Deliveries ready in memory, over all webhooks, beyond which no more are taken in.
const READY_MAX: usize = 20_000;
/// The same in bytes of event data.
const READY_BYTES_MAX: usize = 16 << 20;
/// An endpoint with fewer ready deliveries than this asks for more, when it has more.
const LOW: usize = 16;
/// How far ahead retries are read into memory.
const DUE_WINDOW_MS: i64 = 60_000;

/// The time, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic milliseconds since anything.
    pub mono_ms: u64,
    /// Unix milliseconds.
    pub unix_ms: i64,
}

/// Settings that scheduling obeys.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests at once.
    pub max_in_flight: usize,
    /// Requests to one webhook at once.
    pub concurrent: u32,
    /// Attempts of one webhook in 60 seconds; 0: no limit.
    pub per_minute: u32,
    /// A webhook that fails for longer is switched off; 0: never.
    pub disable_after_ms: i64,
}

/// A delivery to attempt now.
#[derive(Debug)]
pub struct Claim {
    /// To be given back with the outcome.
    pub token: u64,
    /// What happened.
    pub event: Arc<Event>,
    /// Secrets and the like.
    pub target: Arc<Target>,
    /// Where to, or why not.
    pub endpoint: Result<Arc<Endpoint>, String>,
    /// The delivery.
    pub delivery: Uuid,
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

/// The outcome of an attempt.
#[derive(Debug)]
pub struct Ended {
    /// As in the [`Claim`].
    pub token: u64,
    /// What the endpoint said.
    pub result: verdict::Ended,
    /// Whether the time ran out.
    pub timed_out: bool,
    /// Unix milliseconds.
    pub started_ms: i64,
    /// Milliseconds.
    pub duration_ms: u64,
    /// The beginning of the answer.
    pub excerpt: Option<String>,
    /// A remark for the log, as that the payload was truncated.
    pub remark: Option<String>,
}

/// What [`Scheduler::tick`] found.
#[derive(Debug, Default)]
pub struct Tick {
    /// Milliseconds until it wants to be called again; `None`: not before something happens.
    pub wake_in_ms: Option<u64>,
}

#[derive(Debug)]
enum Place {
    Ready,
    Waiting,
    InFlight { slow: bool },
}

#[derive(Debug)]
struct Delivery {
    id: Uuid,
    endpoint: usize,
    event: Arc<Event>,
    attempts: u32,
    attempts_before: u32,
    seq: i64,
    created_ms: i64,
    /// The group, while it is fresh.
    group: Option<usize>,
    place: Place,
    cancelled: bool,
}

#[derive(Debug)]
struct Group {
    serial: u64,
    outbox: OutboxKey,
    event: Arc<Event>,
    /// Keys of its deliveries; one that has ended may name a stranger by now.
    members: Vec<usize>,
    unfinished: usize,
    endings: Vec<Ending>,
    /// Endpoints whose delivery was not taken into memory.
    parked: Vec<usize>,
    created_ms: i64,
}

/// The memory.
#[derive(Debug, Default)]
pub struct Scheduler {
    endpoints: Slab<State>,
    by_webhook: HashMap<Uuid, usize>,
    /// Who gets an event of this type and owner, filters aside.
    audiences: HashMap<(String, Option<String>), Arc<[usize]>>,
    deliveries: Slab<Delivery>,
    /// Recorded deliveries in memory.
    by_id: HashMap<Uuid, usize>,
    /// Recorded deliveries that have ended or moved on, until that is written.
    settling: HashSet<Uuid>,
    groups: Slab<Group>,
    group_ages: VecDeque<(u64, usize, u64)>,
    serial: u64,
    outbox: HashSet<Uuid>,
    fresh: usize,
    ready: usize,
    ready_bytes: usize,
    runnable: VecDeque<usize>,
    /// Endpoints that are not fast, while too many threads are held by such.
    slow_waiting: VecDeque<usize>,
    hungry: VecDeque<usize>,
    counted: Vec<usize>,
    in_flight: usize,
    slow_in_flight: usize,
    /// Starts in order, to find those that have become slow.
    started: VecDeque<(u64, usize, Uuid)>,
    retries: BinaryHeap<Reverse<(i64, usize, Uuid)>>,
    held: BinaryHeap<Reverse<(u64, usize)>>,
    /// Retries up to this one are in memory.
    due_position: Option<(i64, Uuid)>,
    due_full: bool,
    last_seq: i64,
    done: Vec<Unit>,
}

impl Scheduler {
    /// An empty memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    // ------------------------------------------------------------------ definitions

    /// Takes in a new or changed webhook. `backlog`: whether the queue may hold rows of it.
    pub fn put(&mut self, definition: Definition, backlog: bool) {
        self.audiences.clear();
        let id = definition.id;
        let Some(&index) = self.by_webhook.get(&id) else {
            let index = self.endpoints.insert(State::new(definition));
            self.by_webhook.insert(id, index);
            if backlog {
                self.rewind(index, i64::MIN);
            }
            return;
        };
        let was_active = self.endpoints[index].definition.active;
        let now_active = definition.active;
        self.endpoints[index].definition = definition;
        if now_active {
            if !was_active || backlog {
                self.rewind(index, i64::MIN);
            }
            self.list(index);
        } else {
            self.empty_ready(index);
        }
    }

    /// Forgets a webhook that was deleted: what is fresh is cancelled, what has a row is left to the
    /// caller, once everything has been written, and what is under way will be written as cancelled.
    pub fn remove(&mut self, webhook: Uuid, now: Now) {
        self.audiences.clear();
        let Some(index) = self.by_webhook.remove(&webhook) else {
            return;
        };
        self.endpoints[index].gone = true;
        let ready = std::mem::take(&mut self.endpoints[index].ready);
        for key in ready {
            self.left_ready(key);
            if self.deliveries[key].group.is_some() {
                self.conclude(key, How::Cancelled, None, now.unix_ms);
            } else {
                self.forget(key);
            }
        }
        let mut waiting = Vec::new();
        for (key, delivery) in &mut self.deliveries {
            if delivery.endpoint == index {
                match delivery.place {
                    Place::InFlight { .. } => delivery.cancelled = true,
                    Place::Waiting => waiting.push(key),
                    Place::Ready => {}
                }
            }
        }
        for key in waiting {
            self.forget(key);
        }
        self.drop_if_unused(index);
    }

    /// Every webhook in memory.
    pub fn webhooks(&self) -> impl Iterator<Item = &Definition> {
        self.by_webhook
            .values()
            .map(|&index| &self.endpoints[index].definition)
    }

    /// Whether the webhook is known.
    #[must_use]
    pub fn knows(&self, webhook: Uuid) -> bool {
        self.by_webhook.contains_key(&webhook)
    }

    /// Seeds the rate window with ends of attempts before a restart, monotonic milliseconds, in order.
    pub fn seed_window(&mut self, webhook: Uuid, ends: impl IntoIterator<Item = u64>) {
        if let Some(&index) = self.by_webhook.get(&webhook) {
            self.endpoints[index].window.seed(ends);
        }
    }

    /// Switches a webhook off in memory.
    pub fn disable(&mut self, webhook: Uuid) {
        if let Some(&index) = self.by_webhook.get(&webhook) {
            self.audiences.clear();
            self.endpoints[index].definition.active = false;
            self.empty_ready(index);
        }
    }

    /// Settings have changed: whoever the rate limit holds is judged anew.
    pub fn settings_changed(&mut self) {
        for Reverse((_, index)) in std::mem::take(&mut self.held) {
            if let Some(state) = self.endpoints.get_mut(index) {
                state.held = false;
                self.list(index);
            }
        }
    }

    /// The queue has new rows of a webhook that were not written through [`Scheduler::take_units`].
    pub fn requeued(&mut self, webhook: Uuid) {
        if let Some(&index) = self.by_webhook.get(&webhook) {
            self.rewind(index, i64::MIN);
        }
    }

    // ------------------------------------------------------------------ dispatch

    /// How many more fresh events may be read from the outbox now.
    #[must_use]
    pub fn room(&self) -> usize {
        FRESH_MAX.saturating_sub(self.fresh)
    }

    /// Whether the outbox row of this event is being dealt with.
    #[must_use]
    pub fn dispatched(&self, event: Uuid) -> bool {
        self.outbox.contains(&event)
    }

    /// The active webhooks that an event of this type and owner is for, filters aside.
    pub fn audience(&mut self, event_type: &str, owner: Option<&str>) -> Arc<[usize]> {
        let key = (event_type.to_owned(), owner.map(str::to_owned));
        if let Some(known) = self.audiences.get(&key) {
            return Arc::clone(known);
        }
        let mut found: Vec<usize> = self
            .by_webhook
            .values()
            .copied()
            .filter(|&index| {
                let definition = &self.endpoints[index].definition;
                definition.active
                    && (definition.owner.is_none() || definition.owner.as_deref() == owner)
                    && definition
                        .subscription
                        .matches(event_type, definition.owner.is_some())
            })
            .collect();
        found.sort_unstable();
        let found: Arc<[usize]> = found.into();
        // An owner is data, so the number of keys is not bounded by what is subscribed.
        if self.audiences.len() >= 10_000 {
            self.audiences.clear();
        }
        self.audiences.insert(key, Arc::clone(&found));
        found
    }

    /// The webhook of a test.
    #[must_use]
    pub fn index_of(&self, webhook: Uuid) -> Option<usize> {
        self.by_webhook.get(&webhook).copied()
    }

    /// The definition behind an index of [`Scheduler::audience`].
    #[must_use]
    pub fn definition(&self, index: usize) -> &Definition {
        &self.endpoints[index].definition
    }

    /// Takes in a fresh event for these webhooks (none: only its outbox row is to go).
    pub fn offer(&mut self, outbox: OutboxKey, event: &Arc<Event>, webhooks: &[usize], now: Now) {
        if !self.outbox.insert(outbox.id) {
            return;
        }
        if webhooks.is_empty() {
            self.done.push(Unit {
                outbox: Some(outbox),
                ..Unit::default()
            });
            return;
        }
        self.serial += 1;
        let group = self.groups.insert(Group {
            serial: self.serial,
            outbox,
            event: Arc::clone(event),
            members: Vec::with_capacity(webhooks.len()),
            unfinished: webhooks.len(),
            endings: Vec::new(),
            parked: Vec::new(),
            created_ms: now.unix_ms,
        });
        self.group_ages.push_back((now.mono_ms, group, self.serial));
        self.fresh += webhooks.len();
        let full = self.ready >= READY_MAX || self.ready_bytes >= READY_BYTES_MAX;
        for &index in webhooks {
            let state = &mut self.endpoints[index];
            let behind = state.backlog || state.parked > 0 || state.ready.len() >= state.prefetch();
            if behind || (full && !state.ready.is_empty()) {
                state.parked += 1;
                self.groups[group].parked.push(index);
                continue;
            }
            let key = self.deliveries.insert(Delivery {
                id: webhooks_core::id::delivery(event.id, state.definition.id, 0),
                endpoint: index,
                event: Arc::clone(event),
                attempts: 0,
                attempts_before: 0,
                seq: 0,
                created_ms: now.unix_ms,
                group: Some(group),
                place: Place::Ready,
                cancelled: false,
            });
            state.members += 1;
            self.groups[group].members.push(key);
            self.make_ready(key);
        }
        self.flush_if_over(group);
    }

    // ------------------------------------------------------------------ claim

    /// The next delivery to attempt, if one may start now.
    pub fn claim(&mut self, limits: &Limits, now: Now) -> Option<Claim> {
        let slow_most = (limits.max_in_flight / 2).max(1);
        while self.in_flight < limits.max_in_flight {
            let waiting = if self.slow_in_flight < slow_most {
                self.slow_waiting.pop_front()
            } else {
                None
            };
            let index = waiting.or_else(|| self.runnable.pop_front())?;
            let state = &mut self.endpoints[index];
            state.listed = false;
            let Some(&key) = state.ready.front() else {
                self.drop_if_unused(index);
                continue;
            };
            let fast = state.pace == Pace::Fast;
            let at_once = match state.pace {
                Pace::Fast | Pace::Slow => limits.concurrent,
                Pace::Unknown if self.slow_in_flight < limits.max_in_flight / 4 => {
                    limits.concurrent
                }
                Pace::Unknown | Pace::TimedOut => 1,
            };
            if state.in_flight >= at_once {
                continue;
            }
            if !fast && self.slow_in_flight >= slow_most {
                state.listed = true;
                self.slow_waiting.push_back(index);
                continue;
            }
            if let Err(at) = state
                .window
                .may_start(now.mono_ms, state.in_flight, limits.per_minute)
            {
                if at != u64::MAX && !state.held {
                    state.held = true;
                    self.held.push(Reverse((at, index)));
                }
                continue;
            }
            state.ready.pop_front();
            state.in_flight += 1;
            let more = !state.ready.is_empty() && state.in_flight < at_once;
            let (target, endpoint) = (
                Arc::clone(&state.definition.target),
                state.definition.endpoint.clone(),
            );
            self.left_ready(key);
            if more {
                self.list(index);
            }
            self.feed(index);
            self.in_flight += 1;
            if !fast {
                self.slow_in_flight += 1;
            }
            let delivery = &mut self.deliveries[key];
            delivery.place = Place::InFlight { slow: !fast };
            self.started.push_back((now.mono_ms, key, delivery.id));
            return Some(Claim {
                token: key as u64,
                event: Arc::clone(&delivery.event),
                target,
                endpoint,
                delivery: delivery.id,
                attempt: delivery.attempts + 1,
            });
        }
        None
    }

    /// Takes in the outcome of an attempt. `jitter` as in [`webhooks_core::retry::delay`].
    pub fn ended(&mut self, ended: Ended, limits: &Limits, now: Now, jitter: Option<f64>) {
        let Ok(key) = usize::try_from(ended.token) else {
            return;
        };
        let Some(delivery) = self.deliveries.get_mut(key) else {
            return;
        };
        let Place::InFlight { slow } = delivery.place else {
            return;
        };
        let index = delivery.endpoint;
        delivery.attempts += 1;
        let number = delivery.attempts;
        let in_round = number - delivery.attempts_before;
        let cancelled = delivery.cancelled;
        self.in_flight -= 1;
        if slow {
            self.slow_in_flight -= 1;
        }
        let state = &mut self.endpoints[index];
        state.in_flight -= 1;
        if limits.per_minute > 0 {
            state.window.ended(now.mono_ms);
        }
        state.pace = if ended.timed_out {
            Pace::TimedOut
        } else if ended.duration_ms >= SLOW_MS {
            Pace::Slow
        } else {
            Pace::Fast
        };
        let ended_ms = ended
            .started_ms
            .saturating_add(i64::try_from(ended.duration_ms).unwrap_or(0));
        let judged = verdict::judge(
            &ended.result,
            &state.definition.policy,
            in_round,
            ended_ms,
            jitter,
        );
        let (status, error) = match ended.result {
            verdict::Ended::Status { code, .. } => {
                let failed = !matches!(judged.verdict, Verdict::Delivered);
                (
                    Some(code),
                    failed.then(|| format!("the endpoint answered {code}")),
                )
            }
            verdict::Ended::Error(error) => (None, Some(error)),
        };
        let attempt = Attempt {
            number,
            started_ms: ended.started_ms,
            duration_ms: i32::try_from(ended.duration_ms).unwrap_or(i32::MAX),
            status,
            error: error.or(ended.remark),
            excerpt: ended.excerpt,
        };
        state.delta.attempts += 1;
        let how = match judged.verdict {
            _ if cancelled => How::Late,
            Verdict::Delivered => {
                state.delta.delivered += 1;
                state.delta.last_delivery_ms = Some(ended_ms);
                state.definition.failing_since_ms = None;
                state.definition.failed_since_success = 0;
                How::Delivered
            }
            Verdict::Failed => {
                state.delta.failed += 1;
                state.definition.failing_since_ms.get_or_insert(ended_ms);
                state.definition.failed_since_success += 1;
                How::Failed
            }
            Verdict::Retry { after } => How::RetryAt(
                ended_ms.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
            ),
        };
        let definition = &state.definition;
        state.delta.failing_since_ms = definition.failing_since_ms;
        state.delta.failed_since_success = definition.failed_since_success;
        if !state.counted {
            state.counted = true;
            self.counted.push(index);
        }
        let disable = if judged.disable {
            Some("the endpoint answered 410 Gone".to_owned())
        } else if how == How::Failed
            && verdict::should_disable(
                definition.failed_since_success,
                definition.failing_since_ms,
                now.unix_ms,
                limits.disable_after_ms,
            )
        {
            Some(format!(
                "{} deliveries failed without a success between",
                definition.failed_since_success
            ))
        } else {
            None
        };
        let disable = disable
            .filter(|_| definition.active && !state.gone && !cancelled)
            .map(|reason| Disable {
                webhook: definition.id,
                activation: definition.activation,
                owner: definition.owner.clone(),
                reason,
                status,
            });
        match how {
            How::RetryAt(due_ms) => self.wait(key, due_ms, attempt, ended_ms),
            how => self.conclude(key, how, Some(attempt), ended_ms),
        }
        if let Some(disable) = disable {
            let webhook = disable.webhook;
            self.done.push(Unit {
                disable: Some(disable),
                ..Unit::default()
            });
            self.disable(webhook);
        }
        self.list(index);
        self.drop_if_unused(index);
    }

    // ------------------------------------------------------------------ time

    /// Does what is due by time alone.
    pub fn tick(&mut self, limits: &Limits, now: Now) -> Tick {
        while let Some(&Reverse((due_ms, key, id))) = self.retries.peek() {
            if due_ms > now.unix_ms {
                break;
            }
            self.retries.pop();
            self.fire(key, id);
        }
        while let Some(&Reverse((at, index))) = self.held.peek() {
            if at > now.mono_ms {
                break;
            }
            self.held.pop();
            if let Some(state) = self.endpoints.get_mut(index) {
                state.held = false;
                self.list(index);
                self.drop_if_unused(index);
            }
        }
        while let Some(&(read_ms, group, serial)) = self.group_ages.front() {
            let over = self.groups.get(group).is_none_or(|g| g.serial != serial);
            if !over && now.mono_ms < read_ms + GROUP_AGE_MS {
                break;
            }
            self.group_ages.pop_front();
            if !over {
                self.flush(group, now);
            }
        }
        while let Some(&(started, key, id)) = self.started.front() {
            let Some(delivery) = self.deliveries.get_mut(key).filter(|d| d.id == id) else {
                self.started.pop_front();
                continue;
            };
            let Place::InFlight { slow } = &mut delivery.place else {
                self.started.pop_front();
                continue;
            };
            if now.mono_ms < started + SLOW_MS {
                break;
            }
            self.started.pop_front();
            if !*slow {
                *slow = true;
                self.slow_in_flight += 1;
            }
            let state = &mut self.endpoints[delivery.endpoint];
            if state.pace == Pace::Fast || state.pace == Pace::Unknown {
                state.pace = Pace::Slow;
            }
        }
        Tick {
            wake_in_ms: self.wake_in(limits, now),
        }
    }

    fn wake_in(&self, _limits: &Limits, now: Now) -> Option<u64> {
        let retry = self.retries.peek().map(|Reverse((due_ms, ..))| {
            u64::try_from(due_ms.saturating_sub(now.unix_ms)).unwrap_or(0)
        });
        let held = self
            .held
            .peek()
            .map(|Reverse((at, _))| at.saturating_sub(now.mono_ms));
        let group = self
            .group_ages
            .front()
            .map(|&(read_ms, ..)| (read_ms + GROUP_AGE_MS).saturating_sub(now.mono_ms));
        let slow = self
            .started
            .front()
            .map(|&(started, ..)| (started + SLOW_MS).saturating_sub(now.mono_ms));
        let due = self
            .due_position
            .filter(|_| !self.due_full)
            .map(|(at, _)| u64::try_from(at - DUE_WINDOW_MS / 2 - now.unix_ms).unwrap_or(0));
        [retry, held, group, slow, due].into_iter().flatten().min()
    }

    // ------------------------------------------------------------------ settle

    /// What is to be written now.
    #[must_use]
    pub fn take_units(&mut self) -> Vec<Unit> {
        std::mem::take(&mut self.done)
    }

    /// How many units wait to be written.
    #[must_use]
    pub fn units(&self) -> usize {
        self.done.len()
    }

    /// A unit has been written.
    pub fn written(&mut self, unit: &Unit) {
        if let Some(key) = unit.outbox {
            self.outbox.remove(&key.id);
        }
        for ending in &unit.endings {
            self.settling.remove(&ending.id);
            if let How::RetryAt(due_ms) = ending.how {
                self.await_retry(ending.id, due_ms);
            }
        }
        for queued in &unit.queued {
            if !self.by_id.contains_key(&queued.id)
                && let Some(&index) = self.by_webhook.get(&queued.webhook)
            {
                self.rewind(index, queued.seq - 1);
            }
        }
    }

    /// Figures that were counted since the last call.
    #[must_use]
    pub fn take_stats(&mut self) -> Vec<(Uuid, StatsDelta)> {
        let mut taken = Vec::with_capacity(self.counted.len());
        for index in std::mem::take(&mut self.counted) {
            if let Some(state) = self.endpoints.get_mut(index) {
                state.counted = false;
                taken.push((state.definition.id, std::mem::take(&mut state.delta)));
            }
        }
        taken
    }

    /// Figures of [`Scheduler::take_stats`] that could not be written.
    pub fn put_back_stats(&mut self, stats: Vec<(Uuid, StatsDelta)>) {
        for (webhook, old) in stats {
            let Some(&index) = self.by_webhook.get(&webhook) else {
                continue;
            };
            let state = &mut self.endpoints[index];
            state.delta.attempts += old.attempts;
            state.delta.delivered += old.delivered;
            state.delta.failed += old.failed;
            state.delta.last_delivery_ms = state.delta.last_delivery_ms.max(old.last_delivery_ms);
            state.delta.failing_since_ms = state.definition.failing_since_ms;
            state.delta.failed_since_success = state.definition.failed_since_success;
            if !state.counted {
                state.counted = true;
                self.counted.push(index);
            }
        }
    }

    /// Whether there are figures to write.
    #[must_use]
    pub fn has_stats(&self) -> bool {
        !self.counted.is_empty()
    }

    // ------------------------------------------------------------------ rows into memory

    /// Webhooks that want rows of the queue, each with the `seq` to go on after. Only to be asked, and the
    /// answer fetched, while nothing waits to be written.
    #[must_use]
    pub fn wants_rows(&mut self, most: usize) -> Vec<(Uuid, i64)> {
        let mut wanting = Vec::new();
        while wanting.len() < most && self.ready < READY_MAX && self.ready_bytes < READY_BYTES_MAX {
            let Some(index) = self.hungry.pop_front() else {
                break;
            };
            let Some(state) = self.endpoints.get_mut(index) else {
                continue;
            };
            state.hungry = false;
            if state.gone {
                self.drop_if_unused(index);
                continue;
            }
            if state.backlog && state.definition.active && state.ready.len() < LOW {
                wanting.push((state.definition.id, state.cursor));
            }
        }
        wanting
    }

    /// Rows that [`Scheduler::wants_rows`] asked for, in order; `more`: the queue has more of this webhook.
    pub fn rows(&mut self, webhook: Uuid, rows: Vec<Recorded>, more: bool, now: Now) {
        let Some(&index) = self.by_webhook.get(&webhook) else {
            return;
        };
        self.endpoints[index].backlog = more;
        for row in rows {
            self.endpoints[index].cursor = row.seq;
            self.absorb(index, row, now, true);
        }
        self.feed(index);
    }

    /// The key after which retries are to be read, and up to when; `None`: not yet. The same condition holds
    /// as for [`Scheduler::wants_rows`].
    #[must_use]
    pub fn wants_due(&self, now: Now) -> Option<((i64, Uuid), i64)> {
        let until = now.unix_ms + DUE_WINDOW_MS;
        match self.due_position {
            None => Some(((i64::MIN, Uuid::nil()), until)),
            // The clock has been set back: what lies between is read again, and known.
            Some((at, _)) if at > until + DUE_WINDOW_MS => {
                Some(((now.unix_ms, Uuid::nil()), until))
            }
            Some(position) if self.due_full && self.retries.len() < READY_MAX => {
                Some((position, until))
            }
            Some((at, id)) if !self.due_full && now.unix_ms >= at - DUE_WINDOW_MS / 2 => {
                Some(((at, id), until))
            }
            Some(_) => None,
        }
    }

    /// Retries that [`Scheduler::wants_due`] asked for, in order; `full`: there were more.
    pub fn due_rows(&mut self, rows: Vec<Recorded>, until: i64, full: bool, now: Now) {
        let last = rows
            .last()
            .and_then(|row| row.due_ms.map(|due| (due, row.id)));
        for row in rows {
            if let Some(&index) = self.by_webhook.get(&row.webhook) {
                self.absorb(index, row, now, false);
            }
        }
        self.due_full = full;
        self.due_position = if full {
            last.or(self.due_position)
        } else {
            Some((until, Uuid::max()))
        };
    }

    // ------------------------------------------------------------------ figures

    /// Requests under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether everything is at rest: nothing under way, nothing ready, nothing to write.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.in_flight == 0 && self.ready == 0 && self.done.is_empty() && self.fresh == 0
    }

    // ------------------------------------------------------------------ inside

    fn list(&mut self, index: usize) {
        let Some(state) = self.endpoints.get_mut(index) else {
            return;
        };
        if !state.listed && !state.held && !state.ready.is_empty() {
            state.listed = true;
            self.runnable.push_back(index);
        }
    }

    /// Puts the endpoint on the list of those that want rows, if it does.
    fn feed(&mut self, index: usize) {
        let Some(state) = self.endpoints.get_mut(index) else {
            return;
        };
        if state.backlog
            && !state.hungry
            && state.definition.active
            && !state.gone
            && state.ready.len() < LOW
        {
            state.hungry = true;
            self.hungry.push_back(index);
        }
    }

    /// The queue holds rows behind `after` that memory does not.
    fn rewind(&mut self, index: usize, after: i64) {
        let Some(state) = self.endpoints.get_mut(index) else {
            return;
        };
        state.cursor = if state.backlog {
            state.cursor.min(after)
        } else {
            after
        };
        state.backlog = true;
        self.feed(index);
    }

    fn make_ready(&mut self, key: usize) {
        let delivery = &mut self.deliveries[key];
        delivery.place = Place::Ready;
        let index = delivery.endpoint;
        self.ready += 1;
        self.ready_bytes += delivery.event.data.len();
        self.endpoints[index].ready.push_back(key);
        self.list(index);
    }

    /// Bookkeeping for a delivery that was taken out of its endpoint's `ready`.
    fn left_ready(&mut self, key: usize) {
        self.ready -= 1;
        self.ready_bytes -= self.deliveries[key].event.data.len();
    }

    fn forget(&mut self, key: usize) {
        let delivery = self.deliveries.remove(key);
        if delivery.group.is_none() {
            self.by_id.remove(&delivery.id);
        }
        let index = delivery.endpoint;
        self.endpoints[index].members -= 1;
        self.drop_if_unused(index);
    }

    fn drop_if_unused(&mut self, index: usize) {
        let unused = self.endpoints.get(index).is_some_and(|state| {
            state.gone
                && state.members == 0
                && state.parked == 0
                && !state.listed
                && !state.held
                && !state.hungry
        });
        if unused {
            self.endpoints.remove(index);
        }
    }

    /// An inactive webhook keeps only tests in memory; everything else waits in the queue.
    fn empty_ready(&mut self, index: usize) {
        let ready = std::mem::take(&mut self.endpoints[index].ready);
        for key in ready {
            let delivery = &self.deliveries[key];
            if delivery.event.event_type == TEST {
                self.endpoints[index].ready.push_back(key);
                continue;
            }
            let seq = delivery.seq;
            self.left_ready(key);
            if let Some(group) = self.deliveries[key].group {
                self.groups[group].parked.push(index);
                self.endpoints[index].parked += 1;
                self.forget(key);
            } else {
                self.forget(key);
                self.rewind(index, seq - 1);
            }
        }
    }

    /// A recorded delivery comes into memory from its row.
    fn absorb(&mut self, index: usize, row: Recorded, now: Now, asked: bool) {
        if self.by_id.contains_key(&row.id) || self.settling.contains(&row.id) {
            return;
        }
        let due_ms = row.due_ms.filter(|&due| due > now.unix_ms);
        let state = &self.endpoints[index];
        let welcome = state.definition.active || row.event.event_type == TEST;
        if due_ms.is_none() && (!welcome || (!asked && state.ready.len() >= state.prefetch())) {
            self.rewind(index, row.seq - 1);
            return;
        }
        let key = self.deliveries.insert(Delivery {
            id: row.id,
            endpoint: index,
            event: row.event,
            attempts: row.attempts,
            attempts_before: row.attempts_before,
            seq: row.seq,
            created_ms: row.created_ms,
            group: None,
            place: Place::Waiting,
            cancelled: false,
        });
        self.endpoints[index].members += 1;
        self.by_id.insert(row.id, key);
        match due_ms {
            Some(due_ms) => self.retries.push(Reverse((due_ms, key, row.id))),
            None => self.make_ready(key),
        }
    }

    /// A retry has been written: it is kept in memory if it belongs to those that are, and else forgotten.
    fn await_retry(&mut self, id: Uuid, due_ms: i64) {
        let Some(&key) = self.by_id.get(&id) else {
            return;
        };
        if !matches!(self.deliveries[key].place, Place::Waiting) {
            return;
        }
        if self
            .due_position
            .is_some_and(|position| (due_ms, id) <= position)
        {
            self.retries.push(Reverse((due_ms, key, id)));
        } else {
            self.forget(key);
        }
    }

    /// A retry's time has come.
    fn fire(&mut self, key: usize, id: Uuid) {
        let Some(delivery) = self.deliveries.get(key) else {
            return;
        };
        if delivery.id != id || !matches!(delivery.place, Place::Waiting) {
            return;
        }
        let (index, seq) = (delivery.endpoint, delivery.seq);
        let state = &self.endpoints[index];
        let welcome = state.definition.active || delivery.event.event_type == TEST;
        if state.gone {
            self.forget(key);
        } else if !welcome || state.ready.len() >= 2 * state.prefetch() {
            self.forget(key);
            self.rewind(index, seq - 1);
        } else {
            self.make_ready(key);
        }
    }

    fn next_seq(&mut self, now_ms: i64) -> i64 {
        self.last_seq = (self.last_seq + 1).max(now_ms.saturating_mul(1_000));
        self.last_seq
    }

    fn ending(
        delivery: &Delivery,
        webhook: Uuid,
        how: How,
        attempt: Option<Attempt>,
        ended_ms: i64,
    ) -> Ending {
        Ending {
            id: delivery.id,
            event: Arc::clone(&delivery.event),
            webhook,
            how,
            recorded: delivery.group.is_none(),
            attempt,
            attempts: delivery.attempts,
            created_ms: delivery.created_ms,
            ended_ms,
            seq: delivery.seq,
        }
    }

    /// A delivery is over.
    fn conclude(&mut self, key: usize, how: How, attempt: Option<Attempt>, ended_ms: i64) {
        let delivery = &self.deliveries[key];
        let webhook = self.endpoints[delivery.endpoint].definition.id;
        let group = delivery.group;
        let how = match (how, group) {
            (How::Late, Some(_)) => How::Cancelled,
            (how, _) => how,
        };
        let ending = Self::ending(delivery, webhook, how, attempt, ended_ms);
        let id = delivery.id;
        self.forget(key);
        match group {
            Some(group) => {
                let it = &mut self.groups[group];
                it.endings.push(ending);
                it.unfinished -= 1;
                self.fresh -= 1;
                self.flush_if_over(group);
            }
            None => {
                self.settling.insert(id);
                self.done.push(Unit {
                    endings: vec![ending],
                    ..Unit::default()
                });
            }
        }
    }

    /// A delivery waits for its next attempt: with a row, from now. It stays in memory at least until that
    /// is written, so that whoever reads retries meanwhile cannot miss it.
    fn wait(&mut self, key: usize, due_ms: i64, attempt: Attempt, ended_ms: i64) {
        let fresh_seq = self.next_seq(ended_ms);
        let delivery = &mut self.deliveries[key];
        let webhook = self.endpoints[delivery.endpoint].definition.id;
        let group = delivery.group;
        if group.is_some() {
            delivery.seq = fresh_seq;
        }
        let ending = Self::ending(
            delivery,
            webhook,
            How::RetryAt(due_ms),
            Some(attempt),
            ended_ms,
        );
        delivery.group = None;
        delivery.place = Place::Waiting;
        let id = delivery.id;
        self.by_id.insert(id, key);
        match group {
            Some(group) => {
                let it = &mut self.groups[group];
                it.endings.push(ending);
                it.unfinished -= 1;
                self.fresh -= 1;
                self.flush_if_over(group);
            }
            None => self.done.push(Unit {
                endings: vec![ending],
                ..Unit::default()
            }),
        }
    }

    /// A webhook may have been deleted between an attempt and now.
    fn cancel_retries(&self, endings: &mut [Ending]) {
        for ending in endings {
            if matches!(ending.how, How::RetryAt(_))
                && !self.by_webhook.contains_key(&ending.webhook)
            {
                ending.how = How::Cancelled;
            }
        }
    }

    /// Writes a group when nothing in memory can end any more.
    fn flush_if_over(&mut self, group: usize) {
        let it = &self.groups[group];
        if it.unfinished == it.parked.len() && it.parked.is_empty() {
            let mut it = self.groups.remove(group);
            self.cancel_retries(&mut it.endings);
            self.done.push(Unit {
                outbox: Some(it.outbox),
                endings: it.endings,
                ..Unit::default()
            });
        }
    }

    /// Writes a group as it stands: what has not ended gets a queue row.
    fn flush(&mut self, group: usize, now: Now) {
        let mut it = self.groups.remove(group);
        self.cancel_retries(&mut it.endings);
        let mut unit = Unit {
            outbox: Some(it.outbox),
            endings: it.endings,
            ..Unit::default()
        };
        for key in it.members {
            if self
                .deliveries
                .get(key)
                .is_none_or(|delivery| delivery.group != Some(group))
            {
                continue;
            }
            let seq = self.next_seq(now.unix_ms);
            let delivery = &mut self.deliveries[key];
            delivery.group = None;
            delivery.seq = seq;
            self.by_id.insert(delivery.id, key);
            self.fresh -= 1;
            unit.queued.push(Queued {
                id: delivery.id,
                event: delivery.event.id,
                webhook: self.endpoints[delivery.endpoint].definition.id,
                seq,
                created_ms: delivery.created_ms,
            });
        }
        for index in it.parked {
            let seq = self.next_seq(now.unix_ms);
            self.fresh -= 1;
            let state = &mut self.endpoints[index];
            state.parked -= 1;
            let webhook = state.definition.id;
            let id = webhooks_core::id::delivery(it.event.id, webhook, 0);
            if state.gone {
                unit.endings.push(Ending {
                    id,
                    event: Arc::clone(&it.event),
                    webhook,
                    how: How::Cancelled,
                    recorded: false,
                    attempt: None,
                    attempts: 0,
                    created_ms: it.created_ms,
                    ended_ms: now.unix_ms,
                    seq,
                });
            } else {
                unit.queued.push(Queued {
                    id,
                    event: it.event.id,
                    webhook,
                    seq,
                    created_ms: it.created_ms,
                });
            }
            self.drop_if_unused(index);
        }
        self.done.push(unit);
    }
}
