//! attach and detach: the emit triggers on users' tables. The triggers' arguments are the settings, so
//! that they go with the table through rename, dump and restore.

use super::attached::{self, Relatives};
use super::kind::{Attribute, attributes};
use crate::access;
use crate::error::{Error, reply};
use crate::functions::register_event_type_as_owner as register;
use crate::seam::owner::as_owner;
use pgrx::prelude::*;
use pgrx::{Spi, pg_sys};
use std::ffi::{CStr, CString};
use webhooks_core::attachment::{Attachment, Form};
use webhooks_core::quote::quote as shown;
use webhooks_core::table_name;

/// Names of the triggers, one for each operation.
const TRIGGERS: [(&str, &str); 3] = [
    ("webhooks_emit_insert", "INSERT"),
    ("webhooks_emit_update", "UPDATE"),
    ("webhooks_emit_delete", "DELETE"),
];

/// attach() as 0.3 declares it.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)] // the SQL function's
fn attach_table(
    table_name: Option<pg_sys::Oid>,
    object: Option<&str>,
    id_column: Option<&CStr>,
    owner_column: Option<&CStr>,
    exclude_columns: Option<Vec<Option<String>>>,
    soft_delete_column: Option<&CStr>,
    ignore_columns: Option<Vec<Option<String>>>,
    include_vectors: Option<bool>,
) {
    reply(attach_with(
        table_name,
        Attachment {
            ignore_columns: given(ignore_columns),
            include_vectors: include_vectors.unwrap_or(false),
            form: Form::Keys,
            ..settings(
                object,
                id_column,
                owner_column,
                exclude_columns,
                soft_delete_column,
            )
        },
    ));
}

/// attach() as 0.1 and 0.2 declare it: a catalog that was not updated yet calls it, and reads arguments of its form.
#[pg_extern(sql = false)]
fn attach(
    table_name: Option<pg_sys::Oid>,
    object: Option<&str>,
    id_column: Option<&CStr>,
    owner_column: Option<&CStr>,
    exclude_columns: Option<Vec<Option<String>>>,
    soft_delete_column: Option<&CStr>,
) {
    reply(attach_with(
        table_name,
        Attachment {
            include_vectors: true,
            form: Form::Places,
            ..settings(
                object,
                id_column,
                owner_column,
                exclude_columns,
                soft_delete_column,
            )
        },
    ));
}

fn given(names: Option<Vec<Option<String>>>) -> Vec<String> {
    names.unwrap_or_default().into_iter().flatten().collect()
}

fn settings(
    object: Option<&str>,
    id_column: Option<&CStr>,
    owner_column: Option<&CStr>,
    exclude_columns: Option<Vec<Option<String>>>,
    soft_delete_column: Option<&CStr>,
) -> Attachment {
    let column = |name: Option<&CStr>| name.map(|it| it.to_string_lossy().into_owned());
    Attachment {
        object: object.unwrap_or("memory").to_owned(),
        id_column: column(id_column).unwrap_or_else(|| "id".to_owned()),
        owner_column: column(owner_column),
        soft_delete_column: column(soft_delete_column),
        exclude_columns: given(exclude_columns),
        ignore_columns: Vec::new(),
        include_vectors: false,
        form: Form::Keys,
    }
}

fn attach_with(table_name: Option<pg_sys::Oid>, settings: Attachment) -> Result<(), Error> {
    access::must_write("attach()")?;
    let table = Table::of(table_name)?;
    table.must_be_attachable()?;
    must_be_object(&settings.object)?;
    table.must_fit(&settings)?;
    if settings.object != "memory" {
        for (action, description) in [
            ("created", "was inserted, or came back from its soft delete"),
            ("updated", "was changed"),
            ("deleted", "was deleted, softly too"),
        ] {
            register(
                &format!("{}.{action}", settings.object),
                &format!("a {} {description}", settings.object),
            )?;
        }
    }
    table.replace_triggers(Some(&settings.arguments()))?;
    table.tell(&settings);
    Ok(())
}

fn must_be_object(object: &str) -> Result<(), Error> {
    if !webhooks_core::event_type::valid_object(object) {
        return Err(Error::invalid(
            format!("invalid object \"{}\"", shown(object)),
            "An object is a name in lower case: letters, digits and underscores.",
        ));
    }
    if ["webhook", "delivery", "system", "analytics"].contains(&object) {
        return Err(Error::invalid(
            format!("object \"{object}\" is reserved"),
            "Choose another name for the rows of the table.",
        ));
    }
    Ok(())
}

#[pg_extern(sql = false)]
fn detach(table_name: Option<pg_sys::Oid>) {
    reply((|| {
        access::must_write("detach()")?;
        Table::of(table_name)?.replace_triggers(None)
    })());
}

/// A user's table whose owner is the caller.
struct Table {
    oid: pg_sys::Oid,
    kind: u8,
    is_temporary: bool,
    schema: String,
    name: String,
}

impl Table {
    fn of(oid: Option<pg_sys::Oid>) -> Result<Self, Error> {
        let oid = oid.ok_or_else(|| {
            Error::invalid("table_name must not be null", "Give the name of a table.")
        })?;
        let absent = || Error::Absent {
            what: "table",
            id: oid.to_u32().to_string(),
        };
        // SAFETY: syscache look-ups in a transaction; what they return is copied before it is released.
        let (table, owned) = unsafe {
            let tuple = pg_sys::SearchSysCache1(
                pg_sys::SysCacheIdentifier::RELOID as i32,
                pg_sys::Datum::from(oid),
            );
            if tuple.is_null() {
                return Err(absent());
            }
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
            let schema = pg_sys::get_namespace_name((*form).relnamespace);
            // Dropped since, with its tables.
            if schema.is_null() {
                pg_sys::ReleaseSysCache(tuple);
                return Err(absent());
            }
            let text = |pointer: *const std::ffi::c_char| {
                CStr::from_ptr(pointer).to_string_lossy().into_owned()
            };
            let table = Self {
                oid,
                kind: (*form).relkind as u8,
                is_temporary: (*form).relpersistence as u8 == pg_sys::RELPERSISTENCE_TEMP,
                schema: text(schema),
                name: text((*form).relname.data.as_ptr()),
            };
            let owner = (*form).relowner;
            pg_sys::ReleaseSysCache(tuple);
            (table, pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner))
        };
        if owned {
            Ok(table)
        } else {
            Err(Error::NotOwner(table.name))
        }
    }

    fn must_be_attachable(&self) -> Result<(), Error> {
        let refuse = |what: &str| {
            Err(Error::WrongObject {
                message: format!("cannot attach {what} \"{}\"", self.name),
                hint: Some("Attach an ordinary or partitioned table.".to_owned()),
            })
        };
        match self.kind {
            pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE => {}
            pg_sys::RELKIND_VIEW => return refuse("view"),
            pg_sys::RELKIND_MATVIEW => return refuse("materialized view"),
            pg_sys::RELKIND_FOREIGN_TABLE => return refuse("foreign table"),
            _ => return refuse("relation"),
        }
        if self.is_temporary {
            return refuse("temporary table");
        }
        if self.schema == "webhooks" || self.schema == "webhooks_api" {
            return refuse("a table of the extension,");
        }
        if self.schema == "pg_catalog" || self.schema == "information_schema" {
            return refuse("system table");
        }
        // SAFETY: in a transaction; the table is there.
        match unsafe { attached::relatives(self.oid) } {
            None => Ok(()),
            Some(Relatives { kind, hint, .. }) => Err(Error::WrongObject {
                message: format!("cannot attach {kind} \"{}\"", self.name),
                hint: Some(hint),
            }),
        }
    }

    /// Whether the columns that the settings name are there, and can play their part.
    fn must_fit(&self, settings: &Attachment) -> Result<(), Error> {
        let columns = self.columns()?;
        let has = |name: &str| columns.iter().any(|column| column.name == name);
        if !has(&settings.id_column) {
            return Err(Error::NoColumn {
                column: shown(&settings.id_column),
                table: self.name.clone(),
                hint: self.hint_for_id(&columns),
            });
        }
        let others = settings
            .owner_column
            .iter()
            .chain(&settings.soft_delete_column)
            .chain(&settings.exclude_columns)
            .chain(&settings.ignore_columns);
        for name in others {
            if !has(name) {
                return Err(Error::NoColumn {
                    column: shown(name),
                    table: self.name.clone(),
                    hint: format!("The columns of \"{}\" are {}.", self.name, listed(&columns)),
                });
            }
        }
        if settings.exclude_columns.contains(&settings.id_column) {
            return Err(Error::invalid(
                "the id column cannot be excluded",
                "Leave it out of exclude_columns.",
            ));
        }
        if let Some(name) = &settings.soft_delete_column
            && columns
                .iter()
                .any(|column| column.name == *name && column.not_null)
        {
            return Err(Error::invalid(
                format!(
                    "soft_delete_column \"{}\" is NOT NULL, so a row of \"{}\" would always be deleted",
                    shown(name),
                    self.name
                ),
                "Use a column that is NULL while the row is not deleted, such as deleted_at timestamptz.",
            ));
        }
        Ok(())
    }

    /// The columns as the catalog has them now.
    fn columns(&self) -> Result<Vec<Attribute>, Error> {
        // SAFETY: in a transaction; the relation is closed again, its lock stays.
        unsafe {
            let relation = pg_sys::try_table_open(self.oid, pg_sys::AccessShareLock as i32);
            if relation.is_null() {
                return Err(self.absent());
            }
            let columns = attributes((*relation).rd_att);
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            Ok(columns)
        }
    }

    fn absent(&self) -> Error {
        Error::Absent {
            what: "table",
            id: self.name.clone(),
        }
    }

    /// What to give as id_column.
    fn hint_for_id(&self, columns: &[Attribute]) -> String {
        let key = self.primary_key(columns);
        let call = |column: &str| {
            format!(
                "SELECT webhooks.attach({}, id_column => {})",
                literal(&self.reference()),
                literal(column)
            )
        };
        let all = listed(columns);
        match key.as_slice() {
            [] => format!(
                "Name the column that tells rows apart with id_column =>; the columns are {all}."
            ),
            [column] => format!("{}; the columns are {all}.", call(column)),
            several => format!(
                "The primary key is ({}), and an id is one column: name one that tells rows apart with id_column =>, \
                 or add one; the columns are {all}.",
                several.join(", ")
            ),
        }
    }

    /// The table as a call names it.
    fn reference(&self) -> String {
        // SAFETY: in a transaction.
        unsafe { attached::name_of(self.oid) }
    }

    /// The columns of the primary key; none: there is no such key.
    fn primary_key(&self, columns: &[Attribute]) -> Vec<String> {
        const OFFSET: i32 = pg_sys::FirstLowInvalidHeapAttributeNumber;
        // SAFETY: in a transaction; the relation is closed again, its lock stays.
        let key = unsafe {
            let relation = pg_sys::try_table_open(self.oid, pg_sys::AccessShareLock as i32);
            if relation.is_null() {
                return Vec::new();
            }
            let key = pg_sys::RelationGetIndexAttrBitmap(
                relation,
                pg_sys::IndexAttrBitmapKind::INDEX_ATTR_BITMAP_PRIMARY_KEY,
            );
            pg_sys::table_close(relation, pg_sys::NoLock as i32);
            key
        };
        columns
            .iter()
            .filter(|column| {
                let number = i32::try_from(column.index + 1).unwrap_or(0);
                // SAFETY: a set that Postgres has made, or none.
                unsafe { pg_sys::bms_is_member(number - OFFSET, key) }
            })
            .map(|column| column.name.clone())
            .collect()
    }

    /// Says what somebody may not expect of the table, now that it is attached.
    fn tell(&self, settings: &Attachment) {
        if settings.object == "memory" && !table_name::suggests(&self.name, "memory") {
            let object = table_name::object_of(&self.name)
                .filter(|object| must_be_object(object).is_ok())
                .unwrap_or_else(|| "row".to_owned());
            notice(
                format!(
                    "changes of table \"{}\" are sent as memory.created, memory.updated and memory.deleted",
                    self.name
                ),
                format!(
                    "For {object}.created and so on: {};",
                    call(&self.reference(), &object, settings)
                ),
            );
        }
        let Ok(columns) = self.columns() else { return };
        let shown_here = |name: &str| {
            columns.iter().any(|column| column.name == name)
                && settings.id_column != name
                && !settings.exclude_columns.iter().any(|it| it == name)
        };
        for (key, hidden) in [
            (
                "object",
                "is not sent: the key \"object\" of data names the kind of row",
            ),
            (
                "id",
                "is not sent: the key \"id\" of data is that of the id column",
            ),
            (
                "changes",
                "is not sent with updates: the key \"changes\" of data tells what has changed",
            ),
        ] {
            if shown_here(key) {
                notice(
                    format!("column \"{key}\" of table \"{}\" {hidden}", self.name),
                    "Rename the column if receivers need it.".to_owned(),
                );
            }
        }
        if self.primary_key(&columns).is_empty() {
            notice(
                format!("table \"{}\" has no primary key", self.name),
                format!(
                    "Nothing keeps two of its rows from having the same \"{}\", which receivers know them by.",
                    settings.id_column
                ),
            );
        }
    }

    /// Drops our triggers; with arguments, makes them anew.
    fn replace_triggers(&self, arguments: Option<&[String]>) -> Result<(), Error> {
        // SAFETY: in a transaction; the lock is the one that CREATE TRIGGER takes, and whoever owns the table
        // may take it.
        unsafe { pg_sys::LockRelationOid(self.oid, pg_sys::ShareRowExclusiveLock as i32) }
        // It may have another name or owner since it was looked at. Now it keeps them.
        let locked = Self::of(Some(self.oid))?;
        locked.must_have_triggers_of_its_own()?;
        if arguments.is_some() {
            locked.partitions_must_have_none()?;
        }
        as_owner(|| {
            for (trigger, _) in TRIGGERS {
                locked.drop_trigger(trigger);
            }
            match arguments {
                Some(arguments) => locked.create_triggers(arguments),
                None => Ok(()),
            }
        })
    }

    /// A partition may have the triggers of the table that it is a part of: they go with that.
    fn must_have_triggers_of_its_own(&self) -> Result<(), Error> {
        // SAFETY: in a transaction, with the table locked.
        let attached_by = unsafe { attached::attached_with(self.oid) };
        match attached_by {
            Some(root) => Err(Error::WrongObject {
                message: format!(
                    "table \"{}\" is attached by way of \"{root}\", whose partition it is",
                    self.name
                ),
                hint: Some(format!(
                    "SELECT webhooks.detach({}) ends it for all partitions.",
                    literal(&root)
                )),
            }),
            None => Ok(()),
        }
    }

    /// Partitions that were attached by themselves would emit each change a second time, and PostgreSQL refuses them.
    fn partitions_must_have_none(&self) -> Result<(), Error> {
        // SAFETY: in a transaction, with the table locked.
        let attached = unsafe { attached::attached_partitions(self.oid) };
        match attached.first() {
            Some(partition) => Err(Error::WrongObject {
                message: format!(
                    "partition \"{partition}\" of table \"{}\" is attached by itself",
                    self.name
                ),
                hint: Some(format!(
                    "Detach it first: {}.",
                    attached
                        .iter()
                        .map(|partition| format!("SELECT webhooks.detach({})", literal(partition)))
                        .collect::<Vec<_>>()
                        .join("; ")
                )),
            }),
            None => Ok(()),
        }
    }

    fn create_triggers(&self, arguments: &[String]) -> Result<(), Error> {
        let table = format!("{}.{}", quote(&self.schema), quote(&self.name));
        let arguments: Vec<String> = arguments.iter().map(|it| literal(it)).collect();
        for (trigger, operation) in TRIGGERS {
            // Transition tables do not reach partitions; row triggers do, later ones included.
            let how = if self.kind == pg_sys::RELKIND_PARTITIONED_TABLE {
                "FOR EACH ROW".to_owned()
            } else {
                let tables = match operation {
                    "INSERT" => "NEW TABLE AS webhooks_new",
                    "UPDATE" => "OLD TABLE AS webhooks_old NEW TABLE AS webhooks_new",
                    _ => "OLD TABLE AS webhooks_old",
                };
                format!("REFERENCING {tables} FOR EACH STATEMENT")
            };
            Spi::run(&format!(
                "CREATE TRIGGER {trigger} AFTER {operation} ON {table} {how} EXECUTE FUNCTION webhooks.emit_changes({})",
                arguments.join(", ")
            ))?;
            // The table is locked, but not the name of its schema, by which the statement has found it.
            if self.trigger(trigger).is_none() {
                return Err(Error::State {
                    message: format!("table {table} was moved while it was attached"),
                    hint: Some("Attach it again.".to_owned()),
                });
            }
        }
        Ok(())
    }

    fn drop_trigger(&self, name: &str) {
        const WHOLE: i32 = 0;
        const NOTHING_SPECIAL: i32 = 0;
        let Some(oid) = self.trigger(name) else {
            return;
        };
        let trigger = pg_sys::ObjectAddress {
            classId: pg_sys::TriggerRelationId,
            objectId: oid,
            objectSubId: WHOLE,
        };
        // SAFETY: in a transaction that holds the lock of the table; the trigger exists. What follows must see
        // that it does no more.
        unsafe {
            pg_sys::performDeletion(
                &raw const trigger,
                pg_sys::DropBehavior::DROP_RESTRICT,
                NOTHING_SPECIAL,
            );
            pg_sys::CommandCounterIncrement();
        }
    }

    /// Oid of a trigger of this very table.
    fn trigger(&self, name: &str) -> Option<pg_sys::Oid> {
        const MISSING_IS_FINE: bool = true;
        let name = CString::new(name).ok()?;
        // SAFETY: a look-up in a transaction; the name is NUL-terminated.
        let oid = unsafe { pg_sys::get_trigger_oid(self.oid, name.as_ptr(), MISSING_IS_FINE) };
        (oid != pg_sys::InvalidOid).then_some(oid)
    }
}

/// The call that attaches a table with these settings, but with another object.
fn call(table: &str, object: &str, settings: &Attachment) -> String {
    let mut call = format!(
        "SELECT webhooks.attach({}, object => {}",
        literal(table),
        literal(object)
    );
    let mut add = |name: &str, value: String| {
        call.push_str(", ");
        call.push_str(name);
        call.push_str(" => ");
        call.push_str(&value);
    };
    if settings.id_column != "id" {
        add("id_column", literal(&settings.id_column));
    }
    for (name, column) in [
        ("owner_column", &settings.owner_column),
        ("soft_delete_column", &settings.soft_delete_column),
    ] {
        if let Some(column) = column {
            add(name, literal(column));
        }
    }
    for (name, columns) in [
        ("exclude_columns", &settings.exclude_columns),
        ("ignore_columns", &settings.ignore_columns),
    ] {
        if !columns.is_empty() {
            let columns: Vec<String> = columns.iter().map(|column| literal(column)).collect();
            add(name, format!("ARRAY[{}]", columns.join(", ")));
        }
    }
    if settings.include_vectors && settings.form == Form::Keys {
        add("include_vectors", "true".to_owned());
    }
    call.push(')');
    call
}

/// Names of columns for a message, as many as can be read.
fn listed(columns: &[Attribute]) -> String {
    const MOST: usize = 30;
    let mut names: Vec<String> = columns
        .iter()
        .take(MOST)
        .map(|column| shown(&column.name))
        .collect();
    if columns.len() > MOST {
        names.push("…".to_owned());
    }
    names.join(", ")
}

fn notice(message: String, hint: String) {
    Error::State {
        message,
        hint: Some(hint),
    }
    .notice();
}

fn quote(name: &str) -> String {
    pgrx::spi::quote_identifier(name)
}

fn literal(text: &str) -> String {
    pgrx::spi::quote_literal(text)
}
