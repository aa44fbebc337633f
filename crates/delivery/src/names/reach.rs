//! Is the resolver out of reach? Pure: told of look-ups and times, and asked.
//!
//! `getaddrinfo` reports the same error when the machine's resolver cannot be reached and when the resolver says that
//! the name servers of one domain do not answer. The first is no fault of the endpoint, the second is. What tells them
//! apart is how other names fare at the same time:
//!
//! * **Any answer clears the resolver**, "this name does not exist" included. Only trouble since the last answer
//!   counts: look-ups that failed after it, and look-ups that began after it and have hung for [`HANGS`].
//! * **One domain is never enough.** If its name servers are down, every name under it fails.
//! * **One owner is not enough either**, or a tenant with three hundred dead domains could have everybody's failures
//!   excused. Trouble counts when two owners have it, or when a name has it that has had addresses before.
//! * **Before the first answer of all**, owners do not matter: a server that starts while its resolver is down knows no
//!   name that has ever had addresses, and may have a single owner.
//!
//! Where traffic is low there may be no answer to compare with, and where many names are dead, many failures lie
//! between two answers. Therefore a look-up that fails, or hangs for half a second, has a *control* looked up: a name
//! of another domain, if possible of another owner, that has answered reliably. If the control is answered, that
//! clears the resolver, and the failure is the endpoint's. If two controls fail as well, it is everybody's. A tenant
//! would need reliable names that it lets die at the moment they are chosen, and other tenants without a single one.
//! `Book` chooses the controls.
//!
//! When the resolver is found again, look-ups are still under way that it lost: one that fails and began before that is
//! told as lost, though others are answered by then.
//!
//! The verdict decides only how a look-up that has failed is called. It stops, pauses and delays nothing.
//!
//! Names that a file on this machine answers (`/etc/hosts`) look like an answering resolver; only `localhost` is known
//! to be one.

use std::time::{Duration, Instant};

use super::places::Query;

/// A look-up that has run for this long without an answer counts as trouble.
const HANGS: Duration = Duration::from_secs(1);
/// Failures further apart than this are not failures at the same time.
const RECENT: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Reach {
    answered: Option<Instant>,
    /// When it was last found again after it had been lost.
    found: Option<Instant>,
    trouble: Trouble,
}

/// The trouble since the last answer, in as many words as the verdict needs.
#[derive(Clone, Copy, Default)]
struct Trouble {
    /// Domain and owner of the first look-up that had trouble.
    first: Option<(u64, u64)>,
    last: Option<Instant>,
    two_domains: bool,
    two_owners: bool,
    had_answered: bool,
}

impl Trouble {
    fn add(&mut self, query: &Query) {
        let (domain, owner) = *self.first.get_or_insert((query.domain, query.owner));
        self.two_domains |= query.domain != domain;
        self.two_owners |= query.owner != owner;
        self.had_answered |= query.has_answered();
    }
}

impl Reach {
    /// The resolver answered: with addresses, or that there are none. `running` are the look-ups that still run.
    pub(super) fn answered(&mut self, running: &[Query], at: Instant) {
        let trouble = self.trouble(running, None, at);
        // Look-ups that merely hang, of names that have never had addresses, may be dead names and a slow control.
        let is_certain =
            self.recent(at).two_owners || trouble.had_answered || self.answered.is_none();
        if trouble.two_domains && is_certain {
            self.found = Some(at);
        }
        self.answered = self.answered.max(Some(at));
        self.trouble = Trouble::default();
    }

    /// A look-up ended without an answer.
    pub(super) fn failed(&mut self, query: &Query, at: Instant) {
        if self.answered < Some(at) {
            self.trouble = self.recent(at);
            self.trouble.add(query);
            self.trouble.last = Some(at);
        }
    }

    /// Whether the resolver is out of reach. `running` are the look-ups that run; `hanging` is one of them that is
    /// counted however short it has run, because a request has waited for it for as long as it could.
    pub(super) fn is_lost(&self, running: &[Query], hanging: Option<&Query>, now: Instant) -> bool {
        let trouble = self.trouble(running, hanging, now);
        let is_everyones = trouble.two_owners || trouble.had_answered || self.answered.is_none();
        trouble.two_domains && is_everyones
    }

    /// All trouble since the last answer.
    fn trouble(&self, running: &[Query], hanging: Option<&Query>, now: Instant) -> Trouble {
        let mut trouble = self.recent(now);
        running
            .iter()
            .filter(|query| self.answered < Some(query.began))
            .filter(|query| now.saturating_duration_since(query.began) >= HANGS)
            .chain(hanging)
            .for_each(|query| trouble.add(query));
        trouble
    }

    /// Whether the resolver has answered lately.
    pub(super) fn answers(&self, now: Instant) -> bool {
        self.answered
            .is_some_and(|at| now.saturating_duration_since(at) < RECENT)
    }

    /// Whether this look-up began while the resolver was out of reach, or before.
    pub(super) fn lost(&self, query: &Query) -> bool {
        self.found.is_some_and(|found| query.began < found)
    }

    fn recent(&self, now: Instant) -> Trouble {
        match self.trouble.last {
            Some(last) if now.saturating_duration_since(last) < RECENT => self.trouble,
            _ => Trouble::default(),
        }
    }
}
