//! Indexes that users make on our tables.

use crate::error::Error;
use crate::seam::table;
use pgrx::{PgList, pg_sys};
use std::ffi::CStr;

/// Why an index cannot be made: the tables that are written below the executor, where nothing is evaluated, take only plain
/// ones.
///
/// # Safety
/// A statement as Postgres hands it to its utility hook, in a transaction.
pub(super) unsafe fn refusal(index: *mut pg_sys::IndexStmt) -> Option<Error> {
    // SAFETY: see above; lists and nodes are Postgres's, and an index's parameters are IndexElem.
    unsafe {
        let plain = (*index).whereClause.is_null()
            && (*index).excludeOpNames.is_null()
            && PgList::<pg_sys::IndexElem>::from_pg((*index).indexParams)
                .iter_ptr()
                .all(|element| (*element).expr.is_null());
        if plain || (*index).relation.is_null() {
            return None;
        }
        let on = pg_sys::RangeVarGetRelidExtended(
            (*index).relation,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        );
        // Others may have a schema of our name.
        let extension = pg_sys::get_extension_oid(c"webhooks".as_ptr(), true);
        if extension == pg_sys::InvalidOid
            || pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, on) != extension
        {
            return None;
        }
        let name = pg_sys::get_rel_name(on);
        if name.is_null() || !table::NAMES.contains(&CStr::from_ptr(name)) {
            return None;
        }
        Some(Error::WrongObject {
            message: format!(
                "webhooks.{} takes no index on expressions or with WHERE",
                CStr::from_ptr(name).to_string_lossy()
            ),
            hint: Some("Index its columns, all of its rows.".to_owned()),
        })
    }
}
