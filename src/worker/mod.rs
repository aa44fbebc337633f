//! The worker of one database: dispatch, claim, settle, in one loop on the main thread. Requests are made
//! by the threads of `webhooks_delivery`, which know nothing of Postgres.

mod definitions;
mod dispatch;
mod journal;
mod keys;
mod postgrest;
mod reports;
mod retention;
mod rows;
mod settle;
mod start;
mod unreadable;
mod upkeep;
mod write;

use crate::in_flight::Shown;
use crate::seam::transaction::{Isolation, RolledBack, transaction};
use crate::seam::{clock, raw};
use crate::settings::Settings;
use crate::shmem::{self, Slot, State};
use definitions::Definitions;
use journal::Reason;
use pgrx::pg_sys;
use pgrx::prelude::PgSqlErrorCode;
use reports::Reports;
use settle::Settling;
use start::Place;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use unreadable::SetAside;
use upkeep::Upkeep;
use webhooks_delivery::{Class, Job, Network, Outcome, Pool, StartError};
use webhooks_schedule::{Ended, Limits, Pauses, Position, Scheduler, Troubles};

/// How often the outbox is looked at without having been woken: for prepared transactions, and rows from a
/// restore or replication.
const POLL_MS: u64 = 5_000;
/// How often rows are looked for that the position cannot find.
const SWEEP_MS: u64 = 60_000;
/// Looking for them takes at most the so-manyth part of the time.
const SWEEP_SHARE: u64 = 100;
/// Time between two settlements while outcomes keep coming.
const SETTLE_MS: u64 = 5;
/// So many units are settled at once, whenever they come.
const SETTLE_UNITS: usize = 256;
/// About how many rows are written before others have their turn: one event may be for thousands of webhooks.
const SETTLE_ROWS: usize = 1_024;
/// Outcomes that wait to be written, because that fails for now, at which no more requests are made.
const UNWRITTEN_MOST: usize = 10_000;

/// Small requests that delivery threads have been given and not begun, at which they get no more: enough to begin while a
/// transaction takes the main thread some milliseconds, and few enough to be begun soon after a pause.
const AHEAD_MOST: usize = 256;
/// How soon more is handed over then, if no outcome wakes the worker before.
const AHEAD_MS: u64 = 2;
/// Least time between two looks at the outbox ahead of what is read in order.
const LOOK_AHEAD_MS: u64 = 10;

// Stages that pause by themselves when they fail.
const DISPATCH: &str = "dispatch";
const FETCH: &str = "fetch";
const SETTLE: &str = "settle";
const STATISTICS: &str = "statistics";
const UPKEEP: &str = "upkeep";

/// What the stages share.
pub(crate) struct Worker {
    slot: &'static Slot,
    settings: Settings,
    limits: Limits,
    /// How many sockets this process may open for requests.
    descriptors: usize,
    scheduler: Scheduler,
    pool: Pool,
    /// Requests under way, where everybody can look.
    shown: Shown,
    position: Position,
    /// Bytes of data of an event, on the average of the last read.
    row_bytes: usize,
    /// Rows to write for each event, on the average of the last read.
    event_rows: usize,
    /// Transactions below this one had ended when all WAL was flushed last; `None`: do so.
    durable_below: Option<u64>,
    definitions: Definitions,
    settling: Settling,
    set_aside: SetAside,
    upkeep: Upkeep,
    reports: Reports,
    troubles: Troubles,
    /// Name of the database, for the log.
    database: String,
    /// What was known of the database when the worker connected, and when that was last looked at.
    place: Place,
    placed_ms: u64,
    /// The count of changes of databases by then.
    altered: u64,
    polled_ms: u64,
    /// When the outbox was last looked at ahead of what is read in order.
    looked_ahead_ms: u64,
    /// When rows are looked for next that the position cannot find.
    sweep_ms: u64,
    /// How long that has taken so far, while it goes on.
    sweep_took_ms: Option<u64>,
    /// When what a restore or a superuser may have changed was last read again.
    reread_ms: u64,
    /// Stages that failed for want of something, and are tried again soon.
    pauses: Pauses,
    /// Whether more could be handed over, if delivery threads had not so much before them.
    held_back: bool,
    /// Whether PostgREST was told of this version's functions.
    postgrest_knows: bool,
}

fn limits(settings: &Settings, descriptors: usize) -> Limits {
    Limits {
        max_in_flight: settings.max_in_flight.min(descriptors),
        concurrent: settings.concurrent_deliveries,
        per_minute: settings.deliveries_per_minute,
        disable_after_ms: i64::try_from(settings.disable_after.as_millis()).unwrap_or(i64::MAX),
    }
}

fn network(settings: &Settings) -> Network {
    Network {
        guard: settings.guard.clone(),
        allowed_ports: settings.endpoint_rules.allowed_ports.clone(),
        ca_file: (!settings.ca_file.is_empty()).then(|| PathBuf::from(&settings.ca_file)),
    }
}

/// Entry point, named in the registration by the launcher; the argument is the database's oid.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn webhooks_worker_main(arg: pg_sys::Datum) {
    let database = pg_sys::Oid::from(arg.value() as u32);
    // SAFETY: the callback has the type that is asked for. Postgres's own handlers are in place before signals are
    // unblocked; SIGUSR1 has its handler from the start, since the worker asked for a database connection.
    unsafe {
        // Before all others, so that it runs after them.
        pg_sys::on_proc_exit(Some(end_process), pg_sys::Datum::from(0));
        raw::pqsignal(pg_sys::SIGHUP as i32, raw::SignalHandlerForConfigReload);
        end_at_once();
        pg_sys::BackgroundWorkerUnblockSignals();
    }
    let Some(slot) = shmem::shared().and_then(|shared| shared.find(database)) else {
        return;
    };
    if !slot.claim() {
        return;
    }
    // SAFETY: the callback has the type that is asked for, and touches shared memory only. What is registered before the
    // connection runs after its end, so that whoever sees the worker gone finds it among no database's processes.
    unsafe {
        pg_sys::on_shmem_exit(Some(leave), arg);
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::InvalidOid, 0);
    }
    if let Some(mut worker) = start::start(slot) {
        worker.run();
    }
}

/// The last callback of `proc_exit`. After it would come `exit()`, which runs the destructors of all libraries while delivery
/// threads and look-ups still use them: a thread that crashes then makes the postmaster restart the server.
///
/// Nothing is left to do by then: shared memory is given back, statistics are flushed, and what Postgres writes to its log
/// is not buffered.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn end_process(code: i32, _arg: pg_sys::Datum) {
    // SAFETY: has no precondition.
    unsafe { raw::_exit(code) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, arg: pg_sys::Datum) {
    if let Some(shared) = shmem::shared() {
        if let Some(slot) = shared.find(pg_sys::Oid::from(arg.value() as u32)) {
            // Before another worker of this database takes places.
            if slot.is_ours() {
                shared.in_flight.give_back(arg.value() as u32);
            }
            slot.release();
        }
        shared.wake_launcher();
    }
}

/// Ends the process. Delivery threads may be blocked: they are not waited for.
fn exit(state: Option<(&Slot, State)>) -> ! {
    if let Some((slot, state)) = state {
        slot.set_state(state);
    }
    // SAFETY: outside of a transaction; runs the exit callbacks and ends the process.
    unsafe { raw::proc_exit(0) }
}

/// Whether the process was told to end.
fn is_to_end() -> bool {
    // SAFETY: flags of this process, set by signal handlers.
    unsafe { pg_sys::ProcDiePending != 0 || pg_sys::ShutdownRequestPending != 0 }
}

/// SIGTERM is obeyed when the transaction is over, so that what has come in is written: those of delivery are short.
fn end_between_transactions() {
    // SAFETY: Postgres's own handler, on the main thread.
    unsafe {
        raw::pqsignal(pg_sys::SIGTERM as i32, raw::SignalHandlerForShutdownRequest);
    }
}

/// SIGTERM ends whatever is done: figures may take long.
fn end_at_once() {
    // SAFETY: as above.
    unsafe {
        raw::pqsignal(pg_sys::SIGTERM as i32, raw::die);
    }
}

impl Worker {
    fn run(&mut self) {
        let wait = crate::seam::wait::WaitSet::new(self.pool.fd());
        let mut outcomes = Vec::new();
        self.show_state();
        end_between_transactions();
        loop {
            self.obey();
            self.collect(&mut outcomes);
            self.scheduler.tick(clock::now());
            self.follow_place();
            self.tell_postgrest();
            if self.settings.enabled {
                self.dispatch_if_due();
                self.claim();
                self.settle_if_due();
                if self.upkeep_is_due() && !is_to_end() {
                    end_at_once();
                    self.upkeep();
                    end_between_transactions();
                }
                // Settling may have brought rows into memory, and the time of others may have come.
                self.scheduler.tick(clock::now());
                self.claim();
            } else {
                self.settle_if_due();
            }
            self.slot
                .in_flight
                .store(self.scheduler.in_flight() as u32, Ordering::Relaxed);
            self.slot
                .threads
                .store(self.pool.threads() as u32, Ordering::Relaxed);
            let lag_us = u64::try_from(self.pool.lag().as_micros()).unwrap_or(u64::MAX);
            self.slot.lag_us.store(lag_us, Ordering::Relaxed);
            let sleep = self.sleep_ms();
            if sleep > 1_000 {
                // SAFETY: outside of a transaction. Nothing happens for a while: let autovacuum know now.
                unsafe {
                    pg_sys::pgstat_report_stat(true);
                }
            }
            wait.wait(sleep);
        }
    }

    /// Obeys the server: shut down, reload, interrupts.
    fn obey(&mut self) {
        // SAFETY: a flag of this process, set by a signal handler.
        let reload = unsafe { pg_sys::ConfigReloadPending != 0 };
        if is_to_end() {
            self.leave(Reason::Terminated);
        }
        if self.slot.stopped.load(Ordering::Acquire) {
            self.leave(Reason::Stopped);
        }
        if self.slot.dropping.load(Ordering::Acquire) {
            self.leave(Reason::Dropped);
        }
        // Between statements there is nothing to cancel: an error would only end the worker, and not in good order.
        // SAFETY: a flag of this process.
        unsafe {
            pg_sys::QueryCancelPending = 0;
        }
        pgrx::check_for_interrupts!();
        if reload {
            // SAFETY: on the main thread, outside of a transaction.
            unsafe {
                pg_sys::ConfigReloadPending = 0;
                pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            }
            self.reload();
        }
    }

    /// Ends in good order: what has come in is written, what is under way will be sent again.
    fn leave(&mut self, reason: Reason) -> ! {
        // SAFETY: a flag of this process, which is about to end. The request is obeyed, and is not to end the last
        // transaction. Interrupts are not held: somebody's lock is waited for no longer than lock_timeout.
        unsafe {
            pg_sys::ProcDiePending = 0;
        }
        self.pool.shutdown();
        self.settle_all();
        self.write_stats();
        settle::flush_wal();
        journal::ended(&self.database, reason);
        self.slot.left.store(true, Ordering::Release);
        exit(None);
    }

    /// Writes all that has ended, also of events of which not all has.
    fn settle_all(&mut self) {
        self.collect(&mut Vec::new());
        self.scheduler.flush_ended(clock::now());
        self.settle();
    }

    fn reload(&mut self) {
        let settings = Settings::read();
        // Drops kept connections, and so is left alone when nothing about the network has changed. What a CA
        // file holds may have, under the same name.
        if network(&settings) != network(&self.settings) || !settings.ca_file.is_empty() {
            let done = start::with_or_without_ca_file(&settings, |network| {
                self.pool.reconfigure(network.clone())
            });
            match done {
                Ok(((), unloaded)) => self.note_ca_file(unloaded),
                Err(error) => {
                    pgrx::warning!("webhooks goes on with the old network settings: {error}");
                    self.settling.note_error(error.to_string());
                }
            }
        }
        if settings == self.settings {
            return;
        }
        self.limits = limits(&settings, self.descriptors);
        self.settings = settings;
        self.show_state();
        self.scheduler.settings_changed();
        self.definitions.forget_versions();
        self.polled_ms = 0;
    }

    /// Notes why `webhooks.ca_file` could not be loaded, if it could not.
    fn note_ca_file(&mut self, unloaded: Option<StartError>) {
        if let Some(error) = unloaded {
            self.settling
                .note_error(format!("webhooks.ca_file: {error}"));
        }
    }

    fn show_state(&self) {
        self.slot.set_state(if self.settings.enabled {
            State::Running
        } else {
            State::Disabled
        });
    }

    /// Leaves when `ALTER DATABASE … SET` has changed, which Postgres applies to new connections only, when the
    /// database has become a template, and when the extension has become another version.
    fn follow_place(&mut self) {
        let now = clock::mono_ms();
        let altered = start::alterations();
        if altered == self.altered && now < self.placed_ms + POLL_MS {
            return;
        }
        self.placed_ms = now;
        self.altered = altered;
        match transaction(c"settings", Isolation::ReadCommitted, start::place) {
            Ok(place) if place != self.place => self.leave(match place.version {
                None => Reason::NoExtension,
                Some(_) => Reason::Altered,
            }),
            Ok(_) => {}
            Err(error) => self.rolled_back(UPKEEP, "settings", &error),
        }
    }

    fn collect(&mut self, outcomes: &mut Vec<Outcome>) {
        self.pool.drain(outcomes);
        for outcome in outcomes.drain(..) {
            self.shown.ended(outcome.token);
            let class = Class::of(&outcome.result);
            self.slot.classes[class as usize].fetch_add(1, Ordering::Relaxed);
            let ended = settle::ended(outcome);
            self.end(ended);
        }
    }

    fn end(&mut self, ended: Ended) {
        let jitter = self.settings.retry_jitter.then(clock::fraction);
        self.scheduler
            .ended(ended, &self.limits, clock::now(), jitter);
    }

    /// Hands over what may start: unless somebody has changed webhooks, which is to be looked at first, since
    /// 100 ms after a pause has committed no request may start.
    fn claim(&mut self) {
        self.held_back = false;
        while !self.definitions.have_changed(self.slot) && self.unwritten() < UNWRITTEN_MOST {
            self.held_back = self.pool.ahead() >= AHEAD_MOST;
            if self.held_back {
                return;
            }
            let Some(claim) = self.scheduler.claim(&self.limits, clock::now()) else {
                return;
            };
            match claim.endpoint {
                Ok(endpoint) => self.pool.submit(Job {
                    progress: self.shown.begins(
                        claim.token,
                        claim.target.webhook,
                        claim.delivery,
                        clock::now(),
                    ),
                    token: claim.token,
                    event: claim.event,
                    target: claim.target,
                    endpoint,
                    owner: claim.owner,
                    delivery: claim.delivery,
                    attempt: claim.attempt,
                    timeout: self.settings.request_timeout,
                }),
                Err(why) => self.end(Ended {
                    token: claim.token,
                    result: webhooks_core::verdict::Ended::Error(why),
                    timed_out: false,
                    started_ms: clock::unix_ms(),
                    duration_ms: 0,
                    excerpt: None,
                    remark: None,
                }),
            }
        }
    }

    /// How many units wait to be written.
    fn unwritten(&self) -> usize {
        self.scheduler.units() + self.settling.held()
    }

    /// Whether so many rows wait to be written that no more are to be made of events that only wait. What cannot be written
    /// for now holds up less.
    fn is_behind(&self) -> bool {
        let most = if self.pauses.left(SETTLE, clock::mono_ms()) > 0 {
            UNWRITTEN_MOST
        } else {
            2 * SETTLE_ROWS
        };
        self.scheduler.unit_rows() + self.settling.held_rows() >= most
    }

    /// How many more events may be read from the outbox now.
    fn room(&self) -> usize {
        if self.unwritten() < UNWRITTEN_MOST && !self.is_behind() {
            self.scheduler.room()
        } else {
            0
        }
    }

    /// In how many milliseconds the outbox is to be looked at ahead of what is read in order; `None`: not before something
    /// happens. That is when what waits to be read must wait for room, or is more than one read brings.
    fn look_ahead_in(&self, now: u64) -> Option<u64> {
        let news = self.position.next_ahead().is_some() || self.slot.woken.load(Ordering::Acquire);
        let waits = self.position.has_more() || self.room() == 0;
        (news && waits && self.may_look_ahead())
            .then(|| (self.looked_ahead_ms + LOOK_AHEAD_MS).saturating_sub(now))
    }

    /// Whether events may be taken ahead of others: room for them is not made while much waits to be written.
    fn may_look_ahead(&self) -> bool {
        self.unwritten() < UNWRITTEN_MOST && (self.scheduler.room_ahead() > 0 || !self.is_behind())
    }

    fn sleep_ms(&self) -> u64 {
        let now = clock::mono_ms();
        let next = |at: u64| at.saturating_sub(now);
        if !self.settings.enabled {
            return self
                .settling
                .next_ms(now, &self.scheduler, &self.pauses)
                .unwrap_or(POLL_MS);
        }
        // Without room the poll is overdue, and has to wait for what makes room.
        let mut sleep = next(self.polled_ms + POLL_MS).max(u64::from(self.room() == 0));
        if let Some(due) = self.scheduler.wake_in(clock::now()) {
            sleep = sleep.min(due);
        }
        if self.held_back {
            sleep = sleep.min(AHEAD_MS);
        }
        let pause = |stage| self.pauses.left(stage, now);
        sleep = sleep.min(self.upkeep.next_ms(now).max(pause(UPKEEP)));
        if let Some(settle) = self.settling.next_ms(now, &self.scheduler, &self.pauses) {
            sleep = sleep.min(settle);
        }
        // What waits to be written comes first, and wakes by itself.
        if let Some(fetch) = self
            .scheduler
            .rows_in(clock::now())
            .filter(|_| self.unwritten() == 0)
        {
            sleep = sleep.min(fetch.max(pause(FETCH)));
        }
        if let Some(ahead) = self.look_ahead_in(now) {
            sleep = sleep.min(ahead.max(pause(DISPATCH)));
        }
        let more = self.position.has_more() || self.slot.woken.load(Ordering::Acquire);
        if (more && self.room() > 0) || self.definitions.have_changed(self.slot) {
            sleep = sleep.min(pause(DISPATCH));
        }
        sleep
    }

    /// Judges a transaction that was rolled back: over soon, or for good. Returns only if it may be tried
    /// again, when its stage has paused.
    fn rolled_back(&mut self, stage: &'static str, what: &str, error: &RolledBack) {
        if start::extension_is_gone() {
            journal::ended(&self.database, Reason::NoExtension);
            exit(Some((self.slot, State::NoExtension)));
        }
        pgrx::log!("webhooks: {what} was rolled back: {}", error.message);
        self.settling
            .note_error(format!("{what}: {}", error.message));
        self.pauses.begin(stage, clock::mono_ms());
    }
}

/// Whether an error says something of the server's state, rather than of what was written.
fn is_transient(code: PgSqlErrorCode) -> bool {
    let code = code as i32;
    // A SQLSTATE is packed in six bits a character; its class is in the lowest twelve.
    let class = |a: u8, b: u8| i32::from((a - b'0') & 0x3f) | (i32::from((b - b'0') & 0x3f) << 6);
    let of = code & 0xfff;
    [
        class(b'4', b'0'),
        class(b'5', b'3'),
        class(b'5', b'5'),
        class(b'5', b'7'),
        class(b'5', b'8'),
        class(b'2', b'5'),
    ]
    .contains(&of)
}
