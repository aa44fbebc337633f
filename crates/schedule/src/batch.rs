//! What many units come to, taken together: a delivery may get its queue row and end, or be tried again, in
//! units that are written in one transaction. Each row then is written once, as it stands at the end.

use crate::record::{Ending, How, OutboxKey, Unit};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use uuid::Uuid;

/// A row of the queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueRow<'a> {
    /// The delivery.
    pub id: Uuid,
    /// Its event.
    pub event: Uuid,
    /// Its webhook.
    pub webhook: Uuid,
    /// Order within the webhook.
    pub seq: i64,
    /// Requests made.
    pub attempts: u32,
    /// When the next attempt may start, Unix milliseconds; `None`: at once.
    pub due_ms: Option<i64>,
    /// Status of the last attempt.
    pub status: Option<u16>,
    /// Why the last attempt failed.
    pub error: Option<&'a str>,
    /// When the delivery was made, Unix milliseconds.
    pub created_ms: i64,
    /// The webhook's filter has yet to judge the event.
    pub undecided: bool,
}

/// Rows to write, in any order, except that `late` comes after `log` and `hurried` comes last.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// Rows of the outbox to remove.
    pub outbox: Vec<OutboxKey>,
    /// Deliveries that have ended, to log.
    pub log: Vec<&'a Ending>,
    /// Outcomes of deliveries that are logged as cancelled.
    pub late: Vec<&'a Ending>,
    /// Attempts that another will follow.
    pub attempts: Vec<&'a Ending>,
    /// Rows to add to the queue.
    pub inserts: Vec<QueueRow<'a>>,
    /// Rows of the queue to change: attempts, due, status, error, undecided.
    pub updates: Vec<QueueRow<'a>>,
    /// Rows of the queue to remove.
    pub deletes: Vec<Uuid>,
    /// Rows of the queue that become due, after all of that.
    pub hurried: Vec<Uuid>,
}

/// A row of the queue that a unit has spoken of.
enum Spoken<'a> {
    New(QueueRow<'a>),
    Changed(QueueRow<'a>),
    Gone,
}

impl<'a> Batch<'a> {
    /// Takes units together, in the order they were made.
    #[must_use]
    pub fn of(units: &'a [Unit]) -> Self {
        let mut batch = Self::default();
        let mut spoken: HashMap<Uuid, Spoken<'a>> = HashMap::new();
        for unit in units {
            batch.outbox.extend(unit.outbox);
            batch.hurried.extend(unit.hurried.map(|it| it.delivery));
            for queued in &unit.queued {
                let row = QueueRow {
                    id: queued.id,
                    event: queued.event,
                    webhook: queued.webhook,
                    seq: queued.seq,
                    attempts: 0,
                    due_ms: queued.due_ms,
                    status: None,
                    error: None,
                    created_ms: queued.created_ms,
                    undecided: queued.undecided,
                };
                spoken.insert(row.id, Spoken::New(row));
            }
            for ending in &unit.endings {
                match ending.how {
                    How::RetryAt(due_ms) => {
                        batch.attempts.push(ending);
                        let row = waiting(ending, due_ms);
                        match spoken.get_mut(&row.id) {
                            Some(Spoken::New(known) | Spoken::Changed(known)) => *known = row,
                            _ if ending.recorded => {
                                spoken.insert(row.id, Spoken::Changed(row));
                            }
                            _ => {
                                spoken.insert(row.id, Spoken::New(row));
                            }
                        }
                        continue;
                    }
                    How::Late => batch.late.push(ending),
                    How::Delivered | How::Failed | How::Cancelled => batch.log.push(ending),
                    How::Unwanted => {}
                }
                if ending.recorded {
                    match spoken.entry(ending.id) {
                        Entry::Occupied(known) if matches!(known.get(), Spoken::New(_)) => {
                            known.remove();
                        }
                        known => {
                            known.insert_entry(Spoken::Gone);
                        }
                    }
                }
            }
        }
        for (id, row) in spoken {
            match row {
                Spoken::New(row) => batch.inserts.push(row),
                Spoken::Changed(row) => batch.updates.push(row),
                Spoken::Gone => batch.deletes.push(id),
            }
        }
        batch.inserts.sort_unstable_by_key(|row| row.seq);
        batch
    }
}

fn waiting(ending: &Ending, due_ms: i64) -> QueueRow<'_> {
    let attempt = ending.attempt.as_ref();
    QueueRow {
        id: ending.id,
        event: ending.event.id,
        webhook: ending.webhook,
        seq: ending.seq,
        attempts: ending.attempts,
        due_ms: Some(due_ms),
        status: attempt.and_then(|it| it.status),
        error: attempt.and_then(|it| it.error.as_deref()),
        created_ms: ending.created_ms,
        undecided: false,
    }
}
