//! Deliveries: list, get, retry, replay.

use super::quotas::{self, Bound};
use super::{page, pagination, parse_id, required, webhooks::must_exist};
use crate::access::{self, Caller};
use crate::emit::store::{Command, Store};
use crate::error::{Error, reply};
use crate::seam::clock;
use crate::seam::owner::as_owner;
use crate::seam::sql::{self, Connection, Rows, Statement, arg};
use crate::seam::subtransaction::subtransaction;
use crate::settings::Settings;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use uuid::Uuid;
use webhooks_core::address::without_address;
use webhooks_core::event_type::Subscription;
use webhooks_core::filter::Filter;
use webhooks_core::id::{self, Kind};
use webhooks_core::payload;
use webhooks_core::quote::quote;
use webhooks_core::request::{self, Event, Target};
use webhooks_core::stored;

static LIST: Statement = Statement::new(
    c"SELECT object, event_id FROM webhooks.delivery_object
       WHERE webhook_id = $1 AND ($2 IS NULL OR state = $2)
       ORDER BY created_at DESC, id DESC LIMIT $3 OFFSET $4",
    &[
        pg_sys::UUIDOID,
        pg_sys::TEXTOID,
        pg_sys::INT8OID,
        pg_sys::INT8OID,
    ],
);
/// How the data of events begin.
static BEGINNINGS: Statement = Statement::new(
    c"SELECT id, pg_catalog.substr(data, 1, 4096) FROM webhooks.event WHERE id = ANY ($1)",
    &[pg_sys::UUIDARRAYOID],
);
static COUNT: Statement = Statement::new(
    c"SELECT pg_catalog.count(*) FROM webhooks.delivery_object WHERE webhook_id = $1 AND ($2 IS NULL OR state = $2)",
    &[pg_sys::UUIDOID, pg_sys::TEXTOID],
);
/// A delivery, whose it must be, and the bounds of its event's id: without them, whether one that waits in the
/// outbox has this id would be worked out for every event there and every webhook.
const ONE: &[pg_sys::Oid] = &[
    pg_sys::UUIDOID,
    pg_sys::TEXTOID,
    pg_sys::UUIDOID,
    pg_sys::UUIDOID,
];
static GET: Statement = Statement::new(
    c"SELECT d.object, d.webhook_id, e.id, e.type, e.created_at, e.data, w.url
        FROM webhooks.delivery_object d
        LEFT JOIN webhooks.webhook w ON w.id = d.webhook_id
        LEFT JOIN webhooks.deleted_webhook g ON g.id = d.webhook_id
        LEFT JOIN webhooks.event e ON e.id = d.event_id
       WHERE d.id = $1 AND d.event_id BETWEEN $3 AND $4 AND ($2 IS NULL OR coalesce(w.owner, g.owner) = $2)",
    ONE,
);
static ATTEMPTS: Statement = Statement::new(
    c"SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                 'attempt', t.attempt,
                 'started_at', webhooks.format_time(t.started_at),
                 'duration_ms', t.duration_ms,
                 'status', t.status,
                 'error', t.error,
                 'response_excerpt', t.response_excerpt) ORDER BY t.attempt), '[]'),
             pg_catalog.max(t.started_at)
        FROM (SELECT attempt, started_at, duration_ms, status, error, response_excerpt
                FROM webhooks.attempt WHERE delivery_id = $1
              UNION ALL
              SELECT attempts, started_at, duration_ms, status, error, response_excerpt
                FROM webhooks.delivery WHERE id = $1 AND started_at IS NOT NULL) t",
    &[pg_sys::UUIDOID],
);
/// Takes an ended delivery out of the log and queues it, with its last attempt kept. No row: it has not
/// ended, is not there, or is not the owner's.
static RETRY: Statement = Statement::new(
    c"WITH ended AS (
          DELETE FROM webhooks.delivery d USING webhooks.webhook w
           WHERE d.id = $1 AND w.id = d.webhook_id AND ($2 IS NULL OR w.owner = $2)
          RETURNING d.*),
      kept AS (
          INSERT INTO webhooks.attempt (delivery_id, attempt, started_at, duration_ms, status, error, response_excerpt)
          SELECT id, attempts, started_at, duration_ms, status, error, response_excerpt
            FROM ended WHERE started_at IS NOT NULL)
      INSERT INTO webhooks.queue (id, event_id, webhook_id, seq, attempts, attempts_before, due, last_status, last_error, created_at)
      SELECT n.id, n.event_id, n.webhook_id, $3, n.attempts, n.attempts,
             -- The backlog of an inactive webhook is not read, but a test goes to it all the same: what is due is read.
             (SELECT pg_catalog.clock_timestamp() FROM webhooks.event e WHERE e.id = n.event_id AND e.type = 'webhook.test'),
             n.status, n.error, n.created_at
        FROM ended n
      RETURNING webhook_id",
    &[pg_sys::UUIDOID, pg_sys::TEXTOID, pg_sys::INT8OID],
);
static STATE: Statement = Statement::new(
    c"SELECT d.state, w.id IS NOT NULL, EXISTS (SELECT FROM webhooks.event e WHERE e.id = d.event_id)
        FROM webhooks.delivery_object d
        LEFT JOIN webhooks.webhook w ON w.id = d.webhook_id
        LEFT JOIN webhooks.deleted_webhook g ON g.id = d.webhook_id
       WHERE d.id = $1 AND d.event_id BETWEEN $3 AND $4 AND ($2 IS NULL OR coalesce(w.owner, g.owner) = $2)",
    ONE,
);
static DELETED: Statement = Statement::new(
    c"SELECT FROM webhooks.deleted_webhook WHERE id = $1 AND ($2 IS NULL OR owner = $2)",
    &[pg_sys::UUIDOID, pg_sys::TEXTOID],
);
static WEBHOOK: Statement = Statement::new(
    c"SELECT owner, events, filters::text FROM webhooks.webhook WHERE id = $1",
    &[pg_sys::UUIDOID],
);
/// Two replays of what has failed in one webhook come one after the other: the second sees what the first has queued. It is
/// no lock on the webhook's row, which would keep a pause waiting.
static LOCK: Statement = Statement::new(
    c"SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('webhooks.replay ' || $1::text, 0))",
    &[pg_sys::UUIDOID],
);
static EVENTS: Statement = Statement::new(
    c"SELECT e.id, e.type, e.owner,
             CASE WHEN $4 THEN coalesce(e.subject, e.data) END
        FROM webhooks.event e
       WHERE e.id > $1 AND e.id < $2 AND e.created_at >= $5 AND e.created_at <= $6
         AND e.target IS NULL AND e.about IS DISTINCT FROM $3
       ORDER BY e.id LIMIT 1000 FOR KEY SHARE OF e",
    &[
        pg_sys::UUIDOID,
        pg_sys::UUIDOID,
        pg_sys::UUIDOID,
        pg_sys::BOOLOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TIMESTAMPTZOID,
    ],
);
/// The same of these events alone.
static THESE_EVENTS: Statement = Statement::new(
    c"SELECT e.id, e.type, e.owner,
             CASE WHEN $3 THEN coalesce(e.subject, e.data) END
        FROM webhooks.event e
       WHERE e.id = ANY ($1) AND e.created_at >= $4 AND e.created_at <= $5
         AND e.target IS NULL AND e.about IS DISTINCT FROM $2
       ORDER BY e.id FOR KEY SHARE OF e",
    &[
        pg_sys::UUIDARRAYOID,
        pg_sys::UUIDOID,
        pg_sys::BOOLOID,
        pg_sys::TIMESTAMPTZOID,
        pg_sys::TIMESTAMPTZOID,
    ],
);
/// Failed deliveries of a webhook, by its index: what others have stored costs nothing.
static FAILURES: Statement = Statement::new(
    c"SELECT d.created_at, d.id, d.event_id
        FROM webhooks.delivery d
       WHERE d.webhook_id = $1 AND d.state = 'failed' AND (d.created_at, d.id) > ($2, $3)
       ORDER BY d.created_at, d.id LIMIT 1000",
    &[pg_sys::UUIDOID, pg_sys::TIMESTAMPTZOID, pg_sys::UUIDOID],
);
/// Of these events, with the bounds of their deliveries' ids: those whose deliveries to the webhook have
/// failed, and that none has brought there since or will.
static FAILED: Statement = Statement::new(
    c"SELECT u.id
        FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3)) WITH ORDINALITY AS u(id, low, high, n)
       WHERE EXISTS (SELECT FROM webhooks.delivery d
                      WHERE d.id BETWEEN u.low AND u.high AND d.event_id = u.id AND d.webhook_id = $4 AND d.state = 'failed')
         AND NOT EXISTS (SELECT FROM webhooks.delivery d
                          WHERE d.id BETWEEN u.low AND u.high AND d.event_id = u.id AND d.webhook_id = $4 AND d.state = 'delivered')
         AND NOT EXISTS (SELECT FROM webhooks.queue q
                          WHERE q.id BETWEEN u.low AND u.high AND q.event_id = u.id AND q.webhook_id = $4)
       ORDER BY u.n",
    &[
        pg_sys::UUIDARRAYOID,
        pg_sys::UUIDARRAYOID,
        pg_sys::UUIDARRAYOID,
        pg_sys::UUIDOID,
    ],
);
static QUEUE: Statement = Statement::new(
    c"INSERT INTO webhooks.queue (id, event_id, webhook_id, seq, created_at)
      SELECT u.id, u.event_id, $3, $4 + u.n, pg_catalog.clock_timestamp()
        FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) WITH ORDINALITY AS u(id, event_id, n)",
    &[pg_sys::UUIDARRAYOID, pg_sys::UUIDARRAYOID, pg_sys::UUIDOID, pg_sys::INT8OID],
);
/// The states a delivery may be asked for by.
const STATES: &[&str] = &["pending", "delivered", "failed", "cancelled"];

#[pg_extern(sql = false)]
fn list_deliveries(
    webhook_id: Option<&str>,
    state: Option<&str>,
    page_limit: Option<i32>,
    page_offset: Option<i32>,
) -> JsonB {
    reply(list(webhook_id, state, page_limit, page_offset))
}

/// `webhooks.list_deliveries()`.
pub(crate) fn list(
    webhook_id: Option<&str>,
    state: Option<&str>,
    page_limit: Option<i32>,
    page_offset: Option<i32>,
) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    let webhook = parse_id(Kind::Webhook, webhook_id)?;
    let (limit, offset) = page(page_limit, page_offset)?;
    if let Some(state) = state.filter(|state| !STATES.contains(state)) {
        return Err(Error::invalid(
            format!("unknown state \"{}\"", quote(state)),
            "Known are pending, delivered, failed and cancelled.",
        )
        .of("state"));
    }
    as_owner(|| {
        sql::connect(|spi| {
            must_be_logged(spi, webhook, caller.owner())?;
            let which = [sql::uuid(webhook), arg(state)];
            let total = spi.write(&COUNT, &which).get::<i64>(0, 1).unwrap_or(0);
            let rows = spi.write(&LIST, &[which[0], which[1], arg(limit), arg(offset)]);
            let events: Vec<Uuid> = (0..rows.len())
                .filter_map(|row| rows.uuid(row, 2))
                .collect();
            let data = beginnings(&events);
            let deliveries: Vec<Value> = (0..rows.len())
                .filter_map(|row| {
                    let mut delivery = rows.json(row, 1)?;
                    let data = rows.uuid(row, 2).and_then(|event| data.get(&event));
                    name_object(&mut delivery, data.map(String::as_str));
                    hide_for(&mut delivery, "last_error", &caller);
                    Some(delivery)
                })
                .collect();
            Ok(JsonB(
                json!({ "deliveries": deliveries, "pagination": pagination(total, limit, offset) }),
            ))
        })
    })
}

#[pg_extern(sql = false)]
fn get_delivery(delivery_id: Option<&str>) -> JsonB {
    reply(get(delivery_id))
}

/// `webhooks.get_delivery()`.
pub(crate) fn get(delivery_id: Option<&str>) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    let delivery = parse_id(Kind::Delivery, delivery_id)?;
    as_owner(|| sql::connect(|spi| shown(spi, delivery, &caller).map(JsonB)))
}

#[pg_extern(sql = false)]
fn retry_delivery(delivery_id: Option<&str>) -> JsonB {
    reply(retry(delivery_id))
}

/// `webhooks.retry_delivery()`.
pub(crate) fn retry(delivery_id: Option<&str>) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    access::must_write("retry_delivery()")?;
    let delivery = parse_id(Kind::Delivery, delivery_id)?;
    as_owner(|| {
        sql::connect(|spi| {
            let rows = spi.write(&STATE, &one(delivery, &caller));
            let (state, webhook_exists, event_exists) = (
                rows.get::<String>(0, 1),
                rows.get(0, 2) == Some(true),
                rows.get(0, 3) == Some(true),
            );
            match state.as_deref() {
                None => return Err(absent(delivery)),
                Some("pending") => return hurry(spi, delivery, &caller),
                Some(_) if !webhook_exists => {
                    return Err(Error::State {
                        message: "the webhook of this delivery has been deleted".to_owned(),
                        hint: Some(
                            "Create a webhook, and use webhooks.replay() for its events."
                                .to_owned(),
                        ),
                    });
                }
                Some(_) if !event_exists => {
                    return Err(Error::State {
                        message: "the event of this delivery is not stored any more".to_owned(),
                        hint: Some("webhooks.retention says how long events are kept.".to_owned()),
                    });
                }
                Some(_) => {}
            }
            quotas::must_have_room(spi, &Bound::from(&caller))?;
            let seq = clock::unix_ms().saturating_mul(1_000);
            let rows = spi.write(
                &RETRY,
                &[sql::uuid(delivery), arg(caller.owner()), arg(seq)],
            );
            let webhook = rows.uuid(0, 1).ok_or_else(|| absent(delivery))?;
            tell_worker(Command::Hurry(delivery), webhook)?;
            shown(spi, delivery, &caller).map(JsonB)
        })
    })
}

#[pg_extern(sql = false)]
fn replay(
    webhook_id: Option<&str>,
    since: Option<TimestampWithTimeZone>,
    until: Option<TimestampWithTimeZone>,
    only_failed: Option<bool>,
) -> i64 {
    reply(replay_period(webhook_id, since, until, only_failed))
}

/// `webhooks.replay()`.
pub(crate) fn replay_period(
    webhook_id: Option<&str>,
    since: Option<TimestampWithTimeZone>,
    until: Option<TimestampWithTimeZone>,
    only_failed: Option<bool>,
) -> Result<i64, Error> {
    let caller = access::caller()?;
    access::must_write("replay()")?;
    let webhook = parse_id(Kind::Webhook, webhook_id)?;
    let since = required(since, "since")?;
    let until = until.map_or_else(
        || clock::timestamp_of(clock::unix_ms()),
        pg_sys::TimestampTz::from,
    );
    let since = pg_sys::TimestampTz::from(since);
    if since > until {
        return Err(Error::invalid(
            "since is after until",
            "since is the earlier time, until the later one.",
        )
        .of("since"));
    }
    as_owner(|| {
        sql::connect(|spi| {
            must_exist(spi, webhook, caller.owner())?;
            let room = quotas::room(spi, &Bound::from(&caller))?;
            let only_failed = only_failed.unwrap_or(false);
            let queued = replay_events(spi, webhook, (since, until), only_failed, room)?;
            if queued > 0 {
                tell_worker(Command::Queued, webhook)?;
            }
            Ok(queued)
        })
    })
}

/// Fails unless the webhook exists for this owner, or did: its log outlives it.
pub(crate) fn must_be_logged(
    spi: &Connection,
    webhook: Uuid,
    owner: Option<&str>,
) -> Result<(), Error> {
    let Err(absent) = must_exist(spi, webhook, owner) else {
        return Ok(());
    };
    match spi.write(&DELETED, &[sql::uuid(webhook), arg(owner)]).len() {
        0 => Err(absent),
        _ => Ok(()),
    }
}

/// The parameters of [`ONE`].
fn one(delivery: Uuid, caller: &Caller) -> [sql::Arg; 4] {
    let (low, high) = id::events_of(delivery);
    [
        sql::uuid(delivery),
        arg(caller.owner()),
        sql::uuid(low),
        sql::uuid(high),
    ]
}

fn absent(delivery: Uuid) -> Error {
    Error::Absent {
        what: "delivery",
        id: id::format(Kind::Delivery, delivery),
    }
}

/// Has the worker attempt a delivery that waits now, by the attempts that it has left. Its row is the worker's to write.
fn hurry(spi: &Connection, delivery: Uuid, caller: &Caller) -> Result<JsonB, Error> {
    let rows = spi.write(&GET, &one(delivery, caller));
    let webhook = rows.uuid(0, 2).ok_or_else(|| absent(delivery))?;
    tell_worker(Command::Hurry(delivery), webhook)?;
    let mut object = shown(spi, delivery, caller)?;
    let due = object.get_mut("next_attempt_at");
    if let Some(Value::String(due)) = due {
        // Both are UTC in one form, so that they sort.
        let now = webhooks_core::time::iso_millis(clock::unix_ms());
        *due = now.min(std::mem::take(due));
    }
    Ok(JsonB(object))
}

/// Tells the worker something about a webhook, when this transaction commits.
fn tell_worker(command: Command, webhook: Uuid) -> Result<(), Error> {
    let mut store = Store::open()?;
    store.command(command, webhook);
    store.close();
    Ok(())
}

/// How the data of these events begin: of those that can be read.
fn beginnings(events: &[Uuid]) -> HashMap<Uuid, String> {
    let read = |events: &[Uuid]| {
        subtransaction(|| {
            Ok::<_, Infallible>(sql::connect(|spi| {
                let rows = spi.read(&BEGINNINGS, &[sql::uuids(events.iter().copied())]);
                let beginning = |row| Some((rows.uuid(row, 1)?, rows.get(row, 2)?));
                (0..rows.len())
                    .filter_map(beginning)
                    .collect::<Vec<(Uuid, String)>>()
            }))
        })
    };
    match read(events) {
        Ok(found) => found.into_iter().collect(),
        // One of them lies on a damaged page. It does not hide the others.
        Err(_) => events
            .iter()
            .filter_map(|event| read(std::slice::from_ref(event)).ok())
            .flatten()
            .collect(),
    }
}

/// Says which object the event of a delivery is about, as far as the beginning of its data tells.
fn name_object(delivery: &mut Value, data: Option<&str>) {
    if let Value::Object(keys) = delivery {
        keys.insert("data_id".to_owned(), json!(data.and_then(payload::id)));
    }
}

/// Leaves out of an error which address was refused, which administrators alone are told.
fn hide_for(object: &mut Value, key: &str, caller: &Caller) {
    if let Caller::Owner(_) = caller {
        hide_address(object, key);
    }
}

/// Leaves out of an error which address was refused.
pub(super) fn hide_address(object: &mut Value, key: &str) {
    if let Some(Value::String(error)) = object.get_mut(key) {
        *error = without_address(error).into_owned();
    }
}

/// An attempt's error, for the views: as the caller may read it.
#[pg_extern(sql = false)]
fn shown_error(error: Option<&str>) -> Option<String> {
    let error = error?;
    // Most errors hold no address, and then there is no need to ask who reads them.
    Some(match without_address(error) {
        Cow::Borrowed(error) => error.to_owned(),
        Cow::Owned(_) if reply(access::is_admin()) => error.to_owned(),
        Cow::Owned(without) => without,
    })
}

/// The delivery object with its attempts and its request, rendered again.
fn shown(spi: &Connection, delivery: Uuid, caller: &Caller) -> Result<Value, Error> {
    let rows = spi.write(&GET, &one(delivery, caller));
    let mut object = rows.json(0, 1).ok_or_else(|| absent(delivery))?;
    let log = spi.write(&ATTEMPTS, &[sql::uuid(delivery)]);
    let mut attempts = log.json(0, 1).unwrap_or_else(|| json!([]));
    for attempt in attempts.as_array_mut().into_iter().flatten() {
        hide_for(attempt, "error", caller);
    }
    hide_for(&mut object, "last_error", caller);
    name_object(&mut object, rows.get::<&str>(0, 6));
    let last = log.time(0, 2);
    let made = object
        .get("attempt_count")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    let pending = object.get("state").and_then(Value::as_str) == Some("pending");
    let read = || {
        Some((
            rows.uuid(0, 2)?,
            Event {
                id: rows.uuid(0, 3)?,
                event_type: rows.get(0, 4)?,
                created_ms: rows.time(0, 5)?,
                data: rows.get(0, 6)?,
            },
            rows.get::<String>(0, 7),
        ))
    };
    let request = read().map(|(webhook, event, url)| {
        let settings = Settings::read();
        let target = Target {
            webhook,
            secrets: Vec::new(),
            header_prefix: settings.header_prefix,
            user_agent: settings.user_agent,
            livemode: settings.livemode,
            max_payload: settings.max_payload,
        };
        // While it waits, what is shown is the next request; afterwards the last one.
        let number = if pending { made + 1 } else { made.max(1) };
        let at_ms = last.filter(|_| !pending).unwrap_or_else(clock::unix_ms);
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let request =
            request::build_unsigned(&event, &target, delivery, number, at_ms.div_euclid(1_000));
        let headers: serde_json::Map<String, Value> = request
            .headers
            .into_iter()
            .map(|(name, value)| (name, Value::String(value)))
            .collect();
        json!({ "method": "POST", "url": url, "headers": headers, "body": request.body })
    });
    if let Value::Object(keys) = &mut object {
        keys.insert("attempts".to_owned(), attempts);
        keys.insert("request".to_owned(), request.unwrap_or(Value::Null));
    }
    Ok(object)
}

/// What a replay has found out about its webhook, and how far it has come.
struct Replay {
    webhook: Uuid,
    owner: Option<String>,
    subscription: Subscription,
    filter: Filter,
    since: pg_sys::TimestampTz,
    until: pg_sys::TimestampTz,
    /// Makes its deliveries' ids different from those of any other replay.
    generation: u64,
    seq: i64,
    /// How many may be queued.
    room: Option<i64>,
    queued: i64,
}

fn replay_events(
    spi: &Connection,
    webhook: Uuid,
    (since, until): (pg_sys::TimestampTz, pg_sys::TimestampTz),
    only_failed: bool,
    room: Option<i64>,
) -> Result<i64, Error> {
    let rows = spi.write(&WEBHOOK, &[sql::uuid(webhook)]);
    let events: Vec<Option<String>> = rows.get(0, 2).unwrap_or_default();
    let events: Vec<String> = events.into_iter().flatten().collect();
    // Which events match cannot be told without it: all of them, or none, would be wrong.
    let filters: Option<String> = rows.get(0, 3);
    let filter = stored::read_filter(filters.as_deref()).map_err(|why| {
        let webhook = id::format(Kind::Webhook, webhook);
        Error::State {
            message: format!("the filters of {webhook} cannot be read: {why}"),
            hint: Some(format!(
                "Give them anew, or remove them: SELECT webhooks.update_webhook('{webhook}', '{{\"filters\": null}}');"
            )),
        }
    })?;
    let now = clock::unix_ms().saturating_mul(1_000);
    let mut replay = Replay {
        webhook,
        owner: rows.get(0, 1),
        subscription: Subscription::of(&events),
        filter,
        since,
        until,
        generation: u64::try_from(now).unwrap_or(1).max(1) ^ u64::from_le_bytes(clock::random()),
        seq: now,
        room,
        queued: 0,
    };
    if only_failed {
        spi.write(&LOCK, &[sql::uuid(webhook)]);
        replay.what_failed()?;
    } else {
        replay.everything()?;
    }
    Ok(replay.queued)
}

impl Replay {
    /// All stored events of the time, a page after the other. A connection for each page: what was read is given back with
    /// it, and there may be more than there is memory.
    fn everything(&mut self) -> Result<(), Error> {
        // A moment more on both sides, since an id is made from a clock that runs ahead of the column's a little.
        const SLACK_MS: i64 = 60_000;
        let floor = |at: pg_sys::TimestampTz, slack: i64| {
            let ms = clock::unix_of(at)
                .saturating_add(slack)
                .clamp(0, (1 << 48) - 1);
            webhooks_core::id::floor_of(u64::try_from(ms).unwrap_or(0))
        };
        let (mut after, high) = (floor(self.since, -SLACK_MS), floor(self.until, SLACK_MS));
        let mut page = |spi: &Connection| -> Result<bool, Error> {
            pgrx::check_for_interrupts!();
            let page = spi.write(
                &EVENTS,
                &[
                    sql::uuid(after),
                    sql::uuid(high),
                    sql::uuid(self.webhook),
                    arg(!self.filter.is_empty()),
                    Some(pg_sys::Datum::from(self.since)),
                    Some(pg_sys::Datum::from(self.until)),
                ],
            );
            let last = page.len().checked_sub(1).and_then(|row| page.uuid(row, 1));
            after = last.unwrap_or(after);
            self.queue(spi, &self.fitting(&page))?;
            Ok(page.len() == 1_000)
        };
        while sql::connect(&mut page)? {}
        Ok(())
    }

    /// The events whose deliveries to this webhook have failed.
    fn what_failed(&mut self) -> Result<(), Error> {
        let mut after = (Some(pg_sys::Datum::from(i64::MIN)), Uuid::nil());
        let mut page = |spi: &Connection| -> Result<bool, Error> {
            pgrx::check_for_interrupts!();
            let page = spi.write(
                &FAILURES,
                &[sql::uuid(self.webhook), after.0, sql::uuid(after.1)],
            );
            let Some(last) = page.len().checked_sub(1) else {
                return Ok(false);
            };
            if let (Some((at, _)), Some(id)) = (page.datum(last, 1), page.uuid(last, 2)) {
                after = (Some(at), id);
            }
            let mut events: Vec<Uuid> = (0..page.len())
                .filter_map(|row| page.uuid(row, 3))
                .collect();
            events.sort_unstable();
            events.dedup();
            let events = self.not_arrived(spi, &events);
            let rows = spi.write(
                &THESE_EVENTS,
                &[
                    sql::uuids(events),
                    sql::uuid(self.webhook),
                    arg(!self.filter.is_empty()),
                    Some(pg_sys::Datum::from(self.since)),
                    Some(pg_sys::Datum::from(self.until)),
                ],
            );
            self.queue(spi, &self.fitting(&rows))?;
            Ok(page.len() == 1_000)
        };
        while sql::connect(&mut page)? {}
        Ok(())
    }

    /// Those of these events that have failed, and that nothing has brought there since or will.
    fn not_arrived(&self, spi: &Connection, events: &[Uuid]) -> Vec<Uuid> {
        let bounds: Vec<_> = events
            .iter()
            .map(|&event| id::deliveries_of(event))
            .collect();
        let failed = spi.write(
            &FAILED,
            &[
                sql::uuids(events.iter().copied()),
                sql::uuids(bounds.iter().map(|it| it.0)),
                sql::uuids(bounds.iter().map(|it| it.1)),
                sql::uuid(self.webhook),
            ],
        );
        (0..failed.len())
            .filter_map(|row| failed.uuid(row, 1))
            .collect()
    }

    /// Those of a page that the webhook gets as it is now.
    fn fitting(&self, page: &Rows<'_>) -> Vec<Uuid> {
        let fits = |row: &usize| {
            let Some(event_type) = page.get::<String>(*row, 2) else {
                return false;
            };
            self.subscription.matches(&event_type, self.owner.is_some())
                && (self.owner.is_none() || self.owner == page.get::<String>(*row, 3))
                && (self.filter.is_empty()
                    || page
                        .get::<String>(*row, 4)
                        .and_then(|text| webhooks_core::json::parse(&text).ok())
                        .is_some_and(|value| self.filter.matches(&value)))
        };
        (0..page.len())
            .filter(fits)
            .filter_map(|row| page.uuid(row, 1))
            .collect()
    }

    /// Queues a delivery of each event.
    fn queue(&mut self, spi: &Connection, events: &[Uuid]) -> Result<(), Error> {
        if events.is_empty() {
            return Ok(());
        }
        let count = events.len() as i64;
        if self.room.is_some_and(|room| self.queued + count > room) {
            return Err(quotas::full());
        }
        let ids = events
            .iter()
            .map(|&event| id::delivery(event, self.webhook, self.generation));
        spi.write(
            &QUEUE,
            &[
                sql::uuids(ids),
                sql::uuids(events.iter().copied()),
                sql::uuid(self.webhook),
                arg(self.seq + self.queued),
            ],
        );
        self.queued += count;
        Ok(())
    }
}
