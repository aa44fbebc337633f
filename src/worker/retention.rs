//! Retention: removes what ended longer ago than `webhooks.retention`, in short steps.
//!
//! A pass removes deliveries first, and then the events that nothing needs any more. Both are read in the order of their
//! ids, which is the order of time, and deleted by their place. Nobody is waited for: a row that somebody else locks
//! stays until the next pass.

use super::dispatch::latest_of;
use crate::seam::sql::{self, Connection, Rows, Statement};
use crate::seam::table::Table;
use pgrx::pg_sys;
use std::collections::HashSet;
use uuid::Uuid;
use webhooks_core::id::deliveries_of;

/// Rows looked at in one transaction.
const STEP: i64 = 1_000;
/// Blocks of the outbox looked at in one transaction.
const BLOCKS: i64 = 256;
/// Old events in the outbox at which none is removed in this pass: so many are not kept in memory.
const WAITING_MOST: usize = 100_000;
/// Once so many rows have gone, a pass begins where the last one ended: what was removed is still visited by those who
/// begin with the oldest row, until it is vacuumed.
const REMOVED_MOST: u64 = 100_000;
/// It begins with the oldest row again after this time, for what had to stay. What had to stay and is not this much older
/// than what may go is looked at in each pass: that is what had just ended.
const WHOLE_MS: u64 = 600_000;

/// Deliveries of one page of ids.
static DELIVERIES: Statement = Statement::new(
    c"SELECT ctid, id, completed_at < $3, state <> 'delivered' OR attempts <> 1
        FROM webhooks.delivery
       WHERE id > $1 AND id < $2 ORDER BY id LIMIT $4",
    &[
        pg_sys::UUIDOID,
        pg_sys::UUIDOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INT8OID,
    ],
);
static REMOVE_ATTEMPTS: Statement = Statement::new(
    c"DELETE FROM webhooks.attempt WHERE delivery_id = ANY ($1)",
    &[pg_sys::UUIDARRAYOID],
);
static OUTBOX_SIZE: Statement = Statement::new(
    c"SELECT pg_catalog.pg_relation_size('webhooks.outbox'::pg_catalog.regclass)
             / pg_catalog.current_setting('block_size')::int8,
             pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())",
    &[],
);
/// Which file the rows are in: another one after VACUUM FULL, CLUSTER and TRUNCATE.
static OUTBOX_FILE: Statement = Statement::new(
    c"SELECT pg_catalog.pg_relation_filenode('webhooks.outbox'::pg_catalog.regclass)",
    &[],
);
/// Old events in some blocks of the outbox, which has no index on ids.
static OUTBOX: Statement = Statement::new(
    c"SELECT id FROM webhooks.outbox
       WHERE ctid >= ('(' || $1 || ',0)')::tid AND ctid < ('(' || $2 || ',0)')::tid AND id < $3",
    &[pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::UUIDOID],
);
/// Events of one page of ids.
static EVENTS: Statement = Statement::new(
    c"SELECT ctid, id, xmin FROM webhooks.event WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3",
    &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::INT8OID],
);
/// Whether there are deliveries, waiting or logged, with ids between these two.
static ANY: Statement = Statement::new(
    c"SELECT EXISTS (SELECT FROM webhooks.delivery WHERE id BETWEEN $1 AND $2)
          OR EXISTS (SELECT FROM webhooks.queue WHERE id BETWEEN $1 AND $2)",
    &[pg_sys::UUIDOID, pg_sys::UUIDOID],
);
/// Those of these events that have deliveries, waiting or logged.
static NEEDED: Statement = Statement::new(
    c"SELECT u.id
        FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS u(id, low, high)
       WHERE EXISTS (SELECT FROM webhooks.delivery d WHERE d.id BETWEEN u.low AND u.high AND d.event_id = u.id)
          OR EXISTS (SELECT FROM webhooks.queue q WHERE q.id BETWEEN u.low AND u.high AND q.event_id = u.id)",
    &[
        pg_sys::UUIDARRAYOID,
        pg_sys::UUIDARRAYOID,
        pg_sys::UUIDARRAYOID,
    ],
);
/// Forgets deleted webhooks of which nothing is logged any more.
static FORGET_DELETED: Statement = Statement::new(
    c"DELETE FROM webhooks.deleted_webhook t
       WHERE t.id IN (SELECT g.id FROM webhooks.deleted_webhook g
                       WHERE g.deleted_at < $1
                         AND NOT EXISTS (SELECT FROM webhooks.delivery d WHERE d.webhook_id = g.id)
                         AND NOT EXISTS (SELECT FROM webhooks.queue q WHERE q.webhook_id = g.id)
                       LIMIT $2 FOR UPDATE SKIP LOCKED)",
    &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
);

/// One removal of what is old by then: if it went by the clock all the time, it would not end as long as there are events.
pub(super) struct Pass {
    /// What ended before then may go, Unix milliseconds.
    before_ms: i64,
    stage: Stage,
    deliveries: Cursor,
    events: Cursor,
    progress: Progress,
}

enum Stage {
    Deliveries,
    /// Notes which events wait to be dispatched.
    Outbox(Waiting),
    Events(Waiting),
}

/// Old events in the outbox.
struct Waiting {
    events: HashSet<Uuid>,
    /// The next block to look at, and how many there are.
    blocks: (i64, i64),
    /// The file that these blocks are of.
    file: Option<pg_sys::Oid>,
    /// Transactions below this one had ended when the look began: what they wrote into the outbox is among `events`.
    ended_below: u64,
}

/// A place in the order of ids.
#[derive(Clone, Copy, Default)]
struct Cursor {
    /// All rows up to this one have been looked at.
    after: Uuid,
    /// The first that had to stay and will be looked at again soon.
    stays: Option<Uuid>,
}

impl Cursor {
    /// Where the next pass is to begin.
    fn resume(self) -> Self {
        let before = |id: Uuid| Uuid::from_u128(id.as_u128().saturating_sub(1));
        Self {
            after: self.stays.map_or(self.after, before),
            stays: None,
        }
    }

    /// Notes a row that had to stay. `recent`: ids from here on are looked at again soon.
    fn stay(&mut self, id: Uuid, recent: Uuid) {
        if id >= recent {
            self.stays.get_or_insert(id);
        }
    }

    /// Goes behind a page; whether it was full.
    fn pass_by(&mut self, page: &Rows<'_>) -> bool {
        let last = page.len().checked_sub(1).and_then(|row| page.uuid(row, ID));
        self.after = last.unwrap_or(self.after);
        page.len() as i64 == STEP
    }
}

/// How far passes have come.
#[derive(Clone, Default)]
pub(super) struct Progress {
    deliveries: Cursor,
    events: Cursor,
    /// Rows removed since the last pass over everything.
    removed: u64,
    /// When that began, monotonic milliseconds.
    whole_ms: u64,
}

impl Pass {
    /// A pass that begins now.
    pub(super) fn new(before_ms: i64, mut progress: Progress, now_ms: u64) -> Self {
        if progress.removed < REMOVED_MOST || now_ms >= progress.whole_ms + WHOLE_MS {
            progress = Progress {
                whole_ms: now_ms,
                ..Progress::default()
            };
        }
        Self {
            before_ms,
            stage: Stage::Deliveries,
            deliveries: progress.deliveries.resume(),
            events: progress.events.resume(),
            progress,
        }
    }

    /// What the next pass goes on from.
    pub(super) fn into_progress(self) -> Progress {
        Progress {
            deliveries: self.deliveries,
            events: self.events,
            ..self.progress
        }
    }

    /// The lowest id that is younger than what may go by so much, in milliseconds.
    fn floor(&self, older_ms: u64) -> Uuid {
        let before_ms = u64::try_from(self.before_ms).unwrap_or(0);
        webhooks_core::id::floor_of(before_ms.saturating_sub(older_ms))
    }

    /// Does a step, in a transaction of the caller's with one snapshot; whether the pass goes on. Where one stage ends the
    /// next begins, so that a pass that finds nothing takes one step. `keep_events`: all of them stay, whatever needs them.
    pub(super) fn step(&mut self, spi: &Connection, keep_events: bool) -> bool {
        loop {
            match std::mem::replace(&mut self.stage, Stage::Deliveries) {
                Stage::Deliveries => {
                    if self.remove_deliveries(spi) {
                        return true;
                    }
                    self.stage = Stage::Outbox(Waiting::new(spi));
                }
                Stage::Outbox(_) | Stage::Events(_) if keep_events => return false,
                Stage::Outbox(mut waiting) => {
                    if waiting.look(spi, self.floor(0)) {
                        self.stage = Stage::Outbox(waiting);
                        return true;
                    }
                    if waiting.events.len() > WAITING_MOST {
                        return false;
                    }
                    self.stage = Stage::Events(waiting);
                }
                Stage::Events(waiting) => {
                    let goes_on = self.remove_events(spi, &waiting);
                    self.stage = Stage::Events(waiting);
                    if !goes_on {
                        spi.write(
                            &FORGET_DELETED,
                            &[sql::time(self.before_ms), sql::arg(STEP)],
                        );
                    }
                    return goes_on;
                }
            }
        }
    }

    /// Removes those of a page of deliveries that ended in time; whether there are more pages.
    fn remove_deliveries(&mut self, spi: &Connection) -> bool {
        let recent = self.floor(WHOLE_MS);
        let page = spi.read(
            &DELIVERIES,
            &[
                sql::uuid(self.deliveries.after),
                sql::uuid(self.floor(0)),
                sql::time(self.before_ms),
                sql::arg(STEP),
            ],
        );
        let mut table = open(c"delivery", 12);
        let mut with_attempts = Vec::new();
        for row in 0..page.len() {
            let Some((place, id)) = place(&page, row) else {
                continue;
            };
            let ended_in_time = page.get(row, 3) == Some(true);
            if !ended_in_time || !table.delete_at_if_free(place, 1, id) {
                self.deliveries.stay(id, recent);
                continue;
            }
            self.progress.removed += 1;
            if page.get(row, 4) == Some(true) {
                with_attempts.push(id);
            }
        }
        table.close();
        if !with_attempts.is_empty() {
            spi.write(&REMOVE_ATTEMPTS, &[sql::uuids(with_attempts)]);
        }
        self.deliveries.pass_by(&page)
    }

    /// Removes those of a page of events that no delivery and no row of the outbox needs; whether there are more pages.
    fn remove_events(&mut self, spi: &Connection, waiting: &Waiting) -> bool {
        let recent = self.floor(WHOLE_MS);
        let page = spi.read(
            &EVENTS,
            &[
                sql::uuid(self.events.after),
                sql::uuid(self.floor(0)),
                sql::arg(STEP),
            ],
        );
        let ids: Vec<Uuid> = (0..page.len())
            .filter_map(|row| page.uuid(row, ID))
            .collect();
        let needed = needed(&ids, |statement, args| spi.read(statement, args));
        // SAFETY: reads shared memory.
        let to_come = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
        let mut table = open(c"event", 8);
        let mut removed = Vec::with_capacity(ids.len());
        for row in 0..page.len() {
            let Some((place, id)) = place(&page, row) else {
                continue;
            };
            let writer = page.datum(row, 3).map(|(datum, _)| datum.value() as u32);
            let waits = waiting.needs(id, writer, to_come);
            if waits || needed.contains(&id) || !table.delete_at_if_free(place, 1, id) {
                self.events.stay(id, recent);
            } else {
                removed.push(id);
            }
        }
        table.close();
        // Whoever replays an event locks it first, and so has committed by now, or does not find it any more.
        if !self::needed(&removed, |statement, args| spi.read_latest(statement, args)).is_empty() {
            pgrx::error!("an event is needed again, and stays");
        }
        self.progress.removed += removed.len() as u64;
        self.events.pass_by(&page)
    }
}

impl Waiting {
    fn new(spi: &Connection) -> Self {
        let rows = spi.read(&OUTBOX_SIZE, &[]);
        Self {
            events: HashSet::new(),
            blocks: (0, rows.get(0, 1).unwrap_or(0)),
            file: file(spi),
            ended_below: rows.xid8(0, 2).unwrap_or(0),
        }
    }

    /// Looks at some blocks; whether more are left.
    fn look(&mut self, spi: &Connection, floor: Uuid) -> bool {
        let (from, end) = self.blocks;
        if from >= end || self.events.len() > WAITING_MOST {
            return false;
        }
        let until = from + BLOCKS;
        let rows = spi.read(
            &OUTBOX,
            &[sql::arg(from), sql::arg(until), sql::uuid(floor)],
        );
        self.events
            .extend((0..rows.len()).filter_map(|row| rows.uuid(row, 1)));
        // Reading has locked it until the transaction ends.
        if file(spi) != self.file {
            // Rows of these blocks may be among those that were looked at before.
            *self = Self::new(spi);
            return true;
        }
        self.blocks.0 = until;
        until < end
    }

    /// Whether an event may have a row in the outbox. `to_come`: the next transaction.
    fn needs(&self, event: Uuid, writer: Option<u32>, to_come: u64) -> bool {
        let ended = writer.is_some_and(|xid| latest_of(xid, to_come) < self.ended_below);
        !ended || self.events.contains(&event)
    }
}

fn file(spi: &Connection) -> Option<pg_sys::Oid> {
    spi.read(&OUTBOX_FILE, &[]).get(0, 1)
}

/// The column of the id in a page.
const ID: i32 = 2;

/// The place of a row, and its id: the first two columns of a page.
fn place(rows: &Rows<'_>, row: usize) -> Option<((u32, u16), Uuid)> {
    let place = rows.get::<pg_sys::ItemPointerData>(row, 1)?;
    Some((
        pgrx::itemptr::item_pointer_get_both(place),
        rows.uuid(row, ID)?,
    ))
}

fn open(name: &std::ffi::CStr, columns: usize) -> Table {
    match Table::open(name, columns) {
        Ok(table) => table,
        Err(error) => error.raise(),
    }
}

/// Those of these events, in order, that have deliveries, waiting or logged.
fn needed<'a>(
    events: &[Uuid],
    read: impl Fn(&'static Statement, &[sql::Arg]) -> Rows<'a>,
) -> HashSet<Uuid> {
    let bounds: Vec<(Uuid, Uuid)> = events.iter().copied().map(deliveries_of).collect();
    let (Some(first), Some(last)) = (bounds.first(), bounds.last()) else {
        return HashSet::new();
    };
    if read(&ANY, &[sql::uuid(first.0), sql::uuid(last.1)]).get(0, 1) != Some(true) {
        return HashSet::new();
    }
    let rows = read(
        &NEEDED,
        &[
            sql::uuids(events.iter().copied()),
            sql::uuids(bounds.iter().map(|it| it.0)),
            sql::uuids(bounds.iter().map(|it| it.1)),
        ],
    );
    (0..rows.len())
        .filter_map(|row| rows.uuid(row, 1))
        .collect()
}
