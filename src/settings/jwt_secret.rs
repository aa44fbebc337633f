//! `webhooks.jwt_secret`.

use super::Refusal;
use super::masked::{self, Cell, Masked};
use std::ffi::CStr;
use std::fmt;
use webhooks_core::token::SECRET_MIN;

/// The secret that API keys are signed with. It never shows itself.
pub(crate) struct JwtSecret(String);

impl JwtSecret {
    /// The secret itself, for signing.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for JwtSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JwtSecret(…)")
    }
}

/// `webhooks.jwt_secret`; `None`: it is not set.
pub(crate) fn jwt_secret() -> Option<JwtSecret> {
    masked::value::<Setting>().map(JwtSecret)
}

/// Registers the setting.
pub(super) fn register() {
    masked::register::<Setting>();
}

struct Setting;

impl Masked for Setting {
    const NAME: &'static CStr = c"webhooks.jwt_secret";
    const SHORT: &'static CStr = c"Secret that API keys are signed with.";
    const LONG: &'static CStr = c"At least 32 bytes; PostgREST's jwt-secret must be the same.";

    fn cell() -> &'static Cell {
        static CELL: Cell = Cell::new();
        &CELL
    }

    fn judge(value: &str) -> Result<(), Refusal> {
        if value.len() < SECRET_MIN {
            return Err(Refusal::new("It must have at least 32 bytes."));
        }
        Ok(())
    }
}
