//! From a name to addresses. Delivery threads ask, and await the answer; a few look-up threads call `getaddrinfo`,
//! which blocks and cannot be interrupted.
//!
//! | module   | subject                                                                                  |
//! |----------|------------------------------------------------------------------------------------------|
//! | `mod`    | the threads, and the way in: [`Names::resolve`]                                          |
//! | `book`   | pure: all names, and which look-up runs next                                             |
//! | `entry`  | pure: what is known about one name, and who waits for more                               |
//! | `places` | pure: places for look-ups, shared fairly between owners and domains                      |
//! | `reach`  | pure: is the resolver out of reach?                                                      |
//! | `system` | [`Lookup`], and `getaddrinfo`                                                            |
//!
//! Addresses are not judged here: whoever connects has each of them checked, at each use.

mod book;
mod entry;
mod places;
mod reach;
mod system;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use self::book::{Asked, Book, DOUBT};
use self::places::Query;
pub use self::system::{Lookup, NoAddress, SystemLookup};
use crate::failure::Failure;
use crate::sync::lock;
use crate::threads;

/// How long this host's own addresses are believed.
const OWN: Duration = Duration::from_secs(30);
/// How many controls have to fail as well before the resolver is called lost, where that many are known, see `reach`.
const CONTROLS: usize = 2;
/// How long a look-up thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(30);
/// NSS modules (LDAP, SSSD, systemd) are foreign code with buffers of their own on the stack.
const STACK: usize = 512 * 1024;

/// Starts a thread that runs this.
type Spawn = fn(Box<dyn FnOnce() + Send>) -> io::Result<()>;
type Clock = Box<dyn Fn() -> Instant + Send + Sync>;

/// Looks names up, and remembers them. Outlives reconfigurations.
pub(crate) struct Names {
    lookup: Arc<dyn Lookup>,
    spawn: Spawn,
    clock: Clock,
    state: Mutex<State>,
    work: Condvar,
    own: Mutex<Option<(Instant, Arc<[IpAddr]>)>>,
}

#[derive(Default)]
struct State {
    book: Book,
    /// Look-ups that have a place, and wait for their thread to take them.
    ready: VecDeque<Query>,
    threads: usize,
    /// Threads that look something up.
    busy: usize,
    stopping: bool,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    pub(crate) fn new(lookup: Arc<dyn Lookup>) -> Arc<Names> {
        let spawn: Spawn = |run| threads::spawn("webhooks-names", STACK, run).map(drop);
        Names::with(lookup, spawn, Box::new(Instant::now))
    }

    fn with(lookup: Arc<dyn Lookup>, spawn: Spawn, clock: Clock) -> Arc<Names> {
        Arc::new(Names {
            lookup,
            spawn,
            clock,
            state: Mutex::default(),
            work: Condvar::new(),
            own: Mutex::default(),
        })
    }

    /// The addresses of `name`, remembered or looked up on the account of `owner`. Waits without a limit of its own,
    /// and may be dropped at any time; needs a runtime with a timer.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        name: &str,
        owner: u64,
    ) -> Result<Arc<[IpAddr]>, Failure> {
        let name = canonical(name);
        if name.is_empty() {
            return Err(Failure::NameNotFound);
        }
        match self.with_book(|book, now| book.ask(&name, owner, now)) {
            Asked::Known(reply) => reply,
            Asked::WaitBriefly {
                reply,
                at_most,
                stale,
            } => match tokio::time::timeout(at_most, reply).await {
                Ok(Ok(reply)) => reply,
                _ => Ok(stale),
            },
            Asked::Wait(mut reply) => loop {
                if let Ok(reply) = tokio::time::timeout(DOUBT, &mut reply).await {
                    return reply.unwrap_or(Err(Failure::ShutDown));
                }
                self.with_book(Book::doubt);
            },
        }
    }

    /// What a request is told whose limit passed while it waited for this name: that it timed out, unless the
    /// resolver is out of reach, or other owners' look-ups hold all the places.
    pub(crate) fn gave_up(&self, name: &str) -> Failure {
        let now = (self.clock)();
        lock(&self.state).book.gave_up(&canonical(name), now)
    }

    /// This host's own addresses, as they were not long ago. Fails while they could never be found out.
    pub(crate) fn own(&self) -> Result<Arc<[IpAddr]>, Failure> {
        let now = (self.clock)();
        let known = {
            let mut own = lock(&self.own);
            match &mut *own {
                Some((since, addresses)) if now.saturating_duration_since(*since) < OWN => {
                    return Ok(Arc::clone(addresses));
                }
                // Others use the old ones while these are looked for.
                Some((since, addresses)) => {
                    *since = now;
                    Some(Arc::clone(addresses))
                }
                None => None,
            }
        };
        match (self.lookup.own(), known) {
            (Ok(addresses), _) => {
                let addresses: Arc<[IpAddr]> = Arc::from(addresses);
                *lock(&self.own) = Some((now, Arc::clone(&addresses)));
                Ok(addresses)
            }
            (Err(_), Some(known)) => Ok(known),
            (Err(error), None) => Err(Some(Failure::from(&error))
                .filter(Failure::is_ours)
                // What cannot be judged does not pass.
                .unwrap_or(Failure::AddressRefused(None))),
        }
    }

    /// Whether the resolver has answered lately.
    pub(crate) fn answers(&self) -> bool {
        let now = (self.clock)();
        lock(&self.state).book.answers(now)
    }

    /// Tells the threads to end, and the requests that wait. A thread inside `getaddrinfo` ends when that returns.
    pub(crate) fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopping = true;
        state.ready.clear();
        state.book.close((self.clock)());
        drop(state);
        self.work.notify_all();
    }

    fn with_book<T>(self: &Arc<Self>, ask: impl FnOnce(&mut Book, Instant) -> T) -> T {
        let now = (self.clock)();
        let mut state = lock(&self.state);
        let answer = ask(&mut state.book, now);
        self.staff(&mut state, now);
        answer
    }

    /// Hands each look-up that may run to a thread.
    fn staff(self: &Arc<Self>, state: &mut State, now: Instant) {
        while let Some(query) = state.book.next(now) {
            let has_free_thread = state.threads > state.busy + state.ready.len();
            if !has_free_thread && !self.start_thread(state) {
                // A thread that looks something up now will come to it; without any, waiting is in vain.
                state.book.put_back(&query);
                if state.threads == 0 {
                    state.book.abandon(Failure::NoThread, now);
                }
                return;
            }
            state.ready.push_back(query);
            self.work.notify_one();
        }
    }

    fn start_thread(self: &Arc<Self>, state: &mut State) -> bool {
        let names = Arc::clone(self);
        let started = (self.spawn)(Box::new(move || names.work())).is_ok();
        state.threads += usize::from(started);
        started
    }

    /// The life of a look-up thread.
    fn work(self: &Arc<Self>) {
        let mut state = lock(&self.state);
        loop {
            let idle = |state: &mut State| state.ready.is_empty() && !state.stopping;
            let waited = self.work.wait_timeout_while(state, IDLE, idle);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(query) = state.ready.pop_front() else {
                break;
            };
            state.busy += 1;
            drop(state);
            self.run(&query);
            state = lock(&self.state);
            state.busy -= 1;
            self.staff(&mut state, (self.clock)());
        }
        state.threads -= 1;
    }

    /// Looks a name up. If it has no answer, controls are looked up before those who wait are told why.
    fn run(&self, query: &Query) {
        let found = self.look_up(&query.name);
        let ended = (self.clock)();
        if found == Err(NoAddress::Unanswered) {
            self.run_controls(query);
        }
        let now = (self.clock)();
        lock(&self.state).book.land(query, found, ended, now);
    }

    fn run_controls(&self, failed: &Query) {
        let mut tried = vec![failed.clone()];
        while tried.len() <= CONTROLS {
            let control = lock(&self.state).book.control(&tried, (self.clock)());
            let Some(control) = control else {
                return;
            };
            let found = self.look_up(&control.name);
            let is_answer = matches!(found, Ok(_) | Err(NoAddress::Absent));
            let now = (self.clock)();
            lock(&self.state).book.land(&control, found, now, now);
            if is_answer {
                return;
            }
            tried.push(control);
        }
    }

    fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress> {
        catch_unwind(AssertUnwindSafe(|| self.lookup.lookup(name)))
            .unwrap_or(Err(NoAddress::Unanswered))
    }
}

/// Names differ neither by case nor by the dot at their end. Copies only where it changes something.
fn canonical(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}
