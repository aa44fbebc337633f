//! Webhooks from their rows into memory, and the news of changes.

use super::{POLL_MS, Worker};
use crate::definition::{self, Secrets};
use crate::seam::clock;
use crate::seam::sql::{self, Connection, Statement};
use crate::seam::transaction::{Isolation, RolledBack, transaction};
use crate::shmem::Slot;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::{PgLogLevel, PgSqlErrorCode};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use uuid::Uuid;
use webhooks_core::id::{self, Kind};
use webhooks_schedule::{Definition, Position};

static VERSIONS: Statement =
    Statement::new(c"SELECT w.id, w.ctid, w.xmin FROM webhooks.webhook w", &[]);
/// Those of these webhooks for which rows wait in the queue.
static WAITING: Statement = Statement::new(
    // LIMIT: the queue is asked about each, and never read as a whole.
    c"SELECT w.id FROM pg_catalog.unnest($1) AS w(id)
       CROSS JOIN LATERAL (SELECT FROM webhooks.queue q WHERE q.webhook_id = w.id LIMIT 1) q",
    &[pg_sys::UUIDARRAYOID],
);
static ORPHANS: Statement = Statement::new(
    c"SELECT DISTINCT q.webhook_id FROM webhooks.queue q
       WHERE NOT EXISTS (SELECT FROM webhooks.webhook w WHERE w.id = q.webhook_id)",
    &[],
);
/// Whether there is a webhook, or was one.
static EVER: Statement = Statement::new(
    c"SELECT EXISTS (SELECT FROM webhooks.webhook) OR EXISTS (SELECT FROM webhooks.deleted_webhook)",
    &[],
);
static RESTORED: Statement = Statement::new(c"SELECT restored_at FROM webhooks.worker_state", &[]);
static NOTE_RESTORED: Statement = Statement::new(
    c"UPDATE webhooks.worker_state SET restored_at = $1",
    &[pg_sys::TIMESTAMPTZOID],
);
/// A webhook that is older than this when it is seen first has come with a dump, or is taken for one that has: what
/// follows from that is only that everything is read again.
const NEW_MS: i64 = 200;
/// So long after the start of a worker, or after webhooks have come with a dump, more may come.
const RESTORING_MS: u64 = 3_600_000;

/// So long after the last row of a dump nobody decides yet for whom an event is.
const QUIET_MS: u64 = 1_000;
/// Time between two times that everything is read again for what a dump has brought, in milliseconds.
const FOLLOW_MS: u64 = 200;

/// Oid of `webhooks.webhook`, for the invalidation callback.
static TABLE: AtomicU32 = AtomicU32::new(0);
/// How often the table is to be looked at. Twice when it was invalidated: what the message tells of may have been committed
/// after the first look's snapshot was taken.
static LOOKS: AtomicU8 = AtomicU8::new(0);

/// Where the row of a webhook lay, and which transaction wrote it.
type Version = ((u32, u16), u32);

/// What memory holds of `webhooks.webhook`.
#[derive(Default)]
pub(super) struct Definitions {
    versions: HashMap<Uuid, Version>,
    /// The count of changes that has been looked at.
    seen: u64,
    /// There are none, and never were.
    pub(super) awaited: bool,
    /// Until then rows may come that belong to a dump, in any order.
    pub(super) restoring_until_ms: u64,
    /// When rows of a dump last came that were looked at, Unix milliseconds; 0: never.
    restored_ms: u64,
    /// When the first rows came of the restore that may be going on, Unix milliseconds.
    restore_began_ms: u64,
    /// What of that the database remembers.
    noted_ms: u64,
    /// The server was restarted since: whether webhooks have come is not known.
    webhooks_may_be_there: bool,
    /// When they were looked at, monotonic milliseconds.
    followed_ms: u64,
    /// Until then, monotonic milliseconds, more webhooks may come with a dump that brings each by itself; 0: there is no
    /// such time.
    quiet_until_ms: u64,
    /// Figures may have come with a dump, and memory is to follow the tables once its own are there too.
    to_merge: bool,
    /// They are.
    merged: bool,
    /// Webhooks whose rows cannot be read, and the reason that the log tells already.
    told: HashMap<Uuid, String>,
}

/// What a look at the table has found.
#[derive(Default)]
pub(super) struct Changes {
    loaded: Vec<(Definition, Version)>,
    gone: Vec<Uuid>,
    /// Some have come with a dump.
    restored: bool,
    /// Webhooks that have come with a dump, or were there at the start, and have rows in the queue.
    waiting: HashSet<Uuid>,
}

impl Changes {
    /// Whether some have come with a dump, and more may.
    pub(super) fn are_restored(&self) -> bool {
        self.restored
    }
}

impl Definitions {
    /// Everything is to be loaded again.
    pub(super) fn forget_versions(&mut self) {
        self.versions.clear();
        Self::look_again();
    }

    /// Tells the log once why a webhook sends nothing, and again when the reason has changed.
    fn tell(&mut self, definition: &Definition) {
        let Some(reason) = &definition.unreadable else {
            self.told.remove(&definition.id);
            return;
        };
        if self.told.get(&definition.id) == Some(reason) {
            return;
        }
        self.told.insert(definition.id, reason.clone());
        let id = id::format(Kind::Webhook, definition.id);
        ErrorReport::new(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            format!("{id} sends nothing: {reason}"),
            "webhooks",
        )
        .set_detail("Its deliveries wait.")
        .set_hint(format!(
            "Repair it with webhooks.update_webhook('{id}', …), a secret also with webhooks.rotate_secret('{id}')."
        ))
        .report(PgLogLevel::WARNING);
    }

    /// What the last look has found is lost.
    pub(super) fn look_again() {
        LOOKS.store(1, Ordering::Relaxed);
    }

    /// Whether a restore may be going on, so that what seems to be of no use may be needed by rows that are yet to come.
    /// In a transaction that sees a row of a dump it is known that there is one.
    pub(super) fn is_restoring(&self, slot: &Slot) -> bool {
        is_recent(self.restored_ms.max(slot.restored.load(Ordering::Acquire)))
    }

    /// Whether webhooks have come with the dump. One COPY brings them all.
    fn webhooks_have_come(&self, slot: &Slot) -> bool {
        self.webhooks_may_be_there || is_recent(slot.webhooks_restored.load(Ordering::Acquire))
    }

    /// Whether a row of the outbox is left where it is for now, since a dump has brought it and may bring webhooks yet that
    /// it is for. `some`: it is for a webhook that is there.
    ///
    /// A dump was made before it is restored, and its rows bear the numbers of other transactions than those that bring
    /// them. (So do rows of subtransactions, of which those are dispatched that are younger than the restore.)
    pub(super) fn leaves(&self, row: Uuid, brought: bool, some: bool, slot: &Slot) -> bool {
        if !brought || !self.is_restoring(slot) {
            return false;
        }
        let old = if is_recent(self.restored_ms) {
            row < id::floor_of(self.restore_began_ms.saturating_add(1))
        } else {
            true
        };
        old && !(some && self.webhooks_have_come(slot))
    }

    /// Whether that time has just ended.
    fn quiet_ends(&mut self, now_ms: u64) -> bool {
        let ends = self.quiet_until_ms != 0 && now_ms >= self.quiet_until_ms;
        if ends {
            self.quiet_until_ms = 0;
        }
        ends
    }

    /// Whether somebody has committed a change that was not looked at.
    pub(super) fn have_changed(&self, slot: &Slot) -> bool {
        slot.definitions.load(Ordering::Acquire) != self.seen
    }
}

/// Before when a webhook that is seen first must have been created to be taken for one that has come with a dump, Unix
/// milliseconds.
pub(super) fn old_before() -> i64 {
    clock::unix_ms() - NEW_MS
}

/// Whether a restore that brought rows then may be going on. Unix milliseconds.
fn is_recent(restored_ms: u64) -> bool {
    let now = u64::try_from(clock::unix_ms()).unwrap_or(0);
    now < restored_ms.saturating_add(RESTORING_MS)
}

/// Those of these webhooks that have rows in the queue.
fn waiting(spi: &Connection, webhooks: impl IntoIterator<Item = Uuid>) -> HashSet<Uuid> {
    let rows = spi.read(&WAITING, &[sql::uuids(webhooks)]);
    (0..rows.len())
        .filter_map(|row| rows.uuid(row, 1))
        .collect()
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn invalidated(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || relation.to_u32() == TABLE.load(Ordering::Relaxed) {
        LOOKS.store(2, Ordering::Relaxed);
    }
}

impl Worker {
    /// Loads all webhooks, at the start.
    pub(super) fn load_definitions(&mut self) -> Result<(), RolledBack> {
        // SAFETY: the callback has the type that is asked for and touches atomics only.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::from(0));
        }
        Definitions::look_again();
        let counted = self.slot.definitions.load(Ordering::Acquire);
        let restored_ms = self.slot.restored.load(Ordering::Acquire);
        let changes = transaction(c"loading webhooks", Isolation::RepeatableRead, || {
            let table = match crate::seam::owner::relation(c"webhook") {
                Ok(table) => table,
                Err(error) => error.raise(),
            };
            TABLE.store(table.to_u32(), Ordering::Relaxed);
            sql::connect(|spi| {
                let changes = self.changes(spi, i64::MAX);
                let awaited = self.are_awaited(spi, changes.as_ref());
                let noted = spi.read(&RESTORED, &[]).time(0, 1);
                self.definitions.restored_ms = u64::try_from(noted.unwrap_or(0)).unwrap_or(0);
                (changes, awaited)
            })
        })?;
        self.definitions.noted_ms = self.definitions.restored_ms;
        self.definitions.restored_ms = self.definitions.restored_ms.max(restored_ms);
        self.definitions.restore_began_ms = self.definitions.restored_ms;
        self.definitions.webhooks_may_be_there =
            restored_ms == 0 && is_recent(self.definitions.noted_ms);
        self.definitions.seen = counted;
        self.definitions.restoring_until_ms = clock::mono_ms() + RESTORING_MS;
        if let (Some(changes), awaited) = changes {
            self.apply(changes);
            self.definitions.awaited = awaited;
        }
        Ok(())
    }

    /// Whether webhooks may be yet to come with a dump, so that nobody may decide for whom an event is: rows of it came a
    /// moment ago, or what lies in the tables has come with it, since the database never had a webhook. (One COPY
    /// brings them all, but INSERTs one by one.)
    pub(super) fn are_awaited(&self, spi: &Connection, changes: Option<&Changes>) -> bool {
        if clock::mono_ms() < self.definitions.quiet_until_ms {
            return true;
        }
        let some = self.scheduler.webhooks().next().is_some();
        let gone = changes.is_some_and(|changes| !changes.gone.is_empty());
        (!some || gone) && spi.read(&EVER, &[]).get(0, 1) == Some(false)
    }

    /// Has webhooks read again that could not be read for the sake of a previous secret, which signs no more.
    pub(super) fn reread_after_overlap(&mut self) {
        let now_ms = clock::unix_ms();
        let over: Vec<Uuid> = self
            .scheduler
            .webhooks()
            .filter(|it| it.unreadable_until_ms.is_some_and(|until| until <= now_ms))
            .map(|it| it.id)
            .collect();
        for id in &over {
            self.definitions.versions.remove(id);
        }
        if !over.is_empty() {
            Definitions::look_again();
        }
    }

    /// Reads everything again if rows have come that a dump brought: they may be of anything, and anywhere.
    pub(super) fn follow_restore(&mut self) {
        let restored_ms = self.slot.restored.load(Ordering::Acquire);
        let now = clock::mono_ms();
        if restored_ms <= self.definitions.restored_ms {
            if self.definitions.quiet_ends(now) {
                self.read_all_again();
            } else if self.definitions.quiet_until_ms != 0 {
                self.look_at(self.definitions.quiet_until_ms);
            }
            return self.note_restore();
        }
        // A dump may bring each row by a transaction of its own.
        self.definitions.quiet_until_ms = now + QUIET_MS;
        let due_ms = self.definitions.followed_ms + FOLLOW_MS;
        if now < due_ms {
            self.look_at(due_ms);
            return;
        }
        self.definitions.followed_ms = now;
        if !is_recent(self.definitions.restored_ms) {
            self.definitions.restore_began_ms = restored_ms;
            self.definitions.webhooks_may_be_there = false;
        }
        self.definitions.restored_ms = restored_ms;
        self.definitions.restoring_until_ms = clock::mono_ms() + RESTORING_MS;
        self.definitions.to_merge = true;
        self.note_restore();
        if let Err(error) = self.load_set_aside() {
            self.rolled_back(super::UPKEEP, "rows set aside", &error);
        }
        self.definitions.forget_versions();
        self.read_all_again();
        self.reread_restored();
    }

    /// Writes down that a restore may be going on, and takes over the figures that it has brought: nothing else waits if
    /// somebody locks their rows.
    fn note_restore(&mut self) {
        let to_note = self.definitions.noted_ms < self.definitions.restored_ms;
        if !to_note && !self.definitions.to_merge {
            return;
        }
        let now = clock::mono_ms();
        let pause = self.pauses.left(super::STATISTICS, now);
        if pause > 0 {
            return self.look_at(now + pause);
        }
        if to_note {
            let restored_ms = self.definitions.restored_ms;
            let noted = transaction(c"restored", Isolation::ReadCommitted, || {
                sql::connect(|spi| {
                    let at = i64::try_from(restored_ms).unwrap_or(i64::MAX);
                    spi.write(&NOTE_RESTORED, &[sql::time(at)]).len()
                })
            });
            if let Err(error) = noted {
                return self.rolled_back(super::STATISTICS, "restored", &error);
            }
            self.definitions.noted_ms = restored_ms;
        }
        if self.definitions.to_merge {
            // Then the tables have all figures, and memory may take them from there.
            self.write_stats();
            if !self.scheduler.has_stats() {
                self.definitions.to_merge = false;
                self.definitions.merged = true;
                self.definitions.forget_versions();
            }
        }
    }

    /// Has the outbox looked at then, if nothing wakes the worker before.
    fn look_at(&mut self, at_ms: u64) {
        self.polled_ms = self.polled_ms.min(at_ms.saturating_sub(POLL_MS));
    }

    /// Has the outbox and the retries read from their beginning.
    pub(super) fn read_all_again(&mut self) {
        self.position = Position::new();
        self.durable_below = None;
        self.polled_ms = 0;
        self.scheduler.reread_due();
    }

    /// Has everything read that webhooks may have waiting which came with a dump: its rows come in any order.
    pub(super) fn reread_restored(&mut self) {
        let waiting = transaction(c"restored", Isolation::ReadCommitted, || {
            sql::connect(|spi| waiting(spi, self.scheduler.webhooks().map(|it| it.id)))
        });
        match waiting {
            Ok(waiting) => {
                for webhook in waiting {
                    self.scheduler.has_rows(webhook);
                }
            }
            Err(error) => self.rolled_back(super::UPKEEP, "restored", &error),
        }
    }

    /// Looks at the table if it may have changed, under the snapshot of the transaction, which must have
    /// been taken before: so that no event is matched with a list that is older than itself. What was not known and
    /// was created before `old_before`, Unix milliseconds, has come with a dump.
    pub(super) fn changes(&self, spi: &Connection, old_before: i64) -> Option<Changes> {
        // SAFETY: in a transaction, on the main thread.
        unsafe {
            pg_sys::AcceptInvalidationMessages();
        }
        let counted = self.slot.definitions.load(Ordering::Acquire);
        let looks = LOOKS.load(Ordering::Relaxed);
        LOOKS.store(looks.saturating_sub(1), Ordering::Relaxed);
        if looks == 0 && counted == self.definitions.seen {
            return None;
        }
        let mut changes = Changes::default();
        let rows = spi.read(&VERSIONS, &[]);
        let mut there: HashMap<Uuid, Version> = HashMap::with_capacity(rows.len());
        for row in 0..rows.len() {
            let (Some(id), Some(place)) = (
                rows.uuid(row, 1),
                rows.get::<pg_sys::ItemPointerData>(row, 2),
            ) else {
                continue;
            };
            let xmin = rows
                .datum(row, 3)
                .map_or(0, |(datum, _)| datum.value() as u32);
            there.insert(id, (pgrx::itemptr::item_pointer_get_both(place), xmin));
        }
        changes.gone = self
            .scheduler
            .webhooks()
            .map(|it| it.id)
            .filter(|id| !there.contains_key(id))
            .collect();
        let changed: Vec<Uuid> = there
            .iter()
            .filter(|(id, version)| self.definitions.versions.get(id) != Some(version))
            .map(|(&id, _)| id)
            .collect();
        let mut restored = Vec::new();
        for part in changed.chunks(1_000) {
            for it in definition::load(spi, part, Secrets::Shown, &self.settings) {
                let version = there.get(&it.id).copied().unwrap_or_default();
                let created_ms = it.lifetime.created.as_ref().map(|it| it.at_ms);
                if !self.scheduler.knows(it.id) && created_ms.is_some_and(|at| at < old_before) {
                    restored.push(it.id);
                }
                changes.loaded.push((it, version));
            }
        }
        changes.restored = !restored.is_empty();
        if changes.restored {
            changes.waiting = waiting(spi, restored);
        }
        Some(changes)
    }

    /// Takes changes into memory. `counted` is the count of changes from before the snapshot. Whether webhooks have
    /// come with a dump.
    pub(super) fn take_changes(&mut self, changes: Changes, counted: u64) -> bool {
        self.definitions.seen = counted;
        let restored = changes.restored;
        self.apply(changes);
        if restored {
            self.definitions.restoring_until_ms = clock::mono_ms() + RESTORING_MS;
        }
        restored
    }

    fn apply(&mut self, changes: Changes) {
        let merged = std::mem::take(&mut self.definitions.merged);
        for (mut definition, version) in changes.loaded {
            let id = definition.id;
            self.definitions.tell(&definition);
            let known = self.scheduler.index_of(id);
            let known = known.map(|index| self.scheduler.definition(index));
            match known {
                Some(known) if merged => definition.merge_pause(known),
                Some(known) => definition.keep_pause(known),
                None => {}
            }
            if let Some(known) = known.filter(|it| it.activation == definition.activation) {
                // The figures in memory are ahead of those in the table, but for what a dump has brought.
                if !merged {
                    definition.failing_since_ms = known.failing_since_ms;
                    definition.failed_since_success = known.failed_since_success;
                    definition.failing.clone_from(&known.failing);
                }
                // So is the knowledge of having switched it off.
                if !known.active && self.settling.disabled(id) {
                    definition.active = false;
                    definition.lifetime.paused = None;
                }
            }
            self.definitions.versions.insert(id, version);
            self.scheduler
                .put(definition, changes.waiting.contains(&id));
        }
        for id in changes.gone {
            self.definitions.versions.remove(&id);
            self.definitions.told.remove(&id);
            self.troubles.forget(id);
            self.scheduler.remove(id, clock::now());
            self.upkeep.cancel(id);
        }
    }

    /// Finds what waits for webhooks that were deleted while nobody looked.
    pub(super) fn find_orphans(&mut self) -> Result<(), RolledBack> {
        if self.definitions.awaited {
            return Ok(());
        }
        let orphans: HashSet<Uuid> = transaction(c"starting", Isolation::ReadCommitted, || {
            sql::connect(|spi| {
                let rows = spi.read(&ORPHANS, &[]);
                (0..rows.len())
                    .filter_map(|row| rows.uuid(row, 1))
                    .collect()
            })
        })?;
        for id in orphans {
            self.upkeep.cancel(id);
        }
        Ok(())
    }
}
