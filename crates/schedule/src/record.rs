//! What goes between memory and tables: plain facts.

use std::sync::Arc;
use uuid::Uuid;
use webhooks_core::request::Event;

/// What decides whom an event is for.
#[derive(Clone, Copy, Debug)]
pub struct Addressed<'a> {
    /// Its type.
    pub event_type: &'a str,
    /// Its owner.
    pub owner: Option<&'a str>,
    /// The one webhook that it is for, whatever that subscribes to.
    pub target: Option<Uuid>,
    /// The one that it is never for.
    pub about: Option<Uuid>,
    /// What filters judge: the whole row, as JSON.
    pub row: &'a str,
    /// The transaction that emitted it.
    pub xid: u64,
    /// When, Unix milliseconds.
    pub created_ms: i64,
    /// The transaction to come.
    pub next_xid: u64,
}

/// An outbox row: which event, and where the row lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutboxKey {
    /// The event.
    pub id: Uuid,
    /// Block of the row.
    pub block: u32,
    /// Offset in the block.
    pub offset: u16,
}

/// A delivery as a queue row holds it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The delivery.
    pub id: Uuid,
    /// The webhook.
    pub webhook: Uuid,
    /// Its event, with the data.
    pub event: Arc<Event>,
    /// Order within the webhook.
    pub seq: i64,
    /// Requests made.
    pub attempts: u32,
    /// Requests made before the current round.
    pub attempts_before: u32,
    /// When the next attempt may start, Unix milliseconds; `None`: at once.
    pub due_ms: Option<i64>,
    /// When the delivery was made, Unix milliseconds.
    pub created_ms: i64,
    /// Its last attempt was refused for reasons of load: [`webhooks_core::verdict::is_refusal`].
    pub refused: bool,
    /// What the webhook's filter has yet to judge, as JSON: it could not be read when the event was dispatched.
    pub undecided: Option<String>,
}

/// A queue row to insert.
#[derive(Clone, Debug, PartialEq)]
pub struct Queued {
    /// The delivery.
    pub id: Uuid,
    /// Its event.
    pub event: Uuid,
    /// Its webhook.
    pub webhook: Uuid,
    /// Order within the webhook.
    pub seq: i64,
    /// When the first attempt may start, Unix milliseconds; `None`: at once.
    pub due_ms: Option<i64>,
    /// When the delivery was made, Unix milliseconds.
    pub created_ms: i64,
    /// The webhook's filter, which cannot be read now, has yet to judge the event.
    pub undecided: bool,
}

/// One request, as it is logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// Unix milliseconds.
    pub started_ms: i64,
    /// Milliseconds.
    pub duration_ms: i32,
    /// HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Why it failed.
    pub error: Option<String>,
    /// The beginning of the answer.
    pub excerpt: Option<String>,
}

/// How an attempt or a delivery ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum How {
    /// Delivered.
    Delivered,
    /// Failed for good.
    Failed,
    /// The webhook is gone.
    Cancelled,
    /// The webhook's filter, when it could be read at last, did not match: there was never a delivery.
    Unwanted,
    /// The next attempt may start then, Unix milliseconds.
    RetryAt(i64),
    /// It was cancelled while the request was under way, and is written as cancelled already.
    Late,
}

/// What is to be written of one delivery.
#[derive(Clone, Debug, PartialEq)]
pub struct Ending {
    /// The delivery.
    pub id: Uuid,
    /// Its event.
    pub event: Arc<Event>,
    /// Its webhook.
    pub webhook: Uuid,
    /// How it ended.
    pub how: How,
    /// Whether it has a queue row.
    pub recorded: bool,
    /// The request that was made, if one was.
    pub attempt: Option<Attempt>,
    /// Requests made in all.
    pub attempts: u32,
    /// When the delivery was made, Unix milliseconds.
    pub created_ms: i64,
    /// When it ended, Unix milliseconds.
    pub ended_ms: i64,
    /// Order within the webhook; of use with [`How::RetryAt`].
    pub seq: i64,
}

/// What must be written together: a fresh event as a whole, or one recorded delivery.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {
    /// The outbox row that this makes superfluous.
    pub outbox: Option<OutboxKey>,
    /// Deliveries that ended, or made an attempt.
    pub endings: Vec<Ending>,
    /// Deliveries that go on waiting, from now in the queue.
    pub queued: Vec<Queued>,
    /// A webhook that is to be switched off.
    pub disable: Option<Disable>,
    /// A delivery whose row is to become due.
    pub hurried: Option<Hurried>,
    /// A delivery whose row is to be passed over.
    pub quarantine: Option<Quarantine>,
}

/// A delivery at which the worker itself has failed again and again.
#[derive(Clone, Debug, PartialEq)]
pub struct Quarantine {
    /// The delivery. It has a row of its own when this is written.
    pub delivery: Uuid,
    /// Its webhook.
    pub webhook: Uuid,
    /// How the worker fails.
    pub error: String,
}

/// A delivery whose next attempt a user wants now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hurried {
    /// The delivery.
    pub delivery: Uuid,
    /// Its webhook.
    pub webhook: Uuid,
}

impl Unit {
    /// How many deliveries it writes of; at least one, for the unit itself.
    #[must_use]
    pub fn rows(&self) -> usize {
        (self.endings.len() + self.queued.len()).max(1)
    }
}

/// Units, in the order of writing.
#[derive(Debug, Default)]
pub struct Units {
    list: Vec<Unit>,
    rows: usize,
}

impl Units {
    /// Adds one behind the others.
    pub fn push(&mut self, unit: Unit) {
        self.rows += unit.rows();
        self.list.push(unit);
    }

    /// Takes all of them.
    #[must_use]
    pub fn take(&mut self) -> Vec<Unit> {
        self.rows = 0;
        std::mem::take(&mut self.list)
    }

    /// How many units.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many deliveries they write of: see [`Unit::rows`].
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }
}

impl Extend<Unit> for Units {
    fn extend<T: IntoIterator<Item = Unit>>(&mut self, units: T) {
        units.into_iter().for_each(|unit| self.push(unit));
    }
}

/// Rows of the queue that memory asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// Of this webhook.
    pub webhook: Uuid,
    /// The `seq` to go on after.
    pub after: i64,
    /// How many, at most.
    pub most: usize,
}

/// A webhook to switch off.
#[derive(Clone, Debug, PartialEq)]
pub struct Disable {
    /// The webhook.
    pub webhook: Uuid,
    /// The activation that this ends.
    pub activation: i32,
    /// Its owner.
    pub owner: Option<String>,
    /// Why, for people.
    pub reason: String,
    /// The status that was the last straw.
    pub status: Option<u16>,
    /// Whether nobody hears of it: what failed was itself a report of a delivery or a webhook.
    pub quiet: bool,
}
