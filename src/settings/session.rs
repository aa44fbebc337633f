//! `SET webhooks.…` by a superuser: the worker is another process and never sees it, so the session is told.
//!
//! Main thread of users' backends only. `SET LOCAL`, `ALTER DATABASE … SET`, `ALTER ROLE … SET` and the
//! configuration file are other ways in and say nothing.

use crate::seam::{owner, raw};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::{PgLogLevel, PgSqlErrorCode};
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

static NEXT: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Has Postgres ask us. To be called from `_PG_init` while libraries are preloaded.
pub(crate) fn register() {
    // SAFETY: the postmaster is single-threaded here; the hook that was there is called by ours. A function
    // pointer and a data pointer have the same size on every platform Postgres runs on.
    unsafe {
        NEXT.store(
            pg_sys::ProcessUtility_hook.map_or(std::ptr::null_mut(), |hook| hook as *mut ()),
            Ordering::Relaxed,
        );
        pg_sys::ProcessUtility_hook = Some(utility);
    }
}

/// Runs a statement, and a warning after it. Not guarded: its errors are not ours, and pass through as they are; this
/// frame holds nothing that must be dropped.
#[allow(clippy::too_many_arguments)] // Postgres's own
unsafe extern "C-unwind" fn utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the statement is Postgres's, as are all arguments, which are handed on as they came. The pointer was a
    // hook of exactly this type when register() stored it.
    unsafe {
        let node = (*statement).utilityStmt;
        // Looked at before, since a statement that ends transactions may take its own tree along. SET ends none.
        let sets = (*node).type_ == pg_sys::NodeTag::T_VariableSetStmt;
        let next = NEXT.load(Ordering::Relaxed);
        let next = if next.is_null() {
            raw::standard_ProcessUtility
        } else {
            std::mem::transmute::<*mut (), raw::Utility>(next)
        };
        next(
            statement,
            query,
            read_only_tree,
            context,
            params,
            environment,
            dest,
            completion,
        );
        if sets {
            after(node.cast());
        }
    }
}

/// Warns if the statement has set one of our settings for the session.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn after(set: *mut pg_sys::VariableSetStmt) {
    // SAFETY: the tag says that it is a VariableSetStmt, whose name is NUL-terminated where there is one.
    let (name, is_ours) = unsafe {
        let gives_value = matches!(
            (*set).kind,
            pg_sys::VariableSetKind::VAR_SET_VALUE | pg_sys::VariableSetKind::VAR_SET_CURRENT
        );
        if !gives_value || (*set).is_local || (*set).name.is_null() {
            return;
        }
        let name = CStr::from_ptr((*set).name);
        let ours = name.to_bytes().get(..PREFIX.len());
        (name, ours.is_some_and(|it| it.eq_ignore_ascii_case(PREFIX)))
    };
    if !is_ours {
        return;
    }
    const MISSING_IS_FINE: bool = true;
    // SAFETY: the name is NUL-terminated, and nobody asks for the spelling; the answer, with its unit, is Postgres's
    // and copied at once.
    let value = unsafe {
        let value =
            pg_sys::GetConfigOptionByName(name.as_ptr(), std::ptr::null_mut(), MISSING_IS_FINE);
        if value.is_null() {
            return;
        }
        CStr::from_ptr(value).to_string_lossy().replace('\'', "''")
    };
    let name = name.to_string_lossy().to_ascii_lowercase();
    let worker = "The worker, which is another process, goes on as before.";
    let (message, detail) = match effect(&name) {
        Some(effect) => (
            format!("{name} is set for this session alone"),
            format!("Here it decides {effect}. {worker}"),
        ),
        None => (
            format!("{name} is set for this session alone, where it has no effect"),
            worker.to_owned(),
        ),
    };
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "webhooks")
        .set_detail(detail)
        .set_hint(format!(
            "For the server: ALTER SYSTEM SET {name} = '{value}'; SELECT pg_reload_conf(); For this database: ALTER DATABASE {} SET {name} = '{value}';",
            quoted(&owner::database_name()),
        ))
        .report(PgLogLevel::WARNING);
}

const PREFIX: &[u8] = b"webhooks.";

/// What a setting decides in the session that sets it; `None`: nothing, the worker alone reads it.
fn effect(name: &str) -> Option<&'static str> {
    Some(match name {
        "webhooks.enabled" => "whether changes that this session makes are captured",
        "webhooks.max_payload" => "how large the events of this session's changes may be",
        "webhooks.allowed_networks" | "webhooks.allowed_ports" | "webhooks.require_https" => {
            "which URLs create_webhook() and update_webhook() accept"
        }
        "webhooks.creations_per_hour"
        | "webhooks.max_webhooks_per_owner"
        | "webhooks.max_pending_per_owner" => "the quotas of this session's calls",
        "webhooks.livemode" | "webhooks.header_prefix" | "webhooks.user_agent" => {
            "what get_delivery() shows"
        }
        "webhooks.owner_claim" => "which claim of a token names the owner",
        "webhooks.api_role" => "the role in the API keys that this session creates",
        _ => return None,
    })
}

/// A name as SQL has it.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|it: char| it.is_ascii_lowercase())
        && name
            .bytes()
            .all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'_');
    if plain {
        name.to_owned()
    } else {
        format!("\"{}\"", name.replace('"', "\"\""))
    }
}
