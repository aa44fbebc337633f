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
use crate::thread::{Material, Thread, Work};
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
    /// A thread is beginning those that wait.
    handing_on: bool,
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
        Pool::of(limits, network, lookup, Material::default())
    }

    fn of(
        limits: Limits,
        network: Network,
        lookup: Arc<dyn Lookup>,
        material: Material,
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
                Thread::new(desk, limits.idle, material)
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
            if jobs.under_way >= self.shared.most() || !jobs.waiting.is_empty() {
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

    /// How late delivery threads come to what is to be done: the largest delay of the current and of the last minute, over
    /// all threads. Looked at some twenty times a second while requests are under way; a millisecond or two is what a timer is
    /// rounded to.
    pub fn lag(&self) -> Duration {
        let all = self.shared.threads.iter().map(Thread::lag);
        all.max().unwrap_or_default()
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
            left: false,
        });
    }

    /// How many jobs may be under way.
    fn most(&self) -> usize {
        self.limits.at_once.max(1)
    }

    fn finish(self: &Arc<Self>, outcome: Outcome) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let (hands_on, stopping) = {
            let mut jobs = lock(&self.jobs);
            jobs.under_way -= 1;
            let hands_on = !jobs.waiting.is_empty() && !jobs.handing_on;
            jobs.handing_on |= hands_on;
            (hands_on, jobs.stopping)
        };
        // What a shutdown broke off says nothing of its endpoint.
        if !stopping {
            self.outcomes.put(outcome);
        }
        if hands_on {
            self.hand_on();
        }
    }

    /// Begins what waits. Not within itself: a job that no thread can be had for ends at once, as may all behind it.
    fn hand_on(self: &Arc<Self>) {
        loop {
            let job = {
                let mut jobs = lock(&self.jobs);
                let room = jobs.under_way < self.most();
                let next = if room { jobs.waiting.pop_front() } else { None };
                let Some(job) = next else {
                    jobs.handing_on = false;
                    return;
                };
                jobs.under_way += 1;
                job
            };
            self.begin(job);
        }
    }
}

/// A job that a thread has been given.
struct Taken {
    shared: Arc<Shared>,
    job: Job,
    /// It has begun, or been given up.
    left: bool,
}

impl Taken {
    /// The thread has it before it no more.
    fn leave(&mut self) {
        self.left = true;
        let weight = weight(&self.job);
        self.shared.ahead.fetch_sub(weight, Ordering::Relaxed);
    }
}

impl Work for Taken {
    async fn run(mut self, desk: Arc<Desk>) {
        self.leave();
        let Taken { shared, job, .. } = &self;
        let mut account = Account::open(shared, job.token);
        let client = Arc::clone(&lock(&shared.client));
        let attempted = attempt(&desk, &client, job, account.started_unix_ms, account.begun).await;
        account.truncated = attempted.truncated;
        account.result = Some(attempted.result);
    }

    fn give_up(mut self, failure: Failure) {
        self.leave();
        Account::open(&self.shared, self.job.token).result = Some(Err(failure));
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Its thread died between taking it and beginning it.
        if !self.left {
            self.leave();
            drop(Account::open(&self.shared, self.job.token));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use webhooks_core::address::Guard;
    use webhooks_core::endpoint::{Endpoint, Rules};
    use webhooks_core::request::{Event, Target};

    fn pool(limits: Limits, material: Material) -> Pool {
        let network = Network {
            guard: Guard::parse("").unwrap(),
            allowed_ports: vec![],
            ca_file: None,
        };
        Pool::of(limits, network, Arc::new(SystemLookup), material).unwrap()
    }

    fn job(token: u64) -> Job {
        let event = Event {
            id: uuid::Uuid::nil(),
            event_type: "memory.created".to_owned(),
            created_ms: 0,
            data: "{}".to_owned(),
        };
        let target = Target {
            webhook: uuid::Uuid::nil(),
            secrets: vec![],
            header_prefix: "X".to_owned(),
            user_agent: "x".to_owned(),
            livemode: true,
            max_payload: 1_000,
        };
        Job {
            token,
            event: Arc::new(event),
            target: Arc::new(target),
            endpoint: Arc::new(Endpoint::parse("http://192.0.2.1/", &Rules::default()).unwrap()),
            owner: 0,
            delivery: uuid::Uuid::nil(),
            attempt: 1,
            timeout: Duration::from_secs(1),
            progress: crate::progress::Progress::default(),
        }
    }

    #[test]
    fn a_job_whose_thread_dies_before_it_begins_has_an_outcome() {
        let pool = pool(Limits::default(), Material::default());
        for (token, panics) in [(1, false), (2, true)] {
            lock(&pool.shared.jobs).under_way += 1;
            pool.shared.in_flight.fetch_add(1, Ordering::Relaxed);
            pool.shared.ahead.fetch_add(1, Ordering::Relaxed);
            let taken = Taken {
                shared: Arc::clone(&pool.shared),
                job: job(token),
                left: false,
            };
            let dies = std::thread::spawn(move || {
                let task = taken.run(Arc::new(Desk::new(Limits::default(), 1, Arc::default())));
                assert!(!panics, "with a request that has not begun");
                drop(task);
            });
            assert_eq!(dies.join().is_err(), panics);
        }
        let mut outcomes = Vec::new();
        pool.drain(&mut outcomes);
        let of = |it: &Outcome| (it.token, it.result.clone());
        let failures = [Failure::NoThread, Failure::Internal].map(Err);
        assert_eq!(
            outcomes.iter().map(of).collect::<Vec<_>>(),
            [1, 2].into_iter().zip(failures).collect::<Vec<_>>()
        );
        assert_eq!((pool.in_flight(), pool.ahead()), (0, 0));
        assert_eq!(lock(&pool.shared.jobs).under_way, 0);
    }

    /// One after the other, not one within the other: that would take a stack of megabytes.
    #[test]
    fn without_threads_all_that_waits_comes_back() {
        const COUNT: usize = 20_000;
        let limits = Limits {
            at_once: 1,
            ..Limits::default()
        };
        let pool = pool(limits, Material::too_large());
        // While the first is under way.
        lock(&pool.shared.jobs).under_way = 1;
        pool.shared.in_flight.store(1, Ordering::Relaxed);
        for token in 1..COUNT as u64 {
            pool.submit(job(token));
        }
        let shared = Arc::clone(&pool.shared);
        let small = std::thread::Builder::new().stack_size(256 * 1024);
        let ends = small.spawn(move || {
            Account::open(&shared, 0).result = Some(Err(Failure::NoThread));
        });
        ends.unwrap().join().unwrap();
        let mut outcomes = Vec::new();
        pool.drain(&mut outcomes);
        let tokens: Vec<u64> = outcomes.iter().map(|it| it.token).collect();
        assert_eq!(tokens, (0..COUNT as u64).collect::<Vec<_>>());
        assert_eq!((pool.in_flight(), pool.ahead(), pool.threads()), (0, 0, 0));
    }
}
