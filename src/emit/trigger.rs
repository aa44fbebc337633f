//! The trigger functions.
//!
//! `emit_changes` fires per statement on ordinary tables, with transition tables, and per row on
//! partitioned ones, where it reaches leaves and later partitions. It runs as the writer; the rows that it
//! writes go below the executor, and so need no rights of the writer's.

use super::data::{Row, text_of, value};
use super::plan::{Plan, plan};
use super::render::{self, Unrenderable};
use super::store::Store;
use super::subscribers::{self, Audience};
use super::wake;
use crate::error::Error;
use crate::seam::clock;
use crate::settings;
use pgrx::pg_sys;
use std::rc::Rc;
use webhooks_core::{payload, time};

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

/// The trigger data, if the function was called as a trigger.
unsafe fn trigger_data(fcinfo: pg_sys::FunctionCallInfo) -> &'static pg_sys::TriggerData {
    // SAFETY: fcinfo is Postgres's; its context, if any, is a node, whose tag says what it is. The data live
    // as long as the call.
    unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || (*context).type_ != pg_sys::NodeTag::T_TriggerData {
            Error::State {
                message: "function was not called by a trigger".to_owned(),
                hint: Some("SELECT webhooks.attach('table') makes the triggers.".to_owned()),
            }
            .raise();
        }
        &*context.cast::<pg_sys::TriggerData>()
    }
}

/// Fires after every statement that changes `webhooks.webhook`.
///
/// # Safety
/// To be called by Postgres.
#[pgrx::pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn webhook_changed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: fcinfo is Postgres's.
    unsafe { trigger_data(fcinfo) };
    subscribers::invalidate();
    wake::definitions_at_commit();
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
    let data = unsafe { trigger_data(fcinfo) };
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
    if idle {
        return Ok(());
    }
    let mut emitter = Emitter {
        plan,
        audiences,
        store: None,
        text: String::new(),
        truncated: 0,
    };
    // SAFETY: as the caller says. The nest level is ended below; an ERROR ends it with the transaction.
    unsafe {
        let level = emitter.plan.needs_pinning.then(|| {
            let level = pg_sys::NewGUCNestLevel();
            render::pin();
            level
        });
        if data.tg_event & pg_sys::TRIGGER_EVENT_ROW != 0 {
            emitter.one_row(data, operation)?;
        } else {
            emitter.statement(data, operation)?;
        }
        if let Some(level) = level {
            pg_sys::AtEOXact_GUC(true, level);
        }
    }
    emitter.close();
    Ok(())
}

struct Emitter {
    plan: Rc<Plan>,
    audiences: [Rc<Audience>; 3],
    store: Option<Store>,
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
            let slot = |tuple| {
                let slot =
                    pg_sys::MakeSingleTupleTableSlot(columns, &raw const pg_sys::TTSOpsHeapTuple);
                pg_sys::ExecStoreHeapTuple(tuple, slot, false);
                slot
            };
            let first = slot(data.tg_trigtuple);
            let second = (operation == Operation::Update).then(|| slot(data.tg_newtuple));
            match (operation, second) {
                (Operation::Insert, _) => self.row(None, Some(Row::of(first)))?,
                (Operation::Delete, _) => self.row(Some(Row::of(first)), None)?,
                (Operation::Update, Some(second)) => {
                    self.row(Some(Row::of(first)), Some(Row::of(second)))?
                }
                (Operation::Update, None) => {}
            }
            pg_sys::ExecDropSingleTupleTableSlot(first);
            if let Some(second) = second {
                pg_sys::ExecDropSingleTupleTableSlot(second);
            }
        }
        Ok(())
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
                if self.store.is_none() {
                    // The tables are opened outside of the context that is reset after each row.
                    self.store = Some(Store::open()?);
                }
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
        let owner = |row: Row| {
            plan.owner
                .as_ref()
                .and_then(|column| row.get(column).map(|datum| (column, datum)))
                .and_then(|(column, datum)| text_of(column, datum))
        };
        match (old, new) {
            (None, Some(new)) => self.created(new, owner(new).as_deref()),
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
                    (true, false) => self.created(new, is.as_deref()),
                    (true, true) if was != is => Ok(()),
                    _ if was != is => {
                        self.deleted(old, was.as_deref(), None)?;
                        self.created(new, is.as_deref())
                    }
                    _ => self.updated(old, new, is.as_deref()),
                }
            }
            (None, None) => Ok(()),
        }
    }

    fn created(&mut self, new: Row, owner: Option<&str>) -> Result<(), Error> {
        if !self.audiences[0].wants(owner) {
            return Ok(());
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let fine = self.plan.whole(new, &mut text, "");
        self.add(0, owner, new, text, fine, None)
    }

    fn updated(&mut self, old: Row, new: Row, owner: Option<&str>) -> Result<(), Error> {
        if !self.audiences[1].wants(owner) {
            return Ok(());
        }
        let mut changes = String::new();
        let fine = self.plan.changes(old, new, &mut changes);
        if fine.is_ok() && changes.is_empty() {
            return Ok(());
        }
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let fine = fine.and_then(|()| self.plan.whole(new, &mut text, "\"changes\":"));
        if fine.is_ok() {
            text.pop();
            text.push_str(",\"changes\":{");
            text.push_str(&changes);
            text.push_str("}}");
        }
        self.add(1, owner, new, text, fine, None)
    }

    /// `softly`: the row that has the value of the soft-delete column.
    fn deleted(&mut self, old: Row, owner: Option<&str>, softly: Option<Row>) -> Result<(), Error> {
        if !self.audiences[2].wants(owner) {
            return Ok(());
        }
        let plan = Rc::clone(&self.plan);
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let fine = (|| {
            text.push_str("{\"object\":");
            webhooks_core::json::write_string(&plan.object, &mut text);
            text.push_str(",\"id\":");
            self.plan.id(old, &mut text)?;
            if let Some(column) = plan.metadata.map(|index| &plan.columns[index]) {
                text.push(',');
                text.push_str(&column.key);
                value(column, old, &mut text)?;
            }
            text.push_str(",\"deleted_at\":");
            let at = softly
                .zip(plan.soft_delete.as_ref())
                .and_then(|(row, column)| {
                    use render::Kind::{Timestamp, TimestampTz};
                    matches!(column.kind, Timestamp | TimestampTz).then_some((row, column))
                });
            match at {
                Some((row, column)) => value(column, row, &mut text)?,
                None => {
                    text.push('"');
                    text.push_str(&time::iso_millis(clock::unix_ms()));
                    text.push('"');
                }
            }
            text.push('}');
            Ok(())
        })();
        // Filters judge the whole row, so that a deletion reaches whoever got the creation.
        let mut subject = String::new();
        self.plan.filterable(old, &mut subject);
        self.add(2, owner, old, text, fine, Some(subject))
    }

    fn add(
        &mut self,
        which: usize,
        owner: Option<&str>,
        row: Row,
        mut text: String,
        fine: Result<(), Unrenderable>,
        subject: Option<String>,
    ) -> Result<(), Error> {
        let plan = Rc::clone(&self.plan);
        let mut subject = subject;
        if fine.is_err() {
            self.truncated += 1;
            let id = plan
                .id
                .as_ref()
                .and_then(|column| row.get(column).and_then(|datum| text_of(column, datum)));
            text = payload::minimal(&plan.object, &id.unwrap_or_default());
        }
        let limit = settings::max_payload();
        let shrunk = text.len() > limit;
        if shrunk {
            let mut small = String::new();
            payload::shrink(&text, limit, &mut small);
            text = small;
        }
        if (shrunk || fine.is_err()) && subject.is_none() {
            let mut whole = String::new();
            self.plan.filterable(row, &mut whole);
            subject = Some(whole);
        }
        if self.store.is_none() {
            self.store = Some(Store::open()?);
        }
        if let Some(store) = &mut self.store {
            store.add_parts(
                &plan.types[which],
                owner,
                (None, None),
                &text,
                subject.as_deref(),
            );
        }
        self.text = text;
        Ok(())
    }

    fn close(self) {
        if let Some(store) = self.store {
            store.close();
        }
        super::count_truncated(self.truncated);
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
