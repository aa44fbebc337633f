//! Webhooks for the tests: they differ by their number alone.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::sync::Arc;
use uuid::Uuid;
use webhooks_core::endpoint::{Endpoint, Rules};
use webhooks_core::event_type::Subscription;
use webhooks_core::filter::Filter;
use webhooks_core::request::Target;
use webhooks_core::retry::Policy;
use webhooks_schedule::{Definition, Lifetime};

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
        filter: Filter::default(),
        policy: Policy::default(),
        endpoint: Ok(Arc::new(
            Endpoint::parse("http://127.0.0.1/", &rules).unwrap(),
        )),
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
    }
}
