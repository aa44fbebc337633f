//! Threads and sockets of the webhook sender: what is to be sent goes in, what became of it comes out. No Postgres.
//!
//! The worker's main thread owns a [`Pool`]. It [submits](Pool::submit) jobs, sleeps on [`Pool::fd`] beside its other
//! business, and [drains](Pool::drain) outcomes; none of this blocks. Everything else runs on threads of the pool, on which
//! every signal is blocked, and which print and log nothing.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod descriptors;
mod failure;
mod names;
mod sync;
mod threads;

pub use descriptors::raise_descriptors;
pub use failure::Failure;
pub use names::{Lookup, NoAddress, SystemLookup};
