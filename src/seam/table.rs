//! Our own tables below the executor: rows go in and out without a plan, without expression evaluation,
//! and without a check of rights (whoever calls has made it). Main thread only.
//!
//! Postgres inserts into its own catalogs in this way, and the functions are made for them. What they ask
//! for holds for our tables too: heap tables, with plain indexes, neither partial nor on expressions, and no
//! triggers. (Row security does not reach down here.)

use super::owner;
use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::CStr;

/// The tables that are written in this way.
pub(crate) const NAMES: [&CStr; 4] = [c"event", c"outbox", c"delivery", c"attempt"];

/// How many rows go to the table at once.
const BATCH: usize = 500;

/// A row of at most this many bytes is stored as it is: TOAST_TUPLE_THRESHOLD is 2,032 with 8 kB blocks.
const NEVER_TOASTED: u32 = 1_900;

/// A table of ours, open for writing until dropped.
pub(crate) struct Table {
    relation: pg_sys::Relation,
    indexes: pg_sys::CatalogIndexState,
    slots: Vec<*mut pg_sys::TupleTableSlot>,
    used: usize,
    columns: usize,
    /// Where the slots live; the caller may be in a context that ends sooner.
    context: pg_sys::MemoryContext,
}

/// Whether no index is on expressions or partial.
///
/// # Safety
/// What CatalogOpenIndexes has returned, and is still open.
unsafe fn are_plain(indexes: pg_sys::CatalogIndexState) -> bool {
    // SAFETY: see above; the array has as many places as it says.
    unsafe {
        (0..(*indexes).ri_NumIndices as usize).all(|place| {
            let info = *(*indexes).ri_IndexRelationInfo.add(place);
            (*info).ii_Expressions.is_null() && (*info).ii_Predicate.is_null()
        })
    }
}

impl Table {
    /// Opens it, and makes sure that it has the number of columns that this library knows.
    pub(crate) fn open(name: &CStr, columns: usize) -> Result<Self, Error> {
        let oid = owner::relation(name)?;
        // SAFETY: in a transaction; the lock lasts until its end, as for any writer.
        unsafe {
            // It may have been dropped while this waited for its lock.
            let relation = pg_sys::try_table_open(oid, pg_sys::RowExclusiveLock as i32);
            if relation.is_null() {
                return Err(Error::Gone);
            }
            if (*(*relation).rd_att).natts as usize != columns {
                pg_sys::table_close(relation, pg_sys::NoLock as i32);
                return Err(Error::Mismatch);
            }
            let indexes = pg_sys::CatalogOpenIndexes(relation);
            // The library refuses to have others made; but it may not have been there.
            if !are_plain(indexes) {
                pg_sys::CatalogCloseIndexes(indexes);
                pg_sys::table_close(relation, pg_sys::NoLock as i32);
                return Err(Error::State {
                    message: format!(
                        "webhooks.{} has an index on expressions or with WHERE",
                        name.to_string_lossy()
                    ),
                    hint: Some("Drop it: the table takes none.".to_owned()),
                });
            }
            Ok(Self {
                relation,
                indexes,
                slots: Vec::new(),
                used: 0,
                columns,
                context: pg_sys::CurrentMemoryContext,
            })
        }
    }

    /// Adds a row; it is written by the time of `close`. The datums must live until then.
    pub(crate) fn insert(&mut self, row: &[Option<pg_sys::Datum>]) {
        debug_assert_eq!(row.len(), self.columns);
        // SAFETY: the relation is open; each slot has as many places as the table columns, which open()
        // has compared, and is cleared before it is filled.
        unsafe {
            if self.used == self.slots.len() {
                let before = pg_sys::MemoryContextSwitchTo(self.context);
                self.slots.push(pg_sys::MakeSingleTupleTableSlot(
                    (*self.relation).rd_att,
                    &raw const pg_sys::TTSOpsHeapTuple,
                ));
                pg_sys::MemoryContextSwitchTo(before);
            }
            let slot = self.slots[self.used];
            if let Some(clear) = (*(*slot).tts_ops).clear {
                clear(slot);
            }
            for (column, value) in row.iter().enumerate() {
                *(*slot).tts_values.add(column) = value.unwrap_or(pg_sys::Datum::from(0));
                *(*slot).tts_isnull.add(column) = value.is_none();
            }
            pg_sys::ExecStoreVirtualTuple(slot);
            // A row that is toasted is stored as another tuple, whose place heap_multi_insert does not
            // tell the tuple that the indexes are made from.
            let tuple = pg_sys::ExecFetchSlotHeapTuple(slot, true, std::ptr::null_mut());
            if (*tuple).t_len > NEVER_TOASTED {
                pg_sys::CatalogTupleInsertWithInfo(self.relation, tuple, self.indexes);
                return;
            }
        }
        self.used += 1;
        if self.used == BATCH {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.used == 0 {
            return;
        }
        // SAFETY: the first `used` slots hold rows; the indexes belong to the relation.
        unsafe {
            pg_sys::CatalogTuplesMultiInsertWithInfo(
                self.relation,
                self.slots.as_mut_ptr(),
                self.used as i32,
                self.indexes,
            );
        }
        self.used = 0;
    }

    /// Deletes the row at this place if it is still the one with this id in the given column (from 1);
    /// says whether it was. If somebody else is changing or locking it, that is waited for.
    pub(crate) fn delete_at(&mut self, place: (u32, u16), column: i32, id: uuid::Uuid) -> bool {
        let Some(mut tuple) = self.row_at(place, column, id) else {
            return false;
        };
        // SAFETY: the relation is open and locked; the row is there.
        unsafe { pg_sys::simple_heap_delete(self.relation, &raw mut tuple.t_self) }
        true
    }

    /// The same, but a row that somebody else has changed or locks is left alone, and nobody is waited for.
    pub(crate) fn delete_at_if_free(
        &mut self,
        place: (u32, u16),
        column: i32,
        id: uuid::Uuid,
    ) -> bool {
        const WAIT: bool = false;
        const CHANGES_PARTITION: bool = false;
        let Some(mut tuple) = self.row_at(place, column, id) else {
            return false;
        };
        let mut why_not = pg_sys::TM_FailureData::default();
        // SAFETY: the relation is open and locked; the row is there, and visible to the active snapshot.
        let result = unsafe {
            pg_sys::heap_delete(
                self.relation,
                &raw mut tuple.t_self,
                pg_sys::GetCurrentCommandId(true),
                std::ptr::null_mut(),
                WAIT,
                &raw mut why_not,
                CHANGES_PARTITION,
            )
        };
        result == pg_sys::TM_Result::TM_Ok
    }

    /// The place of a row, if the active snapshot sees one there, and it has this id in the given column.
    fn row_at(
        &self,
        (block, offset): (u32, u16),
        column: i32,
        id: uuid::Uuid,
    ) -> Option<pg_sys::HeapTupleData> {
        let mut tuple = pg_sys::HeapTupleData::default();
        pgrx::itemptr::item_pointer_set_all(&mut tuple.t_self, block, offset);
        let mut buffer: pg_sys::Buffer = 0;
        // SAFETY: the relation is open and locked; a snapshot is active; heap_fetch pins the buffer only
        // when it says true, and the pin is given back.
        unsafe {
            let blocks = pg_sys::RelationGetNumberOfBlocksInFork(
                self.relation,
                pg_sys::ForkNumber::MAIN_FORKNUM,
            );
            if block >= blocks
                || !pg_sys::heap_fetch(
                    self.relation,
                    pg_sys::GetActiveSnapshot(),
                    &raw mut tuple,
                    &raw mut buffer,
                    false,
                )
            {
                return None;
            }
            let mut is_null = true;
            let datum = pg_sys::heap_getattr(
                &raw mut tuple,
                column,
                (*self.relation).rd_att,
                &mut is_null,
            );
            let same = !is_null
                && std::slice::from_raw_parts(datum.cast_mut_ptr::<u8>(), 16) == id.as_bytes();
            pg_sys::ReleaseBuffer(buffer);
            same.then_some(tuple)
        }
    }

    /// Writes what is left and closes the table.
    pub(crate) fn close(mut self) {
        self.flush();
        // SAFETY: all were opened or made by this value.
        unsafe {
            for slot in std::mem::take(&mut self.slots) {
                pg_sys::ExecDropSingleTupleTableSlot(slot);
            }
            pg_sys::CatalogCloseIndexes(self.indexes);
            pg_sys::table_close(self.relation, pg_sys::NoLock as i32);
        }
    }
}
