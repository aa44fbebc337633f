//! Webhooks for the tests, which differ by their number alone, and events for all of them.
// Each test uses some of it.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::sync::{Arc, Weak};
use uuid::Uuid;
use webhooks_core::endpoint::{Endpoint, Rules};
use webhooks_core::event_type::Subscription;
use webhooks_core::filter::Filter;
use webhooks_core::request::{Event, Target};
use webhooks_core::retry::Policy;
use webhooks_schedule::{Definition, Lifetime, Now, OutboxKey, Scheduler};

const URL: &str = "http://127.0.0.1/";

pub fn webhook_id(number: usize) -> Uuid {
    webhooks_core::id::v7(1_000, [number as u8 + 1; 10])
}

pub fn definition(number: usize, active: bool, lifetime: &Lifetime) -> Definition {
    let rules = Rules {
        require_https: false,
        allowed_ports: Vec::new(),
    };
    Definition {
        id: webhook_id(number),
        owner: None,
        active,
        activation: 0,
        lifetime: lifetime.clone(),
        subscription: Subscription::of(&["*".to_owned()]),
        filter: Some(Filter::default()),
        policy: Policy::default(),
        url: URL.to_owned(),
        endpoint: Ok(Arc::new(Endpoint::parse(URL, &rules).unwrap())),
        target: Arc::new(Target {
            webhook: webhook_id(number),
            secrets: Vec::new(),
            header_prefix: "X".to_owned(),
            user_agent: "t".to_owned(),
            livemode: true,
            max_payload: 1 << 20,
        }),
        failing_since_ms: None,
        failed_since_success: 0,
        failing: None,
        paused_until_ms: None,
        unreadable: None,
        unreadable_until_ms: None,
    }
}

pub fn at(ms: u64) -> Now {
    Now {
        mono_ms: ms,
        unix_ms: 1_000_000 + i64::try_from(ms).unwrap(),
    }
}

pub fn offer(scheduler: &mut Scheduler, number: u64, now: Now) {
    offer_data(scheduler, number, "{}".to_owned(), now);
}

/// The event as long as it is in memory.
pub fn offer_data(scheduler: &mut Scheduler, number: u64, data: String, now: Now) -> Weak<Event> {
    let event = Arc::new(Event {
        id: Uuid::from_u128(u128::from(number) + 1),
        event_type: "memory.created".to_owned(),
        created_ms: now.unix_ms,
        data,
    });
    let key = OutboxKey {
        id: event.id,
        block: 0,
        offset: 1,
    };
    let mut chosen = Vec::new();
    let audience = scheduler.audience("memory.created", None);
    scheduler.choose(&audience, "{}", &mut chosen);
    scheduler.offer(key, &event, &chosen, now);
    Arc::downgrade(&event)
}
