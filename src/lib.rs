//! `webhooks`: a webhook sender inside PostgreSQL.
//!
//! A trigger writes what happened into an outbox, in the transaction in which it happened (`emit`). The
//! background worker of the database (`worker`) reads the outbox, has threads make the requests
//! (`webhooks_delivery`), and writes what became of them. What is decided without the database stands in
//! `webhooks_core`, what the worker remembers in `webhooks_schedule`.
//!
//! Everything in this crate runs on the main thread of a Postgres process.

mod access;
mod api;
mod ddl;
mod definition;
mod emit;
mod error;
mod functions;
mod guard;
mod in_flight;
mod key_uses;
mod launcher;
mod restored;
mod seam;
mod settings;
mod shmem;
mod worker;

use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

extension_sql_file!("../sql/schema.sql", name = "schema", bootstrap);
extension_sql_file!(
    "../sql/functions.sql",
    name = "functions",
    requires = ["schema"]
);
extension_sql_file!(
    "../sql/access.sql",
    name = "access",
    requires = ["functions"]
);
extension_sql_file!("../sql/views.sql", name = "views", requires = ["access"]);
extension_sql_file!("../sql/api.sql", name = "api", requires = ["views"]);
extension_sql_file!(
    "../sql/grants.sql",
    name = "grants",
    requires = ["api"],
    finalize
);

/// Has the standard library never take a backtrace, whatever RUST_BACKTRACE says: pgrx writes one into the DETAIL of
/// errors, for every client to read. The standard library looks at its variables once, and this copy of it is ours alone.
fn take_no_backtraces() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(VARIABLE);
    // SAFETY: the process has one thread, whether it is the postmaster or a backend.
    unsafe {
        std::env::set_var(VARIABLE, "0");
    }
    // It remembers the answer.
    let _ = std::backtrace::Backtrace::capture();
    // SAFETY: as above.
    unsafe {
        match before {
            Some(value) => std::env::set_var(VARIABLE, value),
            None => std::env::remove_var(VARIABLE),
        }
    }
}

/// Called by Postgres when the library is loaded.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    take_no_backtraces();
    // Elsewhere than under preload there is no shared memory, and during pg_upgrade nothing may run.
    // SAFETY: variables of this process.
    let serving =
        unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade };
    settings::register();
    if serving {
        shmem::register();
        guard::register();
        ddl::register();
        emit::nested::register();
        settings::session::register();
        launcher::register();
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
#[allow(clippy::expect_used)]
mod tests {
    include!("../pg_test/in_server/tests.rs");
}

/// What `cargo pgrx test` needs to know.
#[cfg(test)]
pub mod pg_test {
    /// Nothing to set up.
    pub fn setup(_options: Vec<&str>) {}

    /// The library must be preloaded.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![
            "shared_preload_libraries='webhooks'",
            "max_worker_processes=16",
        ]
    }
}
