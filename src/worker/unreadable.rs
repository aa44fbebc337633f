//! Rows that are set aside: passed over, and shown in `webhooks.set_aside` until somebody has looked. Main thread only.
//!
//! A read brings many rows at once and fails as a whole, so that one damaged event would keep all others from being
//! sent. When a read fails, its rows are looked at one by one, and those that cannot be read are set aside.
//!
//! Which rows those are is kept in memory and read again now and then: the reads of every moment need no table for it.

use super::{DELIVERY, Worker, is_transient, journal};
use crate::seam::sql::{self, Arg, Connection, Statement};
use crate::seam::transaction::{Isolation, RolledBack, transaction};
use pgrx::pg_sys;
use std::collections::HashSet;
use uuid::Uuid;
use webhooks_schedule::Quarantine;

static KNOWN: Statement = Statement::new(c"SELECT s.id FROM webhooks.set_aside s", &[]);
static SET_ASIDE: Statement = Statement::new(
    c"INSERT INTO webhooks.set_aside (id, stage, error) SELECT id, $2, $3 FROM pg_catalog.unnest($1) AS u(id)
      ON CONFLICT (id) DO NOTHING",
    &[
        pg_sys::UUIDARRAYOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
    ],
);
/// What is read of an event, all of it.
static EVENT: Statement = Statement::new(
    c"SELECT e.type, e.owner, e.data, e.subject FROM webhooks.event e WHERE e.id = $1",
    &[pg_sys::UUIDOID],
);
const TEXTS: std::ops::RangeInclusive<i32> = 1..=4;

/// A row of the outbox or the queue, and the event it needs.
pub(super) struct Suspect {
    pub(super) row: Uuid,
    pub(super) event: Uuid,
}

/// What a read left out: rows that are set aside.
#[derive(Default)]
pub(super) struct SetAside(HashSet<Uuid>);

impl SetAside {
    /// As an array, for a statement to leave them out.
    pub(super) fn arg(&self) -> Arg {
        sql::uuids(self.0.iter().copied())
    }
}

/// Rows of a statement whose first two columns are the row and its event.
pub(super) fn suspects(rows: &sql::Rows<'_>) -> Vec<Suspect> {
    (0..rows.len())
        .filter_map(|row| {
            Some(Suspect {
                row: rows.uuid(row, 1)?,
                event: rows.uuid(row, 2)?,
            })
        })
        .collect()
}

/// Has rows passed over by whoever reads the table, in a transaction of the caller's.
pub(super) fn set_aside(spi: &Connection, ids: &[Uuid], stage: &'static str, error: &str) {
    let ids = sql::uuids(ids.iter().copied());
    let (stage, error) = (sql::arg(stage.to_owned()), sql::arg(error.to_owned()));
    spi.write(&SET_ASIDE, &[ids, stage, error]);
}

impl Worker {
    /// Reads which rows are set aside.
    pub(super) fn load_set_aside(&mut self) -> Result<(), RolledBack> {
        let known = transaction(c"rows set aside", Isolation::ReadCommitted, || {
            sql::connect(|spi| {
                let rows = spi.read(&KNOWN, &[]);
                (0..rows.len())
                    .filter_map(|row| rows.uuid(row, 1))
                    .collect()
            })
        })?;
        self.set_aside = SetAside(known);
        Ok(())
    }

    /// Sets rows aside.
    pub(super) fn set_rows_aside(
        &mut self,
        stage: &'static str,
        ids: &[Uuid],
        error: &RolledBack,
    ) -> Result<(), RolledBack> {
        journal::set_aside(stage, ids.len(), &error.message);
        transaction(c"setting rows aside", Isolation::ReadCommitted, || {
            sql::connect(|spi| set_aside(spi, ids, stage, &error.message));
        })?;
        self.set_aside.0.extend(ids);
        self.settling
            .note_error(format!("{stage}: {}", error.message));
        Ok(())
    }

    /// A delivery at which the worker has failed again and again is passed over from now on: that is written.
    pub(super) fn pass_over(&mut self, quarantine: &Quarantine) {
        self.set_aside.0.insert(quarantine.delivery);
        journal::set_aside(DELIVERY, 1, &quarantine.error);
        self.settling
            .note_error(format!("{DELIVERY}: {}", quarantine.error));
    }

    /// A read failed: sets those of its rows aside that cannot be read; whether there were any, and the read may be
    /// tried again.
    pub(super) fn set_aside_unreadable(
        &mut self,
        stage: &'static str,
        failed: &RolledBack,
        find: impl FnOnce(&Self, &Connection) -> Vec<Suspect>,
    ) -> bool {
        if is_transient(failed.code) {
            return false;
        }
        let found = transaction(c"looking for damage", Isolation::ReadCommitted, || {
            sql::connect(|spi| find(self, spi))
        });
        let mut any = false;
        for suspect in found.unwrap_or_default() {
            let read = transaction(c"looking for damage", Isolation::ReadCommitted, || {
                sql::connect(|spi| {
                    let rows = spi.read(&EVENT, &[sql::uuid(suspect.event)]);
                    TEXTS
                        .filter_map(|column| rows.get::<String>(0, column))
                        .count()
                })
            });
            if let Err(error) = read
                && !is_transient(error.code)
                && self.set_rows_aside(stage, &[suspect.row], &error).is_ok()
            {
                any = true;
            }
        }
        any
    }
}
