//! DROP DATABASE … WITH (FORCE): Postgres lets nobody but superusers end a background worker, so the worker leaves
//! by itself. Main thread of users' backends only.

use crate::emit::wake;
use crate::seam::{owner, wait};
use crate::shmem;
use pgrx::pg_sys;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

/// Longest time that the worker is waited for; Postgres itself gives others five seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has the worker of a database leave, if the user may drop it; until the end of this transaction none follows.
pub(super) fn have_worker_leave(database: pg_sys::Oid) {
    let Some(shared) = shmem::shared() else {
        return;
    };
    let Some(slot) = shared.find(database) else {
        return;
    };
    // SAFETY: in a transaction.
    let may = owner::of_database(database)
        .is_some_and(|owner| unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) });
    if database == pg_sys::InvalidOid || !may {
        return;
    }
    wake::dropping_until_end(database);
    slot.dropping.store(true, Ordering::Release);
    // Either the launcher sees this, or its word that a worker is starting is seen here; and so with a slot that is given
    // to another database.
    fence(Ordering::SeqCst);
    if slot.database.load(Ordering::Acquire) != database.to_u32() {
        slot.dropping.store(false, Ordering::Release);
        return;
    }
    slot.nudge();
    shared.wake_launcher();
    wait::until(PATIENCE, || slot.is_vacant());
}
