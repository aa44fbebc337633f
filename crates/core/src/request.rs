//! The request of one attempt: its headers and its body, byte for byte.
//!
//! A body depends on the event, the webhook and the attempt's number alone, the signatures on the
//! time too; so nothing of it needs to be stored to show it again.

use crate::event_type;
use crate::id::{self, Kind};
use crate::json::write_string;
use crate::payload;
use crate::secret::LiveSecret;
use crate::sign;
use crate::time::write_iso_millis;
use uuid::Uuid;

/// The longest prefix of header names, in bytes.
pub const HEADER_PREFIX_MAX: usize = 64;
/// The longest value of a header that is a setting, in bytes.
pub const HEADER_VALUE_MAX: usize = 512;

/// What happened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Event {
    /// Its id, the same in every delivery and attempt.
    pub id: Uuid,
    /// Its type, such as `memory.created`.
    pub event_type: String,
    /// When it happened, Unix milliseconds.
    pub created_ms: i64,
    /// Canonical JSON, see [`crate::json`].
    pub data: String,
}

impl Event {
    /// Whether it tells of a failure. What becomes of such a one is told to nobody, else one failure would lead to the next.
    #[must_use]
    pub fn is_failure_report(&self) -> bool {
        matches!(
            self.event_type.as_str(),
            event_type::WEBHOOK_DISABLED | event_type::DELIVERY_FAILED
        )
    }
}

/// Whom to tell, and in which form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The webhook.
    pub webhook: Uuid,
    /// The secrets, newest first; at least one. Each attempt is signed with those that live then.
    pub secrets: Vec<LiveSecret>,
    /// What our own headers begin with, such as `X-Lanonasis`; see [`header_name_ok`].
    pub header_prefix: String,
    /// The `User-Agent`; see [`header_value_ok`].
    pub user_agent: String,
    /// Passed on in the body.
    pub livemode: bool,
    /// The longest body, in bytes, before `data` is shortened.
    pub max_payload: usize,
}

/// A `POST` request, without what the transport adds (`Host`, `Content-Length`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// Names and values, in the order they are sent.
    pub headers: Vec<(String, String)>,
    /// Compact JSON.
    pub body: String,
    /// Something of `data` was left out: now, because the body would have been too long, or when the event was stored.
    pub truncated: bool,
}

/// Builds the request of one attempt. `attempt` counts from 1; `unix_ms` is the time of this attempt:
/// it decides which secrets sign, and in seconds Standard Webhooks signs it.
#[must_use]
pub fn build(
    event: &Event,
    target: &Target,
    delivery: Uuid,
    attempt: u32,
    unix_ms: i64,
) -> Request {
    let unix_seconds = unix_ms.div_euclid(1_000);
    let mut request = build_unsigned(event, target, delivery, attempt, unix_seconds);
    let body = request.body.as_bytes();
    let prefix = &target.header_prefix;
    let live = || {
        target
            .secrets
            .iter()
            .filter(|it| it.signs_at(unix_ms))
            .map(|it| it.secret.expose())
    };
    let mut hexes = live().map(|secret| sign::hex_hmac(secret, body));
    let mut signed = Vec::with_capacity(3);
    if let Some(newest) = hexes.next() {
        signed.push((format!("{prefix}-Signature"), newest));
    }
    if let Some(previous) = hexes.next() {
        signed.push((format!("{prefix}-Signature-Previous"), previous));
    }
    let message = id::format(Kind::Event, event.id);
    let standard: Vec<String> = live()
        .map(|secret| sign::standard(secret, &message, unix_seconds, body))
        .collect();
    if !standard.is_empty() {
        signed.push(("webhook-signature".to_owned(), standard.join(" ")));
    }
    request.headers.append(&mut signed);
    request
}

/// The same without the headers that hold signatures, for showing.
#[must_use]
pub fn build_unsigned(
    event: &Event,
    target: &Target,
    delivery: Uuid,
    attempt: u32,
    unix_seconds: i64,
) -> Request {
    let (body, truncated) = body(event, target, attempt);
    let prefix = &target.header_prefix;
    let mut headers = Vec::with_capacity(10);
    headers.extend([
        ("Content-Type".to_owned(), "application/json".to_owned()),
        // Some receivers and gateways refuse a request that does not say what it takes.
        ("Accept".to_owned(), "*/*".to_owned()),
        ("User-Agent".to_owned(), target.user_agent.clone()),
        (format!("{prefix}-Event"), event.event_type.clone()),
        (
            format!("{prefix}-Delivery"),
            id::format(Kind::Delivery, delivery),
        ),
        ("webhook-id".to_owned(), id::format(Kind::Event, event.id)),
        ("webhook-timestamp".to_owned(), unix_seconds.to_string()),
    ]);
    Request {
        headers,
        body,
        truncated,
    }
}

/// The body, and whether its data was shortened.
fn body(event: &Event, target: &Target, attempt: u32) -> (String, bool) {
    let tail = format!(
        ",\"webhook_id\":\"{}\",\"attempt\":{attempt},\"livemode\":{}}}",
        id::format(Kind::Webhook, target.webhook),
        target.livemode
    );
    let mut out = String::with_capacity(
        event.data.len().min(target.max_payload) + event.event_type.len() + 256,
    );
    out.push_str("{\"id\":\"");
    out.push_str(&id::format(Kind::Event, event.id));
    out.push_str("\",\"type\":");
    write_string(&event.event_type, &mut out);
    out.push_str(",\"created\":\"");
    write_iso_millis(event.created_ms, &mut out);
    out.push_str("\",\"data\":");
    let room = target.max_payload.saturating_sub(out.len() + tail.len());
    let truncated =
        payload::shrink(&event.data, room, &mut out) || payload::is_truncated(&event.data);
    out.push_str(&tail);
    (out, truncated)
}

/// Whether a text may be the value of a header: 1 to [`HEADER_VALUE_MAX`] visible ASCII characters
/// and spaces, no space at either end (RFC 9110, section 5.5).
#[must_use]
pub fn header_value_ok(text: &str) -> bool {
    let visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    (1..=HEADER_VALUE_MAX).contains(&text.len())
        && text.bytes().all(visible)
        && text.trim_matches(' ') == text
}

/// Whether header names may begin with a text: 1 to [`HEADER_PREFIX_MAX`] ASCII letters, digits
/// and hyphens. `webhook` is not among them, since `webhook-signature` is a header of Standard
/// Webhooks.
#[must_use]
pub fn header_name_ok(text: &str) -> bool {
    (1..=HEADER_PREFIX_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_alphanumeric())
        && !text.eq_ignore_ascii_case("webhook")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::secret::Secret;
    use proptest::prelude::*;

    fn event() -> Event {
        Event {
            id: Uuid::from_u128(0x018d_0c8c_a9c0_7000_8000_0000_0000_0001),
            event_type: "memory.created".to_owned(),
            created_ms: 1_705_314_600_000,
            data: r#"{"object":"memory","id":"1","content":"hello"}"#.to_owned(),
        }
    }

    fn target(secrets: &[&str]) -> Target {
        Target {
            webhook: Uuid::from_u128(0x018d_0c8c_a9c0_7000_8000_0000_0000_0002),
            secrets: secrets
                .iter()
                .map(|&text| Secret::parse(text.to_owned()).unwrap().into())
                .collect(),
            header_prefix: "X-Lanonasis".to_owned(),
            user_agent: "Lanonasis-Webhooks/1.0".to_owned(),
            livemode: true,
            max_payload: 1 << 20,
        }
    }

    const DELIVERY: Uuid = Uuid::from_u128(0x018d_0c8c_a9c0_8000_8000_0000_0000_0003);
    const BODY: &str = r#"{"id":"event_018d0c8ca9c070008000000000000001","type":"memory.created","created":"2024-01-15T10:30:00.000Z","data":{"object":"memory","id":"1","content":"hello"},"webhook_id":"webhook_018d0c8ca9c070008000000000000002","attempt":2,"livemode":true}"#;

    fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
        request
            .headers
            .iter()
            .find(|(it, _)| it == name)
            .map(|(_, value)| value.as_str())
    }

    #[test]
    fn the_body_is_that_of_the_contract() {
        let request = build(&event(), &target(&["s"]), DELIVERY, 2, 1_705_314_601_000);
        assert_eq!(request.body, BODY);
        assert!(!request.truncated);
    }

    #[test]
    fn the_headers_are_those_of_the_contract() {
        let request = build(&event(), &target(&["s"]), DELIVERY, 2, 1_705_314_601_999);
        let message = "event_018d0c8ca9c070008000000000000001";
        let expected = [
            ("Content-Type", "application/json".to_owned()),
            ("Accept", "*/*".to_owned()),
            ("User-Agent", "Lanonasis-Webhooks/1.0".to_owned()),
            ("X-Lanonasis-Event", "memory.created".to_owned()),
            (
                "X-Lanonasis-Delivery",
                "delivery_018d0c8ca9c080008000000000000003".to_owned(),
            ),
            ("webhook-id", message.to_owned()),
            ("webhook-timestamp", "1705314601".to_owned()),
            (
                "X-Lanonasis-Signature",
                sign::hex_hmac("s", BODY.as_bytes()),
            ),
            (
                "webhook-signature",
                sign::standard("s", message, 1_705_314_601, BODY.as_bytes()),
            ),
        ];
        assert_eq!(
            request.headers,
            expected.map(|(name, value)| (name.to_owned(), value))
        );
    }

    #[test]
    fn during_a_rotation_both_secrets_sign_newest_first() {
        let request = build(&event(), &target(&["new", "old"]), DELIVERY, 2, 7_000);
        let body = request.body.as_bytes();
        let message = "event_018d0c8ca9c070008000000000000001";
        assert_eq!(
            header(&request, "X-Lanonasis-Signature").unwrap(),
            sign::hex_hmac("new", body)
        );
        assert_eq!(
            header(&request, "X-Lanonasis-Signature-Previous").unwrap(),
            sign::hex_hmac("old", body)
        );
        let both = ["new", "old"]
            .map(|secret| sign::standard(secret, message, 7, body))
            .join(" ");
        assert_eq!(header(&request, "webhook-signature").unwrap(), both);
    }

    #[test]
    fn whether_the_previous_secret_signs_is_judged_at_each_attempt() {
        let mut target = target(&["new", "old"]);
        target.secrets[1].until_ms = Some(5_000);
        let at = |unix_ms| build(&event(), &target, DELIVERY, 1, unix_ms);
        let (before, after) = (at(4_999), at(5_000));
        let previous = |request| header(request, "X-Lanonasis-Signature-Previous").is_some();
        let listed = |request| {
            header(request, "webhook-signature")
                .unwrap_or_default()
                .split(' ')
                .count()
        };
        assert_eq!((previous(&before), listed(&before)), (true, 2));
        assert_eq!((previous(&after), listed(&after)), (false, 1));
    }

    /// The official library of Rust, as a receiver has it.
    #[test]
    fn the_standardwebhooks_crate_verifies_both_secrets_of_a_rotation() {
        let secrets = [[1; 32], [2; 32], [3; 32]].map(Secret::generate);
        let mut target = target(&[secrets[0].expose(), secrets[1].expose()]);
        let now_s = i64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
        .unwrap();
        target.secrets[1].until_ms = Some((now_s + 1) * 1_000);
        let verified = |request: &Request, secret: &Secret| {
            let mut headers = http::HeaderMap::new();
            for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
                headers.insert(name, header(request, name).unwrap().parse().unwrap());
            }
            standardwebhooks::Webhook::new(secret.expose())
                .unwrap()
                .verify(request.body.as_bytes(), &headers)
                .is_ok()
        };
        let by = |request| [0, 1, 2].map(|index| verified(request, &secrets[index]));
        let during = build(&event(), &target, DELIVERY, 1, now_s * 1_000);
        let after = build(&event(), &target, DELIVERY, 1, (now_s + 1) * 1_000);
        assert_eq!(by(&during), [true, true, false]);
        assert_eq!(by(&after), [true, false, false]);
    }

    #[test]
    fn unsigned_is_the_same_without_signatures() {
        let (event, target) = (event(), target(&["new", "old"]));
        let signed = build(&event, &target, DELIVERY, 1, 7_000);
        let unsigned = build_unsigned(&event, &target, DELIVERY, 1, 7);
        assert_eq!(signed.body, unsigned.body);
        let rest = signed
            .headers
            .into_iter()
            .filter(|(name, _)| !name.to_lowercase().contains("signature"));
        assert_eq!(rest.collect::<Vec<_>>(), unsigned.headers);
    }

    #[test]
    fn what_was_shortened_when_it_was_stored_is_told_too() {
        let stored = Event {
            data: payload::minimal("memory", "7"),
            ..event()
        };
        assert!(build(&stored, &target(&["s"]), DELIVERY, 1, 0).truncated);
        assert!(!build(&event(), &target(&["s"]), DELIVERY, 1, 0).truncated);
    }

    #[test]
    fn too_long_a_body_is_shortened_to_the_limit() {
        let mut target = target(&["s"]);
        target.max_payload = BODY.len();
        assert!(!build(&event(), &target, DELIVERY, 2, 0).truncated);
        target.max_payload = BODY.len() - 1;
        let request = build(&event(), &target, DELIVERY, 2, 0);
        assert!(request.truncated);
        assert!(
            request
                .body
                .contains(r#""data":{"object":"memory","id":"1","truncated":true},"webhook_id""#)
        );
        target.max_payload = 0;
        assert!(
            build(&event(), &target, DELIVERY, 2, 0)
                .body
                .contains(r#""data":{"truncated":true},"#)
        );
    }

    #[test]
    fn settings_cannot_break_a_header() {
        for good in ["Lanonasis-Webhooks/1.0", "a b (c; d)", "x"] {
            assert!(header_value_ok(good), "{good}");
        }
        for bad in [
            "",
            " a",
            "a ",
            "a\nb",
            "a\tb",
            "é",
            "a\r\nX: y",
            "a\u{7f}",
            &"x".repeat(513),
        ] {
            assert!(!header_value_ok(bad), "{bad:?}");
        }
        for good in ["X-Lanonasis", "x1", "Webhooks"] {
            assert!(header_name_ok(good), "{good}");
        }
        for bad in [
            "",
            "X Y",
            "X:",
            "X_Y",
            "é",
            "webhook",
            "Webhook",
            &"x".repeat(65),
        ] {
            assert!(!header_name_ok(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_body_is_canonical_and_fits(content: String, attempt in 1u32..1_000, max_payload in 300usize..600, live: bool) {
            let content = content.replace('\0', "");
            let mut data = String::from(r#"{"object":"memory","id":"1","content":"#);
            write_string(&content, &mut data);
            data.push('}');
            let mut target = target(&["s"]);
            (target.max_payload, target.livemode) = (max_payload, live);
            let request = build(&Event { data, ..event() }, &target, DELIVERY, attempt, 0);
            prop_assert!(request.body.len() <= max_payload);
            let mut again = String::new();
            crate::json::canonicalize(&request.body, &mut again).unwrap();
            prop_assert_eq!(again, request.body);
        }
    }
}
