//! What the worker does now and then: cancels what waits for deleted webhooks, removes what retention lets
//! go, emits system.health and analytics.update. All in bounded steps.

use super::{UPKEEP, Worker};
use crate::emit::store::{NewEvent, Store};
use crate::seam::clock;
use crate::seam::sql::{self, Connection, Rows, Statement};
use crate::seam::transaction::{Isolation, transaction};
use pgrx::pg_sys;
use std::collections::{BTreeSet, HashMap, VecDeque};
use uuid::Uuid;
use webhooks_core::time::iso_millis;
use webhooks_schedule::{How, Unit};

/// Rows removed or cancelled in one transaction.
const STEP: i64 = 1_000;
/// Time between two steps while there is more to do.
const STEP_MS: u64 = 50;
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
static SINCE: Statement = Statement::new(
    c"SELECT health_at, analytics_at FROM webhooks.worker_state",
    &[],
);
static NOTE_HEALTH: Statement = Statement::new(
    c"UPDATE webhooks.worker_state SET health_at = $1",
    &[pg_sys::TIMESTAMPTZOID],
);
static NOTE_ANALYTICS: Statement = Statement::new(
    c"UPDATE webhooks.worker_state SET analytics_at = $1",
    &[pg_sys::TIMESTAMPTZOID],
);
static HEALTH: Statement = Statement::new(
    c"SELECT s.backlog, s.oldest_pending_seconds,
             (SELECT pg_catalog.count(*)::int8 FROM pg_catalog.pg_stat_activity a WHERE a.datname = pg_catalog.current_database()
                 AND a.backend_type = 'client backend'),
             pg_catalog.pg_database_size(pg_catalog.current_database())
        FROM webhooks.status s",
    &[],
);
/// For each owner that has any, and (`everybody`) over all: events by type.
static EVENTS_BY_TYPE: Statement = Statement::new(
    c"SELECT e.owner, GROUPING(e.owner) = 1 AS everybody, e.type, pg_catalog.count(*)::int8
        FROM webhooks.event e
       WHERE e.id >= $1 AND e.id < $2 AND e.target IS NULL
       GROUP BY GROUPING SETS ((e.owner, e.type), (e.type)) ORDER BY e.type",
    &[pg_sys::UUIDOID, pg_sys::UUIDOID],
);
/// The same of deliveries that have ended; those of webhooks that were deleted are nobody's.
static DELIVERIES_BY_OWNER: Statement = Statement::new(
    c"SELECT w.owner, GROUPING(w.owner) = 1 AS everybody,
             pg_catalog.count(*) FILTER (WHERE d.state = 'delivered'),
             pg_catalog.count(*) FILTER (WHERE d.state = 'failed'),
             pg_catalog.percentile_disc(0.50) WITHIN GROUP (ORDER BY d.duration_ms)::int8,
             pg_catalog.percentile_disc(0.95) WITHIN GROUP (ORDER BY d.duration_ms)::int8,
             pg_catalog.percentile_disc(0.99) WITHIN GROUP (ORDER BY d.duration_ms)::int8
        FROM webhooks.delivery d
        LEFT JOIN webhooks.webhook w ON w.id = d.webhook_id
       WHERE d.completed_at >= $1 AND d.completed_at < $2
       GROUP BY GROUPING SETS ((w.owner), ())",
    &[pg_sys::TIMESTAMPTZOID, pg_sys::TIMESTAMPTZOID],
);
static ACTIVE_BY_OWNER: Statement = Statement::new(
    c"SELECT w.owner, GROUPING(w.owner) = 1 AS everybody, pg_catalog.count(*)
        FROM webhooks.webhook w
        LEFT JOIN webhooks.disabled x ON x.webhook_id = w.id AND x.activation = w.activation
       WHERE w.active AND x.webhook_id IS NULL
       GROUP BY GROUPING SETS ((w.owner), ())",
    &[],
);

/// What upkeep remembers.
#[derive(Default)]
pub(super) struct Upkeep {
    /// Deleted webhooks whose waiting deliveries are to be cancelled.
    cancelling: VecDeque<Uuid>,
    /// Where retention stands: deliveries, then events. `None`: at rest.
    pass: Option<Pass>,
    passed_ms: u64,
    stepped_ms: u64,
    health_at_ms: Option<i64>,
    analytics_at_ms: Option<i64>,
    reported: bool,
    looked_ms: u64,
    /// Ends of the last minute: when (monotonic), delivered, failed.
    minute: VecDeque<(u64, u32, u32)>,
}

#[derive(Clone, Copy)]
enum Pass {
    Deliveries(Uuid),
    Events(Uuid),
}

impl Upkeep {
    /// What waits for this webhook is to be cancelled.
    pub(super) fn cancel(&mut self, webhook: Uuid) {
        self.cancelling.push_back(webhook);
        self.stepped_ms = 0;
    }

    /// When there is something to do, in milliseconds from `now`.
    pub(super) fn next_ms(&self, now: u64) -> u64 {
        let looking = (self.looked_ms + 1_000).saturating_sub(now);
        let stepping = if !self.cancelling.is_empty() || self.pass.is_some() {
            (self.stepped_ms + STEP_MS).saturating_sub(now)
        } else {
            u64::MAX
        };
        looking.min(stepping)
    }

    /// Counts what ended, for the figures per minute.
    pub(super) fn count(&mut self, unit: &Unit) {
        let (mut delivered, mut failed) = (0, 0);
        for ending in &unit.endings {
            match ending.how {
                How::Delivered => delivered += 1,
                How::Failed => failed += 1,
                _ => {}
            }
        }
        if delivered + failed == 0 {
            return;
        }
        let second = clock::mono_ms() / 1_000;
        match self.minute.back_mut().filter(|last| last.0 == second) {
            Some(last) => *last = (second, last.1 + delivered, last.2 + failed),
            None => self.minute.push_back((second, delivered, failed)),
        }
        while self
            .minute
            .front()
            .is_some_and(|first| first.0 + 60 < second)
        {
            self.minute.pop_front();
        }
    }

    fn per_minute(&self) -> (u32, u32) {
        let second = clock::mono_ms() / 1_000;
        self.minute
            .iter()
            .filter(|it| it.0 + 60 >= second)
            .fold((0, 0), |sum, it| (sum.0 + it.1, sum.1 + it.2))
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
        if now >= self.upkeep.stepped_ms + STEP_MS {
            self.upkeep.stepped_ms = now;
            // A row that is yet to be written must not come behind the cancellation.
            let written = self.unwritten() == 0;
            if let Some(webhook) = self.upkeep.cancelling.front().copied().filter(|_| written) {
                self.cancel_step(webhook);
            } else if self.upkeep.pass.is_some() {
                self.retention_step();
            }
        }
        if now >= self.upkeep.looked_ms + 1_000 {
            self.upkeep.looked_ms = now;
            let retention_ms =
                u64::try_from(self.settings.retention.as_millis()).unwrap_or(u64::MAX);
            let every = (retention_ms / 20).clamp(1_000, PASS_MS);
            // Beside a poll, so that an idle worker runs nothing between two of them.
            let polled = now < self.polled_ms + 1_000;
            let due = polled && now >= self.upkeep.passed_ms + every;
            // Events come before what needs them, when a dump is restored.
            if self.upkeep.pass.is_none() && due && !self.definitions.awaited {
                self.upkeep.passed_ms = now;
                self.upkeep.pass = Some(Pass::Deliveries(Uuid::nil()));
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
        let retention_ms = i64::try_from(self.settings.retention.as_millis()).unwrap_or(i64::MAX);
        let before_ms = clock::unix_ms().saturating_sub(retention_ms);
        let floor = webhooks_core::id::floor_of(u64::try_from(before_ms).unwrap_or(0));
        // Events are older than their deliveries: while the outbox is not read, none may go.
        let behind = self.position.has_more();
        let next = transaction(c"retention", Isolation::ReadCommitted, || {
            sql::connect(|spi| match pass {
                Pass::Deliveries(after) => {
                    let args = [
                        sql::uuid(after),
                        sql::uuid(floor),
                        sql::time(before_ms),
                        sql::arg(STEP),
                    ];
                    match spi.write(&RETAIN_DELIVERIES, &args).uuid(0, 1) {
                        Some(last) => Some(Pass::Deliveries(last)),
                        None if behind => None,
                        None => Some(Pass::Events(Uuid::nil())),
                    }
                }
                Pass::Events(after) => {
                    let next = retain_events(spi, after, floor).map(Pass::Events);
                    if next.is_none() {
                        spi.write(&FORGET_DELETED, &[sql::time(before_ms), sql::arg(STEP)]);
                    }
                    next
                }
            })
        });
        match next {
            Ok(next) => self.upkeep.pass = next,
            Err(error) => {
                self.upkeep.pass = None;
                self.rolled_back(UPKEEP, "retention", &error);
            }
        }
    }

    /// Emits system.health and analytics.update when their time has come and somebody subscribes.
    fn report(&mut self) {
        if !self.upkeep.reported {
            let since = transaction(c"figures", Isolation::ReadCommitted, || {
                sql::connect(|spi| {
                    let rows = spi.read(&SINCE, &[]);
                    (rows.time(0, 1), rows.time(0, 2))
                })
            });
            match since {
                Ok((health, analytics)) => {
                    self.upkeep.health_at_ms = health;
                    self.upkeep.analytics_at_ms = analytics;
                    self.upkeep.reported = true;
                }
                Err(error) => {
                    self.rolled_back(UPKEEP, "figures", &error);
                    return;
                }
            }
        }
        let now_ms = clock::unix_ms();
        let due = |at: Option<i64>, every: std::time::Duration| {
            let every = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
            // A clock that was set back must not silence it.
            at.is_none_or(|at| now_ms >= at.saturating_add(every) || now_ms < at)
        };
        if due(self.upkeep.health_at_ms, self.settings.health_interval)
            && self.scheduler.has_audience("system.health", None, None)
        {
            self.health(now_ms);
        }
        if due(
            self.upkeep.analytics_at_ms,
            self.settings.analytics_interval,
        ) {
            let owners: BTreeSet<Option<String>> = self
                .scheduler
                .webhooks()
                .filter(|it| {
                    it.active
                        && it
                            .subscription
                            .matches("analytics.update", it.owner.is_some())
                })
                .map(|it| it.owner.clone())
                .collect();
            if !owners.is_empty() {
                self.analytics(now_ms, owners);
            }
        }
    }

    fn health(&mut self, now_ms: i64) {
        let (delivered, failed) = self.upkeep.per_minute();
        let emitted = transaction(c"figures", Isolation::ReadCommitted, || {
            let data = sql::connect(|spi| {
                spi.write(&NOTE_HEALTH, &[sql::time(now_ms)]);
                let rows = spi.write(&HEALTH, &[]);
                serde_json::json!({
                    "object": "health",
                    "status": "ok",
                    "backlog": rows.get::<i64>(0, 1).unwrap_or(0),
                    "oldest_pending_seconds": rows.get::<f64>(0, 2).unwrap_or(0.0).round() as i64,
                    "deliveries_per_minute": delivered,
                    "failures_per_minute": failed,
                    "connections": rows.get::<i64>(0, 3).unwrap_or(0),
                    "database_bytes": rows.get::<i64>(0, 4).unwrap_or(0),
                })
                .to_string()
            });
            store(vec![NewEvent {
                event_type: "system.health".to_owned(),
                data,
                ..NewEvent::default()
            }]);
        });
        match emitted {
            Ok(()) => {
                self.upkeep.health_at_ms = Some(now_ms);
                self.slot
                    .woken
                    .store(true, std::sync::atomic::Ordering::Release);
            }
            Err(error) => self.rolled_back(UPKEEP, "figures", &error),
        }
    }

    fn analytics(&mut self, now_ms: i64, owners: BTreeSet<Option<String>>) {
        let every = i64::try_from(self.settings.analytics_interval.as_millis()).unwrap_or(i64::MAX);
        let from_ms = self
            .upkeep
            .analytics_at_ms
            .filter(|&at| at <= now_ms)
            .unwrap_or(now_ms.saturating_sub(every));
        let emitted = transaction(c"figures", Isolation::ReadCommitted, || {
            let events = sql::connect(|spi| {
                spi.write(&NOTE_ANALYTICS, &[sql::time(now_ms)]);
                let mut all = figures(spi, from_ms, now_ms);
                owners
                    .into_iter()
                    .map(|owner| NewEvent {
                        event_type: "analytics.update".to_owned(),
                        data: all.remove(&owner).unwrap_or_default().data(from_ms, now_ms),
                        owner,
                        ..NewEvent::default()
                    })
                    .collect()
            });
            store(events);
        });
        match emitted {
            Ok(()) => {
                self.upkeep.analytics_at_ms = Some(now_ms);
                self.slot
                    .woken
                    .store(true, std::sync::atomic::Ordering::Release);
            }
            Err(error) => self.rolled_back(UPKEEP, "figures", &error),
        }
    }
}

fn store(events: Vec<NewEvent>) {
    match Store::open() {
        Ok(mut store) => {
            for event in events {
                store.add(event);
            }
            store.close();
        }
        Err(error) => error.raise(),
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

/// What `analytics.update` tells of an owner, or of everybody.
#[derive(Default)]
struct Figures {
    events: serde_json::Map<String, serde_json::Value>,
    deliveries: i64,
    failures: i64,
    active_webhooks: i64,
    p50: i64,
    p95: i64,
    p99: i64,
}

impl Figures {
    fn data(self, from_ms: i64, to_ms: i64) -> String {
        serde_json::json!({
            "object": "analytics",
            "from": iso_millis(from_ms),
            "to": iso_millis(to_ms),
            "events": self.events,
            "deliveries": self.deliveries,
            "failures": self.failures,
            "active_webhooks": self.active_webhooks,
            "latency_ms": { "p50": self.p50, "p95": self.p95, "p99": self.p99 },
        })
        .to_string()
    }
}

/// The figures of each owner that has any, in three passes over the tables however many owners there are; `None`: of
/// everybody.
fn figures(spi: &Connection, from_ms: i64, to_ms: i64) -> HashMap<Option<String>, Figures> {
    let mut all: HashMap<Option<String>, Figures> = HashMap::new();
    // Rows that have no owner are in the sum only.
    let whose = |rows: &Rows, row| {
        let owner: Option<String> = rows.get(row, 1);
        let everybody = rows.get(row, 2) == Some(true);
        (everybody || owner.is_some()).then_some(owner)
    };
    let id = |ms| sql::uuid(webhooks_core::id::floor_of(u64::try_from(ms).unwrap_or(0)));
    let rows = spi.read(&EVENTS_BY_TYPE, &[id(from_ms), id(to_ms)]);
    for row in 0..rows.len() {
        if let (Some(whose), Some(kind), Some(count)) = (
            whose(&rows, row),
            rows.get::<String>(row, 3),
            rows.get::<i64>(row, 4),
        ) {
            let events = &mut all.entry(whose).or_default().events;
            events.insert(kind, count.into());
        }
    }
    let rows = spi.read(
        &DELIVERIES_BY_OWNER,
        &[sql::time(from_ms), sql::time(to_ms)],
    );
    for row in 0..rows.len() {
        if let Some(whose) = whose(&rows, row) {
            let whole = |column| rows.get::<i64>(row, column).unwrap_or(0);
            let it = all.entry(whose).or_default();
            (it.deliveries, it.failures) = (whole(3), whole(4));
            (it.p50, it.p95, it.p99) = (whole(5), whole(6), whole(7));
        }
    }
    let rows = spi.read(&ACTIVE_BY_OWNER, &[]);
    for row in 0..rows.len() {
        if let Some(whose) = whose(&rows, row) {
            all.entry(whose).or_default().active_webhooks = rows.get(row, 3).unwrap_or(0);
        }
    }
    all
}
