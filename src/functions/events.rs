//! Events by function: emit, search_performed, user_activity, send_test, register_event_type; sign and
//! verify.

use super::quotas::{self, Bound};
use super::{parse_id, parsed, required, webhooks::must_exist};
use crate::access::{self, Emitter};
use crate::emit::store::{NewEvent, Store};
use crate::emit::subscribers::{self, Audience};
use crate::error::{Error, reply};
use crate::seam::json::JsonbText;
use crate::seam::owner::as_owner;
use crate::seam::sql::{self, Statement, arg};
use crate::settings;
use pgrx::pg_sys;
use pgrx::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;
use webhooks_core::event_type::{self, Subscription};
use webhooks_core::id::{self, Kind};
use webhooks_core::json::{self, write_string};
use webhooks_core::payload;
use webhooks_core::quote::quote;
use webhooks_core::stored::{self, Stored};

static IS_KNOWN: Statement = Statement::new(
    c"SELECT FROM webhooks.event_type WHERE name = $1",
    &[pg_sys::TEXTOID],
);
static KNOWN: Statement =
    Statement::new(c"SELECT name FROM webhooks.event_type ORDER BY name", &[]);
static REGISTER: Statement = Statement::new(
    c"INSERT INTO webhooks.event_type AS t (name, description) VALUES ($1, $2)
      ON CONFLICT (name) DO UPDATE SET description = excluded.description WHERE NOT t.builtin",
    &[pg_sys::TEXTOID, pg_sys::TEXTOID],
);

#[pg_extern(sql = false)]
fn emit(event_type: Option<&str>, data: Option<JsonbText>, owner: Option<&str>) -> Option<String> {
    reply(emit_event(event_type, data, owner))
}

/// `webhooks.emit()`.
pub(crate) fn emit_event(
    event_type: Option<&str>,
    data: Option<JsonbText>,
    owner: Option<&str>,
) -> Result<Option<String>, Error> {
    let sender = Sender::of("emit()", event_type.unwrap_or_default(), owner)?;
    let event_type = required(event_type, "event_type")?;
    must_be_known(event_type)?;
    let data = required(data, "data")?.0;
    if !data.starts_with('{') {
        return Err(Error::invalid(
            "data must be a JSON object",
            "For example {\"object\": \"note\", \"id\": \"7\"}.",
        ));
    }
    publish(event_type, sender, &data)
}

#[pg_extern(sql = false)]
fn search_performed(
    query: Option<&str>,
    results: Option<JsonbText>,
    user_id: Option<&str>,
    owner: Option<&str>,
) -> Option<String> {
    reply(emit_search(query, results, user_id, owner))
}

/// `webhooks.search_performed()`.
pub(crate) fn emit_search(
    query: Option<&str>,
    results: Option<JsonbText>,
    user_id: Option<&str>,
    owner: Option<&str>,
) -> Result<Option<String>, Error> {
    let sender = Sender::of("search_performed()", event_type::SEARCH_PERFORMED, owner)?;
    let query = required(query, "query")?;
    let results = match results {
        Some(results) => summary(&shallow(&results)?)?,
        None => summary(&Value::Null)?,
    };
    let data =
        json!({ "object": "search", "query": query, "user_id": user_id, "results": results });
    publish(event_type::SEARCH_PERFORMED, sender, &canonical(&data))
}

#[pg_extern(sql = false)]
fn user_activity(
    user_id: Option<&str>,
    activity: Option<&str>,
    details: Option<JsonbText>,
    owner: Option<&str>,
) -> Option<String> {
    reply(emit_activity(user_id, activity, details, owner))
}

/// `webhooks.user_activity()`.
pub(crate) fn emit_activity(
    user_id: Option<&str>,
    activity: Option<&str>,
    details: Option<JsonbText>,
    owner: Option<&str>,
) -> Result<Option<String>, Error> {
    let sender = Sender::of("user_activity()", event_type::USER_ACTIVITY, owner)?;
    let user_id = required(user_id, "user_id")?;
    let activity = required(activity, "activity")?;
    let mut data = String::from("{\"object\":\"activity\",\"user_id\":");
    write_string(user_id, &mut data);
    data.push_str(",\"activity\":");
    write_string(activity, &mut data);
    data.push_str(",\"details\":");
    data.push_str(details.as_ref().map_or("{}", |it| &it.0));
    data.push('}');
    publish(event_type::USER_ACTIVITY, sender, &data)
}

#[pg_extern(sql = false)]
fn send_test(webhook_id: Option<&str>) -> String {
    reply(test(webhook_id))
}

/// `webhooks.send_test()`.
pub(crate) fn test(webhook_id: Option<&str>) -> Result<String, Error> {
    let caller = access::caller()?;
    access::must_write("send_test()")?;
    let webhook = parse_id(Kind::Webhook, webhook_id)?;
    as_owner(|| {
        sql::connect(|spi| {
            must_exist(spi, webhook, caller.owner())?;
            quotas::must_have_room(spi, &Bound::from(&caller))
        })
    })?;
    let shown = id::format(Kind::Webhook, webhook);
    let data =
        json!({ "object": "test", "id": shown, "message": "This is a test of your webhook." });
    let event = store(NewEvent {
        event_type: event_type::WEBHOOK_TEST.to_owned(),
        owner: caller.owner().map(str::to_owned),
        target: Some(webhook),
        data: canonical(&data),
        ..NewEvent::default()
    })?;
    Ok(id::format(Kind::Event, event))
}

#[pg_extern(sql = false)]
fn register_event_type(type_: Option<&str>, description: Option<&str>) {
    reply((|| {
        access::must_be_admin("register_event_type()")?;
        access::must_write("register_event_type()")?;
        let name = required(type_, "type")?;
        let description = required(description, "description")?;
        register(name, description)
    })());
}

/// Makes a type known; a built-in one keeps its description.
pub(crate) fn register(name: &str, description: &str) -> Result<(), Error> {
    if !event_type::valid_name(name) {
        return Err(Error::invalid(
            format!("invalid event type \"{}\"", quote(name)),
            "A type is object.action, such as invoice.paid: lower-case letters, digits and underscores, each part beginning with a letter, at most 100 bytes.",
        ));
    }
    as_owner(|| {
        sql::connect(|spi| {
            spi.write(&REGISTER, &[arg(name), arg(description)]);
        });
        Ok(())
    })
}

#[pg_extern(sql = false)]
fn sign(body: &str, secret: &str) -> String {
    webhooks_core::sign::hex_hmac(secret, body.as_bytes())
}

#[pg_extern(sql = false)]
fn verify(body: &str, signature: &str, secret: &str) -> bool {
    webhooks_core::sign::verify_hex(secret, body.as_bytes(), signature)
}

#[pg_extern(sql = false)]
fn delivery_id(event_id: pgrx::Uuid, webhook_id: pgrx::Uuid) -> pgrx::Uuid {
    let uuid = |id: pgrx::Uuid| Uuid::from_bytes(*id.as_bytes());
    pgrx::Uuid::from_bytes(id::delivery(uuid(event_id), uuid(webhook_id), 0).into_bytes())
}

/// What dispatch decides, for the views.
#[pg_extern(sql = false)]
fn wants(
    events: Option<Vec<Option<String>>>,
    owner: Option<&str>,
    filters: Option<JsonbText>,
    event_type: Option<&str>,
    event_owner: Option<&str>,
    data: Option<&str>,
    subject: Option<&str>,
) -> bool {
    let (Some(events), Some(event_type), Some(data)) = (events, event_type, data) else {
        return false;
    };
    let events: Vec<String> = events.into_iter().flatten().collect();
    if !Subscription::of(&events).matches(event_type, owner.is_some())
        || (owner.is_some() && owner != event_owner)
    {
        return false;
    }
    // Where the filter cannot be read, dispatch makes a delivery that waits until it can.
    let Ok(filter) = stored::read_filter(filters.as_ref().map(|it| it.0.as_str())) else {
        return true;
    };
    filter.is_empty() || json::parse(subject.unwrap_or(data)).is_ok_and(|row| filter.matches(&row))
}

/// Why a webhook sends nothing, for the views: what of its row the worker cannot read.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // The columns that users define.
fn unreadable(
    url: Option<&str>,
    events: Option<Vec<Option<String>>>,
    secret: Option<&str>,
    previous_secret: Option<&str>,
    filters: Option<JsonbText>,
    max_attempts: Option<i32>,
    backoff_multiplier: Option<f64>,
    max_delay: Option<i32>,
) -> Option<String> {
    Stored {
        url: url.unwrap_or_default(),
        events: &events.unwrap_or_default(),
        secret,
        previous_secret,
        filters: filters.as_ref().map(|it| it.0.as_str()),
        max_attempts: max_attempts.unwrap_or_default(),
        backoff_multiplier: backoff_multiplier.unwrap_or_default(),
        max_delay: max_delay.unwrap_or_default(),
    }
    .read()
    .unreadable
}

/// Whose event it is to be, and whose waiting deliveries are counted before.
struct Sender {
    owner: Option<String>,
    bound: Bound,
}

impl Sender {
    /// The caller, who emits an event of this type, and perhaps names an owner.
    fn of(what: &'static str, event_type: &str, owner: Option<&str>) -> Result<Self, Error> {
        let emitter = access::emitter(what, event_type)?;
        access::must_write(what)?;
        let owner = owner.map(str::to_owned);
        Ok(match emitter {
            Emitter::Admin => Self {
                owner,
                bound: Bound::None,
            },
            Emitter::Trusted => Self {
                bound: owner.clone().map_or(Bound::None, Bound::Counted),
                owner,
            },
            Emitter::Owner(own) => {
                if owner.is_some_and(|owner| owner != own) {
                    return Err(Error::denied(
                        "the owner argument",
                        "Leave it out: what a token's owner emits is its own.",
                    ));
                }
                Self {
                    owner: Some(own.clone()),
                    bound: Bound::Locked(own),
                }
            }
        })
    }
}

fn must_be_known(name: &str) -> Result<(), Error> {
    as_owner(|| {
        sql::connect(|spi| {
            if spi.write(&IS_KNOWN, &[arg(name)]).len() > 0 {
                return Ok(());
            }
            let rows = spi.write(&KNOWN, &[]);
            let known: Vec<String> = (0..rows.len()).filter_map(|row| rows.get(row, 1)).collect();
            if name.contains('*') {
                return Err(Error::invalid(
                    format!("unknown event type \"{}\"", quote(name)),
                    "An event has one type, without wildcards, such as user.activity.",
                ));
            }
            Err(Error::invalid(
                format!("unknown event type \"{}\"", quote(name)),
                event_type::advice(
                    name,
                    &known,
                    "A type is object.action in lower case, such as user.activity.",
                ),
            ))
        })
    })
}

fn canonical(data: &Value) -> String {
    let mut text = String::new();
    json::write_value(data, &mut text);
    text
}

/// Stores an event if anybody subscribes to its type. `data`: an object, as JSON text of any depth.
fn publish(event_type: &str, sender: Sender, data: &str) -> Result<Option<String>, Error> {
    if !settings::enabled() || matches!(*subscribers::audience(event_type)?, Audience::Nobody) {
        return Ok(None);
    }
    if !matches!(sender.bound, Bound::None) {
        as_owner(|| sql::connect(|spi| quotas::must_have_room(spi, &sender.bound)))?;
    }
    let mut text = String::with_capacity(data.len());
    let mut subject = None;
    if json::canonicalize(data, &mut text).is_err() {
        // Nested more deeply than is certain to be read again: the truncated form, and what is left of the
        // whole for filters.
        crate::emit::count_truncated(1);
        let mut left = String::new();
        let shown = json::prune(data, json::MAX_DEPTH, &mut left)
            .and_then(|()| json::parse(&left))
            .unwrap_or_default();
        let word = |key: &str| shown.get(key).and_then(as_id);
        let word = |key: &str| word(key).and_then(|it| it.as_str().map(str::to_owned));
        text = payload::minimal(
            &word("object").unwrap_or_default(),
            &word("id").unwrap_or_default(),
        );
        subject = Some(left);
    }
    let limit = settings::max_payload();
    if text.len() > limit {
        let mut small = String::new();
        payload::shrink(&text, limit, &mut small);
        let whole = std::mem::replace(&mut text, small);
        subject.get_or_insert(whole);
    }
    let event = store(NewEvent {
        event_type: event_type.to_owned(),
        owner: sender.owner,
        data: text,
        subject,
        ..NewEvent::default()
    })?;
    Ok(Some(id::format(Kind::Event, event)))
}

fn store(event: NewEvent) -> Result<Uuid, Error> {
    let mut store = Store::open()?;
    let id = store.add(event);
    store.close();
    Ok(id)
}

/// Search results as far as a summary looks into them.
fn shallow(results: &JsonbText) -> Result<Value, Error> {
    /// An object with a list of objects with an id.
    const LEVELS: usize = 3;
    let mut text = String::with_capacity(results.0.len());
    json::prune(&results.0, LEVELS, &mut text)
        .map_err(|error| Error::invalid(format!("invalid results: {error}"), error.hint()))?;
    parsed(&JsonbText(text), "results")
}

/// Count, ids and scores of search results: an array of objects or ids, or such a summary already.
fn summary(results: &Value) -> Result<Value, Error> {
    let list = match results {
        Value::Null => &Vec::new(),
        Value::Array(list) => list,
        Value::Object(keys) => match keys.get("results").or_else(|| keys.get("ids")) {
            Some(Value::Array(list)) if keys.contains_key("results") => list,
            _ => {
                let ids = keys
                    .get("ids")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                let scores = keys
                    .get("scores")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                let count = keys
                    .get("count")
                    .and_then(Value::as_u64)
                    .unwrap_or(ids.len() as u64);
                let ids: Vec<Value> = ids.iter().filter_map(as_id).collect();
                let scores: Vec<Value> = scores.into_iter().filter(Value::is_number).collect();
                return Ok(json!({ "count": count, "ids": ids, "scores": scores }));
            }
        },
        _ => {
            return Err(Error::invalid(
                "results must be a JSON array or object",
                "For example [{\"id\": \"7\", \"score\": 0.9}].",
            ));
        }
    };
    let ids: Vec<Value> = list
        .iter()
        .filter_map(|it| as_id(it.get("id").unwrap_or(it)))
        .collect();
    let scores: Vec<Value> = list
        .iter()
        .filter_map(|it| {
            ["score", "similarity"]
                .iter()
                .find_map(|key| it.get(key))
                .filter(|it| it.is_number())
                .cloned()
        })
        .collect();
    Ok(json!({ "count": list.len(), "ids": ids, "scores": scores }))
}

/// An id is a string.
fn as_id(value: &Value) -> Option<Value> {
    match value {
        Value::String(_) => Some(value.clone()),
        Value::Number(number) => Some(Value::String(number.to_string())),
        _ => None,
    }
}
