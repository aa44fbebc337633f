//! How the rows of one attached table are rendered: worked out once and kept in the backend until the
//! table or its triggers change.

use super::attached::{self, Shown};
use super::kind::{Kind, attributes, integer_like, is_vector, key_of};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use webhooks_core::attachment::Attachment;

/// A column of the table.
pub(crate) struct Column {
    /// Place in the row, from 0.
    pub(crate) index: usize,
    /// `"name":`, as it stands in the JSON.
    pub(crate) key: String,
    pub(crate) kind: Kind,
    pub(crate) type_oid: pg_sys::Oid,
    pub(crate) by_value: bool,
    pub(crate) length: i16,
    /// It is sent, but its change alone emits nothing.
    pub(crate) ignored: bool,
}

/// How a table is rendered.
pub(crate) struct Plan {
    pub(crate) object: String,
    /// `object.created`, `object.updated`, `object.deleted`.
    pub(crate) types: [String; 3],
    pub(crate) shown: Shown,
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

/// # Safety
/// As plan() says.
unsafe fn make(relation: pg_sys::Relation, trigger: *const pg_sys::Trigger) -> Plan {
    // SAFETY: as the caller says; the relation is open as long as the trigger runs.
    let (settings, attributes) = unsafe {
        (
            attached::settings_of(trigger),
            attributes((*relation).rd_att),
        )
    };
    let (mut id, mut owner, mut soft_delete) = (None, None, None);
    let mut columns = Vec::new();
    let mut leading: Vec<(u32, Column)> = Vec::new();
    let mut metadata = None;
    for attribute in &attributes {
        let name = attribute.name.as_str();
        let is = |column: &Option<String>| column.as_deref() == Some(name);
        let column = || Column {
            index: attribute.index,
            key: key_of(name),
            kind: Kind::of(attribute.type_oid),
            type_oid: attribute.type_oid,
            by_value: attribute.by_value,
            length: attribute.length,
            ignored: settings.ignore_columns.iter().any(|it| it == name),
        };
        if is(&settings.owner_column) {
            owner = Some(column());
        }
        if is(&settings.soft_delete_column) {
            soft_delete = Some(column());
        }
        if settings.id_column == name {
            id = Some(Column {
                key: key_of("id"),
                ..column()
            });
        } else if is_shown(&settings, name, attribute.type_oid) {
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
    leading.sort_by_key(|(number, _)| *number);
    let count = leading.len();
    let columns: Vec<Column> = leading
        .into_iter()
        .map(|(_, column)| column)
        .chain(columns)
        .collect();
    let needs_pinning = columns.iter().any(|column| column.kind.needs_pinning())
        || id
            .iter()
            .chain(&owner)
            .any(|column| column.kind.text_needs_pinning());
    let missing = attached::missing_columns(&settings, &attributes);
    let shown = match (id.is_some(), missing.is_empty()) {
        (false, _) => Shown::Nothing,
        (true, false) => Shown::ObjectAndId,
        (true, true) => Shown::Columns,
    };
    // SAFETY: as the caller says.
    unsafe { attached::tell(relation, trigger, &missing, shown) };
    Plan {
        types: ["created", "updated", "deleted"]
            .map(|action| format!("{}.{action}", settings.object)),
        object: settings.object,
        shown,
        id,
        owner,
        soft_delete,
        metadata: metadata.map(|index| index + count),
        leading: count,
        columns,
        needs_pinning,
    }
}

/// Whether a column that is not the id is sent. `object` and `id` are keys of ours.
fn is_shown(settings: &Attachment, name: &str, type_oid: pg_sys::Oid) -> bool {
    name != "object"
        && name != "id"
        && !settings.exclude_columns.iter().any(|it| it == name)
        && (settings.include_vectors || !is_vector(type_oid))
}
