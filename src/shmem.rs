//! Shared memory: a slot for each served database, and how backends wake its worker.
//!
//! Atomics and ids only; all zero is the state at the start of the server. A slot belongs to a database
//! from the moment its `database` is set, by compare-and-swap, until the launcher clears it. A worker owns
//! its slot's `pid` in the same way, which is what makes it the only one of its database.

use crate::in_flight::InFlight;
use crate::key_uses::KeyUses;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use webhooks_delivery::Class;

/// Databases that can be served at once.
pub(crate) const SLOTS: usize = 128;

/// What the worker of a database is doing, or why there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(crate) enum State {
    None = 0,
    Starting = 1,
    Running = 2,
    NoExtension = 3,
    Cloned = 4,
    NoWorkerSlot = 5,
    Disabled = 6,
    Mismatch = 7,
}

impl State {
    fn from_u32(value: u32) -> Self {
        match value {
            1 => Self::Starting,
            2 => Self::Running,
            3 => Self::NoExtension,
            4 => Self::Cloned,
            5 => Self::NoWorkerSlot,
            6 => Self::Disabled,
            7 => Self::Mismatch,
            _ => Self::None,
        }
    }

    /// Whether a worker has looked at the database, and it is one to serve.
    pub(crate) fn is_settled(self) -> bool {
        matches!(
            self,
            Self::Running | Self::Cloned | Self::Disabled | Self::Mismatch
        )
    }

    /// The word that `webhooks.status` shows.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::None => "not running",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::NoExtension => "no extension",
            Self::Cloned => "cloned",
            Self::NoWorkerSlot => "waiting for a worker slot",
            Self::Disabled => "disabled",
            Self::Mismatch => "version mismatch",
        }
    }
}

/// One database.
#[repr(C)]
pub(crate) struct Slot {
    /// Its oid; 0: the slot is free.
    pub(crate) database: AtomicU32,
    state: AtomicU32,
    /// Process id of its worker, or 0.
    pub(crate) pid: AtomicI32,
    /// Where the worker can be signalled, plus one; 0: nowhere.
    proc_plus_one: AtomicI32,
    /// A worker is wanted.
    pub(crate) wanted: AtomicBool,
    /// `stop_worker()` was called and `start_worker()` not since.
    pub(crate) stopped: AtomicBool,
    /// The database is being dropped by somebody whom the worker must not hinder.
    pub(crate) dropping: AtomicBool,
    /// `start_worker()` was called: a clone may deliver from now on.
    pub(crate) accept_clone: AtomicBool,
    /// The last worker ended in good order: it may be followed at once.
    pub(crate) left: AtomicBool,
    /// Something was committed that the worker has not looked at.
    pub(crate) woken: AtomicBool,
    /// Counts commits that changed webhooks.
    pub(crate) definitions: AtomicU64,
    /// When a transaction last committed rows of a dump, Unix milliseconds; of two in one, the second is a little later.
    pub(crate) restored: AtomicU64,
    /// When webhooks were last among them.
    pub(crate) webhooks_restored: AtomicU64,
    /// Requests under way.
    pub(crate) in_flight: AtomicU32,
    /// Delivery threads.
    pub(crate) threads: AtomicU32,
    /// How late they came to their work lately, at most; microseconds.
    pub(crate) lag_us: AtomicU64,
    /// Requests that have ended, by what came of them: at the number of their class.
    pub(crate) classes: [AtomicU64; Class::ALL.len()],
    /// Rows that could not be rendered whole.
    pub(crate) truncated: AtomicU64,
    /// The sequence of its events: see emit/sequence.rs. 0: not begun.
    pub(crate) sequence: AtomicU64,
}

/// The whole area.
#[repr(C)]
pub(crate) struct Shared {
    launcher_plus_one: AtomicI32,
    /// Counts commits that changed databases, or the version of the extension in one.
    pub(crate) alterations: AtomicU64,
    /// Uses of API keys that are to be written down.
    pub(crate) uses: KeyUses,
    pub(crate) slots: [Slot; SLOTS],
    /// Requests that are shown.
    pub(crate) in_flight: InFlight,
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static NEXT_REQUEST: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());
static NEXT_STARTUP: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Asks for the memory. To be called from `_PG_init` while libraries are preloaded.
pub(crate) fn register() {
    // SAFETY: the postmaster is single-threaded here; hooks are chained as Postgres documents. A function
    // pointer and a data pointer have the same size on every platform Postgres runs on.
    unsafe {
        NEXT_REQUEST.store(
            pg_sys::shmem_request_hook.map_or(std::ptr::null_mut(), |hook| hook as *mut ()),
            Ordering::Relaxed,
        );
        pg_sys::shmem_request_hook = Some(request);
        NEXT_STARTUP.store(
            pg_sys::shmem_startup_hook.map_or(std::ptr::null_mut(), |hook| hook as *mut ()),
            Ordering::Relaxed,
        );
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

/// Calls the hook that was there before ours.
fn chain(next: &AtomicPtr<()>) {
    let next = next.load(Ordering::Relaxed);
    if !next.is_null() {
        // SAFETY: the pointer was a hook of exactly this type when register() stored it.
        unsafe {
            std::mem::transmute::<*mut (), unsafe extern "C-unwind" fn()>(next)();
        }
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn request() {
    chain(&NEXT_REQUEST);
    // SAFETY: within shmem_request_hook, where this is allowed.
    unsafe {
        pg_sys::RequestAddinShmemSpace(std::mem::size_of::<Shared>());
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn startup() {
    chain(&NEXT_STARTUP);
    // SAFETY: within shmem_startup_hook; the postmaster alone runs it, before any child exists. The area is
    // large enough for Shared, aligned by MAXALIGN, and all zero is a valid Shared.
    unsafe {
        let mut found = false;
        let area = pg_sys::ShmemInitStruct(
            c"webhooks".as_ptr(),
            std::mem::size_of::<Shared>(),
            &raw mut found,
        );
        if !found {
            std::ptr::write_bytes(area.cast::<u8>(), 0, std::mem::size_of::<Shared>());
        }
        SHARED.store(area.cast(), Ordering::Relaxed);
    }
}

/// The area, if the library was preloaded.
pub(crate) fn shared() -> Option<&'static Shared> {
    // SAFETY: null, or the area that startup() has made, which lives as long as the process.
    unsafe { SHARED.load(Ordering::Relaxed).as_ref() }
}

impl Shared {
    /// The slot of a database, if it has one.
    pub(crate) fn find(&self, database: pg_sys::Oid) -> Option<&Slot> {
        let database = database.to_u32();
        self.slots
            .iter()
            .find(|slot| slot.database.load(Ordering::Acquire) == database)
    }

    /// The slot of a database, taken now if it has none; `None`: all are taken.
    pub(crate) fn find_or_take(&self, database: pg_sys::Oid) -> Option<&Slot> {
        self.find(database).or_else(|| {
            self.slots.iter().find(|slot| {
                let taken = slot.database.compare_exchange(
                    0,
                    database.to_u32(),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
                taken.is_ok() || taken == Err(database.to_u32())
            })
        })
    }

    /// This process is the launcher, or is it no longer.
    pub(crate) fn set_launcher(&self, is: bool) {
        self.launcher_plus_one
            .store(if is { my_proc() + 1 } else { 0 }, Ordering::Release);
    }

    /// Tells everybody that a database was changed, or the extension in one.
    pub(crate) fn altered(&self) {
        self.alterations.fetch_add(1, Ordering::AcqRel);
        self.wake_launcher();
        for slot in &self.slots {
            slot.nudge();
        }
    }

    /// Wakes the launcher.
    pub(crate) fn wake_launcher(&self) {
        wake_process(self.launcher_plus_one.load(Ordering::Acquire));
    }
}

impl Slot {
    /// Its database.
    pub(crate) fn oid(&self) -> pg_sys::Oid {
        pg_sys::Oid::from(self.database.load(Ordering::Acquire))
    }

    /// What its worker is doing.
    pub(crate) fn state(&self) -> State {
        State::from_u32(self.state.load(Ordering::Acquire))
    }

    /// Says what its worker is doing.
    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u32, Ordering::Release);
    }

    /// The same, unless somebody has said something else meanwhile.
    pub(crate) fn change_state(&self, from: State, to: State) {
        // Then that is newer.
        let _ = self.state.compare_exchange(
            from as u32,
            to as u32,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
    }

    /// This process becomes the worker; false: there is one.
    pub(crate) fn claim(&self) -> bool {
        // SAFETY: a variable of this process.
        let pid = unsafe { pg_sys::MyProcPid };
        if self
            .pid
            .compare_exchange(0, pid, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            return false;
        }
        self.proc_plus_one.store(my_proc() + 1, Ordering::Release);
        self.set_state(State::Starting);
        true
    }

    /// Whether this process is the worker.
    pub(crate) fn is_ours(&self) -> bool {
        // SAFETY: a variable of this process.
        let pid = unsafe { pg_sys::MyProcPid };
        self.pid.load(Ordering::Acquire) == pid
    }

    /// This process is the worker no longer, if it was.
    pub(crate) fn release(&self) {
        if self.is_ours() {
            self.proc_plus_one.store(0, Ordering::Release);
            self.in_flight.store(0, Ordering::Release);
            self.threads.store(0, Ordering::Release);
            self.lag_us.store(0, Ordering::Release);
            if matches!(
                self.state(),
                State::Starting | State::Running | State::Disabled
            ) {
                self.set_state(State::None);
            }
            self.pid.store(0, Ordering::Release);
        }
    }

    /// Whether `stop_worker()` was called, and the worker has obeyed.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire) && self.pid.load(Ordering::Acquire) == 0
    }

    /// Wakes the worker, unless it has been and has not looked yet.
    pub(crate) fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            wake_process(self.proc_plus_one.load(Ordering::Acquire));
        }
    }

    /// Wakes the worker in any case.
    pub(crate) fn nudge(&self) {
        wake_process(self.proc_plus_one.load(Ordering::Acquire));
    }

    /// Whether there is no worker, and none on its way: the launcher says that one is starting before it asks for it.
    pub(crate) fn is_vacant(&self) -> bool {
        // In this order: one that is starting tells its pid before it is said to run.
        self.state() != State::Starting && self.pid.load(Ordering::Acquire) == 0
    }

    /// Frees the slot of a database that has no extension or is gone. Only the launcher does so.
    pub(crate) fn free(&self) {
        self.wanted.store(false, Ordering::Release);
        self.stopped.store(false, Ordering::Release);
        self.dropping.store(false, Ordering::Release);
        self.accept_clone.store(false, Ordering::Release);
        self.woken.store(false, Ordering::Release);
        self.truncated.store(0, Ordering::Release);
        for count in &self.classes {
            count.store(0, Ordering::Release);
        }
        self.sequence.store(0, Ordering::Release);
        self.restored.store(0, Ordering::Release);
        self.webhooks_restored.store(0, Ordering::Release);
        self.set_state(State::None);
        self.database.store(0, Ordering::Release);
    }
}

fn wake_process(proc_plus_one: i32) {
    if proc_plus_one > 0 {
        // SAFETY: the number was valid for the process that stored it, and the array it indexes never
        // moves; a stale one wakes a stranger, who looks and sleeps again.
        unsafe {
            pg_sys::ProcSendSignal(proc_plus_one - 1);
        }
    }
}

#[cfg(any(feature = "pg15", feature = "pg16"))]
fn my_proc() -> i32 {
    // SAFETY: MyProc is set in every process that runs our code outside of the postmaster.
    unsafe { (*pg_sys::MyProc).pgprocno }
}

#[cfg(any(feature = "pg17", feature = "pg18"))]
fn my_proc() -> i32 {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::MyProcNumber }
}
