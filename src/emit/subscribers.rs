//! Who subscribes: what a backend must know before it writes an event, cached in it.
//!
//! The cache is dropped by relation-cache invalidation, which a trigger on `webhooks.webhook` sends with
//! every change, however it was made: a statement that begins after the COMMIT of `create_webhook` has
//! returned finds the message. The table is read under the latest snapshot, not the transaction's, so that
//! this holds in REPEATABLE READ too.

use crate::error::Error;
use crate::seam::{owner, scan};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use uuid::Uuid;
use webhooks_core::event_type::Subscription;

/// Who is to get events of a type.
#[derive(Debug)]
pub(crate) enum Audience {
    /// Nobody.
    Nobody,
    /// Webhooks without an owner are among them, and so every event is wanted.
    Everybody,
    /// Webhooks of these owners.
    Owners(HashSet<String>),
}

impl Audience {
    /// Whether an event of this owner is wanted.
    pub(crate) fn wants(&self, owner: Option<&str>) -> bool {
        match self {
            Self::Nobody => false,
            Self::Everybody => true,
            Self::Owners(owners) => owner.is_some_and(|owner| owners.contains(owner)),
        }
    }
}

static TABLE: AtomicU32 = AtomicU32::new(0);
static VALID: AtomicBool = AtomicBool::new(false);
static REGISTERED: AtomicBool = AtomicBool::new(false);

#[derive(Default)]
struct Cache {
    active: Vec<(Option<String>, Subscription)>,
    audiences: HashMap<String, Rc<Audience>>,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn invalidated(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    if relation == pg_sys::InvalidOid || relation.to_u32() == TABLE.load(Ordering::Relaxed) {
        VALID.store(false, Ordering::Relaxed);
    }
}

/// Tells every backend that webhooks have changed, when this transaction commits.
pub(crate) fn invalidate() {
    if let Ok(table) = owner::relation(c"webhook") {
        // SAFETY: in a transaction; the relation exists.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(table) }
    }
}

/// Who is to get events of this type, now.
pub(crate) fn audience(event_type: &str) -> Result<Rc<Audience>, Error> {
    // SAFETY: in a transaction, on the main thread.
    unsafe { pg_sys::AcceptInvalidationMessages() }
    if !VALID.load(Ordering::Relaxed) {
        load()?;
    }
    CACHE.with_borrow_mut(|cache| {
        if let Some(known) = cache.audiences.get(event_type) {
            return Ok(Rc::clone(known));
        }
        let mut owners = HashSet::new();
        let mut everybody = false;
        for (owner, subscription) in &cache.active {
            if subscription.matches(event_type, owner.is_some()) {
                match owner {
                    Some(owner) => {
                        owners.insert(owner.clone());
                    }
                    None => everybody = true,
                }
            }
        }
        let audience = Rc::new(match (everybody, owners.is_empty()) {
            (true, _) => Audience::Everybody,
            (false, true) => Audience::Nobody,
            (false, false) => Audience::Owners(owners),
        });
        // emit() takes the name of a type from its caller: not more names than there can be types.
        if cache.audiences.len() < 1_000 {
            cache
                .audiences
                .insert(event_type.to_owned(), Rc::clone(&audience));
        }
        Ok(audience)
    })
}

fn load() -> Result<(), Error> {
    if !REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: the callback has the type that is asked for and touches atomics only.
        unsafe {
            pg_sys::CacheRegisterRelcacheCallback(Some(invalidated), pg_sys::Datum::from(0));
        }
    }
    let webhook = owner::relation(c"webhook")?;
    let disabled = owner::relation(c"disabled")?;
    TABLE.store(webhook.to_u32(), Ordering::Relaxed);
    // What is invalidated while the table is read is read again next time.
    VALID.store(true, Ordering::Relaxed);
    let mut off: HashMap<Uuid, i32> = HashMap::new();
    scan::all(disabled, |row| {
        if let (Some(id), Some(activation)) =
            (row.uuid(c"webhook_id"), row.get::<i32>(c"activation"))
        {
            off.insert(id, activation);
        }
    })?;
    let mut active = Vec::new();
    scan::all(webhook, |row| {
        let (Some(id), Some(events)) = (row.uuid(c"id"), row.get::<Vec<Option<String>>>(c"events"))
        else {
            return;
        };
        // A NULL among them stands for nothing, and must not make a writer fail.
        let events: Vec<String> = events.into_iter().flatten().collect();
        let on =
            row.get(c"active") == Some(true) && off.get(&id).copied() != row.get(c"activation");
        if on {
            active.push((row.get(c"owner"), Subscription::of(&events)));
        }
    })?;
    CACHE.with_borrow_mut(|cache| {
        *cache = Cache {
            active,
            audiences: HashMap::new(),
        }
    });
    Ok(())
}
