//! What settling writes: units into `delivery`, `attempt`, `queue` and `outbox`, figures into the
//! statistics. In a transaction of the caller's; an error is raised.

use super::{DELIVERY, unreadable};
use crate::emit::store::{NewEvent, Store};
use crate::seam::clock;
use crate::seam::sql::{self, Connection, Statement};
use crate::seam::table::Table;
use pgrx::{IntoDatum, pg_sys};
use uuid::Uuid;
use webhooks_schedule::{Attempt, Batch, Ending, Failing, How, Pause, QueueRow, StatsDelta, Unit};

static QUEUE_INSERT: Statement = Statement::new(
    c"INSERT INTO webhooks.queue (id, event_id, webhook_id, seq, attempts, due, last_status, last_error, created_at, undecided)
      SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
             pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9),
             pg_catalog.unnest($10))",
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
        pg_sys::BOOLARRAYOID,
    ],
);
static QUEUE_UPDATE: Statement = Statement::new(
    c"UPDATE webhooks.queue q
         SET attempts = u.attempts, due = u.due, last_status = u.status, last_error = u.error, undecided = false
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
static QUEUE_HURRY: Statement = Statement::new(
    c"UPDATE webhooks.queue SET due = pg_catalog.clock_timestamp()
       WHERE id = ANY ($1) AND due > pg_catalog.clock_timestamp()",
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
             status = excluded.status, error = excluded.error, response_excerpt = excluded.response_excerpt
       -- The request may not have been made.
       WHERE excluded.started_at IS NOT NULL",
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
         SET activation = excluded.activation, reason = excluded.reason, disabled_at = excluded.disabled_at,
             disabled_under = excluded.disabled_under
       WHERE d.activation <> excluded.activation",
    &[pg_sys::UUIDOID, pg_sys::INT4OID, pg_sys::TEXTOID],
);
/// A pause is told by the URL that asked for it: without one there is nothing new of it.
///
/// Failures are added to those in the table, which may have come with a dump and be unknown to memory.
static STATS: Statement = Statement::new(
    c"INSERT INTO webhooks.webhook_stats AS s
             (webhook_id, total_attempts, successful_deliveries, failed_deliveries, last_delivery, activation, failing_since,
              failed_since_success, first_failed_at, failed_attempts, last_status, last_error, paused_until, paused_url)
      SELECT * FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
             pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8), pg_catalog.unnest($9),
             pg_catalog.unnest($10), pg_catalog.unnest($11), pg_catalog.unnest($12), pg_catalog.unnest($13),
             pg_catalog.unnest($14))
      ON CONFLICT (webhook_id) DO UPDATE
         SET total_attempts = s.total_attempts + excluded.total_attempts,
             successful_deliveries = s.successful_deliveries + excluded.successful_deliveries,
             failed_deliveries = s.failed_deliveries + excluded.failed_deliveries,
             last_delivery = greatest(s.last_delivery, excluded.last_delivery),
             activation = excluded.activation,
             (failing_since, failed_since_success, first_failed_at, failed_attempts, last_status, last_error) =
             (SELECT CASE WHEN goes_on THEN least(s.failing_since, excluded.failing_since) ELSE excluded.failing_since END,
                     CASE WHEN goes_on THEN s.failed_since_success + excluded.failed_deliveries
                          ELSE excluded.failed_since_success END,
                     CASE WHEN goes_on THEN least(s.first_failed_at, excluded.first_failed_at)
                          ELSE excluded.first_failed_at END,
                     CASE WHEN goes_on THEN s.failed_attempts + excluded.total_attempts ELSE excluded.failed_attempts END,
                     CASE WHEN goes_on AND excluded.total_attempts = 0 THEN s.last_status ELSE excluded.last_status END,
                     CASE WHEN goes_on AND excluded.total_attempts = 0 THEN s.last_error ELSE excluded.last_error END
                FROM (SELECT s.activation = excluded.activation AND excluded.last_delivery IS NULL AS goes_on) g),
             (paused_until, paused_url) =
             (SELECT CASE WHEN is_news THEN excluded.paused_until ELSE s.paused_until END,
                     CASE WHEN is_news THEN excluded.paused_url ELSE s.paused_url END
                FROM (SELECT excluded.paused_url IS NOT NULL OR s.activation <> excluded.activation AS is_news) p)",
    &[
        pg_sys::UUIDARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
        pg_sys::INT4ARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
        pg_sys::INT8ARRAYOID,
        pg_sys::INT4ARRAYOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TIMESTAMPTZARRAYOID,
        pg_sys::TEXTARRAYOID,
    ],
);
static TOTALS: Statement = Statement::new(
    c"UPDATE webhooks.worker_state
         SET delivered_total = delivered_total + $1, failed_total = failed_total + $2, attempts_total = attempts_total + $3,
             last_error = coalesce($4, last_error),
             last_error_at = CASE WHEN $4 IS NULL THEN last_error_at ELSE pg_catalog.clock_timestamp() END",
    &[pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::INT8OID, pg_sys::TEXTOID],
);
type Row12 = [Option<pg_sys::Datum>; 12];

fn text(value: Option<&String>) -> Option<pg_sys::Datum> {
    value.and_then(|text| text.as_str().into_datum())
}

fn id(id: Uuid) -> Option<pg_sys::Datum> {
    sql::uuid(id)
}

fn log_row(ending: &Ending) -> Row12 {
    let attempt = ending.attempt.as_ref();
    let state = match ending.how {
        How::Delivered => "delivered",
        How::Failed => "failed",
        // A batch logs none of the others.
        How::Cancelled | How::Late | How::Unwanted | How::RetryAt(_) => "cancelled",
    };
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
pub(super) fn write(units: &[Unit], news: Vec<NewEvent>) {
    let batch = Batch::of(units);
    let open = |name, columns| match Table::open(name, columns) {
        Ok(table) => table,
        Err(error) => error.raise(),
    };
    if !batch.log.is_empty() {
        let mut table = open(c"delivery", 12);
        for ending in &batch.log {
            table.insert(&log_row(ending));
        }
        table.close();
    }
    if !batch.attempts.is_empty() {
        let mut table = open(c"attempt", 7);
        for ending in &batch.attempts {
            if let Some(attempt) = &ending.attempt {
                table.insert(&attempt_row(ending.id, attempt));
            }
        }
        table.close();
    }
    let mut moved = Vec::new();
    if !batch.outbox.is_empty() {
        let mut table = open(c"outbox", 4);
        for key in &batch.outbox {
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
        if !batch.deletes.is_empty() {
            spi.write(&QUEUE_DELETE, &[sql::uuids(batch.deletes)]);
        }
        if !batch.inserts.is_empty() {
            insert_queue(spi, &batch.inserts);
        }
        if !batch.updates.is_empty() {
            update_queue(spi, &batch.updates);
        }
        if !batch.hurried.is_empty() {
            spi.write(&QUEUE_HURRY, &[sql::uuids(batch.hurried)]);
        }
        for ending in batch.late {
            let row = log_row(ending);
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
        for quarantine in units.iter().filter_map(|unit| unit.quarantine.as_ref()) {
            unreadable::set_aside(spi, &[quarantine.delivery], DELIVERY, &quarantine.error);
        }
    });
}

/// A `timestamptz` for an array.
fn stamp(unix_ms: i64) -> Option<pgrx::datum::TimestampWithTimeZone> {
    pgrx::datum::TimestampWithTimeZone::try_from(clock::timestamp_of(unix_ms)).ok()
}

/// A column of rows as an array.
fn column<'a, T: IntoDatum>(
    rows: &'a [QueueRow<'a>],
    of: impl Fn(&'a QueueRow<'a>) -> T,
) -> sql::Arg
where
    Vec<T>: IntoDatum,
{
    sql::arg(rows.iter().map(of).collect::<Vec<T>>())
}

fn insert_queue(spi: &Connection, rows: &[QueueRow<'_>]) {
    spi.write(
        &QUEUE_INSERT,
        &[
            sql::uuids(rows.iter().map(|row| row.id)),
            sql::uuids(rows.iter().map(|row| row.event)),
            sql::uuids(rows.iter().map(|row| row.webhook)),
            column(rows, |row| row.seq),
            column(rows, |row| row.attempts as i32),
            column(rows, |row| row.due_ms.and_then(stamp)),
            column(rows, |row| row.status.map(i32::from)),
            column(rows, |row| row.error),
            column(rows, |row| stamp(row.created_ms)),
            column(rows, |row| row.undecided),
        ],
    );
}

fn update_queue(spi: &Connection, rows: &[QueueRow<'_>]) {
    spi.write(
        &QUEUE_UPDATE,
        &[
            sql::uuids(rows.iter().map(|row| row.id)),
            column(rows, |row| row.attempts as i32),
            column(rows, |row| row.due_ms.and_then(stamp)),
            column(rows, |row| row.status.map(i32::from)),
            column(rows, |row| row.error),
        ],
    );
}

/// A column of the attempts that have failed since the last success; NULL where there are none.
fn failing<T>(stats: &[(Uuid, StatsDelta)], of: impl Fn(&Failing) -> Option<T>) -> sql::Arg
where
    Vec<Option<T>>: IntoDatum,
{
    let column = stats
        .iter()
        .map(|(_, it)| it.failing.as_ref().and_then(&of));
    sql::arg(column.collect::<Vec<_>>())
}

/// A column of what is new of pauses; NULL where nothing is.
fn pause<T>(stats: &[(Uuid, StatsDelta)], of: impl Fn(&Pause) -> Option<T>) -> sql::Arg
where
    Vec<Option<T>>: IntoDatum,
{
    let column = stats.iter().map(|(_, it)| it.pause.as_ref().and_then(&of));
    sql::arg(column.collect::<Vec<_>>())
}

/// Adds figures to the statistics; notes an error of the worker's own.
pub(super) fn write_stats(spi: &Connection, stats: &[(Uuid, StatsDelta)], error: Option<String>) {
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
                        .map(|(_, it)| it.activation)
                        .collect::<Vec<_>>(),
                ),
                sql::arg(
                    stats
                        .iter()
                        .map(|(_, it)| it.failing_since_ms.and_then(stamp))
                        .collect::<Vec<_>>(),
                ),
                each(|it| it.failed_since_success),
                failing(stats, |it| stamp(it.since_ms)),
                each(|it| it.failing.as_ref().map_or(0, |it| it.attempts)),
                failing(stats, |it| it.status.map(i32::from)),
                failing(stats, |it| it.error.clone()),
                pause(stats, |it| it.until_ms.and_then(stamp)),
                pause(stats, |it| Some(it.url.clone())),
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
