//! Statements of our own: constants with kept plans. Main thread only.

use pgrx::{FromDatum, IntoDatum, pg_sys};
use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// A statement that is planned once in each process.
pub(crate) struct Statement {
    text: &'static CStr,
    types: &'static [pg_sys::Oid],
    plan: AtomicPtr<pg_sys::_SPI_plan>,
}

impl Statement {
    /// `types` are those of the parameters, in order.
    pub(crate) const fn new(text: &'static CStr, types: &'static [pg_sys::Oid]) -> Self {
        Self {
            text,
            types,
            plan: AtomicPtr::new(std::ptr::null_mut()),
        }
    }

    /// How many parameters it has.
    pub(crate) fn parameters(&self) -> usize {
        self.types.len()
    }

    fn plan(&self) -> pg_sys::SPIPlanPtr {
        let kept = self.plan.load(Ordering::Relaxed);
        if !kept.is_null() {
            return kept;
        }
        // SAFETY: called between SPI_connect and SPI_finish; text is NUL-terminated and types has the
        // length given. SPI_keepplan moves the plan to where it lives as long as the process.
        let plan = unsafe {
            let types = self.types.as_ptr().cast_mut();
            let plan = pg_sys::SPI_prepare(self.text.as_ptr(), self.types.len() as i32, types);
            if plan.is_null() || pg_sys::SPI_keepplan(plan) != 0 {
                let code = pg_sys::SPI_result;
                pgrx::error!("could not prepare a statement: SPI code {code}");
            }
            plan
        };
        self.plan.store(plan, Ordering::Relaxed);
        plan
    }
}

/// A connection to SPI; rows that were read live until it ends.
pub(crate) struct Connection(());

thread_local! {
    /// How many calls of `connect` are under way, one within the other.
    static RUNNING: Cell<usize> = const { Cell::new(0) };
}

/// Counts a call of `connect` for as long as it lives, also when an ERROR ends it.
struct Running;

impl Running {
    fn begin() -> Self {
        RUNNING.set(RUNNING.get() + 1);
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNNING.set(RUNNING.get() - 1);
    }
}

/// Whether a statement of our own is running: triggers on our tables ask.
pub(crate) fn is_running() -> bool {
    RUNNING.get() > 0
}

/// Runs `work` with SPI connected. An ERROR on the way ends the connection with the (sub)transaction.
pub(crate) fn connect<R>(work: impl FnOnce(&Connection) -> R) -> R {
    let _running = Running::begin();
    // SAFETY: in a transaction, as every caller is; matched by SPI_finish below.
    unsafe {
        if pg_sys::SPI_connect() != pg_sys::SPI_OK_CONNECT as i32 {
            pgrx::error!("could not connect to SPI");
        }
    }
    let result = work(&Connection(()));
    // SAFETY: matches SPI_connect.
    unsafe {
        pg_sys::SPI_finish();
    }
    result
}

/// A parameter.
pub(crate) type Arg = Option<pg_sys::Datum>;

/// A parameter from a Rust value.
pub(crate) fn arg<T: IntoDatum>(value: T) -> Arg {
    value.into_datum()
}

/// A `timestamptz` parameter from Unix milliseconds.
pub(crate) fn time(unix_ms: i64) -> Arg {
    Some(pg_sys::Datum::from(super::clock::timestamp_of(unix_ms)))
}

/// A `uuid` parameter.
pub(crate) fn uuid(id: uuid::Uuid) -> Arg {
    arg(pgrx::Uuid::from_bytes(id.into_bytes()))
}

/// A `uuid[]` parameter.
pub(crate) fn uuids(ids: impl IntoIterator<Item = uuid::Uuid>) -> Arg {
    arg(ids
        .into_iter()
        .map(|id| pgrx::Uuid::from_bytes(id.into_bytes()))
        .collect::<Vec<_>>())
}

impl Connection {
    /// Runs a statement that only reads, under the snapshot that is active.
    pub(crate) fn read(&self, statement: &Statement, args: &[Arg]) -> Rows<'_> {
        self.run(statement, args, true)
    }

    /// Runs a statement that may write, or must see what this transaction wrote.
    pub(crate) fn write(&self, statement: &Statement, args: &[Arg]) -> Rows<'_> {
        self.run(statement, args, false)
    }

    /// Runs a statement that only reads, under a snapshot of now: what others have committed counts, also in a
    /// transaction whose own snapshot is older, and what this transaction wrote counts too.
    pub(crate) fn read_latest(&self, statement: &Statement, args: &[Arg]) -> Rows<'_> {
        // SAFETY: in a transaction; the snapshot is popped below, or with the transaction if an ERROR comes
        // between.
        unsafe {
            pg_sys::CommandCounterIncrement();
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        }
        let rows = self.run(statement, args, true);
        // SAFETY: the one that was pushed above. The rows are copies.
        unsafe { pg_sys::PopActiveSnapshot() }
        rows
    }

    fn run(&self, statement: &Statement, args: &[Arg], read_only: bool) -> Rows<'_> {
        debug_assert_eq!(args.len(), statement.types.len());
        let mut values: Vec<pg_sys::Datum> = args
            .iter()
            .map(|arg| arg.unwrap_or(pg_sys::Datum::from(0)))
            .collect();
        let nulls: Vec<std::ffi::c_char> = args
            .iter()
            .map(|arg| if arg.is_some() { b' ' } else { b'n' } as std::ffi::c_char)
            .collect();
        // SAFETY: SPI is connected; values and nulls have as many entries as the plan has parameters. The
        // table is ours until SPI_finish, which the lifetime of Rows keeps away.
        unsafe {
            let code = pg_sys::SPI_execute_plan(
                statement.plan(),
                values.as_mut_ptr(),
                nulls.as_ptr(),
                read_only,
                0,
            );
            if code < 0 {
                pgrx::error!("could not run a statement: SPI code {code}");
            }
            Rows {
                table: pg_sys::SPI_tuptable,
                processed: pg_sys::SPI_processed,
                _connection: std::marker::PhantomData,
            }
        }
    }
}

/// What a statement returned.
pub(crate) struct Rows<'a> {
    table: *mut pg_sys::SPITupleTable,
    processed: u64,
    _connection: std::marker::PhantomData<&'a Connection>,
}

impl Rows<'_> {
    /// Rows returned, or touched.
    pub(crate) fn len(&self) -> usize {
        self.processed as usize
    }

    /// The value of a column (from 1) in a row (from 0); `None` for NULL.
    pub(crate) fn get<T: FromDatum>(&self, row: usize, column: i32) -> Option<T> {
        let (datum, is_null) = self.datum(row, column)?;
        // SAFETY: the caller names the type that the statement, a constant next to it, gives the column.
        unsafe { T::from_datum(datum, is_null) }
    }

    /// The raw value of a column.
    pub(crate) fn datum(&self, row: usize, column: i32) -> Option<(pg_sys::Datum, bool)> {
        if self.table.is_null() || row >= self.len() {
            return None;
        }
        let mut is_null = true;
        // SAFETY: the table is valid (see run) and row is in range; SPI_getbinval judges the column itself.
        let datum = unsafe {
            let tuple = *(*self.table).vals.add(row);
            pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, column, &raw mut is_null)
        };
        Some((datum, is_null))
    }

    /// A `jsonb` column; `None` also for what is no JSON that we could have written.
    pub(crate) fn json(&self, row: usize, column: i32) -> Option<serde_json::Value> {
        let text = self.get::<super::json::JsonbText>(row, column)?;
        webhooks_core::json::parse(&text.0).ok()
    }

    /// A `uuid` column.
    pub(crate) fn uuid(&self, row: usize, column: i32) -> Option<uuid::Uuid> {
        self.get::<pgrx::Uuid>(row, column)
            .map(|id| uuid::Uuid::from_bytes(*id.as_bytes()))
    }

    /// A `timestamptz` column, as Unix milliseconds.
    pub(crate) fn time(&self, row: usize, column: i32) -> Option<i64> {
        self.datum(row, column)
            .filter(|&(_, is_null)| !is_null)
            .map(|(datum, _)| super::clock::unix_of(datum.value() as i64))
    }

    /// An `xid8` column.
    pub(crate) fn xid8(&self, row: usize, column: i32) -> Option<u64> {
        self.datum(row, column)
            .filter(|&(_, is_null)| !is_null)
            .map(|(datum, _)| datum.value() as u64)
    }
}
