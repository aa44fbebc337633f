//! ATTACH PARTITION of tables that are attached to webhooks.

use crate::emit::attached;
use crate::error::Error;
use pgrx::{PgList, pg_sys};

/// Why a table cannot become a partition: both it and its new root are attached, and the root's triggers would have the
/// names of its own.
///
/// # Safety
/// A statement as Postgres hands it to its utility hook, in a transaction.
pub(super) unsafe fn refusal(alter: *mut pg_sys::AlterTableStmt) -> Option<Error> {
    // SAFETY: see above; lists and nodes are Postgres's, and ATTACH PARTITION has a PartitionCmd.
    unsafe {
        for command in PgList::<pg_sys::AlterTableCmd>::from_pg((*alter).cmds).iter_ptr() {
            if (*command).subtype != pg_sys::AlterTableType::AT_AttachPartition {
                continue;
            }
            let partition = (*(*command).def.cast::<pg_sys::PartitionCmd>()).name;
            let (root, partition) = (oid_of((*alter).relation), oid_of(partition));
            if attached::is_attached(root) && attached::is_attached(partition) {
                let (root, partition) = (attached::name_of(root), attached::name_of(partition));
                return Some(Error::WrongObject {
                    message: format!(
                        "tables \"{root}\" and \"{partition}\" are both attached to webhooks, and a partition is \
                         attached with its root"
                    ),
                    hint: Some(format!(
                        "Detach the partition first: SELECT webhooks.detach({});",
                        pgrx::spi::quote_literal(&partition)
                    )),
                });
            }
        }
        None
    }
}

unsafe fn oid_of(table: *mut pg_sys::RangeVar) -> pg_sys::Oid {
    if table.is_null() {
        return pg_sys::InvalidOid;
    }
    // SAFETY: a name of Postgres's, in a transaction.
    unsafe {
        pg_sys::RangeVarGetRelidExtended(
            table,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    }
}
