//! Webhooks: create, list, get, update, delete.

use super::deliveries::hide_address;
use super::{page, pagination, parse_id, parsed, quotas, required};
use crate::access::{self, Caller};
use crate::error::{Error, Faults, reply};
use crate::seam::clock;
use crate::seam::json::JsonbText;
use crate::seam::owner::as_owner;
use crate::seam::sql::{self, Connection, Rows, Statement, arg};
use crate::settings;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use serde_json::Value;
use uuid::Uuid;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::event_type::Subscription;
use webhooks_core::filter::Filter;
use webhooks_core::id::{self, Kind};
use webhooks_core::quote::quote;
use webhooks_core::retry::Policy;
use webhooks_core::secret::Secret;
use webhooks_core::stored;
use webhooks_schedule::Snapshot;

static KNOWN_TYPES: Statement =
    Statement::new(c"SELECT name FROM webhooks.event_type ORDER BY name", &[]);
static CREATE: Statement = Statement::new(
    c"INSERT INTO webhooks.webhook (id, owner, url, events, secret, active, max_attempts, backoff_multiplier, max_delay, filters,
                                    created_under, paused_at, paused_under)
      VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::text::jsonb, $11::text::pg_snapshot,
              CASE WHEN NOT $6 THEN pg_catalog.clock_timestamp() END, CASE WHEN NOT $6 THEN $11::text::pg_snapshot END)",
    &[
        pg_sys::UUIDOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTOID,
        pg_sys::BOOLOID,
        pg_sys::INT4OID,
        pg_sys::FLOAT8OID,
        pg_sys::INT4OID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
    ],
);
static OBJECT: Statement = Statement::new(
    c"SELECT object FROM webhooks.webhook_object WHERE id = $1 AND ($2 IS NULL OR owner = $2)",
    &[pg_sys::UUIDOID, pg_sys::TEXTOID],
);
static LIST: Statement = Statement::new(
    c"SELECT object FROM webhooks.webhook_object
       WHERE ($1 IS NULL OR active = $1) AND ($2 IS NULL OR events @> ARRAY[$2] OR webhooks.wants(events, owner, NULL, $2, owner, '{}', NULL)) AND ($3 IS NULL OR owner = $3)
       ORDER BY id DESC LIMIT $4 OFFSET $5",
    &[pg_sys::BOOLOID, pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::INT8OID, pg_sys::INT8OID],
);
static COUNT: Statement = Statement::new(
    c"SELECT pg_catalog.count(*) FROM webhooks.webhook_object
       WHERE ($1 IS NULL OR active = $1) AND ($2 IS NULL OR events @> ARRAY[$2] OR webhooks.wants(events, owner, NULL, $2, owner, '{}', NULL)) AND ($3 IS NULL OR owner = $3)",
    &[pg_sys::BOOLOID, pg_sys::TEXTOID, pg_sys::TEXTOID],
);
static LOCK: Statement = Statement::new(
    c"SELECT url, active, max_attempts, backoff_multiplier, max_delay, filters::text, owner, activation,
             EXISTS (SELECT FROM webhooks.disabled d WHERE d.webhook_id = w.id AND d.activation = w.activation)
        FROM webhooks.webhook w WHERE id = $1 AND ($2 IS NULL OR owner = $2) FOR UPDATE",
    &[pg_sys::UUIDOID, pg_sys::TEXTOID],
);
static UPDATE: Statement = Statement::new(
    c"UPDATE webhooks.webhook w
         SET url = $2, events = coalesce($3, events), secret = coalesce($4, secret), active = $5, max_attempts = $6, backoff_multiplier = $7, max_delay = $8,
             filters = $9::text::jsonb, activation = $10, updated_at = pg_catalog.clock_timestamp(),
             paused_at = CASE $11 WHEN 'paused' THEN pg_catalog.clock_timestamp()
                              WHEN 'resumed' THEN coalesce((SELECT d.disabled_at FROM webhooks.disabled d
                                                             WHERE d.webhook_id = w.id AND d.activation = w.activation), paused_at)
                              ELSE paused_at END,
             paused_under = CASE $11 WHEN 'paused' THEN $12::text::pg_snapshot
                                 WHEN 'resumed' THEN coalesce((SELECT d.disabled_under FROM webhooks.disabled d
                                                                WHERE d.webhook_id = w.id AND d.activation = w.activation), paused_under)
                                 ELSE paused_under END,
             resumed_at = CASE $11 WHEN 'resumed' THEN pg_catalog.clock_timestamp() ELSE resumed_at END,
             resumed_under = CASE $11 WHEN 'resumed' THEN $12::text::pg_snapshot ELSE resumed_under END,
             previous_secret = CASE WHEN secret = coalesce($4, secret) THEN previous_secret END,
             previous_secret_expires_at = CASE WHEN secret = coalesce($4, secret) THEN previous_secret_expires_at END
       WHERE id = $1",
    &[
        pg_sys::UUIDOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTARRAYOID,
        pg_sys::TEXTOID,
        pg_sys::BOOLOID,
        pg_sys::INT4OID,
        pg_sys::FLOAT8OID,
        pg_sys::INT4OID,
        pg_sys::TEXTOID,
        pg_sys::INT4OID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
    ],
);
static DELETE: Statement = Statement::new(
    c"WITH gone AS (
          DELETE FROM webhooks.webhook WHERE id = $1 AND ($2 IS NULL OR owner = $2) RETURNING id, owner)
      INSERT INTO webhooks.deleted_webhook (id, owner) SELECT id, owner FROM gone",
    &[pg_sys::UUIDOID, pg_sys::TEXTOID],
);

static UNDER: Statement = Statement::new(
    c"SELECT pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_current_xact_id()::text",
    &[],
);

/// What has been committed now, as a `pg_snapshot`: what this transaction has emitted or will, has not.
fn under(spi: &Connection) -> Option<String> {
    let rows = spi.write(&UNDER, &[]);
    let (snapshot, own): (String, String) = (rows.get(0, 1)?, rows.get(0, 2)?);
    let snapshot = Snapshot::parse(&snapshot)?.with_in_progress(own.parse().ok()?);
    Some(snapshot.to_string())
}

/// The longest name of an owner, in bytes: it must fit into an index.
const MAX_OWNER: usize = 1_000;

/// What a user defines of a webhook. What a call does not change stays as it is stored, whether or not that can
/// be read.
struct Fields {
    url: String,
    /// `None`: not changed.
    events: Option<Vec<String>>,
    /// `None`: not changed.
    secret: Option<Secret>,
    active: bool,
    policy: StoredPolicy,
    /// JSON text; `None`: no filter.
    filters: Option<String>,
}

/// The columns of a retry policy.
#[derive(Clone, Copy)]
struct StoredPolicy {
    max_attempts: i32,
    backoff_multiplier: f64,
    max_delay: i32,
}

impl StoredPolicy {
    /// Changes apply to what is stored, and to the defaults where that is no policy.
    fn read(self) -> Policy {
        stored::read_policy(self.max_attempts, self.backoff_multiplier, self.max_delay)
            .unwrap_or_default()
    }
}

impl From<Policy> for StoredPolicy {
    fn from(policy: Policy) -> Self {
        Self {
            max_attempts: policy.max_attempts as i32,
            backoff_multiplier: policy.backoff_multiplier,
            max_delay: policy.max_delay as i32,
        }
    }
}

#[pg_extern(sql = false)]
fn create_webhook(
    url: Option<&str>,
    events: Option<Vec<Option<String>>>,
    secret: Option<&str>,
    active: Option<bool>,
    retry_policy: Option<JsonbText>,
    filters: Option<JsonbText>,
    owner: Option<&str>,
) -> JsonB {
    reply(create(
        url,
        events,
        secret,
        active,
        retry_policy,
        filters,
        owner,
        Faults::default(),
    ))
}

/// `webhooks.create_webhook()`. `faults`: what was found wrong with fields before, and is told together with what is
/// found here.
#[allow(clippy::too_many_arguments)] // The arguments of the SQL function.
pub(crate) fn create(
    url: Option<&str>,
    events: Option<Vec<Option<String>>>,
    secret: Option<&str>,
    active: Option<bool>,
    retry_policy: Option<JsonbText>,
    filters: Option<JsonbText>,
    owner: Option<&str>,
    mut faults: Faults,
) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    access::must_write("create_webhook()")?;
    let owner = match &caller {
        Caller::Admin => owner.map(str::to_owned),
        Caller::Owner(own) => {
            if owner.is_some_and(|owner| owner != own) {
                return Err(Error::denied(
                    "the owner argument",
                    "Leave it out: what a token's owner creates is its own.",
                ));
            }
            Some(own.clone())
        }
    };
    if owner.as_deref() == Some("") {
        return Err(Error::invalid(
            "owner must not be empty",
            "Leave it out for a webhook that receives the events of all owners.",
        ));
    }
    if let Some(length) = owner.as_ref().map(String::len).filter(|it| *it > MAX_OWNER) {
        return Err(Error::invalid(
            format!("owner is too long: {length} bytes"),
            format!("An owner has at most {MAX_OWNER} bytes."),
        ));
    }
    let url = faults.value("url", required(url, "url").and_then(checked_url))?;
    let events = required(events, "events").and_then(|events| {
        let entries = events.into_iter();
        entries
            .map(|it| {
                it.ok_or_else(|| {
                    Error::invalid(
                        "an entry of events must not be null",
                        "Leave the entry out, or name a type, such as memory.created.",
                    )
                })
            })
            .collect()
    });
    let events: Option<Vec<String>> = faults.value("events", events)?;
    let secret = match secret {
        Some(secret) => faults.value("secret", checked_secret(secret))?,
        None => Some(Secret::generate(clock::random())),
    };
    let policy = match &retry_policy {
        Some(policy) => parsed(policy, "retry_policy")
            .and_then(|policy| checked_policy(Policy::default(), &policy)),
        None => Ok(Policy::default()),
    };
    let policy = faults.value("retry_policy", policy)?;
    let filters = filters.map(|it| parsed(&it, "filters")).transpose();
    let filters = filters.and_then(|filters| checked_filters(filters.as_ref()));
    let filters = faults.value("filters", filters)?;
    let webhook = clock::new_id();
    as_owner(|| {
        sql::connect(|spi| {
            if let Some(events) = &events {
                faults.value("events", check_events(spi, events, owner.is_some()))?;
            }
            faults.end()?;
            // All of them are there, or there was a fault.
            let (Some(url), Some(events), Some(secret), Some(policy), Some(filters)) =
                (url, events, secret, policy, filters)
            else {
                return Err(Error::invalid("values are missing", None));
            };
            quotas::count_creation(spi, &caller)?;
            spi.write(
                &CREATE,
                &[
                    sql::uuid(webhook),
                    arg(owner.clone()),
                    arg(url.clone()),
                    arg(events.clone()),
                    arg(secret.expose()),
                    arg(active.unwrap_or(true)),
                    arg(policy.max_attempts as i32),
                    arg(policy.backoff_multiplier),
                    arg(policy.max_delay as i32),
                    arg(filters.clone()),
                    arg(under(spi)),
                ],
            );
            let mut object = object(spi, webhook, None)?;
            if let Value::Object(keys) = &mut object {
                keys.insert(
                    "secret".to_owned(),
                    Value::String(secret.expose().to_owned()),
                );
            }
            Ok(JsonB(object))
        })
    })
}

#[pg_extern(sql = false)]
fn list_webhooks(
    active: Option<bool>,
    event: Option<&str>,
    page_limit: Option<i32>,
    page_offset: Option<i32>,
) -> JsonB {
    reply(list(active, event, page_limit, page_offset))
}

/// `webhooks.list_webhooks()`.
pub(crate) fn list(
    active: Option<bool>,
    event: Option<&str>,
    page_limit: Option<i32>,
    page_offset: Option<i32>,
) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    let (limit, offset) = page(page_limit, page_offset)?;
    as_owner(|| {
        sql::connect(|spi| {
            let who = [arg(active), arg(event), arg(caller.owner())];
            let total = spi.write(&COUNT, &who).get::<i64>(0, 1).unwrap_or(0);
            let rows = spi.write(&LIST, &[who[0], who[1], who[2], arg(limit), arg(offset)]);
            let webhooks: Vec<Value> = (0..rows.len())
                .filter_map(|row| shown(&rows, row, caller.owner()))
                .collect();
            Ok(JsonB(serde_json::json!({
                "webhooks": webhooks,
                "pagination": pagination(total, limit, offset),
            })))
        })
    })
}

#[pg_extern(sql = false)]
fn get_webhook(webhook_id: Option<&str>) -> JsonB {
    reply(get(webhook_id))
}

/// `webhooks.get_webhook()`.
pub(crate) fn get(webhook_id: Option<&str>) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    let webhook = parse_id(Kind::Webhook, webhook_id)?;
    as_owner(|| sql::connect(|spi| object(spi, webhook, caller.owner()).map(JsonB)))
}

#[pg_extern(sql = false)]
fn update_webhook(webhook_id: Option<&str>, changes: Option<JsonbText>) -> JsonB {
    reply(update(webhook_id, changes, Faults::default()))
}

/// `webhooks.update_webhook()`. `faults`: as in [`create`].
pub(crate) fn update(
    webhook_id: Option<&str>,
    changes: Option<JsonbText>,
    mut faults: Faults,
) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    access::must_write("update_webhook()")?;
    let webhook = parse_id(Kind::Webhook, webhook_id)?;
    let changes = parsed(&required(changes, "changes")?, "changes")?;
    let Value::Object(changes) = &changes else {
        return Err(Error::invalid(
            "changes must be a JSON object",
            format!(
                "For example: SELECT webhooks.update_webhook('{}', '{{\"active\": false}}');",
                id::format(Kind::Webhook, webhook)
            ),
        ));
    };
    as_owner(|| {
        sql::connect(|spi| {
            let rows = spi.write(&LOCK, &[sql::uuid(webhook), arg(caller.owner())]);
            let (fields, owned, activation, disabled) = match locked(&rows, webhook) {
                Ok(found) => found,
                Err(absent) => {
                    faults.end()?;
                    return Err(absent);
                }
            };
            let new = merged(spi, fields, owned, changes, &mut faults)?;
            faults.end()?;
            // Switching on starts a new activation: what the worker disabled was the one before.
            let was_on = rows_active(&rows) && !disabled;
            let switched = match changes.get("active") {
                Some(Value::Bool(true)) if !was_on => Some("resumed"),
                Some(Value::Bool(false)) if was_on => Some("paused"),
                _ => None,
            };
            spi.write(
                &UPDATE,
                &[
                    sql::uuid(webhook),
                    arg(new.url),
                    arg(new.events),
                    arg(new.secret.as_ref().map(Secret::expose)),
                    arg(new.active),
                    arg(new.policy.max_attempts),
                    arg(new.policy.backoff_multiplier),
                    arg(new.policy.max_delay),
                    arg(new.filters),
                    arg(activation + i32::from(switched == Some("resumed"))),
                    arg(switched),
                    arg(switched.and_then(|_| under(spi))),
                ],
            );
            object(spi, webhook, caller.owner()).map(JsonB)
        })
    })
}

#[pg_extern(sql = false)]
fn delete_webhook(webhook_id: Option<&str>) -> JsonB {
    reply(delete(webhook_id))
}

/// `webhooks.delete_webhook()`.
pub(crate) fn delete(webhook_id: Option<&str>) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    access::must_write("delete_webhook()")?;
    let webhook = parse_id(Kind::Webhook, webhook_id)?;
    as_owner(|| {
        sql::connect(|spi| {
            if spi
                .write(&DELETE, &[sql::uuid(webhook), arg(caller.owner())])
                .len()
                == 0
            {
                return Err(absent(webhook));
            }
            Ok(JsonB(
                serde_json::json!({ "id": id::format(Kind::Webhook, webhook), "deleted": true }),
            ))
        })
    })
}

pub(super) fn absent(webhook: Uuid) -> Error {
    Error::Absent {
        what: "webhook",
        id: id::format(Kind::Webhook, webhook),
    }
}

/// An object that was read, as its owner or (`None`) an administrator may see it.
fn shown(rows: &Rows<'_>, row: usize, owner: Option<&str>) -> Option<Value> {
    let mut object = rows.json(row, 1)?;
    if let (Some(_), Some(failing)) = (owner, object.get_mut("failing")) {
        hide_address(failing, "last_error");
    }
    Some(object)
}

/// The object of a webhook that the owner may see.
fn object(spi: &Connection, webhook: Uuid, owner: Option<&str>) -> Result<Value, Error> {
    let rows = spi.write(&OBJECT, &[sql::uuid(webhook), arg(owner)]);
    shown(&rows, 0, owner).ok_or_else(|| absent(webhook))
}

/// Fails unless the webhook exists for this owner.
pub(super) fn must_exist(
    spi: &Connection,
    webhook: Uuid,
    owner: Option<&str>,
) -> Result<(), Error> {
    object(spi, webhook, owner).map(|_| ())
}

fn rows_active(rows: &Rows<'_>) -> bool {
    rows.get(0, 2) == Some(true)
}

/// The row that LOCK has read: fields, whether it has an owner, its activation, whether the worker has
/// switched it off.
fn locked(rows: &Rows<'_>, webhook: Uuid) -> Result<(Fields, bool, i32, bool), Error> {
    let read = || {
        Some((
            Fields {
                url: rows.get(0, 1)?,
                events: None,
                secret: None,
                active: rows.get(0, 2)?,
                policy: StoredPolicy {
                    max_attempts: rows.get(0, 3)?,
                    backoff_multiplier: rows.get(0, 4)?,
                    max_delay: rows.get(0, 5)?,
                },
                filters: rows.get(0, 6),
            },
            rows.get::<String>(0, 7).is_some(),
            rows.get(0, 8)?,
            rows.get(0, 9)?,
        ))
    };
    read().ok_or_else(|| absent(webhook))
}

/// Keys of the object that are not a user's to set: they are passed over, so that what get_webhook() gave
/// can be put back.
pub(crate) const READ_ONLY: &[&str] = &[
    "id",
    "owner",
    "created_at",
    "updated_at",
    "last_delivery",
    "delivery_stats",
    "failing",
    "paused_until",
    "disabled_reason",
    "previous_secret_expires_at",
];

/// What becomes of the fields. What is wrong with changes is noted; each field is judged, whatever the others are.
fn merged(
    spi: &Connection,
    mut fields: Fields,
    owned: bool,
    changes: &serde_json::Map<String, Value>,
    faults: &mut Faults,
) -> Result<Fields, Error> {
    for (key, value) in changes {
        match key.as_str() {
            "url" => {
                let url = match value {
                    // What is put back as it was is not judged by settings that are stricter now: each attempt does that.
                    Value::String(url) if *url == fields.url => Ok(url.clone()),
                    Value::String(url) => checked_url(url),
                    _ => Err(must_be("url", "a string")),
                };
                if let Some(url) = faults.value("url", url)? {
                    fields.url = url;
                }
            }
            "events" => {
                let events = texts(value)
                    .ok_or_else(|| must_be("events", "an array of strings"))
                    .and_then(|events| check_events(spi, &events, owned).map(|()| events));
                fields.events = faults.value("events", events)?;
            }
            "secret" => {
                let secret = match value {
                    Value::String(secret) => checked_secret(secret),
                    _ => Err(must_be("secret", "a string")),
                };
                fields.secret = faults.value("secret", secret)?;
            }
            "active" => {
                let active = value
                    .as_bool()
                    .ok_or_else(|| must_be("active", "true or false"));
                if let Some(active) = faults.value("active", active)? {
                    fields.active = active;
                }
            }
            "retry_policy" => {
                let policy = checked_policy(fields.policy.read(), value);
                if let Some(policy) = faults.value("retry_policy", policy)? {
                    fields.policy = policy.into();
                }
            }
            "filters" => {
                if let Some(filters) = faults.value("filters", checked_filters(Some(value)))? {
                    fields.filters = filters;
                }
            }
            key if READ_ONLY.contains(&key) => {}
            key => faults.note(
                quote(key),
                format!("unknown key \"{}\" in changes", quote(key)),
                Some("Known are url, events, secret, active, retry_policy and filters.".to_owned()),
            ),
        }
    }
    Ok(fields)
}

fn must_be(key: &'static str, what: &str) -> Error {
    Error::invalid(
        format!("{key} must be {what}"),
        format!("Leave {key} out to keep it as it is."),
    )
}

/// An array of strings.
fn texts(value: &Value) -> Option<Vec<String>> {
    let entries = value.as_array()?.iter();
    entries.map(|it| it.as_str().map(str::to_owned)).collect()
}

fn checked_url(url: &str) -> Result<String, Error> {
    let endpoint = Endpoint::parse(url, &settings::endpoint_rules())
        .map_err(|error| Error::invalid(error.to_string(), error.hint()).of("url"))?;
    if endpoint.refused_on_its_face(&settings::guard()) {
        return Err(Error::invalid(
            "address refused: the URL points into a private or reserved network",
            endpoint.hint_when_refused(url),
        )
        .of("url"));
    }
    Ok(url.to_owned())
}

fn checked_secret(secret: &str) -> Result<Secret, Error> {
    Secret::parse(secret.to_owned())
        .map_err(|error| Error::invalid(error.to_string(), error.hint()).of("secret"))
}

fn checked_policy(policy: Policy, changes: &Value) -> Result<Policy, Error> {
    policy
        .merge(changes)
        .map_err(|error| Error::invalid(error.to_string(), error.hint()).of("retry_policy"))
}

/// The filter as JSON text; JSON null is none.
fn checked_filters(filters: Option<&Value>) -> Result<Option<String>, Error> {
    match filters {
        None | Some(Value::Null) => Ok(None),
        Some(filters) => {
            Filter::parse(filters)
                .map_err(|error| Error::invalid(error.to_string(), error.hint()).of("filters"))?;
            Ok(Some(filters.to_string()))
        }
    }
}

fn check_events(spi: &Connection, events: &[String], owned: bool) -> Result<(), Error> {
    let rows = spi.write(&KNOWN_TYPES, &[]);
    let known: Vec<String> = (0..rows.len()).filter_map(|row| rows.get(row, 1)).collect();
    Subscription::parse(events, &known, owned)
        .map(|_| ())
        .map_err(|error| Error::invalid(error.to_string(), error.hint()).of("events"))
}
