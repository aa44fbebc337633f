//! The envelope of every answer, and which error is which.

use serde_json::{Value, json};
use std::fmt::Write as _;

/// The longest envelope that is put into a header, in bytes: the gateway takes 16 KiB of headers.
const HEADER_MAX: usize = 12_000;
/// So many characters of a message stay, where an envelope is too long.
const MESSAGE_MAX: usize = 500;

/// The errors that there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// The request cannot be done as it stands.
    Validation,
    /// There is no token, or it is not good.
    Unauthorized,
    /// The token's role may not do this.
    Forbidden,
    /// There is no such thing, or it is somebody else's.
    NotFound,
    /// Not in this way.
    MethodNotAllowed,
    /// Too often, or too many.
    RateLimited,
    /// Our fault.
    Internal,
    /// Not now.
    Unavailable,
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Validation,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RateLimited,
        Self::Internal,
        Self::Unavailable,
    ];

    /// Its name in the envelope, and its HTTP status.
    const fn is(self) -> (&'static str, u16) {
        match self {
            Self::Validation => ("VALIDATION_ERROR", 400),
            Self::Unauthorized => ("UNAUTHORIZED", 401),
            Self::Forbidden => ("FORBIDDEN", 403),
            Self::NotFound => ("NOT_FOUND", 404),
            Self::MethodNotAllowed => ("METHOD_NOT_ALLOWED", 405),
            Self::RateLimited => ("RATE_LIMITED", 429),
            Self::Internal => ("INTERNAL", 500),
            Self::Unavailable => ("UNAVAILABLE", 503),
        }
    }

    /// Its name in the envelope.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.is().0
    }

    /// Its HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        self.is().1
    }

    /// What is said of it where nothing better is known, or nothing better may be said.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::Validation => "the request holds a value that cannot be used",
            Self::Unauthorized => "a valid API key is needed: Authorization: Bearer <key>",
            Self::Forbidden => "the API key does not permit this",
            Self::NotFound => "not found",
            Self::MethodNotAllowed => "this resource does not have that method",
            Self::RateLimited => "too many requests",
            Self::Internal => "internal error",
            Self::Unavailable => "the service is not available at the moment",
        }
    }

    /// Which error a SQLSTATE is: the one place that decides it.
    #[must_use]
    pub fn of_sqlstate(state: &str) -> Self {
        match state {
            "42501" => Self::Forbidden,
            "P0002" => Self::NotFound,
            "25006" => Self::MethodNotAllowed,
            // configuration_limit_exceeded, which is what our own limits raise.
            "53400" => Self::RateLimited,
            // object_not_in_prerequisite_state: not with this object, as it is.
            "55000" => Self::Validation,
            "55P03" => Self::Unavailable,
            _ => match state.get(..2) {
                Some("22") => Self::Validation,
                // Rolled back for others' sake; out of resources; shutting down.
                Some("40" | "53" | "57" | "08") => Self::Unavailable,
                _ => Self::Internal,
            },
        }
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Detail {
    /// Its name; `body` for the body as a whole.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// An error as it is answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Which.
    pub code: Code,
    /// For people.
    pub message: String,
    /// What is wrong with which field.
    pub details: Vec<Detail>,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
}

impl Problem {
    /// An error with its own words.
    #[must_use]
    pub fn plain(code: Code) -> Self {
        Self {
            code,
            message: code.message().to_owned(),
            details: Vec::new(),
            retry_after_s: None,
        }
    }

    /// Fields that are not as they must be.
    #[must_use]
    pub fn invalid(details: Vec<Detail>) -> Self {
        let first = details.first();
        let message = match first {
            Some(Detail { field, message }) if details.len() == 1 => format!("{field} {message}"),
            _ => "several fields are not valid".to_owned(),
        };
        Self {
            message,
            details,
            ..Self::plain(Code::Validation)
        }
    }

    /// The body as a whole is not as it must be.
    #[must_use]
    pub fn body(message: String) -> Self {
        Self {
            details: vec![Detail {
                field: "body".to_owned(),
                message: message.clone(),
            }],
            message,
            ..Self::plain(Code::Validation)
        }
    }

    /// The envelope.
    #[must_use]
    pub fn envelope(&self) -> Value {
        let details: Vec<Value> = self
            .details
            .iter()
            .map(|it| json!({ "field": it.field, "message": it.message }))
            .collect();
        json!({
            "success": false,
            "error": { "code": self.code.name(), "message": self.message, "details": details },
        })
    }

    /// The envelope with what clients of `PostgREST` look for beside it: `code`, `message`, `details` and `hint` as
    /// `PostgREST`'s own errors have them, texts or null. The gateway leaves them out.
    #[must_use]
    pub fn answer(&self) -> Value {
        let mut answer = self.envelope();
        let lines: Vec<String> = self
            .details
            .iter()
            .map(|it| format!("{}: {}", it.field, it.message))
            .collect();
        let details = (!lines.is_empty()).then(|| lines.join("\n"));
        let hint = self
            .retry_after_s
            .map(|seconds| format!("Try again in {seconds} s."));
        answer["code"] = json!(self.code.name());
        answer["message"] = json!(self.message);
        answer["details"] = json!(details);
        answer["hint"] = json!(hint);
        answer
    }

    /// The envelope as a header can hold it: in one line of ASCII, and not too long. What would be has the
    /// beginning of its message alone.
    #[must_use]
    pub fn header(&self) -> String {
        let whole = ascii(&self.envelope().to_string());
        if whole.len() <= HEADER_MAX {
            return whole;
        }
        let short = Self {
            message: self
                .message
                .chars()
                .take(MESSAGE_MAX)
                .chain(['…'])
                .collect(),
            details: Vec::new(),
            ..self.clone()
        };
        ascii(&short.envelope().to_string())
    }
}

/// A text in ASCII alone: what is not becomes an escape, as JSON has it.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for char in json.chars() {
        // U+007F is ASCII, and not allowed in a header.
        if matches!(char, ' '..='~') {
            out.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// The envelope of what was asked for.
#[must_use]
pub fn success(data: Value) -> Value {
    json!({ "success": true, "data": data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_written_as_the_contract_has_it() {
        let problem = Problem::invalid(vec![Detail {
            field: "url".to_owned(),
            message: "must be a string".to_owned(),
        }]);
        assert_eq!(
            problem.envelope().to_string(),
            r#"{"success":false,"error":{"code":"VALIDATION_ERROR","message":"url must be a string","details":[{"field":"url","message":"must be a string"}]}}"#
        );
        assert_eq!(
            success(json!({ "id": 1 })).to_string(),
            r#"{"success":true,"data":{"id":1}}"#
        );
    }

    #[test]
    fn client_libraries_find_the_error_at_the_top_too() {
        let detail = |field: &str, message: &str| Detail {
            field: field.to_owned(),
            message: message.to_owned(),
        };
        let problem = Problem::invalid(vec![
            detail("url", "must be a string"),
            detail("events", "is required"),
        ]);
        let answer = problem.answer();
        assert_eq!(answer["error"], problem.envelope()["error"]);
        assert_eq!(answer["success"], false);
        assert_eq!(answer["code"], "VALIDATION_ERROR");
        assert_eq!(answer["message"], "several fields are not valid");
        assert_eq!(
            answer["details"],
            "url: must be a string\nevents: is required"
        );
        assert_eq!(answer["hint"], Value::Null);
        let limited = Problem {
            retry_after_s: Some(7),
            ..Problem::plain(Code::RateLimited)
        }
        .answer();
        assert_eq!(limited["details"], Value::Null);
        assert_eq!(limited["hint"], "Try again in 7 s.");
    }

    #[test]
    fn a_header_holds_the_envelope_in_ascii() {
        let mut problem = Problem::body("größe \u{1f600}\n\u{7f}".to_owned());
        let header = problem.header();
        assert!(
            header.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
            "{header}"
        );
        assert!(
            header.contains("gr\\u00f6\\u00dfe \\ud83d\\ude00\\n"),
            "{header}"
        );
        assert_eq!(crate::json::parse(&header), Ok(problem.envelope()));
        problem.message = "é".repeat(100_000);
        let header = problem.header();
        assert!(header.len() <= HEADER_MAX);
        assert!(header.contains("VALIDATION_ERROR"));
    }

    #[test]
    fn each_code_has_a_status_of_its_own() {
        let statuses = Code::ALL.map(Code::status);
        assert_eq!(statuses, [400, 401, 403, 404, 405, 429, 500, 503]);
    }

    #[test]
    fn a_sqlstate_is_one_error_and_what_is_not_known_is_our_fault() {
        for (state, code) in [
            ("22023", Code::Validation),
            ("22P05", Code::Validation),
            ("22003", Code::Validation),
            ("55000", Code::Validation),
            ("42501", Code::Forbidden),
            ("P0002", Code::NotFound),
            ("25006", Code::MethodNotAllowed),
            ("53400", Code::RateLimited),
            ("40001", Code::Unavailable),
            ("40P01", Code::Unavailable),
            ("53200", Code::Unavailable),
            ("55P03", Code::Unavailable),
            ("57P03", Code::Unavailable),
            ("23505", Code::Internal),
            ("42P01", Code::Internal),
            ("XX000", Code::Internal),
            ("", Code::Internal),
            ("é", Code::Internal),
        ] {
            assert_eq!(Code::of_sqlstate(state), code, "{state}");
        }
    }
}
