//! Which look-up may run next: places are shared fairly between owners and domains. Pure.
//!
//! A look-up that hangs holds its place for as long as `getaddrinfo` takes, often ten seconds or more. Places are
//! therefore divided into pools, and each pool is shared by one rule: **an owner may hold no more places than it leaves
//! free.** Alone it gets half of a pool, a second owner half of the rest, and so on, so that a newcomer finds a place
//! however many dead names the others have. Within an owner's share the same rule holds for each registrable domain. A
//! domain that many owners use is bounded as well, but there each owner counts once: one owner's hundred names under a
//! domain do not keep another owner's name under it waiting.

use std::sync::Arc;
use std::time::Instant;

/// How many look-ups run at once.
pub(super) const PLACES: usize = 32;
/// How many of them for names that have no addresses yet. The other half is kept for names that have.
const PLACES_NEW: usize = PLACES / 2;
/// How many for names that have never had addresses and whose last look-up hung or failed.
const PLACES_DEAD: usize = 4;
/// How many for names that have had addresses, but whose last look-up was slow or failed.
const PLACES_LAPSED: usize = 8;

/// What earlier look-ups say about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has addresses, and they came quickly.
    Proven,
    /// It has had addresses; the last look-up was slow, or failed.
    Lapsed,
    /// Nothing speaks for it or against it.
    New,
    /// It never had addresses; the last look-up was slow, or failed.
    Dead,
    /// It has had addresses, and is looked up on the place of another name, to see whether the resolver answers at all.
    Control,
}

/// A look-up that runs.
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) name: Arc<str>,
    /// The registrable domain, as a number.
    pub(super) domain: u64,
    /// The owner on whose account it runs.
    pub(super) owner: u64,
    pub(super) standing: Standing,
    pub(super) began: Instant,
}

impl Query {
    /// Whether the name has had addresses before.
    pub(super) fn has_answered(&self) -> bool {
        !matches!(self.standing, Standing::New | Standing::Dead)
    }
}

/// Whether look-ups of a standing draw on a pool, and how many places the pool has.
type Pool = (fn(Standing) -> bool, usize);

const POOLS: [Pool; 4] = [
    (|standing| standing != Standing::Control, PLACES),
    (
        |standing| matches!(standing, Standing::New | Standing::Dead),
        PLACES_NEW,
    ),
    (|standing| standing == Standing::Dead, PLACES_DEAD),
    (|standing| standing == Standing::Lapsed, PLACES_LAPSED),
];

/// The look-ups that run.
#[derive(Default)]
pub(super) struct Places(Vec<Query>);

impl Places {
    pub(super) fn take(&mut self, query: Query) {
        self.0.push(query);
    }

    pub(super) fn leave(&mut self, name: &str) {
        self.0.retain(|query| &*query.name != name);
    }

    pub(super) fn queries(&self) -> &[Query] {
        &self.0
    }

    /// How many places an owner holds.
    pub(super) fn held(&self, owner: u64) -> usize {
        self.0.iter().filter(|query| query.owner == owner).count()
    }

    /// Whether an owner may have a name of this standing and domain looked up now.
    pub(super) fn allow(&self, standing: Standing, domain: u64, owner: u64) -> bool {
        POOLS
            .iter()
            .filter(|(draws, _)| draws(standing))
            .all(|pool| self.pool_allows(*pool, domain, owner))
    }

    fn pool_allows(&self, (draws, places): Pool, domain: u64, owner: u64) -> bool {
        let inside = || self.0.iter().filter(|query| draws(query.standing));
        let free = places.saturating_sub(inside().count());
        let own = inside().filter(|query| query.owner == owner).count();
        if own >= free {
            return false;
        }
        let alike = || inside().filter(|query| query.domain == domain);
        let own_alike = alike().filter(|query| query.owner == owner).count();
        let owners_alike = alike()
            .enumerate()
            .filter(|(nth, query)| alike().take(*nth).all(|before| before.owner != query.owner))
            .count();
        own_alike < free - own && owners_alike < free
    }
}
