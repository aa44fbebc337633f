//! Answers: what was done or went wrong as an envelope, with the settings that PostgREST makes a response of.

use super::{Form, operations};
use crate::error::Error;
use crate::seam::setting::set_until_end;
use crate::seam::subtransaction::{Undone, subtransaction};
use crate::seam::transaction::RolledBack;
use pgrx::{Json, PgSqlErrorCode, pg_sys};
use serde_json::{Value, json};
use std::ffi::CString;
use webhooks_core::api::{self, Code, Detail, Problem};

/// When to try again where nothing says when, in seconds: after a limit that time alone does not lift.
const LATER_S: u64 = 3_600;
/// The same, while the database is busy or is starting.
const SOON_S: u64 = 1;

/// The header of every error of ours: it holds the envelope once more.
const ERROR_HEADER: &str = "X-Webhooks-Error";

/// Why a request is not done.
pub(super) enum Failure {
    /// What it says is not right.
    Problem(Problem),
    /// A function says no.
    Error(Error),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// What was done.
pub(super) struct Done {
    pub(super) status: u16,
    pub(super) data: Value,
}

/// Does what a request wants, all of it or nothing, and answers.
pub(super) fn answer(operation: &str, form: Form<'_>) -> Json {
    let problem = match subtransaction(|| operations::run(operation, form)) {
        Ok(done) => {
            respond(done.status, Vec::new());
            return Json(api::success(done.data));
        }
        Err(Undone::Own(Failure::Problem(problem))) => problem,
        Err(Undone::Own(Failure::Error(error))) => of_error(operation, &error),
        Err(Undone::Raised(raised)) => of_raised(operation, &raised),
    };
    refuse(&problem)
}

/// Answers with an error.
fn refuse(problem: &Problem) -> Json {
    // For the gateway, which cannot tell our errors from PostgREST's own otherwise, and replaces those.
    let mut headers = vec![json!({ ERROR_HEADER: problem.header() })];
    if problem.code == Code::MethodNotAllowed {
        headers.push(json!({ "Allow": "POST" }));
    }
    if let Some(seconds) = problem.retry_after_s {
        headers.push(json!({ "Retry-After": seconds.to_string() }));
    }
    respond(problem.code.status(), headers);
    Json(problem.answer())
}

/// Tells PostgREST which status and which headers the response has.
fn respond(status: u16, headers: Vec<Value>) {
    let set = |name, value: String| {
        if let Ok(value) = CString::new(value) {
            set_until_end(name, &value);
        }
    };
    set(c"response.status", status.to_string());
    if !headers.is_empty() {
        set(c"response.headers", Value::Array(headers).to_string());
    }
}

/// An error of our own. Its words are for whoever called, but for those that are about the database.
fn of_error(operation: &str, error: &Error) -> Problem {
    let code = Code::of_sqlstate(&state(error.code()));
    let with_words = |code| Problem {
        message: error.to_string(),
        ..Problem::plain(code)
    };
    match error {
        Error::Invalid { field, .. } => Problem {
            details: field
                .iter()
                .map(|field| Detail {
                    field: (*field).to_owned(),
                    message: error.to_string(),
                })
                .collect(),
            ..with_words(code)
        },
        Error::Several(faults) => {
            let details = faults.iter().map(|fault| Detail {
                field: fault.field.clone(),
                message: fault.complaint.as_ref().unwrap_or(&fault.message).clone(),
            });
            let problem = Problem::invalid(details.collect());
            match faults.as_slice() {
                [only] => Problem {
                    message: only.message.clone(),
                    ..problem
                },
                _ => problem,
            }
        }
        Error::State { .. } => with_words(code),
        Error::Limit { retry_after_s, .. } => Problem {
            retry_after_s: Some(retry_after_s.unwrap_or(LATER_S)),
            ..with_words(code)
        },
        Error::Refused(_) => Problem::plain(Code::Unauthorized),
        // SAFETY: reads shared memory.
        Error::ReadOnly(_) if unsafe { pg_sys::RecoveryInProgress() } => unavailable(),
        Error::ReadOnly(_) | Error::Denied { .. } | Error::Absent { .. } => Problem::plain(code),
        _ => {
            log(operation, &state(error.code()), &error.to_string());
            Problem::plain(Code::Internal)
        }
    }
}

/// An error of Postgres's, of which nothing is told but that it was there.
fn of_raised(operation: &str, raised: &RolledBack) -> Problem {
    let state = state(raised.code);
    match Code::of_sqlstate(&state) {
        // A value that passed our judgement and not that of a type.
        code @ (Code::Validation | Code::MethodNotAllowed) => Problem::plain(code),
        Code::Unavailable | Code::RateLimited => {
            log(operation, &state, &raised.message);
            unavailable()
        }
        // Rights that a role lacks on our own objects, or anything else that should not be.
        _ => {
            log(operation, &state, &raised.message);
            Problem::plain(Code::Internal)
        }
    }
}

fn unavailable() -> Problem {
    Problem {
        retry_after_s: Some(SOON_S),
        ..Problem::plain(Code::Unavailable)
    }
}

fn log(operation: &str, state: &str, message: &str) {
    pgrx::log!("webhooks_api.{operation}() failed: {state}: {message}");
}

/// A SQLSTATE as text.
fn state(code: PgSqlErrorCode) -> String {
    let mut packed = code as i32;
    (0..5)
        .map(|_| {
            let char = char::from((packed & 0x3f) as u8 + b'0');
            packed >>= 6;
            char
        })
        .collect()
}
