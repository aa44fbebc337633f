//! Transactions of the background workers. Main thread only.

use pgrx::PgTryBuilder;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

/// Which snapshot the statements of a transaction see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Isolation {
    /// Each statement its own.
    ReadCommitted,
    /// All the same one.
    RepeatableRead,
}

/// Why a transaction was rolled back.
#[derive(Debug)]
pub(crate) struct RolledBack {
    pub(crate) message: String,
    pub(crate) code: pgrx::prelude::PgSqlErrorCode,
}

/// Runs `work` in a transaction of its own and commits it; an ERROR or a panic rolls it back and is
/// returned. `activity` is what `pg_stat_activity` shows meanwhile.
pub(crate) fn transaction<R>(
    activity: &CStr,
    isolation: Isolation,
    work: impl FnOnce() -> R,
) -> Result<R, RolledBack> {
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: called by a background worker that is connected and outside of a transaction.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, activity.as_ptr());
            pg_sys::StartTransactionCommand();
            if isolation == Isolation::RepeatableRead {
                pg_sys::XactIsoLevel = pg_sys::XACT_REPEATABLE_READ as i32;
            }
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let value = work();
        // SAFETY: matches what was begun above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(value)
    }))
    .catch_others(|error| Err(describe(error)))
    .catch_rust_panic(|error| Err(describe(error)))
    .execute();
    // SAFETY: an error left the transaction open; AbortCurrentTransaction ends it whatever its state, and
    // leaves the process where the next one may begin.
    unsafe {
        if result.is_err() {
            pg_sys::AbortCurrentTransaction();
        }
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::pgstat_report_stat(false);
        pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
    }
    result
}

/// What an ERROR or a panic says of itself.
pub(super) fn describe(error: CaughtError) -> RolledBack {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic {
        ereport: report, ..
    }) = error;
    RolledBack {
        message: report.message().to_owned(),
        code: report.sql_error_code(),
    }
}
