//! Functions of the server that are handed on as pointers, or that pgrx does not bind.

use pgrx::pg_sys;

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
    /// Output function of `numeric`.
    pub(crate) fn numeric_out(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    /// Whether two values of a type are the same to the byte.
    pub(crate) fn datumIsEqual(
        one: pg_sys::Datum,
        other: pg_sys::Datum,
        by_value: bool,
        length: i32,
    ) -> bool;
}
