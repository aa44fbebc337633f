//! A webhook's row, as the scheduler knows it.

use crate::seam::clock;
use crate::seam::sql::{self, Connection, Statement, arg};
use crate::settings::Settings;
use pgrx::pg_sys;
use std::sync::Arc;
use uuid::Uuid;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::request::Target;
use webhooks_core::secret::LiveSecret;
use webhooks_core::stored::Stored;
use webhooks_schedule::{Definition, Failing, Lifetime, Moment, Snapshot};

static LOAD: Statement = Statement::new(
    c"SELECT w.id, w.owner, w.url, w.events, CASE WHEN $2 THEN w.secret END,
             CASE WHEN $2 THEN w.previous_secret END,
             w.active AND d.webhook_id IS NULL, w.activation,
             w.max_attempts, w.backoff_multiplier, w.max_delay, w.filters::text,
             w.created_at, w.created_under::text,
             coalesce(d.disabled_at, w.paused_at), coalesce(d.disabled_under, w.paused_under)::text,
             w.resumed_at, w.resumed_under::text,
             s.failing_since, s.failed_since_success,
             w.previous_secret_expires_at,
             s.first_failed_at, s.failed_attempts, s.last_status, s.last_error, p.paused_until
        FROM webhooks.webhook w
        LEFT JOIN webhooks.disabled d ON d.webhook_id = w.id AND d.activation = w.activation
        LEFT JOIN webhooks.webhook_stats s ON s.webhook_id = w.id AND s.activation = w.activation
        LEFT JOIN webhooks.paused p ON p.webhook_id = w.id
       WHERE w.id = ANY ($1)",
    &[pg_sys::UUIDARRAYOID, pg_sys::BOOLOID],
);
/// Whether secrets are read: only whoever signs needs them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Secrets {
    Shown,
    Hidden,
}

/// The webhooks with these ids, as far as they are there.
pub(crate) fn load(
    spi: &Connection,
    ids: &[Uuid],
    secrets: Secrets,
    settings: &Settings,
) -> Vec<Definition> {
    let which = [
        sql::uuids(ids.iter().copied()),
        arg(secrets == Secrets::Shown),
    ];
    let rows = spi.read(&LOAD, &which);
    (0..rows.len())
        .filter_map(|row| read(&rows, row, settings))
        .collect()
}

fn read(rows: &sql::Rows<'_>, row: usize, settings: &Settings) -> Option<Definition> {
    let id = rows.uuid(row, 1)?;
    let url: String = rows.get(row, 3).unwrap_or_default();
    let events: Vec<Option<String>> = rows.get(row, 4).unwrap_or_default();
    let secret: Option<String> = rows.get(row, 5);
    // Whether the previous one still signs is judged at each attempt, too.
    let until_ms = rows.time(row, 21).filter(|&it| it > clock::unix_ms());
    let previous = until_ms.and_then(|_| rows.get::<String>(row, 6));
    let filters: Option<String> = rows.get(row, 12);
    let stored = Stored {
        url: &url,
        events: &events,
        secret: secret.as_deref(),
        previous_secret: None,
        filters: filters.as_deref(),
        max_attempts: rows.get(row, 9).unwrap_or_default(),
        backoff_multiplier: rows.get(row, 10).unwrap_or_default(),
        max_delay: rows.get(row, 11).unwrap_or_default(),
    };
    let lasting = stored.read().unreadable;
    let read = Stored {
        previous_secret: previous.as_deref(),
        ..stored
    }
    .read();
    // The previous secret alone is no trouble any more once it would not sign.
    let unreadable_until_ms = until_ms.filter(|_| lasting.is_none() && read.unreadable.is_some());
    let previous = read
        .previous_secret
        .map(|secret| LiveSecret { secret, until_ms });
    let moment = |at, under| {
        Some(Moment {
            at_ms: rows.time(row, at)?,
            under: Snapshot::parse(&rows.get::<String>(row, under)?)?,
        })
    };
    Some(Definition {
        id,
        owner: rows.get(row, 2),
        active: rows.get(row, 7)?,
        activation: rows.get(row, 8)?,
        lifetime: Lifetime {
            created: moment(13, 14),
            paused: moment(15, 16),
            resumed: moment(17, 18),
        },
        subscription: read.subscription,
        filter: read.filter,
        policy: read.policy,
        url: url.clone(),
        endpoint: Endpoint::parse(&url, &settings.endpoint_rules)
            .map(Arc::new)
            .map_err(|error| error.to_string()),
        target: Arc::new(Target {
            webhook: id,
            secrets: read
                .secret
                .map(LiveSecret::from)
                .into_iter()
                .chain(previous)
                .collect(),
            header_prefix: settings.header_prefix.clone(),
            user_agent: settings.user_agent.clone(),
            livemode: settings.livemode,
            max_payload: settings.max_payload,
        }),
        failing_since_ms: rows.time(row, 19),
        failed_since_success: u64::try_from(rows.get::<i64>(row, 20).unwrap_or(0)).unwrap_or(0),
        failing: rows.time(row, 22).map(|since_ms| Failing {
            since_ms,
            attempts: u64::try_from(rows.get::<i64>(row, 23).unwrap_or(0)).unwrap_or(0),
            status: rows.get::<i32>(row, 24).and_then(|it| it.try_into().ok()),
            error: rows.get(row, 25),
        }),
        paused_until_ms: rows.time(row, 26),
        unreadable: read.unreadable,
        unreadable_until_ms,
    })
}
