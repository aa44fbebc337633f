//! Settings that are set for the transaction. Main thread only.

use pgrx::pg_sys;
use std::ffi::CStr;

/// Sets a setting that anybody may set until the (sub)transaction ends, as SET LOCAL does.
pub(crate) fn set_until_end(name: &CStr, value: &CStr) {
    set_as(pg_sys::GucContext::PGC_USERSET, name, value);
}

/// Keeps errors out of the server's log until the (sub)transaction ends, which the one that follows does. For refusals of
/// requests, of which there are as many as strangers like.
pub(crate) fn keep_errors_out_of_the_log() {
    set_as(pg_sys::GucContext::PGC_SUSET, c"log_min_messages", c"fatal");
}

fn set_as(context: pg_sys::GucContext::Type, name: &CStr, value: &CStr) {
    const CHANGE: bool = true;
    const NO_RELOAD: bool = false;
    const ERROR_BY_SOURCE: i32 = 0;
    // SAFETY: both are NUL-terminated; Postgres copies them. What it refuses is an ERROR.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            context,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_LOCAL,
            CHANGE,
            ERROR_BY_SOURCE,
            NO_RELOAD,
        );
    }
}
