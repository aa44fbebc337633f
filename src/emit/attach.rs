//! attach and detach: the emit triggers on users' tables. The triggers' arguments are the settings, so
//! that they go with the table through rename, dump and restore.

use crate::access;
use crate::error::{Error, reply};
use crate::functions::register_event_type_as_owner as register;
use crate::seam::owner::as_owner;
use pgrx::prelude::*;
use pgrx::{Spi, pg_sys};
use std::ffi::{CStr, CString};
use webhooks_core::quote::quote as shown;

/// Names of the triggers, one for each operation.
const TRIGGERS: [(&str, &str); 3] = [
    ("webhooks_emit_insert", "INSERT"),
    ("webhooks_emit_update", "UPDATE"),
    ("webhooks_emit_delete", "DELETE"),
];

#[pg_extern(sql = false)]
fn attach(
    table_name: Option<pg_sys::Oid>,
    object: Option<&str>,
    id_column: Option<&CStr>,
    owner_column: Option<&CStr>,
    exclude_columns: Option<Vec<Option<String>>>,
    soft_delete_column: Option<&CStr>,
) {
    reply((|| {
        access::must_write("attach()")?;
        let table = Table::of(table_name)?;
        table.must_be_attachable()?;
        let object = object.unwrap_or("memory");
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
        let column = |name: Option<&CStr>| name.map(|it| it.to_string_lossy().into_owned());
        let id_column = column(id_column).unwrap_or_else(|| "id".to_owned());
        let (owner_column, soft_delete_column) = (column(owner_column), column(soft_delete_column));
        let excluded: Vec<String> = exclude_columns
            .unwrap_or_default()
            .into_iter()
            .flatten()
            .collect();
        for name in [&id_column]
            .into_iter()
            .chain(&owner_column)
            .chain(&soft_delete_column)
            .chain(&excluded)
        {
            table.must_have(name)?;
        }
        if excluded.contains(&id_column) {
            return Err(Error::invalid(
                "the id column cannot be excluded",
                "Leave it out of exclude_columns.",
            ));
        }
        if object != "memory" {
            for (action, description) in [
                ("created", "was inserted, or came back from its soft delete"),
                ("updated", "was changed"),
                ("deleted", "was deleted, softly too"),
            ] {
                register(
                    &format!("{object}.{action}"),
                    &format!("a {object} {description}"),
                )?;
            }
        }
        let mut arguments = vec![
            object.to_owned(),
            id_column,
            owner_column.unwrap_or_default(),
            soft_delete_column.unwrap_or_default(),
        ];
        arguments.extend(excluded);
        table.replace_triggers(Some(&arguments))
    })());
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
        Ok(())
    }

    fn must_have(&self, column: &str) -> Result<(), Error> {
        let name = CString::new(column).unwrap_or_default();
        // SAFETY: the name is NUL-terminated; a missing column gives InvalidAttrNumber.
        let number = unsafe { pg_sys::get_attnum(self.oid, name.as_ptr()) };
        if number > 0 {
            Ok(())
        } else {
            Err(Error::NoColumn {
                column: shown(column),
                table: self.name.clone(),
            })
        }
    }

    /// Drops our triggers; with arguments, makes them anew.
    fn replace_triggers(&self, arguments: Option<&[String]>) -> Result<(), Error> {
        // SAFETY: in a transaction; the lock is the one that CREATE TRIGGER takes, and whoever owns the table
        // may take it.
        unsafe { pg_sys::LockRelationOid(self.oid, pg_sys::ShareRowExclusiveLock as i32) }
        // It may have another name or owner since it was looked at. Now it keeps them.
        let locked = Self::of(Some(self.oid))?;
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

fn quote(name: &str) -> String {
    pgrx::spi::quote_identifier(name)
}

fn literal(text: &str) -> String {
    pgrx::spi::quote_literal(text)
}
