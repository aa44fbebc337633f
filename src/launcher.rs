//! The launcher: a background worker without a database that starts a worker for each database that has
//! the extension. Main thread only.
//!
//! It looks at what is (the slots, the catalog of databases), not at what it remembers, and does so when
//! something happens: at its start, when a backend asks, when a worker starts or ends. The one thing it
//! remembers is how often a database's worker has ended soon after its start, to back off.

use crate::seam::raw;
use crate::shmem::{self, Shared, Slot, State};
use pgrx::bgworkers::{BackgroundWorkerBuilder, BgWorkerStartTime};
use pgrx::pg_sys;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CStr;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

/// Workers that are being started at once: a cluster with hundreds of databases must not fork them all.
const STARTING_MOST: usize = 4;
/// A worker that ends sooner than this after its start counts as failed.
const SOON: Duration = Duration::from_secs(5);
/// The longest time between two starts of a database's worker.
const BACKOFF_MOST: Duration = Duration::from_secs(60);
/// How long to wait for a slot while there are databases that were not looked at.
const PROBING: Duration = Duration::from_millis(500);
/// As `pg_database.datconnlimit` says that dropping it was broken off: connections to it fail.
const DATCONNLIMIT_INVALID_DB: i32 = -2;
/// How long to wait when there is no free worker slot in the server.
const NO_SLOT: Duration = Duration::from_secs(2);

/// Registers the launcher. To be called from `_PG_init` while libraries are preloaded.
pub(crate) fn register() {
    BackgroundWorkerBuilder::new("webhooks launcher")
        .set_type("webhooks launcher")
        .set_library("webhooks")
        .set_function("webhooks_launcher_main")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::RecoveryFinished)
        .set_restart_time(Some(Duration::from_secs(1)))
        .load();
}

#[derive(Default)]
struct Memory {
    handle: Option<Handle>,
    started: Option<Instant>,
    failures: u32,
    not_before: Option<Instant>,
}

/// A registered worker, as the postmaster knows it.
struct Handle(*mut pg_sys::BackgroundWorkerHandle);

impl Handle {
    /// Whether it is running or will be.
    fn is_live(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle came from RegisterDynamicBackgroundWorker and is freed only on drop.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.0, &raw mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STARTED
            || status == pg_sys::BgwHandleStatus::BGWH_NOT_YET_STARTED
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: palloc'd in TopMemoryContext by RegisterDynamicBackgroundWorker, and not used again.
        unsafe { pg_sys::pfree(self.0.cast()) }
    }
}

/// Entry point, named in the background worker's registration.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn webhooks_launcher_main(_arg: pg_sys::Datum) {
    // SAFETY: the handlers are Postgres's own; signals are unblocked after they are in place, as every
    // background worker must do before it connects.
    unsafe {
        raw::pqsignal(pg_sys::SIGHUP as i32, raw::SignalHandlerForConfigReload);
        raw::pqsignal(pg_sys::SIGTERM as i32, raw::SignalHandlerForShutdownRequest);
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnection(std::ptr::null(), std::ptr::null(), 0);
        pg_sys::pgstat_report_appname(c"webhooks launcher".as_ptr());
    }
    let Some(shared) = shmem::shared() else {
        return;
    };
    shared.set_launcher(true);
    // SAFETY: the callback has the type that is asked for, and touches shared memory only.
    unsafe {
        pg_sys::before_shmem_exit(Some(leave), pg_sys::Datum::from(0));
    }
    let mut memory: HashMap<u32, Memory> = HashMap::new();
    let mut warned = Warned::default();
    let mut known = HashSet::new();
    let mut unseen = VecDeque::new();
    let mut seen = None;
    loop {
        let altered = shared.alterations.load(Ordering::Acquire);
        if seen.replace(altered) != Some(altered) {
            revise(shared, &mut memory, &mut known, &mut unseen);
        }
        let probing = probe(shared, &mut unseen, &mut warned);
        let wait = look(shared, &mut memory, &mut warned);
        // Those without the extension give their slots back.
        let wait = if probing {
            wait.map(|wait| wait.min(PROBING)).or(Some(PROBING))
        } else {
            wait
        };
        // SAFETY: on the main thread of a process with a latch; each call is what Postgres's own workers do.
        unsafe {
            let timeout =
                i64::try_from(wait.map_or(60_000, |wait| wait.as_millis())).unwrap_or(60_000);
            pg_sys::WaitLatch(
                pg_sys::MyLatch,
                (pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH) as i32,
                timeout,
                pg_sys::PG_WAIT_EXTENSION,
            );
            pg_sys::ResetLatch(pg_sys::MyLatch);
            if pg_sys::ShutdownRequestPending != 0 {
                // With 0 the postmaster would not start it again, should this be somebody's pg_terminate_backend().
                raw::proc_exit(1);
            }
            pgrx::check_for_interrupts!();
            if pg_sys::ConfigReloadPending != 0 {
                pg_sys::ConfigReloadPending = 0;
                pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
            }
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn leave(_code: i32, _arg: pg_sys::Datum) {
    if let Some(shared) = shmem::shared() {
        shared.set_launcher(false);
    }
}

#[derive(Default)]
struct Warned {
    slots: bool,
    workers: bool,
}

impl Warned {
    fn no_slot(&mut self) {
        if !std::mem::replace(&mut self.slots, true) {
            pgrx::warning!(
                "webhooks serves at most {} databases, and this server has more",
                shmem::SLOTS
            );
        }
    }
}

/// Looks at the databases, since they may have changed: wants a look into each that can be served now and could not
/// before, frees the slots of those that are gone, and gives all that failed another chance.
fn revise(
    shared: &Shared,
    memory: &mut HashMap<u32, Memory>,
    known: &mut HashSet<u32>,
    unseen: &mut VecDeque<u32>,
) {
    // Before the look at the catalog: whoever has taken one by now is connected to a database that is in it.
    let taken: Vec<(&Slot, u32)> = shared
        .slots
        .iter()
        .map(|slot| (slot, slot.database.load(Ordering::Acquire)))
        .filter(|&(_, database)| database != 0)
        .collect();
    let databases = databases();
    for (slot, database) in taken {
        if slot.pid.load(Ordering::Acquire) != 0 {
            continue;
        }
        if !databases.iter().any(|it| it.oid == database) {
            slot.free();
            memory.remove(&database);
            continue;
        }
        if slot.state() == State::Mismatch {
            slot.set_state(State::None);
        }
        if let Some(it) = memory.get_mut(&database) {
            it.failures = 0;
            it.not_before = None;
        }
    }
    let servable: HashSet<u32> = databases
        .iter()
        .filter(|it| it.servable)
        .map(|it| it.oid)
        .collect();
    unseen.retain(|database| servable.contains(database));
    unseen.extend(servable.difference(known));
    *known = servable;
}

/// Gives slots to databases that were not looked at yet, as far as there are any; whether more will be free
/// soon.
fn probe(shared: &Shared, unseen: &mut VecDeque<u32>, warned: &mut Warned) -> bool {
    while let Some(&database) = unseen.front() {
        let Some(slot) = shared.find_or_take(pg_sys::Oid::from(database)) else {
            // Once all slots belong to databases that have the extension, only news can change that.
            let full = shared.slots.iter().all(|slot| slot.state().is_settled());
            if full {
                warned.no_slot();
            }
            return !full;
        };
        slot.wanted.store(true, Ordering::Release);
        unseen.pop_front();
    }
    false
}

/// Does what there is to do; returns when to look again at the latest.
fn look(
    shared: &Shared,
    memory: &mut HashMap<u32, Memory>,
    warned: &mut Warned,
) -> Option<Duration> {
    let now = Instant::now();
    let mut again: Option<Duration> = None;
    let mut soonest = |wait: Duration| again = Some(again.map_or(wait, |other| other.min(wait)));
    let mut starting = 0;
    let mut to_start = Vec::new();
    for slot in &shared.slots {
        let database = slot.database.load(Ordering::Acquire);
        if database == 0 {
            continue;
        }
        let it = memory.entry(database).or_default();
        if it.handle.as_ref().is_some_and(Handle::is_live) || slot.pid.load(Ordering::Acquire) != 0
        {
            if matches!(slot.state(), State::Starting | State::None) {
                starting += 1;
                soonest(Duration::from_millis(100));
            }
            continue;
        }
        if it.handle.take().is_some() {
            let soon = !slot.left.swap(false, Ordering::AcqRel)
                && it
                    .started
                    .is_some_and(|started| now.duration_since(started) < SOON);
            it.failures = if soon {
                it.failures.saturating_add(1)
            } else {
                0
            };
            let wait = match it.failures {
                0 | 1 => Duration::ZERO,
                n => Duration::from_millis(100 << n.min(10)).min(BACKOFF_MOST),
            };
            it.not_before = Some(now + wait);
        }
        match slot.state() {
            // Unless it was created since the worker looked.
            State::NoExtension if !slot.woken.load(Ordering::Acquire) => {
                slot.free();
                memory.remove(&database);
                continue;
            }
            State::Cloned if !slot.accept_clone.load(Ordering::Acquire) => continue,
            State::Mismatch => continue,
            _ => {}
        }
        if !slot.wanted.load(Ordering::Acquire)
            || slot.stopped.load(Ordering::Acquire)
            || slot.dropping.load(Ordering::Acquire)
        {
            // start_worker() has said so, and then somebody else did not want it.
            if slot.state() == State::Starting {
                slot.set_state(State::None);
            }
            continue;
        }
        match it.not_before.filter(|&at| at > now) {
            Some(at) => soonest(at - now),
            None => to_start.push(slot),
        }
    }
    if to_start.is_empty() {
        return again;
    }
    let databases = databases();
    for slot in to_start {
        let database = slot.database.load(Ordering::Acquire);
        if !databases.iter().any(|it| it.oid == database && it.servable) {
            slot.free();
            memory.remove(&database);
            continue;
        }
        if starting >= STARTING_MOST {
            soonest(Duration::from_millis(100));
            break;
        }
        let it = memory.entry(database).or_default();
        // Before there is a worker, which says itself what it is doing, and may do so at once.
        slot.set_state(State::Starting);
        // Somebody may have begun to drop the database since it was looked at, and waits for what is starting.
        fence(Ordering::SeqCst);
        if slot.dropping.load(Ordering::Acquire) {
            slot.set_state(State::None);
            continue;
        }
        match start(database) {
            Some(handle) => {
                it.handle = Some(handle);
                it.started = Some(now);
                starting += 1;
                warned.workers = false;
                soonest(Duration::from_millis(100));
            }
            None => {
                slot.set_state(State::NoWorkerSlot);
                if !std::mem::replace(&mut warned.workers, true) {
                    pgrx::warning!(
                        "webhooks cannot start a worker: all background worker slots are in use; raise max_worker_processes"
                    );
                }
                soonest(NO_SLOT);
                break;
            }
        }
    }
    again
}

/// Registers the worker of a database; `None`: the server has no free worker slot.
fn start(database: u32) -> Option<Handle> {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION)
            as i32,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        bgw_main_arg: pg_sys::Datum::from(database),
        // SAFETY: a variable of this process.
        bgw_notify_pid: unsafe { pg_sys::MyProcPid },
        ..Default::default()
    };
    copy(&mut worker.bgw_name, c"webhooks worker");
    copy(&mut worker.bgw_type, c"webhooks worker");
    copy(&mut worker.bgw_library_name, c"webhooks");
    copy(&mut worker.bgw_function_name, c"webhooks_worker_main");
    let mut handle = std::ptr::null_mut();
    // SAFETY: the struct is complete. The handle is allocated in the current context, which outlives it.
    let fine = unsafe {
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
        pg_sys::RegisterDynamicBackgroundWorker(&raw mut worker, &raw mut handle)
    };
    // Not before it is sure that there is one: dropping a handle frees it.
    fine.then(|| Handle(handle))
}

fn copy(into: &mut [std::ffi::c_char], text: &CStr) {
    for (to, &from) in into.iter_mut().zip(text.to_bytes_with_nul()) {
        *to = from as std::ffi::c_char;
    }
}

struct Database {
    oid: u32,
    /// It takes connections and is no template.
    servable: bool,
}

/// The databases there are.
fn databases() -> Vec<Database> {
    let mut found = Vec::new();
    // SAFETY: a background worker outside of a transaction, connected to the shared catalogs; the scan is
    // the one that Postgres's autovacuum launcher makes.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        let relation =
            pg_sys::table_open(pg_sys::DatabaseRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::table_beginscan_catalog(relation, 0, std::ptr::null_mut());
        loop {
            let tuple = pg_sys::heap_getnext(scan, pg_sys::ScanDirection::ForwardScanDirection);
            if tuple.is_null() {
                break;
            }
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
            found.push(Database {
                oid: (*form).oid.to_u32(),
                servable: (*form).datallowconn
                    && !(*form).datistemplate
                    && (*form).datconnlimit != DATCONNLIMIT_INVALID_DB,
            });
        }
        pg_sys::heap_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        pg_sys::PopActiveSnapshot();
        pg_sys::CommitTransactionCommand();
        pg_sys::MemoryContextSwitchTo(pg_sys::TopMemoryContext);
    }
    found
}
