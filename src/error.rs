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
    NoColumn { column: String, table: String },
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
            Self::Invalid { .. } => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
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
            Self::Absent { what: "table", .. } => Some("Give the name of a table.".to_owned()),
            Self::Absent { what: "key", .. } => Some("The view webhooks.api_keys shows the ids.".to_owned()),
            Self::Absent { what, .. } => Some(format!("webhooks.list_webhooks() and webhooks.list_deliveries() show the ids; the {what} may have been deleted.")),
            Self::Denied { hint, .. } => Some(hint.clone()),
            Self::Refused(refusal) => Some(refusal.hint().to_owned()),
            Self::NoRole(_) => Some("Create it with CREATE ROLE, or name one that pg_roles shows.".to_owned()),
            Self::NotPreloaded => Some("Set shared_preload_libraries = 'webhooks' in postgresql.conf and restart the server.".to_owned()),
            Self::Mismatch => Some("Run ALTER EXTENSION webhooks UPDATE, or install the library that belongs to this version.".to_owned()),
            Self::Version { library, extension, .. } => Some(webhooks_core::version::advice(library, extension)),
            Self::Gone => Some("CREATE EXTENSION webhooks makes it again.".to_owned()),
            Self::Busy => Some("Try again.".to_owned()),
            Self::NotOwner(_) => Some("Only the owner of a table may attach or detach it.".to_owned()),
            Self::NoColumn { table, .. } => Some(format!("Name columns that \"{table}\" has.")),
            Self::ReadOnly(_) => Some("Use a transaction that may write: over HTTP, POST.".to_owned()),
            Self::Spi(_) => None,
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

    fn report(self, level: PgLogLevel) {
        let report = ErrorReport::new(self.code(), self.to_string(), "webhooks");
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
