//! What happens when a transaction commits: the worker is woken, once, whatever the number of events.
//!
//! The callback runs after the transaction has become visible, and must not fail: it touches atomics and
//! latches only.

use crate::shmem::{self, Shared};
use pgrx::pg_sys;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static REGISTERED: AtomicBool = AtomicBool::new(false);
static EVENTS: AtomicBool = AtomicBool::new(false);
static DEFINITIONS: AtomicBool = AtomicBool::new(false);
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
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    match event {
        XACT_EVENT_COMMIT => {
            drop_is_over();
            if ALTERED.swap(false, Ordering::Relaxed)
                && let Some(shared) = shmem::shared()
            {
                shared.altered();
            }
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
            ALTERED.store(false, Ordering::Relaxed);
            drop_is_over();
        }
        _ => {}
    }
}

/// Wakes the worker of this database, or has it started.
pub(crate) fn wake(shared: &Shared, definitions: bool) {
    // SAFETY: a variable of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    let Some(slot) = shared.find_or_take(database) else {
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
