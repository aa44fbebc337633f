//! The settings of attached tables, which the arguments of our triggers hold: read, and kept true when columns are
//! renamed or dropped.

use super::kind::Attribute;
use crate::error::Error;
use crate::seam::raw;
use pgrx::{IntoDatum, pg_sys};
use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::CStr;
use webhooks_core::attachment::Attachment;
use webhooks_core::quote::quote as shown_name;

/// What of a row is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Shown {
    /// All of its columns that are not excluded.
    Columns,
    /// Object and id: a column that a setting names is not there, and what the setting hides may have
    /// another name now.
    ObjectAndId,
    /// Nothing: the id column is not there.
    Nothing,
}

/// The settings that a trigger's arguments hold.
///
/// # Safety
/// The trigger must be one of a relation that is open.
pub(super) unsafe fn settings_of(trigger: *const pg_sys::Trigger) -> Attachment {
    // SAFETY: as the caller says; tgargs has tgnargs NUL-terminated strings.
    let arguments: Vec<String> = unsafe {
        (0..usize::try_from((*trigger).tgnargs).unwrap_or(0))
            .map(|index| {
                CStr::from_ptr(*(*trigger).tgargs.add(index))
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    };
    Attachment::parse(arguments.iter().map(String::as_str))
}

/// The settings in `pg_trigger.tgargs`: the arguments, each with a NUL behind it.
fn settings_in(tgargs: &[u8]) -> Attachment {
    let text = String::from_utf8_lossy(tgargs);
    Attachment::parse(text.strip_suffix('\0').unwrap_or(&text).split('\0'))
}

/// The columns that settings name and the table does not have, each with the setting's name. An ignored column that
/// is missing hides nothing.
pub(super) fn missing_columns<'a>(
    settings: &'a Attachment,
    attributes: &[Attribute],
) -> Vec<(&'static str, &'a str)> {
    let one = |setting, column: &'a Option<String>| column.iter().map(move |name| (setting, name));
    std::iter::once(("id_column", &settings.id_column))
        .chain(one("owner_column", &settings.owner_column))
        .chain(one("soft_delete_column", &settings.soft_delete_column))
        .chain(
            settings
                .exclude_columns
                .iter()
                .map(|name| ("exclude_columns", name)),
        )
        .map(|(setting, name)| (setting, name.as_str()))
        .filter(|(_, name)| !attributes.iter().any(|attribute| attribute.name == *name))
        .collect()
}

thread_local! {
    /// Tables that were told about: plans are made anew after each DDL, and the log needs it once.
    static TOLD: RefCell<HashSet<(u32, String)>> = RefCell::default();
}

/// Says in the log, once in each session, what keeps events of a table from being whole.
///
/// # Safety
/// Both must be those of a trigger that is being fired.
pub(super) unsafe fn tell(
    relation: pg_sys::Relation,
    trigger: *const pg_sys::Trigger,
    missing: &[(&str, &str)],
    shown: Shown,
) {
    // SAFETY: as the caller says.
    let (oid, name) = unsafe {
        let mut oid = (*relation).rd_id;
        if (*trigger).tgisclone {
            // A partition has the triggers of the table that is attached.
            oid = raw::ancestors(oid)
                .into_iter()
                .find(|&ancestor| own_triggers(ancestor).contains(&true))
                .unwrap_or(oid);
        }
        (oid, name_of(oid))
    };
    let once =
        |what: &str| TOLD.with_borrow_mut(|told| told.insert((oid.to_u32(), what.to_owned())));
    for (setting, column) in missing {
        let message = format!(
            "table \"{name}\" has no column \"{}\", which {setting} of webhooks.attach() names: {}",
            shown_name(column),
            match shown {
                Shown::Nothing => "its changes emit nothing",
                _ => "its events hold object and id only",
            }
        );
        if once(&message) {
            Error::State {
                message,
                hint: Some(format!(
                    "Attach it again: SELECT webhooks.attach('{name}', …), with the settings that \
                     webhooks.attached shows."
                )),
            }
            .log();
        }
    }
    // SAFETY: as the caller says.
    if let Some(refusal) = unsafe { relatives(oid) }
        && once("relatives")
    {
        Error::State {
            message: format!("table \"{name}\" is attached, but {}", refusal.unseen),
            hint: Some(refusal.hint),
        }
        .warn();
    }
}

/// The table by way of which a partition is attached, if it is.
///
/// # Safety
/// In a transaction, the oid of a table.
pub(super) unsafe fn attached_with(table: pg_sys::Oid) -> Option<String> {
    // SAFETY: as the caller says.
    unsafe {
        let with_parent = own_triggers(table).into_iter().any(|own| !own);
        let root = raw::ancestors(table)
            .into_iter()
            .rfind(|&ancestor| !own_triggers(ancestor).is_empty());
        with_parent
            .then_some(root)
            .flatten()
            .map(|root| name_of(root))
    }
}

/// Partitions of a table, at any depth, that are attached by themselves.
///
/// # Safety
/// In a transaction, the oid of a table.
pub(super) unsafe fn attached_partitions(table: pg_sys::Oid) -> Vec<String> {
    // SAFETY: as the caller says.
    unsafe {
        if pg_sys::get_rel_relkind(table) as u8 != pg_sys::RELKIND_PARTITIONED_TABLE {
            return Vec::new();
        }
        raw::descendants(table)
            .into_iter()
            .filter(|&partition| partition != table)
            .filter(|&partition| own_triggers(partition).contains(&true))
            .map(|partition| name_of(partition))
            .collect()
    }
}

/// Whether a table has triggers of ours.
///
/// # Safety
/// In a transaction.
pub(crate) unsafe fn is_attached(table: pg_sys::Oid) -> bool {
    // SAFETY: as the caller says.
    unsafe { !own_triggers(table).is_empty() }
}

/// Our triggers on a table: of each, whether it is the table's own and not one of the table that it is a part of.
unsafe fn own_triggers(table: pg_sys::Oid) -> Vec<bool> {
    let mut found = Vec::new();
    // SAFETY: in a transaction, as the callers are.
    unsafe {
        each_trigger(table, pg_sys::AccessShareLock, |_, _, form| {
            found.push(form.tgparentid == pg_sys::InvalidOid);
        });
    }
    found
}

/// Why a table that is a part of others, or has parts, cannot be served by its own triggers.
pub(super) struct Relatives {
    /// What it is: "partition", for "cannot attach partition".
    pub(super) kind: &'static str,
    /// What its triggers do not see.
    pub(super) unseen: String,
    pub(super) hint: String,
}

/// Whether changes can come to a table by way of another one, so that its own triggers do not see them.
///
/// # Safety
/// In a transaction, the oid of a table.
pub(super) unsafe fn relatives(table: pg_sys::Oid) -> Option<Relatives> {
    // SAFETY: as the caller says.
    unsafe {
        let is_partition = pg_sys::get_rel_relispartition(table);
        let kind = pg_sys::get_rel_relkind(table) as u8;
        if is_partition {
            let root = raw::ancestors(table).pop().map(|root| name_of(root))?;
            return Some(Relatives {
                kind: "partition",
                unseen: format!(
                    "it is a partition of \"{root}\": changes that are made through that are not seen"
                ),
                hint: format!(
                    "Attach the table that it is a part of: SELECT webhooks.attach('{root}');"
                ),
            });
        }
        if kind == pg_sys::RELKIND_PARTITIONED_TABLE {
            return None;
        }
        if raw::has_parent(table) {
            return Some(Relatives {
                kind: "inheritance child",
                unseen: "it inherits from another table: changes that are made through that are not seen"
                    .to_owned(),
                hint: "Attach a table without inheritance, or a partitioned one, which replaces it."
                    .to_owned(),
            });
        }
        if raw::has_children(table) {
            return Some(Relatives {
                kind: "inheritance parent",
                unseen: "others inherit from it: changes of their rows are not seen".to_owned(),
                hint:
                    "Attach a table without inheritance, or a partitioned one, which replaces it."
                        .to_owned(),
            });
        }
        None
    }
}

/// The name of a table for people, qualified where it must be, quoted where it must be.
///
/// # Safety
/// In a transaction.
pub(crate) unsafe fn name_of(table: pg_sys::Oid) -> String {
    // SAFETY: as the caller says; regclassout takes any oid and gives a NUL-terminated text.
    unsafe {
        let text = pg_sys::OidOutputFunctionCall(
            pg_sys::Oid::from(pg_sys::F_REGCLASSOUT),
            pg_sys::Datum::from(table),
        );
        CStr::from_ptr(text).to_string_lossy().into_owned()
    }
}

/// A column that is renamed or dropped, just now and by this command.
enum Change<'a> {
    Renamed { old: &'a str, new: &'a str },
    Dropped(&'a str),
}

/// A column was altered: if it has another name now, the settings that name it follow.
///
/// # Safety
/// In a transaction, from the hook that is called after an alteration and before it is visible.
pub(crate) unsafe fn column_altered(table: pg_sys::Oid, column: i16) {
    // SAFETY: as the caller says.
    unsafe {
        let (Some(old), Some(new)) = (old_name(table, column), new_name(table, column)) else {
            return;
        };
        if old != new {
            change(
                table,
                &Change::Renamed {
                    old: &old,
                    new: &new,
                },
            );
        }
    }
}

/// A column is about to be dropped: lists that name it do so no longer.
///
/// # Safety
/// In a transaction, from the hook that is called before the drop.
pub(crate) unsafe fn column_dropped(table: pg_sys::Oid, column: i16) {
    // SAFETY: as the caller says.
    unsafe {
        if let Some(name) = old_name(table, column) {
            change(table, &Change::Dropped(&name));
        }
    }
}

/// The name that this command found.
unsafe fn old_name(table: pg_sys::Oid, column: i16) -> Option<String> {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: a look-up in a transaction; the name is NUL-terminated or null.
    unsafe {
        let name = pg_sys::get_attname(table, column, MISSING_IS_FINE);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// The name that this command has written, which SnapshotSelf alone shows.
unsafe fn new_name(table: pg_sys::Oid, column: i16) -> Option<String> {
    const USE_INDEX: bool = true;
    // SAFETY: in a transaction; everything that is opened is closed, and by the transaction's end if an ERROR
    // comes between. The struct is that of the catalog's rows.
    unsafe {
        let mut keys = [pg_sys::ScanKeyData::default(); 2];
        key_is_oid(&mut keys[0], pg_sys::Anum_pg_attribute_attrelid, table);
        pg_sys::ScanKeyInit(
            &raw mut keys[1],
            pg_sys::Anum_pg_attribute_attnum as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_INT2EQ),
            pg_sys::Datum::from(column),
        );
        let catalog =
            pg_sys::table_open(pg_sys::AttributeRelationId, pg_sys::AccessShareLock as i32);
        let scan = pg_sys::systable_beginscan(
            catalog,
            pg_sys::Oid::from(pg_sys::AttributeRelidNumIndexId),
            USE_INDEX,
            &raw mut pg_sys::SnapshotSelfData,
            2,
            keys.as_mut_ptr(),
        );
        let tuple = pg_sys::systable_getnext(scan);
        let name = (!tuple.is_null()).then(|| {
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_attribute>();
            CStr::from_ptr((*form).attname.data.as_ptr())
                .to_string_lossy()
                .into_owned()
        });
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as i32);
        name
    }
}

unsafe fn key_is_oid(key: &mut pg_sys::ScanKeyData, column: u32, oid: pg_sys::Oid) {
    // SAFETY: the key is valid; oids are compared by their own function.
    unsafe {
        pg_sys::ScanKeyInit(
            key,
            column as pg_sys::AttrNumber,
            pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber,
            pg_sys::Oid::from(pg_sys::F_OIDEQ),
            pg_sys::Datum::from(oid),
        );
    }
}

/// Whether a function is ours that attached tables fire. No name is looked up as a user would: that needs USAGE on
/// our schema, which the owner of a table may not have.
unsafe fn is_emit_function(function: pg_sys::Oid) -> bool {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: look-ups in a transaction; names are NUL-terminated or null.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"webhooks".as_ptr(), MISSING_IS_FINE);
        let name = pg_sys::get_func_name(function);
        schema != pg_sys::InvalidOid
            && pg_sys::get_func_namespace(function) == schema
            && !name.is_null()
            && CStr::from_ptr(name) == c"emit_changes"
    }
}

/// Calls `work` with the catalog of triggers, and with each trigger of a table that is ours.
unsafe fn each_trigger(
    table: pg_sys::Oid,
    lock: u32,
    mut work: impl FnMut(pg_sys::Relation, pg_sys::HeapTuple, &pg_sys::FormData_pg_trigger),
) {
    const USE_INDEX: bool = true;
    // SAFETY: in a transaction; everything that is opened is closed. The newest version of each trigger is read, by
    // SnapshotSelf, since the same command may have written it. The struct is that of the catalog's rows.
    unsafe {
        let catalog = pg_sys::table_open(pg_sys::TriggerRelationId, lock as i32);
        let mut key = pg_sys::ScanKeyData::default();
        key_is_oid(&mut key, pg_sys::Anum_pg_trigger_tgrelid, table);
        let scan = pg_sys::systable_beginscan(
            catalog,
            pg_sys::Oid::from(pg_sys::TriggerRelidNameIndexId),
            USE_INDEX,
            &raw mut pg_sys::SnapshotSelfData,
            1,
            &raw mut key,
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_trigger>();
            if is_emit_function((*form).tgfoid) {
                work(catalog, tuple, &*form);
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(catalog, lock as i32);
    }
}

/// Writes the settings of a table's triggers anew, if the change concerns any of them.
unsafe fn change(table: pg_sys::Oid, change: &Change) {
    let mut changed = false;
    // SAFETY: in a transaction that holds the lock of ALTER TABLE.
    unsafe {
        each_trigger(table, pg_sys::RowExclusiveLock, |catalog, tuple, _| {
            changed |= change_trigger(catalog, tuple, change);
        });
        if changed {
            pg_sys::CacheInvalidateRelcacheByRelid(table);
        }
    }
}

/// # Safety
/// The catalog of triggers, open for writing, and a tuple of it.
unsafe fn change_trigger(
    catalog: pg_sys::Relation,
    tuple: pg_sys::HeapTuple,
    change: &Change,
) -> bool {
    const COLUMNS: usize = pg_sys::Natts_pg_trigger as usize;
    const COUNT: usize = pg_sys::Anum_pg_trigger_tgnargs as usize - 1;
    const ARGUMENTS: usize = pg_sys::Anum_pg_trigger_tgargs as usize - 1;
    // SAFETY: as the caller says; tgargs is a bytea that is not null, and the arrays have a place for each column.
    unsafe {
        let mut is_null = true;
        let bytes = pg_sys::heap_getattr(
            tuple,
            pg_sys::Anum_pg_trigger_tgargs as i32,
            (*catalog).rd_att,
            &mut is_null,
        );
        let bytes = pg_sys::pg_detoast_datum_packed(bytes.cast_mut_ptr());
        let mut settings = settings_in(pgrx::varlena_to_byte_slice(bytes));
        let changed = match change {
            Change::Renamed { old, new } => settings.rename_column(old, new),
            Change::Dropped(name) => settings.drop_column(name),
        };
        if !changed {
            return false;
        }
        let arguments = settings.arguments();
        let count = i16::try_from(arguments.len()).unwrap_or(i16::MAX);
        let joined: String = arguments.iter().flat_map(|text| [text, "\0"]).collect();
        let mut values = [pg_sys::Datum::from(0); COLUMNS];
        let mut nulls = [false; COLUMNS];
        let mut replace = [false; COLUMNS];
        values[COUNT] = pg_sys::Datum::from(count);
        values[ARGUMENTS] = joined
            .as_bytes()
            .into_datum()
            .unwrap_or(pg_sys::Datum::from(0));
        (replace[COUNT], replace[ARGUMENTS]) = (true, true);
        let new = pg_sys::heap_modify_tuple(
            tuple,
            (*catalog).rd_att,
            values.as_mut_ptr(),
            nulls.as_mut_ptr(),
            replace.as_mut_ptr(),
        );
        pg_sys::CatalogTupleUpdate(catalog, &raw mut (*tuple).t_self, new);
        true
    }
}
