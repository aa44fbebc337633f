//! Tokens: only what the secret has signed by HS256 and whose time it is is believed, whatever its header and
//! claims say; and an owner that is read from claims is one that Postgres can hold.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde_json::{Map, Value};
use webhooks_core::id::Kind;
use webhooks_core::sign::hex_hmac;
use webhooks_core::token::{Claims, Jti, bearer, hash, verify};

const SECRET: &str = "a secret of at least thirty-two bytes";
const NOW_S: i64 = 1_705_314_600;
/// How far ahead an issuer's clock may be.
const SKEW_S: f64 = 30.0;

/// A header and claims, each any bytes; the whole is a token too, and a header's value.
pub(crate) fn law(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some(token) = bearer(&text) {
        assert!(!token.is_empty() && token.trim() == token && text.contains(token));
        believed_only_if_signed(token);
    }
    believed_only_if_signed(&text);
    let (header, claims) = crate::halves(bytes);
    claims_are_read_with_care(&String::from_utf8_lossy(claims));
    let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(claims));
    signed_is_believed_in_its_time(&message, header, claims);
}

fn tag(message: &str) -> Vec<u8> {
    let hex = hex_hmac(SECRET, message.as_bytes());
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap_or_default();
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn believed_only_if_signed(token: &str) {
    if verify(token, SECRET, NOW_S).is_ok() {
        let signed = token.rsplit_once('.').map(|(message, signature)| {
            BASE64URL.decode(signature).ok().as_deref() == Some(&tag(message))
        });
        assert_eq!(signed, Some(true), "{token}");
    }
}

fn signed_is_believed_in_its_time(message: &str, header: &[u8], claims: &[u8]) {
    let token = format!("{message}.{}", BASE64URL.encode(tag(message)));
    // With any other signature it is nothing.
    assert!(verify(&format!("{message}."), SECRET, NOW_S).is_err());
    let forged = format!("{message}.{}", BASE64URL.encode(hash(message)));
    assert!(verify(&forged, SECRET, NOW_S).is_err(), "{forged}");
    let Ok(believed) = verify(&token, SECRET, NOW_S) else {
        return;
    };
    let object = |json: &[u8]| serde_json::from_slice::<Map<String, Value>>(json).ok();
    let (header, said) = (object(header), object(claims));
    let algorithm = header.as_ref().and_then(|it| it.get("alg")?.as_str());
    assert_eq!(algorithm, Some("HS256"), "{token}");
    let said = said.unwrap_or_default();
    let time = |name: &str| said.get(name).map(|it| it.as_f64().unwrap_or(f64::NAN));
    assert!(time("exp").is_none_or(|exp| exp > NOW_S as f64), "{token}");
    for name in ["nbf", "iat"] {
        let latest = NOW_S as f64 + SKEW_S;
        assert!(time(name).is_none_or(|from| from <= latest), "{token}");
    }
    assert!(!said.contains_key("aud"), "{token}");
    let owner = said.get("sub").and_then(Value::as_str);
    assert_eq!(believed.owner("sub"), owner.filter(|it| fit(it)), "{token}");
}

fn claims_are_read_with_care(json: &str) {
    let Some(claims) = Claims::parse(json) else {
        return;
    };
    for claim in ["sub", "org", "role", ""] {
        assert!(claims.owner(claim).is_none_or(fit), "{json}");
    }
    let said: Map<String, Value> = serde_json::from_str(json).unwrap_or_default();
    let jti = said.get("jti").and_then(Value::as_str).unwrap_or_default();
    let like_ours = jti.starts_with(Kind::Key.prefix());
    assert_eq!(claims.jti() != Jti::Foreign, like_ours, "{json}");
}

fn fit(owner: &str) -> bool {
    !owner.is_empty() && !owner.contains('\0')
}
