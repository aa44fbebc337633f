//! Queue rows into memory: backlogs of webhooks, and retries that come due.

use super::dispatch::READ_BYTES;
use super::unreadable::suspects;
use super::{FETCH, Worker};
use crate::seam::clock;
use crate::seam::sql::{self, Statement};
use crate::seam::transaction::{Isolation, transaction};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;
use webhooks_core::request::Event;
use webhooks_core::verdict;
use webhooks_schedule::{Hurried, Recorded, Wanted};

/// Rows fetched of one webhook at once, at most and, unless they are very large, at least.
const EACH: (usize, usize) = (4, 64);
/// Webhooks asked for at once, at most.
const WEBHOOKS: usize = 100;
/// Rows fetched at once, at most: others wait meanwhile.
const ROWS: usize = 1_000;
/// Retries fetched at once, at most.
const DUE: usize = 1_000;

/// Rows of one webhook may share a place in order, when a user had them queued: a page does not end between two of these.
static BACKLOG: Statement = Statement::new(
    c"SELECT q.id, q.webhook_id, q.event_id, q.seq, q.attempts, q.attempts_before, q.due, q.created_at,
             e.type, e.created_at, e.data, CASE WHEN q.undecided THEN coalesce(e.subject, e.data) END,
             pg_catalog.octet_length(e.data),
             CASE WHEN q.undecided THEN pg_catalog.octet_length(coalesce(e.subject, e.data)) END,
             q.last_status
        FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS w(id, after, most)
       CROSS JOIN LATERAL (SELECT * FROM webhooks.queue q
                            WHERE q.webhook_id = w.id AND q.seq > w.after
                              AND (q.due IS NULL OR q.due <= pg_catalog.clock_timestamp())
                              AND q.id <> ALL ($4)
                            ORDER BY q.seq FETCH FIRST (w.most) ROWS WITH TIES) q
        LEFT JOIN webhooks.event e ON e.id = q.event_id
       ORDER BY q.webhook_id, q.seq",
    OF_WEBHOOKS,
);
/// The same rows, without what may be damaged.
static LOOK_INTO_BACKLOG: Statement = Statement::new(
    c"SELECT q.id, q.event_id
        FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS w(id, after, most)
       CROSS JOIN LATERAL (SELECT * FROM webhooks.queue q
                            WHERE q.webhook_id = w.id AND q.seq > w.after
                              AND (q.due IS NULL OR q.due <= pg_catalog.clock_timestamp())
                              AND q.id <> ALL ($4)
                            ORDER BY q.seq FETCH FIRST (w.most) ROWS WITH TIES) q",
    OF_WEBHOOKS,
);
/// Webhooks, after which row of each, how many rows of each, which not.
const OF_WEBHOOKS: &[pg_sys::Oid] = &[
    pg_sys::UUIDARRAYOID,
    pg_sys::INT8ARRAYOID,
    pg_sys::INT8ARRAYOID,
    pg_sys::UUIDARRAYOID,
];
static COMING_DUE: Statement = Statement::new(
    c"SELECT q.id, q.webhook_id, q.event_id, q.seq, q.attempts, q.attempts_before, q.due, q.created_at,
             e.type, e.created_at, e.data, CASE WHEN q.undecided THEN coalesce(e.subject, e.data) END,
             pg_catalog.octet_length(e.data),
             CASE WHEN q.undecided THEN pg_catalog.octet_length(coalesce(e.subject, e.data)) END,
             q.last_status
        FROM (SELECT * FROM webhooks.queue q
               WHERE (q.due, q.id) > ($1, $2) AND q.due <= $3 AND q.id <> ALL ($5)
               ORDER BY q.due, q.id LIMIT $4) q
        LEFT JOIN webhooks.event e ON e.id = q.event_id
       ORDER BY q.due, q.id",
    OF_A_TIME,
);
/// The same rows, without what may be damaged.
static LOOK_INTO_COMING_DUE: Statement = Statement::new(
    c"SELECT q.id, q.event_id FROM webhooks.queue q
       WHERE (q.due, q.id) > ($1, $2) AND q.due <= $3 AND q.id <> ALL ($5)
       ORDER BY q.due, q.id LIMIT $4",
    OF_A_TIME,
);
static NAMED: Statement = Statement::new(
    c"SELECT q.id, q.webhook_id, q.event_id, q.seq, q.attempts, q.attempts_before, q.due, q.created_at,
             e.type, e.created_at, e.data, CASE WHEN q.undecided THEN coalesce(e.subject, e.data) END,
             pg_catalog.octet_length(e.data),
             CASE WHEN q.undecided THEN pg_catalog.octet_length(coalesce(e.subject, e.data)) END,
             q.last_status
        FROM webhooks.queue q
        LEFT JOIN webhooks.event e ON e.id = q.event_id
       WHERE q.id = ANY ($1) AND q.id <> ALL ($2)",
    NAMES,
);
/// The same rows, without what may be damaged.
static LOOK_INTO_NAMED: Statement = Statement::new(
    c"SELECT q.id, q.event_id FROM webhooks.queue q WHERE q.id = ANY ($1) AND q.id <> ALL ($2)",
    NAMES,
);
/// Which rows, and which not.
const NAMES: &[pg_sys::Oid] = &[pg_sys::UUIDARRAYOID, pg_sys::UUIDARRAYOID];
/// After which time and row, up to which time, how many rows, which not.
const OF_A_TIME: &[pg_sys::Oid] = &[
    pg_sys::TIMESTAMPTZOID,
    pg_sys::UUIDOID,
    pg_sys::TIMESTAMPTZOID,
    pg_sys::INT8OID,
    pg_sys::UUIDARRAYOID,
];

impl Worker {
    /// Fetches what users want now; whether that could be read.
    fn fetch_hurried(&mut self) -> bool {
        let most = self.affordable(EACH.1);
        let mut wanted = self.scheduler.wants_hurried(most);
        if wanted.is_empty() {
            return true;
        }
        let args = |wanted: &[Hurried], worker: &Self| {
            let ids = wanted.iter().map(|it| it.delivery);
            [sql::uuids(ids), worker.set_aside.arg()]
        };
        let fetched = transaction(c"fetch", Isolation::ReadCommitted, || {
            sql::connect(|spi| recorded(&spi.read(&NAMED, &args(&wanted, self))))
        });
        match fetched {
            Ok((rows, cut)) => {
                self.learn_size_of(&rows);
                if cut {
                    wanted.retain(|it| rows.iter().all(|row| row.id != it.delivery));
                    self.scheduler.put_back_hurried(wanted);
                }
                let rows = rows.into_iter().filter_map(|row| row.recorded).collect();
                self.scheduler.hurried_rows(rows, clock::now());
                true
            }
            Err(error) => {
                let damaged = self.set_aside_unreadable(FETCH, &error, |worker, spi| {
                    suspects(&spi.read(&LOOK_INTO_NAMED, &args(&wanted, worker)))
                });
                self.scheduler.put_back_hurried(wanted);
                if !damaged {
                    self.rolled_back(FETCH, "fetch", &error);
                }
                false
            }
        }
    }

    /// Fetches what memory asks for.
    pub(super) fn fetch_rows(&mut self) {
        if !self.fetch_hurried() {
            return;
        }
        let rows = self.affordable(ROWS);
        let wanting = self
            .scheduler
            .wants_rows((rows / EACH.0).clamp(1, WEBHOOKS));
        let each = (rows / wanting.len().max(1)).clamp(1, EACH.1);
        if !wanting.is_empty() {
            let args = |worker: &Self| {
                let after: Vec<i64> = wanting.iter().map(|it| it.after).collect();
                let most: Vec<i64> = wanting.iter().map(|it| it.most.min(each) as i64).collect();
                [
                    sql::uuids(wanting.iter().map(|it| it.webhook)),
                    sql::arg(after),
                    sql::arg(most),
                    worker.set_aside.arg(),
                ]
            };
            let fetched = transaction(c"fetch", Isolation::ReadCommitted, || {
                sql::connect(|spi| recorded(&spi.read(&BACKLOG, &args(self))))
            });
            match fetched {
                Ok((rows, cut)) => {
                    self.learn_size_of(&rows);
                    // They are in the order of their webhooks.
                    let cut = rows.last().filter(|_| cut).map(|row| row.webhook);
                    let mut of: HashMap<Uuid, Vec<Fetched>> = HashMap::new();
                    for row in rows {
                        of.entry(row.webhook).or_default().push(row);
                    }
                    let now = clock::now();
                    for Wanted { webhook, most, .. } in wanting {
                        let rows = of.remove(&webhook).unwrap_or_default();
                        let left_out = cut.is_some_and(|last| webhook >= last);
                        let more = left_out || rows.len() >= most.min(each);
                        let upto = rows.last().map(|row| row.seq);
                        let rows = rows.into_iter().filter_map(|row| row.recorded).collect();
                        self.scheduler.rows(webhook, rows, upto, more, now);
                    }
                }
                Err(error) => {
                    let damaged = self.set_aside_unreadable(FETCH, &error, |worker, spi| {
                        suspects(&spi.read(&LOOK_INTO_BACKLOG, &args(worker)))
                    });
                    for it in &wanting {
                        self.scheduler.requeued(it.webhook);
                    }
                    if damaged {
                        return;
                    }
                    self.rolled_back(FETCH, "fetch", &error);
                    return;
                }
            }
        }
        let now = clock::now();
        let Some((after, until)) = self.scheduler.wants_due(now) else {
            return;
        };
        let most = self.affordable(DUE);
        let args = |worker: &Self| {
            [
                sql::time(after.0.max(0)),
                sql::uuid(after.1),
                sql::time(until),
                sql::arg(most as i64),
                worker.set_aside.arg(),
            ]
        };
        let fetched = transaction(c"fetch", Isolation::ReadCommitted, || {
            sql::connect(|spi| recorded(&spi.read(&COMING_DUE, &args(self))))
        });
        match fetched {
            Ok((rows, cut)) => {
                self.learn_size_of(&rows);
                let last = rows.last().and_then(|row| Some((row.due_ms?, row.id)));
                let full = last.filter(|_| cut || rows.len() >= most);
                let rows = rows.into_iter().filter_map(|row| row.recorded).collect();
                self.scheduler.due_rows(rows, until, full, now);
            }
            Err(error) => {
                let damaged = self.set_aside_unreadable(FETCH, &error, |worker, spi| {
                    suspects(&spi.read(&LOOK_INTO_COMING_DUE, &args(worker)))
                });
                if !damaged {
                    self.rolled_back(FETCH, "fetch", &error);
                }
            }
        }
    }
}

impl Worker {
    fn learn_size_of(&mut self, rows: &[Fetched]) {
        let data = |row: &Fetched| row.recorded.as_ref().map_or(0, |it| it.event.data.len());
        self.learn_size(rows.iter().map(data).sum(), rows.len());
    }
}

/// A row of the queue; its event may be missing, and then there is nothing to send.
struct Fetched {
    id: Uuid,
    webhook: Uuid,
    seq: i64,
    due_ms: Option<i64>,
    recorded: Option<Recorded>,
}

/// Rows of a statement whose columns are those of the ones above, until their data reach
/// [`READ_BYTES`]; whether others follow. Rows that share their place are taken together, and
/// deliveries of one event share it. Data that are compressed or out of line are measured without
/// being read.
fn recorded(rows: &sql::Rows<'_>) -> (Vec<Fetched>, bool) {
    let mut events: HashMap<Uuid, Arc<Event>> = HashMap::new();
    let (mut fetched, mut bytes) = (Vec::with_capacity(rows.len()), 0);
    for row in 0..rows.len() {
        let place = (rows.uuid(row, 2), rows.get(row, 4));
        let shares = |last: &Fetched| (Some(last.webhook), Some(last.seq)) == place;
        if bytes >= READ_BYTES && !fetched.last().is_some_and(shares) {
            return (fetched, true);
        }
        let size = |column| rows.get::<i32>(row, column).unwrap_or(0).unsigned_abs() as usize;
        bytes += size(14);
        if rows
            .uuid(row, 3)
            .is_some_and(|id| !events.contains_key(&id))
        {
            bytes += size(13);
        }
        fetched.extend(fetched_row(rows, row, &mut events));
    }
    (fetched, false)
}

fn fetched_row(
    rows: &sql::Rows<'_>,
    row: usize,
    events: &mut HashMap<Uuid, Arc<Event>>,
) -> Option<Fetched> {
    let (id, webhook) = (rows.uuid(row, 1)?, rows.uuid(row, 2)?);
    let (seq, due_ms) = (rows.get(row, 4)?, rows.time(row, 7));
    let event_id = rows.uuid(row, 3)?;
    if !events.contains_key(&event_id)
        && let Some(event) = event(rows, row, event_id)
    {
        events.insert(event_id, Arc::new(event));
    }
    let recorded = events.get(&event_id).and_then(|event| {
        Some(Recorded {
            id,
            webhook,
            event: Arc::clone(event),
            seq,
            attempts: u32::try_from(rows.get::<i32>(row, 5)?).unwrap_or(0),
            attempts_before: u32::try_from(rows.get::<i32>(row, 6)?).unwrap_or(0),
            due_ms,
            created_ms: rows.time(row, 8)?,
            refused: is_refused(rows, row),
            undecided: rows.get(row, 12),
        })
    });
    Some(Fetched {
        id,
        webhook,
        seq,
        due_ms,
        recorded,
    })
}

fn is_refused(rows: &sql::Rows<'_>, row: usize) -> bool {
    let status = rows.get::<i32>(row, 15);
    status.is_some_and(|it| u16::try_from(it).is_ok_and(verdict::is_refusal))
}

fn event(rows: &sql::Rows<'_>, row: usize, id: Uuid) -> Option<Event> {
    Some(Event {
        id,
        event_type: rows.get(row, 9)?,
        created_ms: rows.time(row, 10)?,
        data: rows.get(row, 11)?,
    })
}
