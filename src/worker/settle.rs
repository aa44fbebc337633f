//! Settle: what became of deliveries goes into the tables, many at once.
//!
//! The transaction commits asynchronously: if a crash takes it, the requests are made again. So that this
//! is no more than what was in flight and the last moments' work, WAL is flushed every [`FLUSH_MS`] while
//! there is something to flush.

use super::{
    FETCH, SETTLE, SETTLE_MS, SETTLE_ROWS, SETTLE_UNITS, STATISTICS, Worker, is_transient, write,
};
use crate::emit::store::NewEvent;
use crate::seam::clock;
use crate::seam::sql;
use crate::seam::transaction::{Isolation, RolledBack, transaction};
use pgrx::pg_sys;
use serde_json::json;
use std::collections::HashSet;
use uuid::Uuid;
use webhooks_core::address::without_address;
use webhooks_delivery::Outcome;
use webhooks_schedule::{Disable, Ended, How, Pauses, Scheduler, Unit, Units};

/// Longest time that a settlement stays without its WAL flushed: of the 100 ms that a crash may undo, what a group of
/// deliveries and the interval of settling leave.
const FLUSH_MS: u64 = 40;
/// Longest time that statistics are behind while deliveries go on.
const STATS_MS: u64 = 250;
/// At most the so-manyth part of the time goes into them.
const STATS_SHARE: u64 = 10;

/// What settling remembers between two times.
#[derive(Default)]
pub(super) struct Settling {
    /// Units that could not be written yet.
    held: Units,
    /// So many units must have been written before what has ended up to a mark is safe.
    saving: Option<u64>,
    /// So many must have been written before rows are fetched.
    fetching: Option<u64>,
    settled_ms: u64,
    stats_ms: u64,
    /// How long writing them took the last time.
    stats_took_ms: u64,
    /// When the oldest commit was made whose WAL is not flushed.
    unflushed_ms: Option<u64>,
    /// What went wrong in the worker itself, to be shown in `webhooks.status`.
    error: Option<String>,
    /// Webhooks that were switched off by this process.
    disabled: HashSet<Uuid>,
}

impl Settling {
    /// When there is something to do, in milliseconds from `now`.
    pub(super) fn next_ms(&self, now: u64, scheduler: &Scheduler, pauses: &Pauses) -> Option<u64> {
        let waiting =
            !self.held.is_empty() || scheduler.units() > 0 || scheduler.waits_for_saving();
        let settle = waiting.then(|| {
            let due = (self.settled_ms + SETTLE_MS).saturating_sub(now);
            due.max(pauses.left(SETTLE, now))
        });
        let flush = self
            .unflushed_ms
            .map(|since| (since + FLUSH_MS).saturating_sub(now));
        let stats = (scheduler.has_stats() || self.error.is_some()).then(|| {
            self.stats_in(now, scheduler)
                .max(pauses.left(STATISTICS, now))
        });
        [settle, flush, stats].into_iter().flatten().min()
    }

    /// Statistics are written at rest as soon as everything else is, and now and then under load.
    fn stats_in(&self, now: u64, scheduler: &Scheduler) -> u64 {
        let wait = if scheduler.idle() {
            SETTLE_MS
        } else {
            STATS_MS
        };
        // While somebody's old snapshot keeps versions of these few rows, each write walks all of them.
        let wait = wait.max(STATS_SHARE * self.stats_took_ms);
        (self.stats_ms + wait).saturating_sub(now)
    }

    /// How many units could not be written yet.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// How many rows they come to.
    pub(super) fn held_rows(&self) -> usize {
        self.held.rows()
    }

    pub(super) fn note_error(&mut self, error: String) {
        self.error = Some(error);
    }

    /// Whether this process has switched the webhook off.
    pub(super) fn disabled(&self, webhook: Uuid) -> bool {
        self.disabled.contains(&webhook)
    }
}

/// Flushes all WAL that this process has written.
pub(super) fn flush_wal() {
    // SAFETY: outside of a transaction; the position is one that was really written.
    unsafe {
        let upto = pg_sys::XactLastCommitEnd;
        if upto != 0 {
            pg_sys::XLogFlush(upto);
        }
    }
}

/// What the log says beside the status.
fn remark(outcome: &Outcome) -> Option<String> {
    let truncated = outcome
        .truncated
        .then(|| "payload truncated: over webhooks.max_payload, or not to be rendered".to_owned());
    let answer = outcome.result.as_ref().ok();
    let of_status = answer.and_then(|answer| match (answer.status, &answer.leads_to) {
        (300..400, Some(host)) => Some(format!(
            "redirects are not followed; this one leads to {host}"
        )),
        (300..400, None) => Some("redirects are not followed".to_owned()),
        (413, _) => Some(
            "the endpoint takes no body of this size: a lower webhooks.max_payload makes bodies shorter"
                .to_owned(),
        ),
        _ => None,
    });
    match (of_status, truncated) {
        (Some(one), Some(other)) => Some(format!("{one}; {other}")),
        (one, other) => one.or(other),
    }
}

/// An outcome in the words of the scheduler.
pub(super) fn ended(outcome: Outcome) -> Ended {
    let remark = remark(&outcome);
    let duration_ms = u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX);
    let (result, timed_out, excerpt) = match outcome.result {
        Ok(answer) => (
            webhooks_core::verdict::Ended::Status {
                code: answer.status,
                retry_after: answer.retry_after,
            },
            false,
            (!answer.excerpt.is_empty()).then_some(answer.excerpt),
        ),
        Err(failure) => (
            webhooks_core::verdict::Ended::Error(failure.for_administrators()),
            failure.is_timeout(),
            None,
        ),
    };
    Ended {
        token: outcome.token,
        result,
        timed_out,
        started_ms: outcome.started_unix_ms,
        duration_ms,
        excerpt,
        remark,
    }
}

impl Worker {
    /// Settles if there is enough or it has been long enough, and then fetches rows that memory wants.
    pub(super) fn settle_if_due(&mut self) {
        let now = clock::mono_ms();
        if self.scheduler.waits_for_saving() && self.settling.saving.is_none() {
            self.scheduler.flush_ended(clock::now());
            self.scheduler.mark_unsaved();
            self.settling.saving = Some(self.scheduler.units_made());
        }
        let waiting = self.unwritten();
        if self.pauses.left(SETTLE, now) == 0
            && (waiting >= SETTLE_UNITS
                || (waiting > 0 && now >= self.settling.settled_ms + SETTLE_MS))
        {
            self.settle_rows(SETTLE_ROWS);
        }
        if (self.scheduler.has_stats() || self.settling.error.is_some())
            && self.settling.stats_in(now, &self.scheduler) == 0
            && self.pauses.left(STATISTICS, now) == 0
        {
            self.write_stats();
        }
        self.flush_if_due(now);
        // What waited to be written when rows were asked for comes first.
        let made = self.scheduler.units_made();
        let fetching = *self.settling.fetching.get_or_insert(made);
        if self.settings.enabled && self.written() >= fetching && self.pauses.left(FETCH, now) == 0
        {
            self.settling.fetching = None;
            self.fetch_rows();
        }
    }

    /// How many units have been written so far, or set aside.
    fn written(&self) -> u64 {
        self.scheduler.units_made() - self.unwritten() as u64
    }

    /// Flushes WAL if it has been long enough, or something may start only then.
    fn flush_if_due(&mut self, now: u64) {
        let all_written = self.unwritten() == 0 && self.scheduler.has_given_all();
        let awaited = (self.settling.saving).is_some_and(|mark| self.written() >= mark);
        let due = self
            .settling
            .unflushed_ms
            .is_some_and(|since| now >= since + FLUSH_MS);
        if due || awaited {
            flush_wal();
            self.settling.unflushed_ms = None;
            if all_written {
                self.scheduler.saved();
                self.settling.saving = None;
            } else if awaited {
                self.scheduler.saved_to_mark();
                self.settling.saving = None;
            }
        }
        // What cannot be written for now, because somebody locks the log, holds nothing up. A crash then means that all of
        // it is sent again anyway.
        if self.pauses.left(SETTLE, now) > 0 {
            self.scheduler.saved();
            self.settling.saving = None;
        }
    }

    /// Writes all units there are.
    pub(super) fn settle(&mut self) {
        self.settle_rows(usize::MAX);
    }

    /// Writes units until these are about so many rows, and keeps the rest for the next time.
    fn settle_rows(&mut self, most: usize) {
        self.settling.settled_ms = clock::mono_ms();
        let mut units = self.settling.held.take();
        let fresh = self.scheduler.take_units();
        self.settling.disabled.extend(
            fresh
                .iter()
                .filter_map(|unit| unit.disable.as_ref().map(|it| it.webhook)),
        );
        units.extend(fresh);
        let mut written = 0;
        while !units.is_empty() && written < most {
            let mut rows = 0;
            let part = units.iter().take(4 * SETTLE_UNITS).take_while(|unit| {
                let before = rows;
                rows += unit.rows();
                before < SETTLE_ROWS
            });
            let rest = units.split_off(part.count());
            self.settle_part(units);
            units = rest;
            written += rows;
        }
        self.settling.held.extend(units);
    }

    fn settle_part(&mut self, units: Vec<Unit>) {
        if units.is_empty() {
            return;
        }
        // What could not be written comes before all that follows, which may be about the same deliveries.
        if !self.settling.held.is_empty() {
            self.settling.held.extend(units);
            return;
        }
        let news = self.news(&units);
        match transaction(c"settle", Isolation::ReadCommitted, || {
            write::write(&units, news);
        }) {
            Ok(()) => {
                let now = clock::mono_ms();
                self.settling.unflushed_ms.get_or_insert(now);
                for unit in &units {
                    self.scheduler.written(unit);
                }
                for unit in &units {
                    self.reports.count(unit);
                    self.tell_of(unit);
                }
            }
            Err(error) if is_transient(error.code) || super::start::extension_is_gone() => {
                self.settling.held.extend(units);
                self.rolled_back(SETTLE, "settle", &error);
            }
            Err(error) if units.len() == 1 => self.set_aside(units, &error),
            Err(_) => {
                let mut first = units;
                let second = first.split_off(first.len() / 2);
                self.settle_part(first);
                self.settle_part(second);
            }
        }
    }

    /// A unit that cannot be written is noted and left where it is, in the outbox or the queue.
    fn set_aside(&mut self, units: Vec<Unit>, error: &RolledBack) {
        let ids: Vec<Uuid> = units
            .iter()
            .flat_map(|unit| {
                let recorded = unit
                    .endings
                    .iter()
                    .filter(|ending| ending.recorded)
                    .map(|ending| ending.id);
                unit.outbox.map(|key| key.id).into_iter().chain(recorded)
            })
            .collect();
        if let Err(again) = self.set_rows_aside(SETTLE, &ids, error) {
            self.settling.held.extend(units);
            self.rolled_back(SETTLE, "settle", &again);
        }
    }

    /// Events about the deliveries themselves, for those who subscribe.
    fn news(&mut self, units: &[Unit]) -> Vec<NewEvent> {
        let mut news = Vec::new();
        for unit in units {
            for ending in unit
                .endings
                .iter()
                .filter(|ending| ending.how == How::Failed)
            {
                if ending.event.is_failure_report() {
                    continue;
                }
                let owner = self
                    .scheduler
                    .index_of(ending.webhook)
                    .and_then(|index| self.scheduler.definition(index).owner.clone());
                let about = Some(ending.webhook);
                if !self
                    .scheduler
                    .has_audience("delivery.failed", owner.as_deref(), about)
                {
                    continue;
                }
                let attempt = ending.attempt.as_ref();
                news.push(NewEvent {
                    event_type: "delivery.failed".to_owned(),
                    owner,
                    about,
                    data: json!({
                        "object": "delivery",
                        "id": webhooks_core::id::format(webhooks_core::id::Kind::Delivery, ending.id),
                        "webhook_id": webhooks_core::id::format(webhooks_core::id::Kind::Webhook, ending.webhook),
                        "event_id": webhooks_core::id::format(webhooks_core::id::Kind::Event, ending.event.id),
                        "event_type": ending.event.event_type,
                        "attempts": ending.attempts,
                        "last_status": attempt.and_then(|it| it.status),
                        // Its owner reads this.
                        "reason": attempt.and_then(|it| it.error.as_deref()).map(without_address),
                    })
                    .to_string(),
                    ..NewEvent::default()
                });
            }
            if let Some(disable) = &unit.disable
                && !disable.quiet
                && self.scheduler.has_audience(
                    "webhook.disabled",
                    disable.owner.as_deref(),
                    Some(disable.webhook),
                )
            {
                news.push(disabled_event(disable));
            }
        }
        news
    }

    /// Writes the figures that were counted, and the last error.
    pub(super) fn write_stats(&mut self) {
        let began_ms = clock::mono_ms();
        self.settling.stats_ms = began_ms;
        let stats = self.scheduler.take_stats();
        let error = self.settling.error.clone();
        if stats.is_empty() && error.is_none() {
            return;
        }
        match transaction(c"statistics", Isolation::ReadCommitted, || {
            sql::connect(|spi| write::write_stats(spi, &stats, error));
        }) {
            Ok(()) => {
                let now = clock::mono_ms();
                self.settling.error = None;
                self.settling.unflushed_ms.get_or_insert(now);
                self.settling.stats_took_ms = now.saturating_sub(began_ms);
            }
            Err(error) => {
                self.scheduler.put_back_stats(stats);
                self.rolled_back(STATISTICS, "statistics", &error);
            }
        }
    }
}

fn disabled_event(disable: &Disable) -> NewEvent {
    NewEvent {
        event_type: "webhook.disabled".to_owned(),
        owner: disable.owner.clone(),
        about: Some(disable.webhook),
        data: json!({
            "object": "webhook",
            "id": webhooks_core::id::format(webhooks_core::id::Kind::Webhook, disable.webhook),
            "webhook_id": webhooks_core::id::format(webhooks_core::id::Kind::Webhook, disable.webhook),
            "reason": disable.reason,
            "last_status": disable.status,
        })
        .to_string(),
        ..NewEvent::default()
    }
}
