//! What the worker does now and then: cancels what waits for deleted webhooks, removes what retention lets
//! go, reports. All in bounded steps.

use super::retention::{Pass, Progress};
use super::{UPKEEP, Worker};
use crate::seam::clock;
use crate::seam::sql::{self, Statement};
use crate::seam::transaction::{Isolation, transaction};
use pgrx::pg_sys;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Deliveries cancelled in one transaction.
const STEP: i64 = 1_000;
/// Time between the beginnings of two steps while there is more to cancel.
const STEP_MS: u64 = 50;
/// Steps of retention take at most the so-manyth part of the time: removing an event costs a tenth of what delivering it
/// does, so that this is enough for as many as can be delivered.
const RETENTION_SHARE: u32 = 5;
/// Longest time until the next one, however long one took.
const RETENTION_PAUSE: Duration = Duration::from_secs(1);
/// Time between two looks whether reports or a pass of retention are due.
pub(super) const LOOK_MS: u64 = 1_000;
/// Longest time between two passes of retention.
const PASS_MS: u64 = 60_000;

static CANCEL: Statement = Statement::new(
    c"WITH gone AS (
          DELETE FROM webhooks.queue q
           WHERE q.id IN (SELECT id FROM webhooks.queue WHERE webhook_id = $1 ORDER BY seq LIMIT $2 FOR UPDATE SKIP LOCKED)
          RETURNING *)
      INSERT INTO webhooks.delivery (id, event_id, webhook_id, state, attempts, created_at, completed_at, status, error)
      SELECT id, event_id, webhook_id, 'cancelled', attempts, created_at, pg_catalog.clock_timestamp(), last_status, last_error
        FROM gone
      ON CONFLICT (id) DO NOTHING",
    &[pg_sys::UUIDOID, pg_sys::INT8OID],
);
static IS_DELETED: Statement = Statement::new(
    c"SELECT EXISTS (SELECT FROM webhooks.deleted_webhook WHERE id = $1)",
    &[pg_sys::UUIDOID],
);
static FORGET_WEBHOOK: Statement = Statement::new(
    c"WITH stats AS (DELETE FROM webhooks.webhook_stats WHERE webhook_id = $1)
      DELETE FROM webhooks.disabled WHERE webhook_id = $1",
    &[pg_sys::UUIDOID],
);
/// What upkeep remembers.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Deleted webhooks whose waiting deliveries are to be cancelled.
    cancelling: VecDeque<Uuid>,
    /// Where retention stands; `None`: at rest.
    pass: Option<Pass>,
    progress: Progress,
    passed_ms: u64,
    /// When the next step is due, if there is more to do.
    step_ms: u64,
    looked_ms: u64,
}

impl Upkeep {
    /// What waits for this webhook is to be cancelled.
    pub(super) fn cancel(&mut self, webhook: Uuid) {
        self.cancelling.push_back(webhook);
        self.step_ms = 0;
    }

    /// When there is something to do, in milliseconds from `now`.
    pub(super) fn next_ms(&self, now: u64) -> u64 {
        let looking = (self.looked_ms + LOOK_MS).saturating_sub(now);
        let stepping = if !self.cancelling.is_empty() || self.pass.is_some() {
            self.step_ms.saturating_sub(now)
        } else {
            u64::MAX
        };
        looking.min(stepping)
    }
}

impl Worker {
    /// Whether there is something to do.
    pub(super) fn upkeep_is_due(&self) -> bool {
        let now = clock::mono_ms();
        self.upkeep.next_ms(now) == 0 && self.pauses.left(UPKEEP, now) == 0
    }

    /// Does a step of whatever is due.
    pub(super) fn upkeep(&mut self) {
        let now = clock::mono_ms();
        if now >= self.upkeep.step_ms {
            let mut pause = STEP_MS;
            let began = Instant::now();
            // A row that is yet to be written must not come behind the cancellation.
            let written = self.unwritten() == 0;
            if let Some(webhook) = self.upkeep.cancelling.front().copied().filter(|_| written) {
                self.cancel_step(webhook);
            } else if self.upkeep.pass.is_some() {
                self.retention_step();
                let pace = (RETENTION_SHARE * began.elapsed()).min(RETENTION_PAUSE);
                pause = pace.as_millis() as u64 + 1;
            }
            self.upkeep.step_ms = now + pause;
        }
        if now >= self.upkeep.looked_ms + LOOK_MS {
            self.upkeep.looked_ms = now;
            let retention_ms =
                u64::try_from(self.settings.retention.as_millis()).unwrap_or(u64::MAX);
            let every = (retention_ms / 20).clamp(LOOK_MS, PASS_MS);
            // Beside a poll, so that an idle worker runs nothing between two of them.
            let polled = now < self.polled_ms + LOOK_MS;
            let due = polled && now >= self.upkeep.passed_ms + every;
            // Events come before what needs them, when a dump is restored.
            if self.upkeep.pass.is_none() && due && !self.definitions.awaited {
                self.upkeep.passed_ms = now;
                let retention_ms = i64::try_from(retention_ms).unwrap_or(i64::MAX);
                let before_ms = clock::unix_ms().saturating_sub(retention_ms);
                let progress = self.upkeep.progress.clone();
                self.upkeep.pass = Some(Pass::new(before_ms, progress, now));
            }
            self.report();
            self.write_key_uses();
        }
    }

    fn cancel_step(&mut self, webhook: Uuid) {
        let done = transaction(c"cancel", Isolation::ReadCommitted, || {
            sql::connect(|spi| {
                let deleted = || spi.read(&IS_DELETED, &[sql::uuid(webhook)]).get(0, 1);
                // A webhook that a dump may bring yet is none that was deleted.
                if self.definitions.is_restoring(self.slot) && deleted() != Some(true) {
                    return 0;
                }
                let moved = spi
                    .write(&CANCEL, &[sql::uuid(webhook), sql::arg(STEP)])
                    .len();
                if (moved as i64) < STEP {
                    spi.write(&FORGET_WEBHOOK, &[sql::uuid(webhook)]);
                }
                moved
            })
        });
        match done {
            Ok(moved) if (moved as i64) < STEP => {
                self.upkeep.cancelling.pop_front();
            }
            Ok(_) => {}
            Err(error) => {
                self.upkeep.cancelling.rotate_left(1);
                self.rolled_back(UPKEEP, "cancel", &error);
            }
        }
    }

    fn retention_step(&mut self) {
        let Some(mut pass) = self.upkeep.pass.take() else {
            return;
        };
        let done = transaction(c"retention", Isolation::RepeatableRead, || {
            // A dump may bring what needs them. Asked under the snapshot, which sees no row of one that is not known.
            let keep_events = self.definitions.is_restoring(self.slot);
            sql::connect(|spi| pass.step(spi, keep_events))
        });
        match done {
            Ok(true) => self.upkeep.pass = Some(pass),
            Ok(false) => self.upkeep.progress = pass.into_progress(),
            Err(error) => self.rolled_back(UPKEEP, "retention", &error),
        }
    }
}
