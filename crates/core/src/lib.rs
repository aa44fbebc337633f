//! What a webhook sender decides, and nothing else: no I/O, no clock, no randomness.
//!
//! Time, random bytes and settings come in as arguments, so that every rule here is tested without
//! a server and without sleeping. The way of an event through this crate:
//!
//! 1. [`event_type`] and [`filter`] say which webhooks an event concerns,
//! 2. [`id`] derives the delivery's id from event and webhook,
//! 3. [`rate`] says whether an attempt may start now,
//! 4. [`request`] builds headers and body, with [`json`], [`payload`], [`sign`] and [`time`],
//! 5. [`endpoint`] and [`address`] say where it may go, and [`proxy`] through what,
//! 6. [`excerpt`] keeps the beginning of an answer, and [`verdict`] judges it and says, with
//!    [`retry`], when to try again.
//!
//! Beside it, [`api`] judges requests of the REST API, [`secret`] and [`token`] are what callers and
//! receivers are known by, and [`table_name`] knows the words of hints.
#![forbid(unsafe_code)]

pub mod address;
pub mod api;
pub mod attachment;
pub mod endpoint;
pub mod event_type;
pub mod excerpt;
pub mod filter;
pub mod id;
pub mod json;
pub mod payload;
pub mod proxy;
pub mod quote;
pub mod rate;
pub mod request;
pub mod retry;
pub mod secret;
pub mod sign;
pub mod stored;
pub mod table_name;
pub mod time;
pub mod token;
pub mod verdict;
pub mod version;
