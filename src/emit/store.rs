//! Events into `webhooks.event` and `webhooks.outbox`.

use super::sequence::Sequence;
use super::wake;
use crate::error::Error;
use crate::seam::clock;
use crate::seam::table::Table;
use pgrx::{IntoDatum, pg_sys};
use std::fmt::{self, Display, Formatter};
use uuid::Uuid;

/// Events after which the memory of what was written is given back; the tables write as often.
const BATCH: usize = 500;

/// An event to be.
#[derive(Default)]
pub(crate) struct NewEvent {
    pub(crate) event_type: String,
    pub(crate) owner: Option<String>,
    /// Only for this webhook.
    pub(crate) target: Option<Uuid>,
    /// Never for this webhook.
    pub(crate) about: Option<Uuid>,
    /// Canonical JSON.
    pub(crate) data: String,
    /// What filters judge, where `data` does not hold it.
    pub(crate) subject: Option<String>,
}

/// What the worker is told through the outbox, beside events.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// The queue has new rows of the webhook.
    Queued,
    /// This delivery is to be attempted now.
    Hurry(Uuid),
}

impl Command {
    /// The command in a row; what no version knows says that something is new.
    pub(crate) fn read(text: &str) -> Self {
        let delivery = text.strip_prefix("hurry ").map(Uuid::parse_str);
        match delivery {
            Some(Ok(delivery)) => Self::Hurry(delivery),
            _ => Self::Queued,
        }
    }
}

impl Display for Command {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queued => f.write_str("queued"),
            Self::Hurry(delivery) => write!(f, "hurry {delivery}"),
        }
    }
}

/// The two tables, open for writing.
pub(crate) struct Store {
    events: Table,
    outbox: Table,
    sequence: Sequence,
    xid: u64,
    context: pg_sys::MemoryContext,
    added: usize,
}

impl Store {
    /// Opens them; the transaction must be one that may write.
    pub(crate) fn open() -> Result<Self, Error> {
        let events = Table::open(c"event", 8)?;
        let outbox = Table::open(c"outbox", 4)?;
        let sequence = Sequence::of_this_database()?;
        // SAFETY: in a transaction; the context is deleted by close(), or with its parent.
        let (context, xid) = unsafe {
            let context = pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"webhooks events".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            (context, pg_sys::GetTopFullTransactionId().value)
        };
        Ok(Self {
            events,
            outbox,
            sequence,
            xid,
            context,
            added: 0,
        })
    }

    /// Adds an event; returns its id.
    pub(crate) fn add(&mut self, event: NewEvent) -> Uuid {
        self.add_parts(
            &event.event_type,
            event.owner.as_deref(),
            (event.target, event.about),
            &event.data,
            event.subject.as_deref(),
        )
    }

    /// The same from borrowed parts.
    pub(crate) fn add_parts(
        &mut self,
        event_type: &str,
        owner: Option<&str>,
        (target, about): (Option<Uuid>, Option<Uuid>),
        data: &str,
        subject: Option<&str>,
    ) -> Uuid {
        let at_us = self.sequence.next();
        let id = clock::id_of(at_us);
        let created_at = clock::timestamp_of_us(i64::try_from(at_us).unwrap_or(i64::MAX));
        // SAFETY: the context is valid; what is allocated in it lives until both tables have written it,
        // which they do after the same number of rows.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.context);
            let uuid = |id: Uuid| crate::seam::sql::uuid(id);
            let row_id = uuid(id);
            self.events.insert(&[
                row_id,
                Some(pg_sys::Datum::from(created_at)),
                event_type.into_datum(),
                owner.and_then(IntoDatum::into_datum),
                target.and_then(uuid),
                about.and_then(uuid),
                data.into_datum(),
                subject.and_then(IntoDatum::into_datum),
            ]);
            self.outbox
                .insert(&[Some(pg_sys::Datum::from(self.xid)), row_id, None, None]);
            pg_sys::MemoryContextSwitchTo(before);
            self.added += 1;
            if self.added.is_multiple_of(BATCH) {
                pg_sys::MemoryContextReset(self.context);
            }
        }
        id
    }

    /// Adds a command to the outbox, about a webhook.
    pub(crate) fn command(&mut self, command: Command, webhook: Uuid) {
        self.outbox.insert(&[
            Some(pg_sys::Datum::from(self.xid)),
            crate::seam::sql::uuid(clock::new_id()),
            command.to_string().into_datum(),
            crate::seam::sql::uuid(webhook),
        ]);
        self.added += 1;
    }

    /// Writes what is left, and has the worker woken at commit.
    pub(crate) fn close(self) {
        self.events.close();
        self.outbox.close();
        // SAFETY: made by open(), and nothing refers to it any more.
        unsafe { pg_sys::MemoryContextDelete(self.context) };
        if self.added > 0 {
            wake::events_at_commit();
        }
    }
}
