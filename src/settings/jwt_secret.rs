//! `webhooks.jwt_secret`: the one setting whose value must not be seen.
//!
//! Postgres shows values in more places than SHOW: its log tells of every change at a reload, errors repeat
//! what they refuse, and `reset_val` stands in pg_settings. So the variable that it knows never holds the
//! secret: the check hook puts a mask in its place, and the secret goes with the value as its `extra`.

use super::set_check_detail;
use pgrx::{guc::GucContext, guc::GucFlags, pg_sys};
use std::ffi::{CStr, c_char, c_void};
use std::fmt;
use std::sync::atomic::{AtomicPtr, Ordering};
use webhooks_core::token::SECRET_MIN;

const NAME: &CStr = c"webhooks.jwt_secret";
const MASK: &CStr = c"********";

/// What Postgres takes for the value: always the mask.
static SHOWN: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
/// The value: NUL-terminated, and Postgres's to free, which it does after it has assigned another.
static SECRET: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());

/// The secret that API keys are signed with. It never shows itself.
pub(crate) struct JwtSecret(String);

impl JwtSecret {
    /// The secret itself, for signing.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(…)")
    }
}

/// `webhooks.jwt_secret`; `None`: it is not set.
pub(crate) fn jwt_secret() -> Option<JwtSecret> {
    let value = SECRET.load(Ordering::Relaxed);
    if value.is_null() {
        return None;
    }
    // SAFETY: the assign hook has put it there; it lives until another is assigned, and is copied now.
    let value = unsafe { CStr::from_ptr(value) };
    // The check hook has seen that it is UTF-8.
    let value = value.to_str().ok().filter(|value| !value.is_empty())?;
    Some(JwtSecret(value.to_owned()))
}

/// Registers the setting.
pub(super) fn register() {
    // SAFETY: the strings are static and NUL-terminated, and the variable is a static that lives as long as
    // the process and has the layout of a pointer; the hooks have the types that are asked for.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            NAME.as_ptr(),
            c"Secret that API keys are signed with.".as_ptr(),
            c"At least 32 bytes; PostgREST's jwt-secret must be the same.".as_ptr(),
            SHOWN.as_ptr(),
            c"".as_ptr(),
            GucContext::Sighup as isize as _,
            GucFlags::SUPERUSER_ONLY.bits(),
            Some(check),
            Some(assign),
            Some(show),
        );
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn check(
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
        // A parallel worker is told what its leader shows, and needs no secret.
        if value == MASK && pg_sys::InitializingParallelWorker {
            return true;
        }
        let length = value.to_bytes().len();
        if (length > 0 && length < SECRET_MIN) || value.to_str().is_err() {
            // Else Postgres would repeat the value.
            pg_sys::GUC_check_errmsg_string =
                pg_sys::pstrdup(c"invalid value for parameter \"webhooks.jwt_secret\"".as_ptr());
            set_check_detail("It must have at least 32 bytes, and be UTF-8.");
            return false;
        }
        let (secret, mask) = (copy(value), copy(MASK));
        if secret.is_null() || mask.is_null() {
            release(secret);
            release(mask);
            return false;
        }
        release(*new);
        *new = mask;
        *extra = secret.cast();
        true
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn assign(_shown: *const c_char, extra: *mut c_void) {
    if !extra.is_null() {
        SECRET.store(extra.cast(), Ordering::Relaxed);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn show() -> *const c_char {
    let shown = if jwt_secret().is_some() { MASK } else { c"" };
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
