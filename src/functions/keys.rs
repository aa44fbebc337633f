//! API keys: create, revoke, and the check that PostgREST makes before each request.

use super::{parse_id, required};
use crate::access::{self, Right};
use crate::error::{Error, reply};
use crate::seam::owner::as_owner;
use crate::seam::setting::keep_errors_out_of_the_log;
use crate::seam::sql::{self, Statement, arg};
use crate::seam::{clock, raw};
use crate::settings;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};
use std::ffi::{CStr, CString, c_char};
use webhooks_core::id::{self, Kind};
use webhooks_core::token::{self, NewKey, TokenError};

static CREATE: Statement = Statement::new(
    c"INSERT INTO webhooks.api_key (id, name, owner, hash, created_at, expires_at)
      VALUES ($1, $2, $3, $4, pg_catalog.clock_timestamp(), $5)
      RETURNING webhooks.format_time(created_at), webhooks.format_time(expires_at)",
    &[
        pg_sys::UUIDOID,
        pg_sys::TEXTOID,
        pg_sys::TEXTOID,
        pg_sys::BYTEAOID,
        pg_sys::TIMESTAMPTZOID,
    ],
);
static REVOKE: Statement = Statement::new(
    c"UPDATE webhooks.api_key SET revoked_at = coalesce(revoked_at, pg_catalog.clock_timestamp())
       WHERE id = $1 RETURNING webhooks.format_time(revoked_at)",
    &[pg_sys::UUIDOID],
);

#[pg_extern(sql = false)]
fn create_api_key(
    name: Option<&str>,
    owner: Option<&str>,
    expires_at: Option<TimestampWithTimeZone>,
) -> JsonB {
    reply((|| {
        access::must_be_admin("create_api_key()")?;
        access::must_write("create_api_key()")?;
        let (name, owner) = (named(name, "name")?, named(owner, "owner")?);
        let expires_at = expiry(expires_at)?;
        let secret = settings::jwt_secret().ok_or_else(|| Error::State {
            message: "webhooks.jwt_secret is not set".to_owned(),
            hint: Some("ALTER SYSTEM SET webhooks.jwt_secret to at least 32 bytes, and reload; PostgREST's jwt-secret must be the same.".to_owned()),
        })?;
        let role = api_role()?;
        let key_id = clock::new_id();
        let claim = settings::owner_claim();
        let key = token::issue(
            &NewKey {
                id: key_id,
                role: &role,
                owner,
                owner_claim: &claim,
                issued_s: clock::unix_ms().div_euclid(1_000),
                // Never before the time that was asked for, which is judged to the microsecond beside it.
                expires_s: expires_at.map(|at| clock::unix_of(at).saturating_add(999) / 1_000),
            },
            secret.expose(),
        )
        .map_err(|error| Error::State {
            message: error.to_string(),
            hint: matches!(error, TokenError::OwnerClaim(_))
                .then(|| "Set webhooks.owner_claim to sub, or to a claim of your own.".to_owned()),
        })?;
        as_owner(|| {
            sql::connect(|spi| {
                let rows = spi.write(
                    &CREATE,
                    &[
                        sql::uuid(key_id),
                        arg(name),
                        arg(owner),
                        arg(token::hash(&key).as_slice()),
                        expires_at.map(pg_sys::Datum::from),
                    ],
                );
                Ok(JsonB(serde_json::json!({
                    "id": id::format(Kind::Key, key_id),
                    "name": name,
                    "owner": owner,
                    "key": key,
                    "created_at": rows.get::<String>(0, 1),
                    "expires_at": rows.get::<String>(0, 2),
                })))
            })
        })
    })())
}

#[pg_extern(sql = false)]
fn revoke_api_key(key_id: Option<&str>) -> JsonB {
    reply((|| {
        access::must_be_admin("revoke_api_key()")?;
        access::must_write("revoke_api_key()")?;
        let key = parse_id(Kind::Key, key_id)?;
        let shown = id::format(Kind::Key, key);
        as_owner(|| {
            sql::connect(|spi| {
                let revoked_at: Option<String> = spi.write(&REVOKE, &[sql::uuid(key)]).get(0, 1);
                let Some(revoked_at) = revoked_at else {
                    return Err(Error::Absent {
                        what: "key",
                        id: shown,
                    });
                };
                Ok(JsonB(serde_json::json!({
                    "id": shown, "revoked": true, "revoked_at": revoked_at,
                })))
            })
        })
    })())
}

/// A text that says something, and leaves a token that headers have room for.
fn named<'a>(text: Option<&'a str>, name: &str) -> Result<&'a str, Error> {
    const MOST_BYTES: usize = 255;
    let text = required(text, name)?;
    if text.len() > MOST_BYTES {
        return Err(Error::invalid(
            format!("{name} is too long: {} bytes", text.len()),
            format!("The name and the owner of a key have at most {MOST_BYTES} bytes."),
        ));
    }
    if text.trim().is_empty() {
        return Err(Error::invalid(
            format!("{name} must not be empty"),
            "A key has a name, by which people know it, and the owner whose webhooks it is for.",
        ));
    }
    Ok(text)
}

/// When a key expires; `None`: never.
fn expiry(at: Option<TimestampWithTimeZone>) -> Result<Option<pg_sys::TimestampTz>, Error> {
    const INFINITY: pg_sys::TimestampTz = pg_sys::TimestampTz::MAX;
    let Some(at) = at
        .map(pg_sys::TimestampTz::from)
        .filter(|&at| at != INFINITY)
    else {
        return Ok(None);
    };
    // SAFETY: reads the system clock.
    if at <= unsafe { pg_sys::GetCurrentTimestamp() } {
        return Err(Error::invalid(
            "expires_at is in the past",
            "Give a time to come, or leave it out for a key that does not expire.",
        ));
    }
    Ok(Some(at))
}

/// The role of new keys, if it is fit for them.
fn api_role() -> Result<String, Error> {
    const HOW: &str = "ALTER SYSTEM SET webhooks.api_role to the role that PostgREST is to switch to, and give it webhooks.grant_access(…, 'api').";
    let unfit = |message: String| Error::State {
        message,
        hint: Some(HOW.to_owned()),
    };
    let role =
        settings::api_role().ok_or_else(|| unfit("webhooks.api_role is not set".to_owned()))?;
    let name = CString::new(role.as_str()).unwrap_or_default();
    const MISSING_IS_FINE: bool = true;
    // SAFETY: syscache look-ups in a transaction; a missing role gives InvalidOid, which is no superuser.
    let (oid, is_superuser) = unsafe {
        let oid = pg_sys::get_role_oid(name.as_ptr(), MISSING_IS_FINE);
        (oid, pg_sys::superuser_arg(oid))
    };
    if oid == pg_sys::InvalidOid {
        return Err(unfit(format!(
            "role \"{role}\" of webhooks.api_role does not exist"
        )));
    }
    if is_superuser {
        return Err(unfit(format!(
            "role \"{role}\" of webhooks.api_role is a superuser"
        )));
    }
    if !Right::Api.is_held_by(oid)? {
        pgrx::warning!(
            "role \"{role}\" of webhooks.api_role lacks the right api: its keys are of no use until it has it"
        );
    }
    Ok(role)
}

/// The record by which Postgres knows how to call a C function.
#[unsafe(no_mangle)]
pub(super) extern "C" fn pg_finfo_check_request() -> *const pg_sys::Pg_finfo_record {
    static V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &raw const V1
}

/// PostgREST's `db-pre-request`: ends requests for our schema that have no good token with its status 401, and those that
/// write to a view with 405.
///
/// Not behind pgrx's guard as a whole, since that knows Postgres's own SQLSTATEs alone.
///
/// # Safety
/// To be called by Postgres.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn check_request(
    _fcinfo: pg_sys::FunctionCallInfo,
) -> pg_sys::Datum {
    // SAFETY: called on the main thread, in a transaction.
    let refused = unsafe { judge_request() };
    if !refused.message.is_null() {
        // SAFETY: the texts are NUL-terminated, and this frame holds nothing that must be dropped.
        unsafe { raw::raise(refused.code, refused.message, refused.hint) }
    }
    pg_sys::Datum::from(0)
}

/// Why a request is to be refused. Nothing of it must be dropped.
#[derive(Clone, Copy)]
#[repr(C)]
struct Refused {
    /// A SQLSTATE that PostgREST makes a status of.
    code: i32,
    /// Allocated by Postgres; null: the request is not to be refused.
    message: *const c_char,
    /// Lives as long as the process; null: none.
    hint: *const c_char,
}

/// Judges the request, and has the log say nothing of what is refused: the log of PostgREST does.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn judge_request() -> Refused {
    const READ_ONLY: &str = "the views of webhooks_api can be read and not written";
    const CALL_INSTEAD: &CStr =
        c"POST to /rpc/create_webhook, /rpc/update_webhook or /rpc/delete_webhook.";
    let refusal = match access::refusal() {
        Ok(refusal) => refusal,
        Err(error) => error.raise(),
    };
    let (code, message, hint) = match refusal {
        Some(refusal) => (*b"PT401", refusal.to_string(), std::ptr::null()),
        None if access::writes_to_a_view() => {
            (*b"PT405", READ_ONLY.to_owned(), CALL_INSTEAD.as_ptr())
        }
        None => {
            return Refused {
                code: 0,
                message: std::ptr::null(),
                hint: std::ptr::null(),
            };
        }
    };
    keep_errors_out_of_the_log();
    let message = CString::new(message).unwrap_or_default();
    Refused {
        code: raw::sqlstate(code),
        // SAFETY: copied into the current memory context, which lives as long as the statement.
        message: unsafe { pg_sys::pstrdup(message.as_ptr()) },
        hint,
    }
}
