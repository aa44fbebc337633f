//! The pool: what the worker's main thread holds. Jobs go to a few delivery threads, each job on a fiber of its own.
//!
//! Everything in [`Pool`] is called on the main thread and never waits for a delivery thread, a name, or a peer.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::attempt::{Attempted, Job, Outcome, attempt, unix_ms};
use crate::client::{Client, Common, Network};
use crate::failure::Failure;
use crate::fiber::{Loop, Tidy};
use crate::outcomes::Outcomes;
use crate::resolver::{Lookup, Names, SystemLookup};
use crate::sync::lock;
use crate::tls::StartError;

/// How much the pool may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most requests at once.
    pub at_once: usize,
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
            at_once: 64,
            body_read: 64 * 1024,
            excerpt: 1024,
            idle: Duration::from_secs(30),
        }
    }
}

/// The most delivery threads. One carries far more plain requests than Postgres can bring along; more of them keep TLS
/// handshakes, a millisecond each, out of each other's way.
const MOST_THREADS: usize = 4;
/// Requests that a thread begins before the first of them has had a few milliseconds to end: more at once only make each
/// dearer, where answers come fast (measured with two threads: 48 cost 34 µs each, 128 cost 45 µs).
const MOST_YOUNG: usize = 48;
/// So many bytes of data cost a thread about as much, to sign and send, as a small request does altogether.
const BYTES_LIKE_A_REQUEST: usize = 16 * 1024;
/// How many connections are kept in all: each takes a file descriptor, of which a process often has 1024.
const MOST_KEPT: usize = 256;

/// Threads that send requests.
///
/// Dropping it is [`Pool::shutdown`].
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    jobs: Mutex<Jobs>,
    setup: Arc<Mutex<Setup>>,
    common: Common,
    loops: Vec<Loop>,
    outcomes: Outcomes,
    in_flight: AtomicUsize,
    /// Jobs that threads have been given and not begun, by [`weight`].
    ahead: AtomicUsize,
}

#[derive(Default)]
struct Jobs {
    /// Those that wait because too many are under way.
    waiting: VecDeque<Job>,
    under_way: usize,
    stopping: bool,
}

struct Setup {
    network: Network,
    /// One for each loop; none after the shutdown.
    clients: Vec<Arc<Client>>,
}

impl Setup {
    fn client(&self, which: usize) -> Option<Arc<Client>> {
        self.clients.get(which).cloned()
    }
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
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(MOST_THREADS);
        let common = Common {
            names: Names::new(lookup),
            sockets: Arc::default(),
            roots: Arc::default(),
            most_kept: limits.at_once.min(MOST_KEPT / threads).max(1),
        };
        let clients = clients(&common, &network, threads)?;
        let setup = Arc::new(Mutex::new(Setup { network, clients }));
        let mut loops = Vec::with_capacity(threads);
        for which in 0..threads {
            let setup = Arc::clone(&setup);
            loops.push(Loop::new(
                "webhooks-send",
                limits.idle,
                MOST_YOUNG,
                move |tidy| {
                    let client = lock(&setup).client(which);
                    match (client, tidy) {
                        (Some(client), Tidy::Stale) => client.kept.sweep(),
                        (Some(client), Tidy::All) => client.kept.clear(),
                        (None, _) => {}
                    }
                },
            )?);
        }
        Ok(Pool {
            shared: Arc::new(Shared {
                limits,
                jobs: Mutex::default(),
                setup,
                common,
                loops,
                outcomes: Outcomes::new()?,
                in_flight: AtomicUsize::new(0),
                ahead: AtomicUsize::new(0),
            }),
        })
    }

    /// Hands a job over. Its outcome comes back through [`Pool::drain`], exactly once; after a shutdown, not at all.
    ///
    /// With as many jobs under way as there may be, it waits in memory: how many that are is up to the caller.
    pub fn submit(&self, job: Job) {
        {
            let mut jobs = lock(&self.shared.jobs);
            if jobs.stopping {
                return;
            }
            self.shared.in_flight.fetch_add(1, Ordering::Relaxed);
            if jobs.under_way >= self.shared.limits.at_once.max(1) {
                jobs.waiting.push_back(job);
                return;
            }
            jobs.under_way += 1;
        }
        self.shared.begin(job);
    }

    /// Appends the outcomes that wait.
    pub fn drain(&self, into: &mut Vec<Outcome>) {
        self.shared.outcomes.drain(into);
    }

    /// A descriptor that is readable from the first outcome on until all are drained. It belongs to the pool.
    pub fn fd(&self) -> RawFd {
        self.shared.outcomes.fd()
    }

    /// What is submitted after this call is under the new rules; what is under way ends under the old ones. Kept
    /// connections are dropped, and `ca_file` is read again, also if it has the same name.
    ///
    /// # Errors
    /// When `ca_file` cannot be loaded; then the old rules stay in force.
    pub fn reconfigure(&self, network: Network) -> Result<(), StartError> {
        let clients = clients(&self.shared.common, &network, self.shared.loops.len())?;
        let old = {
            let mut setup = lock(&self.shared.setup);
            setup.network = network;
            std::mem::replace(&mut setup.clients, clients)
        };
        self.shared.retire(old);
        Ok(())
    }

    /// How many jobs were submitted whose outcomes are not there yet.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    /// How much threads have been given and not begun, in small requests: a large one counts as many.
    pub fn ahead(&self) -> usize {
        self.shared.ahead.load(Ordering::Relaxed)
    }

    /// How many delivery threads there are now.
    pub fn threads(&self) -> usize {
        self.shared.loops.iter().filter(|it| it.lives()).count()
    }

    /// Ends everything without waiting for anything: jobs that wait are forgotten, sockets are shut down (what was under way
    /// on them has no outcome), threads end as soon as they notice. Those inside `getaddrinfo` notice late, so the process must not wait for threads either.
    pub fn shutdown(&self) {
        {
            let mut jobs = lock(&self.shared.jobs);
            jobs.stopping = true;
            let forgotten = jobs.waiting.len();
            jobs.waiting.clear();
            self.shared
                .in_flight
                .fetch_sub(forgotten, Ordering::Relaxed);
        }
        self.shared.common.names.stop();
        self.shared.common.sockets.shut_down();
        let old = std::mem::take(&mut lock(&self.shared.setup).clients);
        self.shared.retire(old);
        for it in &self.shared.loops {
            it.stop();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

fn clients(
    common: &Common,
    network: &Network,
    count: usize,
) -> Result<Vec<Arc<Client>>, StartError> {
    (0..count)
        .map(|_| Client::new(common, network).map(Arc::new))
        .collect()
}

/// A job that a loop has taken: if it is dropped before its attempt, nobody will make it.
struct Taken {
    shared: Arc<Shared>,
    job: Option<Job>,
}

impl Taken {
    fn begin(&mut self) -> Option<Job> {
        let job = self.job.take()?;
        self.shared.ahead.fetch_sub(weight(&job), Ordering::Relaxed);
        Some(job)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(job) = self.begin() {
            self.shared.give_up(&job, Failure::NoThread);
        }
    }
}

impl Shared {
    /// Gives a job to a thread: that of its webhook, which has its connections.
    fn begin(self: &Arc<Self>, job: Job) {
        let which = (job.target.webhook.as_u128() % self.loops.len() as u128) as usize;
        self.ahead.fetch_add(weight(&job), Ordering::Relaxed);
        let mut taken = Taken {
            shared: Arc::clone(self),
            job: Some(job),
        };
        // Without a thread, the job is given up where it is dropped.
        let _ = self.loops[which].run(Box::new(move || {
            if let Some(job) = taken.begin() {
                taken.shared.deliver(which, &job);
            }
        }));
    }

    /// Drops clients on the threads that their connections belong to.
    fn retire(&self, clients: Vec<Arc<Client>>) {
        for (it, client) in self.loops.iter().zip(clients) {
            it.with_thread(Box::new(move || client.kept.close()));
        }
    }

    /// Does a job, and puts its outcome out whatever happens. Runs on a fiber.
    fn deliver(self: &Arc<Self>, which: usize, job: &Job) {
        let Some(client) = lock(&self.setup).client(which) else {
            return self.give_up(job, Failure::ShutDown);
        };
        let started_unix_ms = unix_ms(SystemTime::now());
        let begun = Instant::now();
        let attempted = guarded(|| attempt(&client, job, &self.limits, started_unix_ms, begun))
            .unwrap_or_else(|| {
                self.replace(which, &client);
                Attempted {
                    result: Err(Failure::Internal),
                    truncated: false,
                }
            });
        self.finish(Outcome {
            token: job.token,
            started_unix_ms,
            ended_unix_ms: unix_ms(SystemTime::now()),
            duration: begun.elapsed(),
            result: attempted.result,
            truncated: attempted.truncated,
        });
    }

    /// A panic may have left ureq's locks poisoned: start afresh.
    fn replace(&self, which: usize, broken: &Arc<Client>) {
        let mut setup = lock(&self.setup);
        if let Ok(client) = Client::new(&self.common, &setup.network)
            && let Some(current) = setup.clients.get_mut(which)
            && Arc::ptr_eq(current, broken)
        {
            *current = Arc::new(client);
        }
    }

    fn give_up(self: &Arc<Self>, job: &Job, failure: Failure) {
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

    fn finish(self: &Arc<Self>, outcome: Outcome) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let (next, stopping) = {
            let mut jobs = lock(&self.jobs);
            let next = jobs.waiting.pop_front();
            jobs.under_way -= usize::from(next.is_none());
            (next, jobs.stopping)
        };
        // What a shutdown broke off says nothing of its endpoint.
        if !stopping {
            self.outcomes.put(outcome);
        }
        if let Some(job) = next {
            self.begin(job);
        }
    }
}

/// How many small requests a job costs.
fn weight(job: &Job) -> usize {
    1 + job.event.data.len() / BYTES_LIKE_A_REQUEST
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
