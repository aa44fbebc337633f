//! From a host to addresses that may be connected to. Delivery threads ask and wait, no longer than their limit; a few
//! resolver threads call `getaddrinfo`, which cannot be interrupted.
//!
//! The resolver is the address guard: what is connected to is what was checked here, so a name that changes its addresses
//! in between gains nothing. [`Names`] remembers what names resolve to, unchecked, and outlives reconfigurations;
//! [`Guarded`] checks, for one configuration.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use webhooks_core::address::Guard;

use crate::failure::Failure;
use crate::fiber::{Waker, park};
use crate::sync::lock;
use crate::threads;
use crate::transport::deadline;

/// How long what a name resolved to is believed.
const FRESH: Duration = Duration::from_secs(30);
/// How long it is believed that a name does not exist.
const FRESH_ABSENCE: Duration = Duration::from_secs(2);
/// A look-up that took longer makes its name a slow one. A failure that took longer is not remembered: it was probably a
/// name server that does not answer.
const SLOW: Duration = Duration::from_secs(1);
/// How many names are remembered.
const MAX_NAMES: usize = 4096;
/// How many look-ups may wait for a thread.
const MAX_WAITING: usize = 256;
/// How many look-ups run at once, not counting those that hang (that run for longer than [`SLOW`]).
const MAX_THREADS: usize = 8;
/// How many run at once with those that hang.
const MAX_THREADS_HANGING: usize = 24;
/// How many for names that were slow the last time, so that they cannot keep the others out.
const MAX_SLOW: usize = MAX_THREADS / 2;
/// How many for the names of one domain (its last two labels): one owner's name server hangs for all its names.
const MAX_PER_DOMAIN: usize = MAX_THREADS / 2;
/// How many addresses of a host are tried; ureq has room for no more. All are checked.
const MAX_ADDRESSES: usize = 16;
/// How long a resolver thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(30);
/// NSS modules (LDAP, SSSD, systemd) are foreign code, with buffers of its own on the stack.
const STACK: usize = 512 * 1024;

/// How names are looked up. A seam: the system's way in earnest, another for tests.
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of `name`; may block for as long as it likes.
    ///
    /// # Errors
    /// When there are none, or they cannot be found out.
    fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>>;

    /// The addresses of this host itself.
    ///
    /// # Errors
    /// When they cannot be found out.
    fn own(&self) -> io::Result<Vec<IpAddr>> {
        let interfaces = nix::ifaddrs::getifaddrs()?;
        Ok(interfaces
            .filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .collect())
    }
}

/// Looks names up as the operating system is configured to (`getaddrinfo`).
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        const ANY_PORT: u16 = 0;
        Ok((name, ANY_PORT)
            .to_socket_addrs()?
            .map(|address| address.ip())
            .collect())
    }
}

/// What a name resolved to; `None` when there is nothing.
type Found = Option<Arc<[IpAddr]>>;

/// A look-up that somebody waits for.
#[derive(Default)]
struct Flight {
    found: Mutex<Option<Found>>,
    waiting: Mutex<Vec<Waker>>,
}

impl Flight {
    fn wait(&self, until: Instant) -> Option<Found> {
        lock(&self.waiting).push(Waker::here());
        loop {
            let found = lock(&self.found).clone();
            if found.is_some() || until <= Instant::now() {
                return found;
            }
            park(until);
        }
    }

    fn land(&self, found: Found) {
        *lock(&self.found) = Some(found);
        for waker in lock(&self.waiting).drain(..) {
            waker.wake();
        }
    }
}

enum Entry {
    /// On a thread or waiting for one; with the number of those who wait.
    Flying { flight: Arc<Flight>, waiters: usize },
    Known {
        found: Found,
        until: Instant,
        slow: bool,
    },
}

#[derive(Default)]
struct State {
    entries: HashMap<Arc<str>, Entry>,
    /// Names that wait for a thread.
    queue: VecDeque<Wanted>,
    running: Vec<(Wanted, Instant)>,
    threads: usize,
    idle: usize,
    stopping: bool,
}

#[derive(Clone, PartialEq, Eq)]
struct Wanted {
    name: Arc<str>,
    slow: bool,
}

/// Looks names up, and remembers them.
pub(crate) struct Names {
    lookup: Arc<dyn Lookup>,
    state: Mutex<State>,
    work: Condvar,
    own: Mutex<Option<(Instant, Arc<[IpAddr]>)>>,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

impl Names {
    pub(crate) fn new(lookup: Arc<dyn Lookup>) -> Arc<Names> {
        Arc::new(Names {
            lookup,
            state: Mutex::default(),
            work: Condvar::new(),
            own: Mutex::default(),
        })
    }

    /// This host's own addresses, as they were not long ago; `None`: they could never be found out.
    fn own(&self) -> Option<Arc<[IpAddr]>> {
        let mut own = lock(&self.own);
        if let Some((since, addresses)) = &*own
            && since.elapsed() < FRESH
        {
            return Some(Arc::clone(addresses));
        }
        let addresses: Arc<[IpAddr]> = match (self.lookup.own(), &*own) {
            (Ok(addresses), _) => Arc::from(addresses),
            (Err(_), Some((_, addresses))) => Arc::clone(addresses),
            (Err(_), None) => return None,
        };
        *own = Some((Instant::now(), Arc::clone(&addresses)));
        Some(addresses)
    }

    /// Tells the threads to end. Those inside `getaddrinfo` end when it returns.
    pub(crate) fn stop(&self) {
        let mut state = lock(&self.state);
        state.stopping = true;
        state.queue.clear();
        drop(state);
        self.work.notify_all();
    }

    /// The addresses of `name`, remembered or looked up before the deadline.
    fn resolve(self: &Arc<Self>, name: &str, deadline: Instant) -> Result<Arc<[IpAddr]>, Failure> {
        let flight = {
            let mut state = lock(&self.state);
            match state.entries.get_mut(name) {
                Some(Entry::Known { found, until, .. }) if Instant::now() < *until => {
                    return found.clone().ok_or(Failure::NameNotFound);
                }
                Some(Entry::Flying { flight, waiters }) => {
                    *waiters += 1;
                    Arc::clone(flight)
                }
                Some(Entry::Known { slow, .. }) => {
                    let slow = *slow;
                    self.take_off(&mut state, name, slow)?
                }
                None => self.take_off(&mut state, name, false)?,
            }
        };
        // On the way, see whether those in front of us hang: each look may find room for one thread more.
        while Instant::now() < deadline {
            if let Some(found) = flight.wait(deadline.min(Instant::now() + SLOW / 4)) {
                return found.ok_or(Failure::NameNotFound);
            }
            self.staff(&mut lock(&self.state));
        }
        if let Some(Entry::Flying {
            flight: same,
            waiters,
        }) = lock(&self.state).entries.get_mut(name)
            && Arc::ptr_eq(same, &flight)
        {
            *waiters -= 1;
        }
        Err(Failure::TimedOut)
    }

    /// Queues a look-up, and sees that there is a thread for it.
    fn take_off(
        self: &Arc<Self>,
        state: &mut State,
        name: &str,
        slow: bool,
    ) -> Result<Arc<Flight>, Failure> {
        if state.stopping {
            return Err(Failure::ShutDown);
        }
        state.forget_given_up();
        if state.queue.len() >= MAX_WAITING {
            return Err(Failure::LookupOverloaded);
        }
        state.make_room();
        let name: Arc<str> = Arc::from(name);
        let flight = Arc::new(Flight::default());
        let entry = Entry::Flying {
            flight: Arc::clone(&flight),
            waiters: 1,
        };
        state.entries.insert(Arc::clone(&name), entry);
        state.queue.push_back(Wanted { name, slow });
        self.work.notify_one();
        self.staff(state);
        Ok(flight)
    }

    /// Starts a thread if there is more to look up than threads that wait for it.
    fn staff(self: &Arc<Self>, state: &mut State) {
        let hanging = state
            .running
            .iter()
            .filter(|(_, since)| since.elapsed() >= SLOW)
            .count();
        if state.queue.len() > state.idle
            && state.threads < (MAX_THREADS + hanging).min(MAX_THREADS_HANGING)
        {
            let names = Arc::clone(self);
            // If it cannot be started, the threads that there are come to it; or its time runs out.
            if threads::spawn("webhooks-names", STACK, move || names.work()).is_ok() {
                state.threads += 1;
            }
        }
    }

    /// The life of a resolver thread.
    fn work(&self) {
        let mut state = lock(&self.state);
        while !state.stopping {
            if let Some(wanted) = state.next() {
                let begun = Instant::now();
                state.running.push((wanted.clone(), begun));
                drop(state);
                let found = catch_unwind(AssertUnwindSafe(|| self.lookup.lookup(&wanted.name)))
                    .ok()
                    .and_then(Result::ok)
                    .filter(|addresses| !addresses.is_empty())
                    .map(Arc::from);
                state = lock(&self.state);
                state.land(&wanted, found, begun.elapsed() >= SLOW);
                continue;
            }
            state.idle += 1;
            let (again, waited) = self
                .work
                .wait_timeout(state, IDLE)
                .unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

impl State {
    /// Takes look-ups out of the queue that nobody waits for any more.
    fn forget_given_up(&mut self) {
        let Self { queue, entries, .. } = self;
        queue.retain(|wanted| {
            let entry = entries.get(&wanted.name);
            let given_up = matches!(entry, Some(Entry::Flying { waiters: 0, .. }));
            if given_up {
                entries.remove(&wanted.name);
            }
            !given_up
        });
    }

    /// The first look-up that may run now.
    fn next(&mut self) -> Option<Wanted> {
        self.forget_given_up();
        let Self { queue, running, .. } = self;
        let slow = running.iter().filter(|(running, _)| running.slow).count();
        let position = queue.iter().position(|wanted| {
            let domain = domain(&wanted.name);
            let alike = running
                .iter()
                .filter(|(running, _)| domain_is(&running.name, domain))
                .count();
            alike < MAX_PER_DOMAIN && (!wanted.slow || slow < MAX_SLOW)
        })?;
        queue.remove(position)
    }

    /// Remembers what was found, and tells those who wait.
    fn land(&mut self, wanted: &Wanted, found: Found, slow: bool) {
        self.running.retain(|(running, _)| running != wanted);
        let fresh = match (&found, slow) {
            (Some(_), _) => FRESH,
            (None, false) => FRESH_ABSENCE,
            (None, true) => Duration::ZERO,
        };
        let known = Entry::Known {
            found: found.clone(),
            until: Instant::now() + fresh,
            slow,
        };
        if let Some(Entry::Flying { flight, .. }) =
            self.entries.insert(Arc::clone(&wanted.name), known)
        {
            flight.land(found);
        }
    }

    /// Keeps the memory bounded: what is stale goes first, then anything that nobody waits for.
    fn make_room(&mut self) {
        if self.entries.len() < MAX_NAMES {
            return;
        }
        let now = Instant::now();
        self.entries
            .retain(|_, entry| !matches!(entry, Entry::Known { until, .. } if *until <= now));
        if self.entries.len() >= MAX_NAMES {
            self.entries
                .retain(|_, entry| matches!(entry, Entry::Flying { .. }));
        }
    }
}

/// The last two labels of a name.
fn domain(name: &str) -> &str {
    let name = name.strip_suffix('.').unwrap_or(name);
    match name.rmatch_indices('.').nth(1) {
        Some((dot, _)) => &name[dot + 1..],
        None => name,
    }
}

fn domain_is(name: &str, wanted: &str) -> bool {
    domain(name).eq_ignore_ascii_case(wanted)
}

/// The resolver of one configuration: hands on only what its guard has checked.
pub(crate) struct Guarded {
    pub(crate) names: Arc<Names>,
    pub(crate) guard: Guard,
    /// Empty: any.
    pub(crate) allowed_ports: Vec<u16>,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let deadline = deadline(&timeout);
        let port = port(uri).ok_or_else(|| Failure::BadRequest("invalid url").into_ureq())?;
        if !self.allowed_ports.is_empty() && !self.allowed_ports.contains(&port) {
            return Err(Failure::PortRefused.into_ureq());
        }
        let host = uri.host().unwrap_or_default();
        let addresses = self.addresses(host, deadline).map_err(Failure::into_ureq)?;
        let mut resolved = self.empty();
        for address in addresses.iter().take(MAX_ADDRESSES) {
            resolved.push(SocketAddr::new(*address, port));
        }
        Ok(resolved)
    }
}

impl Guarded {
    /// The addresses of a host, if the guard lets every one of them pass.
    fn addresses(&self, host: &str, deadline: Instant) -> Result<Arc<[IpAddr]>, Failure> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let addresses = match bare.parse::<IpAddr>() {
            Ok(literal) => Arc::from([literal]),
            Err(_) if bare.is_empty() => return Err(Failure::NameNotFound),
            Err(_) => self.names.resolve(bare, deadline)?,
        };
        // What cannot be judged does not pass.
        let own = self.names.own().ok_or(Failure::AddressRefused(None))?;
        let refused = |address: &IpAddr| self.guard.check_own(*address, &own).is_err();
        match addresses.iter().copied().find(refused) {
            Some(address) => Err(Failure::AddressRefused(Some(address))),
            None => Ok(addresses),
        }
    }
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or_else(|| match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    })
}
