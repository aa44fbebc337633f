//! Names of our objects, which neither the library nor a dump would find under other ones.

use crate::error::Error;
use pgrx::pg_sys;
use std::ffi::CStr;

const SCHEMAS: [&CStr; 2] = [c"webhooks", c"webhooks_api"];

/// What a statement renames, or moves to another schema.
struct Object {
    kind: pg_sys::ObjectType::Type,
    /// Of a table or view, or of something of theirs.
    relation: *mut pg_sys::RangeVar,
    /// Of a function or a type.
    node: *mut pg_sys::Node,
}

/// Why something cannot be renamed.
///
/// # Safety
/// A statement as Postgres hands it to its utility hook, in a transaction.
pub(super) unsafe fn refusal_of_name(rename: *mut pg_sys::RenameStmt) -> Option<Error> {
    // SAFETY: as the caller says; the name of a schema is NUL-terminated.
    unsafe {
        if (*rename).renameType == pg_sys::ObjectType::OBJECT_SCHEMA {
            let name = CStr::from_ptr((*rename).subname);
            let ours = SCHEMAS.contains(&name) && extension().is_some();
            return ours.then(|| Error::Required {
                what: format!("rename schema {}", name.to_string_lossy()),
            });
        }
        let object = Object {
            kind: (*rename).renameType,
            relation: (*rename).relation,
            node: (*rename).object,
        };
        refusal("rename", &object)
    }
}

/// Why something cannot be moved to another schema.
///
/// # Safety
/// A statement as Postgres hands it to its utility hook, in a transaction.
pub(super) unsafe fn refusal_of_schema(alter: *mut pg_sys::AlterObjectSchemaStmt) -> Option<Error> {
    // SAFETY: as the caller says.
    unsafe {
        let object = Object {
            kind: (*alter).objectType,
            relation: (*alter).relation,
            node: (*alter).object,
        };
        refusal("move", &object)
    }
}

/// Our extension, if this database has it, and no script of an extension's is running, which knows what it does.
fn extension() -> Option<pg_sys::Oid> {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: a look-up in a transaction, and a variable of this process.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"webhooks".as_ptr(), MISSING_IS_FINE);
        (extension != pg_sys::InvalidOid && !pg_sys::creating_extension).then_some(extension)
    }
}

/// # Safety
/// Nodes of a statement that Postgres hands to its utility hook, in a transaction.
unsafe fn refusal(verb: &str, object: &Object) -> Option<Error> {
    let extension = extension()?;
    // SAFETY: as the caller says. Postgres itself looks the object up again, with a lock and the caller's rights.
    unsafe {
        let address = address(object)?;
        let ours = pg_sys::getExtensionOfObject(address.classId, address.objectId) == extension;
        ours.then(|| {
            const MISSING_IS_FINE: bool = true;
            let described = pg_sys::getObjectDescription(&raw const address, MISSING_IS_FINE);
            let described = if described.is_null() {
                "it".into()
            } else {
                CStr::from_ptr(described).to_string_lossy()
            };
            Error::Required {
                what: format!("{verb} {described}"),
            }
        })
    }
}

/// The table, view, function or type that a statement is about; `None`: it is about something else.
///
/// # Safety
/// As for [`refusal`].
unsafe fn address(object: &Object) -> Option<pg_sys::ObjectAddress> {
    use pg_sys::ObjectType::{
        OBJECT_DOMAIN, OBJECT_FUNCTION, OBJECT_PROCEDURE, OBJECT_ROUTINE, OBJECT_TYPE,
    };
    const MISSING_IS_FINE: bool = true;
    // SAFETY: as the caller says. The grammar gives a function as ObjectWithArgs, and a type as the list of its names.
    let (class, oid) = unsafe {
        if !object.relation.is_null() {
            let oid = pg_sys::RangeVarGetRelidExtended(
                object.relation,
                pg_sys::NoLock as pg_sys::LOCKMODE,
                pg_sys::RVROption::RVR_MISSING_OK,
                None,
                std::ptr::null_mut(),
            );
            (pg_sys::RelationRelationId, oid)
        } else {
            match object.kind {
                kind @ (OBJECT_FUNCTION | OBJECT_PROCEDURE | OBJECT_ROUTINE) => {
                    let function = object.node.cast();
                    let oid = pg_sys::LookupFuncWithArgs(kind, function, MISSING_IS_FINE);
                    (pg_sys::ProcedureRelationId, oid)
                }
                OBJECT_DOMAIN | OBJECT_TYPE => {
                    let name = pg_sys::makeTypeNameFromNameList(object.node.cast());
                    let oid =
                        pg_sys::LookupTypeNameOid(std::ptr::null_mut(), name, MISSING_IS_FINE);
                    (pg_sys::TypeRelationId, oid)
                }
                _ => return None,
            }
        }
    };
    Some(pg_sys::ObjectAddress {
        classId: class,
        objectId: oid,
        objectSubId: 0,
    })
}
