//! Requests that could not be made, for reasons that are not their endpoint's. They are no attempts: nothing is counted or
//! logged, and the delivery waits in its place.

use super::*;

/// What lasts longer is an attempt that failed, so that no delivery waits for ever. It is counted in memory, for the webhook: a
/// restart begins anew.
const MOST_MS: u64 = 3_600_000;
/// A delivery at which the worker itself has failed so often is passed over.
const DEFECTS_MOST: u8 = 3;
/// How long an endpoint whose request could not be made rests, first and at most. Each time is twice the one before.
const FIRST_REST_MS: u64 = 1_000;
const LONGEST_REST_MS: u64 = 30_000;

/// A request that was not made.
#[derive(Debug)]
pub struct NotTried {
    /// As in the [`Claim`].
    pub token: u64,
    /// Why, for people.
    pub reason: String,
    /// What kind of reason that is.
    pub hindrance: Hindrance,
    /// When it was to start, Unix milliseconds.
    pub started_ms: i64,
}

/// Why a request was not made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hindrance {
    /// The server has no descriptor, thread or memory for it: none can be made, so all webhooks wait.
    Shortage,
    /// Something that it needs is out of reach, such as name servers: its webhook alone waits.
    OutOfReach,
    /// The worker itself has failed: the fault lies in this delivery, or in the worker.
    Defect,
}

impl Scheduler {
    /// Takes back a delivery whose request was not made. Whether it waits to be tried again; else it was counted as an attempt
    /// that failed, or has ended. `limits` and `jitter` as in [`Scheduler::ended`].
    pub fn not_tried(
        &mut self,
        it: NotTried,
        limits: &Limits,
        now: Now,
        jitter: Option<f64>,
    ) -> bool {
        let Ok(key) = usize::try_from(it.token) else {
            return false;
        };
        let Some(delivery) = self.deliveries.get_mut(key) else {
            return false;
        };
        if !matches!(delivery.place, Place::InFlight { .. }) {
            return false;
        }
        let index = delivery.endpoint;
        if it.hindrance == Hindrance::Shortage {
            self.shortage.failed(self.in_flight - 1, now.mono_ms);
        } else {
            self.rest(index, now);
        }
        self.deliveries[key].hindered = true;
        if self.hindered_ms(key, now) >= MOST_MS {
            let ended = Ended {
                token: it.token,
                result: verdict::Ended::Error(it.reason),
                timed_out: false,
                started_ms: it.started_ms,
                duration_ms: 0,
                excerpt: None,
                remark: None,
            };
            self.end_attempt(ended, limits, now, jitter);
            return false;
        }
        let delivery = &mut self.deliveries[key];
        delivery.defects += u8::from(it.hindrance == Hindrance::Defect);
        self.leave_flight(key);
        let delivery = &self.deliveries[key];
        if delivery.cancelled {
            // Its webhook was deleted meanwhile.
            self.conclude(key, How::Late, None, now.unix_ms);
            return false;
        }
        if delivery.defects >= DEFECTS_MOST {
            self.quarantine(key, it.reason, now);
            return false;
        }
        self.stand_back(index, key);
        self.list(index);
        true
    }

    /// How many deliveries in memory wait since a request could not be made.
    #[must_use]
    pub fn hindered(&self) -> usize {
        self.deliveries.iter().filter(|(_, it)| it.hindered).count()
    }

    /// For how long a delivery could not be tried: since its webhook's requests cannot be made, but no longer than its attempt
    /// has been due.
    fn hindered_ms(&mut self, key: usize, now: Now) -> u64 {
        let delivery = &self.deliveries[key];
        let state = &mut self.endpoints[delivery.endpoint];
        let since_ms = *state.hindered_since_ms.get_or_insert(now.mono_ms);
        let due_for = now.unix_ms.saturating_sub(delivery.since_ms);
        now.mono_ms
            .saturating_sub(since_ms)
            .min(u64::try_from(due_for).unwrap_or(0))
    }

    /// A request of an endpoint was made, whatever came of it: nothing hinders it any more.
    pub(super) fn was_made(&mut self, ended: &Ended) {
        let key = usize::try_from(ended.token).unwrap_or(usize::MAX);
        if let Some(delivery) = self.deliveries.get(key)
            && matches!(delivery.place, Place::InFlight { .. })
        {
            let state = &mut self.endpoints[delivery.endpoint];
            state.rest_ms = 0;
            state.hindered_since_ms = None;
        }
    }

    /// An endpoint starts nothing for a while.
    fn rest(&mut self, index: usize, now: Now) {
        let state = &mut self.endpoints[index];
        if state.held {
            return;
        }
        state.rest_ms = (state.rest_ms * 2).clamp(FIRST_REST_MS, LONGEST_REST_MS);
        state.held = true;
        let until_ms = now.mono_ms + state.rest_ms;
        self.held.push(Reverse((until_ms, index)));
    }

    /// A delivery that was under way waits again.
    fn stand_back(&mut self, index: usize, key: usize) {
        let delivery = &self.deliveries[key];
        let state = &self.endpoints[index];
        if state.definition.keeps_back(&delivery.event.event_type) {
            self.leave_to_rows(index, key);
        } else {
            self.reenter_ready(index, key);
        }
        if self.endpoints[index].definition.is_paused() {
            self.give_back(index);
        }
    }

    /// A delivery is passed over from now on, until somebody has looked at it. It keeps its row, or gets one.
    fn quarantine(&mut self, key: usize, error: String, now: Now) {
        if let Some(group) = self.deliveries[key].group {
            self.flush(group, now);
        }
        let delivery = &self.deliveries[key];
        let quarantine = Quarantine {
            delivery: delivery.id,
            webhook: self.endpoints[delivery.endpoint].definition.id,
            error,
        };
        self.forget(key);
        // Until it is written its row may be read.
        self.settling.insert(quarantine.delivery);
        self.done.push(Unit {
            quarantine: Some(quarantine),
            ..Unit::default()
        });
    }
}
