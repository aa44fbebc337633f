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

/// The standings that draw on a pool, and how many places the pool has.
type Pool = (&'static [Standing], usize);

const POOLS: [Pool; 4] = [
    (
        &[
            Standing::Proven,
            Standing::Lapsed,
            Standing::New,
            Standing::Dead,
        ],
        PLACES,
    ),
    (&[Standing::New, Standing::Dead], PLACES_NEW),
    (&[Standing::Dead], PLACES_DEAD),
    (&[Standing::Lapsed], PLACES_LAPSED),
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

    /// Whether an owner may have a name of this standing and domain looked up now.
    pub(super) fn allow(&self, standing: Standing, domain: u64, owner: u64) -> bool {
        POOLS
            .iter()
            .filter(|(standings, _)| standings.contains(&standing))
            .all(|pool| self.pool_allows(*pool, domain, owner))
    }

    fn pool_allows(&self, (standings, places): Pool, domain: u64, owner: u64) -> bool {
        let inside = || {
            let running = self.0.iter();
            running.filter(|query| standings.contains(&query.standing))
        };
        let (mut taken, mut own, mut alike, mut own_alike) = (0, 0, 0, 0);
        for query in inside() {
            let (is_own, is_alike) = (query.owner == owner, query.domain == domain);
            taken += 1;
            own += usize::from(is_own);
            alike += usize::from(is_alike);
            own_alike += usize::from(is_own && is_alike);
        }
        let free = places.saturating_sub(taken);
        if own >= free || own_alike >= free - own {
            return false;
        }
        // Owners of a domain are counted only where they may be too many.
        alike < free || {
            let alike = || inside().filter(|query| query.domain == domain);
            let is_first = |(nth, query): &(usize, &Query)| {
                alike().take(*nth).all(|before| before.owner != query.owner)
            };
            alike().enumerate().filter(is_first).count() < free
        }
    }
}
