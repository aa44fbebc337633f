//! The SQL functions. Their declarations, defaults and comments stand in `sql/*.sql`; what they
//! decide without the database stands in `webhooks_core`.

pub(crate) mod access;
pub(crate) mod deliveries;
pub(crate) mod events;
mod keys;
mod operate;
mod pending;
mod quotas;
pub(crate) mod secrets;
pub(crate) mod webhooks;

pub(crate) use events::register as register_event_type_as_owner;

use crate::error::Error;
use crate::seam::json::JsonbText;
use webhooks_core::id::{self, Kind};
use webhooks_core::quote::quote;

/// Parses an id that users see.
fn parse_id(kind: Kind, text: Option<&str>) -> Result<uuid::Uuid, Error> {
    let argument = match kind {
        Kind::Webhook => "webhook_id",
        Kind::Event => "event_id",
        Kind::Delivery => "delivery_id",
        Kind::Key => "key_id",
    };
    let text = required(text, argument)?;
    id::parse(kind, text)
        .map_err(|error| Error::invalid(format!("{error} \"{}\"", quote(text)), error.hint()))
}

/// A parameter that must not be NULL.
fn required<T>(value: Option<T>, name: &str) -> Result<T, Error> {
    value.ok_or_else(|| {
        Error::invalid(
            format!("{name} must not be null"),
            format!("Specify a value for {name}."),
        )
    })
}

/// A JSON argument.
fn parsed(json: &JsonbText, name: &str) -> Result<serde_json::Value, Error> {
    webhooks_core::json::parse(&json.0)
        .map_err(|error| Error::invalid(format!("invalid {name}: {error}"), error.hint()))
}

/// `page_limit` and `page_offset`.
fn page(limit: Option<i32>, offset: Option<i32>) -> Result<(i64, i64), Error> {
    let limit = limit.unwrap_or(20);
    let offset = offset.unwrap_or(0);
    if !(1..=1_000).contains(&limit) {
        return Err(Error::invalid(
            format!("page_limit {limit} is out of range"),
            "page_limit is a number from 1 to 1000.",
        ));
    }
    if offset < 0 {
        return Err(Error::invalid(
            format!("page_offset {offset} is out of range"),
            "page_offset is 0 or more: how many entries are left out at the beginning.",
        ));
    }
    Ok((i64::from(limit), i64::from(offset)))
}

fn pagination(total: i64, limit: i64, offset: i64) -> serde_json::Value {
    serde_json::json!({ "total": total, "limit": limit, "offset": offset, "has_more": offset + limit < total })
}
