//! What goes into the pool, and what comes out of it.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::request::{Event, Target};

use crate::failure::Failure;
use crate::progress::Progress;

/// A request to make.
#[derive(Debug, Clone)]
pub struct Job {
    /// The caller's name for it; comes back with the outcome.
    pub token: u64,
    /// What happened.
    pub event: Arc<Event>,
    /// Whom to tell, and with which secrets.
    pub target: Arc<Target>,
    /// Where.
    pub endpoint: Arc<Endpoint>,
    /// Whose webhook it is: any number that stands for one owner. What owners share is shared out by it.
    pub owner: u64,
    /// The same for each attempt.
    pub delivery: Uuid,
    /// Counts from 1.
    pub attempt: u32,
    /// Bounds the whole request, from the moment a thread takes it: name, connection, TLS, sending, and the answer.
    pub timeout: Duration,
    /// Where to tell how far it has come.
    pub progress: Progress,
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The job's.
    pub token: u64,
    /// When a thread took the job, in milliseconds since 1970.
    pub started_unix_ms: i64,
    /// When the answer was read, in milliseconds since 1970.
    pub ended_unix_ms: i64,
    /// The time between, by a clock that is never set.
    pub duration: Duration,
    /// An answer, whatever its status, or the reason why there is none.
    pub result: Result<Answer, Failure>,
    /// The body that was sent is a shortened one, because the whole is too large.
    pub truncated: bool,
}

/// The head of an answer came in time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status: 200, 301, 503 …
    pub status: u16,
    /// The `Retry-After` header, unread; absent if it is not plain text of reasonable length.
    pub retry_after: Option<String>,
    /// The host that a 3xx leads to, if it leads to another.
    pub leads_to: Option<String>,
    /// The beginning of the body, as far as it came in time.
    pub excerpt: String,
}
