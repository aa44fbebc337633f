//! Waiting: for the latch and for outcomes together, for what another process does. Main thread only.

use pgrx::pg_sys;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// A kept wait set: the latch, a file descriptor, the death of the postmaster.
pub(crate) struct WaitSet(*mut pg_sys::WaitEventSet);

impl WaitSet {
    /// Makes the set; `fd` must stay open as long as the process.
    pub(crate) fn new(fd: RawFd) -> Self {
        // SAFETY: the set lives in TopMemoryContext, as long as the process; MyLatch does so too.
        unsafe {
            #[cfg(any(feature = "pg15", feature = "pg16"))]
            let set = pg_sys::CreateWaitEventSet(pg_sys::TopMemoryContext, 3);
            #[cfg(any(feature = "pg17", feature = "pg18"))]
            let set = pg_sys::CreateWaitEventSet(std::ptr::null_mut(), 3);
            let none = std::ptr::null_mut();
            pg_sys::AddWaitEventToSet(
                set,
                pg_sys::WL_LATCH_SET,
                pg_sys::PGINVALID_SOCKET,
                pg_sys::MyLatch,
                none,
            );
            pg_sys::AddWaitEventToSet(
                set,
                pg_sys::WL_EXIT_ON_PM_DEATH,
                pg_sys::PGINVALID_SOCKET,
                std::ptr::null_mut(),
                none,
            );
            pg_sys::AddWaitEventToSet(
                set,
                pg_sys::WL_SOCKET_READABLE,
                fd,
                std::ptr::null_mut(),
                none,
            );
            Self(set)
        }
    }

    /// Waits until one of them says something, at most so long; then resets the latch.
    pub(crate) fn wait(&self, timeout_ms: u64) {
        let mut events = [pg_sys::WaitEvent::default(); 3];
        // SAFETY: the set is valid and events has the length given.
        unsafe {
            pg_sys::WaitEventSetWait(
                self.0,
                timeout_ms.min(60_000) as std::ffi::c_long,
                events.as_mut_ptr(),
                3,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
    }
}

/// How often a backend looks whether what it waits for has happened.
const LOOK_MS: std::ffi::c_long = 5;

/// Waits until it is so; false: not in time. In a backend, which can be cancelled meanwhile.
pub(crate) fn until(patience: Duration, mut it_is_so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !it_is_so() {
        if begun.elapsed() > patience {
            return false;
        }
        // SAFETY: on the main thread of a backend, which has a latch.
        unsafe {
            pg_sys::WaitLatch(
                pg_sys::MyLatch,
                (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
                LOOK_MS,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
        }
        pgrx::check_for_interrupts!();
    }
    true
}
