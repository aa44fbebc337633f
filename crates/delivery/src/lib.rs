//! Threads and sockets of the webhook sender: what is to be sent goes in, what became of it comes out. No Postgres.
//!
//! The worker's main thread owns a [`Pool`]. It [submits](Pool::submit) jobs, sleeps on [`Pool::fd`] beside its other
//! business, and [drains](Pool::drain) outcomes; none of this blocks. Everything else runs on threads of the pool, on which
//! every signal is blocked, and which print and log nothing.
//!
//! | module | what is in it |
//! |---|---|
//! | `job` | what goes in and what comes out |
//! | `pool` | the pool: jobs to the delivery threads |
//! | `thread` | one delivery thread: a runtime of tokio, each job a task |
//! | `attempt` | one request, from the signature to the answer |
//! | `progress` | how far a request has come |
//! | `outcomes` | the way back, and the descriptor |
//! | `lag` | how late a thread comes to what is to be done |
//! | `client` | one configuration of the network; the address guard |
//! | `names` | names to addresses |
//! | `connect` | addresses to a connected socket |
//! | `tls` | what TLS trusts |
//! | `stream` | bytes of one connection, plain or TLS, no more at a time than is fair |
//! | `wire` | HTTP on one connection |
//! | `head` | what counts in the head of an answer |
//! | `untidy` | heads that hyper refuses, and curl does not |
//! | `spelling` | header names as they are to be spelled |
//! | `desk`, `kept` | what a thread's requests share: connections that wait for their next request |
//! | `descriptors` | the limit of open files |
//! | `failure` | why there is no answer, in words for tenants |
//! | `class` | what came of a request, for counting |
//! | `threads`, `sync` | starting threads without signals; locks without poison |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod attempt;
mod class;
mod client;
mod connect;
mod descriptors;
mod desk;
mod failure;
mod head;
mod job;
mod kept;
mod lag;
mod names;
mod outcomes;
mod pool;
mod progress;
mod spelling;
mod stream;
mod sync;
mod thread;
mod threads;
mod tls;
mod untidy;
mod wire;

pub use class::Class;
pub use client::Network;
pub use descriptors::raise_descriptors;
pub use failure::Failure;
pub use job::{Answer, Job, Outcome};
pub use names::{Lookup, NoAddress, SystemLookup};
pub use pool::{Connections, Limits, Pool};
pub use progress::{Phase, Progress};
pub use tls::StartError;
