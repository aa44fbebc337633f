//! Emit: how changes become rows of `webhooks.event` and `webhooks.outbox`, in the transaction that makes
//! them. Runs in users' backends, as the user; only the insert into our tables is below the rights.

pub(crate) mod attach;
pub(crate) mod attached;
mod data;
mod kind;
pub(crate) mod nested;
mod plan;
mod present;
mod render;
mod sequence;
pub(crate) mod store;
pub(crate) mod subscribers;
mod trigger;
pub(crate) mod wake;

use crate::shmem;
use pgrx::pg_sys;
use std::sync::atomic::Ordering;

/// Counts rows that could not be rendered whole, for `webhooks.status`.
pub(crate) fn count_truncated(rows: u64) {
    if rows == 0 {
        return;
    }
    // SAFETY: a variable of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    if let Some(slot) = shmem::shared().and_then(|shared| shared.find_or_take(database)) {
        slot.truncated.fetch_add(rows, Ordering::Relaxed);
    }
}
