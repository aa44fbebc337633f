//! Emit: how changes become rows of `webhooks.event` and `webhooks.outbox`, in the transaction that makes
//! them. Runs in users' backends, as the user; only the insert into our tables is below the rights.

pub(crate) mod attach;
mod plan;
mod render;
pub(crate) mod store;
pub(crate) mod subscribers;
mod trigger;
pub(crate) mod wake;
