//! How the rows of one attached table are rendered: worked out once and kept in the backend until the
//! table or its triggers change.

use super::render::Kind;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A column that is shown.
pub(crate) struct Column {
    /// Place in the row, from 0.
    pub(crate) index: usize,
    /// `"name":`, as it stands in the JSON.
    pub(crate) key: String,
    pub(crate) kind: Kind,
    pub(crate) by_value: bool,
    pub(crate) length: i16,
}

/// How a table is rendered.
pub(crate) struct Plan {
    pub(crate) object: String,
    /// `object.created`, `object.updated`, `object.deleted`.
    pub(crate) types: [String; 3],
    /// The id, if the table still has the column.
    pub(crate) id: Option<Column>,
    pub(crate) owner: Option<Column>,
    pub(crate) soft_delete: Option<Column>,
    /// All that are shown beside the id; those with integer-like names first, as JavaScript has them.
    pub(crate) columns: Vec<Column>,
    /// How many of `columns` come before `object`.
    pub(crate) leading: usize,
    /// Which of `columns` is `metadata`.
    pub(crate) metadata: Option<usize>,
    /// Some column is rendered by Postgres, whose output depends on settings.
    pub(crate) needs_pinning: bool,
}

/// Key: the table and the trigger, so that a changed trigger has its own plan.
type Key = (u32, u32);

thread_local! {
    static PLANS: RefCell<HashMap<Key, Rc<Plan>>> = RefCell::default();
}
static REGISTERED: AtomicBool = AtomicBool::new(false);
static STALE: AtomicBool = AtomicBool::new(false);

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, _relation: pg_sys::Oid) {
    // Whichever relation it was: plans are cheap to make, and DDL is rare.
    STALE.store(true, Ordering::Relaxed);
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn type_changed(_arg: pg_sys::Datum, _cache: i32, _hash: u32) {
    STALE.store(true, Ordering::Relaxed);
}

/// The plan for a trigger's table.
///
/// # Safety
/// Both must be those of a trigger that is being fired.
pub(crate) unsafe fn plan(relation: pg_sys::Relation, trigger: *const pg_sys::Trigger) -> Rc<Plan> {
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the callbacks have the types that are asked for and touch an atomic only.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), pg_sys::Datum::from(0));
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::TYPEOID as i32,
                Some(type_changed),
                pg_sys::Datum::from(0),
            );
        }
    }
    if STALE.swap(false, Ordering::Relaxed) {
        PLANS.with_borrow_mut(HashMap::clear);
    }
    // SAFETY: as the caller says.
    let key = unsafe { ((*relation).rd_id.to_u32(), (*trigger).tgoid.to_u32()) };
    if let Some(known) = PLANS.with_borrow(|plans| plans.get(&key).map(Rc::clone)) {
        return known;
    }
    // SAFETY: as the caller says.
    let made = Rc::new(unsafe { make(relation, trigger) });
    PLANS.with_borrow_mut(|plans| plans.insert(key, Rc::clone(&made)));
    made
}

/// Arguments of our triggers: object, id column, owner column or '', soft-delete column or '', then the
/// columns that are excluded.
unsafe fn arguments(trigger: *const pg_sys::Trigger) -> Vec<String> {
    // SAFETY: tgargs has tgnargs NUL-terminated strings.
    unsafe {
        (0..(*trigger).tgnargs as usize)
            .map(|index| {
                CStr::from_ptr(*(*trigger).tgargs.add(index))
                    .to_string_lossy()
                    .into_owned()
            })
            .collect()
    }
}

unsafe fn make(relation: pg_sys::Relation, trigger: *const pg_sys::Trigger) -> Plan {
    // SAFETY: as plan() says.
    let arguments = unsafe { arguments(trigger) };
    let at = |index: usize| {
        arguments
            .get(index)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    };
    let object = at(0).unwrap_or("memory").to_owned();
    let excluded = arguments.get(4..).unwrap_or_default();
    let (mut id, mut owner, mut soft_delete) = (None, None, None);
    let mut columns = Vec::new();
    let mut leading: Vec<(u32, Column)> = Vec::new();
    let mut metadata = None;
    // SAFETY: the relation is open as long as the trigger runs.
    let attributes = unsafe { super::render::attributes((*relation).rd_att) };
    for attribute in attributes {
        let column = || Column {
            index: attribute.index,
            key: key_of(&attribute.name),
            kind: Kind::of(attribute.type_oid),
            by_value: attribute.by_value,
            length: attribute.length,
        };
        let name = attribute.name.as_str();
        if at(2) == Some(name) {
            owner = Some(column());
        }
        if at(3) == Some(name) {
            soft_delete = Some(column());
        }
        if at(1) == Some(name) {
            id = Some(Column {
                key: key_of("id"),
                ..column()
            });
        } else if name != "object" && name != "id" && !excluded.iter().any(|it| it == name) {
            match integer_like(name) {
                Some(number) => leading.push((number, column())),
                None => {
                    if name == "metadata" {
                        metadata = Some(columns.len());
                    }
                    columns.push(column());
                }
            }
        }
    }
    leading.sort_by_key(|it| it.0);
    let count = leading.len();
    let columns: Vec<Column> = leading.into_iter().map(|it| it.1).chain(columns).collect();
    let pinned = |column: &Column| column.kind.needs_pinning();
    let needs_pinning = columns
        .iter()
        .chain(&id)
        .chain(&owner)
        .chain(&soft_delete)
        .any(pinned);
    Plan {
        types: ["created", "updated", "deleted"].map(|action| format!("{object}.{action}")),
        object,
        id,
        owner,
        soft_delete,
        metadata: metadata.map(|index| index + count),
        leading: count,
        columns,
        needs_pinning,
    }
}

fn key_of(name: &str) -> String {
    let mut key = String::with_capacity(name.len() + 3);
    webhooks_core::json::write_string(name, &mut key);
    key.push(':');
    key
}

/// The number, if JavaScript takes the name for an array index and moves it to the front.
fn integer_like(name: &str) -> Option<u32> {
    let number: u32 = name.parse().ok().filter(|&number| number != u32::MAX)?;
    (number.to_string() == name).then_some(number)
}
