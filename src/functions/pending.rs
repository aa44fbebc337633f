//! Deliveries that only the outbox tells of, for the views.
//!
//! A delivery that succeeds at once never has a row of its own while it waits: its event's outbox row stands for it.
//! Which webhooks that is for is decided here by the same code as in the worker.

use crate::access;
use crate::definition::{self, Secrets};
use crate::error::{Error, reply};
use crate::seam::clock;
use crate::seam::owner::as_owner;
use crate::seam::sql::{self, Connection, Statement, arg};
use crate::settings::Settings;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys;
use pgrx::prelude::*;
use std::collections::VecDeque;
use uuid::Uuid;
use webhooks_core::id;
use webhooks_schedule::{Addressed, Scheduler};

/// Events in memory at once.
const PAGE: usize = 500;

static WEBHOOKS: Statement = Statement::new(
    c"SELECT id FROM webhooks.webhook WHERE $1 IS NULL OR owner = $1",
    &[pg_sys::TEXTOID],
);
/// Without events that cannot even be read.
static OUTBOX: Statement = Statement::new(
    c"SELECT o.xid, o.id, e.type, e.owner, e.target, e.about, coalesce(e.subject, e.data), e.created_at,
             pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
        FROM (SELECT o.xid, o.id FROM webhooks.outbox o
               WHERE o.command IS NULL AND (o.xid, o.id) > ($1, $2)
                 AND NOT EXISTS (SELECT FROM webhooks.set_aside s WHERE s.id = o.id AND s.stage = 'dispatch')
               ORDER BY o.xid, o.id
               LIMIT $3) o
        LEFT JOIN webhooks.event e ON e.id = o.id
       ORDER BY o.xid, o.id",
    &[pg_sys::XID8OID, pg_sys::UUIDOID, pg_sys::INT8OID],
);

/// A delivery that is to be.
struct Undispatched {
    event: Uuid,
    webhook: Uuid,
    created_ms: i64,
}

/// Walks through the outbox, a page at a time, all of them under the snapshot of the statement.
struct Walk {
    webhooks: Scheduler,
    after: (u64, Uuid),
    found: VecDeque<Undispatched>,
    over: bool,
}

impl Walk {
    /// As far as the caller may see it: of all webhooks, or of an owner's own.
    fn begin() -> Result<Self, Error> {
        let owner = match access::is_reader()? {
            true => None,
            false => access::caller()?.owner().map(str::to_owned),
        };
        let mut webhooks = Scheduler::new();
        let settings = Settings::read();
        as_owner(|| {
            sql::connect(|spi| {
                let rows = spi.read(&WEBHOOKS, &[arg(owner.as_deref())]);
                let ids: Vec<Uuid> = (0..rows.len())
                    .filter_map(|row| rows.uuid(row, 1))
                    .collect();
                for part in ids.chunks(1_000) {
                    for it in definition::load(spi, part, Secrets::Hidden, &settings) {
                        webhooks.put(it, false);
                    }
                }
                Ok(())
            })
        })?;
        Ok(Self {
            webhooks,
            after: (0, Uuid::nil()),
            found: VecDeque::new(),
            over: false,
        })
    }

    fn read_page(&mut self, spi: &Connection) {
        let rows = spi.read(
            &OUTBOX,
            &[
                Some(pg_sys::Datum::from(self.after.0)),
                sql::uuid(self.after.1),
                arg(PAGE as i64),
            ],
        );
        self.over = rows.len() < PAGE;
        let mut chosen = Vec::new();
        for row in 0..rows.len() {
            let (Some(xid), Some(event)) = (rows.xid8(row, 1), rows.uuid(row, 2)) else {
                continue;
            };
            self.after = (xid, event);
            let (Some(event_type), Some(subject), Some(created_ms), Some(next_xid)) = (
                rows.get::<String>(row, 3),
                rows.get::<String>(row, 7),
                rows.time(row, 8),
                rows.xid8(row, 9),
            ) else {
                continue;
            };
            let owner: Option<String> = rows.get(row, 4);
            let addressed = Addressed {
                event_type: &event_type,
                owner: owner.as_deref(),
                target: rows.uuid(row, 5),
                about: rows.uuid(row, 6),
                row: &subject,
                xid,
                created_ms,
                next_xid,
            };
            chosen.clear();
            self.webhooks.recipients(&addressed, &mut chosen);
            self.found.extend(chosen.iter().map(|&index| Undispatched {
                event,
                webhook: self.webhooks.definition(index).id,
                created_ms,
            }));
        }
    }
}

impl Iterator for Walk {
    type Item = Undispatched;

    fn next(&mut self) -> Option<Undispatched> {
        while self.found.is_empty() && !self.over {
            pgrx::check_for_interrupts!();
            reply(as_owner(|| {
                sql::connect(|spi| self.read_page(spi));
                Ok(())
            }));
        }
        self.found.pop_front()
    }
}

#[pg_extern(sql = false)]
fn undispatched() -> TableIterator<
    'static,
    (
        name!(id, pgrx::Uuid),
        name!(event_id, pgrx::Uuid),
        name!(webhook_id, pgrx::Uuid),
        name!(created_at, TimestampWithTimeZone),
    ),
> {
    let walk = reply(Walk::begin());
    let uuid = |id: Uuid| pgrx::Uuid::from_bytes(id.into_bytes());
    TableIterator::new(walk.filter_map(move |it| {
        let created_at =
            TimestampWithTimeZone::try_from(clock::timestamp_of(it.created_ms)).ok()?;
        Some((
            uuid(id::delivery(it.event, it.webhook, 0)),
            uuid(it.event),
            uuid(it.webhook),
            created_at,
        ))
    }))
}
