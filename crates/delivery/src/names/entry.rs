//! What is known about one name, and who waits for more. Pure.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::places::Standing;
use super::system::NoAddress;
use crate::failure::Failure;

/// Up to this age, addresses are served when the resolver has no answer.
const STALE: Duration = Duration::from_secs(60 * 60);
/// How long it is believed that a name does not exist.
const ABSENT: Duration = Duration::from_secs(2);
/// The pause after a refresh that failed.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// A look-up that took longer makes its name a slow one.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// What a request is told about a name.
pub(super) type Reply = Result<Arc<[IpAddr]>, Failure>;

/// Where the look-up of a name is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flight {
    Grounded,
    Queued,
    Running,
}

/// A request that waits for a name.
pub(super) struct Waiter {
    pub(super) owner: u64,
    /// Closed when the request has given up.
    reply: oneshot::Sender<Reply>,
}

/// One name.
pub(super) struct Entry {
    pub(super) domain: u64,
    /// The addresses, and when they were found.
    addresses: Option<(Arc<[IpAddr]>, Instant)>,
    /// Until when the name is believed not to exist.
    pub(super) absent: Option<Instant>,
    /// Since when each look-up has found addresses. A failed look-up begins the series anew, absence ends it.
    pub(super) steady: Option<Instant>,
    /// The last look-up was slow, or failed.
    pub(super) troubled: bool,
    /// No refresh starts before this.
    pub(super) pause: Instant,
    /// The last use.
    pub(super) used: Instant,
    /// The owner that had it looked up the last time.
    pub(super) owner: u64,
    pub(super) flight: Flight,
    /// When the look-up in flight was asked for.
    pub(super) asked: Instant,
    /// The look-up in flight is wanted even if no request waits for it.
    pub(super) refresh: bool,
    pub(super) waiters: Vec<Waiter>,
}

impl Entry {
    pub(super) fn new(domain: u64, owner: u64, now: Instant) -> Entry {
        Entry {
            domain,
            addresses: None,
            absent: None,
            steady: None,
            troubled: false,
            pause: now,
            used: now,
            owner,
            flight: Flight::Grounded,
            asked: now,
            refresh: false,
            waiters: Vec::new(),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match (self.steady, self.troubled) {
            (Some(_), false) => Standing::Proven,
            (Some(_), true) => Standing::Lapsed,
            (None, false) => Standing::New,
            (None, true) => Standing::Dead,
        }
    }

    /// Addresses that may still be served, and their age.
    pub(super) fn usable(&self, now: Instant) -> Option<(&Arc<[IpAddr]>, Duration)> {
        let (addresses, since) = self.addresses.as_ref()?;
        let age = now.saturating_duration_since(*since);
        (age < STALE).then_some((addresses, age))
    }

    /// The owners of the requests that wait; of several requests of an owner, each counts.
    pub(super) fn waiting(&self) -> impl Iterator<Item = u64> {
        let waiting = self
            .waiters
            .iter()
            .filter(|waiter| !waiter.reply.is_closed());
        waiting.map(|waiter| waiter.owner)
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.waiting().next().is_some()
    }

    pub(super) fn wait(&mut self, owner: u64) -> oneshot::Receiver<Reply> {
        if self.waiters.len() == self.waiters.capacity() {
            // A look-up may hang for longer than many requests wait for it, one after the other.
            self.waiters.retain(|waiter| !waiter.reply.is_closed());
        }
        let (reply, receiver) = oneshot::channel();
        self.waiters.push(Waiter { owner, reply });
        receiver
    }

    pub(super) fn tell(&mut self, reply: &Reply) {
        for waiter in std::mem::take(&mut self.waiters) {
            // A request that has given up no longer listens.
            let _ = waiter.reply.send(reply.clone());
        }
    }

    /// Remembers the end of a look-up; returns what requests are told. `failure` is how a failed look-up is called.
    pub(super) fn learn(
        &mut self,
        found: Result<Vec<IpAddr>, NoAddress>,
        slow: bool,
        failure: Failure,
        now: Instant,
    ) -> Reply {
        self.flight = Flight::Grounded;
        match found {
            Ok(addresses) => {
                let addresses: Arc<[IpAddr]> = addresses.into();
                self.addresses = Some((Arc::clone(&addresses), now));
                self.absent = None;
                self.steady = self.steady.or(Some(now));
                self.troubled = slow;
                Ok(addresses)
            }
            Err(NoAddress::Absent) => {
                self.addresses = None;
                self.absent = Some(now + ABSENT);
                self.steady = None;
                self.troubled = slow;
                Err(Failure::NameNotFound)
            }
            Err(reason) => {
                self.pause = now + PAUSE;
                if reason == NoAddress::Unanswered {
                    self.troubled = true;
                    self.steady = self.steady.map(|_| now);
                }
                let stale = self.usable(now).map(|(addresses, _)| Arc::clone(addresses));
                stale.ok_or(failure)
            }
        }
    }
}
