//! Reading our own tables below the executor: without a plan, and without a check of rights (whoever calls
//! has made it). Main thread only.

use super::owner;
use crate::error::Error;
use pgrx::{FromDatum, pg_sys};
use std::ffi::CStr;
use uuid::Uuid;

/// A row that is being read.
pub(crate) struct Row {
    table: pg_sys::Oid,
    tuple: pg_sys::HeapTuple,
    columns: pg_sys::TupleDesc,
}

impl Row {
    /// The value of a column; `None` for NULL, and if there is no such column.
    pub(crate) fn get<T: FromDatum>(&self, name: &CStr) -> Option<T> {
        let (datum, is_null) = self.datum(name)?;
        // SAFETY: our own schema says what type the column has.
        unsafe { T::from_datum(datum, is_null) }
    }

    /// A `uuid` column.
    pub(crate) fn uuid(&self, name: &CStr) -> Option<Uuid> {
        self.get::<pgrx::Uuid>(name)
            .map(|id| Uuid::from_bytes(*id.as_bytes()))
    }

    /// A `timestamptz` column.
    pub(crate) fn timestamp(&self, name: &CStr) -> Option<pg_sys::TimestampTz> {
        let (datum, is_null) = self.datum(name)?;
        (!is_null).then_some(datum.value() as i64)
    }

    fn datum(&self, name: &CStr) -> Option<(pg_sys::Datum, bool)> {
        let mut is_null = true;
        // SAFETY: the tuple is the scan's current one, the description its table's.
        unsafe {
            let column = i32::from(pg_sys::get_attnum(self.table, name.as_ptr()));
            if column <= 0 {
                return None;
            }
            let datum = pg_sys::heap_getattr(self.tuple, column, self.columns, &mut is_null);
            Some((datum, is_null))
        }
    }
}

/// Reads a table of ours whole, under the latest snapshot.
pub(crate) fn all(table: pg_sys::Oid, mut each: impl FnMut(&Row)) -> Result<(), Error> {
    // SAFETY: in a transaction; everything that is opened is closed, and by the transaction's end if an
    // ERROR comes between.
    unsafe {
        let relation = open(table)?;
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::InvalidOid,
            false,
            snapshot,
            0,
            std::ptr::null_mut(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            each(&Row {
                table,
                tuple,
                columns: (*relation).rd_att,
            });
        }
        pg_sys::systable_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
    }
    Ok(())
}

/// Opens a table for reading: an error if it was dropped while this waited for its lock.
unsafe fn open(table: pg_sys::Oid) -> Result<pg_sys::Relation, Error> {
    // SAFETY: in a transaction, as the callers are.
    let relation = unsafe { pg_sys::try_table_open(table, pg_sys::AccessShareLock as i32) };
    if relation.is_null() {
        Err(Error::Gone)
    } else {
        Ok(relation)
    }
}

/// Reads the row with this id, as it is now: what others have committed counts, also in a transaction whose
/// snapshot is older. `table` has an index `index` on its `uuid` column `id`, its first.
pub(crate) fn by_id<T>(
    table: &CStr,
    index: &CStr,
    id: Uuid,
    read: impl FnOnce(&Row) -> T,
) -> Result<Option<T>, Error> {
    const FIRST: pg_sys::AttrNumber = 1;
    const USE_INDEX: bool = true;
    let (table, index) = (owner::relation(table)?, owner::relation(index)?);
    let bytes = id.into_bytes();
    // SAFETY: in a transaction; everything that is opened is closed, and by the transaction's end if an
    // ERROR comes between. The key is compared by uuid's own function, and the bytes that it points to live
    // to the end of the scan. Without a snapshot the scan takes and keeps a new one.
    unsafe {
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &raw mut key,
            FIRST,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_UUID_EQ),
            pg_sys::Datum::from(bytes.as_ptr()),
        );
        let relation = open(table)?;
        let scan = pg_sys::systable_beginscan(
            relation,
            index,
            USE_INDEX,
            std::ptr::null_mut(),
            1,
            &raw mut key,
        );
        let tuple = pg_sys::systable_getnext(scan);
        let found = (!tuple.is_null()).then(|| {
            read(&Row {
                table,
                tuple,
                columns: (*relation).rd_att,
            })
        });
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        Ok(found)
    }
}

/// Reads the last row of a table of ours in the order of an index of ours, whether or not it is visible: what others
/// have not committed yet counts, and so does what was deleted and not vacuumed.
pub(crate) fn last<T>(
    table: &CStr,
    index: &CStr,
    read: impl FnOnce(&Row) -> T,
) -> Result<Option<T>, Error> {
    let (table, index) = (owner::relation(table)?, owner::relation(index)?);
    // SAFETY: in a transaction; everything that is opened is closed, and by the transaction's end if an
    // ERROR comes between. The index was looked up just now; if it was dropped since, index_open is an ERROR.
    unsafe {
        let relation = open(table)?;
        let index = pg_sys::index_open(index, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan_ordered(
            relation,
            index,
            &raw mut pg_sys::SnapshotAnyData,
            0,
            std::ptr::null_mut(),
        );
        let tuple =
            pg_sys::systable_getnext_ordered(scan, pg_sys::ScanDirection::BackwardScanDirection);
        let found = (!tuple.is_null()).then(|| {
            read(&Row {
                table,
                tuple,
                columns: (*relation).rd_att,
            })
        });
        pg_sys::systable_endscan_ordered(scan);
        pg_sys::index_close(index, pg_sys::AccessShareLock as i32);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as i32);
        Ok(found)
    }
}
