//! The order in which an endpoint's deliveries start.
//!
//! `ready` is sorted by [`Rank`]; within a rank the order is that of coming.

use super::*;

/// What goes before what.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Rank {
    /// A user wants it now. Alone these start while the endpoint has asked for a pause.
    Wanted,
    /// It was refused for reasons of load. The more attempts it has had, the fewer it may lose.
    Refused(Reverse<u32>),
    /// All others.
    Other,
}

impl Delivery {
    fn rank(&self) -> Rank {
        // A test that was refused was sent without waiting, and is tried again like all others.
        if self.wanted || (self.event.event_type == TEST && !self.refused) {
            Rank::Wanted
        } else if self.refused {
            Rank::Refused(Reverse(self.attempts - self.attempts_before))
        } else {
            Rank::Other
        }
    }

    /// Whether a pause is nothing to it.
    pub(super) fn is_wanted(&self) -> bool {
        self.rank() == Rank::Wanted
    }
}

impl Scheduler {
    /// Where in `ready` the delivery stands that an endpoint attempts next; `None`: nothing may start.
    ///
    /// The first request after a pause finds out whether it is over. If it was not the last time, of those that were refused the
    /// one is taken that has the most attempts left.
    pub(super) fn next_of(&self, index: usize) -> Option<usize> {
        let state = self.endpoints.get(index)?;
        let first = self.deliveries[*state.ready.front()?].rank();
        if state.definition.is_paused() && first != Rank::Wanted {
            return None;
        }
        let probes = state.slow_start.is_some_and(SlowStart::is_probing);
        match first {
            Rank::Refused(_) if probes && state.was_too_short => {
                let refused = |&key: &usize| self.deliveries[key].rank() < Rank::Other;
                Some(state.ready.partition_point(refused).saturating_sub(1))
            }
            _ => Some(0),
        }
    }

    /// Puts a delivery behind those of its rank.
    pub(super) fn enter_ready(&mut self, index: usize, key: usize) {
        let rank = self.deliveries[key].rank();
        let ready = &mut self.endpoints[index].ready;
        if rank == Rank::Other {
            ready.push_back(key);
            return;
        }
        let place = ready.partition_point(|&other| self.deliveries[other].rank() <= rank);
        ready.insert(place, key);
    }

    /// Puts a delivery back where it stood, before those of its rank that came after it.
    pub(super) fn reenter_ready(&mut self, index: usize, key: usize) {
        let (rank, seq) = (self.deliveries[key].rank(), self.deliveries[key].seq);
        let ready = &mut self.endpoints[index].ready;
        let mut place = ready.partition_point(|&other| self.deliveries[other].rank() < rank);
        while let Some(&other) = ready.get(place)
            && self.deliveries[other].rank() == rank
            && self.deliveries[other].seq < seq
        {
            place += 1;
        }
        ready.insert(place, key);
        let delivery = &mut self.deliveries[key];
        delivery.place = Place::Ready;
        self.ready += 1;
        self.ready_bytes += delivery.event.data.len();
    }

    /// A user wants a delivery that is in memory now.
    pub(super) fn want(&mut self, key: usize) {
        let delivery = &mut self.deliveries[key];
        let (id, index) = (delivery.id, delivery.endpoint);
        match delivery.place {
            Place::InFlight { .. } => {}
            Place::Ready => {
                delivery.wanted = true;
                self.endpoints[index].ready.retain(|&other| other != key);
                self.enter_ready(index, key);
                self.list(index);
            }
            Place::Waiting { bare: true, .. } => {
                let webhook = self.endpoints[index].definition.id;
                self.forget(key);
                let delivery = id;
                self.fetch_hurried(Hurried { delivery, webhook });
            }
            Place::Waiting { .. } => {
                delivery.wanted = true;
                self.fire(key, id);
            }
        }
    }
}
