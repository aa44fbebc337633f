//! Requests under way, in shared memory for everybody to look at: whose, since when, in which phase.
//!
//! One place for each, taken by the worker of a database and kept by it for its next requests, until it ends. Atomics
//! only, and nobody waits: a reader that meets a change sees the request as it was, as it is, or not at all. When no place
//! is free (there are [`PLACES`] in the whole server), a request is not shown.

use pgrx::pg_sys;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use uuid::Uuid;
use webhooks_delivery::{Phase, Progress};
use webhooks_schedule::{Now, Pauses};

/// Requests of all databases that can be shown at once.
const PLACES: usize = 10_000;
/// Looking for a place, which pauses when there was none: each look is at all of them.
const LOOK: &str = "look";
/// Instead of a place.
const NONE: u32 = u32::MAX;

/// One request.
#[repr(C)]
struct Place {
    /// Oid of the database whose worker has it; 0: it is free.
    database: AtomicU32,
    phase: AtomicU8,
    /// When the request was handed over, Unix milliseconds; 0: there is none.
    since_ms: AtomicI64,
    webhook: [AtomicU64; 2],
    delivery: [AtomicU64; 2],
}

/// The places, in shared memory. All zero is the state at the start of the server.
#[repr(C)]
pub(crate) struct InFlight {
    places: [Place; PLACES],
    /// Where to look for a free place first.
    next: AtomicUsize,
}

/// A request, as it was when somebody looked.
pub(crate) struct Request {
    pub(crate) webhook: Uuid,
    pub(crate) delivery: Uuid,
    /// Unix milliseconds.
    pub(crate) since_ms: i64,
    pub(crate) phase: Phase,
}

fn store(id: Uuid, into: &[AtomicU64; 2]) {
    let (high, low) = id.as_u64_pair();
    into[0].store(high, Ordering::Relaxed);
    into[1].store(low, Ordering::Relaxed);
}

fn load(from: &[AtomicU64; 2]) -> Uuid {
    Uuid::from_u64_pair(
        from[0].load(Ordering::Relaxed),
        from[1].load(Ordering::Relaxed),
    )
}

impl Place {
    fn request(&self) -> Option<Request> {
        let since_ms = self.since_ms.load(Ordering::Acquire);
        if since_ms == 0 {
            return None;
        }
        let request = Request {
            webhook: load(&self.webhook),
            delivery: load(&self.delivery),
            since_ms,
            phase: Phase::of(self.phase.load(Ordering::Relaxed)),
        };
        // Nobody has written another one meanwhile.
        fence(Ordering::Acquire);
        (self.since_ms.load(Ordering::Relaxed) == since_ms).then_some(request)
    }
}

impl InFlight {
    fn take(&self, database: pg_sys::Oid) -> Option<u32> {
        let from = self.next.load(Ordering::Relaxed);
        for step in 0..PLACES {
            let number = (from + step) % PLACES;
            let taken = self.places[number].database.compare_exchange(
                0,
                database.to_u32(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if taken.is_ok() {
                self.next.store(number + 1, Ordering::Relaxed);
                return u32::try_from(number).ok();
            }
        }
        None
    }

    /// The worker of a database ends: its places are free.
    pub(crate) fn give_back(&self, database: u32) {
        for place in &self.places {
            if place.database.load(Ordering::Acquire) == database {
                place.since_ms.store(0, Ordering::Relaxed);
                place.database.store(0, Ordering::Release);
            }
        }
    }

    /// The requests of a database.
    pub(crate) fn of(&self, database: pg_sys::Oid) -> Vec<Request> {
        self.places
            .iter()
            .filter(|place| place.database.load(Ordering::Acquire) == database.to_u32())
            .filter_map(Place::request)
            .collect()
    }
}

/// What the worker shows, in its own memory.
pub(crate) struct Shown {
    area: &'static InFlight,
    database: pg_sys::Oid,
    /// Places of this worker without a request.
    free: Vec<u32>,
    /// Place by token. Tokens are small numbers that are used again.
    of: Vec<u32>,
    /// No place was free a moment ago.
    pauses: Pauses,
}

impl Shown {
    pub(crate) fn new(area: &'static InFlight, database: pg_sys::Oid) -> Self {
        Self {
            area,
            database,
            free: Vec::new(),
            of: Vec::new(),
            pauses: Pauses::default(),
        }
    }

    /// A request is handed over. Where its phase is to be told.
    pub(crate) fn begins(
        &mut self,
        token: u64,
        webhook: Uuid,
        delivery: Uuid,
        now: Now,
    ) -> Progress {
        let Ok(token) = usize::try_from(token) else {
            return Progress::default();
        };
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.pauses.left(LOOK, now.mono_ms) > 0 => return Progress::default(),
            None => match self.area.take(self.database) {
                Some(number) => number,
                None => {
                    self.pauses.begin(LOOK, now.mono_ms);
                    return Progress::default();
                }
            },
        };
        if self.of.len() <= token {
            self.of.resize(token + 1, NONE);
        }
        self.of[token] = number;
        let place = &self.area.places[number as usize];
        // Nobody sees these with the time of the request before.
        fence(Ordering::Release);
        place.phase.store(Phase::Queued as u8, Ordering::Relaxed);
        store(webhook, &place.webhook);
        store(delivery, &place.delivery);
        place.since_ms.store(now.unix_ms.max(1), Ordering::Release);
        Progress::at(&place.phase)
    }

    /// Its outcome is there.
    pub(crate) fn ended(&mut self, token: u64) {
        let number = usize::try_from(token)
            .ok()
            .and_then(|token| self.of.get_mut(token))
            .map_or(NONE, |number| std::mem::replace(number, NONE));
        if number != NONE {
            self.area.places[number as usize]
                .since_ms
                .store(0, Ordering::Release);
            self.free.push(number);
        }
    }
}
