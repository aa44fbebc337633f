//! Whether a row is there now, by its id. Asked only where two orders of events are possible: a BEFORE trigger has
//! deleted a row that looks as the one which the statement has created.

use super::data::Row;
use super::kind::FIRST_NORMAL_OBJECT_ID;
use super::plan::Plan;
use crate::seam::owner::as_owner;
use pgrx::{Spi, pg_sys};
use std::ffi::{CStr, CString};

/// Whether the table has a row of the same id. Yes where that cannot be told: an id of a type that is no type of
/// PostgreSQL's own has an equality of its own.
pub(super) fn is_there(table: pg_sys::Oid, plan: &Plan, row: Row) -> bool {
    let Some((column, datum)) = plan
        .id
        .as_ref()
        .and_then(|column| row.get(column).map(|datum| (column, datum)))
    else {
        return true;
    };
    // SAFETY: look-ups in a transaction; names are NUL-terminated, and an attribute of an open table has one.
    let (type_oid, name) = unsafe {
        const MISSING_IS_FINE: bool = true;
        let number = i16::try_from(column.index + 1).unwrap_or(0);
        let name = pg_sys::get_attname(table, number, MISSING_IS_FINE);
        if name.is_null() {
            return true;
        }
        (
            pg_sys::getBaseType(column.type_oid),
            CStr::from_ptr(name).to_string_lossy().into_owned(),
        )
    };
    if type_oid.to_u32() >= FIRST_NORMAL_OBJECT_ID {
        return true;
    }
    let found = as_owner(|| {
        // SAFETY: in a transaction. With the search path of here the name is qualified.
        let relation = unsafe { super::attached::name_of(table) };
        let query = format!(
            "SELECT EXISTS (SELECT FROM {relation} WHERE {} = $1)",
            pgrx::spi::quote_identifier(name)
        );
        let query = CString::new(query).unwrap_or_default();
        // SAFETY: the datum is of the type that is named with it, and lives longer than the query.
        let argument = unsafe { pgrx::datum::DatumWithOid::new(RawDatum(datum), type_oid) };
        Ok(Spi::get_one_with_args::<bool>(
            &query.to_string_lossy(),
            &[argument],
        )?)
    });
    match found {
        Ok(found) => found.unwrap_or(true),
        Err(error) => error.raise(),
    }
}

/// A datum as it is.
struct RawDatum(pg_sys::Datum);

impl pgrx::IntoDatum for RawDatum {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(self.0)
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::InvalidOid
    }
}
