//! What the requests of one delivery thread share: connections that wait, and spellings of header names. A lock here is never
//! waited for; it is there because tasks may move between threads as far as their types know.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::Extensions;

use crate::kept::{Kept, Place, usable_until};
use crate::pool::Limits;
use crate::spelling;
use crate::sync::lock;
use crate::wire::Wire;

/// How many lists of names are remembered: there are few, and others after a reload.
const SPELLINGS: usize = 8;

/// How connections were come by, over all threads, since the pool was started.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) opened: AtomicU64,
    pub(crate) handshakes: AtomicU64,
    pub(crate) reused: AtomicU64,
}

/// One thread's belongings.
pub(crate) struct Desk {
    pub(crate) limits: Limits,
    kept: Mutex<Kept<Wire>>,
    spellings: Mutex<Vec<Spelled>>,
    counts: Arc<Counts>,
}

/// Names as they are to be spelled, and what a request carries for that.
type Spelled = (Vec<String>, Extensions);

impl Desk {
    pub(crate) fn new(limits: Limits, most_kept: usize, counts: Arc<Counts>) -> Desk {
        Desk {
            limits,
            kept: Mutex::new(Kept::new(most_kept)),
            spellings: Mutex::default(),
            counts,
        }
    }

    pub(crate) fn take(&self, place: &Place, to: &[IpAddr]) -> Option<Wire> {
        let found = lock(&self.kept).take(Instant::now(), place, to);
        if found.is_some() {
            self.counts.reused.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// Keeps a connection that has answered.
    pub(crate) fn keep(&self, place: Place, wire: Wire, announced: Option<Duration>) {
        if let Some(until) = usable_until(Instant::now(), wire.born, announced) {
            let peer = wire.peer;
            let gone = lock(&self.kept).put(place, peer, until, wire);
            // Closed without the lock.
            drop(gone);
        }
    }

    pub(crate) fn forget(&self, place: &Place) {
        lock(&self.kept).forget(place);
    }

    pub(crate) fn forget_all(&self) {
        lock(&self.kept).clear();
    }

    /// Closes what has waited too long. Whether anything is left.
    pub(crate) fn sweep(&self) -> bool {
        lock(&self.kept).sweep(Instant::now())
    }

    pub(crate) fn has_opened(&self, tls: bool) {
        self.counts.opened.fetch_add(1, Ordering::Relaxed);
        if tls {
            self.counts.handshakes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How to spell the names of a request.
    pub(crate) async fn spelling(&self, headers: &[(String, String)]) -> Extensions {
        let names = || headers.iter().map(|(name, _)| name.as_str());
        let is_it = |(known, _): &&Spelled| known.iter().map(String::as_str).eq(names());
        if let Some((_, made)) = lock(&self.spellings).iter().find(is_it) {
            return made.clone();
        }
        let made = Box::pin(spelling::of(names())).await;
        let mut spellings = lock(&self.spellings);
        if spellings.len() >= SPELLINGS {
            spellings.clear();
        }
        spellings.push((names().map(str::to_owned).collect(), made.clone()));
        made
    }
}
