//! Settle: what became of deliveries goes into the tables, many at once.
//!
//! The transaction commits asynchronously: if a crash takes it, the requests are made again. So that this
//! is no more than what was in flight and the last moments' work, WAL is flushed every [`FLUSH_MS`] while
//! there is something to flush.

use super::{SETTLE_MS, SETTLE_UNITS, Worker, is_transient};
use crate::emit::store::{NewEvent, Store};
use crate::seam::clock;
use crate::seam::sql::{self, Connection, Statement};
use crate::seam::table::Table;
use crate::seam::transaction::{Isolation, RolledBack, transaction};
use pgrx::{IntoDatum, pg_sys};
use serde_json::json;
use std::collections::HashSet;
use uuid::Uuid;
use webhooks_deliver::Outcome;
use webhooks_schedule::{Attempt, Disable, Ended, Ending, How, Scheduler, StatsDelta, Unit};

/// Longest time that a settlement stays without its WAL flushed.
const FLUSH_MS: u64 = 50;
/// Longest time that statistics are behind while deliveries go on.
const STATS_MS: u64 = 250;

static QUEUE_INSERT: Statement = Statement::new(
    c"INSERT INTO webhooks.queue (id, event_id, webhook_id, seq, attempts, due, last_status, last_error, created_at)
      SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
             pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9))",
    &[
        pg_sys::UUIDARRAYOID,
        pg_sys::UUIDARRAYOID,
        pg_sys::UUIDARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::INT4ARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
        pg_sys::INT4ARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
    ],
);
static QUEUE_UPDATE: Statement = Statement::new(
    c"UPDATE webhooks.queue q
         SET attempts = u.attempts, due = u.due, last_status = u.status, last_error = u.error
        FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
             pg_catalog.unnest($5)) AS u(id, attempts, due, status, error)
       WHERE q.id = u.id",
    &[
        pg_sys::UUIDARRAYOID,
        pg_sys::INT4ARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
        pg_sys::INT4ARRAYOID,
        pg_sys::TEXTARRAYOID,
    ],
);
static QUEUE_DELETE: Statement = Statement::new(
    c"DELETE FROM webhooks.queue WHERE id = ANY ($1)",
    &[pg_sys::UUIDARRAYOID],
);
static OUTBOX_DELETE: Statement = Statement::new(
    c"DELETE FROM webhooks.outbox WHERE id = ANY ($1)",
    &[pg_sys::UUIDARRAYOID],
);
/// The outcome of a request that was under way when its delivery was cancelled.
static LATE: Statement = Statement::new(
    c"INSERT INTO webhooks.delivery AS d (id, event_id, webhook_id, state, attempts, created_at, completed_at,
                                          started_at, duration_ms, status, error, response_excerpt)
      VALUES ($1, $2, $3, 'cancelled', $4, $5, $6, $7, $8, $9, $10, $11)
      ON CONFLICT (id) DO UPDATE
         SET attempts = excluded.attempts, started_at = excluded.started_at, duration_ms = excluded.duration_ms,
             status = excluded.status, error = excluded.error, response_excerpt = excluded.response_excerpt",
    &[
        pg_sys::UUIDOID,
        pg_sys::UUIDOID,
        pg_sys::UUIDOID,
        pg_sys::INT4OID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::INT4OID,
        pg_sys::INT4OID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
    ],
);
static DISABLE: Statement = Statement::new(
    c"INSERT INTO webhooks.disabled AS d (webhook_id, activation, reason) VALUES ($1, $2, $3)
      ON CONFLICT (webhook_id) DO UPDATE
         SET activation = excluded.activation, reason = excluded.reason, disabled_at = excluded.disabled_at
       WHERE d.activation <> excluded.activation",
    &[pg_sys::UUIDOID, pg_sys::INT4OID, pg_sys::TEXTOID],
);
static STATS: Statement = Statement::new(
    c"INSERT INTO webhooks.webhook_stats AS s
             (webhook_id, total_attempts, successful_deliveries, failed_deliveries, last_delivery, failing_since, failed_since_success)
      SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
             pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7))
      ON CONFLICT (webhook_id) DO UPDATE
         SET total_attempts = s.total_attempts + excluded.total_attempts,
             successful_deliveries = s.successful_deliveries + excluded.successful_deliveries,
             failed_deliveries = s.failed_deliveries + excluded.failed_deliveries,
             last_delivery = greatest(s.last_delivery, excluded.last_delivery),
             failing_since = excluded.failing_since,
             failed_since_success = excluded.failed_since_success",
    &[
        pg_sys::UUIDARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
        pg_sys::INT8ARRAYOID,
    ],
);
static TOTALS: Statement = Statement::new(
    c"UPDATE webhooks.worker_state
         SET delivered_total = delivered_total + $1, failed_total = failed_total + $2, attempts_total = attempts_total + $3,
             last_error = coalesce($4, last_error),
             last_error_at = CASE WHEN $4 IS NULL THEN last_error_at ELSE pg_catalog.clock_timestamp() END",
    &[pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::TEXTOID],
);
static SET_ASIDE: Statement = Statement::new(
    c"INSERT INTO webhooks.set_aside (id, stage, error) SELECT id, 'settle', $2 FROM pg_catalog.unnest($1) AS u(id)
      ON CONFLICT (id) DO NOTHING",
    &[pg_sys::UUIDARRAYOID, pg_sys::TEXTOID],
);

/// What settling remembers between two times.
#[derive(Default)]
pub(super) struct Settling {
    /// Units that could not be written yet.
    held: Vec<Unit>,
    settled_ms: u64,
    stats_ms: u64,
    /// When the oldest commit was made whose WAL is not flushed.
    unflushed_ms: Option<u64>,
    /// What went wrong in the worker itself, to be shown in `webhooks.status`.
    error: Option<String>,
    /// Webhooks that were switched off by this process.
    disabled: HashSet<Uuid>,
}

impl Settling {
    /// When there is something to do, in milliseconds from `now`.
    pub(super) fn next_ms(&self, now: u64, scheduler: &Scheduler) -> Option<u64> {
        let settle = (!self.held.is_empty() || scheduler.units() > 0)
            .then(|| (self.settled_ms + SETTLE_MS).saturating_sub(now));
        let flush = self
            .unflushed_ms
            .map(|since| (since + FLUSH_MS).saturating_sub(now));
        let stats =
            (scheduler.has_stats() || self.error.is_some()).then(|| self.stats_in(now, scheduler));
        [settle, flush, stats].into_iter().flatten().min()
    }

    /// Statistics are written at rest as soon as everything else is, and now and then under load.
    fn stats_in(&self, now: u64, scheduler: &Scheduler) -> u64 {
        let wait = if scheduler.idle() {
            SETTLE_MS
        } else {
            STATS_MS
        };
        (self.stats_ms + wait).saturating_sub(now)
    }

    /// Whether nothing is held back.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub(super) fn note_error(&mut self, error: String) {
        self.error = Some(error);
    }

    /// Whether this process has switched the webhook off.
    pub(super) fn disabled(&self, webhook: Uuid) -> bool {
        self.disabled.contains(&webhook)
    }
}

/// Flushes all WAL that this process has written.
pub(super) fn flush_wal() {
    // SAFETY: outside of a transaction; the position is one that was really written.
    unsafe {
        let upto = pg_sys::XactLastCommitEnd;
        if upto != 0 {
            pg_sys::XLogFlush(upto);
        }
    }
}

/// An outcome in the words of the scheduler.
pub(super) fn ended(outcome: Outcome) -> Ended {
    let remark = outcome
        .truncated
        .then(|| "payload truncated: it exceeded webhooks.max_payload".to_owned());
    let duration_ms = u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX);
    let (result, timed_out, excerpt) = match outcome.result {
        Ok(answer) => (
            webhooks_core::verdict::Ended::Status {
                code: answer.status,
                retry_after: answer.retry_after,
            },
            false,
            (!answer.excerpt.is_empty()).then_some(answer.excerpt),
        ),
        Err(failure) => (
            webhooks_core::verdict::Ended::Error(failure.to_string()),
            failure.is_timeout(),
            None,
        ),
    };
    Ended {
        token: outcome.token,
        result,
        timed_out,
        started_ms: outcome.started_unix_ms,
        duration_ms,
        excerpt,
        remark,
    }
}

impl Worker {
    /// Settles if there is enough or it has been long enough, and then fetches rows that memory wants.
    pub(super) fn settle_if_due(&mut self) {
        let now = clock::mono_ms();
        if now < self.paused_until_ms {
            return;
        }
        let waiting = self.scheduler.units() + self.settling.held.len();
        if waiting >= SETTLE_UNITS || (waiting > 0 && now >= self.settling.settled_ms + SETTLE_MS) {
            self.settle();
        }
        if (self.scheduler.has_stats() || self.settling.error.is_some())
            && self.settling.stats_in(now, &self.scheduler) == 0
        {
            self.write_stats();
        }
        if self
            .settling
            .unflushed_ms
            .is_some_and(|since| now >= since + FLUSH_MS)
        {
            flush_wal();
            self.settling.unflushed_ms = None;
        }
        if self.settings.enabled && self.scheduler.units() == 0 && self.settling.held.is_empty() {
            self.fetch_rows();
        }
    }

    /// Writes all units there are.
    pub(super) fn settle(&mut self) {
        self.settling.settled_ms = clock::mono_ms();
        let mut units = std::mem::take(&mut self.settling.held);
        units.extend(self.scheduler.take_units());
        while !units.is_empty() {
            let rest = units.split_off(units.len().min(4 * SETTLE_UNITS));
            self.settle_part(units);
            units = rest;
        }
    }

    fn settle_part(&mut self, units: Vec<Unit>) {
        if units.is_empty() {
            return;
        }
        let news = self.news(&units);
        match transaction(c"settle", Isolation::ReadCommitted, || write(&units, news)) {
            Ok(()) => {
                let now = clock::mono_ms();
                self.settling.unflushed_ms.get_or_insert(now);
                for unit in &units {
                    self.scheduler.written(unit);
                    if let Some(disable) = &unit.disable {
                        self.settling.disabled.insert(disable.webhook);
                    }
                }
                for unit in &units {
                    self.upkeep.count(unit);
                }
            }
            Err(error) if is_transient(error.code) || super::start::extension_is_gone() => {
                self.settling.held.extend(units);
                self.rolled_back("settle", &error);
            }
            Err(error) if units.len() == 1 => self.set_aside(units, &error),
            Err(_) => {
                let mut first = units;
                let second = first.split_off(first.len() / 2);
                self.settle_part(first);
                self.settle_part(second);
            }
        }
    }

    /// A unit that cannot be written is noted and left where it is, in the outbox or the queue.
    fn set_aside(&mut self, units: Vec<Unit>, error: &RolledBack) {
        let ids: Vec<Uuid> = units
            .iter()
            .flat_map(|unit| {
                let recorded = unit
                    .endings
                    .iter()
                    .filter(|ending| ending.recorded)
                    .map(|ending| ending.id);
                unit.outbox.map(|key| key.id).into_iter().chain(recorded)
            })
            .collect();
        pgrx::warning!(
            "webhooks sets {} rows aside that it cannot settle: {}",
            ids.len(),
            error.message
        );
        let noted = transaction(c"settle", Isolation::ReadCommitted, || {
            sql::connect(|spi| {
                spi.write(
                    &SET_ASIDE,
                    &[sql::uuids(ids), sql::arg(error.message.clone())],
                );
            });
        });
        match noted {
            Ok(()) => self
                .settling
                .note_error(format!("settle: {}", error.message)),
            Err(again) => {
                self.settling.held.extend(units);
                self.rolled_back("settle", &again);
            }
        }
    }

    /// Events about the deliveries themselves, for those who subscribe.
    fn news(&mut self, units: &[Unit]) -> Vec<NewEvent> {
        let mut news = Vec::new();
        for unit in units {
            for ending in unit
                .endings
                .iter()
                .filter(|ending| ending.how == How::Failed)
            {
                if matches!(
                    ending.event.event_type.as_str(),
                    "delivery.failed" | "webhook.disabled"
                ) {
                    continue;
                }
                let owner = self
                    .scheduler
                    .index_of(ending.webhook)
                    .and_then(|index| self.scheduler.definition(index).owner.clone());
                if !self.anybody_else("delivery.failed", owner.as_deref(), ending.webhook) {
                    continue;
                }
                let attempt = ending.attempt.as_ref();
                news.push(NewEvent {
                    event_type: "delivery.failed".to_owned(),
                    owner,
                    about: Some(ending.webhook),
                    data: json!({
                        "object": "delivery",
                        "id": webhooks_core::id::format(webhooks_core::id::Kind::Delivery, ending.id),
                        "webhook_id": webhooks_core::id::format(webhooks_core::id::Kind::Webhook, ending.webhook),
                        "event_id": webhooks_core::id::format(webhooks_core::id::Kind::Event, ending.event.id),
                        "event_type": ending.event.event_type,
                        "attempts": ending.attempts,
                        "last_status": attempt.and_then(|it| it.status),
                        "reason": attempt.and_then(|it| it.error.clone()),
                    })
                    .to_string(),
                    ..NewEvent::default()
                });
            }
            if let Some(disable) = &unit.disable
                && self.anybody_else(
                    "webhook.disabled",
                    disable.owner.as_deref(),
                    disable.webhook,
                )
            {
                news.push(disabled_event(disable));
            }
        }
        news
    }

    fn anybody_else(&mut self, event_type: &str, owner: Option<&str>, about: Uuid) -> bool {
        let audience = self.scheduler.audience(event_type, owner);
        audience
            .iter()
            .any(|&index| self.scheduler.definition(index).id != about)
    }

    /// Writes the figures that were counted, and the last error.
    pub(super) fn write_stats(&mut self) {
        self.settling.stats_ms = clock::mono_ms();
        let stats = self.scheduler.take_stats();
        let error = self.settling.error.clone();
        if stats.is_empty() && error.is_none() {
            return;
        }
        match transaction(c"statistics", Isolation::ReadCommitted, || {
            sql::connect(|spi| write_stats(spi, &stats, error));
        }) {
            Ok(()) => {
                self.settling.error = None;
                self.settling.unflushed_ms.get_or_insert(clock::mono_ms());
            }
            Err(error) => {
                self.scheduler.put_back_stats(stats);
                self.rolled_back("statistics", &error);
            }
        }
    }
}

fn disabled_event(disable: &Disable) -> NewEvent {
    NewEvent {
        event_type: "webhook.disabled".to_owned(),
        owner: disable.owner.clone(),
        about: Some(disable.webhook),
        data: json!({
            "object": "webhook",
            "id": webhooks_core::id::format(webhooks_core::id::Kind::Webhook, disable.webhook),
            "webhook_id": webhooks_core::id::format(webhooks_core::id::Kind::Webhook, disable.webhook),
            "reason": disable.reason,
            "last_status": disable.status,
        })
        .to_string(),
        ..NewEvent::default()
    }
}

type Row12 = [Option<pg_sys::Datum>; 12];

fn text(value: Option<&String>) -> Option<pg_sys::Datum> {
    value.and_then(|text| text.as_str().into_datum())
}

fn id(id: Uuid) -> Option<pg_sys::Datum> {
    sql::uuid(id)
}

fn log_row(ending: &Ending, state: &str) -> Row12 {
    let attempt = ending.attempt.as_ref();
    [
        id(ending.id),
        id(ending.event.id),
        id(ending.webhook),
        state.into_datum(),
        (ending.attempts as i32).into_datum(),
        sql::time(ending.created_ms),
        sql::time(ending.ended_ms),
        attempt.and_then(|it| sql::time(it.started_ms)),
        attempt.and_then(|it| it.duration_ms.into_datum()),
        attempt
            .and_then(|it| it.status)
            .and_then(|status| i32::from(status).into_datum()),
        text(attempt.and_then(|it| it.error.as_ref())),
        text(attempt.and_then(|it| it.excerpt.as_ref())),
    ]
}

fn attempt_row(delivery: Uuid, attempt: &Attempt) -> [Option<pg_sys::Datum>; 7] {
    [
        id(delivery),
        (attempt.number as i32).into_datum(),
        sql::time(attempt.started_ms),
        attempt.duration_ms.into_datum(),
        attempt
            .status
            .and_then(|status| i32::from(status).into_datum()),
        text(attempt.error.as_ref()),
        text(attempt.excerpt.as_ref()),
    ]
}

/// Writes units and news; in a transaction. An error is raised.
fn write(units: &[Unit], news: Vec<NewEvent>) {
    let mut log = Vec::new();
    let mut retries = Vec::new();
    let mut late = Vec::new();
    let mut unqueued = Vec::new();
    for ending in units.iter().flat_map(|unit| &unit.endings) {
        match ending.how {
            How::Delivered => log.push((ending, "delivered")),
            How::Failed => log.push((ending, "failed")),
            How::Cancelled => log.push((ending, "cancelled")),
            How::RetryAt(due_ms) => retries.push((ending, due_ms)),
            How::Late => late.push(ending),
        }
        if ending.recorded && !matches!(ending.how, How::RetryAt(_)) {
            unqueued.push(ending.id);
        }
    }
    let open = |name, columns| match Table::open(name, columns) {
        Ok(table) => table,
        Err(error) => error.raise(),
    };
    if !log.is_empty() {
        let mut table = open(c"delivery", 12);
        for (ending, state) in log {
            table.insert(&log_row(ending, state));
        }
        table.close();
    }
    if !retries.is_empty() {
        let mut table = open(c"attempt", 7);
        for (ending, _) in &retries {
            if let Some(attempt) = &ending.attempt {
                table.insert(&attempt_row(ending.id, attempt));
            }
        }
        table.close();
    }
    let gone: Vec<_> = units.iter().filter_map(|unit| unit.outbox).collect();
    let mut moved = Vec::new();
    if !gone.is_empty() {
        let mut table = open(c"outbox", 4);
        for key in gone {
            if !table.delete_at((key.block, key.offset), 2, key.id) {
                moved.push(key.id);
            }
        }
        table.close();
    }
    if !news.is_empty() {
        match Store::open() {
            Ok(mut store) => {
                for event in news {
                    store.add(event);
                }
                store.close();
            }
            Err(error) => error.raise(),
        }
    }
    sql::connect(|spi| {
        if !moved.is_empty() {
            spi.write(&OUTBOX_DELETE, &[sql::uuids(moved)]);
        }
        if !unqueued.is_empty() {
            spi.write(&QUEUE_DELETE, &[sql::uuids(unqueued)]);
        }
        insert_queue(spi, units, &retries);
        update_queue(spi, &retries);
        for ending in late {
            let row = log_row(ending, "cancelled");
            let args: Vec<_> = row
                .iter()
                .enumerate()
                .filter(|(column, _)| *column != 3)
                .map(|(_, it)| *it)
                .collect();
            spi.write(&LATE, &args);
        }
        for disable in units.iter().filter_map(|unit| unit.disable.as_ref()) {
            spi.write(
                &DISABLE,
                &[
                    id(disable.webhook),
                    sql::arg(disable.activation),
                    sql::arg(disable.reason.clone()),
                ],
            );
            crate::emit::subscribers::invalidate();
        }
    });
}

/// A `timestamptz` for an array.
fn stamp(unix_ms: i64) -> Option<pgrx::datum::TimestampWithTimeZone> {
    pgrx::datum::TimestampWithTimeZone::try_from(clock::timestamp_of(unix_ms)).ok()
}

fn insert_queue(spi: &Connection, units: &[Unit], retries: &[(&Ending, i64)]) {
    let fresh: Vec<_> = retries
        .iter()
        .filter(|(ending, _)| !ending.recorded)
        .collect();
    let queued: Vec<_> = units.iter().flat_map(|unit| &unit.queued).collect();
    if fresh.is_empty() && queued.is_empty() {
        return;
    }
    let attempt = |ending: &Ending| ending.attempt.clone();
    spi.write(
        &QUEUE_INSERT,
        &[
            sql::uuids(
                queued
                    .iter()
                    .map(|it| it.id)
                    .chain(fresh.iter().map(|it| it.0.id)),
            ),
            sql::uuids(
                queued
                    .iter()
                    .map(|it| it.event)
                    .chain(fresh.iter().map(|it| it.0.event.id)),
            ),
            sql::uuids(
                queued
                    .iter()
                    .map(|it| it.webhook)
                    .chain(fresh.iter().map(|it| it.0.webhook)),
            ),
            sql::arg(
                queued
                    .iter()
                    .map(|it| it.seq)
                    .chain(fresh.iter().map(|it| it.0.seq))
                    .collect::<Vec<i64>>(),
            ),
            sql::arg(
                queued
                    .iter()
                    .map(|_| 0)
                    .chain(fresh.iter().map(|it| it.0.attempts as i32))
                    .collect::<Vec<i32>>(),
            ),
            sql::arg(
                queued
                    .iter()
                    .map(|_| None)
                    .chain(fresh.iter().map(|it| stamp(it.1)))
                    .collect::<Vec<_>>(),
            ),
            sql::arg(
                queued
                    .iter()
                    .map(|_| None)
                    .chain(
                        fresh
                            .iter()
                            .map(|it| attempt(it.0).and_then(|a| a.status).map(i32::from)),
                    )
                    .collect::<Vec<Option<i32>>>(),
            ),
            sql::arg(
                queued
                    .iter()
                    .map(|_| None)
                    .chain(fresh.iter().map(|it| attempt(it.0).and_then(|a| a.error)))
                    .collect::<Vec<Option<String>>>(),
            ),
            sql::arg(
                queued
                    .iter()
                    .map(|it| stamp(it.created_ms))
                    .chain(fresh.iter().map(|it| stamp(it.0.created_ms)))
                    .collect::<Vec<_>>(),
            ),
        ],
    );
}

fn update_queue(spi: &Connection, retries: &[(&Ending, i64)]) {
    let recorded: Vec<_> = retries
        .iter()
        .filter(|(ending, _)| ending.recorded)
        .collect();
    if recorded.is_empty() {
        return;
    }
    let attempt = |ending: &Ending| ending.attempt.clone();
    spi.write(
        &QUEUE_UPDATE,
        &[
            sql::uuids(recorded.iter().map(|it| it.0.id)),
            sql::arg(
                recorded
                    .iter()
                    .map(|it| it.0.attempts as i32)
                    .collect::<Vec<i32>>(),
            ),
            sql::arg(recorded.iter().map(|it| stamp(it.1)).collect::<Vec<_>>()),
            sql::arg(
                recorded
                    .iter()
                    .map(|it| attempt(it.0).and_then(|a| a.status).map(i32::from))
                    .collect::<Vec<Option<i32>>>(),
            ),
            sql::arg(
                recorded
                    .iter()
                    .map(|it| attempt(it.0).and_then(|a| a.error))
                    .collect::<Vec<Option<String>>>(),
            ),
        ],
    );
}

fn write_stats(spi: &Connection, stats: &[(Uuid, StatsDelta)], error: Option<String>) {
    let sum = |of: fn(&StatsDelta) -> u64| stats.iter().map(|(_, it)| of(it) as i64).sum::<i64>();
    let each = |of: fn(&StatsDelta) -> u64| {
        sql::arg(
            stats
                .iter()
                .map(|(_, it)| of(it) as i64)
                .collect::<Vec<i64>>(),
        )
    };
    if !stats.is_empty() {
        spi.write(
            &STATS,
            &[
                sql::uuids(stats.iter().map(|(id, _)| *id)),
                each(|it| it.attempts),
                each(|it| it.delivered),
                each(|it| it.failed),
                sql::arg(
                    stats
                        .iter()
                        .map(|(_, it)| it.last_delivery_ms.and_then(stamp))
                        .collect::<Vec<_>>(),
                ),
                sql::arg(
                    stats
                        .iter()
                        .map(|(_, it)| it.failing_since_ms.and_then(stamp))
                        .collect::<Vec<_>>(),
                ),
                each(|it| it.failed_since_success),
            ],
        );
    }
    spi.write(
        &TOTALS,
        &[
            sql::arg(sum(|it| it.delivered)),
            sql::arg(sum(|it| it.failed)),
            sql::arg(sum(|it| it.attempts)),
            sql::arg(error),
        ],
    );
}
