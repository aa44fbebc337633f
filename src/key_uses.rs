//! When API keys were used: noted by backends in shared memory, written down by the worker. A request by
//! GET runs in a read-only transaction, and so cannot do it itself.
//!
//! A fixed table of atomics; all zero is empty. A place belongs to whoever has moved its state to BUSY by
//! compare-and-swap, for a few instructions in which nothing can fail. Where the way to a free place is too
//! long, or somebody else is at the place, the use is lost: the next one is noted.

use pgrx::pg_sys;
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use uuid::Uuid;

/// Keys of all databases that can be noted between two looks of the workers.
const PLACES: usize = 1_024;
/// So many places are tried for a key.
const TRIES: usize = 16;

const FREE: u32 = 0;
const BUSY: u32 = 1;
const FULL: u32 = 2;

#[repr(C)]
struct Place {
    state: AtomicU32,
    database: AtomicU32,
    high: AtomicU64,
    low: AtomicU64,
    /// Unix milliseconds.
    at_ms: AtomicI64,
}

/// The table.
#[repr(C)]
pub(crate) struct KeyUses([Place; PLACES]);

impl Place {
    /// Whether it is ours now.
    fn take(&self, from: u32) -> bool {
        self.state
            .compare_exchange(from, BUSY, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    fn give(&self, to: u32) {
        self.state.store(to, Ordering::Release);
    }

    fn is_of(&self, database: u32, (high, low): (u64, u64)) -> bool {
        self.database.load(Ordering::Relaxed) == database
            && self.high.load(Ordering::Relaxed) == high
            && self.low.load(Ordering::Relaxed) == low
    }
}

impl KeyUses {
    /// Notes that a key was used.
    pub(crate) fn note(&self, database: pg_sys::Oid, key: Uuid, at_ms: i64) {
        let (database, id) = (database.to_u32(), key.as_u64_pair());
        // The low half of the id of a key is random.
        let first = id.1 as usize % PLACES;
        let places = || (first..first + TRIES).map(|index| &self.0[index % PLACES]);
        let known = places()
            .find(|place| place.state.load(Ordering::Relaxed) == FULL && place.is_of(database, id));
        if let Some(place) = known
            && place.take(FULL)
        {
            // It may have been emptied and filled again in between.
            if place.is_of(database, id) {
                place.at_ms.store(at_ms, Ordering::Relaxed);
            }
            place.give(FULL);
            return;
        }
        if let Some(place) = places().find(|place| place.take(FREE)) {
            place.database.store(database, Ordering::Relaxed);
            place.high.store(id.0, Ordering::Relaxed);
            place.low.store(id.1, Ordering::Relaxed);
            place.at_ms.store(at_ms, Ordering::Relaxed);
            place.give(FULL);
        }
    }

    /// Takes out what was noted of the keys of a database: each with its last use.
    pub(crate) fn drain(&self, database: pg_sys::Oid) -> HashMap<Uuid, i64> {
        let database = database.to_u32();
        let mut uses = HashMap::new();
        for place in &self.0 {
            let ours = place.state.load(Ordering::Relaxed) == FULL
                && place.database.load(Ordering::Relaxed) == database;
            if !ours || !place.take(FULL) {
                continue;
            }
            if place.database.load(Ordering::Relaxed) != database {
                place.give(FULL);
                continue;
            }
            let (high, low) = (
                place.high.load(Ordering::Relaxed),
                place.low.load(Ordering::Relaxed),
            );
            let at_ms = place.at_ms.load(Ordering::Relaxed);
            place.give(FREE);
            let last = uses.entry(Uuid::from_u64_pair(high, low)).or_insert(at_ms);
            *last = at_ms.max(*last);
        }
        uses
    }
}
