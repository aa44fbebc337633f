//! How much one owner may have: webhooks, creations in an hour, deliveries that wait. Administrators are
//! exempt.
//!
//! What there is is counted as it is now, whatever snapshot the caller's transaction has: it may have taken it
//! before others filled the quota.

use crate::access::Caller;
use crate::error::Error;
use crate::seam::owner;
use crate::seam::sql::{Connection, Statement, arg};
use crate::settings;
use pgrx::pg_sys;
use std::time::Duration;

/// After how long it is worth looking whether fewer deliveries wait, in seconds.
const PENDING_PAUSE_S: u64 = 60;

/// Counts a creation of an owner, under the lock of the owner's row, so that racing ones see each other.
/// Returns the creations of the last hour with this one, and the seconds until the oldest is an hour old.
static COUNT_CREATION: Statement = Statement::new(
    c"INSERT INTO webhooks.creation AS c (owner, at) VALUES ($1, ARRAY[pg_catalog.clock_timestamp()])
      ON CONFLICT (owner) DO UPDATE
         SET at = (SELECT pg_catalog.array_agg(a ORDER BY a)
                     FROM pg_catalog.unnest(c.at || pg_catalog.clock_timestamp()) a
                    WHERE a > pg_catalog.clock_timestamp() - interval '1 hour')
      RETURNING pg_catalog.cardinality(at),
                pg_catalog.ceil(extract(epoch FROM at[greatest(1, pg_catalog.cardinality(at) - $2)] + interval '1 hour'
                                                   - pg_catalog.clock_timestamp()))::int8",
    &[pg_sys::TEXTOID, pg_sys::INT4OID],
);
static COUNT_OF_OWNER: Statement = Statement::new(
    c"SELECT pg_catalog.count(*) FROM webhooks.webhook WHERE owner IS NOT DISTINCT FROM $1",
    &[pg_sys::TEXTOID],
);
/// Deliveries of an owner that wait, up to a number: those of the queue, and those that events in the outbox
/// stand for. A webhook that was paused when they were emitted counts like another: rather too many than too few.
static COUNT_PENDING: Statement = Statement::new(
    c"SELECT pg_catalog.count(*) FROM (
          (SELECT FROM webhooks.webhook w JOIN webhooks.queue q ON q.webhook_id = w.id WHERE w.owner = $1 LIMIT $2)
          UNION ALL
          (SELECT FROM webhooks.outbox o
             JOIN webhooks.event e ON e.id = o.id
             JOIN webhooks.webhook w
               ON e.target = w.id
               OR (e.target IS NULL AND e.about IS DISTINCT FROM w.id
                   AND webhooks.wants(w.events, w.owner, w.filters, e.type, e.owner, e.data, e.subject))
            WHERE o.command IS NULL AND e.owner = $1 AND w.owner = $1 LIMIT $2)
          LIMIT $2) p",
    &[pg_sys::TEXTOID, pg_sys::INT8OID],
);

/// Counts a creation, and fails if it is one too many.
pub(super) fn count_creation(spi: &Connection, caller: &Caller) -> Result<(), Error> {
    let Caller::Owner(owner) = caller else {
        return Ok(());
    };
    let owner = owner.as_str();
    let most = settings::creations_per_hour();
    let rows = spi.write(&COUNT_CREATION, &[arg(owner), arg(most as i32)]);
    let made: i32 = rows.get(0, 1).unwrap_or(0);
    let wait: i64 = rows.get(0, 2).unwrap_or(0);
    if most > 0 && i64::from(made) > i64::from(most) {
        let wait = Duration::from_secs(u64::try_from(wait).unwrap_or(0).max(1)).as_secs();
        return Err(Error::Limit {
            message: format!(
                "too many webhooks created: at most {most} in an hour, try again in {wait} seconds"
            ),
            hint: Some(format!("Try again in {wait} seconds.")),
            retry_after_s: Some(wait),
        });
    }
    let most = settings::max_webhooks_per_owner();
    let there: i64 = spi
        .read_latest(&COUNT_OF_OWNER, &[arg(owner)])
        .get(0, 1)
        .unwrap_or(0);
    if most > 0 && there >= i64::from(most) {
        return Err(Error::Limit {
            message: format!("too many webhooks: at most {most} for each owner"),
            hint: Some("Delete one, or raise webhooks.max_webhooks_per_owner.".to_owned()),
            retry_after_s: None,
        });
    }
    Ok(())
}

/// Whose waiting deliveries are counted before more are made.
#[derive(Clone, Debug)]
pub(super) enum Bound {
    /// Nobody's.
    None,
    /// Those of an owner on whose behalf somebody trusted acts.
    Counted(String),
    /// Those of the owner who calls: calls that race wait for each other.
    Locked(String),
}

impl From<&Caller> for Bound {
    fn from(caller: &Caller) -> Self {
        match caller {
            Caller::Admin => Self::None,
            Caller::Owner(owner) => Self::Locked(owner.clone()),
        }
    }
}

/// How many deliveries more may be made to wait; `None`: any number.
pub(super) fn room(spi: &Connection, bound: &Bound) -> Result<Option<i64>, Error> {
    let most = i64::from(settings::max_pending_per_owner());
    let (Bound::Counted(owner) | Bound::Locked(owner)) = bound else {
        return Ok(None);
    };
    if most == 0 {
        return Ok(None);
    }
    if matches!(bound, Bound::Locked(_)) {
        lock(owner)?;
    }
    let pending: i64 = spi
        .read_latest(&COUNT_PENDING, &[arg(owner.as_str()), arg(most)])
        .get(0, 1)
        .unwrap_or(0);
    Ok(Some((most - pending).max(0)))
}

/// Fails if nothing more may be made to wait.
pub(super) fn must_have_room(spi: &Connection, bound: &Bound) -> Result<(), Error> {
    match room(spi, bound)? {
        Some(0) => Err(full()),
        _ => Ok(()),
    }
}

/// What is said to whoever has too much waiting.
pub(super) fn full() -> Error {
    let most = settings::max_pending_per_owner();
    Error::Limit {
        message: format!("too many pending deliveries: at most {most} for each owner"),
        hint: Some(
            "Wait until some have been delivered, or delete webhooks that do not answer."
                .to_owned(),
        ),
        retry_after_s: Some(PENDING_PAUSE_S),
    }
}

/// Has other calls of this owner wait until the transaction ends. No statement of a user's can take this
/// lock, as it could an advisory one.
fn lock(owner: &str) -> Result<(), Error> {
    const WHOLE: u16 = 0;
    let table = owner::relation(c"creation")?;
    let hash = webhooks_core::token::hash(owner);
    let number = u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]);
    // SAFETY: in a transaction; the lock table takes any number, and gives the lock back at its end.
    unsafe {
        pg_sys::LockDatabaseObject(
            table,
            pg_sys::Oid::from(number),
            WHOLE,
            pg_sys::ExclusiveLock as i32,
        );
    }
    Ok(())
}
