//! Rows that a dump brings, while the worker and users go on. Main thread of whoever restores.
//!
//! pg_dump takes along what is configured, what waits, and figures. Each COPY of a restore commits alone, in any order,
//! with any time between two, and nothing says that it was the last one. So a row may come whose key is there already:
//! the worker has counted something, switched a webhook off, or set a row aside; a user has created a webhook.
//!
//! `restored` is the trigger function for both halves of that. Before a row goes into such a table, it merges the row
//! with the one that is there. After a statement, it tells the worker that there is more to read. It does nothing in
//! statements of our own, which know what they do.

use crate::emit::{subscribers, wake};
use crate::error::{Error, reply};
use crate::seam::owner::{self, as_owner};
use crate::seam::sql::{self, Statement};
use crate::seam::trigger;
use pgrx::pg_sys;
use std::ffi::CStr;

/// Figures of both are counted, and the longer pause holds. What the worker knows of failures here counts from the last success here.
static STATS: Statement = Statement::new(
    c"INSERT INTO webhooks.webhook_stats AS s VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
      ON CONFLICT (webhook_id) DO UPDATE
         SET total_attempts = s.total_attempts + excluded.total_attempts,
             successful_deliveries = s.successful_deliveries + excluded.successful_deliveries,
             failed_deliveries = s.failed_deliveries + excluded.failed_deliveries,
             last_delivery = greatest(s.last_delivery, excluded.last_delivery),
             (failing_since, failed_since_success, first_failed_at, failed_attempts, last_status, last_error) =
             (SELECT CASE WHEN goes_on THEN least(s.failing_since, excluded.failing_since) ELSE s.failing_since END,
                     CASE WHEN goes_on THEN s.failed_since_success + excluded.failed_since_success
                          ELSE s.failed_since_success END,
                     CASE WHEN goes_on THEN least(s.first_failed_at, excluded.first_failed_at) ELSE s.first_failed_at END,
                     CASE WHEN goes_on THEN s.failed_attempts + excluded.failed_attempts ELSE s.failed_attempts END,
                     CASE WHEN goes_on AND s.failed_attempts = 0 THEN excluded.last_status ELSE s.last_status END,
                     CASE WHEN goes_on AND s.failed_attempts = 0 THEN excluded.last_error ELSE s.last_error END
                FROM (SELECT s.last_delivery IS NULL AND s.activation = excluded.activation AS goes_on) g),
             (paused_until, paused_url) =
             (SELECT CASE WHEN longer THEN excluded.paused_until ELSE s.paused_until END,
                     CASE WHEN longer THEN excluded.paused_url ELSE s.paused_url END
                FROM (SELECT s.activation = excluded.activation
                             AND excluded.paused_until > coalesce(s.paused_until, '-infinity') AS longer) p)",
    &[
        pg_sys::UUIDOID,
        pg_sys::INT8OID,
        pg_sys::INT8OID,
        pg_sys::INT8OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INT4OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INT8OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INT8OID,
        pg_sys::INT4OID,
        pg_sys::TEXTOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TEXTOID,
    ],
);
/// The later activation holds.
static DISABLED: Statement = Statement::new(
    c"INSERT INTO webhooks.disabled AS d VALUES ($1, $2, $3, $4, $5)
      ON CONFLICT (webhook_id) DO UPDATE
         SET activation = excluded.activation, reason = excluded.reason, disabled_at = excluded.disabled_at,
             disabled_under = excluded.disabled_under
       WHERE d.activation < excluded.activation",
    &[
        pg_sys::UUIDOID,
        pg_sys::INT4OID,
        pg_sys::TEXTOID,
        pg_sys::TIMESTAMPTZOID,
        PG_SNAPSHOTOID,
    ],
);
static SET_ASIDE: Statement = Statement::new(
    c"INSERT INTO webhooks.set_aside VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING",
    &[
        pg_sys::UUIDOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TIMESTAMPTZOID,
    ],
);
static CREATION: Statement = Statement::new(
    c"INSERT INTO webhooks.creation AS c VALUES ($1, $2)
      ON CONFLICT (owner) DO UPDATE
         SET at = (SELECT pg_catalog.array_agg(DISTINCT a ORDER BY a) FROM pg_catalog.unnest(c.at || excluded.at) a)",
    &[pg_sys::TEXTOID, pg_sys::TIMESTAMPTZARRAYOID],
);
/// A type that somebody has registered meanwhile, or that comes with this version of the extension.
static EVENT_TYPE: Statement = Statement::new(
    c"INSERT INTO webhooks.event_type VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO NOTHING",
    &[
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::BOOLOID,
        pg_sys::TIMESTAMPTZOID,
    ],
);
/// `pg_snapshot`, whose oid is fixed in PostgreSQL's catalog, and which pgrx does not name.
const PG_SNAPSHOTOID: pg_sys::Oid = pg_sys::Oid::from_u32(5038);

/// The tables with rows whose key may be there, and how such a row is merged: a parameter for each column.
const MERGED: [(&CStr, &Statement); 5] = [
    (c"webhook_stats", &STATS),
    (c"disabled", &DISABLED),
    (c"set_aside", &SET_ASIDE),
    (c"creation", &CREATION),
    (c"event_type", &EVENT_TYPE),
];

/// The record by which Postgres knows how to call a C function.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn pg_finfo_restored() -> *const pg_sys::Pg_finfo_record {
    static V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &raw const V1
}

/// Fires before each row that is inserted into a dumped table, or after each statement that inserts some.
///
/// # Safety
/// To be called by Postgres.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn restored(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: fcinfo is Postgres's.
    let data = unsafe { trigger::data(fcinfo) };
    let row = pg_sys::Datum::from(data.tg_trigtuple);
    if sql::is_running() {
        return row;
    }
    if data.tg_event & pg_sys::TRIGGER_EVENT_ROW == 0 {
        subscribers::invalidate();
        wake::restored_at_commit();
        return pg_sys::Datum::from(0);
    }
    let owner = reply(owner::oid());
    // SAFETY: a syscache look-up in a transaction, and a variable of this process.
    let may = unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) };
    // Row security has not judged the row yet: it refuses whoever is not the owner.
    if !may {
        return row;
    }
    // SAFETY: the data are those of the trigger that is being fired, before a row is inserted.
    reply(unsafe { merge(data) });
    pg_sys::Datum::from(0)
}

/// Inserts the row, or merges it with the one that is there.
///
/// # Safety
/// The data must be those of a trigger on one of our tables that fires before a row is inserted.
unsafe fn merge(data: &pg_sys::TriggerData) -> Result<(), Error> {
    // SAFETY: the relation is open, its name NUL-terminated and its tuple descriptor that of the row.
    let (statement, values) = unsafe {
        let name = pg_sys::get_rel_name((*data.tg_relation).rd_id);
        let statement = MERGED
            .iter()
            .find(|(table, _)| !name.is_null() && *table == CStr::from_ptr(name))
            .map(|(_, statement)| *statement)
            .ok_or(Error::Mismatch)?;
        let columns = (*(*data.tg_relation).rd_att).natts;
        if usize::try_from(columns) != Ok(statement.parameters()) {
            return Err(Error::Mismatch);
        }
        let values: Vec<sql::Arg> = (1..=columns)
            .map(|column| {
                let mut is_null = true;
                let value = pg_sys::heap_getattr(
                    data.tg_trigtuple,
                    column,
                    (*data.tg_relation).rd_att,
                    &mut is_null,
                );
                (!is_null).then_some(value)
            })
            .collect();
        (statement, values)
    };
    as_owner(|| {
        sql::connect(|spi| spi.write(statement, &values).len());
        Ok(())
    })
}
