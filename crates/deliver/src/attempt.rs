//! One request, from the signature to the answer. Runs on a delivery thread.

use std::io::{Cursor, Read};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ureq::{SendBody, http};
use uuid::Uuid;
use webhooks_core::endpoint::Endpoint;
use webhooks_core::excerpt;
use webhooks_core::request::{self, Event, Target};

use crate::client::Client;
use crate::failure::Failure;
use crate::pool::Limits;
use crate::progress::{Phase, Progress};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status: 200, 301, 503 …
    pub status: u16,
    /// The `Retry-After` header, unread; absent if it is not plain text of reasonable length.
    pub retry_after: Option<String>,
    /// The beginning of the body, as far as it came in time.
    pub excerpt: String,
}

/// The longest `Retry-After` that can mean something; a date has 29 bytes.
const MAX_RETRY_AFTER: usize = 64;

/// Milliseconds since 1970.
pub(crate) fn unix_ms(now: SystemTime) -> i64 {
    let ms = match now.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()),
        Err(before) => i64::try_from(before.duration().as_millis()).map(|ms| -ms),
    };
    ms.unwrap_or(i64::MAX)
}

/// What a request came to, and whether its body was shortened.
pub(crate) struct Attempted {
    pub(crate) result: Result<Answer, Failure>,
    pub(crate) truncated: bool,
}

/// Signs and sends the request, and reads its answer. It is signed with the time that is logged as its start, so that the
/// log can show it again as it was sent.
pub(crate) fn attempt(
    client: &Client,
    job: &Job,
    limits: &Limits,
    started_ms: i64,
    begun: Instant,
) -> Attempted {
    job.progress.is(Phase::Connecting);
    let request = request::build(
        &job.event,
        &job.target,
        job.delivery,
        job.attempt,
        started_ms,
    );
    let left = job.timeout.saturating_sub(begun.elapsed());
    Attempted {
        truncated: request.truncated,
        result: post(client, job, request, left, limits),
    }
}

fn post(
    client: &Client,
    job: &Job,
    request: request::Request,
    timeout: Duration,
    limits: &Limits,
) -> Result<Answer, Failure> {
    let progress = job.progress;
    let mut builder = http::Request::post(job.endpoint.url.as_str());
    for (name, value) in &request.headers {
        builder = builder.header(name.as_str(), value.as_str());
    }
    let body = request.body.into_bytes();
    let request = builder
        .header(http::header::CONTENT_LENGTH, body.len())
        .body(SendBody::from_owned_reader(Sent {
            body: Cursor::new(body),
            progress,
        }))
        .map_err(|_| Failure::BadRequest("invalid url or header"))?;
    let request = client
        .agent
        .configure_request(request)
        .timeout_global(Some(timeout))
        .build();
    let (head, body) = client.agent.run(request)?.into_parts();
    progress.is(Phase::Reading);
    let retry_after = head
        .headers
        .get(http::header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .filter(|value| value.len() <= MAX_RETRY_AFTER)
        .map(str::to_owned);
    Ok(Answer {
        status: head.status.as_u16(),
        retry_after,
        excerpt: beginning(body.into_reader(), limits),
    })
}

/// A body that takes no memory any more when it has been sent: to wait for the answer is most of a request's time.
struct Sent {
    body: Cursor<Vec<u8>>,
    progress: Progress,
}

impl Read for Sent {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.body.read(into)?;
        let ends = self.body.position() == self.body.get_ref().len() as u64;
        if ends {
            self.body = Cursor::default();
        }
        self.progress
            .is(if ends { Phase::Waiting } else { Phase::Sending });
        Ok(count)
    }
}

/// Reads the body to its end, so that the connection can be kept, but not beyond the bound, the limit of time, or an error:
/// then the connection is closed. The answer is known already, so nothing of this is a failure.
fn beginning(mut body: impl Read, limits: &Limits) -> String {
    let mut kept = Vec::new();
    let mut scratch = [0; 2048];
    let mut left = limits.body_read;
    loop {
        let room = scratch
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX))
            // At the bound: is this the end?
            .max(1);
        match body.read(&mut scratch[..room]) {
            Ok(count @ 1..) if left > 0 => {
                left = left.saturating_sub(count as u64);
                let keep = count.min(limits.excerpt - kept.len());
                kept.extend_from_slice(&scratch[..keep]);
            }
            _ => return excerpt::of(&kept, limits.excerpt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        at_once: 1,
        body_read: 64 * 1024,
        excerpt: 1024,
        idle: Duration::ZERO,
    };

    #[test]
    fn the_beginning_of_a_body_is_kept_as_text() {
        assert_eq!(beginning(&b"ok"[..], &LIMITS), "ok");
        let body = "x".repeat(1023) + "\u{20ac}" + "more";
        assert_eq!(beginning(body.as_bytes(), &LIMITS), "x".repeat(1023));
        // Each broken byte becomes three.
        let text = beginning(&[0xff; 5000][..], &LIMITS);
        assert_eq!(text, "\u{fffd}".repeat(341));
    }

    #[test]
    fn no_more_of_a_body_is_read_than_the_bound() {
        struct Endless(u64);
        impl Read for &mut Endless {
            fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
                self.0 += buffer.len() as u64;
                Ok(buffer.len())
            }
        }
        let mut endless = Endless(0);
        beginning(&mut endless, &LIMITS);
        // One byte more, to see whether that was the end.
        assert_eq!(endless.0, LIMITS.body_read + 1);
    }
}
