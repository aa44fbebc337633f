//! The schema `webhooks`, which CREATE EXTENSION makes if it is not there. It is not the extension's for PostgreSQL, so
//! DROP EXTENSION would leave it behind.

use crate::error::reply;
use crate::seam::owner::{self, as_owner};
use crate::seam::sql::{self, Statement};
use pgrx::pg_sys;

static REMEMBER: Statement = Statement::new(c"UPDATE webhooks.home SET made_schema = true", &[]);
static WAS_MADE: Statement = Statement::new(
    c"SELECT pg_catalog.bool_or(h.made_schema) FROM webhooks.home h",
    &[],
);
/// Whether anything is in the schema, or depends on it in another way.
static IS_USED: Statement = Statement::new(
    c"SELECT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.refobjid = $1)",
    &[pg_sys::OIDOID],
);

fn oid() -> pg_sys::Oid {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: a look-up in a transaction.
    unsafe { pg_sys::get_namespace_oid(c"webhooks".as_ptr(), MISSING_IS_FINE) }
}

/// Whether there is a schema of that name.
pub(super) fn exists() -> bool {
    oid() != pg_sys::InvalidOid
}

/// Whether the tables of this version remember it: those of 0.2 do not.
fn is_remembered() -> bool {
    owner::relation(c"home").is_ok_and(|home| {
        // SAFETY: a look-up in a transaction; the name is NUL-terminated.
        unsafe { pg_sys::get_attnum(home, c"made_schema".as_ptr()) > 0 }
    })
}

/// Notes that CREATE EXTENSION has made it.
pub(super) fn remember_that_it_was_made() {
    if is_remembered() {
        reply(as_owner(|| {
            sql::connect(|spi| spi.write(&REMEMBER, &[]).len());
            Ok(())
        }));
    }
}

/// Whether CREATE EXTENSION has made it.
pub(super) fn was_made_with_extension() -> bool {
    is_remembered()
        && reply(as_owner(|| {
            Ok(sql::connect(|spi| {
                spi.write(&WAS_MADE, &[]).get(0, 1) == Some(true)
            }))
        }))
}

/// Drops it, unless a user has put something into it.
pub(super) fn drop_if_empty() {
    const WHOLE: i32 = 0;
    const NOTHING_SPECIAL: i32 = 0;
    let schema = oid();
    if schema == pg_sys::InvalidOid {
        return;
    }
    // SAFETY: in a transaction; what DROP EXTENSION has done must be seen.
    unsafe { pg_sys::CommandCounterIncrement() };
    let used = sql::connect(|spi| {
        spi.write(&IS_USED, &[sql::arg(schema)])
            .get::<bool>(0, 1)
            .unwrap_or(true)
    });
    if used {
        return;
    }
    let schema = pg_sys::ObjectAddress {
        classId: pg_sys::NamespaceRelationId,
        objectId: schema,
        objectSubId: WHOLE,
    };
    // SAFETY: in a transaction; the schema is there.
    unsafe {
        pg_sys::performDeletion(
            &raw const schema,
            pg_sys::DropBehavior::DROP_RESTRICT,
            NOTHING_SPECIAL,
        );
    }
}
