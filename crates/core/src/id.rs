//! Ids: the text that users see, and the UUIDs behind it (RFC 9562).
//!
//! A webhook's, event's or key's UUID is of version 7, so that ids sort by the time they were made.
//! A delivery's is of version 8: a pure function of its event, its webhook and a generation, so
//! that working it out again after a crash gives the same id.

use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::{Builder, Uuid};

/// What an id names, which decides its prefix.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// `webhook_…`
    Webhook,
    /// `event_…`
    Event,
    /// `delivery_…`
    Delivery,
    /// `key_…`
    Key,
}

impl Kind {
    /// What stands before the hex digits, with the underscore.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Webhook => "webhook_",
            Self::Event => "event_",
            Self::Delivery => "delivery_",
            Self::Key => "key_",
        }
    }

    /// The word for it in messages.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Event => "event",
            Self::Delivery => "delivery",
            Self::Key => "key",
        }
    }
}

impl Kind {
    /// Where such ids are shown, as a sentence that begins with a statement.
    const fn shown_by(self) -> &'static str {
        match self {
            Self::Webhook => "SELECT webhooks.list_webhooks(); shows the ids.",
            Self::Event => "SELECT event_id FROM webhooks.deliveries; shows the ids.",
            Self::Delivery => "SELECT id FROM webhooks.deliveries; shows the ids.",
            Self::Key => "SELECT id, name FROM webhooks.api_keys; shows the ids.",
        }
    }
}

/// A text that is not an id of the kind that was asked for.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("invalid {} id", .expected.noun())]
pub struct IdError {
    /// What kind of id was expected.
    pub expected: Kind,
}

impl IdError {
    /// Which form was expected.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let prefix = self.expected.prefix();
        let noun = self.expected.noun();
        Some(format!(
            "The id of a {noun} is \"{prefix}\" followed by 32 lower-case hexadecimal digits. {}",
            self.expected.shown_by()
        ))
    }
}

/// The id as users see it: a prefix and 32 lower-case hexadecimal digits.
#[must_use]
pub fn format(kind: Kind, id: Uuid) -> String {
    let prefix = kind.prefix();
    let mut text = String::with_capacity(prefix.len() + 32);
    text.push_str(prefix);
    text.push_str(id.simple().encode_lower(&mut Uuid::encode_buffer()));
    text
}

/// Reads an id as [`format`](fn@format) writes it, and no other spelling.
///
/// # Errors
/// Another prefix, upper-case digits, hyphens, or any other length.
pub fn parse(kind: Kind, text: &str) -> Result<Uuid, IdError> {
    let error = IdError { expected: kind };
    let digits = text.strip_prefix(kind.prefix()).ok_or(error.clone())?;
    if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(error);
    }
    let mut bytes = [0; 16];
    hex::decode_to_slice(digits, &mut bytes).map_err(|_| error)?;
    Ok(Uuid::from_bytes(bytes))
}

/// A UUID of version 7 (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits.
///
/// The low 12 bits of `random[..2]` become `rand_a`, directly behind the time.
#[must_use]
pub const fn v7(unix_ms: u64, random: [u8; 10]) -> Uuid {
    Builder::from_unix_timestamp_millis(clamped(unix_ms), &random).into_uuid()
}

/// The id of the delivery of `event` to `webhook`.
///
/// `generation` is 0 for the delivery that the event itself causes, and a replay's number
/// otherwise. A UUID of version 8 (RFC 9562, section 5.8) whose first 60 payload bits are the
/// event's, so that the deliveries of one event are neighbours in an index and all are in order of
/// time; the other 62 bits are from SHA-256.
#[must_use]
pub fn delivery(event: Uuid, webhook: Uuid, generation: u64) -> Uuid {
    let digest = Sha256::new()
        .chain_update(b"webhooks.delivery.v8\0")
        .chain_update(event.as_bytes())
        .chain_update(webhook.as_bytes())
        .chain_update(generation.to_be_bytes())
        .finalize();
    let mut bytes = *event.as_bytes();
    bytes[8..].copy_from_slice(&digest[..8]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// The lowest and the highest UUID that a delivery of this event can have, both inclusive.
///
/// Other events have deliveries between them only if they share the event's first 60 bits.
#[must_use]
pub fn deliveries_of(event: Uuid) -> (Uuid, Uuid) {
    let with_rest = |rest: u8| {
        let mut bytes = *event.as_bytes();
        bytes[8..].fill(rest);
        Builder::from_custom_bytes(bytes).into_uuid()
    };
    (with_rest(0), with_rest(0xff))
}

/// The lowest and the highest UUID that the event of this delivery can have, both inclusive.
#[must_use]
pub fn events_of(delivery: Uuid) -> (Uuid, Uuid) {
    const VERSION_7: u8 = 0x70;
    let with_rest = |rest: u8| {
        let mut bytes = *delivery.as_bytes();
        bytes[6] = VERSION_7 | (bytes[6] & 0x0f);
        bytes[8..].fill(rest);
        Uuid::from_bytes(bytes)
    };
    (with_rest(0), with_rest(0xff))
}

/// The lowest UUID whose first 48 bits are this time: none that was made at `unix_ms` or later
/// sorts before it. Only a bound, not a valid UUID of any version.
#[must_use]
pub const fn floor_of(unix_ms: u64) -> Uuid {
    Uuid::from_u128((clamped(unix_ms) as u128) << 80)
}

/// Times beyond the 48 bits (the year 10889) are the last one.
const fn clamped(unix_ms: u64) -> u64 {
    const LAST: u64 = (1 << 48) - 1;
    if unix_ms > LAST { LAST } else { unix_ms }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn v7_is_the_example_of_rfc_9562() {
        // Appendix A.6: rand_a 0xCC3, rand_b 0b01, 0x8C4DC0C0C07398F.
        let random = [0x0c, 0xc3, 0x18, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39, 0x8f];
        let expected = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        assert_eq!(v7(0x017F_22E2_79B0, random).to_string(), expected);
    }

    #[test]
    fn format_is_prefix_and_hex() {
        let id = Uuid::from_u128(0x017f_22e2_79b0_7cc3_98c4_dc0c_0c07_398f);
        assert_eq!(
            format(Kind::Webhook, id),
            "webhook_017f22e279b07cc398c4dc0c0c07398f"
        );
        assert_eq!(
            format(Kind::Key, id),
            "key_017f22e279b07cc398c4dc0c0c07398f"
        );
    }

    #[test]
    fn parse_is_strict_and_says_what_it_wants() {
        for bad in [
            "",
            "event_",
            "017f22e279b07cc398c4dc0c0c07398f",
            "webhook_017f22e279b07cc398c4dc0c0c07398f",
            "event_017F22E279B07CC398C4DC0C0C07398F",
            "event_017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
            "event_017f22e279b07cc398c4dc0c0c07398",
            "event_017f22e279b07cc398c4dc0c0c07398f0",
            " event_017f22e279b07cc398c4dc0c0c07398f",
            "event_017f22e279b07cc398c4dc0c0c07398g",
        ] {
            let error = parse(Kind::Event, bad).unwrap_err();
            assert_eq!(error.to_string(), "invalid event id", "{bad}");
            assert!(
                error
                    .hint()
                    .unwrap()
                    .contains("\"event_\" followed by 32 lower-case")
            );
        }
    }

    #[test]
    fn a_delivery_id_never_changes() {
        // Stored ids must be found again by later versions of this code.
        let id = delivery(Uuid::from_u128(1 << 90), Uuid::from_u128(2), 3);
        assert_eq!(id.simple().to_string(), GOLDEN);
    }
    const GOLDEN: &str = "00000000040080009237363836ed70eb";

    #[test]
    fn floor_is_the_time_alone() {
        assert_eq!(
            floor_of(0x017F_22E2_79B0).to_string(),
            "017f22e2-79b0-0000-0000-000000000000"
        );
        assert_eq!(
            floor_of(u64::MAX).to_string(),
            "ffffffff-ffff-0000-0000-000000000000"
        );
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses(bits: u128) {
            let id = Uuid::from_u128(bits);
            for kind in [Kind::Webhook, Kind::Event, Kind::Delivery, Kind::Key] {
                prop_assert_eq!(parse(kind, &format(kind, id)), Ok(id));
            }
        }

        #[test]
        fn a_delivery_is_a_neighbour_of_its_event(ms in 0..1u64 << 48, random: [u8; 10], other: [u8; 10], generation: u64) {
            let event = v7(ms, random);
            let id = delivery(event, v7(ms, other), generation);
            prop_assert_eq!(id.get_version_num(), 8);
            prop_assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            prop_assert_eq!(&id.as_bytes()[..6], &event.as_bytes()[..6]);
            prop_assert_eq!(id.as_bytes()[6] & 0x0f, event.as_bytes()[6] & 0x0f);
            prop_assert_eq!(id.as_bytes()[7], event.as_bytes()[7]);
            let (low, high) = deliveries_of(event);
            prop_assert!(low <= id && id <= high);
            let (first, last) = events_of(id);
            prop_assert!(first <= event && event <= last);
            prop_assert_eq!(&first.as_bytes()[..8], &last.as_bytes()[..8]);
            prop_assert_eq!(low.as_bytes()[8], 0x80);
            prop_assert_eq!(high.as_bytes()[8], 0xbf);
            prop_assert!(floor_of(ms) <= event && floor_of(ms) <= id);
            prop_assert!(event < floor_of(ms + 1) || ms + 1 == 1 << 48);
        }

        #[test]
        fn deliveries_differ_by_webhook_and_generation(event: u128, a: u128, b: u128, m: u64, n: u64) {
            prop_assume!((a, m) != (b, n));
            let event = Uuid::from_u128(event);
            prop_assert_ne!(delivery(event, Uuid::from_u128(a), m), delivery(event, Uuid::from_u128(b), n));
        }
    }
}
