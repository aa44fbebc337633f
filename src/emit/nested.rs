//! Events of nested statements: what the triggers of a statement change in their turn.
//!
//! An AFTER INSERT trigger that updates its own row runs before the statement-level trigger of the INSERT, so its event
//! would come first, although the version that it is about is the later one. Events of a nested statement are therefore
//! kept until the statement that fired it has emitted its own, at the latest until the outermost statement ends.
//! Beyond `work_mem` they are written at once, and the order within that statement is lost.
//!
//! An event has a level: the trigger depth of the statement whose events it goes with, 1 for the outermost.

use super::store::Store;
use crate::error::{Error, reply};
use crate::seam::raw;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// An event that is kept.
struct NestedEvent {
    level: i32,
    /// The subtransaction that takes it along if it rolls back.
    subtransaction: pg_sys::SubTransactionId,
    table: pg_sys::Oid,
    effect: Effect,
    id: String,
    /// The version of the row that the change has ended.
    before: Option<u64>,
    event_type: String,
    owner: Option<String>,
    data: String,
    subject: Option<String>,
}

#[derive(Default)]
struct Kept {
    events: Vec<NestedEvent>,
    bytes: usize,
    /// This outermost statement has exceeded work_mem.
    overflowed: bool,
}

thread_local! {
    static KEPT: RefCell<Kept> = RefCell::default();
}
/// Whether something is kept, or was too much to be.
static ANY: AtomicBool = AtomicBool::new(false);
static NEXT_FINISH: AtomicPtr<()> = AtomicPtr::new(std::ptr::null_mut());

/// Has Postgres call us. To be called from `_PG_init` while libraries are preloaded.
pub(crate) fn register() {
    // SAFETY: the postmaster is single-threaded here; the hook that was there is called by ours, and a function pointer
    // and a data pointer have the same size on every platform Postgres runs on. The callbacks live as long as the process.
    unsafe {
        NEXT_FINISH.store(
            pg_sys::ExecutorFinish_hook.map_or(std::ptr::null_mut(), |hook| hook as *mut ()),
            Ordering::Relaxed,
        );
        pg_sys::ExecutorFinish_hook = Some(finish);
        pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(at_end_of_subtransaction), std::ptr::null_mut());
    }
}

fn trigger_depth() -> i32 {
    // SAFETY: the function takes no argument and reads a variable.
    let depth = unsafe {
        pg_sys::DirectFunctionCall1Coll(
            Some(raw::pg_trigger_depth),
            pg_sys::InvalidOid,
            pg_sys::Datum::from(0),
        )
    };
    depth.value() as i32
}

/// Runs the end of a query, where AFTER triggers fire, and then what is ours. Not guarded: its errors are not ours, and pass
/// through as they are; this frame holds nothing that must be dropped.
unsafe extern "C-unwind" fn finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the query is Postgres's. The pointer was a hook of exactly this type when register() stored it.
    unsafe {
        let next = NEXT_FINISH.load(Ordering::Relaxed);
        if next.is_null() {
            raw::standard_ExecutorFinish(query);
        } else {
            std::mem::transmute::<*mut (), raw::Finish>(next)(query);
        }
        statement_ends();
    }
}

/// A statement has ended: its events are in order, and go with those of the statement around it.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn end_statement() {
    let depth = trigger_depth();
    if depth == 0 {
        reply(write_all());
        KEPT.with_borrow_mut(|kept| kept.overflowed = false);
        ANY.store(false, Ordering::Relaxed);
    } else {
        KEPT.with_borrow_mut(|kept| {
            for event in kept.events.iter_mut().rev() {
                if event.level <= depth + 1 {
                    break;
                }
                event.level = depth + 1;
            }
        });
    }
}

/// To be called when a statement has ended, whatever ran it.
///
/// # Safety
/// In a transaction, or with nothing kept.
pub(crate) unsafe fn statement_ends() {
    if ANY.load(Ordering::Relaxed) {
        // SAFETY: as the caller says.
        unsafe { end_statement() }
    }
}

/// Writes what is kept, in its order.
fn write_all() -> Result<(), Error> {
    let events = KEPT.with_borrow_mut(|kept| {
        kept.bytes = 0;
        std::mem::take(&mut kept.events)
    });
    if events.is_empty() {
        return Ok(());
    }
    let mut store = Store::open()?;
    for event in &events {
        write(&mut store, event);
    }
    store.close();
    Ok(())
}

fn write(store: &mut Store, event: &NestedEvent) {
    store.add_parts(
        &event.event_type,
        event.owner.as_deref(),
        (None, None),
        &event.data,
        event.subject.as_deref(),
    );
}

/// What a change does to a row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Effect {
    Creates,
    Updates,
    Deletes,
}

/// How many rows a statement creates of each id. An update that gives a row another id counts too.
pub(super) type Created = HashMap<String, usize>;

/// What an event of a row tells of its versions.
pub(super) struct Versions<'a> {
    pub(super) effect: Effect,
    pub(super) id: &'a dyn Fn() -> String,
    /// The version that the change has ended.
    pub(super) before: &'a dyn Fn() -> Option<u64>,
    /// The version that the change has made.
    pub(super) after: &'a dyn Fn() -> Option<u64>,
    /// Whether that version, or any version of the row, is there now.
    pub(super) is_there: &'a dyn Fn() -> bool,
}

/// The events of one statement of one table, on their way into the outbox.
pub(super) struct Flow {
    level: i32,
    table: pg_sys::Oid,
    /// Where the tables are opened: it outlives the statement's rows.
    context: pg_sys::MemoryContext,
    store: Option<Store>,
    /// Own events, of a statement that is nested itself.
    own: Vec<NestedEvent>,
    /// What triggers have done to rows with the ids of rows that the statement creates, by id.
    earlier: HashMap<String, Vec<NestedEvent>>,
    /// The rows that the statement creates and has not emitted yet, if there are any of `earlier`.
    created: Created,
    /// What this statement's triggers have caused, and comes behind its own events.
    later: Vec<NestedEvent>,
}

impl Flow {
    /// Begins with the events of a statement on this table. `created` is asked only if triggers have changed rows of the
    /// table.
    pub(super) fn begin(table: pg_sys::Oid, created: impl FnOnce() -> Created) -> Self {
        let level = trigger_depth();
        let mut flow = Self {
            level,
            table,
            // SAFETY: a variable of this process.
            context: unsafe { pg_sys::CurrentMemoryContext },
            store: None,
            own: Vec::new(),
            earlier: HashMap::new(),
            created: Created::default(),
            later: Vec::new(),
        };
        if !ANY.load(Ordering::Relaxed) {
            return flow;
        }
        let nested = KEPT.with_borrow_mut(|kept| {
            let first = kept
                .events
                .iter()
                .rposition(|event| event.level <= level)
                .map_or(0, |last| last + 1);
            kept.events.split_off(first)
        });
        let concerns = |event: &NestedEvent| event.table == table;
        if !nested.iter().any(concerns) {
            flow.later = nested;
            return flow;
        }
        flow.created = created();
        for event in nested {
            if concerns(&event) && flow.created.contains_key(&event.id) {
                flow.earlier
                    .entry(event.id.clone())
                    .or_default()
                    .push(event);
            } else {
                flow.later.push(event);
            }
        }
        flow
    }

    /// A row is created: what has become of an earlier row of that id comes first. What ended this very version comes
    /// behind it.
    fn make_room(&mut self, versions: &Versions) -> Result<(), Error> {
        let id = (versions.id)();
        let left = self.created.get_mut(&id).map_or(0, |left| {
            *left = left.saturating_sub(1);
            *left
        });
        let Some(events) = self.earlier.get_mut(&id) else {
            return Ok(());
        };
        let version = (versions.after)();
        let ends_it = |event: &NestedEvent| version.is_some() && event.before == version;
        // Of rows that look alike, each is ended by one of the last deletions, but for the last row.
        let likely = events.len().saturating_sub(left);
        let count = if left > 0 && events.get(likely).is_some_and(ends_it) {
            likely
        } else {
            let all = events.len();
            match events.iter().position(ends_it) {
                None => all,
                // A row that looks as the one before it did.
                Some(_)
                    if left == 0
                        && events.last().is_some_and(|it| it.effect == Effect::Deletes)
                        && (versions.is_there)() =>
                {
                    all
                }
                Some(first) => first,
            }
        };
        let events: Vec<NestedEvent> = events.drain(..count).collect();
        for event in events {
            self.put(event)?;
        }
        Ok(())
    }

    fn is_nested(&self) -> bool {
        self.level > 1
    }

    /// Adds an event of the statement's own.
    pub(super) fn add(
        &mut self,
        event_type: &str,
        owner: Option<&str>,
        data: &str,
        subject: Option<&str>,
        versions: &Versions,
    ) -> Result<(), Error> {
        if !self.earlier.is_empty() && versions.effect != Effect::Deletes {
            self.make_room(versions)?;
        }
        let must_write = !self.is_nested() || KEPT.with_borrow(|kept| kept.overflowed);
        if must_write {
            self.store()?
                .add_parts(event_type, owner, (None, None), data, subject);
            return Ok(());
        }
        self.put(NestedEvent {
            level: self.level,
            // SAFETY: in a transaction.
            subtransaction: unsafe { pg_sys::GetCurrentSubTransactionId() },
            table: self.table,
            effect: versions.effect,
            id: (versions.id)(),
            before: (versions.before)(),
            event_type: event_type.to_owned(),
            owner: owner.map(str::to_owned),
            data: data.to_owned(),
            subject: subject.map(str::to_owned),
        })
    }

    /// Keeps an event, or writes it.
    fn put(&mut self, mut event: NestedEvent) -> Result<(), Error> {
        if !self.is_nested() {
            write(self.store()?, &event);
            return Ok(());
        }
        ANY.store(true, Ordering::Relaxed);
        event.level = self.level;
        let bytes = std::mem::size_of::<NestedEvent>()
            + event.data.len()
            + event.subject.as_ref().map_or(0, String::len);
        self.own.push(event);
        // SAFETY: a variable of this process.
        let work_mem = usize::try_from(unsafe { pg_sys::work_mem }).unwrap_or(0) * 1024;
        let too_much = KEPT.with_borrow_mut(|kept| {
            kept.bytes += bytes;
            kept.overflowed |= kept.bytes > work_mem;
            kept.overflowed
        });
        if too_much {
            write_all()?;
            let own = std::mem::take(&mut self.own);
            let store = self.store()?;
            for event in &own {
                write(store, event);
            }
        }
        Ok(())
    }

    /// The tables, open for writing.
    fn store(&mut self) -> Result<&mut Store, Error> {
        if self.store.is_none() {
            // SAFETY: the context was the current one when this began, and lives until it ends; the one of now is put
            // back.
            let now = unsafe { pg_sys::MemoryContextSwitchTo(self.context) };
            let opened = Store::open();
            // SAFETY: see above.
            unsafe { pg_sys::MemoryContextSwitchTo(now) };
            self.store = Some(opened?);
        }
        // It was opened above.
        self.store.as_mut().ok_or(Error::Mismatch)
    }

    /// Ends it: what is kept stays in order.
    pub(super) fn end(mut self) -> Result<(), Error> {
        // They belong to another row of the statement, or nobody wanted its creation.
        let rest: Vec<NestedEvent> = std::mem::take(&mut self.earlier)
            .into_values()
            .flatten()
            .collect();
        self.later.splice(..0, rest);
        // The apply worker of a subscription has no query whose end is told.
        // SAFETY: a variable of this process.
        if !self.is_nested() && !self.later.is_empty() && unsafe { pg_sys::IsLogicalWorker() } {
            let later = std::mem::take(&mut self.later);
            let store = self.store()?;
            for event in &later {
                write(store, event);
            }
        }
        if let Some(store) = self.store.take() {
            store.close();
        }
        KEPT.with_borrow_mut(|kept| {
            kept.events.append(&mut self.own);
            kept.events.append(&mut self.later);
        });
        Ok(())
    }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE,
        XACT_EVENT_PREPARE,
    };
    match event {
        // Deferred triggers have fired by now.
        XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE if ANY.load(Ordering::Relaxed) => {
            reply(write_before_the_end());
        }
        XACT_EVENT_ABORT | XACT_EVENT_COMMIT | XACT_EVENT_PREPARE => {
            ANY.store(false, Ordering::Relaxed);
            KEPT.with_borrow_mut(|kept| *kept = Kept::default());
        }
        _ => {}
    }
}

/// Between the last statement and the commit no snapshot is active, which toasting may need.
fn write_before_the_end() -> Result<(), Error> {
    // SAFETY: in a transaction that has not ended yet; the snapshot is popped below, or with the transaction.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot()) };
    let result = write_all();
    // SAFETY: the one that was pushed.
    unsafe { pg_sys::PopActiveSnapshot() };
    result
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn at_end_of_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    own: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    KEPT.with_borrow_mut(|kept| match event {
        SUBXACT_EVENT_COMMIT_SUB => {
            // What a subtransaction has added is at the end.
            for event in kept.events.iter_mut().rev() {
                if event.subtransaction != own {
                    break;
                }
                event.subtransaction = parent;
            }
        }
        SUBXACT_EVENT_ABORT_SUB => {
            while kept
                .events
                .pop_if(|event| event.subtransaction == own)
                .is_some()
            {}
        }
        _ => {}
    });
}
