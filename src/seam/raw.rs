//! Functions of the server that are handed on as pointers, or that pgrx does not bind.

use pgrx::pg_sys;
use std::ffi::c_char;

unsafe extern "C-unwind" {
    /// Signal handler: a reload was asked for.
    pub(crate) fn SignalHandlerForConfigReload(signal: i32);
    /// Signal handler: the process is to end when it can.
    pub(crate) fn SignalHandlerForShutdownRequest(signal: i32);
    /// Signal handler: the process is to end at its next check for interrupts.
    pub(crate) fn die(signal: i32);
    /// Installs a signal handler. PostgreSQL 18 has it under another name, behind a macro.
    #[cfg_attr(feature = "pg18", link_name = "pqsignal_be")]
    pub(crate) fn pqsignal(signal: i32, handler: unsafe extern "C-unwind" fn(i32));
    /// Runs the exit callbacks and ends the process.
    pub(crate) fn proc_exit(code: i32) -> !;
    /// Ends the process, and does nothing else: the C library's.
    pub(crate) fn _exit(code: i32) -> !;
    /// Output function of `numeric`.
    pub(crate) fn numeric_out(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    /// How many triggers are running, one within the other.
    pub(crate) fn pg_trigger_depth(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    /// Whether two values of a type are the same to the byte.
    pub(crate) fn datumIsEqual(
        one: pg_sys::Datum,
        other: pg_sys::Datum,
        by_value: bool,
        length: i32,
    ) -> bool;
    /// Bytes of a varlena with a long header, wherever and however it is stored.
    pub(crate) fn toast_raw_datum_size(value: pg_sys::Datum) -> usize;
}

unsafe extern "C-unwind" {
    fn multirange_deserialize(
        range_type: *mut pg_sys::TypeCacheEntry,
        multirange: *const pg_sys::varlena,
        count: *mut i32,
        ranges: *mut *mut *mut pg_sys::RangeType,
    );
    fn get_partition_ancestors(relation: pg_sys::Oid) -> *mut pg_sys::List;
    fn has_subclass(relation: pg_sys::Oid) -> bool;
    fn find_inheritance_children(relation: pg_sys::Oid, lock: i32) -> *mut pg_sys::List;
    fn find_all_inheritors(
        relation: pg_sys::Oid,
        lock: i32,
        parents: *mut *mut pg_sys::List,
    ) -> *mut pg_sys::List;
    fn has_superclass(relation: pg_sys::Oid) -> bool;
}

/// The ranges of a multirange, in the current memory context.
///
/// # Safety
/// A detoasted multirange whose ranges are of that type.
pub(crate) unsafe fn ranges_of<'a>(
    range_type: *mut pg_sys::TypeCacheEntry,
    multirange: *const pg_sys::varlena,
) -> &'a [*mut pg_sys::RangeType] {
    let (mut count, mut list) = (0, std::ptr::null_mut());
    // SAFETY: as the caller says; the list has as many ranges as are counted.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            multirange_deserialize(range_type, multirange, &raw mut count, &raw mut list);
        });
        match usize::try_from(count) {
            Ok(count) if count > 0 && !list.is_null() => std::slice::from_raw_parts(list, count),
            _ => &[],
        }
    }
}

/// The tables that a partition is a part of, the nearest first.
///
/// # Safety
/// In a transaction, the oid of a partition.
pub(crate) unsafe fn ancestors(partition: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: as the caller says; the list holds oids.
    unsafe {
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| get_partition_ancestors(partition));
        pgrx::PgList::<pg_sys::Oid>::from_pg(list)
            .iter_oid()
            .collect()
    }
}

/// A table, and all that are a part of it at any depth.
///
/// # Safety
/// In a transaction, the oid of a table.
pub(crate) unsafe fn descendants(table: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: as the caller says; the list holds oids.
    unsafe {
        let list = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            find_all_inheritors(table, pg_sys::NoLock as i32, std::ptr::null_mut())
        });
        pgrx::PgList::<pg_sys::Oid>::from_pg(list)
            .iter_oid()
            .collect()
    }
}

/// Whether others inherit from a table, or are its partitions.
///
/// # Safety
/// In a transaction, the oid of a table.
pub(crate) unsafe fn has_children(table: pg_sys::Oid) -> bool {
    // SAFETY: as the caller says. has_subclass() also says yes where there were children once.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            has_subclass(table)
                && !find_inheritance_children(table, pg_sys::NoLock as i32).is_null()
        })
    }
}

/// Whether a table inherits from others, or is a partition.
///
/// # Safety
/// In a transaction, the oid of a table.
pub(crate) unsafe fn has_parent(table: pg_sys::Oid) -> bool {
    // SAFETY: as the caller says.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| has_superclass(table)) }
}

/// What runs the end of a query.
pub(crate) type Finish = unsafe extern "C-unwind" fn(*mut pg_sys::QueryDesc);

/// What runs a utility statement.
pub(crate) type Utility = unsafe extern "C-unwind" fn(
    *mut pg_sys::PlannedStmt,
    *const c_char,
    bool,
    pg_sys::ProcessUtilityContext::Type,
    pg_sys::ParamListInfo,
    *mut pg_sys::QueryEnvironment,
    *mut pg_sys::DestReceiver,
    *mut pg_sys::QueryCompletion,
);

unsafe extern "C-unwind" {
    /// Runs a utility statement. pgrx's own binding catches its errors, and would raise them with less in them.
    pub(crate) fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
    /// Runs the end of a query, its AFTER triggers among it. As above.
    pub(crate) fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
}

unsafe extern "C-unwind" {
    fn errstart(level: i32, domain: *const c_char) -> bool;
    fn errcode(code: i32) -> i32;
    fn errmsg(format: *const c_char, ...) -> i32;
    fn errhint(format: *const c_char, ...) -> i32;
    fn errfinish(file: *const c_char, line: i32, function: *const c_char);
}

/// A SQLSTATE as Postgres packs it: six bits a character.
pub(crate) const fn sqlstate(code: [u8; 5]) -> i32 {
    let mut packed = 0;
    let mut index = 0;
    while index < code.len() {
        packed |= ((code[index].wrapping_sub(b'0') & 0x3f) as i32) << (6 * index);
        index += 1;
    }
    packed
}

/// Raises an ERROR with a SQLSTATE that pgrx does not know.
///
/// # Safety
/// On the main thread, called by a function that Postgres has called, without a guard of pgrx's between;
/// the frames from there to here hold nothing that must be dropped, since they are jumped over. The message
/// and the hint are NUL-terminated; the hint may be null.
pub(crate) unsafe fn raise(code: i32, message: *const c_char, hint: *const c_char) -> ! {
    const ERROR: i32 = pgrx::PgLogLevel::ERROR as i32;
    // SAFETY: as the caller says; at ERROR, errstart() says true, and errfinish() does not return.
    unsafe {
        if errstart(ERROR, std::ptr::null()) {
            errcode(code);
            errmsg(c"%s".as_ptr(), message);
            if !hint.is_null() {
                errhint(c"%s".as_ptr(), hint);
            }
            errfinish(c"webhooks".as_ptr(), 0, std::ptr::null());
        }
    }
    // Not reached; to go on would be worse than to end.
    std::process::abort()
}
