//! Settings whose values must not be seen.
//!
//! Postgres shows values in more places than SHOW: its log tells of every change at a reload, errors repeat
//! what they refuse, and `reset_val` stands in pg_settings. So the variable that it knows never holds the
//! value: the check hook puts a mask in its place, and the value goes with it as its `extra`.

use super::{Refusal, refuse};
use pgrx::{guc::GucContext, guc::GucFlags, pg_sys};
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};

const MASK: &CStr = c"********";

/// A setting of the whole server that superusers and `pg_read_all_settings` see masked, and others not at all.
pub(super) trait Masked: 'static {
    const NAME: &'static CStr;
    const SHORT: &'static CStr;
    const LONG: &'static CStr;

    /// Where its value is.
    fn cell() -> &'static Cell;

    /// Refuses a value. The words must not repeat it.
    fn judge(value: &str) -> Result<(), Refusal>;
}

/// The variables of one such setting.
pub(super) struct Cell {
    /// What Postgres takes for the value: always the mask.
    shown: AtomicPtr<c_char>,
    /// The value: NUL-terminated, and Postgres's to free, which it does after it has assigned another.
    value: AtomicPtr<c_char>,
}

impl Cell {
    pub(super) const fn new() -> Self {
        Self {
            shown: AtomicPtr::new(std::ptr::null_mut()),
            value: AtomicPtr::new(std::ptr::null_mut()),
        }
    }
}

/// The value; `None`: it is not set.
pub(super) fn value<M: Masked>() -> Option<String> {
    let value = M::cell().value.load(Ordering::Relaxed);
    if value.is_null() {
        return None;
    }
    // SAFETY: the assign hook has put it there; it lives until another is assigned, and is copied now.
    let value = unsafe { CStr::from_ptr(value) };
    // The check hook has seen that it is UTF-8.
    let value = value.to_str().ok().filter(|value| !value.is_empty())?;
    Some(value.to_owned())
}

/// Registers the setting.
pub(super) fn register<M: Masked>() {
    // SAFETY: the strings are static and NUL-terminated, and the variable is a static that lives as long as
    // the process and has the layout of a pointer; the hooks have the types that are asked for.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            M::NAME.as_ptr(),
            M::SHORT.as_ptr(),
            M::LONG.as_ptr(),
            M::cell().shown.as_ptr(),
            c"".as_ptr(),
            GucContext::Sighup as isize as _,
            GucFlags::SUPERUSER_ONLY.bits(),
            Some(check::<M>),
            Some(assign::<M>),
            Some(show::<M>),
        );
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn check<M: Masked>(
    new: *mut *mut c_char,
    extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: Postgres passes a pointer to the proposed value, which may be NULL and is otherwise
    // NUL-terminated and allocated as it allocates such values.
    unsafe {
        let value = if (*new).is_null() {
            c""
        } else {
            CStr::from_ptr(*new)
        };
        // A parallel worker is told what its leader shows, and needs no value.
        if value == MASK && pg_sys::InitializingParallelWorker {
            return true;
        }
        let judged = match value.to_str() {
            Ok("") => Ok(()),
            Ok(value) => M::judge(value),
            Err(_) => Err(Refusal::not_utf8()),
        };
        if let Err(refusal) = judged {
            // Else Postgres would repeat the value.
            let name = M::NAME.to_string_lossy();
            let message = format!("invalid value for parameter \"{name}\"");
            let message = CString::new(message).unwrap_or_default();
            pg_sys::GUC_check_errmsg_string = pg_sys::pstrdup(message.as_ptr());
            return refuse(&refusal);
        }
        let (kept, mask) = (copy(value), copy(MASK));
        if kept.is_null() || mask.is_null() {
            release(kept);
            release(mask);
            return false;
        }
        release(*new);
        *new = mask;
        *extra = kept.cast();
        true
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn assign<M: Masked>(_shown: *const c_char, extra: *mut c_void) {
    if !extra.is_null() {
        M::cell().value.store(extra.cast(), Ordering::Relaxed);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn show<M: Masked>() -> *const c_char {
    let shown = if value::<M>().is_some() { MASK } else { c"" };
    shown.as_ptr()
}

/// A copy that Postgres can free as it frees values of settings; null: no memory.
unsafe fn copy(text: &CStr) -> *mut c_char {
    let bytes = text.to_bytes_with_nul();
    // SAFETY: what is allocated has room for the bytes.
    unsafe {
        let copied = allocate(bytes.len()).cast::<c_char>();
        if !copied.is_null() {
            copied.copy_from_nonoverlapping(bytes.as_ptr().cast(), bytes.len());
        }
        copied
    }
}

#[cfg(feature = "pg15")]
unsafe fn allocate(size: usize) -> *mut c_void {
    unsafe extern "C" {
        fn malloc(size: usize) -> *mut c_void;
    }
    // SAFETY: of the C library, as Postgres 15 itself does for values of settings.
    unsafe { malloc(size) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn allocate(size: usize) -> *mut c_void {
    const LEVEL: i32 = pgrx::PgLogLevel::LOG as i32;
    // SAFETY: below ERROR it returns null where there is no memory.
    unsafe { pg_sys::guc_malloc(LEVEL, size) }
}

#[cfg(feature = "pg15")]
unsafe fn release(text: *mut c_char) {
    unsafe extern "C" {
        fn free(pointer: *mut c_void);
    }
    // SAFETY: null, or allocated by malloc: by copy(), or by Postgres for the value of a setting.
    unsafe { free(text.cast()) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn release(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: allocated by copy(), or by Postgres for the value of a setting.
        unsafe { pg_sys::guc_free(text.cast()) }
    }
}
