//! When API keys were last used, from shared memory into their rows.

use super::{UPKEEP, Worker};
use crate::seam::clock;
use crate::seam::sql::{self, Statement};
use crate::seam::transaction::{Isolation, transaction};
use crate::shmem;
use pgrx::pg_sys;

/// A key whose row somebody is changing is passed over: the worker does not wait for users.
static USED: Statement = Statement::new(
    c"WITH free AS (
          SELECT k.id FROM webhooks.api_key k WHERE k.id = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED)
      UPDATE webhooks.api_key k
         SET last_used_at = u.at
        FROM free f, ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS u(id, at)
       WHERE k.id = f.id AND u.id = f.id AND (k.last_used_at IS NULL OR k.last_used_at < u.at)",
    &[pg_sys::UUIDARRAYOID, pg_sys::TIMESTAMPTZARRAYOID],
);

impl Worker {
    /// Writes down what was noted since the last time, if anything was.
    pub(super) fn write_key_uses(&mut self) {
        // SAFETY: a variable of this process.
        let database = unsafe { pg_sys::MyDatabaseId };
        let Some(shared) = shmem::shared() else {
            return;
        };
        let uses: Vec<_> = shared.uses.drain(database).into_iter().collect();
        if uses.is_empty() {
            return;
        }
        let stamp = |at_ms: i64| {
            pgrx::datum::TimestampWithTimeZone::try_from(clock::timestamp_of(at_ms)).ok()
        };
        let written = transaction(c"key uses", Isolation::ReadCommitted, || {
            sql::connect(|spi| {
                spi.write(
                    &USED,
                    &[
                        sql::uuids(uses.iter().map(|it| it.0)),
                        sql::arg(uses.iter().map(|it| stamp(it.1)).collect::<Vec<_>>()),
                    ],
                );
            });
        });
        if let Err(error) = written {
            self.rolled_back(UPKEEP, "key uses", &error);
        }
    }
}
