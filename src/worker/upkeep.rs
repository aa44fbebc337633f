//! What the worker does now and then: cancels what waits for deleted webhooks, removes what retention lets
//! go, reports. All in bounded steps.

use super::{UPKEEP, Worker};
use crate::seam::clock;
use crate::seam::sql::{self, Connection, Statement};
use crate::seam::transaction::{Isolation, transaction};
use pgrx::pg_sys;
use std::collections::VecDeque;
use uuid::Uuid;

/// Rows removed or cancelled in one transaction.
const STEP: i64 = 1_000;
/// Time between the beginnings of two steps while there is more to do.
const STEP_MS: u64 = 50;
/// While events wait to be read, those of retention take at most the so-manyth part of the time.
const RETENTION_SHARE: u64 = 20;
/// Longest time until the next one, however long one took.
const RETENTION_PAUSE_MS: u64 = 1_000;
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
static FORGET_WEBHOOK: Statement = Statement::new(
    c"WITH stats AS (DELETE FROM webhooks.webhook_stats WHERE webhook_id = $1)
      DELETE FROM webhooks.disabled WHERE webhook_id = $1",
    &[pg_sys::UUIDOID],
);
/// Forgets deleted webhooks of which nothing is logged any more.
static FORGET_DELETED: Statement = Statement::new(
    c"DELETE FROM webhooks.deleted_webhook t
       WHERE t.id IN (SELECT g.id FROM webhooks.deleted_webhook g
                       WHERE g.deleted_at < $1
                         AND NOT EXISTS (SELECT FROM webhooks.delivery d WHERE d.webhook_id = g.id)
                         AND NOT EXISTS (SELECT FROM webhooks.queue q WHERE q.webhook_id = g.id)
                       LIMIT $2 FOR UPDATE SKIP LOCKED)",
    &[pg_sys::TIMESTAMPTZOID, pg_sys::INT8OID],
);
/// Removes ended deliveries of one page of ids; returns the last id of the page.
static RETAIN_DELIVERIES: Statement = Statement::new(
    c"WITH page AS MATERIALIZED (
          SELECT id, completed_at FROM webhooks.delivery
           WHERE id > $1 AND id < $2 ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED),
      gone AS (
          DELETE FROM webhooks.delivery d USING page p
           WHERE d.id = p.id AND p.completed_at < $3
          RETURNING d.id),
      attempts AS (
          DELETE FROM webhooks.attempt a USING gone g WHERE a.delivery_id = g.id)
      SELECT id FROM page ORDER BY id DESC LIMIT 1",
    &[
        pg_sys::UUIDOID,
        pg_sys::UUIDOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INT8OID,
    ],
);
static EVENT_PAGE: Statement = Statement::new(
    c"SELECT id FROM webhooks.event WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3
         FOR UPDATE SKIP LOCKED",
    &[pg_sys::UUIDOID, pg_sys::UUIDOID, pg_sys::INT8OID],
);
/// Removes events that no delivery, waiting or logged, and no outbox row refers to.
static RETAIN_EVENTS: Statement = Statement::new(
    c"DELETE FROM webhooks.event e
       USING ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) AS u(id, low, high)
       WHERE e.id = u.id
         AND NOT EXISTS (SELECT FROM webhooks.delivery d WHERE d.id BETWEEN u.low AND u.high AND d.event_id = u.id)
         AND NOT EXISTS (SELECT FROM webhooks.queue q WHERE q.id BETWEEN u.low AND u.high AND q.event_id = u.id)
         AND NOT EXISTS (SELECT FROM webhooks.outbox o WHERE o.id = u.id)",
    &[pg_sys::UUIDARRAYOID, pg_sys::UUIDARRAYOID, pg_sys::UUIDARRAYOID],
);
/// What upkeep remembers.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Deleted webhooks whose waiting deliveries are to be cancelled.
    cancelling: VecDeque<Uuid>,
    /// Where retention stands; `None`: at rest.
    pass: Option<Pass>,
    passed_ms: u64,
    /// When the next step is due, if there is more to do.
    step_ms: u64,
    looked_ms: u64,
}

/// One removal of what is old by then: if it went by the clock all the time, it would not end as long as there are events.
#[derive(Clone, Copy)]
struct Pass {
    /// What ended before then may go, Unix milliseconds.
    before_ms: i64,
    stage: Stage,
    after: Uuid,
}

/// Events go when what refers to them has gone.
#[derive(Clone, Copy)]
enum Stage {
    Deliveries,
    Events,
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
            // A row that is yet to be written must not come behind the cancellation.
            let written = self.unwritten() == 0;
            if let Some(webhook) = self.upkeep.cancelling.front().copied().filter(|_| written) {
                self.cancel_step(webhook);
            } else if self.upkeep.pass.is_some() {
                self.retention_step();
                if self.position.has_more() {
                    let took = clock::mono_ms().saturating_sub(now) + 1;
                    pause = (RETENTION_SHARE * took).clamp(STEP_MS, RETENTION_PAUSE_MS);
                }
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
                self.upkeep.pass = Some(Pass {
                    before_ms: clock::unix_ms().saturating_sub(retention_ms),
                    stage: Stage::Deliveries,
                    after: Uuid::nil(),
                });
            }
            self.report();
            self.write_key_uses();
        }
    }

    fn cancel_step(&mut self, webhook: Uuid) {
        let done = transaction(c"cancel", Isolation::ReadCommitted, || {
            sql::connect(|spi| {
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
        let Some(pass) = self.upkeep.pass else { return };
        let (before_ms, stage, after) = (pass.before_ms, pass.stage, pass.after);
        let floor = webhooks_core::id::floor_of(u64::try_from(before_ms).unwrap_or(0));
        // Events are older than their deliveries: while the outbox is not read, none may go. Nor while a dump may bring
        // what needs them.
        let behind = self.position.has_more() || self.definitions.is_restoring();
        let next = transaction(c"retention", Isolation::ReadCommitted, || {
            sql::connect(|spi| match stage {
                Stage::Deliveries => {
                    let args = [
                        sql::uuid(after),
                        sql::uuid(floor),
                        sql::time(before_ms),
                        sql::arg(STEP),
                    ];
                    match spi.write(&RETAIN_DELIVERIES, &args).uuid(0, 1) {
                        Some(last) => Some((stage, last)),
                        None if behind => None,
                        None => Some((Stage::Events, Uuid::nil())),
                    }
                }
                Stage::Events => {
                    let next = retain_events(spi, after, floor).map(|last| (stage, last));
                    if next.is_none() {
                        spi.write(&FORGET_DELETED, &[sql::time(before_ms), sql::arg(STEP)]);
                    }
                    next
                }
            })
        });
        match next {
            Ok(next) => {
                self.upkeep.pass = next.map(|(stage, after)| Pass {
                    stage,
                    after,
                    ..pass
                });
            }
            Err(error) => {
                self.upkeep.pass = None;
                self.rolled_back(UPKEEP, "retention", &error);
            }
        }
    }
}

fn retain_events(spi: &Connection, after: Uuid, floor: Uuid) -> Option<Uuid> {
    let rows = spi.write(
        &EVENT_PAGE,
        &[sql::uuid(after), sql::uuid(floor), sql::arg(STEP)],
    );
    let page: Vec<Uuid> = (0..rows.len())
        .filter_map(|row| rows.uuid(row, 1))
        .collect();
    let last = page.last().copied()?;
    let bounds: Vec<(Uuid, Uuid)> = page
        .iter()
        .map(|&id| webhooks_core::id::deliveries_of(id))
        .collect();
    spi.write(
        &RETAIN_EVENTS,
        &[
            sql::uuids(page),
            sql::uuids(bounds.iter().map(|it| it.0)),
            sql::uuids(bounds.iter().map(|it| it.1)),
        ],
    );
    Some(last)
}
