//! What row security does not stop: TRUNCATE of our tables, triggers on them, foreign keys to them, by roles
//! that were granted ALL on them by mistake. A trigger would run as whoever writes the table, and that is the
//! extension's owner. Main thread only.

use crate::emit::attached;
use crate::error::Error;
use crate::seam::owner;
use pgrx::pg_sys;
use std::sync::atomic::{AtomicPtr, Ordering};

static NEXT: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

type Hook = unsafe extern "C-unwind" fn(
    pg_sys::ObjectAccessType::Type,
    pg_sys::Oid,
    pg_sys::Oid,
    i32,
    *mut std::ffi::c_void,
);

/// Has Postgres ask us. To be called from `_PG_init` while libraries are preloaded.
pub(crate) fn register() {
    // SAFETY: the postmaster is single-threaded here; the hook that was there is called by ours. A function
    // pointer and a data pointer have the same size on every platform Postgres runs on.
    unsafe {
        NEXT.store(
            pg_sys::object_access_hook.map_or(std::ptr::null_mut(), |hook| hook as *mut ()),
            Ordering::Relaxed,
        );
        pg_sys::object_access_hook = Some(accessed);
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn accessed(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: i32,
    argument: *mut std::ffi::c_void,
) {
    let next = NEXT.load(Ordering::Relaxed);
    if !next.is_null() {
        // SAFETY: the pointer was a hook of exactly this type when register() stored it; an ERROR of its is
        // caught and goes on as Rust's frames can bear it.
        unsafe {
            let next = std::mem::transmute::<*mut (), Hook>(next);
            pg_sys::ffi::pg_guard_ffi_boundary(|| next(access, class, object, part, argument));
        }
    }
    if class == pg_sys::RelationRelationId
        && let Ok(column) = i16::try_from(part)
        && column > 0
    {
        // SAFETY: this is that hook, and a part of a relation is a column.
        unsafe {
            match access {
                pg_sys::ObjectAccessType::OAT_POST_ALTER => {
                    attached::column_altered(object, column);
                }
                pg_sys::ObjectAccessType::OAT_DROP => attached::column_dropped(object, column),
                _ => {}
            }
        }
    }
    let table = match access {
        pg_sys::ObjectAccessType::OAT_TRUNCATE => Some(object),
        pg_sys::ObjectAccessType::OAT_POST_CREATE if class == pg_sys::TriggerRelationId => {
            table_of_trigger(object)
        }
        _ => None,
    };
    if let Some(table) = table
        && let Err(error) = must_be_owner(table)
    {
        error.raise();
    }
}

/// The table of a trigger that was made just now. A foreign key makes triggers on the table it refers to.
fn table_of_trigger(trigger: pg_sys::Oid) -> Option<pg_sys::Oid> {
    const USE_INDEX: bool = true;
    // SAFETY: in a transaction; everything that is opened is closed, and by the transaction's end if an ERROR
    // comes between. What this command has written is seen under SnapshotSelf alone; the struct is that of the
    // catalog's rows.
    unsafe {
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &raw mut key,
            pg_sys::Anum_pg_trigger_oid as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_OIDEQ),
            pg_sys::Datum::from(trigger),
        );
        let catalog = pg_sys::table_open(pg_sys::TriggerRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan(
            catalog,
            pg_sys::Oid::from(pg_sys::TriggerOidIndexId),
            USE_INDEX,
            &raw mut pg_sys::SnapshotSelfData,
            1,
            &raw mut key,
        );
        let tuple = pg_sys::systable_getnext(scan);
        let table = (!tuple.is_null()).then(|| {
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_trigger>();
            (*form).tgrelid
        });
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
        table
    }
}

/// Fails if the table is the extension's, and the user has not the rights of its owner.
fn must_be_owner(table: pg_sys::Oid) -> Result<(), Error> {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: look-ups in a transaction; an oid that names nothing is of no extension.
    let (ours, extension, user) = unsafe {
        (
            pg_sys::get_extension_oid(c"webhooks".as_ptr(), MISSING_IS_FINE),
            pg_sys::getExtensionOfObject(pg_sys::RelationRelationId, table),
            pg_sys::GetUserId(),
        )
    };
    if ours == pg_sys::InvalidOid || extension != ours {
        return Ok(());
    }
    let owner = owner::oid()?;
    // SAFETY: syscache look-ups in a transaction.
    if unsafe { pg_sys::has_privs_of_role(user, owner) } {
        Ok(())
    } else {
        Err(Error::denied(
            "tables of webhooks",
            "Only their owner may truncate them, or have triggers on them and foreign keys to them.",
        ))
    }
}
