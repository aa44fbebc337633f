//! Who is calling and what they may touch: the one place that decides.
//!
//! What counts is the effective user, so that a SECURITY DEFINER function of an administrator's acts as the
//! administrator, and, for everybody but superusers, the request that is being served. A request is its
//! owner's or nobody's: it never makes an administrator, whatever its role holds.

mod keys;
mod request;
mod rights;

pub(crate) use request::{Refusal, header as request_header};
pub(crate) use rights::Right;

use crate::error::Error;
use crate::seam::owner;
use pgrx::pg_sys;
use webhooks_core::quote::quote;

/// A caller, judged.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Caller {
    /// Sees and touches everything.
    Admin,
    /// Sees and touches what has this owner.
    Owner(String),
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

/// Somebody who may emit an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Emitter {
    /// Any event, of any owner.
    Admin,
    /// Whose word about the owner is taken.
    Trusted,
    /// Of this owner alone.
    Owner(String),
}

/// What a role without the right is told: the call that gives it.
fn ask(right: Right) -> String {
    let role = sql_text(&user_name());
    format!(
        "An administrator can give the right: SELECT webhooks.grant_access({role}, '{}');",
        right.word()
    )
}

/// The name of the effective user.
fn user_name() -> String {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: a syscache look-up in a transaction; the name is NUL-terminated, or null for a role that is gone.
    unsafe {
        let name = pg_sys::GetUserNameFromId(user(), MISSING_IS_FINE);
        if name.is_null() {
            return String::new();
        }
        std::ffi::CStr::from_ptr(name)
            .to_string_lossy()
            .into_owned()
    }
}

/// A literal of SQL.
fn sql_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn user() -> pg_sys::Oid {
    // SAFETY: a variable of this process, set in every backend.
    unsafe { pg_sys::GetUserId() }
}

fn is_superuser() -> bool {
    // SAFETY: a syscache look-up in a transaction.
    unsafe { pg_sys::superuser_arg(user()) }
}

/// The caller of the current function, for whatever concerns webhooks and deliveries.
pub(crate) fn caller() -> Result<Caller, Error> {
    if is_superuser() {
        return Ok(Caller::Admin);
    }
    let (api, admin) = (
        Right::Api.is_held_by(user())?,
        Right::Admin.is_held_by(user())?,
    );
    if !api && !admin {
        return Err(Error::denied("webhooks", ask(Right::Api)));
    }
    match request::owner()? {
        Some(owner) if api => Ok(Caller::Owner(owner)),
        Some(_) => Err(Error::denied(
            "webhooks",
            "To serve requests, the role needs webhooks.grant_access(…, 'api').",
        )),
        None if admin => Ok(Caller::Admin),
        None => Err(Error::denied(
            "webhooks",
            "The owner comes from a verified token: an API key in request.headers, or the claims that a role with the right gateway hands on.",
        )),
    }
}

/// Fails unless the caller is an administrator.
pub(crate) fn must_be_admin(what: &'static str) -> Result<(), Error> {
    if is_admin()? {
        Ok(())
    } else {
        Err(Error::denied(
            what,
            "Administrators may: superusers, and roles with the right admin, except for requests with a token.",
        ))
    }
}

/// Whether the caller is an administrator. Looks at no table.
pub(crate) fn is_admin() -> Result<bool, Error> {
    Ok(is_superuser() || (Right::Admin.is_held_by(user())? && !request::is_served()?))
}

/// Whether the caller may make others administrators and gateways.
pub(crate) fn may_appoint() -> Result<bool, Error> {
    Ok(rights::owns_extension(user())? && is_admin()?)
}

/// Whether the caller may read the log of all owners. Looks at no table.
pub(crate) fn is_reader() -> Result<bool, Error> {
    // Our own functions read the views too, and have judged their caller before.
    Ok(user() == owner::oid()? || is_admin()? || Right::Read.is_held_by(user())?)
}

/// Fails unless the caller may read the log of all owners.
pub(crate) fn must_be_reader(what: &'static str) -> Result<(), Error> {
    if is_reader()? {
        Ok(())
    } else {
        Err(Error::denied(what, ask(Right::Read)))
    }
}

/// Whoever emits an event of this type.
pub(crate) fn emitter(what: &'static str, event_type: &str) -> Result<Emitter, Error> {
    if is_superuser() {
        return Ok(Emitter::Admin);
    }
    let (emit, admin) = (
        Right::Emit.is_held_by(user())?,
        Right::Admin.is_held_by(user())?,
    );
    if !emit && !admin {
        return Err(Error::denied(what, ask(Right::Emit)));
    }
    let emitter = match request::owner()? {
        None if admin => return Ok(Emitter::Admin),
        None => Emitter::Trusted,
        Some(owner) if emit && Right::Api.is_held_by(user())? => Emitter::Owner(owner),
        Some(_) => {
            return Err(Error::denied(
                what,
                "To emit for the owner of a token, the role needs both api and emit.",
            ));
        }
    };
    if webhooks_core::event_type::is_reserved(event_type) {
        return Err(Error::denied_message(
            format!(
                "permission denied for events of type \"{}\"",
                quote(event_type)
            ),
            "Types that begin with memory., webhook., delivery., system. or analytics. come from attached tables and from the worker.",
        ));
    }
    Ok(emitter)
}

/// Why the request that is being served is to be refused before anything is done for it; `None`: it is not,
/// or it is not one for our REST functions.
pub(crate) fn refusal() -> Result<Option<Refusal>, Error> {
    if !request::is_for_our_schema() || request::is_for_portal() {
        return Ok(None);
    }
    match request::owner() {
        Ok(Some(_)) => Ok(None),
        Ok(None) => Ok(Some(Refusal::Missing)),
        // Without a token, PostgREST's claims hold the role of anonymous requests. With one, this is somebody
        // who is known and may do nothing, as the functions will say.
        Err(Error::Refused(Refusal::NoOwner)) => {
            let anonymous = request::bearer()?.is_none();
            Ok(anonymous.then_some(Refusal::Missing))
        }
        Err(Error::Refused(refusal)) => Ok(Some(refusal)),
        Err(error) => Err(error),
    }
}

/// Whether the request that is being served writes to a view of our REST schema, which takes no writing.
pub(crate) fn writes_to_a_view() -> bool {
    request::is_for_our_schema() && request::writes_to_a_view()
}

/// Whether a request is being served that says whose it is, believed or not yet judged.
pub(crate) fn serves_request() -> Result<bool, Error> {
    request::is_served()
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
