//! Signing secrets: rotation.

use super::{parse_id, required};
use crate::access;
use crate::error::{Error, reply};
use crate::seam::clock;
use crate::seam::owner::as_owner;
use crate::seam::sql::{self, Statement, arg};
use pgrx::datum::Interval;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use webhooks_core::id::{self, Kind};
use webhooks_core::secret::Secret;

/// The secret that is in use, under the lock of its row.
static CURRENT: Statement = Statement::new(
    c"SELECT secret FROM webhooks.webhook WHERE id = $1 AND ($2 IS NULL OR owner = $2) FOR UPDATE",
    &[pg_sys::UUIDOID, pg_sys::TEXTOID],
);
/// The newest two secrets are kept: a rotation within the overlap of another ends the oldest at once. A secret that
/// cannot be read ($5) has signed nothing, and so the one before it stays.
static ROTATE: Statement = Statement::new(
    c"UPDATE webhooks.webhook
         SET secret = $3,
             previous_secret = CASE WHEN $4 = 0 THEN NULL WHEN $5 THEN previous_secret ELSE secret END,
             previous_secret_expires_at =
                 CASE WHEN $4 = 0 THEN NULL WHEN $5 THEN previous_secret_expires_at
                      ELSE pg_catalog.clock_timestamp() + $4 * interval '1 microsecond' END,
             updated_at = pg_catalog.clock_timestamp()
       WHERE id = $1 AND ($2 IS NULL OR owner = $2)
      RETURNING webhooks.format_time(previous_secret_expires_at)",
    &[
        pg_sys::UUIDOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::INT8OID,
        pg_sys::BOOLOID,
    ],
);

/// The longest overlap, in microseconds: 30 days.
const OVERLAP_MOST: i128 = 30 * DAY;
const DAY: i128 = 86_400_000_000;

#[pg_extern(sql = false)]
fn rotate_secret(webhook_id: Option<&str>, overlap: Option<Interval>) -> JsonB {
    reply(rotate(webhook_id, overlap))
}

/// `webhooks.rotate_secret()`.
pub(crate) fn rotate(webhook_id: Option<&str>, overlap: Option<Interval>) -> Result<JsonB, Error> {
    let caller = access::caller()?;
    access::must_write("rotate_secret()")?;
    let webhook = parse_id(Kind::Webhook, webhook_id)?;
    let overlap = microseconds(&required(overlap, "overlap")?)?;
    let secret = Secret::generate(clock::random());
    as_owner(|| {
        sql::connect(|spi| {
            let whose = [sql::uuid(webhook), arg(caller.owner())];
            let current: Option<String> = spi.write(&CURRENT, &whose).get(0, 1);
            let current = current.ok_or_else(|| super::webhooks::absent(webhook))?;
            let unreadable = Secret::parse(current).is_err();
            let rows = spi.write(
                &ROTATE,
                &[
                    whose[0],
                    whose[1],
                    arg(secret.expose()),
                    arg(overlap),
                    arg(unreadable),
                ],
            );
            Ok(JsonB(serde_json::json!({
                "id": id::format(Kind::Webhook, webhook),
                "secret": secret.expose(),
                "previous_secret_expires_at": rows.get::<String>(0, 1),
            })))
        })
    })
}

/// The length of an overlap; months have 30 days, as where Postgres compares intervals.
fn microseconds(overlap: &Interval) -> Result<i64, Error> {
    let days = i128::from(overlap.months()) * 30 + i128::from(overlap.days());
    let total = days * DAY + i128::from(overlap.micros());
    i64::try_from(total)
        .ok()
        .filter(|_| (0..=OVERLAP_MOST).contains(&total))
        .ok_or_else(|| {
            Error::invalid(
                "overlap is out of range",
                "overlap is an interval from '0' to '30 days'; with '0' the previous secret ends at once.",
            )
        })
}
