//! system.health and analytics.update, when their time has come and somebody subscribes.

use super::upkeep::LOOK_MS;
use super::{SETTLE, UPKEEP, Worker, end_at_once, end_between_transactions, is_to_end};
use crate::emit::store::{NewEvent, Store};
use crate::seam::clock;
use crate::seam::sql::{self, Connection, Rows, Statement};
use crate::seam::transaction::{Isolation, RolledBack, transaction};
use pgrx::pg_sys;
use std::collections::{BTreeSet, HashMap, VecDeque};
use webhooks_core::time::iso_millis;
use webhooks_schedule::{How, Unit};

/// How long a delivery thread may take, at most, to hand back what has ended.
const HAND_BACK_MS: u64 = 20;

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
/// When the oldest transaction began that may have emitted what nobody sees yet, of those that did not begin before a time.
static OPEN_SINCE: Statement = Statement::new(
    c"SELECT pg_catalog.min(a.xact_start) FROM pg_catalog.pg_stat_activity a
       WHERE a.datname = pg_catalog.current_database() AND a.backend_xid IS NOT NULL AND a.pid <> pg_catalog.pg_backend_pid()
         AND a.xact_start >= $1",
    &[pg_sys::TIMESTAMPTZOID],
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

/// What has been reported, and what is to be.
#[derive(Default)]
pub(super) struct Reports {
    health_at_ms: Option<i64>,
    analytics_at_ms: Option<i64>,
    /// Until when `analytics.update` has told: earlier than when it did, if transactions were open then.
    told_until_ms: Option<i64>,
    /// Whether these have been read.
    known: bool,
    /// Ends of the last minute: when (monotonic), delivered, failed.
    minute: VecDeque<(u64, u32, u32)>,
}

impl Reports {
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
    /// Emits system.health and analytics.update when their time has come and somebody subscribes.
    pub(super) fn report(&mut self) {
        if !self.reports.known {
            let since = transaction(c"figures", Isolation::ReadCommitted, || {
                sql::connect(|spi| {
                    let rows = spi.read(&SINCE, &[]);
                    (rows.time(0, 1), rows.time(0, 2))
                })
            });
            match since {
                Ok((health, analytics)) => {
                    self.reports.health_at_ms = health;
                    self.reports.analytics_at_ms = analytics;
                    self.reports.told_until_ms = analytics;
                    self.reports.known = true;
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
        if due(self.reports.health_at_ms, self.settings.health_interval)
            && self.scheduler.has_audience("system.health", None, None)
        {
            self.health(now_ms);
        }
        if due(
            self.reports.analytics_at_ms,
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

    /// Writes what has ended, since deliveries are told of by when they did. `false`: that is not possible for now.
    fn log_all_ended(&mut self) -> bool {
        if self.pauses.left(SETTLE, clock::mono_ms()) > 0 {
            return false;
        }
        end_between_transactions();
        self.settle_all();
        end_at_once();
        self.unwritten() == 0 && !is_to_end()
    }

    fn health(&mut self, now_ms: i64) {
        let (delivered, failed) = self.reports.per_minute();
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
                self.reports.health_at_ms = Some(now_ms);
                self.slot
                    .woken
                    .store(true, std::sync::atomic::Ordering::Release);
            }
            Err(error) => self.rolled_back(UPKEEP, "figures", &error),
        }
    }

    fn analytics(&mut self, now_ms: i64, owners: BTreeSet<Option<String>>) {
        if !self.log_all_ended() {
            return;
        }
        let every = i64::try_from(self.settings.analytics_interval.as_millis()).unwrap_or(i64::MAX);
        let most_ms = now_ms.saturating_sub_unsigned(HAND_BACK_MS);
        // The first tells also what was emitted since the look before, which found nobody to tell.
        let from_ms = self
            .reports
            .told_until_ms
            .filter(|&at| at <= most_ms)
            .unwrap_or(
                now_ms
                    .saturating_sub(every)
                    .saturating_sub_unsigned(LOOK_MS),
            );
        let to_ms = match told_until(from_ms, most_ms) {
            Ok(to_ms) => to_ms,
            Err(error) => return self.rolled_back(UPKEEP, "figures", &error),
        };
        let emitted = transaction(c"figures", Isolation::ReadCommitted, || {
            let events = sql::connect(|spi| {
                spi.write(&NOTE_ANALYTICS, &[sql::time(to_ms)]);
                let mut all = figures(spi, from_ms, to_ms);
                owners
                    .into_iter()
                    .map(|owner| NewEvent {
                        event_type: "analytics.update".to_owned(),
                        data: all.remove(&owner).unwrap_or_default().data(from_ms, to_ms),
                        owner,
                        ..NewEvent::default()
                    })
                    .collect()
            });
            store(events);
        });
        match emitted {
            Ok(()) => {
                self.reports.analytics_at_ms = Some(now_ms);
                self.reports.told_until_ms = Some(to_ms);
                self.slot
                    .woken
                    .store(true, std::sync::atomic::Ordering::Release);
            }
            Err(error) => self.rolled_back(UPKEEP, "figures", &error),
        }
    }
}

/// The end of a period that began at `from_ms`, `most_ms` at most: a transaction that begins after this sees all that was
/// emitted by then. So it lies before the oldest transaction began that is still open, and the next period has what that one
/// emits. Those that were open when the period began are not waited for.
fn told_until(from_ms: i64, most_ms: i64) -> Result<i64, RolledBack> {
    // From the next millisecond on: a period of none would tell nothing.
    let after = [sql::time(from_ms.saturating_add(1))];
    let open_since = transaction(c"figures", Isolation::ReadCommitted, || {
        sql::connect(|spi| spi.read(&OPEN_SINCE, &after).time(0, 1))
    })?;
    Ok(open_since.map_or(most_ms, |since| since.min(most_ms)))
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
