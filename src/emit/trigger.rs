//! The trigger functions.
//!
//! `emit_changes` fires per statement on ordinary tables, with transition tables, and per row on
//! partitioned ones, where it reaches leaves and later partitions. It runs as the writer; the rows that it
//! writes go below the executor, and so need no rights of the writer's.

use super::attached::Shown;
use super::data::Row;
use super::nested::{Created, Effect, Flow, Versions};
use super::plan::{Plan, plan};
use super::present;
use super::render::{self, NotRendered};
use super::subscribers::{self, Audience};
use super::wake;
use crate::error::Error;
use crate::seam::{clock, sql, trigger};
use crate::settings;
use pgrx::pg_sys;
use std::rc::Rc;
use webhooks_core::payload::{self, Omitted};
use webhooks_core::time;

/// The record by which Postgres knows how to call a C function.
#[unsafe(no_mangle)]
pub(super) extern "C" fn pg_finfo_emit_changes() -> *const pg_sys::Pg_finfo_record {
    static V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &raw const V1
}

/// The record by which Postgres knows how to call a C function.
#[unsafe(no_mangle)]
pub(super) extern "C" fn pg_finfo_webhook_changed() -> *const pg_sys::Pg_finfo_record {
    static V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &raw const V1
}

/// Fires after every statement that changes `webhooks.webhook`.
///
/// # Safety
/// To be called by Postgres.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn webhook_changed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: fcinfo is Postgres's.
    let data = unsafe { trigger::data(fcinfo) };
    let inserted = data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK == pg_sys::TRIGGER_EVENT_INSERT;
    subscribers::invalidate();
    wake::definitions_at_commit();
    if inserted && !sql::is_running() {
        wake::webhooks_restored_at_commit();
    }
    pg_sys::Datum::from(0)
}

/// Fires on attached tables.
///
/// # Safety
/// To be called by Postgres.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn emit_changes(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: fcinfo is Postgres's.
    let data = unsafe { trigger::data(fcinfo) };
    if settings::enabled() {
        // SAFETY: the data are those of the trigger that is being fired.
        if let Err(error) = unsafe { emit(data) } {
            error.raise();
        }
    }
    pg_sys::Datum::from(0)
}

/// What a trigger was fired for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operation {
    Insert,
    Update,
    Delete,
}

/// Refuses a trigger that attach() would not have made: one that fires before the change, or per statement
/// without the transition tables.
fn must_be_ours(data: &pg_sys::TriggerData) -> Result<(), Error> {
    let after = data.tg_event & pg_sys::TRIGGER_EVENT_TIMINGMASK == pg_sys::TRIGGER_EVENT_AFTER;
    let per_row = data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
    let (old, new) = (!data.tg_oldtable.is_null(), !data.tg_newtable.is_null());
    let whole = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => new,
        pg_sys::TRIGGER_EVENT_UPDATE => old && new,
        pg_sys::TRIGGER_EVENT_DELETE => old,
        _ => true,
    };
    if after && (per_row || whole) {
        Ok(())
    } else {
        Err(Error::State {
            message: "the trigger is not one that webhooks.attach() makes".to_owned(),
            hint: Some("Drop it, and use SELECT webhooks.attach('table').".to_owned()),
        })
    }
}

/// # Safety
/// The data must be those of the trigger that is being fired.
unsafe fn emit(data: &pg_sys::TriggerData) -> Result<(), Error> {
    must_be_ours(data)?;
    let operation = match data.tg_event & pg_sys::TRIGGER_EVENT_OPMASK {
        pg_sys::TRIGGER_EVENT_INSERT => Operation::Insert,
        pg_sys::TRIGGER_EVENT_UPDATE => Operation::Update,
        pg_sys::TRIGGER_EVENT_DELETE => Operation::Delete,
        _ => return Ok(()),
    };
    // SAFETY: as the caller says.
    let plan = unsafe { plan(data.tg_relation, data.tg_trigger) };
    let audiences = [
        subscribers::audience(&plan.types[0])?,
        subscribers::audience(&plan.types[1])?,
        subscribers::audience(&plan.types[2])?,
    ];
    // A change of owner, and a soft delete, make an update a creation or a deletion.
    let nobody = |index: usize| matches!(*audiences[index], Audience::Nobody);
    let idle = match operation {
        Operation::Insert => nobody(0),
        Operation::Delete => nobody(2),
        Operation::Update => nobody(0) && nobody(1) && nobody(2),
    };
    if idle || plan.shown == Shown::Nothing {
        return Ok(());
    }
    // SAFETY: as the caller says. The nest level is ended below; an ERROR ends it with the transaction.
    unsafe {
        let level = plan.needs_pinning.then(|| {
            let level = pg_sys::NewGUCNestLevel();
            render::pin();
            level
        });
        let created = || created_rows(data, operation, &plan);
        let mut emitter = Emitter {
            flow: Flow::begin((*data.tg_relation).rd_id, created),
            plan: Rc::clone(&plan),
            audiences,
            table: (*data.tg_relation).rd_id,
            is_present: (data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0).then(|| {
                is_present(match operation {
                    Operation::Update => data.tg_newtuple,
                    Operation::Insert | Operation::Delete => data.tg_trigtuple,
                })
            }),
            text: String::new(),
            truncated: 0,
        };
        if data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0 {
            emitter.one_row(data, operation)?;
        } else {
            emitter.statement(data, operation)?;
        }
        emitter.close()?;
        if let Some(level) = level {
            pg_sys::AtEOXact_GUC(true, level);
        }
    }
    Ok(())
}

/// The rows that a statement has created: inserted, or given another id.
///
/// # Safety
/// The data must be those of a trigger that is being fired, for this operation.
unsafe fn created_rows(data: &pg_sys::TriggerData, operation: Operation, plan: &Plan) -> Created {
    let mut created = Created::default();
    let mut count = |old: Option<Row>, new: Row| {
        let id = plan.id(new);
        if old.is_none_or(|old| plan.id(old) != id) {
            *created.entry(id).or_default() += 1;
        }
    };
    // SAFETY: as the caller says.
    unsafe {
        let columns = (*data.tg_relation).rd_att;
        let per_row = data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0;
        match operation {
            Operation::Delete => {}
            Operation::Insert if per_row => {
                with_row(columns, data.tg_trigtuple, |new| count(None, new));
            }
            Operation::Update if per_row => with_row(columns, data.tg_trigtuple, |old| {
                with_row(columns, data.tg_newtuple, |new| count(Some(old), new));
            }),
            Operation::Insert => {
                let mut rows = Transition::open(data.tg_newtable, columns);
                while let Some(new) = rows.next() {
                    count(None, new);
                }
            }
            Operation::Update => {
                let mut before = Transition::open(data.tg_oldtable, columns);
                let mut after = Transition::open(data.tg_newtable, columns);
                while let (Some(old), Some(new)) = (before.next(), after.next()) {
                    count(Some(old), new);
                }
            }
        }
    }
    created
}

/// Whether this version of a row is the present one.
///
/// # Safety
/// A tuple of a table, as it is stored.
unsafe fn is_present(tuple: pg_sys::HeapTuple) -> bool {
    // SAFETY: as the caller says.
    let flags = u32::from(unsafe { (*(*tuple).t_data).t_infomask });
    flags & (pg_sys::HEAP_XMAX_INVALID | pg_sys::HEAP_XMAX_LOCK_ONLY) != 0
}

/// Has a tuple looked at as a row.
///
/// # Safety
/// The tuple must have these columns.
unsafe fn with_row<R>(
    columns: pg_sys::TupleDesc,
    tuple: pg_sys::HeapTuple,
    work: impl FnOnce(Row) -> R,
) -> R {
    // SAFETY: as the caller says; the slot lives until it is dropped below, or with its memory context.
    unsafe {
        let slot = pg_sys::MakeSingleTupleTableSlot(columns, &raw const pg_sys::TTSOpsHeapTuple);
        pg_sys::ExecStoreHeapTuple(tuple, slot, false);
        let result = work(Row::of(slot));
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        result
    }
}

struct Emitter {
    plan: Rc<Plan>,
    audiences: [Rc<Audience>; 3],
    flow: Flow,
    table: pg_sys::Oid,
    /// Of a row-level trigger: whether the version that the row has now is that of this event.
    is_present: Option<bool>,
    text: String,
    truncated: u64,
}

impl Emitter {
    /// # Safety
    /// The data must be those of a row-level trigger that is being fired.
    unsafe fn one_row(
        &mut self,
        data: &pg_sys::TriggerData,
        operation: Operation,
    ) -> Result<(), Error> {
        // SAFETY: as the caller says: tg_trigtuple is there, and tg_newtuple for an update.
        unsafe {
            let columns = (*data.tg_relation).rd_att;
            with_row(columns, data.tg_trigtuple, |first| match operation {
                Operation::Insert => self.row(None, Some(first)),
                Operation::Delete => self.row(Some(first), None),
                Operation::Update => with_row(columns, data.tg_newtuple, |second| {
                    self.row(Some(first), Some(second))
                }),
            })
        }
    }

    /// Old and new rows stand at the same place of their transition tables.
    ///
    /// # Safety
    /// The data must be those of a statement-level trigger that is being fired.
    unsafe fn statement(
        &mut self,
        data: &pg_sys::TriggerData,
        operation: Operation,
    ) -> Result<(), Error> {
        // SAFETY: as the caller says; attach() asks for the transition tables that the operation has.
        unsafe {
            let columns = (*data.tg_relation).rd_att;
            let mut old = (operation != Operation::Insert)
                .then(|| Transition::open(data.tg_oldtable, columns));
            let mut new = (operation != Operation::Delete)
                .then(|| Transition::open(data.tg_newtable, columns));
            let context = pg_sys::AllocSetContextCreateExtended(
                pg_sys::CurrentMemoryContext,
                c"webhooks row".as_ptr(),
                pg_sys::ALLOCSET_DEFAULT_MINSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_INITSIZE as usize,
                pg_sys::ALLOCSET_DEFAULT_MAXSIZE as usize,
            );
            loop {
                let before = old.as_mut().map(Transition::next);
                let after = new.as_mut().map(Transition::next);
                let (before, after) = match (before, after) {
                    (Some(None), _) | (_, Some(None)) => break,
                    (before, after) => (before.flatten(), after.flatten()),
                };
                pgrx::check_for_interrupts!();
                let outer = pg_sys::MemoryContextSwitchTo(context);
                let result = self.row(before, after);
                pg_sys::MemoryContextSwitchTo(outer);
                pg_sys::MemoryContextReset(context);
                result?;
            }
            pg_sys::MemoryContextDelete(context);
        }
        Ok(())
    }

    /// What a row's change means, and to whom.
    fn row(&mut self, old: Option<Row>, new: Option<Row>) -> Result<(), Error> {
        let plan = Rc::clone(&self.plan);
        let owner = |row: Row| plan.owner(row);
        match (old, new) {
            (None, Some(new)) => self.created(None, new, owner(new).as_deref()),
            (Some(old), None) => self.deleted(old, owner(old).as_deref(), None),
            (Some(old), Some(new)) => {
                let deleted = |row: Row| {
                    plan.soft_delete
                        .as_ref()
                        .is_some_and(|column| row.get(column).is_some())
                };
                let (was, is) = (owner(old), owner(new));
                match (deleted(old), deleted(new)) {
                    (false, true) => self.deleted(old, was.as_deref(), Some(new)),
                    (true, false) => self.created(Some(old), new, is.as_deref()),
                    (true, true) if was != is => Ok(()),
                    _ if was != is => {
                        self.deleted(old, was.as_deref(), None)?;
                        self.created(Some(old), new, is.as_deref())
                    }
                    _ => self.updated(old, new, is.as_deref()),
                }
            }
            (None, None) => Ok(()),
        }
    }

    /// `old`: the version before, which was not shown to this owner.
    fn created(&mut self, old: Option<Row>, new: Row, owner: Option<&str>) -> Result<(), Error> {
        if !self.audiences[CREATED].wants(owner) {
            return Ok(());
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let omitted = self.whole(new, &mut text, "");
        self.add(CREATED, owner, (old, Some(new)), text, omitted, None)
    }

    fn updated(&mut self, old: Row, new: Row, owner: Option<&str>) -> Result<(), Error> {
        if !self.audiences[UPDATED].wants(owner) {
            return Ok(());
        }
        let changes = self.plan.changes(old, new);
        if changes.as_ref().is_ok_and(|changes| !changes.any) {
            return Ok(());
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let omitted = changes.and_then(|changes| {
            let omitted = self.whole(new, &mut text, "\"changes\":")?;
            let Some(changes) = changes.text else {
                return Ok(Omitted::Changes);
            };
            text.pop();
            text.push_str(",\"changes\":{");
            text.push_str(&changes);
            text.push_str("}}");
            Ok(omitted)
        });
        self.add(UPDATED, owner, (Some(old), Some(new)), text, omitted, None)
    }

    /// `softly`: the row that has the value of the soft-delete column.
    fn deleted(&mut self, old: Row, owner: Option<&str>, softly: Option<Row>) -> Result<(), Error> {
        if !self.audiences[DELETED].wants(owner) {
            return Ok(());
        }
        let plan = Rc::clone(&self.plan);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        text.push('{');
        plan.object_and_id(old, &mut text);
        let omitted = match plan.shown {
            Shown::Columns => plan.metadata(old, &mut text).map(|()| Omitted::Nothing),
            Shown::ObjectAndId | Shown::Nothing => Err(NotRendered::TooLong),
        };
        text.push_str(",\"deleted_at\":");
        plan.deleted_at(softly, &mut text);
        text.push('}');
        // Filters judge the whole row, so that a deletion reaches whoever got the creation.
        let subject = plan.filterable(old);
        self.add(
            DELETED,
            owner,
            (Some(old), None),
            text,
            omitted,
            Some(subject),
        )
    }

    /// The row as `data`, if it may be shown.
    fn whole(&self, row: Row, text: &mut String, without: &str) -> Result<Omitted, NotRendered> {
        match self.plan.shown {
            Shown::Columns => self.plan.whole(row, text, without),
            Shown::ObjectAndId | Shown::Nothing => Err(NotRendered::TooLong),
        }
    }

    /// Adds an event. `omitted`: what is missing in the text, or why there is none.
    fn add(
        &mut self,
        which: usize,
        owner: Option<&str>,
        (old, new): (Option<Row>, Option<Row>),
        mut text: String,
        omitted: Result<Omitted, NotRendered>,
        mut subject: Option<String>,
    ) -> Result<(), Error> {
        let plan = Rc::clone(&self.plan);
        // There is one of the two.
        let Some(row) = new.or(old) else {
            return Ok(());
        };
        let omitted = omitted.unwrap_or_else(|reason| {
            if reason == NotRendered::NoJson {
                self.truncated += 1;
            }
            text = payload::minimal(&plan.object, &plan.id(row));
            Omitted::Changes
        });
        let limit = settings::max_payload();
        if omitted != Omitted::Nothing || text.len() > limit {
            let mut small = String::new();
            payload::shrink_without(&text, omitted, limit, &mut small);
            text = small;
            subject.get_or_insert_with(|| plan.filterable(row));
        }
        self.flow.add(
            &plan.types[which],
            owner,
            &text,
            subject.as_deref(),
            &Versions {
                effect: EFFECTS[which],
                id: &|| plan.id(row),
                before: &|| old.map(|old| plan.version(old)),
                after: &|| new.map(|new| plan.version(new)),
                is_there: &|| {
                    self.is_present
                        .unwrap_or_else(|| present::is_there(self.table, &plan, row))
                },
            },
        )?;
        self.text = text;
        Ok(())
    }

    fn close(self) -> Result<(), Error> {
        self.flow.end()?;
        super::count_truncated(self.truncated);
        Ok(())
    }
}

/// Places in the list of a plan's event types, and of their audiences.
const CREATED: usize = 0;
const UPDATED: usize = 1;
const DELETED: usize = 2;
const EFFECTS: [Effect; 3] = [Effect::Creates, Effect::Updates, Effect::Deletes];

impl Plan {
    /// When a row was deleted: what the soft-delete column says if it is a time, or else now.
    fn deleted_at(&self, softly: Option<Row>, text: &mut String) {
        use super::kind::Kind::{Timestamp, TimestampTz};
        let at = softly
            .zip(self.soft_delete.as_ref())
            .filter(|(_, column)| matches!(column.kind, Timestamp | TimestampTz))
            .and_then(|(row, column)| row.get(column).map(|datum| (datum, column)));
        let rendered = at.map(|(datum, column)| {
            // SAFETY: the plan knows the column's type; a time takes some bytes.
            unsafe { render::render(&column.kind, datum, text, usize::MAX) }
        });
        if rendered.is_none() {
            text.push('"');
            text.push_str(&time::iso_millis(clock::unix_ms()));
            text.push('"');
        }
    }
}

/// A transition table, read from its beginning.
struct Transition {
    store: *mut pg_sys::Tuplestorestate,
    reader: i32,
    slot: *mut pg_sys::TupleTableSlot,
}

impl Transition {
    /// # Safety
    /// The store must be the transition table of a trigger that is being fired, with these columns.
    unsafe fn open(store: *mut pg_sys::Tuplestorestate, columns: pg_sys::TupleDesc) -> Self {
        // SAFETY: as the caller says. A read pointer of our own leaves those of other triggers alone.
        unsafe {
            let reader =
                pg_sys::tuplestore_alloc_read_pointer(store, pg_sys::EXEC_FLAG_REWIND as i32);
            pg_sys::tuplestore_select_read_pointer(store, reader);
            pg_sys::tuplestore_rescan(store);
            let slot =
                pg_sys::MakeSingleTupleTableSlot(columns, &raw const pg_sys::TTSOpsMinimalTuple);
            Self {
                store,
                reader,
                slot,
            }
        }
    }

    /// The next row; it stays valid until the next call.
    fn next(&mut self) -> Option<Row> {
        // SAFETY: open() has made all of it.
        unsafe {
            pg_sys::tuplestore_select_read_pointer(self.store, self.reader);
            pg_sys::tuplestore_gettupleslot(self.store, true, false, self.slot)
                .then(|| Row::of(self.slot))
        }
    }
}

impl Drop for Transition {
    fn drop(&mut self) {
        // An ERROR's unwinding leaves it to the memory context, which the transaction's end removes.
        if !std::thread::panicking() {
            // SAFETY: made by open().
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.slot) }
        }
    }
}
