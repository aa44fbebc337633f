//! The pool: what the worker's main thread holds. Jobs go to a few delivery threads, each job as a task of its own.
//!
//! Everything in [`Pool`] is called on the main thread and never waits for a delivery thread, a name, or a peer.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use crate::attempt::{attempt, unix_ms};
use crate::client::{Client, Network};
use crate::desk::{Counts, Desk};
use crate::failure::Failure;
use crate::job::{Answer, Job, Outcome};
use crate::names::{Lookup, Names, SystemLookup};
use crate::outcomes::Outcomes;
use crate::sync::lock;
use crate::thread::{Thread, Work};
use crate::tls::{StartError, SystemRoots};

/// How much the pool may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most requests at once.
    pub at_once: usize,
    /// The most delivery threads.
    pub threads: usize,
    /// The most connections that wait for their next request, over all threads; each takes a file descriptor.
    pub kept: usize,
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
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            kept: 256,
            body_read: 64 * 1024,
            excerpt: 1024,
            idle: Duration::from_secs(30),
        }
    }
}

/// So many bytes of data cost a thread about as much, to sign and send, as a small request does altogether.
const BYTES_LIKE_A_REQUEST: usize = 16 * 1024;

/// Threads that send requests.
///
/// Dropping it is [`Pool::shutdown`].
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    limits: Limits,
    jobs: Mutex<Jobs>,
    client: Mutex<Arc<Client>>,
    names: Arc<Names>,
    roots: Arc<SystemRoots>,
    threads: Vec<Thread<Taken>>,
    counts: Arc<Counts>,
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
        let names = Names::new(lookup);
        let roots = Arc::default();
        let client = Arc::new(Client::new(&names, &roots, &network, 0)?);
        let counts = Arc::default();
        let count = limits.threads.max(1);
        let kept = limits.kept.div_ceil(count).min(limits.at_once);
        let threads = (0..count)
            .map(|_| {
                let desk = Desk::new(limits.clone(), kept, Arc::clone(&counts));
                Thread::new(desk, limits.idle)
            })
            .collect();
        Ok(Pool {
            shared: Arc::new(Shared {
                limits,
                jobs: Mutex::default(),
                client: Mutex::new(client),
                names,
                roots,
                threads,
                counts,
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

    /// What is begun after this call is under the new rules; what is under way ends under the old ones. Kept connections are
    /// dropped, and `ca_file` is read again, also if it has the same name.
    ///
    /// # Errors
    /// When `ca_file` cannot be loaded; then the old rules stay in force.
    pub fn reconfigure(&self, network: Network) -> Result<(), StartError> {
        let shared = &self.shared;
        let generation = lock(&shared.client).generation + 1;
        let client = Client::new(&shared.names, &shared.roots, &network, generation)?;
        let old = std::mem::replace(&mut *lock(&shared.client), Arc::new(client));
        old.retire();
        for thread in &shared.threads {
            thread.forget();
        }
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
        self.shared.threads.iter().filter(|it| it.lives()).count()
    }

    /// How connections were come by since the start.
    pub fn connections(&self) -> Connections {
        let counts = &self.shared.counts;
        Connections {
            opened: counts.opened.load(Ordering::Relaxed),
            handshakes: counts.handshakes.load(Ordering::Relaxed),
            reused: counts.reused.load(Ordering::Relaxed),
        }
    }

    /// Ends everything without waiting for anything: jobs that wait are forgotten, connections are closed (what was under way
    /// on them has no outcome), threads end as soon as they notice. Those inside `getaddrinfo` notice late, so the process must
    /// not wait for threads either.
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
        self.shared.names.stop();
        for thread in &self.shared.threads {
            thread.stop();
        }
    }
}

/// How connections were come by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Made anew.
    pub opened: u64,
    /// Of these, with TLS.
    pub handshakes: u64,
    /// How often one that was kept carried a request.
    pub reused: u64,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    /// Gives a job to a thread: that of its webhook, which has its connections.
    fn begin(self: &Arc<Self>, job: Job) {
        let which = (job.target.webhook.as_u128() % self.threads.len() as u128) as usize;
        self.ahead.fetch_add(weight(&job), Ordering::Relaxed);
        self.threads[which].begin(Taken {
            shared: Arc::clone(self),
            job,
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

/// A job that a thread has been given.
struct Taken {
    shared: Arc<Shared>,
    job: Job,
}

impl Work for Taken {
    async fn run(self, desk: Arc<Desk>) {
        let Taken { shared, job } = self;
        shared.ahead.fetch_sub(weight(&job), Ordering::Relaxed);
        let mut account = Account::open(&shared, job.token);
        let client = Arc::clone(&lock(&shared.client));
        let attempted = attempt(&desk, &client, &job, account.started_unix_ms, account.begun).await;
        account.truncated = attempted.truncated;
        account.result = Some(attempted.result);
    }

    fn give_up(self, failure: Failure) {
        self.shared
            .ahead
            .fetch_sub(weight(&self.job), Ordering::Relaxed);
        Account::open(&self.shared, self.job.token).result = Some(Err(failure));
    }
}

/// The account of one attempt, which is given when it is dropped: whatever ends an attempt, it has an outcome.
struct Account<'a> {
    shared: &'a Arc<Shared>,
    token: u64,
    started_unix_ms: i64,
    begun: Instant,
    truncated: bool,
    result: Option<Result<Answer, Failure>>,
}

impl<'a> Account<'a> {
    fn open(shared: &'a Arc<Shared>, token: u64) -> Account<'a> {
        Account {
            shared,
            token,
            started_unix_ms: unix_ms(SystemTime::now()),
            begun: Instant::now(),
            truncated: false,
            result: None,
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        let broken_off = if std::thread::panicking() {
            Failure::Internal
        } else {
            // Its thread has ended.
            Failure::NoThread
        };
        self.shared.finish(Outcome {
            token: self.token,
            started_unix_ms: self.started_unix_ms,
            ended_unix_ms: unix_ms(SystemTime::now()),
            duration: self.begun.elapsed(),
            result: self.result.take().unwrap_or(Err(broken_off)),
            truncated: self.truncated,
        });
    }
}

/// How many small requests a job costs.
fn weight(job: &Job) -> usize {
    1 + job.event.data.len() / BYTES_LIKE_A_REQUEST
}
