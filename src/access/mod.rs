//! Who is calling and what they may touch: the one place that decides.

use crate::error::Error;
use crate::settings;
use pgrx::pg_sys;
use std::ffi::CStr;

/// A caller, judged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Caller {
    /// Sees and touches everything.
    Admin,
    /// Sees and touches what has this owner.
    Owner(String),
}

/// The caller of the current function: the effective user, so that a SECURITY DEFINER function of an
/// administrator's acts as the administrator.
///
/// Any role can set `request.jwt.claims`. They are believed only if whoever connected is a superuser, who
/// then has given up rights with SET ROLE.
pub(crate) fn caller() -> Result<Caller, Error> {
    // SAFETY: look-ups in a transaction.
    unsafe {
        if pg_sys::superuser_arg(pg_sys::GetUserId()) {
            return Ok(Caller::Admin);
        }
        if pg_sys::superuser_arg(pg_sys::GetSessionUserId())
            && let Some(owner) = claimed_owner()
        {
            return Ok(Caller::Owner(owner));
        }
    }
    Err(Error::Denied("webhooks"))
}

/// The owner that the claims of the request name.
fn claimed_owner() -> Option<String> {
    // SAFETY: the name is NUL-terminated; the value, if there is one, is too, and is copied at once.
    let claims = unsafe {
        let value = pg_sys::GetConfigOption(c"request.jwt.claims".as_ptr(), true, false);
        if value.is_null() {
            return None;
        }
        CStr::from_ptr(value).to_string_lossy().into_owned()
    };
    let claims: serde_json::Value = serde_json::from_str(&claims).ok()?;
    claims
        .get(settings::owner_claim())?
        .as_str()
        .filter(|owner| !owner.is_empty())
        .map(str::to_owned)
}

impl Caller {
    /// The owner that what the caller may see has; `None`: all owners.
    pub(crate) fn owner(&self) -> Option<&str> {
        match self {
            Self::Admin => None,
            Self::Owner(owner) => Some(owner),
        }
    }
}

/// Fails unless the transaction may write.
pub(crate) fn must_write(what: &'static str) -> Result<(), Error> {
    // SAFETY: variables of this process.
    if unsafe { pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() } {
        Err(Error::ReadOnly(what))
    } else {
        Ok(())
    }
}
