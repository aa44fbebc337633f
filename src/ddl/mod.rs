//! Statements about the extension, and about databases, beside everything else that goes on. Main thread of users'
//! backends only.

mod database;
mod indexes;
mod locks;

use crate::emit::wake;
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
        let level = if ours {
            before(node, context)
        } else {
            NO_LEVEL
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
            after(node, level);
        }
    }
}

const NO_LEVEL: i32 = 0;

/// What the statement needs before it runs: locks. The GUC level to end after it, if there is one.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn before(
    node: *mut pg_sys::Node,
    context: pg_sys::ProcessUtilityContext::Type,
) -> i32 {
    // SAFETY: the node is Postgres's.
    let level = match unsafe { What::of(node) } {
        What::Drops => lock(pg_sys::AccessExclusiveLock),
        // Readers of attached tables may go on.
        What::Updates => lock(pg_sys::ShareRowExclusiveLock),
        What::ForcesDropOf(database) => {
            let top_level = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
            // SAFETY: on the main thread. Within a block Postgres refuses to drop any.
            if !unsafe { pg_sys::IsInTransactionBlock(top_level) } {
                database::have_worker_leave(database);
            }
            None
        }
        What::MakesIndex => {
            // SAFETY: the tag says that it is an IndexStmt.
            let refused = unsafe { indexes::refusal(node.cast()) };
            if let Some(error) = refused {
                error.raise();
            }
            None
        }
        What::AltersDatabase | What::Other => None,
    };
    level.unwrap_or(NO_LEVEL)
}

/// What follows from the statement, once it is committed.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn after(node: *mut pg_sys::Node, level: i32) {
    // SAFETY: the node is Postgres's, the level one that before() has begun.
    unsafe {
        if level != NO_LEVEL {
            pg_sys::AtEOXact_GUC(true, level);
        }
        if !matches!(What::of(node), What::MakesIndex | What::Other) {
            wake::altered_at_commit();
        }
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
    )
}

/// What a statement means to us.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
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
                _ => Self::Other,
            }
        }
    }
}
