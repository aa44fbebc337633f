//! Threads and sockets of the webhook sender: what is to be sent goes in, what became of it comes out. No Postgres.
//!
//! The worker's main thread owns a [`Pool`]. It [submits](Pool::submit) jobs, sleeps on [`Pool::fd`] beside its other
//! business, and [drains](Pool::drain) outcomes; none of this blocks. Everything else runs on threads of the pool, on which
//! every signal is blocked, and which print and log nothing.
//!
//! | module | what is in it |
//! |---|---|
//! | `pool` | the pool: jobs to the delivery threads, each on a fiber of its own |
//! | `fiber` | many fibers on one thread, and what they wait for |
//! | `attempt` | one request, from the signature to the answer |
//! | `progress` | how far a request has come |
//! | `outcomes` | the way back, and the descriptor |
//! | `client` | one configuration of the network |
//! | `resolver` | names to addresses; the address guard |
//! | `transport` | bytes of one connection, plain or TLS |
//! | `kept` | connections that wait for their next request |
//! | `socket` | a socket on which a fiber waits |
//! | `tls` | what TLS trusts |
//! | `descriptors` | the limit of open files |
//! | `failure` | why there is no answer, in words for tenants |
//! | `threads`, `sync` | starting threads without signals; locks without poison |
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attempt;
mod client;
mod descriptors;
mod failure;
mod fiber;
mod kept;
mod outcomes;
mod pool;
mod progress;
mod resolver;
mod socket;
mod sync;
mod threads;
mod tls;
mod transport;

pub use attempt::{Answer, Job, Outcome};
pub use client::Network;
pub use descriptors::raise_descriptors;
pub use failure::Failure;
pub use pool::{Limits, Pool};
pub use progress::{Phase, Progress};
pub use resolver::{Lookup, SystemLookup};
pub use tls::StartError;
