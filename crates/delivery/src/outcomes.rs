//! The way back: delivery threads put outcomes in, the worker's main thread takes them out and sleeps on the descriptor
//! in between.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Mutex;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::job::Outcome;
use crate::sync::lock;

/// Outcomes that wait, and a descriptor that is readable as long as any do.
pub(crate) struct Outcomes {
    waiting: Mutex<Vec<Outcome>>,
    event: EventFd,
}

impl Outcomes {
    pub(crate) fn new() -> io::Result<Outcomes> {
        Ok(Outcomes {
            waiting: Mutex::default(),
            event: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        })
    }

    /// Both sides write and read the descriptor under the lock, so that it always tells the truth; and only when the list
    /// begins or ends, so that a burst of outcomes costs one write and one read.
    pub(crate) fn put(&self, outcome: Outcome) {
        let mut waiting = lock(&self.waiting);
        if waiting.is_empty() {
            // Cannot fail: the counter is 0, and the descriptor is open as long as `self` is.
            let _ = nix::unistd::write(self.event.as_fd(), &1_u64.to_ne_bytes());
        }
        waiting.push(outcome);
    }

    pub(crate) fn drain(&self, into: &mut Vec<Outcome>) {
        let mut waiting = lock(&self.waiting);
        if !waiting.is_empty() {
            // Resets the counter; it is 1.
            let _ = self.event.read();
            into.append(&mut waiting);
        }
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.event.as_fd().as_raw_fd()
    }
}
