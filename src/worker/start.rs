//! What the worker does before its loop: pins its settings, makes sure that it may deliver from here, and
//! fills its memory.

use super::definitions::Definitions;
use super::reports::Reports;
use super::settle::Settling;
use super::unreadable::SetAside;
use super::upkeep::Upkeep;
use super::{SWEEP_MS, Worker, exit, journal, limits, network};
use crate::error::Error;
use crate::in_flight::Shown;
use crate::seam::clock;
use crate::seam::owner;
use crate::seam::sql::{self, Statement};
use crate::seam::transaction::{Isolation, RolledBack, transaction};
use crate::settings::Settings;
use crate::shmem::{self, Slot, State};
use pgrx::pg_sys;
use std::collections::HashMap;
use std::ffi::CStr;
use std::sync::atomic::Ordering;
use uuid::Uuid;
use webhooks_delivery::{Network, Pool, StartError};
use webhooks_schedule::{Pauses, Position, Scheduler, Troubles};

/// What the worker relies on, whatever the database or its owner has set.
const PINNED: &[(&CStr, &CStr)] = &[
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"default_transaction_read_only", c"off"),
    (c"default_transaction_isolation", c"read committed"),
    (c"default_transaction_deferrable", c"off"),
    (c"session_replication_role", c"origin"),
    (c"row_security", c"off"),
    (c"statement_timeout", c"0"),
    // Short: meanwhile nothing else is done.
    (c"lock_timeout", c"100ms"),
    (c"idle_in_transaction_session_timeout", c"0"),
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    (c"transaction_timeout", c"0"),
    // What a crash takes is done again: see settle::flush_wal for the bound.
    (c"synchronous_commit", c"off"),
    (c"TimeZone", c"UTC"),
    (c"DateStyle", c"ISO, MDY"),
    (c"jit", c"off"),
    (c"plan_cache_mode", c"force_generic_plan"),
    (c"enable_partitionwise_join", c"off"),
    // Plans are made once, often while a table is empty: an index must be used when it has grown.
    (c"enable_seqscan", c"off"),
    (c"log_statement", c"none"),
    (c"log_min_duration_statement", c"-1"),
    (c"debug_print_parse", c"off"),
];

/// One row: the version of the extension in this database, and whether these tables were made in another.
static WHERE: Statement = Statement::new(
    c"SELECT e.extversion,
             EXISTS (SELECT FROM webhooks.home h WHERE h.database <> d.oid)
        FROM pg_catalog.pg_extension e, pg_catalog.pg_database d
       WHERE e.extname = 'webhooks' AND d.datname = pg_catalog.current_database()",
    &[],
);
static MOVE_HOME: Statement = Statement::new(
    c"UPDATE webhooks.home SET database = (SELECT d.oid FROM pg_catalog.pg_database d
                                            WHERE d.datname = pg_catalog.current_database())",
    &[],
);
static PLACE: Statement = Statement::new(
    c"SELECT s.setconfig::text, d.datallowconn AND NOT d.datistemplate, e.extversion
        FROM pg_catalog.pg_database d
        LEFT JOIN pg_catalog.pg_db_role_setting s ON s.setdatabase = d.oid AND s.setrole = 0
        LEFT JOIN pg_catalog.pg_extension e ON e.extname = 'webhooks'
       WHERE d.datname = pg_catalog.current_database()",
    &[],
);
/// Ends of attempts in the last minute, for the rate windows.
static RECENT: Statement = Statement::new(
    c"SELECT webhook_id, ended
        FROM (SELECT d.webhook_id, d.completed_at AS ended
                FROM webhooks.delivery d
               WHERE d.completed_at > now() - interval '1 minute' AND d.started_at IS NOT NULL
              UNION ALL
              SELECT coalesce(q.webhook_id, d.webhook_id), a.started_at + a.duration_ms * interval '1 ms'
                FROM webhooks.attempt a
                LEFT JOIN webhooks.queue q ON q.id = a.delivery_id
                LEFT JOIN webhooks.delivery d ON d.id = a.delivery_id
               WHERE a.started_at > now() - interval '2 minutes') t
       WHERE webhook_id IS NOT NULL
       ORDER BY ended",
    &[],
);

/// What the worker was started for: when it changes, another worker follows, or none.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    /// What `ALTER DATABASE … SET` says, as text.
    settings: Option<String>,
    /// It takes connections and is no template.
    servable: bool,
    /// Version of the extension.
    pub(super) version: Option<String>,
}

/// Whether the database has the extension no longer.
pub(super) fn extension_is_gone() -> bool {
    let gone = transaction(
        c"looking for the extension",
        Isolation::ReadCommitted,
        || {
            // SAFETY: in a transaction.
            unsafe { pg_sys::get_extension_oid(c"webhooks".as_ptr(), true) == pg_sys::InvalidOid }
        },
    );
    gone.unwrap_or(false)
}

/// The worker, ready to run; `None`: this database is not to be served now.
pub(super) fn start(slot: &'static Slot) -> Option<Worker> {
    let shared = shmem::shared()?;
    for (name, value) in PINNED {
        // SAFETY: both are NUL-terminated; the process is connected.
        unsafe {
            pg_sys::SetConfigOption(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_OVERRIDE,
            );
        }
    }
    // SAFETY: the process is connected.
    unsafe {
        pg_sys::pgstat_report_appname(c"webhooks worker".as_ptr());
    }
    // What is committed from here on is seen by the look at the catalog, or wakes again.
    slot.woken.store(false, Ordering::Release);
    if extension_is_gone() {
        exit(Some((slot, State::NoExtension)));
    }
    match transaction(c"starting", Isolation::ReadCommitted, || look(slot)) {
        Ok(State::Running) => {}
        Ok(state) => exit(Some((slot, state))),
        Err(error) => fail(&error),
    }
    let altered = alterations();
    let found = transaction(c"starting", Isolation::ReadCommitted, || {
        (place(), owner::database_name())
    });
    let (place, database) = match found {
        Ok(found) => found,
        Err(error) => fail(&error),
    };
    let settings = Settings::read();
    let (descriptors, kept) = descriptors(settings.max_in_flight);
    let pool = with_or_without_ca_file(&settings, |network| {
        // webhooks.max_in_flight bounds what is submitted, and reloads.
        let limits = webhooks_delivery::Limits {
            at_once: usize::MAX,
            threads: threads(),
            kept,
            ..webhooks_delivery::Limits::default()
        };
        Pool::start(limits, network.clone())
    });
    let (pool, unloaded) = match pool {
        Ok(done) => done,
        Err(error) => pgrx::error!("webhooks cannot start its delivery threads: {error}"),
    };
    let mut worker = Worker {
        slot,
        limits: limits(&settings, descriptors),
        descriptors,
        settings,
        scheduler: Scheduler::new(),
        pool,
        shown: Shown::new(&shared.in_flight, slot.oid()),
        position: Position::new(),
        // Of the first rows nothing is known.
        row_bytes: 1 << 16,
        event_rows: 1,
        durable_below: None,
        definitions: Definitions::default(),
        settling: Settling::default(),
        set_aside: SetAside::default(),
        upkeep: Upkeep::default(),
        reports: Reports::default(),
        troubles: Troubles::default(),
        database,
        place,
        placed_ms: clock::mono_ms(),
        altered,
        polled_ms: 0,
        looked_ahead_ms: 0,
        sweep_ms: clock::mono_ms() + SWEEP_MS,
        sweep_took_ms: None,
        reread_ms: clock::mono_ms(),
        pauses: Pauses::default(),
        held_back: false,
        postgrest_knows: false,
    };
    if let Err(error) = worker.load_definitions() {
        fail(&error);
    }
    if let Err(error) = worker.load_set_aside() {
        fail(&error);
    }
    if let Err(error) = worker.find_orphans() {
        fail(&error);
    }
    match transaction(c"starting", Isolation::ReadCommitted, recent) {
        Ok(recent) => {
            worker.scheduler.reserve(clock::now());
            for (webhook, ends) in recent {
                worker.scheduler.seed_window(webhook, ends);
            }
        }
        Err(error) => fail(&error),
    }
    worker.note_ca_file(unloaded);
    worker.remember_troubles();
    slot.woken.store(true, Ordering::Release);
    journal::started(&worker.database, worker.scheduler.webhooks().count());
    Some(worker)
}

/// How many delivery threads there may be: one carries far more plain requests than Postgres can bring along; more of them
/// keep TLS handshakes, a millisecond each, out of each other's way.
fn threads() -> usize {
    const MOST: usize = 8;
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(MOST))
}

/// How many sockets may be open for requests, and how many for connections that wait: as many as the system allows this
/// process, but for what Postgres needs; a quarter of them may wait.
fn descriptors(wanted: usize) -> (usize, usize) {
    const OTHERS: u64 = 256;
    const MOST: u64 = 65_536;
    let limit = webhooks_delivery::raise_descriptors(MOST);
    let all = usize::try_from(limit.saturating_sub(OTHERS)).unwrap_or(usize::MAX);
    let kept = all / 4;
    let ours = all - kept;
    if ours < wanted {
        pgrx::warning!(
            "webhooks makes at most {ours} requests at once instead of webhooks.max_in_flight = {wanted}: the limit of open files is {limit}"
        );
    }
    (ours.max(1), kept)
}

/// Sets the network up; without `webhooks.ca_file` if that cannot be loaded, since it must stop neither the
/// deliveries that do not need it nor a change of the address guard. With it, why it was not loaded.
pub(super) fn with_or_without_ca_file<T>(
    settings: &Settings,
    set_up: impl Fn(&Network) -> Result<T, StartError>,
) -> Result<(T, Option<StartError>), StartError> {
    let whole = network(settings);
    let unloaded = match set_up(&whole) {
        Ok(done) => return Ok((done, None)),
        Err(error) if whole.ca_file.is_none() => return Err(error),
        Err(error) => error,
    };
    pgrx::warning!("webhooks does without webhooks.ca_file: {unloaded}");
    let done = set_up(&Network {
        ca_file: None,
        ..whole
    })?;
    Ok((done, Some(unloaded)))
}

fn fail(error: &RolledBack) -> ! {
    pgrx::log!("webhooks: the worker could not start: {}", error.message);
    exit(None)
}

/// Judges whether the worker of this slot may deliver from this database.
fn look(slot: &Slot) -> State {
    sql::connect(|spi| {
        let rows = spi.read(&WHERE, &[]);
        let version: Option<String> = rows.get(0, 1);
        if let Some(error) = version.and_then(Error::version) {
            error.warn();
            return State::Mismatch;
        }
        if rows.get(0, 2) == Some(true) {
            if !slot.accept_clone.swap(false, Ordering::AcqRel) {
                journal::is_cloned(&owner::database_name());
                return State::Cloned;
            }
            spi.write(&MOVE_HOME, &[]);
        }
        State::Running
    })
}

/// What is known of the database now.
pub(super) fn place() -> Place {
    sql::connect(|spi| {
        let rows = spi.read(&PLACE, &[]);
        Place {
            settings: rows.get(0, 1),
            servable: rows.get(0, 2).unwrap_or(false),
            version: rows.get(0, 3),
        }
    })
}

/// The count of changes of databases so far.
pub(super) fn alterations() -> u64 {
    shmem::shared().map_or(0, |shared| shared.alterations.load(Ordering::Acquire))
}

/// Ends of recent attempts by webhook, monotonic milliseconds.
fn recent() -> HashMap<Uuid, Vec<u64>> {
    let now = clock::now();
    let mut found: HashMap<Uuid, Vec<u64>> = HashMap::new();
    sql::connect(|spi| {
        let rows = spi.read(&RECENT, &[]);
        for row in 0..rows.len() {
            if let (Some(webhook), Some(ended)) = (rows.uuid(row, 1), rows.time(row, 2)) {
                let ago = u64::try_from(now.unix_ms - ended).unwrap_or(0);
                found
                    .entry(webhook)
                    .or_default()
                    .push(now.mono_ms.saturating_sub(ago));
            }
        }
    });
    found
}
