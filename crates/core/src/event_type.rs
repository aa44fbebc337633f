//! Types of events: their names, the built-in ones, and what a webhook subscribes to.

use crate::quote::quote;
use crate::table_name::{object_of, plural_of};
use std::collections::BTreeSet;
use thiserror::Error;

/// A row was inserted.
pub const MEMORY_CREATED: &str = "memory.created";
/// A row was updated.
pub const MEMORY_UPDATED: &str = "memory.updated";
/// A row was deleted.
pub const MEMORY_DELETED: &str = "memory.deleted";
/// Somebody searched.
pub const SEARCH_PERFORMED: &str = "search.performed";
/// A user did something.
pub const USER_ACTIVITY: &str = "user.activity";
/// How the worker is; only for webhooks without an owner.
pub const SYSTEM_HEALTH: &str = "system.health";
/// An owner's figures.
pub const ANALYTICS_UPDATE: &str = "analytics.update";
/// A webhook was switched off automatically.
pub const WEBHOOK_DISABLED: &str = "webhook.disabled";
/// A delivery has used its last attempt.
pub const DELIVERY_FAILED: &str = "delivery.failed";
/// A test, for one webhook alone; nobody subscribes to it.
pub const WEBHOOK_TEST: &str = "webhook.test";

/// The built-in types that a webhook can subscribe to.
pub const BUILT_IN: [&str; 9] = [
    MEMORY_CREATED,
    MEMORY_UPDATED,
    MEMORY_DELETED,
    SEARCH_PERFORMED,
    USER_ACTIVITY,
    SYSTEM_HEALTH,
    ANALYTICS_UPDATE,
    WEBHOOK_DISABLED,
    DELIVERY_FAILED,
];

/// The most entries of an `events` list.
pub const MAX_EVENTS: usize = 50;
/// The longest name of a type, in bytes.
pub const MAX_NAME: usize = 100;
/// The longest name of an object, in bytes: its types are at most [`MAX_NAME`] long.
pub const MAX_OBJECT: usize = MAX_NAME - ".created".len();

/// What begins the types that no user may emit.
const RESERVED: [&str; 5] = ["memory.", "webhook.", "delivery.", "system.", "analytics."];
/// What begins the types that webhooks with an owner do not get.
const UNOWNED: &str = "system.";
const ALL: &str = "*";
const WILDCARDS: &str = "Wildcards such as memory.* and * are allowed.";

/// Whether a type may have this name: `object.action`, two or more segments of lower-case letters,
/// digits and underscores, each beginning with a letter; at most [`MAX_NAME`] bytes.
#[must_use]
pub fn valid_name(name: &str) -> bool {
    name.len() <= MAX_NAME && name.contains('.') && name.split('.').all(is_segment)
}

/// Whether an object may have this name: one segment of a type's name, at most [`MAX_OBJECT`] bytes.
#[must_use]
pub fn valid_object(name: &str) -> bool {
    name.len() <= MAX_OBJECT && is_segment(name)
}

/// Whether users may not emit this type: `memory.*`, `webhook.*`, `delivery.*`, `system.*` and
/// `analytics.*`.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether webhooks with an owner may subscribe to this type: all but `system.*`.
#[must_use]
pub fn is_for_owners(name: &str) -> bool {
    !name.starts_with(UNOWNED)
}

/// Whether an entry of `events` has the form of one: a type's name, `prefix.*` or `*`. Whether there is such
/// a type is another question.
#[must_use]
pub fn can_be_subscribed_to(entry: &str) -> bool {
    let dotted = wildcard(entry).and_then(|prefix| prefix.strip_suffix('.'));
    entry == ALL || valid_name(entry) || dotted.is_some_and(|it| it.split('.').all(is_segment))
}

fn is_segment(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_lowercase())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// A list of `events` that nobody can subscribe to.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum EventsError {
    /// No entries.
    #[error("events must not be empty")]
    Empty,
    /// Over [`MAX_EVENTS`].
    #[error("events has too many entries: {0}")]
    TooMany(usize),
    /// The same entry twice.
    #[error("event type \"{0}\" is given more than once")]
    Duplicate(String),
    /// No such type.
    #[error("unknown event type \"{name}\"; known types are {}", .known.join(", "))]
    Unknown {
        /// The entry, as [`quote`] shows it.
        name: String,
        /// What there is, sorted.
        known: Vec<String>,
        /// What to do instead: [`advice`].
        advice: String,
    },
    /// A type of the whole system, and the webhook has an owner.
    #[error("only webhooks without an owner may subscribe to \"{0}\"")]
    Unowned(String),
    /// [`WEBHOOK_TEST`].
    #[error("\"{WEBHOOK_TEST}\" cannot be subscribed to")]
    Test,
}

impl EventsError {
    /// What to do instead.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Empty | Self::TooMany(_) => {
                format!(
                    "Give 1 to {MAX_EVENTS} types, such as {MEMORY_CREATED}, memory.*, or * for all."
                )
            }
            Self::Duplicate(_) => "Give each type once.".to_owned(),
            Self::Unknown { advice, .. } => advice.clone(),
            Self::Unowned(_) => {
                "Leave it out, or have an administrator create a webhook without an owner."
                    .to_owned()
            }
            Self::Test => {
                "webhooks.send_test() sends it to any webhook, whatever that subscribes to."
                    .to_owned()
            }
        })
    }
}

/// What to tell whoever named a type, or a wildcard, that there is not: the nearest that there is, and the
/// call that would make it, or else `otherwise`. A call can be pasted as it stands.
#[must_use]
pub fn advice(entry: &str, known: &[impl AsRef<str>], otherwise: &str) -> String {
    let mut sentences = Vec::new();
    if let Some(nearest) = nearest(entry, known) {
        sentences.push(format!("Did you mean \"{nearest}\"?"));
    }
    sentences.push(match entry.split_once('.') {
        Some((object, "created" | "updated" | "deleted" | "*"))
            if valid_object(object) && !is_reserved(entry) =>
        {
            // Who names a type after the table has the table's name already.
            let table = match object_of(object) {
                Some(singular) if singular != object => object.to_owned(),
                _ => plural_of(object),
            };
            format!(
                "Attaching a table makes its types: SELECT webhooks.attach('{table}', object => '{object}');"
            )
        }
        Some(_) if valid_name(entry) && !is_reserved(entry) => format!(
            "An administrator can add it: SELECT webhooks.register_event_type('{entry}', 'when it is sent');"
        ),
        _ => otherwise.to_owned(),
    });
    sentences.join(" ")
}

/// The type, or the wildcard, that is most like this one, if one is like it.
fn nearest(entry: &str, known: &[impl AsRef<str>]) -> Option<String> {
    /// As [`strsim::normalized_damerau_levenshtein`] counts: 1 for equal texts.
    const LIKE: f64 = 0.6;
    if entry.len() > MAX_NAME {
        return None;
    }
    let types = known.iter().map(AsRef::as_ref);
    let candidates: BTreeSet<String> = if wildcard(entry).is_some() {
        let objects = types.filter_map(|name| name.split_once('.'));
        objects.map(|(object, _)| format!("{object}.*")).collect()
    } else {
        types.map(str::to_owned).collect()
    };
    let candidates = candidates.into_iter().filter(|name| name != entry);
    let like = |name: String| (strsim::normalized_damerau_levenshtein(entry, &name), name);
    let (how, name) = candidates
        .map(like)
        .max_by(|one, other| one.0.total_cmp(&other.0))?;
    (how >= LIKE).then_some(name)
}

/// Which types of events a webhook gets. The default: none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Subscription {
    all: bool,
    exact: Vec<String>,
    /// What wildcards begin with, with the dot.
    prefixes: Vec<String>,
}

impl Subscription {
    /// Reads a list that a user gives, against the types that are registered (`known`, next to the
    /// built-in ones). `owned`: the webhook has an owner.
    ///
    /// # Errors
    /// No or too many entries, one that is given twice or unknown, `webhook.test`; and `system.*`,
    /// if the webhook has an owner.
    pub fn parse(
        events: &[impl AsRef<str>],
        known: &[impl AsRef<str>],
        owned: bool,
    ) -> Result<Self, EventsError> {
        match events.len() {
            0 => return Err(EventsError::Empty),
            1..=MAX_EVENTS => {}
            count => return Err(EventsError::TooMany(count)),
        }
        let mut types: BTreeSet<&str> = known.iter().map(AsRef::as_ref).chain(BUILT_IN).collect();
        types.remove(WEBHOOK_TEST);
        for (position, event) in events.iter().enumerate() {
            let name = event.as_ref();
            if events[..position]
                .iter()
                .any(|other| other.as_ref() == name)
            {
                return Err(EventsError::Duplicate(quote(name)));
            }
            if name == WEBHOOK_TEST {
                return Err(EventsError::Test);
            }
            let exists = match wildcard(name) {
                Some(prefix) => types.iter().any(|it| it.starts_with(prefix)),
                None => name == ALL || types.contains(name),
            };
            if !exists {
                let offered = types.iter().filter(|it| !owned || !it.starts_with(UNOWNED));
                let known: Vec<String> = offered.map(|&it| it.to_owned()).collect();
                return Err(EventsError::Unknown {
                    name: quote(name),
                    advice: advice(name, &known, WILDCARDS),
                    known,
                });
            }
            if owned && name.starts_with(UNOWNED) {
                return Err(EventsError::Unowned(quote(name)));
            }
        }
        Ok(Self::of(events))
    }

    /// Takes a list that was judged when it was stored. Entries that mean nothing match nothing.
    #[must_use]
    pub fn of(events: &[impl AsRef<str>]) -> Self {
        let mut subscription = Self::default();
        for event in events.iter().map(AsRef::as_ref) {
            if event == ALL {
                subscription.all = true;
            } else if let Some(prefix) = wildcard(event) {
                subscription.prefixes.push(prefix.to_owned());
            } else {
                subscription.exact.push(event.to_owned());
            }
        }
        subscription
    }

    /// Whether the webhook gets events of this type. `owned`: it has an owner, and so none of
    /// `system.*`.
    #[must_use]
    pub fn matches(&self, event_type: &str, owned: bool) -> bool {
        if event_type == WEBHOOK_TEST || (owned && event_type.starts_with(UNOWNED)) {
            return false;
        }
        self.all
            || self.exact.iter().any(|name| name == event_type)
            || self
                .prefixes
                .iter()
                .any(|prefix| event_type.starts_with(prefix.as_str()))
    }
}

/// What types must begin with, the dot included, if an entry is of the form `prefix.*`.
fn wildcard(event: &str) -> Option<&str> {
    event
        .strip_suffix('*')
        .filter(|prefix| prefix.ends_with('.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn parse(events: &[&str], owned: bool) -> Result<Subscription, EventsError> {
        Subscription::parse(
            events,
            &["note.created", "shop.order.paid", "webhook.test"],
            owned,
        )
    }

    #[test]
    fn names_are_segments_with_dots() {
        for good in [
            "a.b",
            "memory.created",
            "shop.order.paid",
            "a1_.b_2",
            &format!("a.{}", "b".repeat(98)),
        ] {
            assert!(valid_name(good), "{good}");
        }
        for bad in [
            "",
            "memory",
            ".",
            "a.",
            ".a",
            "a..b",
            "A.b",
            "1.b",
            "a.1",
            "a._b",
            "a.b-c",
            "a.*",
            "a.é",
            "a.b ",
            &format!("a.{}", "b".repeat(99)),
        ] {
            assert!(!valid_name(bad), "{bad}");
        }
        assert!(valid_object("note") && valid_object(&"a".repeat(92)));
        assert!(
            !valid_object("")
                && !valid_object("a.b")
                && !valid_object("Note")
                && !valid_object(&"a".repeat(93))
        );
        assert!(BUILT_IN.iter().all(|name| valid_name(name)) && valid_name(WEBHOOK_TEST));
    }

    #[test]
    fn reserved_types_are_those_of_the_contract() {
        for name in [
            "memory.x",
            "webhook.test",
            "delivery.failed",
            "system.health",
            "analytics.update",
        ] {
            assert!(is_reserved(name));
        }
        for name in [
            "search.performed",
            "user.activity",
            "memories.created",
            "memory",
            "my.memory.x",
        ] {
            assert!(!is_reserved(name));
        }
    }

    #[test]
    fn exact_types_wildcards_and_all_match() {
        let matches = |events: &[&str], name| parse(events, true).unwrap().matches(name, true);
        assert!(
            matches(&["memory.created"], MEMORY_CREATED)
                && !matches(&["memory.created"], MEMORY_UPDATED)
        );
        assert!(
            matches(&["memory.*"], MEMORY_DELETED) && !matches(&["memory.*"], "memoryx.created")
        );
        assert!(
            matches(&["shop.*"], "shop.order.paid")
                && matches(&["shop.order.*"], "shop.order.paid")
        );
        assert!(matches(&["*"], "note.created") && matches(&["*"], DELIVERY_FAILED));
        assert!(matches(&["user.activity", "search.*"], SEARCH_PERFORMED));
        assert!(!Subscription::default().matches(MEMORY_CREATED, false));
    }

    #[test]
    fn system_health_is_not_for_owners() {
        for events in [
            &["system.health"][..],
            &["system.*"],
            &["memory.*", "system.health"],
        ] {
            let error = parse(events, true).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("only webhooks without an owner may subscribe"),
                "{error}"
            );
            assert!(parse(events, false).unwrap().matches(SYSTEM_HEALTH, false));
        }
        let all = parse(&["*"], true).unwrap();
        assert!(!all.matches(SYSTEM_HEALTH, true) && all.matches(SYSTEM_HEALTH, false));
        assert!(!Subscription::of(&["system.health"]).matches(SYSTEM_HEALTH, true));
    }

    #[test]
    fn nobody_subscribes_to_tests() {
        assert_eq!(parse(&["webhook.test"], false), Err(EventsError::Test));
        for events in ["*", "webhook.*"] {
            assert!(
                !parse(&[events], false)
                    .unwrap()
                    .matches(WEBHOOK_TEST, false)
            );
        }
    }

    #[test]
    fn an_unknown_type_is_named_with_the_known_ones() {
        for bad in [
            "foo.bar",
            "memory",
            "memory.creat",
            "foo.*",
            "*.created",
            "memory*",
            ".*",
            "**",
            "",
            "Memory.created",
            "memory.**",
        ] {
            let error = parse(&["memory.created", bad], true).unwrap_err();
            let message = error.to_string();
            assert!(message.starts_with(&format!("unknown event type \"{bad}\"; known types are analytics.update, delivery.failed, memory.created, ")));
            assert!(message.ends_with(
                "note.created, search.performed, shop.order.paid, user.activity, webhook.disabled"
            ));
        }
        assert!(
            parse(&["foo.bar"], false)
                .unwrap_err()
                .to_string()
                .contains("system.health")
        );
    }

    #[test]
    fn the_hint_for_an_unknown_type_names_the_nearest_and_the_call_that_makes_it() {
        let hint = |entry| parse(&[entry], false).unwrap_err().hint().unwrap();
        assert_eq!(
            hint("order.created"),
            "Did you mean \"note.created\"? Attaching a table makes its types: SELECT webhooks.attach('orders', object => 'order');"
        );
        assert_eq!(
            hint("order.*"),
            "Attaching a table makes its types: SELECT webhooks.attach('orders', object => 'order');"
        );
        assert!(hint("orders.created").ends_with("attach('orders', object => 'orders');"));
        assert_eq!(
            hint("memroy.created"),
            "Did you mean \"memory.created\"? Attaching a table makes its types: SELECT webhooks.attach('memroys', object => 'memroy');"
        );
        assert!(hint("memori.*").starts_with("Did you mean \"memory.*\"? "));
        assert_eq!(
            hint("memory.creation"),
            "Did you mean \"memory.created\"? Wildcards such as memory.* and * are allowed."
        );
        assert_eq!(
            hint("invoice.paid"),
            "An administrator can add it: SELECT webhooks.register_event_type('invoice.paid', 'when it is sent');"
        );
        for entry in ["", "nonsense", "Robert'); DROP TABLE students;--.created"] {
            assert_eq!(hint(entry), "Wildcards such as memory.* and * are allowed.");
        }
        assert!(hint(&"x".repeat(1 << 20)).len() < 100);
    }

    #[test]
    fn an_entry_has_the_form_of_a_type_or_a_wildcard() {
        for good in ["*", "memory.*", "shop.order.*", "memory.created", "a.b.c"] {
            assert!(can_be_subscribed_to(good), "{good}");
        }
        for bad in [
            "",
            "memory",
            ".*",
            "**",
            "memory.**",
            "Memory.*",
            "a..*",
            "a b.*",
            "memory*",
        ] {
            assert!(!can_be_subscribed_to(bad), "{bad}");
        }
    }

    #[test]
    fn one_to_fifty_entries_each_once() {
        assert_eq!(parse(&[], true), Err(EventsError::Empty));
        let names: Vec<String> = (0..51).map(|n| format!("t.n{n}")).collect();
        assert!(Subscription::parse(&names[..50], &names, true).is_ok());
        assert_eq!(
            Subscription::parse(&names, &names, true),
            Err(EventsError::TooMany(51))
        );
        let twice = parse(&["memory.*", "*", "memory.*"], true);
        assert_eq!(twice, Err(EventsError::Duplicate("memory.*".to_owned())));
        assert!(parse(&["memory.*", "memory.created"], true).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_known_can_be_subscribed_to(name in "[a-z][a-z0-9_]{0,9}(\\.[a-z][a-z0-9_]{0,9}){1,3}") {
            prop_assume!(name != WEBHOOK_TEST);
            prop_assert!(valid_name(&name));
            let exact = Subscription::parse(&[&name], &[&name], false).unwrap();
            prop_assert!(exact.matches(&name, false));
            let (object, _) = name.split_once('.').unwrap();
            let wild = Subscription::parse(&[format!("{object}.*")], &[&name], false).unwrap();
            prop_assert!(wild.matches(&name, false));
            prop_assert!(!wild.matches(object, false));
        }
    }
}
