//! Requests that could not be made, for reasons that are not their endpoint's: the log and `webhooks.status` say so, and how
//! many deliveries wait for it. Main thread only.

use super::{Worker, journal};
use crate::seam::clock;
use std::collections::HashMap;
use webhooks_delivery::{Failure, Outcome};
use webhooks_schedule::{Hindrance, NotTried};

/// Time between two times that the log says the same.
const LOG_MS: u64 = 60_000;
/// Time between two times that the status is written.
const STATUS_MS: u64 = 1_000;

/// What has been told.
#[derive(Default)]
pub(super) struct Hindrances {
    /// When the log was last told of each reason, monotonic milliseconds.
    logged_ms: HashMap<String, u64>,
    /// The last reason, until the status says so.
    reason: Option<String>,
    /// When the status was last told.
    noted_ms: Option<u64>,
}

/// Tells an attempt from a request that was not made.
pub(super) fn judge(outcome: Outcome) -> Result<Outcome, NotTried> {
    let hindrance = match &outcome.result {
        Err(Failure::Internal) => Hindrance::Defect,
        Err(failure) if failure.is_exhaustion() => Hindrance::Shortage,
        Err(failure) if failure.is_ours() => Hindrance::OutOfReach,
        _ => return Ok(outcome),
    };
    let reason = outcome.result.err().map(|it| it.to_string());
    Err(NotTried {
        token: outcome.token,
        reason: reason.unwrap_or_default(),
        hindrance,
        started_ms: outcome.started_unix_ms,
    })
}

impl Worker {
    /// A delivery waits again whose request could not be made.
    pub(super) fn take_back(&mut self, it: NotTried) {
        self.hindrances.reason = Some(it.reason.clone());
        let jitter = self.settings.retry_jitter.then(clock::fraction);
        self.scheduler
            .not_tried(it, &self.limits, clock::now(), jitter);
    }

    /// Tells of what has hindered requests, now and then.
    pub(super) fn tell_of_hindrances(&mut self) {
        let now = clock::mono_ms();
        let told = &mut self.hindrances;
        let Some(reason) = &told.reason else {
            return;
        };
        let is_over = |at: Option<&u64>, ms| at.is_none_or(|at| now >= at + ms);
        if !is_over(told.noted_ms.as_ref(), STATUS_MS) {
            return;
        }
        let waiting = self.scheduler.hindered();
        if waiting == 0 {
            told.reason = None;
            return;
        }
        told.noted_ms = Some(now);
        let words = match waiting {
            1 => format!("{reason}: 1 delivery waits, and no attempt is counted"),
            _ => format!("{reason}: {waiting} deliveries wait, and no attempt is counted"),
        };
        if is_over(told.logged_ms.get(reason), LOG_MS) {
            told.logged_ms.insert(reason.clone(), now);
            journal::hindered(&words);
        }
        told.reason = None;
        self.settling.note_error(words);
    }
}
