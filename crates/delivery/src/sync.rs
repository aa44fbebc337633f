//! Locks without poison, for all threads of the crate.
//!
//! A panic is caught at the top of each thread and becomes an outcome; what the locks guard is whole between statements,
//! so the next thread may go on with it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whether or not somebody panicked while holding it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
