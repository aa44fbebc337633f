//! The memory as a whole. See the crate's opening for the idea.

mod attempts;
mod dispatch;
mod not_tried;
mod order;
mod pause;
mod rows;
mod time;
mod webhooks;

use crate::endpoint::{Definition, Failing, Pace, Pause, SLOW_MS, State, StatsDelta, TEST};
use crate::record::{
    Addressed, Attempt, Disable, Ending, How, Hurried, OutboxKey, Quarantine, Queued, Recorded,
    Unit, Units, Wanted,
};
use crate::shortage::Shortage;
use crate::slow_start::SlowStart;
pub use not_tried::{Hindrance, NotTried};
use slab::Slab;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use uuid::Uuid;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::filter::Index;
use webhooks_core::request::{Event, Target};
use webhooks_core::verdict::{self, Verdict};

/// Fresh deliveries in memory at which reading the outbox pauses.
const FRESH_MAX: usize = 1_024;
/// The same in bytes of event data.
const FRESH_BYTES_MAX: usize = 8 << 20;
/// Age at which a fresh event is written although not all of its deliveries have ended.
const GROUP_AGE_MS: u64 = 100;
/// How long an outcome waits for the rest of its event. With what settling takes, and the flush of its WAL, it is to be
/// safe 100 ms after the answer: what is not is sent again after a crash.
const ENDED_AGE_MS: u64 = 40;
/// How many of the oldest fresh events are written to make room for others.
const FLUSH_MOST: usize = 256;
/// How often [`GROUP_AGE_MS`] is put off while nothing has gone wrong.
const POSTPONED_MOST: u8 = 4;
/// Deliveries ready in memory, over all webhooks, beyond which no more are taken in.
const READY_MAX: usize = 20_000;
/// The same in bytes of event data.
const READY_BYTES_MAX: usize = 8 << 20;
/// And the same for the last row of each, which is taken in beyond that.
const READY_BYTES_LAST: usize = 8 * READY_BYTES_MAX;
/// Bytes of event data beyond which deliveries that wait for their next attempt are kept without.
const WAITING_BYTES_MAX: usize = 8 << 20;
/// Event data that are smaller are always kept: to read them again takes longer than they are worth.
const BARE_FROM: usize = 4 << 10;
/// Between two pages of retries, when nothing else wakes the worker.
const DUE_PAUSE_MS: u64 = 20;
/// Deliveries of an endpoint in memory, up to which its retries stay there while retries of others are still to be read.
const RETRIES_AHEAD: u32 = 64;
/// Deliveries that users want now, whose rows are remembered to be fetched one by one.
const HURRIED_MOST: usize = 1_000;
/// The same of one webhook, and how many of them are ready at once.
const HURRIED_EACH: usize = 128;
const WANTED_MOST: usize = 64;
/// How far ahead retries are read into memory.
const DUE_WINDOW_MS: i64 = 60_000;

/// By how much a clock is set back without anything following from it.
const CLOCK_MARGIN_MS: i64 = 60_000;

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

impl Limits {
    /// Places of the rate window that stay free in the first minute after a restart: for attempts before it
    /// that no table tells of, because they were under way or a crash took them from the log. There are never more such
    /// attempts of one webhook. With 1000 a minute, what is left is still more than 95 %.
    fn reserved(&self) -> u32 {
        self.concurrent
            .max(self.per_minute / 25)
            .min(self.per_minute)
    }
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
    /// Stands for the webhook's owner.
    pub owner: u64,
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

#[derive(Debug)]
enum Place {
    Ready,
    /// For its next attempt, at `due_ms`; `bytes` of [`Scheduler::waiting_bytes`] are its own. `bare`: its event's data are
    /// not in memory, and it must be read again before it can be sent.
    Waiting {
        due_ms: i64,
        bytes: usize,
        bare: bool,
    },
    /// `era`: of its endpoint, when it started.
    InFlight {
        slow: bool,
        era: u64,
    },
}

impl Place {
    /// Waiting, before [`Scheduler::wait_until`] has counted it.
    const UNCOUNTED: Self = Self::Waiting {
        due_ms: i64::MIN,
        bytes: 0,
        bare: false,
    };
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
    /// A user wants it now: it waits for no pause, and goes first.
    wanted: bool,
    /// Its last attempt was refused for reasons of load.
    refused: bool,
    /// Since when its next attempt may start, Unix milliseconds.
    since_ms: i64,
    /// It could not be tried for reasons that are not its endpoint's.
    hindered: bool,
    /// How often the worker itself has failed at it.
    defects: u8,
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
    /// Endpoints whose delivery is not ready, since it stands behind others, each with the delivery's place in order.
    parked: BTreeMap<usize, i64>,
    /// Webhooks whose filter cannot be read: whether the event is for them is decided when it can.
    undecided: Vec<Uuid>,
    created_ms: i64,
    /// How often writing it was put off.
    postponed: u8,
    /// Whether an attempt at one of its deliveries has ended.
    ended: bool,
}

/// The memory.
#[derive(Debug, Default)]
pub struct Scheduler {
    endpoints: Slab<State>,
    by_webhook: HashMap<Uuid, usize>,
    /// Webhooks by owner.
    by_owner: HashMap<Option<String>, Vec<usize>>,
    /// Who gets an event of this type and owner.
    audiences: HashMap<(String, Option<String>), Arc<Index<usize>>>,
    deliveries: Slab<Delivery>,
    /// Recorded deliveries in memory.
    by_id: HashMap<Uuid, usize>,
    /// Recorded deliveries that have ended or moved on, until that is written.
    settling: HashSet<Uuid>,
    groups: Slab<Group>,
    group_ages: VecDeque<(u64, usize, u64)>,
    /// Groups of which something has ended and something has not: since when, in order.
    group_endings: VecDeque<(u64, usize, u64)>,
    serial: u64,
    outbox: HashSet<Uuid>,
    fresh: usize,
    fresh_bytes: usize,
    ready: usize,
    ready_bytes: usize,
    /// Bytes of event data of deliveries that wait for their next attempt.
    waiting_bytes: usize,
    runnable: VecDeque<usize>,
    /// Endpoints that are slow, while too much of the room is held by such.
    slow_waiting: VecDeque<usize>,
    /// Endpoints of which nothing is known yet, while they and the slow ones hold too much of it.
    unknown_waiting: VecDeque<usize>,
    hungry: VecDeque<usize>,
    counted: Vec<usize>,
    in_flight: usize,
    /// Of those, the requests to endpoints that are not known to be fast.
    slow_in_flight: usize,
    /// Starts in order, to find those that have become slow.
    started: VecDeque<(u64, usize, Uuid)>,
    retries: BinaryHeap<Reverse<(i64, usize, Uuid)>>,
    held: BinaryHeap<Reverse<(u64, usize)>>,
    /// When to look at pauses, Unix milliseconds. They may have become longer since, or been ended.
    pauses: BinaryHeap<Reverse<(i64, usize, Uuid)>>,
    /// A pause has begun or was ended, and the tables do not know it yet.
    pause_is_new: bool,
    /// The time at the last tick, Unix milliseconds.
    clock_ms: i64,
    shortage: Shortage,
    /// Endpoints with outcomes that a crash may take.
    unsaved: Vec<usize>,
    /// The same as they were when [`Scheduler::mark_unsaved`] was called, with how many of each.
    marked: Vec<(Uuid, u32)>,
    /// Whether some endpoint starts nothing until its outcomes are safe.
    waits_for_saving: bool,
    /// Retries up to this one are in memory.
    due_position: Option<(i64, Uuid)>,
    due_full: bool,
    /// Once the running scan of retries has reached its end, another begins with the first retry.
    due_again: bool,
    /// Deliveries that users want now. Their rows must still be fetched.
    hurried: Vec<Hurried>,
    last_seq: i64,
    done: Units,
    /// Units that were given away for writing so far.
    units_taken: u64,
}

impl Scheduler {
    /// An empty memory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of the webhooks that are known there may have been attempts in the last minute that nothing tells of.
    pub fn reserve(&mut self, now: Now) {
        for (_, state) in &mut self.endpoints {
            state.reserved_until_ms = now.mono_ms + webhooks_core::rate::OCCUPIED_MS;
        }
    }

    /// Whether something may start only when all outcomes are safe, as [`Scheduler::saved`] says.
    #[must_use]
    pub fn waits_for_saving(&self) -> bool {
        self.waits_for_saving
    }

    /// Whether all outcomes have been taken for writing.
    #[must_use]
    pub fn has_given_all(&self) -> bool {
        self.done.is_empty() && self.group_endings.is_empty()
    }

    /// No crash takes an outcome any more of what has ended so far.
    pub fn saved(&mut self) {
        self.mark_unsaved();
        self.saved_to_mark();
    }

    /// Remembers what has ended so far, for [`Scheduler::saved_to_mark`]. All of it must have become units, as after
    /// [`Scheduler::flush_ended`].
    pub fn mark_unsaved(&mut self) {
        self.marked.clear();
        for &index in &self.unsaved {
            if let Some(state) = self.endpoints.get(index) {
                self.marked.push((state.definition.id, state.unsaved));
            }
        }
        // The place of one that is gone may be another's by now, who stands in the list twice.
        self.marked.sort_unstable();
        self.marked.dedup();
    }

    /// No crash takes an outcome any more of what had ended at the last mark.
    pub fn saved_to_mark(&mut self) {
        self.waits_for_saving = false;
        for (webhook, count) in std::mem::take(&mut self.marked) {
            if let Some(&index) = self.by_webhook.get(&webhook) {
                let state = &mut self.endpoints[index];
                state.unsaved = state.unsaved.saturating_sub(count);
            }
        }
        // Those that may still not start say so again.
        for place in 0..self.unsaved.len() {
            self.list(self.unsaved[place]);
        }
        let endpoints = &self.endpoints;
        self.unsaved.retain(|&index| {
            endpoints
                .get(index)
                .is_some_and(|it| it.unsaved > 0 && !it.gone)
        });
    }

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

    /// Whether no more deliveries are to be made ready.
    fn is_full(&self) -> bool {
        self.ready >= READY_MAX || self.ready_bytes >= READY_BYTES_MAX
    }

    /// How many rows of an endpoint's queue may be made ready. What is ready for others may stay so for long, because they do
    /// not answer or wait for their rate window: so there is room for the next one of each that has nothing to do.
    fn room_for(&self, state: &State) -> usize {
        let answers = matches!(state.pace, Pace::Fast | Pace::Slow);
        if !self.is_full() {
            state.prefetch()
        } else if state.ready.is_empty()
            && (answers || state.in_flight == 0)
            && self.ready_bytes < READY_BYTES_LAST
        {
            1
        } else {
            0
        }
    }

    fn list(&mut self, index: usize) {
        let Some(state) = self.endpoints.get(index) else {
            return;
        };
        if state.listed || state.held || self.next_of(index).is_none() {
            return;
        }
        self.endpoints[index].listed = true;
        self.runnable.push_back(index);
    }

    /// Whether what stands behind others of an endpoint will wait for long.
    fn waits_long(&self, index: usize) -> bool {
        let state = &self.endpoints[index];
        let definition = &state.definition;
        let waits = state.held || !definition.sends() || definition.is_paused();
        waits || matches!(state.pace, Pace::Slow | Pace::TimedOut)
    }

    /// Brings in what stands behind the last that are ready: of fresh deliveries at once, of the queue by putting the
    /// endpoint on the list of those that want rows.
    fn feed(&mut self, index: usize) {
        let Some(state) = self.endpoints.get_mut(index) else {
            return;
        };
        if state.ready.len() >= state.low() || !state.definition.sends() || state.gone {
            return;
        }
        if !state.backlog {
            self.admit_parked(index);
        } else if !state.hungry {
            state.hungry = true;
            self.hungry.push_back(index);
        }
    }

    fn make_ready(&mut self, key: usize) {
        self.waits_no_more(key);
        let delivery = &mut self.deliveries[key];
        delivery.place = Place::Ready;
        let index = delivery.endpoint;
        self.ready += 1;
        self.ready_bytes += delivery.event.data.len();
        self.enter_ready(index, key);
        self.list(index);
    }

    /// Bookkeeping for a delivery that was taken out of its endpoint's `ready`.
    fn left_ready(&mut self, key: usize) {
        self.ready -= 1;
        self.ready_bytes -= self.deliveries[key].event.data.len();
    }

    /// A delivery that has a row is kept until its next attempt is due: without its event's data, where those of others
    /// that wait are many already. (A test goes to an inactive webhook too, whose queue is not read.)
    fn wait_until(&mut self, due_ms: i64, key: usize) {
        self.keep_waiting(due_ms, key);
        let id = self.deliveries[key].id;
        self.retries.push(Reverse((due_ms, key, id)));
    }

    /// The same, until something else than time makes it ready.
    fn keep_waiting(&mut self, due_ms: i64, key: usize) {
        let delivery = &mut self.deliveries[key];
        let bytes = delivery.event.data.len();
        let much = bytes >= BARE_FROM && self.waiting_bytes + bytes > WAITING_BYTES_MAX;
        let bare = much && delivery.event.event_type != TEST;
        if bare {
            delivery.event = Arc::new(Event {
                id: delivery.event.id,
                created_ms: delivery.event.created_ms,
                event_type: delivery.event.event_type.clone(),
                data: String::new(),
            });
        }
        let bytes = delivery.event.data.len();
        self.waiting_bytes += bytes;
        delivery.place = Place::Waiting {
            due_ms,
            bytes,
            bare,
        };
    }

    /// Bookkeeping for a delivery that ceases to wait.
    fn waits_no_more(&mut self, key: usize) {
        if let Place::Waiting { bytes, .. } = self.deliveries[key].place {
            self.waiting_bytes -= bytes;
        }
    }

    fn forget(&mut self, key: usize) {
        self.waits_no_more(key);
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
                && state.parked.is_empty()
                && !state.listed
                && !state.held
                && !state.hungry
        });
        if unused {
            self.endpoints.remove(index);
        }
    }
}
