//! Tells PostgREST of functions that it does not know yet.
//!
//! PostgREST reads the schema when it starts and when it is told to, and answers 404 for what was made since. CREATE and ALTER
//! EXTENSION cannot tell it: a transaction that has notified cannot be prepared. So the worker does, once under each version,
//! and remembers that where no dump brings it.

use super::{UPKEEP, Worker};
use crate::seam::clock;
use crate::seam::sql::{self, Statement};
use crate::seam::transaction::{Isolation, transaction};
use pgrx::pg_sys;

static SERVES: Statement = Statement::new(
    c"UPDATE webhooks.home SET served_version = $1 WHERE served_version IS DISTINCT FROM $1",
    &[pg_sys::TEXTOID],
);
/// PostgREST's own channel and words.
static RELOAD: Statement = Statement::new(
    c"SELECT pg_catalog.pg_notify('pgrst', 'reload schema')",
    &[],
);

impl Worker {
    /// Has PostgREST read the schema again, if it was never told to under this version. To be tried again if it fails.
    pub(super) fn tell_postgrest(&mut self) {
        if self.postgrest_knows || self.pauses.left(UPKEEP, clock::mono_ms()) > 0 {
            return;
        }
        let told = transaction(c"telling PostgREST", Isolation::ReadCommitted, || {
            sql::connect(|spi| {
                let version = env!("CARGO_PKG_VERSION");
                if spi.write(&SERVES, &[sql::arg(version)]).len() > 0 {
                    spi.write(&RELOAD, &[]);
                }
            });
        });
        match told {
            Ok(()) => self.postgrest_knows = true,
            Err(error) => self.rolled_back(UPKEEP, "telling PostgREST", &error),
        }
    }
}
