//! Starting threads that no signal can land on. Runs on whichever thread starts one: the worker's main thread, mostly.
//!
//! PostgreSQL's signal handlers, and pgrx's wrappers of them, may only run on the main thread. A new thread inherits the
//! signal mask of its creator, so every signal is blocked around the start and the creator's mask is put back after it.

use std::io;
use std::thread::{Builder, JoinHandle};

use nix::sys::signal::{SigSet, SigmaskHow};

/// Puts the creator's mask back, also when the start fails.
struct Restore(SigSet);

impl Drop for Restore {
    fn drop(&mut self) {
        // It was this thread's mask a moment ago, so it cannot be refused.
        let _ = self.0.thread_set_mask();
    }
}

/// Starts a thread with every signal blocked.
pub(crate) fn spawn(
    name: &'static str,
    stack: usize,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    let _restore = Restore(SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?);
    Builder::new()
        .name(name.to_owned())
        .stack_size(stack)
        .spawn(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;

    #[test]
    fn the_mask_of_the_creator_is_put_back() {
        let mut before = SigSet::empty();
        before.add(Signal::SIGUSR2);
        before.thread_set_mask().unwrap();
        let inside = spawn("test", 1 << 17, || {
            assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM));
        });
        inside.unwrap().join().unwrap();
        let after = SigSet::thread_get_mask().unwrap();
        assert!(after.contains(Signal::SIGUSR2));
        assert!(!after.contains(Signal::SIGTERM));
    }
}
