//! Errors that users see: one SQLSTATE each, a message in Postgres style, a hint where one helps.
//!
//! Main thread only. `raise` is the one way out.

use crate::access::Refusal;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use thiserror::Error;

/// What can be wrong with a call.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// A value is not acceptable.
    #[error("{message}")]
    Invalid {
        message: String,
        hint: Option<String>,
        /// Which field of the API's, where it is one's.
        field: Option<&'static str>,
    },
    /// Fields are not acceptable.
    #[error("{}", said_of(.0))]
    Several(Vec<Fault>),
    /// An id that names nothing the caller may see.
    #[error("{what} \"{id}\" does not exist")]
    Absent { what: &'static str, id: String },
    /// The caller may not do this.
    #[error("{message}")]
    Denied { message: String, hint: String },
    /// The request has no owner that is to be believed.
    #[error("permission denied: {0}")]
    Refused(#[from] Refusal),
    /// There is no such role.
    #[error("role \"{0}\" does not exist")]
    NoRole(String),
    /// The caller does not own the table.
    #[error("must be owner of table {0}")]
    NotOwner(String),
    /// The table has no such column.
    #[error("column \"{column}\" of table \"{table}\" does not exist")]
    NoColumn {
        column: String,
        table: String,
        hint: String,
    },
    /// Not with this object, as it is.
    #[error("{message}")]
    State {
        message: String,
        hint: Option<String>,
    },
    /// Not on this kind of relation.
    #[error("{message}")]
    WrongObject {
        message: String,
        hint: Option<String>,
    },
    /// Too many, for now or at all.
    #[error("{message}")]
    Limit {
        message: String,
        hint: Option<String>,
        /// When it is worth trying again, in seconds.
        retry_after_s: Option<u64>,
    },
    /// The extension needs the object under its name.
    #[error("cannot {what} because extension webhooks requires it")]
    Required { what: String },
    /// The transaction is read-only.
    #[error("cannot execute {0} in a read-only transaction")]
    ReadOnly(&'static str),
    /// The library was not preloaded.
    #[error("webhooks must be loaded via shared_preload_libraries")]
    NotPreloaded,
    /// Library and catalog do not belong together.
    #[error("the tables of the extension webhooks do not fit its library")]
    Mismatch,
    /// Library and catalog are of different versions.
    #[error(
        "webhooks is version {library}, its extension in database \"{database}\" is version {extension}"
    )]
    Version {
        library: &'static str,
        extension: String,
        database: String,
    },
    /// The extension was dropped while this was waiting for it.
    #[error("extension \"webhooks\" does not exist")]
    Gone,
    /// The extension is to be dropped or updated, and others hold its tables.
    #[error("the tables of webhooks are in use")]
    Busy,
    /// A statement of our own failed in a way that SPI reports as a code.
    #[error("internal statement failed: {0}")]
    Spi(#[from] pgrx::spi::SpiError),
}

/// What is wrong with one field.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) field: String,
    /// A sentence by itself.
    pub(crate) message: String,
    /// What an answer says beside the field's name, where that is not the message.
    pub(crate) complaint: Option<String>,
    pub(crate) hint: Option<String>,
}

/// The faults of several fields, gathered so that a caller hears of all of them at once.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    /// The value of a field, unless it is not acceptable, which is noted: then `None`.
    ///
    /// # Errors
    /// What is no fault of the value.
    pub(crate) fn value<T>(
        &mut self,
        field: &'static str,
        judged: Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        match judged {
            Ok(value) => Ok(Some(value)),
            Err(Error::Invalid { message, hint, .. }) => {
                // What was found before names the field already.
                if !self.0.iter().any(|fault| fault.field == field) {
                    self.note(field.to_owned(), message, hint);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) fn note(&mut self, field: String, message: String, hint: Option<String>) {
        self.0.push(Fault {
            field,
            message,
            complaint: None,
            hint,
        });
    }

    /// Notes what a request's field is told: a complaint that its name comes before.
    pub(crate) fn note_complaint(&mut self, field: String, complaint: String) {
        self.0.push(Fault {
            message: format!("{field} {complaint}"),
            field,
            complaint: Some(complaint),
            hint: None,
        });
    }

    /// Nothing, if nothing was wrong.
    ///
    /// # Errors
    /// What was wrong: one fault as the error that it is by itself, several together.
    pub(crate) fn end(self) -> Result<(), Error> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Error::Several(self.0))
        }
    }
}

/// A single fault speaks for itself; of several the message names the fields, and the detail says what is wrong.
fn said_of(faults: &[Fault]) -> String {
    if let [only] = faults {
        return only.message.clone();
    }
    let names: Vec<&str> = faults.iter().map(|it| it.field.as_str()).collect();
    format!("{} values are invalid: {}", names.len(), names.join(", "))
}

/// One line for each fault that has this to say.
fn lines(faults: &[Fault], of: impl Fn(&Fault) -> Option<&str>) -> Option<String> {
    let lines: Vec<String> = faults
        .iter()
        .filter_map(|it| Some(format!("{}: {}", it.field, of(it)?)))
        .collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// A hint that may be missing.
pub(crate) struct Hint(Option<String>);

impl From<&str> for Hint {
    fn from(hint: &str) -> Self {
        Self(Some(hint.to_owned()))
    }
}

impl From<String> for Hint {
    fn from(hint: String) -> Self {
        Self(Some(hint))
    }
}

impl From<Option<String>> for Hint {
    fn from(hint: Option<String>) -> Self {
        Self(hint)
    }
}

impl Error {
    pub(crate) fn invalid(message: impl Into<String>, hint: impl Into<Hint>) -> Self {
        Self::Invalid {
            message: message.into(),
            hint: hint.into().0,
            field: None,
        }
    }

    /// The same, if it is a value that is not acceptable, as one of this field.
    pub(crate) fn of(self, field: &'static str) -> Self {
        match self {
            Self::Invalid { message, hint, .. } => Self::Invalid {
                message,
                hint,
                field: Some(field),
            },
            other => other,
        }
    }

    /// The extension in this database is of this version; `None`: so is the library.
    pub(crate) fn version(extension: String) -> Option<Self> {
        let library = env!("CARGO_PKG_VERSION");
        (extension != library).then(|| Self::Version {
            library,
            extension,
            database: crate::seam::owner::database_name(),
        })
    }

    /// Permission denied for something.
    pub(crate) fn denied(what: &str, hint: impl Into<String>) -> Self {
        Self::denied_message(format!("permission denied for {what}"), hint)
    }

    /// Permission denied, in other words.
    pub(crate) fn denied_message(message: String, hint: impl Into<String>) -> Self {
        Self::Denied {
            message,
            hint: hint.into(),
        }
    }

    pub(crate) fn code(&self) -> PgSqlErrorCode {
        match self {
            Self::Invalid { .. } | Self::Several(_) => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Self::Absent { .. } => PgSqlErrorCode::ERRCODE_NO_DATA_FOUND,
            Self::Denied { .. } | Self::Refused(_) | Self::NotOwner(_) => {
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Self::NoRole(_) | Self::Gone => PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
            Self::Busy => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::NoColumn { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            Self::State { .. } | Self::NotPreloaded | Self::Mismatch | Self::Version { .. } => {
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Self::Required { .. } => PgSqlErrorCode::ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST,
            Self::WrongObject { .. } => PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
            Self::Limit { .. } => PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
            Self::ReadOnly(_) => PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            Self::Spi(_) => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Invalid { hint, .. }
            | Self::State { hint, .. }
            | Self::WrongObject { hint, .. }
            | Self::Limit { hint, .. } => hint.clone(),
            Self::Several(faults) => match faults.as_slice() {
                [only] => only.hint.clone(),
                several => lines(several, |it| it.hint.as_deref()),
            },
            Self::Absent { what: "table", .. } => Some("Specify the name of a table.".to_owned()),
            Self::Absent { what: "key", .. } => Some("SELECT id, name FROM webhooks.api_keys; shows the ids.".to_owned()),
            Self::Absent { what: "delivery", .. } => Some("SELECT id FROM webhooks.deliveries; shows the ids. A delivery that ended longer ago than webhooks.retention is gone.".to_owned()),
            Self::Absent { what, .. } => Some(format!("SELECT webhooks.list_webhooks(); shows the ids. The {what} may have been deleted.")),
            Self::Denied { hint, .. } => Some(hint.clone()),
            Self::Refused(refusal) => Some(refusal.hint().to_owned()),
            Self::NoRole(_) => Some("Create it with CREATE ROLE, or name a role that SELECT rolname FROM pg_roles; shows.".to_owned()),
            Self::NotPreloaded => Some("Set shared_preload_libraries = 'webhooks' in postgresql.conf and restart the server.".to_owned()),
            Self::Mismatch => Some("Run ALTER EXTENSION webhooks UPDATE, or install the library that belongs to this version.".to_owned()),
            Self::Version { library, extension, .. } => Some(webhooks_core::version::advice(library, extension)),
            Self::Gone => Some("CREATE EXTENSION webhooks makes it again.".to_owned()),
            Self::Busy => Some("Try again.".to_owned()),
            Self::NotOwner(_) => Some("The owner of the table, or a superuser, can attach and detach it.".to_owned()),
            Self::NoColumn { hint, .. } => Some(hint.clone()),
            Self::Required { .. } => Some("Leave its name as it is. DROP EXTENSION webhooks; removes it with the rest.".to_owned()),
            Self::ReadOnly(_) => Some("Use a transaction that may write: over HTTP, POST.".to_owned()),
            Self::Spi(_) => None,
        }
    }

    /// What the message has no room for.
    pub(crate) fn detail(&self) -> Option<String> {
        match self {
            Self::Several(faults) if faults.len() > 1 => lines(faults, |it| Some(&it.message)),
            _ => None,
        }
    }

    /// Reports it as a Postgres ERROR.
    pub(crate) fn raise(self) -> ! {
        self.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }

    /// Reports it as a Postgres WARNING.
    pub(crate) fn warn(self) {
        self.report(PgLogLevel::WARNING);
    }

    /// Writes it into the server's log, and nowhere else.
    pub(crate) fn log(self) {
        self.report(PgLogLevel::LOG);
    }

    /// Tells it, as a NOTICE: nothing is wrong, and so it has no SQLSTATE of an error.
    pub(crate) fn notice(self) {
        let report = ErrorReport::new(
            PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION,
            self.to_string(),
            "webhooks",
        );
        let report = match self.hint() {
            Some(hint) => report.set_hint(hint),
            None => report,
        };
        report.report(PgLogLevel::NOTICE);
    }

    fn report(self, level: PgLogLevel) {
        let report = ErrorReport::new(self.code(), self.to_string(), "webhooks");
        let report = match self.detail() {
            Some(detail) => report.set_detail(detail),
            None => report,
        };
        let report = match self.hint() {
            Some(hint) => report.set_hint(hint),
            None => report,
        };
        report.report(level);
    }
}

/// The value, or the error as a Postgres ERROR: the last line of each SQL function.
pub(crate) fn reply<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => error.raise(),
    }
}
