//! Indexes that users make on our tables.

use crate::error::Error;
use crate::seam::{owner, table};
use pgrx::pg_sys;

/// Why an index cannot be made: the tables that are written below the executor, where nothing is evaluated, take only plain
/// ones.
///
/// # Safety
/// A statement as Postgres hands it to its utility hook, in a transaction.
pub(super) unsafe fn refusal(index: *mut pg_sys::IndexStmt) -> Option<Error> {
    // SAFETY: see above; lists and nodes are Postgres's, and an index's parameters are IndexElem.
    unsafe {
        let parameters = (*index).indexParams;
        let count = if parameters.is_null() {
            0
        } else {
            (*parameters).length
        };
        let plain = (*index).whereClause.is_null()
            && (*index).excludeOpNames.is_null()
            && (0..count).all(|place| {
                let element = pg_sys::list_nth(parameters, place).cast::<pg_sys::IndexElem>();
                (*element).expr.is_null()
            });
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
        let name = table::NAMES
            .iter()
            .find(|name| owner::relation(name).is_ok_and(|oid| oid == on))?;
        // Others may have a schema of this name.
        let extension = pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, on);
        if extension == pg_sys::InvalidOid
            || extension != pg_sys::get_extension_oid(c"webhooks".as_ptr(), true)
        {
            return None;
        }
        Some(Error::WrongObject {
            message: format!(
                "webhooks.{} takes no index on expressions or with WHERE",
                name.to_string_lossy()
            ),
            hint: Some("Index its columns, all of its rows.".to_owned()),
        })
    }
}
