//! Rights over an update, and on functions whose arguments change from one version to the next.
//!
//! An update drops such a function and makes it anew, and PostgreSQL forgets who might call it. What is granted in an
//! extension's script counts as the extension's own for pg_dump, which would leave it out of dumps; so rights are given
//! back when the script is over. A dump of an older version grants on the old arguments: that is understood as well.

use crate::access::Right;
use crate::error::Error;
use crate::functions::access::{CALLED_BY_VIEWS, complete_rights};
use crate::seam::owner::{self, as_owner, as_role};
use crate::seam::sql::{self, Statement};
use pgrx::{PgList, PgTryBuilder, Spi, pg_sys};
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::panic::AssertUnwindSafe;

/// Who may call a function of ours, beside its owner.
static RIGHTS: Statement = Statement::new(
    c"SELECT p.pronamespace::pg_catalog.regnamespace::text, p.proname::text,
             CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END, a.is_grantable,
             a.grantee,
             CASE WHEN a.grantor <> p.proowner
                       AND pg_catalog.has_schema_privilege(a.grantor, p.pronamespace, 'USAGE') THEN a.grantor END
        FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) a
       WHERE p.pronamespace = ANY (ARRAY(SELECT n.oid FROM pg_catalog.pg_namespace n
                                          WHERE n.nspname IN ('webhooks', 'webhooks_api')))
         AND a.grantee <> p.proowner AND a.privilege_type = 'EXECUTE'",
    &[],
);
/// Names of functions and views.
static NAMES: Statement = Statement::new(
    c"SELECT n.nspname || '.' || p.proname
        FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       WHERE n.nspname IN ('webhooks', 'webhooks_api')
      UNION
      SELECT n.nspname || '.' || c.relname
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname IN ('webhooks', 'webhooks_api') AND c.relkind = 'v'",
    &[],
);
/// The functions of a name, but for these objects.
static SUCCESSORS: Statement = Statement::new(
    c"SELECT p.oid::pg_catalog.regprocedure::text
        FROM pg_catalog.pg_proc p
       WHERE p.pronamespace = $1::pg_catalog.regnamespace AND p.proname = $2 AND 'FUNCTION' || p.oid <> ALL ($3)",
    &[pg_sys::TEXTOID, pg_sys::TEXTOID, pg_sys::TEXTARRAYOID],
);

/// The statements that take away what default privileges have given to roles by the way, but for these objects.
static UNASKED: Statement = Statement::new(
    c"WITH given (kind, id, name, acl, owner) AS (
          SELECT 'SCHEMA', n.oid, pg_catalog.format('%I', n.nspname), n.nspacl, n.nspowner
            FROM pg_catalog.pg_namespace n WHERE n.nspname IN ('webhooks', 'webhooks_api')
          UNION ALL
          SELECT 'TYPE', t.oid, t.oid::pg_catalog.regtype::text, t.typacl, t.typowner
            FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
           WHERE n.nspname IN ('webhooks', 'webhooks_api') AND t.typtype = 'd'
          UNION ALL
          SELECT 'TABLE', c.oid, c.oid::pg_catalog.regclass::text, c.relacl, c.relowner
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname IN ('webhooks', 'webhooks_api') AND c.relkind IN ('r', 'v')
          UNION ALL
          SELECT 'FUNCTION', p.oid, p.oid::pg_catalog.regprocedure::text, p.proacl, p.proowner
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
           WHERE n.nspname IN ('webhooks', 'webhooks_api'))
      SELECT DISTINCT pg_catalog.format('REVOKE ALL ON %s %s FROM %s', g.kind, g.name, a.grantee::pg_catalog.regrole)
        FROM given g, pg_catalog.aclexplode(g.acl) a
       WHERE a.grantee <> g.owner AND a.grantee <> 0 AND g.kind || g.id <> ALL ($1)",
    &[pg_sys::TEXTARRAYOID],
);
/// The objects in our schemas, by kind and oid.
static OBJECTS: Statement = Statement::new(
    c"SELECT 'SCHEMA' || n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname IN ('webhooks', 'webhooks_api')
      UNION ALL
      SELECT 'TYPE' || t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
       WHERE n.nspname IN ('webhooks', 'webhooks_api')
      UNION ALL
      SELECT 'TABLE' || c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname IN ('webhooks', 'webhooks_api')
      UNION ALL
      SELECT 'FUNCTION' || p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
       WHERE n.nspname IN ('webhooks', 'webhooks_api')",
    &[],
);

/// The statements by which the extension's owner owns all of its objects: another superuser may have updated it.
static STRANGERS: Statement = Statement::new(
    c"WITH owner (oid) AS (SELECT c.relowner FROM pg_catalog.pg_class c WHERE c.oid = 'webhooks.webhook'::pg_catalog.regclass),
           found (kind, name, owner) AS (
          SELECT 'TABLE', c.oid::pg_catalog.regclass::text, c.relowner
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
           WHERE d.deptype = 'e' AND d.refobjid = (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'webhooks')
          UNION ALL
          SELECT 'TYPE', t.oid::pg_catalog.regtype::text, t.typowner
            FROM pg_catalog.pg_type t JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.objid = t.oid
           -- Not the row types of tables and views, which go with these and count as members since PostgreSQL 18.
           WHERE t.typrelid = 0 AND t.typcategory <> 'A'
             AND d.deptype = 'e' AND d.refobjid = (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'webhooks')
          UNION ALL
          SELECT 'FUNCTION', p.oid::pg_catalog.regprocedure::text, p.proowner
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
           WHERE d.deptype = 'e' AND d.refobjid = (SELECT e.oid FROM pg_catalog.pg_extension e WHERE e.extname = 'webhooks'))
      SELECT pg_catalog.format('ALTER %s %s OWNER TO %s', f.kind, f.name, o.oid::pg_catalog.regrole)
        FROM found f, owner o WHERE f.owner <> o.oid",
    &[],
);

/// A role that may call a function. Names are quoted where they must be.
struct Execute {
    schema: String,
    name: String,
    role: String,
    may_grant: bool,
    role_oid: pg_sys::Oid,
    /// Who has granted it, if that was not the function's owner.
    grantor: Option<pg_sys::Oid>,
}

/// How things were before an update.
#[derive(Default)]
struct Before {
    rights: Vec<Execute>,
    objects: Vec<String>,
    /// Of functions and views.
    names: Vec<String>,
}

thread_local! {
    static BEFORE: RefCell<Before> = RefCell::default();
}

/// Takes away what default privileges have given to roles by the way, on objects that are not among these.
pub(crate) fn take_back_what_nobody_asked_for(
    spi: &sql::Connection,
    except: &[String],
) -> Result<(), Error> {
    let except: Vec<&str> = except.iter().map(String::as_str).collect();
    let unasked = spi.write(&UNASKED, &[sql::arg(except)]);
    for row in 0..unasked.len() {
        if let Some(statement) = unasked.get::<String>(row, 1) {
            Spi::run(&statement)?;
        }
    }
    Ok(())
}

/// Notes what there is, and who may call our functions.
pub(super) fn remember() {
    let found = as_owner(|| {
        Ok(sql::connect(|spi| {
            let texts = |statement| {
                let rows = spi.write(statement, &[]);
                (0..rows.len()).filter_map(|row| rows.get(row, 1)).collect()
            };
            let (objects, names) = (texts(&OBJECTS), texts(&NAMES));
            let rows = spi.write(&RIGHTS, &[]);
            let rights = (0..rows.len())
                .filter_map(|row| {
                    Some(Execute {
                        schema: rows.get(row, 1)?,
                        name: rows.get(row, 2)?,
                        role: rows.get(row, 3)?,
                        may_grant: rows.get(row, 4)?,
                        role_oid: rows.get(row, 5)?,
                        grantor: rows.get(row, 6),
                    })
                })
                .collect();
            Before {
                rights,
                objects,
                names,
            }
        }))
    });
    match found {
        Ok(found) => BEFORE.set(found),
        Err(error) => error.raise(),
    }
}

/// Gives the rights on functions to the new ones of the same name, whether these take their place or stand beside them, and
/// no others on what is new. What is new belongs to the extension's owner.
pub(super) fn give_back() -> Result<(), Error> {
    // SAFETY: in a transaction; what the update has done must be seen.
    unsafe { pg_sys::CommandCounterIncrement() };
    let before = BEFORE.take();
    let of_others: Vec<String> = as_owner(|| {
        Ok(sql::connect(|spi| {
            let rows = spi.write(&STRANGERS, &[]);
            (0..rows.len()).filter_map(|row| rows.get(row, 1)).collect()
        }))
    })?;
    for statement in of_others {
        Spi::run(&statement)?;
    }
    as_owner(|| sql::connect(|spi| take_back_what_nobody_asked_for(spi, &before.objects)))?;
    let mut left = Vec::new();
    for right in before.rights {
        let functions = successors(&right, &before.objects)?;
        if !functions.is_empty() {
            left.push((right, functions));
        }
    }
    // A role can grant once it has been granted itself.
    while !left.is_empty() {
        let waiting: Vec<pg_sys::Oid> = left.iter().map(|(right, _)| right.role_oid).collect();
        let (ready, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|(right, _)| {
            right
                .grantor
                .is_none_or(|grantor| !waiting.contains(&grantor))
        });
        let stuck = ready.is_empty();
        for (right, functions) in if stuck { &later } else { &ready } {
            for function in functions {
                grant(right, function, if stuck { None } else { right.grantor })?;
            }
        }
        left = if stuck { Vec::new() } else { later };
    }
    let is_new = |name: &str| !before.names.iter().any(|it| it == name);
    as_owner(|| sql::connect(|spi| complete_rights(spi, is_new)))
}

/// A role was given a right: by a dump of an older version perhaps, whose views called less.
pub(super) fn right_was_given() {
    thread_local! {
        static GIVING: Cell<bool> = const { Cell::new(false) };
    }
    let may = owner::oid().is_ok_and(|owner| {
        // SAFETY: a look-up in a transaction.
        unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), owner) }
    });
    // What follows gives the right once more.
    if !may || GIVING.replace(true) {
        return;
    }
    // SAFETY: in a transaction; what the statement has done must be seen.
    unsafe { pg_sys::CommandCounterIncrement() };
    let called = |name: &str| CALLED_BY_VIEWS.contains(&name);
    let result = PgTryBuilder::new(AssertUnwindSafe(|| {
        as_owner(|| sql::connect(|spi| complete_rights(spi, called)))
    }))
    .finally(|| GIVING.set(false))
    .execute();
    if let Err(error) = result {
        error.raise();
    }
}

/// Whether a statement gives a role a right of ours.
///
/// # Safety
/// A GRANT or REVOKE as Postgres hands it to its utility hook.
pub(super) unsafe fn gives_a_right(grant: *mut pg_sys::GrantStmt) -> bool {
    // SAFETY: as the caller says; types are named by lists of strings.
    unsafe {
        (*grant).is_grant
            && (*grant).targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT
            && (*grant).objtype == pg_sys::ObjectType::OBJECT_TYPE
            && PgList::<pg_sys::List>::from_pg((*grant).objects)
                .iter_ptr()
                .any(|name| {
                    let name: Vec<&CStr> = PgList::<pg_sys::String>::from_pg(name)
                        .iter_ptr()
                        .map(|part| CStr::from_ptr((*part).sval))
                        .collect();
                    matches!(name[..], [schema, domain]
                        if schema == c"webhooks" && Right::ALL.iter().any(|right| right.domain() == domain))
                })
    }
}

/// The functions of the same name that are not among these objects.
fn successors(right: &Execute, before: &[String]) -> Result<Vec<String>, Error> {
    as_owner(|| {
        Ok(sql::connect(|spi| {
            let before: Vec<&str> = before.iter().map(String::as_str).collect();
            let arguments = [
                sql::arg(right.schema.as_str()),
                sql::arg(right.name.as_str()),
                sql::arg(before),
            ];
            let rows = spi.write(&SUCCESSORS, &arguments);
            (0..rows.len()).filter_map(|row| rows.get(row, 1)).collect()
        }))
    })
}

/// `grantor`: none for the owner.
fn grant(right: &Execute, function: &str, grantor: Option<pg_sys::Oid>) -> Result<(), Error> {
    let option = if right.may_grant {
        " WITH GRANT OPTION"
    } else {
        ""
    };
    let statement = format!(
        "GRANT EXECUTE ON FUNCTION {function} TO {}{option}",
        right.role
    );
    let run = || Ok(Spi::run(&statement)?);
    match grantor {
        Some(grantor) => as_role(grantor, run),
        None => as_owner(run),
    }
}

/// The statement, or a copy where it is as an older version has it: functions whose arguments have changed are named without
/// arguments; beside functions that take a body as text stand those that take it as bytes.
///
/// # Safety
/// A GRANT or REVOKE as Postgres hands it to its utility hook.
#[pgrx::pg_guard]
pub(super) unsafe extern "C-unwind" fn with_present_arguments(
    statement: *mut pg_sys::PlannedStmt,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: as the caller says. A copy is changed, since the original may be a plan that is kept.
    unsafe {
        let grant = (*statement).utilityStmt.cast::<pg_sys::GrantStmt>();
        let on_functions = (*grant).targtype == pg_sys::GrantTargetType::ACL_TARGET_OBJECT
            && matches!(
                (*grant).objtype,
                pg_sys::ObjectType::OBJECT_FUNCTION | pg_sys::ObjectType::OBJECT_ROUTINE
            );
        if !on_functions
            || !functions_of(grant).any(|function| {
                is_of_an_older_version(function) || !twin_for_bytes(function).is_null()
            })
        {
            return statement;
        }
        let copy: *mut pg_sys::PlannedStmt = pg_sys::copyObjectImpl(statement.cast()).cast();
        let grant = (*copy).utilityStmt.cast::<pg_sys::GrantStmt>();
        for function in functions_of(grant) {
            let twin = twin_for_bytes(function);
            if !twin.is_null() {
                (*grant).objects = pg_sys::lappend((*grant).objects, twin.cast());
            } else if is_of_an_older_version(function) {
                (*function).args_unspecified = true;
            }
        }
        copy
    }
}

/// The function of ours that takes as bytes what this one takes as text, its last argument; null: there is none.
unsafe fn twin_for_bytes(function: *mut pg_sys::ObjectWithArgs) -> *mut pg_sys::ObjectWithArgs {
    const MISSING_IS_FINE: bool = true;
    const NO_MODIFIER: i32 = -1;
    // SAFETY: as in is_of_an_older_version(); the twin is a copy, whose list of arguments has the same length.
    unsafe {
        let ours = matches!(
            name_of(function)[..],
            [schema, name] if schema == c"webhooks_api" || (schema == c"webhooks" && name == c"answer_body")
        );
        let arguments = PgList::<pg_sys::TypeName>::from_pg((*function).objargs);
        let takes_text = arguments.iter_ptr().last().is_some_and(|last| {
            !last.is_null()
                && pg_sys::LookupTypeNameOid(std::ptr::null_mut(), last, MISSING_IS_FINE)
                    == pg_sys::TEXTOID
        });
        if !ours || (*function).args_unspecified || !takes_text {
            return std::ptr::null_mut();
        }
        let twin: *mut pg_sys::ObjectWithArgs = pg_sys::copyObjectImpl(function.cast()).cast();
        let last = pg_sys::list_nth_cell((*twin).objargs, arguments.len() as i32 - 1);
        (*last).ptr_value = pg_sys::makeTypeNameFromOid(pg_sys::BYTEAOID, NO_MODIFIER).cast();
        (*twin).objfuncargs = std::ptr::null_mut();
        if exists(twin) {
            twin
        } else {
            std::ptr::null_mut()
        }
    }
}

/// Whether there is a function of this name and these arguments.
unsafe fn exists(function: *mut pg_sys::ObjectWithArgs) -> bool {
    const MISSING_IS_FINE: bool = true;
    // SAFETY: the look-up is in a transaction, and asks for USAGE on the schema as the statement itself will.
    unsafe {
        pg_sys::LookupFuncWithArgs(
            pg_sys::ObjectType::OBJECT_FUNCTION,
            function,
            MISSING_IS_FINE,
        ) != pg_sys::InvalidOid
    }
}

/// A function's name, part by part.
unsafe fn name_of<'a>(function: *mut pg_sys::ObjectWithArgs) -> Vec<&'a CStr> {
    // SAFETY: names are lists of strings.
    unsafe {
        PgList::<pg_sys::String>::from_pg((*function).objname)
            .iter_ptr()
            .map(|part| CStr::from_ptr((*part).sval))
            .collect()
    }
}

unsafe fn functions_of(
    grant: *mut pg_sys::GrantStmt,
) -> impl Iterator<Item = *mut pg_sys::ObjectWithArgs> {
    // SAFETY: a GRANT on functions has a list of these.
    let list = unsafe { PgList::<pg_sys::ObjectWithArgs>::from_pg((*grant).objects) };
    let functions: Vec<_> = list.iter_ptr().collect();
    functions.into_iter()
}

/// Functions whose arguments have changed since a version, with the number that they had.
const CHANGED: [(&CStr, usize); 1] = [(c"attach", 6)];

unsafe fn is_of_an_older_version(function: *mut pg_sys::ObjectWithArgs) -> bool {
    // SAFETY: a function as a GRANT names it.
    unsafe {
        if (*function).args_unspecified {
            return false;
        }
        let arguments = PgList::<pg_sys::Node>::from_pg((*function).objargs).len();
        matches!(name_of(function)[..], [schema, name]
            if schema == c"webhooks" && CHANGED.contains(&(name, arguments)))
            && !exists(function)
    }
}
