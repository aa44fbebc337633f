//! Figures of an owner: how things are, what was attempted and delivered minute by minute, and which events there are.

use crate::access::Caller;
use crate::error::Error;
use crate::functions::deliveries;
use crate::seam::clock;
use crate::seam::owner::as_owner;
use crate::seam::sql::{self, Statement, arg};
use pgrx::pg_sys;
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_core::event_type;

const MINUTE_MS: i64 = 60_000;
static STATUS: Statement = Statement::new(
    c"SELECT k.state, p.pending, p.oldest, w.active, w.disabled
        FROM webhooks.worker() k,
             (SELECT pg_catalog.count(*) AS pending,
                     coalesce(greatest(0, extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.min(coalesce(q.due, q.created_at))
                         FILTER (WHERE w.active AND d.webhook_id IS NULL AND h.webhook_id IS NULL
                                   AND coalesce(q.due, q.created_at) <= pg_catalog.clock_timestamp()))), 0)::float8 AS oldest
                FROM webhooks.waiting q JOIN webhooks.webhook w ON w.id = q.webhook_id
                LEFT JOIN webhooks.disabled d ON d.webhook_id = w.id AND d.activation = w.activation
                LEFT JOIN webhooks.paused h ON h.webhook_id = w.id
               WHERE $1 IS NULL OR w.owner = $1) p,
             (SELECT pg_catalog.count(*) FILTER (WHERE w.active AND d.webhook_id IS NULL) AS active,
                     pg_catalog.count(d.webhook_id) AS disabled
                FROM webhooks.webhook w
                LEFT JOIN webhooks.disabled d ON d.webhook_id = w.id AND d.activation = w.activation
               WHERE $1 IS NULL OR w.owner = $1) w",
    &[pg_sys::TEXTOID],
);
static ACTIVITY: Statement = Statement::new(
    c"WITH mine AS MATERIALIZED (
          SELECT $4 AS id WHERE $4 IS NOT NULL
          UNION ALL SELECT id FROM webhooks.webhook WHERE $4 IS NULL AND owner = $1
          UNION ALL SELECT id FROM webhooks.deleted_webhook WHERE $4 IS NULL AND owner = $1),
      logged AS MATERIALIZED (
          SELECT d.id, d.completed_at, d.started_at, d.state, d.status, d.attempts
            FROM webhooks.delivery d
           WHERE d.completed_at >= $2
             AND (coalesce($1, $4::text) IS NULL OR d.webhook_id IN (SELECT id FROM mine))),
      ended AS (
          SELECT pg_catalog.date_trunc('minute', completed_at, 'UTC') AS minute,
                 pg_catalog.count(*) FILTER (WHERE state = 'delivered') AS delivered,
                 pg_catalog.count(*) FILTER (WHERE state = 'failed') AS failed
            FROM logged GROUP BY 1),
      -- Whose an attempt is stands with its delivery, so those of some webhooks are found by their deliveries: what others
      -- have attempted costs nothing. All of them need no delivery.
      made AS (
          SELECT pg_catalog.date_trunc('minute', a.started_at, 'UTC') AS minute,
                 pg_catalog.count(*) FILTER (WHERE a.status BETWEEN 200 AND 299) AS succeeded,
                 pg_catalog.count(*) FILTER (WHERE a.status IS NULL OR a.status NOT BETWEEN 200 AND 299) AS failed
            FROM (SELECT started_at, status FROM logged WHERE started_at >= $2
                  UNION ALL
                  SELECT t.started_at, t.status FROM webhooks.attempt t
                   WHERE coalesce($1, $4::text) IS NULL AND t.started_at >= $2
                  UNION ALL
                  SELECT t.started_at, t.status
                    FROM (SELECT q.id FROM mine m JOIN webhooks.queue q ON q.webhook_id = m.id WHERE q.attempts > 0
                          UNION ALL SELECT l.id FROM logged l WHERE l.attempts > 1) o
                    JOIN webhooks.attempt t ON t.delivery_id = o.id AND t.started_at >= $2
                   WHERE coalesce($1, $4::text) IS NOT NULL) a
           GROUP BY 1)
      SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                 'minute', webhooks.format_time(m.minute),
                 'delivered', coalesce(e.delivered, 0),
                 'failed', coalesce(e.failed, 0),
                 'attempts_succeeded', coalesce(a.succeeded, 0),
                 'attempts_failed', coalesce(a.failed, 0)) ORDER BY m.minute)
        FROM pg_catalog.generate_series($2, $3, interval '1 minute') AS m(minute)
        LEFT JOIN ended e ON e.minute = m.minute
        LEFT JOIN made a ON a.minute = m.minute",
    &[
        pg_sys::TEXTOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::UUIDOID,
    ],
);
static EVENT_TYPES: Statement = Statement::new(
    c"SELECT name, description FROM webhooks.event_type ORDER BY name",
    &[],
);

/// The worker, and what waits for the caller's webhooks.
pub(super) fn status(caller: &Caller) -> Result<Value, Error> {
    as_owner(|| {
        sql::connect(|spi| {
            let rows = spi.write(&STATUS, &[arg(caller.owner())]);
            Ok(json!({
                "state": rows.get::<String>(0, 1),
                "pending": rows.get::<i64>(0, 2),
                "oldest_pending_seconds": rows.get::<f64>(0, 3),
                "active_webhooks": rows.get::<i64>(0, 4),
                "disabled_webhooks": rows.get::<i64>(0, 5),
            }))
        })
    })
}

/// Attempts of the last minutes, and deliveries that have ended in them, the oldest minute first; of one webhook or of all.
pub(super) fn activity(
    caller: &Caller,
    minutes: i32,
    webhook: Option<Uuid>,
) -> Result<Value, Error> {
    as_owner(|| {
        sql::connect(|spi| {
            if let Some(webhook) = webhook {
                deliveries::must_be_logged(spi, webhook, caller.owner())?;
            }
            // As parameters, so that the planner knows how little of the log it is.
            let last = clock::unix_ms().div_euclid(MINUTE_MS) * MINUTE_MS;
            let first = last - i64::from(minutes - 1) * MINUTE_MS;
            let rows = spi.write(
                &ACTIVITY,
                &[
                    arg(caller.owner()),
                    sql::time(first),
                    sql::time(last),
                    webhook.and_then(sql::uuid),
                ],
            );
            Ok(json!({ "minutes": rows.json(0, 1).unwrap_or_else(|| json!([])) }))
        })
    })
}

/// The types that the caller's webhooks may subscribe to.
pub(super) fn event_types(caller: &Caller) -> Result<Value, Error> {
    as_owner(|| {
        sql::connect(|spi| {
            let rows = spi.write(&EVENT_TYPES, &[]);
            let types: Vec<Value> = (0..rows.len())
                .filter_map(|row| {
                    let name: String = rows.get(row, 1)?;
                    let fits = caller.owner().is_none() || event_type::is_for_owners(&name);
                    fits.then(|| json!({ "type": name, "description": rows.get::<String>(row, 2) }))
                })
                .collect();
            Ok(json!({ "event_types": types }))
        })
    })
}
