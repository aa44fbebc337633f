//! The seam: the few Postgres primitives that the rest of `src/` builds on, each behind a function that is
//! safe to call on the main thread.

pub(crate) mod clock;
pub(crate) mod json;
pub(crate) mod owner;
pub(crate) mod raw;
pub(crate) mod scan;
pub(crate) mod setting;
pub(crate) mod sql;
pub(crate) mod subtransaction;
pub(crate) mod table;
pub(crate) mod transaction;
pub(crate) mod trigger;
pub(crate) mod wait;
