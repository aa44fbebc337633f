//! Dispatch: new outbox rows become deliveries in memory.
//!
//! Rows are read in order. While many are left, the newest are looked at too: an event is taken ahead of the others if one
//! of its webhooks has nothing waiting, so that bulk for one webhook does not delay another. The rest stays where it is.
//!
//! One short transaction that only reads, under one snapshot: the position of the last read, the
//! webhooks if they have changed, the rows. Nothing is written; see `webhooks_schedule` for why.

use super::definitions::{self, Changes, Definitions};
use super::unreadable::{Suspect, suspects};
use super::{DISPATCH, LOOK_AHEAD_MS, POLL_MS, SETTLE_ROWS, SWEEP_MS, SWEEP_SHARE, UPKEEP, Worker};
use crate::emit::store::Command;
use crate::seam::clock;
use crate::seam::sql::{self, Connection, Statement};
use crate::seam::transaction::{Isolation, transaction};
use pgrx::pg_sys;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;
use webhooks_core::request::Event;
use webhooks_schedule::{Addressed, Hurried, OutboxKey, Position, Snapshot, Stretch};

/// Rows read at once, at most: their data are all in memory together.
const READ: usize = 256;
/// How many bytes of data are read at once: a page ends with the row that reaches this.
pub(super) const READ_BYTES: usize = 2 << 20;
/// Rows looked at ahead at once, at most: as many as are written between two looks. Few of them are taken.
const LOOK_AHEAD: usize = 2_048;
/// How many rows can be read in the time that a statement takes by itself.
const STATEMENT_ROWS: usize = 16;

static SNAPSHOT: Statement = Statement::new(c"SELECT pg_catalog.pg_current_snapshot()::text", &[]);
static READ_OUTBOX: Statement = Statement::new(
    c"SELECT o.ctid, o.xid, o.id, o.command, o.webhook_id,
             e.created_at, e.type, e.owner, e.target, e.about, e.data, e.subject, o.written_by,
             pg_catalog.octet_length(e.data), pg_catalog.octet_length(e.subject)
        FROM (SELECT o.ctid, o.xmin AS written_by, o.* FROM webhooks.outbox o
               WHERE (o.xid, o.id) > ($1, $2) AND o.xid <= $3 AND o.id <> ALL ($5)
               ORDER BY o.xid, o.id
               LIMIT $4) o
        LEFT JOIN webhooks.event e ON e.id = o.id
       ORDER BY o.xid, o.id",
    STRETCH,
);
/// The same rows, without what may be damaged.
static LOOK_INTO_OUTBOX: Statement = Statement::new(
    c"SELECT o.id, o.id FROM webhooks.outbox o
       WHERE (o.xid, o.id) > ($1, $2) AND o.xid <= $3 AND o.id <> ALL ($5)
       ORDER BY o.xid, o.id
       LIMIT $4",
    STRETCH,
);
/// A stretch of the outbox: after which row, up to which transaction, how many rows, which not.
const STRETCH: &[pg_sys::Oid] = &[
    pg_sys::XID8OID,
    pg_sys::UUIDOID,
    pg_sys::XID8OID,
    pg_sys::INT8OID,
    pg_sys::UUIDARRAYOID,
];

struct Found {
    key: OutboxKey,
    xid: u64,
    /// The transaction that wrote the row here; another than `xid` after a restore.
    written_by: u32,
    what: What,
}

impl Found {
    fn bytes(&self) -> usize {
        match &self.what {
            What::Event { event, .. } => event.data.len(),
            What::Told(..) | What::Nothing | What::Incomplete => 0,
        }
    }
}

enum What {
    /// A command about a webhook.
    Told(Command, Uuid),
    Nothing,
    /// Its event is not there: a restore may bring it yet.
    Incomplete,
    Event {
        event: Arc<Event>,
        owner: Option<String>,
        target: Option<Uuid>,
        about: Option<Uuid>,
        subject: Option<String>,
    },
}

struct Read {
    changes: Option<Changes>,
    /// No webhook is there yet: nothing was read.
    awaited: bool,
    /// The rows that were to be read next.
    found: Vec<Found>,
    /// Rows from behind those.
    ahead: Vec<Found>,
    /// Where reading stands now.
    position: Position,
    durable_below: Option<u64>,
}

/// A page that was asked for: from which stretch, and how many rows.
type Page = (Stretch, usize);

/// What a transaction is to read.
#[derive(Clone, Copy)]
struct Wish {
    /// Whether to look at the snapshot: what is newly visible.
    snapshot: bool,
    /// How many rows in order.
    rows: usize,
    /// How many rows ahead of them, if some are left.
    ahead: usize,
}

impl Worker {
    /// How many rows may be read at once, if they are as large as those before: at least one, at most so many.
    pub(super) fn affordable(&self, most: usize) -> usize {
        (READ_BYTES / self.row_bytes.max(1)).clamp(1, most)
    }

    /// Learns how large rows are.
    pub(super) fn learn_size(&mut self, bytes: usize, rows: usize) {
        if let Some(average) = bytes.checked_div(rows) {
            self.row_bytes = average;
        }
    }

    /// Reads the outbox if somebody woke the worker, if more was left, or if it has not looked for a while.
    pub(super) fn dispatch_if_due(&mut self) {
        let now = clock::mono_ms();
        if self.pauses.left(DISPATCH, now) > 0 {
            return;
        }
        let poll = now >= self.polled_ms + POLL_MS;
        let ahead = self.look_ahead_in(now) == Some(0);
        // A pause or a deletion is news that a full memory must hear too.
        if self.room() == 0 && !ahead && !self.definitions.have_changed(self.slot) {
            return;
        }
        if !poll && !self.position.has_more() && !self.slot.woken.load(Ordering::Acquire) {
            return;
        }
        // Whatever is committed from here on wakes again.
        self.slot.woken.store(false, Ordering::Release);
        if poll {
            self.polled_ms = now;
            self.reread_after_overlap();
        }
        self.follow_restore();
        if now >= self.sweep_ms && !self.position.has_more() {
            self.sweep_took_ms = Some(0);
            self.sweep_ms = now + SWEEP_MS;
            self.position.sweep();
            self.durable_below = None;
        }
        if now >= self.reread_ms + SWEEP_MS && !self.position.has_more() {
            self.reread_ms = now;
            self.scheduler.reread_due();
            if now < self.definitions.restoring_until_ms {
                self.reread_restored();
            }
            if let Err(error) = self.load_set_aside() {
                self.rolled_back(UPKEEP, "rows set aside", &error);
            }
        }
        let mut begun = false;
        loop {
            let counted = self.slot.definitions.load(Ordering::Acquire);
            let wish = Wish {
                snapshot: !begun,
                rows: self.rows_in_order(),
                ahead: self.rows_ahead(),
            };
            if begun && (wish.rows == 0 || !self.position.has_more()) {
                return;
            }
            let began = clock::mono_ms();
            let mut asked = Vec::new();
            let read = transaction(c"dispatch", Isolation::RepeatableRead, || {
                sql::connect(|spi| self.read(spi, wish, &mut asked))
            });
            match read {
                Ok(read) => {
                    self.take(read, counted);
                    if wish.ahead > 0 && self.position.has_more() {
                        self.looked_ahead_ms = clock::mono_ms();
                    }
                }
                Err(error) => {
                    self.slot.woken.store(true, Ordering::Release);
                    Definitions::look_again();
                    if self.set_aside_unreadable(DISPATCH, &error, |worker, spi| {
                        worker.look_into_outbox(spi, &asked)
                    }) {
                        continue;
                    }
                    // What is read in order does not wait for what is not.
                    self.looked_ahead_ms = clock::mono_ms() + POLL_MS;
                    self.rolled_back(DISPATCH, "dispatch", &error);
                    return;
                }
            }
            begun = true;
            let ended = clock::mono_ms();
            if let Some(took) = &mut self.sweep_took_ms {
                // While somebody's old snapshot keeps them, it visits all rows that there were.
                *took += ended.saturating_sub(began);
                self.sweep_ms = ended + SWEEP_MS.max(SWEEP_SHARE * *took);
                if !self.position.has_more() {
                    self.sweep_took_ms = None;
                }
            }
            // Requests go out, and outcomes come in, between two reads.
            self.claim();
            if self.position.has_more() {
                return;
            }
        }
    }

    /// How many rows may be read in order now.
    fn rows_in_order(&self) -> usize {
        let writable = (2 * SETTLE_ROWS / self.event_rows.max(1)).max(1);
        self.room().min(self.affordable(READ)).min(writable)
    }

    /// How many rows may be looked at ahead now. If there is no room for them, some is made.
    fn rows_ahead(&mut self) -> usize {
        let now = clock::now();
        let due = now.mono_ms >= self.looked_ahead_ms + LOOK_AHEAD_MS;
        if !due || !self.may_look_ahead() {
            return 0;
        }
        if self.scheduler.room_ahead() == 0 {
            self.scheduler.make_room(now);
        }
        if self.scheduler.room_ahead() == 0 {
            return 0;
        }
        self.affordable(LOOK_AHEAD)
    }

    /// Reads what is wished for, and notes the pages that it asks for.
    fn read(&self, spi: &Connection, wish: Wish, asked: &mut Vec<Page>) -> Read {
        let mut position = self.position.clone();
        let mut durable_below = self.durable_below;
        if wish.snapshot {
            let text: Option<String> = spi.read(&SNAPSHOT, &[]).get(0, 1);
            if let Some(snapshot) = text.as_deref().and_then(Snapshot::parse) {
                if durable_below.is_none() {
                    flush(written_to());
                    durable_below = Some(snapshot.xmin);
                }
                position.advance(snapshot);
            }
        }
        let changes = self.changes(spi, definitions::old_before());
        let awaited = self.are_awaited(spi, changes.as_ref())
            || changes.as_ref().is_some_and(Changes::are_restored);
        let (mut found, mut ahead) = (Vec::new(), Vec::new());
        if awaited {
            position.read_to(None);
        } else {
            if let Some(stretch) = position.next().filter(|_| wish.rows > 0) {
                let to;
                let bytes = &mut { READ_BYTES };
                (found, to) = self.read_stretch(spi, stretch, wish.rows, bytes, asked);
                position.read_to(to);
            }
            ahead = self.read_ahead(spi, &mut position, wish.ahead, asked);
            make_durable(&found, durable_below);
            make_durable(&ahead, durable_below);
        }
        Read {
            changes,
            awaited,
            found,
            ahead,
            position,
            durable_below,
        }
    }

    /// Rows that became visible after those that are still to be read in order, of the newest first.
    fn read_ahead(
        &self,
        spi: &Connection,
        position: &mut Position,
        rows: usize,
        asked: &mut Vec<Page>,
    ) -> Vec<Found> {
        let mut found = Vec::new();
        let (mut left, mut bytes) = (rows, READ_BYTES);
        while left > 0
            && bytes > 0
            && let Some(stretch) = position.next_ahead()
        {
            let (page, to) = self.read_stretch(spi, stretch, left, &mut bytes, asked);
            let key = |it: &Found| (it.xid, it.key.id);
            position.looked_to(to.and_then(|last| Some((key(page.first()?), last))));
            left = left.saturating_sub(page.len() + STATEMENT_ROWS);
            found.extend(page);
        }
        found
    }

    /// The rows of these pages.
    fn look_into_outbox(&self, spi: &Connection, pages: &[Page]) -> Vec<Suspect> {
        pages
            .iter()
            .flat_map(|&(stretch, rows)| {
                suspects(&spi.read(&LOOK_INTO_OUTBOX, &self.stretch(stretch, rows)))
            })
            .collect()
    }

    /// The parameters of a stretch.
    fn stretch(&self, stretch: Stretch, limit: usize) -> [sql::Arg; 5] {
        let xid = |xid: u64| Some(pg_sys::Datum::from(xid));
        [
            xid(stretch.after.0),
            sql::uuid(stretch.after.1),
            xid(stretch.until),
            sql::arg(limit as i64),
            self.set_aside.arg(),
        ]
    }

    /// Reads a page of a stretch: at most `limit` rows, until their data reach `bytes`, of which they are taken. Data that
    /// are compressed or out of line are measured without being read. The key is that of the last row, if more may follow.
    fn read_stretch(
        &self,
        spi: &Connection,
        stretch: Stretch,
        limit: usize,
        bytes: &mut usize,
        asked: &mut Vec<Page>,
    ) -> (Vec<Found>, Option<(u64, Uuid)>) {
        asked.push((stretch, limit));
        let rows = spi.read(&READ_OUTBOX, &self.stretch(stretch, limit));
        let mut found = Vec::with_capacity(rows.len());
        let mut full = rows.len() >= limit;
        for row in 0..rows.len() {
            if *bytes == 0 {
                full = true;
                break;
            }
            let size = |column| rows.get::<i32>(row, column).unwrap_or(0).unsigned_abs() as usize;
            *bytes = bytes.saturating_sub(size(14) + size(15));
            let (Some(place), Some(xid), Some(id)) = (
                rows.get::<pg_sys::ItemPointerData>(row, 1),
                rows.xid8(row, 2),
                rows.uuid(row, 3),
            ) else {
                continue;
            };
            let (block, offset) = pgrx::itemptr::item_pointer_get_both(place);
            let what = if let Some(command) = rows.get::<String>(row, 4) {
                let told = |webhook| What::Told(Command::read(&command), webhook);
                rows.uuid(row, 5).map_or(What::Nothing, told)
            } else {
                Self::read_event(&rows, row, id).unwrap_or(What::Incomplete)
            };
            found.push(Found {
                key: OutboxKey { id, block, offset },
                xid,
                written_by: rows
                    .datum(row, 13)
                    .map_or(0, |(datum, _)| datum.value() as u32),
                what,
            });
        }
        let last = found.last().map(|it: &Found| (it.xid, it.key.id));
        (found, last.filter(|_| full))
    }

    fn read_event(rows: &sql::Rows<'_>, row: usize, id: Uuid) -> Option<What> {
        let event = Event {
            id,
            created_ms: rows.time(row, 6)?,
            event_type: rows.get(row, 7)?,
            data: rows.get(row, 11)?,
        };
        Some(What::Event {
            event: Arc::new(event),
            owner: rows.get(row, 8),
            target: rows.uuid(row, 9),
            about: rows.uuid(row, 10),
            subject: rows.get(row, 12),
        })
    }

    fn take(&mut self, read: Read, counted: u64) {
        self.position = read.position;
        let restored = read
            .changes
            .is_some_and(|changes| self.take_changes(changes, counted));
        self.definitions.awaited = read.awaited;
        self.durable_below = read.durable_below;
        let next_xid = self.position.next_xid();
        if restored {
            // What came with them may be anywhere, and was passed over while they were awaited.
            self.read_all_again();
        }
        let bytes = read.found.iter().map(Found::bytes).sum::<usize>();
        self.learn_size(bytes, read.found.len());
        let (events, rows) = (read.found.len(), self.scheduler.unit_rows());
        for it in read.found {
            self.take_row(it, next_xid, false);
        }
        let rows = self.scheduler.unit_rows() - rows;
        self.event_rows = rows.checked_div(events).unwrap_or(self.event_rows);
        for it in read.ahead {
            self.take_row(it, next_xid, true);
        }
    }

    /// Takes in a row of the outbox. One from `ahead` of others stays where it is, to be read in its turn, if it is
    /// only for webhooks that have something waiting.
    fn take_row(&mut self, it: Found, next_xid: u64, ahead: bool) {
        if matches!(it.what, What::Incomplete) || self.scheduler.dispatched(it.key.id) {
            return;
        }
        let brought = it.written_by != it.xid as u32;
        let leaves = |worker: &Self, some| {
            let slot = worker.slot;
            worker.definitions.leaves(it.key.id, brought, some, slot)
        };
        let mut chosen = Vec::new();
        let event = match it.what {
            What::Told(command, webhook) => {
                match command {
                    _ if !self.scheduler.knows(webhook) && leaves(self, false) => return,
                    _ if !self.scheduler.knows(webhook) => {
                        // By a transaction that did not see the deletion.
                        self.upkeep.cancel(webhook);
                    }
                    Command::Queued => self.scheduler.requeued(webhook),
                    Command::Hurry(delivery) => {
                        let hurried = Hurried { delivery, webhook };
                        self.scheduler.hurry(it.key, hurried, clock::now());
                        return;
                    }
                }
                nothing(it.key.id)
            }
            What::Nothing | What::Incomplete => nothing(it.key.id),
            What::Event {
                event,
                owner,
                target,
                about,
                subject,
            } => {
                let addressed = Addressed {
                    event_type: &event.event_type,
                    owner: owner.as_deref(),
                    target,
                    about,
                    row: subject.as_deref().unwrap_or(&event.data),
                    xid: it.xid,
                    created_ms: event.created_ms,
                    next_xid,
                };
                self.scheduler.recipients(&addressed, &mut chosen);
                if leaves(self, !chosen.is_empty()) {
                    return;
                }
                let scheduler = &self.scheduler;
                let waits = |&index| !scheduler.waits_for_nothing(index, &event.event_type);
                if ahead && !chosen.is_empty() && chosen.iter().all(waits) {
                    return;
                }
                event
            }
        };
        self.scheduler.offer(it.key, &event, &chosen, clock::now());
    }
}

/// Stands for the event of an outbox row that brings none.
fn nothing(id: Uuid) -> Arc<Event> {
    Arc::new(Event {
        id,
        event_type: String::new(),
        created_ms: 0,
        data: String::new(),
    })
}

/// Makes sure that no crash can undo what these rows tell of: a writer with `synchronous_commit = off` is visible
/// before its WAL is flushed. Transactions below `durable_below` had ended when all WAL was flushed; later ones are
/// looked up in the commit log, which has not lost them yet.
fn make_durable(found: &[Found], durable_below: Option<u64>) {
    // SAFETY: reads shared memory.
    let next = unsafe { pg_sys::ReadNextFullTransactionId() }.value;
    let mut writers: Vec<u32> = found.iter().map(|it| it.written_by).collect();
    writers.dedup();
    let upto = writers
        .into_iter()
        .filter(|&xid| durable_below.is_none_or(|below| latest_of(xid, next) >= below))
        // SAFETY: in a transaction; so late a number has a page in the commit log.
        .map(|xid| unsafe { pg_sys::TransactionIdGetCommitLSN(pg_sys::TransactionId::from(xid)) })
        .max();
    flush(upto.unwrap_or(0));
}

/// The latest transaction before `next` whose number ends so. A row that was frozen long ago keeps the number, which has
/// another meaning by now, or none.
pub(super) fn latest_of(xid: u32, next: u64) -> u64 {
    next - u64::from((next as u32).wrapping_sub(xid))
}

/// Flushes WAL up to a position, if that has not been done.
fn flush(upto: pg_sys::XLogRecPtr) {
    // SAFETY: in a transaction, and the position is one that was written.
    unsafe {
        if upto > pg_sys::GetFlushRecPtr(std::ptr::null_mut()) {
            pg_sys::XLogFlush(upto);
        }
    }
}

/// Where the WAL that has been written ends. At the end of a page, Postgres's own function says where the next
/// record would begin, behind a page header that is not there yet and so cannot be flushed.
fn written_to() -> pg_sys::XLogRecPtr {
    const SHORT_HEADER: u64 = std::mem::size_of::<pg_sys::XLogPageHeaderData>() as u64;
    const LONG_HEADER: u64 = std::mem::size_of::<pg_sys::XLogLongPageHeaderData>() as u64;
    // SAFETY: shared memory and a variable of this process.
    let (next, segment) = unsafe {
        (
            pg_sys::GetXLogInsertRecPtr(),
            u64::try_from(pg_sys::wal_segment_size).unwrap_or(u64::MAX),
        )
    };
    if next % segment == LONG_HEADER {
        next - LONG_HEADER
    } else if next % u64::from(pg_sys::XLOG_BLCKSZ) == SHORT_HEADER {
        next - SHORT_HEADER
    } else {
        next
    }
}
