//! Which owner a request is of: what PostgREST tells about it in settings, as far as it is to be believed.
//!
//! Any role can set these settings. So claims count in the sessions of a gateway only, and otherwise the
//! token itself must be shown, which nobody can forge. A key that was revoked or has expired counts nowhere.

use super::keys;
use super::rights::Right;
use crate::error::Error;
use crate::seam::clock;
use crate::settings;
use pgrx::pg_sys;
use std::ffi::CStr;
use thiserror::Error;
use webhooks_core::token::{self, Claims, Jti, TokenError};

/// Why a request has no owner.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub(crate) enum Refusal {
    /// There is no token.
    #[error("a token is needed")]
    Missing,
    /// The claims or headers are not what a gateway makes of a request.
    #[error("the request's settings are not JSON objects")]
    Unreadable,
    /// There is no owner in the token.
    #[error("the token names no owner")]
    NoOwner,
    /// It is not a token that we have signed.
    #[error("{0}")]
    Token(#[from] TokenError),
    /// There is no secret to verify it with.
    #[error("tokens cannot be verified")]
    NoSecret,
    /// It is not an API key, or the key is not there.
    #[error("the API key is not known")]
    Unknown,
    /// The key was revoked.
    #[error("the API key has been revoked")]
    Revoked,
    /// The key has expired.
    #[error("the API key has expired")]
    Expired,
}

impl Refusal {
    /// What would be right.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Missing => {
                "Send an API key: Authorization: Bearer …; webhooks.create_api_key() makes one."
            }
            Self::Unreadable => {
                "request.jwt.claims and request.headers hold JSON objects, as PostgREST sets them."
            }
            Self::NoOwner => {
                "The setting webhooks.owner_claim says which claim must hold it, as a string."
            }
            Self::NoSecret => "An administrator has to set webhooks.jwt_secret.",
            Self::Token(_) | Self::Unknown | Self::Revoked | Self::Expired => {
                "webhooks.create_api_key() makes a new key."
            }
        }
    }
}

/// The owner of the request that is being served; `None`: this is not a request, as far as anything says
/// that is to be believed.
pub(super) fn owner() -> Result<Option<String>, Error> {
    if let Some(claims) = setting(c"request.jwt.claims")
        && claims_are_believed()?
    {
        return claimed(&claims).map(Some);
    }
    match bearer()? {
        Some(token) => verified(&token).map(Some),
        None => Ok(None),
    }
}

/// Whether a request is being served, whoever's, by the same signs.
pub(super) fn is_served() -> Result<bool, Error> {
    let claimed = setting(c"request.jwt.claims").is_some() && claims_are_believed()?;
    Ok(claimed || bearer()?.is_some())
}

/// Whether what this session says of claims is to be believed: whoever connected is a gateway, or a
/// superuser who plays one with SET ROLE. That somebody's SECURITY DEFINER function runs in a superuser's
/// session makes its claims no truer.
fn claims_are_believed() -> Result<bool, Error> {
    // SAFETY: variables of this process, and a syscache look-up in a transaction.
    let (session, by_superuser) = unsafe {
        let session = pg_sys::GetSessionUserId();
        (session, pg_sys::superuser_arg(session))
    };
    if by_superuser {
        // SAFETY: a variable of this process.
        return Ok(unsafe { !pg_sys::InLocalUserIdChange() });
    }
    Right::Gateway.is_held_by(session)
}

/// The owner that claims name, whose token the gateway has verified.
fn claimed(claims: &str) -> Result<String, Error> {
    let claims = Claims::parse(claims).ok_or(Refusal::Unreadable)?;
    let claim = settings::owner_claim();
    let owner = claims.owner(&claim).ok_or(Refusal::NoOwner)?;
    match claims.jti() {
        Jti::Foreign => {}
        Jti::NoSuchKey => return Err(Refusal::Unknown.into()),
        Jti::Key(id) => {
            // Of a key, the owner is what was stored with it.
            if keys::admitted(id)?.owner != owner {
                return Err(Refusal::Unknown.into());
            }
        }
    }
    Ok(owner.to_owned())
}

/// The owner of the API key that the request carries.
fn verified(token: &str) -> Result<String, Error> {
    let secret = settings::jwt_secret().ok_or(Refusal::NoSecret)?;
    let now_s = clock::unix_ms().div_euclid(1_000);
    let claims = token::verify(token, secret.expose(), now_s).map_err(Refusal::from)?;
    let Jti::Key(id) = claims.jti() else {
        return Err(Refusal::Unknown.into());
    };
    let key = keys::admitted(id)?;
    // Whoever gets here holds the secret: how long a comparison takes tells nothing new.
    if key.hash != token::hash(token) {
        return Err(Refusal::Unknown.into());
    }
    Ok(key.owner)
}

/// Whether the request is one for the schema `webhooks_api`: PostgREST puts the schema of a request first into
/// the search path; whoever asked for it by name has said so in a header.
pub(super) fn is_for_our_schema() -> bool {
    const OURS: &str = "webhooks_api";
    let path = setting(c"search_path").unwrap_or_default();
    let first = path.split(',').next().unwrap_or_default().trim();
    let named = |name: &str| header(name).is_some_and(|schema| schema.trim() == OURS);
    first.trim_matches('"') == OURS || named("accept-profile") || named("content-profile")
}

/// Whether the request is one for the page, which anybody may have.
pub(super) fn is_for_portal() -> bool {
    setting(c"request.path").is_some_and(|path| path == "/rpc/portal")
}

/// Whether the request writes to a view of ours: whatever else there is in our schema is called.
pub(super) fn writes_to_a_view() -> bool {
    let path = setting(c"request.path").unwrap_or_default();
    let method = setting(c"request.method").unwrap_or_default();
    !path.starts_with("/rpc/") && matches!(method.as_str(), "POST" | "PUT" | "PATCH" | "DELETE")
}

/// The bearer token of the request, if it has one.
pub(super) fn bearer() -> Result<Option<String>, Error> {
    let Some(headers) = setting(c"request.headers") else {
        return Ok(None);
    };
    let headers: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&headers).map_err(|_| Refusal::Unreadable)?;
    // PostgREST writes names in lower case.
    Ok(headers
        .get("authorization")
        .and_then(|value| value.as_str())
        .and_then(token::bearer)
        .map(str::to_owned))
}

/// A header of the request, by its name in lower case.
pub(crate) fn header(name: &str) -> Option<String> {
    let headers: serde_json::Value = serde_json::from_str(&setting(c"request.headers")?).ok()?;
    headers.get(name)?.as_str().map(str::to_owned)
}

/// The value of a setting, unless it is empty: that is what is left of it when the transaction has ended
/// that set it.
fn setting(name: &CStr) -> Option<String> {
    const MISSING_IS_FINE: bool = true;
    const WHOEVER_ASKS: bool = false;
    // SAFETY: the name is NUL-terminated; the value, if there is one, is too, and is copied at once.
    let value = unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), MISSING_IS_FINE, WHOEVER_ASKS);
        if value.is_null() {
            return None;
        }
        CStr::from_ptr(value).to_string_lossy().into_owned()
    };
    (!value.trim().is_empty()).then_some(value)
}
