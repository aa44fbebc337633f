//! What is known about names, who waits for a look-up, and which look-up runs next. Pure: the time is passed in.
//!
//! ```text
//! age of the addresses   0 ........ 20 s .................. 30 s ..................... 1 h
//! a request gets         them       them, and a refresh     a refresh, or them         a look-up
//!                                   starts behind it        after PATIENCE
//! ```
//!
//! Under steady traffic no request waits, and a name that moves is followed within 30 s. A refresh that fails changes
//! nothing until the addresses are an hour old (RFC 8767); "the name does not exist" removes them at once.
//!
//! A look-up runs on the account of one owner. A name that several owners wait for runs as soon as one of them has room
//! ([`Places::allow`]), on the account of that owner: a crowded owner that asked first holds no other owner up.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::entry::{Entry, Flight, PAUSE, Reply, SLOW};
use super::places::{Places, Query, Standing};
use super::reach::Reach;
use super::system::NoAddress;
use crate::failure::Failure;

/// From this age on, the use of an address starts a refresh.
const REFRESH: Duration = Duration::from_secs(20);
/// Up to this age, no request waits for the refresh.
const FRESH: Duration = Duration::from_secs(30);
/// How long a request waits for the refresh of stale addresses. A resolver that has to ask others mostly needs less.
const PATIENCE: Duration = Duration::from_millis(100);
/// From this age on, a request waits for longer: under traffic no address becomes so old while the resolver answers.
const OLD: Duration = Duration::from_secs(120);
/// As long as RFC 8767 suggests, section 5.
const PATIENCE_WITH_OLD: Duration = Duration::from_millis(1_800);
/// A name with more addresses than this has none: all of them are judged at each use.
const MAX_ADDRESSES: usize = 256;
/// A look-up that has hung for this long has a control looked up, see `reach`.
pub(super) const DOUBT: Duration = Duration::from_millis(500);
/// How many names are remembered.
pub(super) const MAX_NAMES: usize = 4096;
/// How many look-ups may wait for a place.
pub(super) const MAX_QUEUED: usize = 512;

/// The answer to a question: there, or to be waited for.
#[derive(Debug)]
pub(super) enum Asked {
    Known(Reply),
    Wait(oneshot::Receiver<Reply>),
    /// Worth waiting for a moment; after that, `stale` will do.
    WaitBriefly {
        reply: oneshot::Receiver<Reply>,
        at_most: Duration,
        stale: Arc<[IpAddr]>,
    },
}

#[derive(Default)]
pub(super) struct Book {
    entries: HashMap<Arc<str>, Entry>,
    /// Names whose look-up waits for a place.
    queue: VecDeque<Arc<str>>,
    places: Places,
    reach: Reach,
    /// Something has happened since the queue was last searched in vain.
    changed: bool,
    /// When a control was last asked for because a look-up hangs.
    doubted: Option<Instant>,
    closed: bool,
}

impl Book {
    /// The addresses of `name`, or the way to them. `name` is lower-case and has no dot at its end.
    pub(super) fn ask(&mut self, name: &str, owner: u64, now: Instant) -> Asked {
        let Some(entry) = self.entries.get_mut(name) else {
            return self.wait(name, owner, now);
        };
        entry.used = now;
        if entry.absent.is_some_and(|until| now < until) {
            return Asked::Known(Err(Failure::NameNotFound));
        }
        let Some((addresses, age)) = entry.usable(now) else {
            return self.wait(name, owner, now);
        };
        let addresses = Arc::clone(addresses);
        if age >= REFRESH && entry.flight == Flight::Grounded && now >= entry.pause {
            self.refresh(name, owner, now);
        }
        if age >= FRESH
            && let Some(entry) = self.entries.get_mut(name)
            && entry.flight != Flight::Grounded
            && !entry.troubled
            && let Some(at_most) = (entry.asked + patience(age)).checked_duration_since(now)
        {
            return Asked::WaitBriefly {
                reply: entry.wait(owner),
                at_most,
                stale: addresses,
            };
        }
        Asked::Known(Ok(addresses))
    }

    /// The look-up that runs next, if one may. The caller runs it, and lands it.
    pub(super) fn next(&mut self, now: Instant) -> Option<Query> {
        if !self.changed {
            return None;
        }
        self.forget_given_up();
        let candidates = self.queue.iter().enumerate().filter_map(|(at, name)| {
            let entry = self.entries.get(name)?;
            Some((at, self.account(entry)?, entry.is_awaited()))
        });
        // In turn, but requests that wait go before refreshes that none waits for.
        let Some((at, owner, _)) = candidates.min_by_key(|(.., is_awaited)| !is_awaited) else {
            self.changed = false;
            return None;
        };
        let name = self.queue.remove(at)?;
        let entry = self.entries.get_mut(&name)?;
        entry.flight = Flight::Running;
        let query = Query {
            domain: entry.domain,
            owner,
            standing: entry.standing(),
            began: now,
            name,
        };
        self.places.take(query.clone());
        Some(query)
    }

    /// Back to the front of the queue: no thread could be had for it.
    pub(super) fn put_back(&mut self, query: &Query) {
        self.places.leave(&query.name);
        if let Some(entry) = self.entries.get_mut(&query.name) {
            entry.flight = Flight::Queued;
            self.queue.push_front(Arc::clone(&query.name));
        }
        self.changed = false;
    }

    /// A look-up ended at `ended`. Between that and `now`, a control may have been looked up for it.
    pub(super) fn land(
        &mut self,
        query: &Query,
        mut found: Result<Vec<IpAddr>, NoAddress>,
        ended: Instant,
        now: Instant,
    ) {
        if !found
            .as_ref()
            .is_ok_and(|found| (1..=MAX_ADDRESSES).contains(&found.len()))
            && found.is_ok()
        {
            found = Err(NoAddress::Absent);
        }
        self.places.leave(&query.name);
        self.changed = true;
        match found {
            // That name never reaches the resolver.
            Ok(_) | Err(NoAddress::Absent) if is_local(&query.name) => {}
            Ok(_) | Err(NoAddress::Absent) => self.reach.answered(self.places.queries(), ended),
            Err(NoAddress::Unanswered) => self.reach.failed(query, ended),
            Err(NoAddress::Unable) => {}
        }
        let failure = match found {
            Err(NoAddress::Unable) => Failure::NoDescriptor,
            Err(NoAddress::Unanswered)
                if self.reach.lost(query)
                    || self.reach.is_lost(self.places.queries(), None, now) =>
            {
                Failure::ResolverLost
            }
            _ => Failure::NameNotFound,
        };
        let slow = ended.saturating_duration_since(query.began) >= SLOW;
        if let Some(entry) = self.entries.get_mut(&query.name) {
            let reply = entry.learn(found, slow, failure, now);
            entry.tell(&reply);
        }
    }

    /// A control for a look-up that has failed, to be run on the same place. `tried` is that look-up, then the controls
    /// that have failed as well. `None`: no name is fit, or the resolver is known to be lost and no request waits.
    pub(super) fn control(&mut self, tried: &[Query], now: Instant) -> Option<Query> {
        let failed = self.entries.get(&tried.first()?.name)?;
        let is_urgent = failed.is_awaited() && failed.usable(now).is_none();
        if !is_urgent && self.reach.is_lost(self.places.queries(), None, now) {
            return None;
        }
        let name = self.choose_control(tried)?;
        let entry = self.entries.get_mut(&name)?;
        entry.flight = Flight::Running;
        entry.asked = now;
        let query = Query {
            domain: entry.domain,
            owner: entry.owner,
            standing: Standing::Control,
            began: now,
            name,
        };
        self.places.take(query.clone());
        Some(query)
    }

    /// Requests wait: asks for a control if a look-up has hung for `DOUBT` that began after the last one was asked for.
    pub(super) fn doubt(&mut self, now: Instant) {
        let hung = self.places.queries().iter().rfind(|query| {
            let hangs = now.saturating_duration_since(query.began) >= DOUBT;
            hangs && self.doubted < Some(query.began)
        });
        let Some(control) = hung.and_then(|query| self.choose_control(std::slice::from_ref(query)))
        else {
            return;
        };
        if let Some(owner) = self.entries.get(&control).map(|entry| entry.owner) {
            self.doubted = Some(now);
            self.refresh(&control, owner, now);
        }
    }

    /// Whether the resolver has answered lately.
    pub(super) fn answers(&self, now: Instant) -> bool {
        self.reach.answers(now)
    }

    /// How to call it that a request gave up waiting for this name.
    pub(super) fn gave_up(&self, name: &str, now: Instant) -> Failure {
        let running = self.places.queries();
        let own = running.iter().find(|query| &*query.name == name);
        let is_lost = own.is_some_and(|own| self.reach.lost(own));
        if is_lost || self.reach.is_lost(running, own, now) {
            return Failure::ResolverLost;
        }
        match self.entries.get(name) {
            Some(entry) if entry.flight == Flight::Queued && self.is_crowded_out(entry, now) => {
                Failure::LookupOverloaded
            }
            _ => Failure::TimedOut,
        }
    }

    /// Tells all who wait, and empties the queue.
    pub(super) fn abandon(&mut self, failure: Failure, now: Instant) {
        for entry in self.entries.values_mut() {
            entry.tell(&Err(failure));
            if entry.flight == Flight::Queued {
                entry.flight = Flight::Grounded;
                entry.pause = now + PAUSE;
            }
        }
        self.queue.clear();
    }

    /// No look-up is begun any more.
    pub(super) fn close(&mut self, now: Instant) {
        self.closed = true;
        self.abandon(Failure::ShutDown, now);
    }

    fn wait(&mut self, name: &str, owner: u64, now: Instant) -> Asked {
        if let Err(failure) = self.enqueue(name, owner, now) {
            return Asked::Known(Err(failure));
        }
        let Some(entry) = self.entries.get_mut(name) else {
            return Asked::Known(Err(Failure::Internal));
        };
        let reply = entry.wait(owner);
        self.notice(name, owner);
        Asked::Wait(reply)
    }

    fn refresh(&mut self, name: &str, owner: u64, now: Instant) {
        let queued = self.enqueue(name, owner, now);
        if let Some(entry) = self.entries.get_mut(name) {
            match queued {
                Ok(()) => entry.refresh = true,
                Err(_) => entry.pause = now + PAUSE,
            }
        }
        self.notice(name, owner);
    }

    /// An owner wants a name that may be queued. The queue is searched again only if that owner has room for it: a
    /// crowded owner that asks for more and more names would have it searched in vain.
    fn notice(&mut self, name: &str, owner: u64) {
        let allows = |entry: &Entry| {
            entry.flight == Flight::Queued
                && self.places.allow(entry.standing(), entry.domain, owner)
        };
        self.changed |= self.entries.get(name).is_some_and(allows);
    }

    /// Has a name looked up, unless its look-up is in flight.
    fn enqueue(&mut self, name: &str, owner: u64, now: Instant) -> Result<(), Failure> {
        if self.closed {
            return Err(Failure::ShutDown);
        }
        let known = self.entries.get(name);
        if known.is_some_and(|entry| entry.flight != Flight::Grounded) {
            return Ok(());
        }
        let is_known = known.is_some();
        if self.queue.len() >= MAX_QUEUED {
            self.forget_given_up();
        }
        if self.queue.len() >= MAX_QUEUED && !self.displace(owner) {
            return Err(Failure::LookupOverloaded);
        }
        if !is_known && self.entries.len() >= MAX_NAMES {
            self.make_room(now);
        }
        let domain = self.entries.hasher().hash_one(domain(name));
        let entry = self
            .entries
            .entry(Arc::from(name))
            .or_insert_with(|| Entry::new(domain, owner, now));
        entry.flight = Flight::Queued;
        entry.asked = now;
        entry.owner = owner;
        entry.refresh = false;
        self.queue.push_back(Arc::from(name));
        Ok(())
    }

    /// The owner on whose account a queued look-up may run now: of those that wait, the first that has room.
    fn account(&self, entry: &Entry) -> Option<u64> {
        let mut owners = entry.waiting().chain(entry.refresh.then_some(entry.owner));
        owners.find(|owner| self.places.allow(entry.standing(), entry.domain, *owner))
    }

    /// Whether others are to blame that a queued look-up has found no place: none of its own owner's look-ups
    /// hangs, and none of its own domain.
    fn is_crowded_out(&self, entry: &Entry, now: Instant) -> bool {
        let hangs = |query: &Query| now.saturating_duration_since(query.began) >= SLOW;
        let no_hanging = |is_own: &dyn Fn(&Query) -> bool| {
            let mut queries = self.places.queries().iter();
            !queries.any(|query| is_own(query) && hangs(query))
        };
        no_hanging(&|query| query.domain == entry.domain)
            && entry
                .waiters
                .iter()
                .any(|waiter| no_hanging(&|query| query.owner == waiter.owner))
    }

    /// Forgets queued look-ups that no request waits for any more.
    fn forget_given_up(&mut self) {
        let Self { queue, entries, .. } = self;
        queue.retain(|name| {
            let Some(entry) = entries.get_mut(name) else {
                return false;
            };
            if entry.refresh || entry.is_awaited() {
                return true;
            }
            entry.flight = Flight::Grounded;
            entry.waiters.clear();
            if entry.standing() == Standing::New {
                entries.remove(name);
            }
            false
        });
    }

    /// Makes room in the full queue for a look-up of `owner`: the owner with the most queued loses its newest.
    /// `false`: that owner is the one that asks, or others wait for all of its names as well.
    fn displace(&mut self, owner: u64) -> bool {
        let mut queued: HashMap<u64, usize> = HashMap::new();
        for entry in self.queue.iter().filter_map(|name| self.entries.get(name)) {
            *queued.entry(entry.owner).or_default() += 1;
        }
        let Some((most, count)) = queued.iter().max_by_key(|(_, count)| **count) else {
            return false;
        };
        if queued.get(&owner).is_some_and(|own| own + 1 >= *count) {
            return false;
        }
        let is_theirs = |entry: &Entry| {
            entry.owner == *most && entry.waiters.iter().all(|waiter| waiter.owner == *most)
        };
        let newest = self
            .queue
            .iter()
            .rposition(|name| self.entries.get(name).is_some_and(is_theirs));
        let Some(name) = newest.and_then(|at| self.queue.remove(at)) else {
            return false;
        };
        if let Some(entry) = self.entries.get_mut(&name) {
            entry.flight = Flight::Grounded;
            entry.tell(&Err(Failure::LookupOverloaded));
        }
        true
    }

    /// Forgets an eighth of the names: first those without addresses, then those whose last use is the longest
    /// ago; none whose look-up is in flight.
    fn make_room(&mut self, now: Instant) {
        let mut names: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.flight == Flight::Grounded)
            .map(|(name, entry)| (entry.usable(now).is_some(), entry.used, Arc::clone(name)))
            .collect();
        names.sort_unstable();
        for (.., name) in names.iter().take(MAX_NAMES / 8) {
            self.entries.remove(name);
        }
    }

    /// The name that tells best whether the resolver answers: of a domain that has not been tried; not in trouble; if
    /// possible of an owner that has not been tried; reliable for the longest time.
    fn choose_control(&self, tried: &[Query]) -> Option<Arc<str>> {
        let is_fit = |name: &str, entry: &Entry| {
            entry.flight == Flight::Grounded
                && tried.iter().all(|query| query.domain != entry.domain)
                && !is_local(name)
        };
        let rank = |entry: &Entry| {
            let tried = tried.iter().rposition(|query| query.owner == entry.owner);
            Some((entry.troubled, tried.map_or(0, |at| at + 1), entry.steady?))
        };
        let fit = self
            .entries
            .iter()
            .filter(|(name, entry)| is_fit(name, entry));
        fit.filter_map(|(name, entry)| Some((rank(entry)?, name)))
            .min()
            .map(|(_, name)| Arc::clone(name))
    }
}

/// How long a request waits for the refresh of addresses of this age.
fn patience(age: Duration) -> Duration {
    if age < OLD {
        PATIENCE
    } else {
        PATIENCE_WITH_OLD
    }
}

/// The registrable domain of a name; a name that has none, such as `localhost` or `co.uk`, is its own.
fn domain(name: &str) -> &str {
    psl::domain_str(name).unwrap_or(name)
}

/// Whether a name is answered on this machine, so that its answer says nothing about the resolver (RFC 6761).
fn is_local(name: &str) -> bool {
    name.strip_suffix("localhost")
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
impl Book {
    pub(super) fn names(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn remembers(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }
}
