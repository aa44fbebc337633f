//! Connections that wait for their next request, by scheme and authority. Runs on delivery threads.
//!
//! ureq has a pool of its own, which is switched off: it counts the connections of every host twice per request, under one
//! lock (figures in `crates/deliver/examples/throughput.rs`). Here a connection is found by hash. There is no bound by host:
//! a host never has more connections that wait than it had requests at once, and the one that waits longest goes first.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ureq::http::uri::Authority;

use crate::sync::lock;
use crate::transport::Wire;

/// Where a connection leads: whether by TLS, and host and port as the URL spells them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) tls: bool,
    pub(crate) authority: Authority,
}

/// How long a connection may wait. Node and Apache close theirs after 5 s, nginx after 75 s.
const IDLE: Duration = Duration::from_secs(15);
/// How often waiting connections are looked through for those that waited too long.
const SWEEP: Duration = Duration::from_secs(1);

/// A connection, and since when it waits.
type Waiting = (Instant, Box<Wire>);

/// The connections that wait.
#[derive(Debug)]
pub(crate) struct Kept {
    shelf: Mutex<Shelf>,
    most: usize,
}

#[derive(Debug)]
struct Shelf {
    places: HashMap<Place, Vec<Waiting>>,
    total: usize,
    closed: bool,
    swept: Instant,
}

impl Kept {
    /// Keeps at most `most` connections.
    pub(crate) fn new(most: usize) -> Kept {
        let shelf = Shelf {
            places: HashMap::new(),
            total: 0,
            closed: false,
            swept: Instant::now(),
        };
        Kept {
            shelf: Mutex::new(shelf),
            most,
        }
    }

    /// The connection that came back last, if its peer still holds it too.
    pub(crate) fn take(&self, place: &Place) -> Option<Box<Wire>> {
        loop {
            let (since, mut wire) = {
                let mut shelf = lock(&self.shelf);
                let waiting = shelf.places.get_mut(place)?;
                let found = waiting.pop();
                if waiting.is_empty() {
                    shelf.places.remove(place);
                }
                shelf.total -= usize::from(found.is_some());
                found?
            };
            if since.elapsed() < IDLE && wire.is_usable() {
                return Some(wire);
            }
        }
    }

    /// Takes a connection that has no answer outstanding.
    pub(crate) fn put(&self, place: &Place, wire: Box<Wire>) {
        let now = Instant::now();
        let mut shelf = lock(&self.shelf);
        if shelf.closed {
            return;
        }
        let mut surplus = Vec::new();
        if now.duration_since(shelf.swept) >= SWEEP {
            shelf.sweep(now, &mut surplus);
        }
        if shelf.total >= self.most {
            surplus.extend(shelf.remove_oldest());
        }
        let waiting = match shelf.places.get_mut(place) {
            Some(waiting) => waiting,
            None => shelf.places.entry(place.clone()).or_default(),
        };
        waiting.push((now, wire));
        shelf.total += 1;
        drop(shelf);
        // `surplus` is dropped here: closing a socket is a system call, and needs no lock.
    }

    /// Closes what has waited too long; for when no request comes by to do it.
    pub(crate) fn sweep(&self) {
        let mut surplus = Vec::new();
        lock(&self.shelf).sweep(Instant::now(), &mut surplus);
    }

    /// Closes all that wait, and takes none back.
    pub(crate) fn close(&self) {
        lock(&self.shelf).closed = true;
        self.clear();
    }

    /// Closes all that wait.
    pub(crate) fn clear(&self) {
        let mut shelf = lock(&self.shelf);
        shelf.total = 0;
        let places = std::mem::take(&mut shelf.places);
        drop(shelf);
        drop(places);
    }
}

impl Shelf {
    fn sweep(&mut self, now: Instant, surplus: &mut Vec<Waiting>) {
        self.swept = now;
        self.places.retain(|_, waiting| {
            // Each place is ordered by age: the last to come is the first to go.
            let fresh = waiting.partition_point(|(since, _)| now.duration_since(*since) >= IDLE);
            surplus.extend(waiting.drain(..fresh));
            !waiting.is_empty()
        });
        self.total = self.places.values().map(Vec::len).sum();
    }

    fn remove_oldest(&mut self) -> Option<Waiting> {
        let place = self
            .places
            .iter()
            .filter_map(|(place, waiting)| Some((waiting.first()?.0, place)))
            .min_by_key(|(since, _)| *since)
            .map(|(_, place)| place.clone())?;
        let waiting = self.places.get_mut(&place)?;
        let oldest = waiting.remove(0);
        if waiting.is_empty() {
            self.places.remove(&place);
        }
        self.total -= 1;
        Some(oldest)
    }
}
