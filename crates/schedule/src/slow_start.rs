//! How many requests at once an endpoint gets after it has asked for a pause.
//!
//! Deliveries that are refused lose an attempt each. With the default policy the third refusal is the last, so no delivery may
//! be refused in every period of a receiver that allows `n` requests in each. Those that were refused go first in the next
//! period; if they are no more than `n`, all of them pass. So there may never be more at once than the receiver has shown
//! that it allows: one, and another for every [`ACCEPTED_EACH`] that were accepted since the pause.

/// Requests that must have been accepted since the pause for each further one at once.
const ACCEPTED_EACH: u32 = 4;

/// Since the end of a pause.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct SlowStart {
    accepted: u32,
}

impl SlowStart {
    /// Most requests at once.
    pub(crate) fn at_once(self) -> u32 {
        1 + self.accepted / ACCEPTED_EACH
    }

    /// Whether it is not known yet that the receiver accepts anything again.
    pub(crate) fn is_probing(self) -> bool {
        self.accepted == 0
    }

    /// The receiver has accepted a request. `None`: it gets as many at once as any.
    pub(crate) fn accept(self, concurrent: u32) -> Option<Self> {
        let next = Self {
            accepted: self.accepted.saturating_add(1),
        };
        (next.at_once() < concurrent).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_more_at_once_for_every_four_that_were_accepted() {
        let mut slow = Some(SlowStart::default());
        let mut at_once = Vec::new();
        while let Some(it) = slow {
            at_once.push(it.at_once());
            slow = it.accept(5);
        }
        assert_eq!(at_once, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4]);
    }

    #[test]
    fn one_at_a_time_is_all_there_is_where_no_more_are_allowed() {
        assert_eq!(SlowStart::default().accept(1), None);
    }
}
