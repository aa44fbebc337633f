//! Working as the owner of the extension, as far as our own tables are concerned. Main thread only.

use crate::error::Error;
use pgrx::pg_sys;

/// Oid of a relation in schema `webhooks`.
pub(crate) fn relation(name: &std::ffi::CStr) -> Result<pg_sys::Oid, Error> {
    // SAFETY: both names are NUL-terminated; missing ones give InvalidOid.
    let oid = unsafe {
        let schema = pg_sys::get_namespace_oid(c"webhooks".as_ptr(), true);
        if schema == pg_sys::InvalidOid {
            schema
        } else {
            pg_sys::get_relname_relid(name.as_ptr(), schema)
        }
    };
    if oid == pg_sys::InvalidOid {
        Err(Error::Mismatch)
    } else {
        Ok(oid)
    }
}

/// The name of this database.
pub(crate) fn database_name() -> String {
    // SAFETY: in a transaction; the name is NUL-terminated, or null for a database that is gone.
    unsafe {
        let name = pg_sys::get_database_name(pg_sys::MyDatabaseId);
        if name.is_null() {
            String::new()
        } else {
            std::ffi::CStr::from_ptr(name)
                .to_string_lossy()
                .into_owned()
        }
    }
}

/// Who owns a database; `None`: there is none.
pub(crate) fn of_database(database: pg_sys::Oid) -> Option<pg_sys::Oid> {
    // SAFETY: a syscache look-up in a transaction; what is needed of the tuple is copied before its release.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::DATABASEOID as i32,
            pg_sys::Datum::from(database),
        );
        if tuple.is_null() {
            return None;
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_database>();
        let owner = (*form).datdba;
        pg_sys::ReleaseSysCache(tuple);
        Some(owner)
    }
}

/// Who owns the extension's tables.
pub(crate) fn oid() -> Result<pg_sys::Oid, Error> {
    let table = relation(c"webhook")?;
    // SAFETY: a syscache look-up in a transaction; what is needed of the tuple is copied before its release.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(
            pg_sys::SysCacheIdentifier::RELOID as i32,
            pg_sys::Datum::from(table),
        );
        if tuple.is_null() {
            return Err(Error::Mismatch);
        }
        let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let owner = (*form).relowner;
        pg_sys::ReleaseSysCache(tuple);
        Ok(owner)
    }
}

/// Runs `work` as the owner of the extension's tables, with a search path that no user can put anything
/// into. The caller's rights must have been judged before.
///
/// An ERROR on the way restores user and settings as Postgres does at the end of every (sub)transaction.
pub(crate) fn as_owner<R>(work: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    as_role(oid()?, work)
}

/// The same as any role.
pub(crate) fn as_role<R>(
    role: pg_sys::Oid,
    work: impl FnOnce() -> Result<R, Error>,
) -> Result<R, Error> {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the out-pointers are valid; the oid is that of a role; the values set are constants.
    let level = unsafe {
        pg_sys::GetUserIdAndSecContext(&raw mut user, &raw mut context);
        let level = pg_sys::NewGUCNestLevel();
        pg_sys::SetUserIdAndSecContext(role, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        set_local(c"search_path", c"pg_catalog, pg_temp");
        set_local(c"row_security", c"off");
        // Anybody can switch these on, and then the log holds the parameters of our statements.
        set_local(c"debug_print_parse", c"off");
        set_local(c"debug_print_rewritten", c"off");
        set_local(c"debug_print_plan", c"off");
        level
    };
    let result = work();
    // SAFETY: undoes exactly what was done above, in the same (sub)transaction.
    unsafe {
        pg_sys::AtEOXact_GUC(true, level);
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    result
}

/// Sets a setting until the current GUC nest level ends.
pub(crate) fn set_local(name: &std::ffi::CStr, value: &std::ffi::CStr) {
    // SAFETY: both are NUL-terminated; Postgres copies them. An unknown name is an ERROR, not unsoundness.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}
