//! The pool: what the worker's main thread holds, and the life of a delivery thread.
//!
//! Everything in [`Pool`] is called on the main thread and never waits for a delivery thread, a name, or a peer.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use crate::attempt::{Attempted, Job, Outcome, attempt, unix_ms};
use crate::client::{Client, Common, Network};
use crate::failure::Failure;
use crate::outcomes::Outcomes;
use crate::resolver::{Lookup, Names, SystemLookup};
use crate::sync::lock;
use crate::threads;
use crate::tls::StartError;

/// How much the pool may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most threads, and so the most requests at once.
    pub threads: usize,
    /// How many bytes of an answer's body are read.
    pub body_read: u64,
    /// How many of them are kept.
    pub excerpt: usize,
    /// How long a thread waits for work before it ends.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            threads: 64,
            body_read: 64 * 1024,
            excerpt: 1024,
            idle: Duration::from_secs(30),
        }
    }
}

/// Measured: a TLS handshake and a request need under 64 KiB in release builds, 96 to 128 KiB in debug builds. Much more than
/// that, since too little would be a SIGSEGV, which restarts the whole cluster; what is not touched costs no memory.
const STACK: usize = 512 * 1024;
/// How many connections are kept for each thread: a thread serves many hosts in the time that connections wait. With one for
/// each, 64 hosts and 32 threads cost twice the CPU time.
const KEPT_PER_THREAD: usize = 4;
/// And how many in all: each takes a file descriptor, of which a process often has 1024.
const MOST_KEPT: usize = 256;
/// Threads that send requests.
///
/// Dropping it is [`Pool::shutdown`].
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    staff: Mutex<Staff>,
    setup: Mutex<Setup>,
    common: Common,
    outcomes: Outcomes,
    in_flight: AtomicUsize,
}

/// Jobs and the threads for them.
#[derive(Default)]
struct Staff {
    queue: VecDeque<Job>,
    /// Parked threads. The last to come is the first to go back to work: its memory is warm, and those at the bottom end.
    idle: Vec<Thread>,
    threads: usize,
    stopping: bool,
}

struct Setup {
    network: Network,
    client: Arc<Client>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("threads", &self.threads())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool without threads; they start when jobs need them.
    ///
    /// # Errors
    /// When `ca_file` cannot be loaded, or no descriptor is to be had.
    pub fn start(limits: Limits, network: Network) -> Result<Pool, StartError> {
        Pool::start_with(limits, network, Arc::new(SystemLookup))
    }

    /// The same with another way to look names up.
    ///
    /// # Errors
    /// As [`Pool::start`].
    pub fn start_with(
        limits: Limits,
        network: Network,
        lookup: Arc<dyn Lookup>,
    ) -> Result<Pool, StartError> {
        let common = Common {
            names: Names::new(lookup),
            sockets: Arc::default(),
            roots: Arc::default(),
            most_kept: limits
                .threads
                .saturating_mul(KEPT_PER_THREAD)
                .min(MOST_KEPT),
        };
        let client = Arc::new(Client::new(&common, &network)?);
        Ok(Pool {
            shared: Arc::new(Shared {
                limits,
                staff: Mutex::default(),
                setup: Mutex::new(Setup { network, client }),
                common,
                outcomes: Outcomes::new()?,
                in_flight: AtomicUsize::new(0),
            }),
        })
    }

    /// Hands a job over. Its outcome comes back through [`Pool::drain`], exactly once; after a shutdown, not at all.
    ///
    /// With as many jobs under way as there may be threads, it waits in memory: how many that are is up to the caller.
    pub fn submit(&self, job: Job) {
        let mut staff = lock(&self.shared.staff);
        if staff.stopping {
            return;
        }
        self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
        staff.queue.push_back(job);
        let idle = staff.idle.pop();
        if idle.is_none() && staff.threads < self.shared.limits.threads.max(1) {
            let shared = Arc::clone(&self.shared);
            match threads::spawn("webhooks-send", STACK, move || shared.work()) {
                Ok(_) => staff.threads += 1,
                // Those that run come to it.
                Err(_) if staff.threads > 0 => {}
                Err(_) => {
                    let job = staff.queue.pop_back();
                    drop(staff);
                    if let Some(job) = job {
                        self.shared.give_up(&job, Failure::NoThread);
                    }
                    return;
                }
            }
        }
        drop(staff);
        if let Some(thread) = idle {
            thread.unpark();
        }
    }

    /// Appends the outcomes that wait.
    pub fn drain(&self, into: &mut Vec<Outcome>) {
        self.shared.outcomes.drain(into);
    }

    /// A descriptor that is readable from the first outcome on until all are drained. It belongs to the pool.
    pub fn fd(&self) -> RawFd {
        self.shared.outcomes.fd()
    }

    /// What starts after this call is under the new rules; what is under way ends under the old ones. Kept connections are
    /// dropped, and `ca_file` is read again, also if it has the same name.
    ///
    /// # Errors
    /// When `ca_file` cannot be loaded; then the old rules stay in force.
    pub fn reconfigure(&self, network: Network) -> Result<(), StartError> {
        let client = Arc::new(Client::new(&self.shared.common, &network)?);
        let old = {
            let mut setup = lock(&self.shared.setup);
            setup.network = network;
            std::mem::replace(&mut setup.client, client)
        };
        old.kept.close();
        Ok(())
    }

    /// How many jobs were submitted whose outcomes are not there yet.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// How many delivery threads there are now.
    pub fn threads(&self) -> usize {
        lock(&self.shared.staff).threads
    }

    /// Ends everything without waiting for anything: jobs that wait are forgotten, sockets are shut down, threads end as
    /// soon as they notice. Those inside `getaddrinfo` notice late, so the process must not wait for threads either.
    pub fn shutdown(&self) {
        let idle = {
            let mut staff = lock(&self.shared.staff);
            staff.stopping = true;
            let forgotten = staff.queue.len();
            staff.queue.clear();
            self.shared
                .in_flight
                .fetch_sub(forgotten, Ordering::Relaxed);
            std::mem::take(&mut staff.idle)
        };
        for thread in idle {
            thread.unpark();
        }
        self.shared.common.names.stop();
        self.shared.common.sockets.shut_down();
        lock(&self.shared.setup).client.kept.close();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Takes a thread off the books, however it ends.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        lock(&self.0.staff).threads -= 1;
    }
}

impl Shared {
    /// The life of a delivery thread.
    fn work(&self) {
        let _leave = Leave(self);
        while let Some(job) = self.next() {
            self.deliver(&job);
        }
    }

    /// The next job; `None` when the thread should end.
    fn next(&self) -> Option<Job> {
        let me = thread::current();
        let is_me = |thread: &Thread| thread.id() == me.id();
        let since = Instant::now();
        let mut staff = lock(&self.staff);
        loop {
            if staff.stopping {
                return None;
            }
            if let Some(job) = staff.queue.pop_front() {
                // Only a thread that woke without having been chosen is still listed.
                staff.idle.retain(|thread| !is_me(thread));
                return Some(job);
            }
            if !staff.idle.iter().any(is_me) {
                staff.idle.push(me.clone());
            }
            drop(staff);
            let left = self.limits.idle.saturating_sub(since.elapsed());
            if left.is_zero() {
                // Nothing else may come by to close what waited too long.
                self.client().kept.sweep();
            } else {
                thread::park_timeout(left);
            }
            staff = lock(&self.staff);
            if left.is_zero() && staff.queue.is_empty() {
                staff.idle.retain(|thread| !is_me(thread));
                return None;
            }
        }
    }

    fn client(&self) -> Arc<Client> {
        Arc::clone(&lock(&self.setup).client)
    }

    /// Does a job, and puts its outcome out whatever happens.
    fn deliver(&self, job: &Job) {
        let started = SystemTime::now();
        let begun = Instant::now();
        let client = self.client();
        let attempted =
            guarded(|| attempt(&client, job, &self.limits, begun)).unwrap_or_else(|| {
                self.replace(&client);
                Attempted {
                    result: Err(Failure::Internal),
                    truncated: false,
                }
            });
        self.finish(Outcome {
            token: job.token,
            started_unix_ms: unix_ms(started),
            ended_unix_ms: unix_ms(SystemTime::now()),
            duration: begun.elapsed(),
            result: attempted.result,
            truncated: attempted.truncated,
        });
    }

    /// A panic may have left ureq's locks poisoned: start afresh.
    fn replace(&self, broken: &Arc<Client>) {
        let mut setup = lock(&self.setup);
        if Arc::ptr_eq(&setup.client, broken)
            && let Ok(client) = Client::new(&self.common, &setup.network)
        {
            setup.client = Arc::new(client);
        }
    }

    fn give_up(&self, job: &Job, failure: Failure) {
        let now = unix_ms(SystemTime::now());
        self.finish(Outcome {
            token: job.token,
            started_unix_ms: now,
            ended_unix_ms: now,
            duration: Duration::ZERO,
            result: Err(failure),
            truncated: false,
        });
    }

    fn finish(&self, outcome: Outcome) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.outcomes.put(outcome);
    }
}

/// `None` when it panicked.
fn guarded<T>(run: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(run)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_the_attempt_and_not_the_thread() {
        assert_eq!(guarded(|| 1), Some(1));
        assert_eq!(guarded(|| -> i32 { panic!("a defect") }), None);
    }
}
