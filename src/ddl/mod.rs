//! Statements about the extension, and about databases, beside everything else that goes on. Main thread of users'
//! backends only.

mod database;
mod indexes;
mod locks;
mod names;
mod partitions;
pub(crate) mod rights;
mod schema;

use crate::emit::{nested, wake};
use crate::error::reply;
use crate::seam::raw;
use locks::lock;
use pgrx::{PgList, pg_sys};
use std::ffi::CStr;
use std::sync::atomic::{AtomicPtr, Ordering};

static NEXT: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Has Postgres ask us. To be called from `_PG_init` while libraries are preloaded.
pub(crate) fn register() {
    // SAFETY: the postmaster is single-threaded here; the hook that was there is called by ours. A function
    // pointer and a data pointer have the same size on every platform Postgres runs on.
    unsafe {
        NEXT.store(
            pg_sys::ProcessUtility_hook.map_or(std::ptr::null_mut(), |hook| hook as *mut ()),
            Ordering::Relaxed,
        );
        pg_sys::ProcessUtility_hook = Some(utility);
    }
}

/// Runs a statement, with what is ours before and after it. Not guarded: its errors are not ours, and pass through as
/// they are; this frame holds nothing that must be dropped.
#[allow(clippy::too_many_arguments)] // Postgres's own
unsafe extern "C-unwind" fn utility(
    statement: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the statement is Postgres's, as are all arguments, which are handed on as they came. The pointer was a
    // hook of exactly this type when register() stored it.
    unsafe {
        let node = (*statement).utilityStmt;
        let ours = may_concern((*node).type_);
        let begun = if ours {
            before(node, context)
        } else {
            NOTHING_BEGUN
        };
        let statement = if (*node).type_ == pg_sys::NodeTag::T_GrantStmt {
            rights::with_present_arguments(statement)
        } else {
            statement
        };
        let next = NEXT.load(Ordering::Relaxed);
        let next = if next.is_null() {
            raw::standard_ProcessUtility
        } else {
            std::mem::transmute::<*mut (), raw::Utility>(next)
        };
        next(
            statement,
            query,
            read_only_tree,
            context,
            params,
            environment,
            dest,
            completion,
        );
        if ours {
            after(node, begun);
        }
        // COPY fires triggers too, and is no query whose end is told.
        nested::statement_ends();
    }
}

const NO_LEVEL: i32 = 0;

/// What before() has done that after() is to end.
#[derive(Clone, Copy)]
#[repr(C)]
struct Begun {
    /// The GUC level to end, if it is not NO_LEVEL.
    level: i32,
    /// CREATE EXTENSION will make the schema, or DROP EXTENSION leaves one behind that CREATE EXTENSION has made.
    schema_is_its_own: bool,
}

const NOTHING_BEGUN: Begun = Begun {
    level: NO_LEVEL,
    schema_is_its_own: false,
};

/// What the statement needs before it runs: locks, and what after() must know of how things were.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn before(
    node: *mut pg_sys::Node,
    context: pg_sys::ProcessUtilityContext::Type,
) -> Begun {
    let mut begun = NOTHING_BEGUN;
    // SAFETY: the node is Postgres's, and a tag says which struct it is.
    match unsafe { What::of(node) } {
        What::Creates => begun.schema_is_its_own = !schema::exists(),
        What::Drops => {
            begun.level = lock(pg_sys::AccessExclusiveLock).unwrap_or(NO_LEVEL);
            begun.schema_is_its_own = begun.level != NO_LEVEL && schema::was_made_with_extension();
        }
        // Readers of attached tables may go on.
        What::Updates => {
            begun.level = lock(pg_sys::ShareRowExclusiveLock).unwrap_or(NO_LEVEL);
            if begun.level != NO_LEVEL {
                rights::remember();
            }
        }
        What::ForcesDropOf(database) => {
            let top_level = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
            // SAFETY: on the main thread. Within a block Postgres refuses to drop any.
            if !unsafe { pg_sys::IsInTransactionBlock(top_level) } {
                database::have_worker_leave(database);
            }
        }
        What::MakesIndex => {
            // SAFETY: the tag says that it is an IndexStmt.
            let refused = unsafe { indexes::refusal(node.cast()) };
            if let Some(error) = refused {
                error.raise();
            }
        }
        What::AltersTable => {
            // SAFETY: the tag says that it is an AlterTableStmt.
            let refused = unsafe { partitions::refusal(node.cast()) };
            if let Some(error) = refused {
                error.raise();
            }
        }
        What::Renames => {
            // SAFETY: the tag says which statement it is.
            let refused = unsafe {
                match (*node).type_ {
                    pg_sys::NodeTag::T_RenameStmt => names::refusal_of_name(node.cast()),
                    _ => names::refusal_of_schema(node.cast()),
                }
            };
            if let Some(error) = refused {
                error.raise();
            }
        }
        What::AltersDatabase | What::GivesRight | What::Other => {}
    }
    begun
}

/// What follows from the statement, once it is committed.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn after(node: *mut pg_sys::Node, begun: Begun) {
    // SAFETY: the node is Postgres's, the level one that before() has begun.
    let what = unsafe {
        if begun.level != NO_LEVEL {
            pg_sys::AtEOXact_GUC(true, begun.level);
        }
        What::of(node)
    };
    match what {
        What::Creates if begun.schema_is_its_own => schema::remember_that_it_was_made(),
        What::Drops if begun.schema_is_its_own => schema::drop_if_empty(),
        What::Updates if begun.level != NO_LEVEL => reply(rights::give_back()),
        What::GivesRight => rights::right_was_given(),
        _ => {}
    }
    if !matches!(
        what,
        What::Creates
            | What::MakesIndex
            | What::AltersTable
            | What::Renames
            | What::GivesRight
            | What::Other
    ) {
        wake::altered_at_commit();
    }
}

fn may_concern(tag: pg_sys::NodeTag) -> bool {
    matches!(
        tag,
        pg_sys::NodeTag::T_DropStmt
            | pg_sys::NodeTag::T_AlterExtensionStmt
            | pg_sys::NodeTag::T_AlterDatabaseStmt
            | pg_sys::NodeTag::T_AlterDatabaseSetStmt
            | pg_sys::NodeTag::T_DropdbStmt
            | pg_sys::NodeTag::T_IndexStmt
            | pg_sys::NodeTag::T_CreateExtensionStmt
            | pg_sys::NodeTag::T_AlterTableStmt
            | pg_sys::NodeTag::T_GrantStmt
            | pg_sys::NodeTag::T_RenameStmt
            | pg_sys::NodeTag::T_AlterObjectSchemaStmt
    )
}

/// What a statement means to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    /// Makes the extension.
    Creates,
    /// Removes the extension.
    Drops,
    /// Brings its objects to another version.
    Updates,
    /// Drops this database, whoever is connected to it.
    ForcesDropOf(pg_sys::Oid),
    /// Makes a database one that is to be served, or one that is not.
    AltersDatabase,
    /// On any table.
    MakesIndex,
    /// Any table.
    AltersTable,
    /// Gives anything another name, or another schema.
    Renames,
    /// Gives a role a right of ours.
    GivesRight,
    Other,
}

impl What {
    /// # Safety
    /// A node of Postgres's, as it hands to its utility hook.
    unsafe fn of(node: *mut pg_sys::Node) -> Self {
        // SAFETY: a node's tag says which struct it is.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_DropStmt => {
                    let drop = node.cast::<pg_sys::DropStmt>();
                    let ours: &[&CStr] = match (*drop).removeType {
                        pg_sys::ObjectType::OBJECT_EXTENSION => &[c"webhooks"],
                        pg_sys::ObjectType::OBJECT_SCHEMA => &[c"webhooks", c"webhooks_api"],
                        _ => return Self::Other,
                    };
                    let named = PgList::<pg_sys::String>::from_pg((*drop).objects)
                        .iter_ptr()
                        .any(|name| ours.contains(&CStr::from_ptr((*name).sval)));
                    if named { Self::Drops } else { Self::Other }
                }
                pg_sys::NodeTag::T_AlterExtensionStmt => {
                    let alter = node.cast::<pg_sys::AlterExtensionStmt>();
                    if CStr::from_ptr((*alter).extname) == c"webhooks" {
                        Self::Updates
                    } else {
                        Self::Other
                    }
                }
                pg_sys::NodeTag::T_DropdbStmt => {
                    let drop = node.cast::<pg_sys::DropdbStmt>();
                    // FORCE is the only option there is.
                    if (*drop).options.is_null() {
                        return Self::AltersDatabase;
                    }
                    const MISSING_IS_FINE: bool = true;
                    Self::ForcesDropOf(pg_sys::get_database_oid((*drop).dbname, MISSING_IS_FINE))
                }
                pg_sys::NodeTag::T_AlterDatabaseStmt | pg_sys::NodeTag::T_AlterDatabaseSetStmt => {
                    Self::AltersDatabase
                }
                pg_sys::NodeTag::T_IndexStmt => Self::MakesIndex,
                pg_sys::NodeTag::T_AlterTableStmt => Self::AltersTable,
                pg_sys::NodeTag::T_RenameStmt | pg_sys::NodeTag::T_AlterObjectSchemaStmt => {
                    Self::Renames
                }
                pg_sys::NodeTag::T_GrantStmt if rights::gives_a_right(node.cast()) => {
                    Self::GivesRight
                }
                pg_sys::NodeTag::T_CreateExtensionStmt => {
                    let create = node.cast::<pg_sys::CreateExtensionStmt>();
                    if CStr::from_ptr((*create).extname) == c"webhooks" {
                        Self::Creates
                    } else {
                        Self::Other
                    }
                }
                _ => Self::Other,
            }
        }
    }
}
