//! Which events are for a webhook, by when they were committed: not those from before it was created, and
//! not those from while it was switched off. Judged when an event is dispatched, which may be long after.

use crate::snapshot::Snapshot;

/// When a webhook was created or switched.
///
/// Clock and snapshot must agree before an event is taken to be on one side of it: a clock can be set back.
/// In doubt the event is delivered. In a restored database the snapshot may be of another cluster, and ahead of
/// all transactions of this one: then the clock decides.
#[derive(Clone, Debug)]
pub struct Moment {
    /// What had been committed by then.
    pub under: Snapshot,
    /// Unix milliseconds.
    pub at_ms: i64,
}

impl Moment {
    /// Whether an event of this transaction and time had certainly been committed by then.
    fn follows(&self, xid: u64, created_ms: i64) -> bool {
        created_ms <= self.at_ms && self.under.sees(xid)
    }

    /// Whether it had certainly not. `next`: the transaction to come in this cluster.
    fn precedes(&self, xid: u64, created_ms: i64, next: u64) -> bool {
        let incomparable = self.under.xmin > next && xid < next;
        created_ms >= self.at_ms && (incomparable || !self.under.sees(xid))
    }
}

/// The moments of a webhook that decide. Of several pauses only the last one is known: an event that waited
/// through more than that may be delivered although it was committed in an earlier one.
#[derive(Clone, Debug, Default)]
pub struct Lifetime {
    /// When it was created.
    pub created: Option<Moment>,
    /// When it was last switched off.
    pub paused: Option<Moment>,
    /// When it was last switched on again.
    pub resumed: Option<Moment>,
}

impl Lifetime {
    /// Whether an event of this transaction and time is for the webhook, which is switched on or off now.
    /// `next`: the transaction to come.
    #[must_use]
    pub fn covers(&self, active: bool, xid: u64, created_ms: i64, next: u64) -> bool {
        let follows = |moment: &Option<Moment>| {
            let it = moment.as_ref();
            it.is_some_and(|it| it.follows(xid, created_ms))
        };
        let paused_before = self
            .paused
            .as_ref()
            .is_some_and(|it| it.precedes(xid, created_ms, next));
        let in_pause = paused_before && (!active || follows(&self.resumed));
        !follows(&self.created) && !in_pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEXT: u64 = 10_000;

    /// All transactions below `xid` had ended.
    fn moment(xid: u64, at_ms: i64) -> Option<Moment> {
        Some(Moment {
            under: Snapshot {
                xmin: xid,
                xmax: xid,
                in_progress: Vec::new(),
            },
            at_ms,
        })
    }

    #[test]
    fn an_event_from_before_the_creation_is_not_for_the_webhook() {
        let lifetime = Lifetime {
            created: moment(10, 100),
            ..Lifetime::default()
        };
        assert!(!lifetime.covers(true, 9, 99, NEXT));
        assert!(lifetime.covers(true, 10, 101, NEXT));
        // Started before, committed after.
        assert!(lifetime.covers(true, 10, 99, NEXT));
    }

    #[test]
    fn a_pause_keeps_what_was_committed_before_it_and_leaves_out_what_came_after() {
        let lifetime = Lifetime {
            created: moment(10, 100),
            paused: moment(20, 200),
            resumed: None,
        };
        assert!(lifetime.covers(false, 19, 199, NEXT));
        assert!(!lifetime.covers(false, 20, 200, NEXT));
        // Emitted before, committed after: in doubt it is delivered.
        assert!(lifetime.covers(false, 20, 199, NEXT));
    }

    #[test]
    fn what_was_committed_in_a_pause_stays_left_out_when_it_is_over() {
        let lifetime = Lifetime {
            created: moment(10, 100),
            paused: moment(20, 200),
            resumed: moment(30, 300),
        };
        assert!(lifetime.covers(true, 19, 199, NEXT));
        assert!(!lifetime.covers(true, 25, 250, NEXT));
        assert!(lifetime.covers(true, 30, 300, NEXT));
        // Paused once more: the pause is the later one.
        let again = Lifetime {
            paused: moment(40, 400),
            ..lifetime
        };
        assert!(again.covers(false, 35, 350, NEXT));
        assert!(!again.covers(false, 45, 450, NEXT));
    }

    #[test]
    fn numbers_of_transactions_from_another_cluster_lose_nothing() {
        let lifetime = Lifetime {
            created: moment(1_000, 100),
            paused: moment(1_000, 200),
            resumed: moment(1_000, 300),
        };
        assert!(lifetime.covers(true, 5, 150, NEXT));
        assert!(lifetime.covers(true, 5, 350, NEXT));
        assert!(lifetime.covers(true, 5_000, 150, NEXT));
    }

    #[test]
    fn a_pause_from_a_cluster_that_was_far_ahead_goes_on_in_one_that_is_far_behind() {
        let next = 50;
        let paused = Lifetime {
            created: moment(1_000, 100),
            paused: moment(1_000, 200),
            resumed: None,
        };
        assert!(!paused.covers(false, 5, 250, next));
        // What came with the webhook was judged there.
        assert!(paused.covers(false, 900, 250, next));
        assert!(!paused.covers(false, 1_001, 250, next));
        // From before the pause, though of a transaction that this cluster might have had.
        assert!(paused.covers(false, 5, 150, next));
        let resumed = Lifetime {
            resumed: moment(40, 300),
            ..paused
        };
        assert!(!resumed.covers(true, 5, 250, next));
        assert!(resumed.covers(true, 45, 350, next));
    }
}
