//! What happens when a transaction commits: the worker is woken, once, whatever the number of events.
//!
//! The callback runs after the transaction has become visible, and must not fail: it touches atomics and
//! latches only.

use crate::seam::clock;
use crate::shmem::{self, Shared, Slot};
use pgrx::pg_sys;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static REGISTERED: AtomicBool = AtomicBool::new(false);
static EVENTS: AtomicBool = AtomicBool::new(false);
static DEFINITIONS: AtomicBool = AtomicBool::new(false);
static RESTORED: AtomicBool = AtomicBool::new(false);
static WEBHOOKS_RESTORED: AtomicBool = AtomicBool::new(false);
static DROPPING: AtomicU32 = AtomicU32::new(0);
static ALTERED: AtomicBool = AtomicBool::new(false);

/// This transaction has something for the worker.
pub(crate) fn events_at_commit() {
    EVENTS.store(true, Ordering::Relaxed);
    register();
}

/// This transaction has changed webhooks.
pub(crate) fn definitions_at_commit() {
    DEFINITIONS.store(true, Ordering::Relaxed);
    register();
}

/// This transaction has inserted rows that no function of ours has: a dump is being restored.
pub(crate) fn restored_at_commit() {
    RESTORED.store(true, Ordering::Relaxed);
    definitions_at_commit();
}

/// Among those rows are webhooks.
pub(crate) fn webhooks_restored_at_commit() {
    WEBHOOKS_RESTORED.store(true, Ordering::Relaxed);
    restored_at_commit();
}

/// This transaction has changed a database, or the version of the extension in this one.
pub(crate) fn altered_at_commit() {
    ALTERED.store(true, Ordering::Relaxed);
    register();
}

/// The worker of this database is kept away until this transaction ends.
pub(crate) fn dropping_until_end(database: pg_sys::Oid) {
    DROPPING.store(database.to_u32(), Ordering::Relaxed);
    register();
}

/// The database was dropped, or is to be served again.
fn drop_is_over() {
    let database = DROPPING.swap(0, Ordering::Relaxed);
    if database != 0
        && let Some(shared) = shmem::shared()
        && let Some(slot) = shared.find(pg_sys::Oid::from(database))
    {
        slot.dropping.store(false, Ordering::Release);
        shared.wake_launcher();
    }
}

fn register() {
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the callback has the type that is asked for and lives as long as the process.
        unsafe { pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut()) }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PREPARE,
    };
    match event {
        // Nobody sees rows of a dump before it is known that there are any.
        XACT_EVENT_PRE_COMMIT => note_restored(),
        XACT_EVENT_COMMIT => {
            drop_is_over();
            if ALTERED.swap(false, Ordering::Relaxed)
                && let Some(shared) = shmem::shared()
            {
                shared.altered();
            }
            note_restored();
            RESTORED.store(false, Ordering::Relaxed);
            WEBHOOKS_RESTORED.store(false, Ordering::Relaxed);
            let definitions = DEFINITIONS.swap(false, Ordering::Relaxed);
            if (EVENTS.swap(false, Ordering::Relaxed) || definitions)
                && let Some(shared) = shmem::shared()
            {
                wake(shared, definitions);
            }
        }
        // A prepared transaction is committed by somebody who does not know us: the worker's poll finds it.
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
            EVENTS.store(false, Ordering::Relaxed);
            DEFINITIONS.store(false, Ordering::Relaxed);
            RESTORED.store(false, Ordering::Relaxed);
            WEBHOOKS_RESTORED.store(false, Ordering::Relaxed);
            ALTERED.store(false, Ordering::Relaxed);
            drop_is_over();
        }
        _ => {}
    }
}

/// Notes that rows of a dump are there, if this transaction has brought some.
fn note_restored() {
    if !RESTORED.load(Ordering::Relaxed) {
        return;
    }
    let Some(slot) = own_slot() else {
        return;
    };
    let now = u64::try_from(clock::unix_ms()).unwrap_or(0);
    if WEBHOOKS_RESTORED.load(Ordering::Relaxed) {
        slot.webhooks_restored.store(now, Ordering::Release);
    }
    let later = |before: u64| Some(now.max(before + 1));
    // Cannot fail: there is always a later one.
    let _ = slot
        .restored
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
}

/// The slot of this database, taken now if it has none.
fn own_slot() -> Option<&'static Slot> {
    // SAFETY: a variable of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    shmem::shared()?.find_or_take(database)
}

/// Wakes the worker of this database, or has it started.
pub(crate) fn wake(shared: &Shared, definitions: bool) {
    let Some(slot) = own_slot() else {
        return;
    };
    if definitions {
        slot.definitions.fetch_add(1, Ordering::AcqRel);
    }
    if slot.pid.load(Ordering::Acquire) == 0 && !slot.stopped.load(Ordering::Acquire) {
        slot.wanted.store(true, Ordering::Release);
        slot.woken.store(true, Ordering::Release);
        shared.wake_launcher();
    } else {
        slot.wake();
    }
}
