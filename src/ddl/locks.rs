//! What an extension's tables need before it is dropped or updated: locks, in an order that no writer comes to grief by.
//! Main thread of users' backends only.
//!
//! DROP EXTENSION locks our tables first and the attached ones last, a writer the other way round: left alone, they
//! would wait for each other until one fails, and that may be the writer. So what a writer locks first is locked
//! first here too, with a time limit below `deadlock_timeout`: whoever fails is the one that drops or alters, and no
//! writer stands behind it for long.

use crate::error::Error;
use crate::seam::owner::{self, as_owner, set_local};
use crate::seam::sql::{self, Statement};
use crate::seam::wait;
use pgrx::pg_sys;
use std::ffi::CString;
use std::time::{Duration, Instant};

/// Longest time that locks are waited for.
const PATIENCE_MOST: Duration = Duration::from_secs(1);

static ATTACHED: Statement = Statement::new(
    c"SELECT DISTINCT t.tgrelid
        FROM pg_catalog.pg_trigger t
        JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
       WHERE p.proname = 'emit_changes' AND p.pronamespace = 'webhooks'::pg_catalog.regnamespace
       ORDER BY t.tgrelid",
    &[],
);
static OURS: Statement = Statement::new(
    c"SELECT c.oid FROM pg_catalog.pg_class c
       WHERE c.relnamespace = 'webhooks'::pg_catalog.regnamespace AND c.relkind IN ('r', 'v')
       ORDER BY c.oid",
    &[],
);

/// Locks the attached tables in this mode, and then ours, all or none. Until the level that is returned is ended,
/// no other lock is waited for longer either. `None`: there is nothing to lock, or Postgres will refuse the user.
pub(super) fn lock(mode: u32) -> Option<i32> {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: look-ups in a transaction.
    let may = unsafe {
        !pg_sys::XactReadOnly
            && pg_sys::get_extension_oid(c"webhooks".as_ptr(), MISSING_IS_FINE)
                != pg_sys::InvalidOid
            && owner::oid().is_ok_and(|owner| pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner))
    };
    if !may {
        return None;
    }
    let found = as_owner(|| {
        Ok(sql::connect(|spi| {
            [&ATTACHED, &OURS].map(|statement| {
                let rows = spi.write(statement, &[]);
                (0..rows.len())
                    .filter_map(|row| rows.get::<pg_sys::Oid>(row, 1))
                    .collect::<Vec<_>>()
            })
        }))
    });
    let [attached, ours] = match found {
        Ok(found) => found,
        Err(error) => error.raise(),
    };
    let patience = patience();
    let deadline = Instant::now() + patience;
    // SAFETY: ended by the caller, or by an ERROR with the transaction. Locks last until its end; a table that is
    // gone by now does no harm.
    unsafe {
        let level = pg_sys::NewGUCNestLevel();
        lock_in_any_order(attached, mode as i32, deadline);
        let mut all = || lock_free(&ours, pg_sys::AccessExclusiveLock as i32) == ours.len();
        if !wait::until(deadline.saturating_duration_since(Instant::now()), &mut all) {
            Error::Busy.raise();
        }
        wait_at_most(patience);
        Some(level)
    }
}

/// Below `deadlock_timeout`, and not longer than the user wants.
fn patience() -> Duration {
    let ms = |value: i32| Duration::from_millis(u64::try_from(value).unwrap_or(0));
    // SAFETY: variables of this process.
    let (deadlock, wanted) = unsafe { (ms(pg_sys::DeadlockTimeout), ms(pg_sys::LockTimeout)) };
    let patience = PATIENCE_MOST.min(deadlock / 2);
    if wanted.is_zero() {
        patience
    } else {
        patience.min(wanted)
    }
}

/// Sets `lock_timeout` until the current GUC nest level ends.
fn wait_at_most(time: Duration) {
    // 0 would mean for ever.
    let text = format!("{}ms", time.as_millis().max(1));
    set_local(c"lock_timeout", &CString::new(text).unwrap_or_default());
}

/// Locks all of them. Writers lock them in orders of their own: so only one is waited for at a time, with no other one
/// locked meanwhile.
///
/// # Safety
/// In a transaction, and in a GUC nest level.
unsafe fn lock_in_any_order(mut tables: Vec<pg_sys::Oid>, mode: i32, deadline: Instant) {
    while let Some((&first, others)) = tables.split_first() {
        wait_at_most(deadline.saturating_duration_since(Instant::now()));
        // SAFETY: as the caller says; what is unlocked was locked here.
        unsafe {
            pg_sys::LockRelationOid(first, mode);
            let free = lock_free(others, mode);
            if free == others.len() {
                return;
            }
            pg_sys::UnlockRelationOid(first, mode);
            tables.swap(0, free + 1);
        }
        pgrx::check_for_interrupts!();
    }
}

/// Locks all of them, or none; how many were free, in order, before one that was not.
///
/// # Safety
/// In a transaction.
unsafe fn lock_free(tables: &[pg_sys::Oid], mode: i32) -> usize {
    // SAFETY: as the caller says; what is unlocked was locked here.
    unsafe {
        let free = tables
            .iter()
            .take_while(|&&table| pg_sys::ConditionalLockRelationOid(table, mode))
            .count();
        if free < tables.len() {
            for &table in &tables[..free] {
                pg_sys::UnlockRelationOid(table, mode);
            }
        }
        free
    }
}
