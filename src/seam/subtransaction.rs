//! Work that is undone when it fails, while the transaction goes on. Main thread only.

use super::transaction::{RolledBack, describe};
use pgrx::prelude::*;
use pgrx::{PgTryBuilder, pg_sys};
use std::panic::AssertUnwindSafe;

/// Why work was undone.
pub(crate) enum Undone<E> {
    /// It said so itself.
    Own(E),
    /// An ERROR, or a panic.
    Raised(RolledBack),
}

/// Runs `work` in a subtransaction. If it fails, whatever it did is rolled back. A cancel is not caught: it
/// ends the transaction, as it does everywhere.
pub(crate) fn subtransaction<R, E>(work: impl FnOnce() -> Result<R, E>) -> Result<R, Undone<E>> {
    // SAFETY: variables of this process; in a transaction, where a subtransaction may begin. PL/pgSQL, too,
    // goes on in the memory context that was current before.
    let (context, owner) = unsafe {
        let before = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(before.0);
        before
    };
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        let value = work().map_err(Undone::Own)?;
        // SAFETY: the subtransaction that was begun above is the innermost one: what `work` began has ended.
        unsafe { pg_sys::ReleaseCurrentSubTransaction() };
        Ok(value)
    }))
    .catch_when(PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |error| {
        error.rethrow()
    })
    .catch_others(|error| Err(Undone::Raised(describe(error))))
    .catch_rust_panic(|error| Err(Undone::Raised(describe(error))))
    .execute();
    // SAFETY: after a failure the subtransaction is still there, whatever its state; its end leaves context
    // and owner to be set as they were, as PL/pgSQL does.
    unsafe {
        if result.is_err() {
            pg_sys::MemoryContextSwitchTo(context);
            pg_sys::RollbackAndReleaseCurrentSubTransaction();
        }
        pg_sys::MemoryContextSwitchTo(context);
        pg_sys::CurrentResourceOwner = owner;
    }
    result
}
