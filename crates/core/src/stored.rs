//! A webhook as its row holds it, which need not be what our functions wrote: whoever owns the tables can
//! write anything into them, and so can a restore.
//!
//! What cannot be read fails closed. Such a webhook sends nothing; its deliveries wait until the row is
//! repaired. Every place that needs a webhook's row reads it here, so that all of them agree.

use crate::endpoint::{Endpoint, Rules};
use crate::event_type::{self, Subscription};
use crate::filter::Filter;
use crate::quote::quote;
use crate::retry::Policy;
use crate::secret::Secret;
use std::fmt::Display;

/// The columns that a user defines.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    /// Where to.
    pub url: &'a str,
    /// Types, `prefix.*` or `*`; `None` stands for SQL's NULL.
    pub events: &'a [Option<String>],
    /// The signing secret; `None`: it is not looked at.
    pub secret: Option<&'a str>,
    /// The secret before the last rotation, while it still signs.
    pub previous_secret: Option<&'a str>,
    /// JSON text.
    pub filters: Option<&'a str>,
    /// Attempts in all.
    pub max_attempts: i32,
    /// Base of the delay between attempts.
    pub backoff_multiplier: f64,
    /// Longest delay between attempts, in seconds.
    pub max_delay: i32,
}

/// What a row says.
#[derive(Clone, Debug)]
pub struct Read {
    /// What it subscribes to, by the entries that mean something.
    pub subscription: Subscription,
    /// What an event must hold; `None`: that cannot be told.
    pub filter: Option<Filter>,
    /// When to try again.
    pub policy: Policy,
    /// The signing secret.
    pub secret: Option<Secret>,
    /// The one before.
    pub previous_secret: Option<Secret>,
    /// Why nothing may be sent, for people; `None`: all of the row can be read.
    pub unreadable: Option<String>,
}

impl Stored<'_> {
    /// Reads the row, and says what of it cannot be read. No value of a secret or a URL is repeated.
    #[must_use]
    pub fn read(&self) -> Read {
        let mut faults = Vec::new();
        if let Err(why) = Endpoint::parse(self.url, &Rules::default()) {
            note(&mut faults, "url", why);
        }
        if let Err(why) = judge_events(self.events) {
            note(&mut faults, "events", why);
        }
        let mut secret_of = |what, text: Option<&str>| match Secret::parse(text?.to_owned()) {
            Ok(secret) => Some(secret),
            Err(why) => {
                note(&mut faults, what, why);
                None
            }
        };
        let secret = secret_of("secret", self.secret);
        let previous_secret = secret_of("previous secret", self.previous_secret);
        let filter = match read_filter(self.filters) {
            Ok(filter) => Some(filter),
            Err(why) => {
                note(&mut faults, "filters", why);
                None
            }
        };
        let policy = match read_policy(self.max_attempts, self.backoff_multiplier, self.max_delay) {
            Ok(policy) => policy,
            Err(why) => {
                note(&mut faults, "retry_policy", why);
                Policy::default()
            }
        };
        let events: Vec<&str> = self.events.iter().flatten().map(String::as_str).collect();
        Read {
            subscription: Subscription::of(&events),
            filter,
            policy,
            secret,
            previous_secret,
            unreadable: (!faults.is_empty()).then(|| faults.join("; ")),
        }
    }
}

/// The filter that a row holds as JSON text; without one everything matches.
///
/// # Errors
/// Why it is not a filter.
pub fn read_filter(filters: Option<&str>) -> Result<Filter, String> {
    let Some(text) = filters else {
        return Ok(Filter::default());
    };
    let value = crate::json::parse(text).map_err(|why| why.to_string())?;
    Filter::parse(&value).map_err(|why| why.to_string())
}

fn note(faults: &mut Vec<String>, what: &str, why: impl Display) {
    faults.push(format!("{what} cannot be read: {why}"));
}

/// Types that are not registered are no fault: they may come yet, or have gone.
fn judge_events(events: &[Option<String>]) -> Result<(), String> {
    if events.is_empty() {
        return Err("there are none".to_owned());
    }
    for event in events {
        match event {
            None => return Err("an entry is null".to_owned()),
            Some(event) if !event_type::can_be_subscribed_to(event) => {
                return Err(format!("\"{}\" is no event type", quote(event)));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The retry policy that a row holds.
///
/// # Errors
/// Which value is out of its range.
pub fn read_policy(
    max_attempts: i32,
    backoff_multiplier: f64,
    max_delay: i32,
) -> Result<Policy, String> {
    let mut policy = serde_json::Map::new();
    policy.insert("max_attempts".to_owned(), max_attempts.into());
    policy.insert("max_delay".to_owned(), max_delay.into());
    // NaN and infinity have no JSON; as a text they are refused with the range.
    let multiplier = serde_json::Number::from_f64(backoff_multiplier).map_or_else(
        || backoff_multiplier.to_string().into(),
        serde_json::Value::Number,
    );
    policy.insert("backoff_multiplier".to_owned(), multiplier);
    Policy::default()
        .merge(&serde_json::Value::Object(policy))
        .map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn events(names: &[Option<&str>]) -> Vec<Option<String>> {
        names.iter().map(|it| it.map(str::to_owned)).collect()
    }

    fn unreadable(change: impl FnOnce(&mut Stored<'_>)) -> Option<String> {
        let all = events(&[Some("memory.*"), Some("*"), Some("shop.order.paid")]);
        let mut row = Stored {
            url: "https://example.com/",
            events: &all,
            secret: Some("s"),
            previous_secret: None,
            filters: Some(r#"{"tags":"food"}"#),
            max_attempts: 3,
            backoff_multiplier: 2.0,
            max_delay: 300,
        };
        change(&mut row);
        row.read().unreadable
    }

    #[test]
    fn a_row_of_our_own_can_be_read() {
        assert_eq!(unreadable(|_| ()), None);
        assert_eq!(unreadable(|row| row.filters = None), None);
        assert_eq!(unreadable(|row| row.secret = None), None);
        assert_eq!(unreadable(|row| row.previous_secret = Some("p")), None);
        assert_eq!(unreadable(|row| row.backoff_multiplier = 1.5), None);
    }

    #[test]
    fn each_value_that_cannot_be_read_is_named_with_the_reason() {
        let says = |change: fn(&mut Stored<'_>), what: &str| {
            let reason = unreadable(change).unwrap();
            assert!(reason.starts_with(what), "{reason}");
        };
        says(|row| row.url = "nonsense", "url cannot be read: ");
        says(
            |row| row.events = &[],
            "events cannot be read: there are none",
        );
        says(
            |row| row.events = &[None],
            "events cannot be read: an entry is null",
        );
        says(
            |row| row.secret = Some(""),
            "secret cannot be read: secret must not be empty",
        );
        says(
            |row| row.previous_secret = Some(""),
            "previous secret cannot be read: ",
        );
        says(
            |row| row.filters = Some("7"),
            "filters cannot be read: filters must be an object",
        );
        says(|row| row.filters = Some("{"), "filters cannot be read: ");
        says(
            |row| row.filters = Some(r#"{"a":{"b":1}}"#),
            "filters cannot be read: filter \"a\"",
        );
        says(
            |row| row.max_attempts = 0,
            "retry_policy cannot be read: retry_policy.max_attempts",
        );
        says(
            |row| row.max_delay = -1,
            "retry_policy cannot be read: retry_policy.max_delay",
        );
        says(
            |row| row.backoff_multiplier = f64::NAN,
            "retry_policy cannot be read: ",
        );
        says(
            |row| row.backoff_multiplier = f64::INFINITY,
            "retry_policy cannot be read: ",
        );
    }

    #[test]
    fn all_faults_are_named() {
        let reason = unreadable(|row| {
            row.secret = Some("");
            row.filters = Some("[]");
        });
        assert_eq!(
            reason.unwrap(),
            "secret cannot be read: secret must not be empty; filters cannot be read: filters must be an object"
        );
    }

    #[test]
    fn a_secret_is_never_repeated() {
        let long = "hush".repeat(100);
        let all = events(&[Some("*")]);
        let read = Stored {
            url: "https://user:hush@example.com/",
            events: &all,
            secret: Some(&long),
            previous_secret: Some(&long),
            filters: None,
            max_attempts: 3,
            backoff_multiplier: 2.0,
            max_delay: 300,
        }
        .read();
        assert!(!read.unreadable.unwrap().contains("hush"));
    }

    #[test]
    fn what_can_be_read_counts_beside_what_cannot() {
        let some = events(&[Some("memory.created"), None, Some("Not One")]);
        let read = Stored {
            url: "https://example.com/",
            events: &some,
            secret: Some("s"),
            previous_secret: None,
            filters: Some("[]"),
            max_attempts: 3,
            backoff_multiplier: 2.0,
            max_delay: 300,
        }
        .read();
        assert!(read.subscription.matches("memory.created", false));
        assert!(!read.subscription.matches("memory.deleted", false));
        assert_eq!(read.filter, None);
        assert_eq!(read.secret.unwrap().expose(), "s");
    }
}
