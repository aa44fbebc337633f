//! What the server's log says of the worker and of webhooks: what begins and ends, and what to do about it. Nothing for
//! each delivery, and no secret. Main thread only.

use super::Worker;
use crate::seam::clock;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::{PgLogLevel, PgSqlErrorCode};
use uuid::Uuid;
use webhooks_core::id::{self, Kind};
use webhooks_schedule::{Disable, Ending, How, News, Unit};

/// Why a worker ends in good order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reason {
    /// `stop_worker()`.
    Stopped,
    /// The server shuts down, or somebody has terminated it.
    Terminated,
    /// The database is being dropped.
    Dropped,
    /// What a worker must be started with has changed.
    Altered,
    /// There is no extension any more.
    NoExtension,
}

impl Reason {
    fn words(self) -> &'static str {
        match self {
            Self::Stopped => "stop_worker() was called",
            Self::Terminated => "the server shuts down, or the process was terminated",
            Self::Dropped => "the database is being dropped",
            Self::Altered => {
                "the settings of the database, or the extension's version, have changed"
            }
            Self::NoExtension => "the extension was dropped",
        }
    }
}

/// The worker of this database works.
pub(super) fn started(database: &str, webhooks: usize) {
    let version = env!("CARGO_PKG_VERSION");
    pgrx::log!(
        "webhooks: the worker of database \"{database}\" has started, version {version}, {webhooks} webhooks"
    );
}

/// It works no longer.
pub(super) fn ended(database: &str, reason: Reason) {
    let why = reason.words();
    pgrx::log!("webhooks: the worker of database \"{database}\" has stopped: {why}");
}

/// The database is a copy of another one, and delivers nothing.
pub(super) fn is_cloned(database: &str) {
    report(
        PgLogLevel::WARNING,
        format!(
            "webhooks delivers nothing from database \"{database}\": it is a copy of another one"
        ),
        "If it is to deliver, run SELECT webhooks.start_worker(); in it.".to_owned(),
    );
}

/// Rows are passed over from now on.
pub(super) fn set_aside(stage: &str, rows: usize, error: &str) {
    report(
        PgLogLevel::WARNING,
        format!("webhooks sets {rows} rows aside ({stage}): {error}"),
        "SELECT * FROM webhooks.set_aside; shows them. To have one tried again, delete it there and restart the worker."
            .to_owned(),
    );
}

/// Requests cannot be made, for a reason that is not their endpoint's.
pub(super) fn hindered(words: &str) {
    report(
        PgLogLevel::WARNING,
        format!("webhooks: {words}"),
        "That is no fault of an endpoint. See the limits of the server's processes (ulimit -n, -u), its memory, and whether it reaches its name servers."
            .to_owned(),
    );
}

fn report(level: PgLogLevel, message: String, hint: String) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "webhooks")
        .set_hint(hint)
        .report(level);
}

fn shown(webhook: Uuid) -> String {
    id::format(Kind::Webhook, webhook)
}

/// Why an attempt failed; `None`: it did not, or it does not count.
fn failure(ending: &Ending) -> Option<String> {
    let attempt = ending.attempt.as_ref()?;
    match ending.how {
        How::Failed | How::RetryAt(_) => Some(match (&attempt.error, attempt.status) {
            (Some(error), _) => error.clone(),
            (None, Some(status)) => format!("HTTP status {status}"),
            (None, None) => "no answer".to_owned(),
        }),
        How::Delivered | How::Cancelled | How::Unwanted | How::Late => None,
    }
}

impl Worker {
    /// What the worker before this one has told of is not told again.
    pub(super) fn remember_troubles(&mut self) {
        for webhook in self.scheduler.webhooks() {
            if webhook.failing_since_ms.is_some() {
                self.troubles.fails_already(webhook.id);
            }
        }
    }

    /// Tells of webhooks that have begun to fail, that have recovered, and that are switched off.
    pub(super) fn tell_of(&mut self, unit: &Unit) {
        for ending in &unit.endings {
            let failed = failure(ending);
            if failed.is_none() && ending.how != How::Delivered {
                continue;
            }
            // A webhook that was switched off meanwhile was told of.
            let sends = self
                .scheduler
                .index_of(ending.webhook)
                .is_some_and(|index| self.scheduler.definition(index).active);
            if failed.is_some() && !sends {
                continue;
            }
            let news = self
                .troubles
                .attempted(ending.webhook, failed.is_none(), clock::mono_ms());
            let id = shown(ending.webhook);
            match (news, failed) {
                (Some(News::Fails), Some(why)) => report(
                    PgLogLevel::WARNING,
                    format!("{id} began to fail: {why}"),
                    format!(
                        "SELECT * FROM webhooks.deliveries WHERE webhook_id = '{id}' ORDER BY created_at DESC LIMIT 10; shows more."
                    ),
                ),
                (Some(News::Recovered), _) => pgrx::log!("webhooks: {id} has recovered"),
                _ => {}
            }
        }
        if let Some(disable) = &unit.disable {
            self.tell_of_end(disable);
        }
    }

    fn tell_of_end(&mut self, disable: &Disable) {
        self.troubles.forget(disable.webhook);
        let id = shown(disable.webhook);
        report(
            PgLogLevel::WARNING,
            format!("{id} was switched off: {}", disable.reason),
            format!(
                "When its endpoint works again, run SELECT webhooks.update_webhook('{id}', '{{\"active\": true}}');"
            ),
        );
    }
}
