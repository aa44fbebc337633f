//! Signatures: hexadecimal HMAC-SHA256 (RFC 2104), and Standard Webhooks 1.0.0.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// What a secret begins with whose rest is the key in base64 (Standard Webhooks 1.0.0).
pub const STANDARD_PREFIX: &str = "whsec_";

/// The official libraries of most languages do not mind what is left in the last digit.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Lower-case hexadecimal HMAC-SHA256 of `body`; the key is the secret's UTF-8 bytes as they are.
#[must_use]
pub fn hex_hmac(secret: &str, body: &[u8]) -> String {
    hex::encode(
        mac(secret.as_bytes())
            .chain_update(body)
            .finalize()
            .into_bytes(),
    )
}

/// Whether `signature` is [`hex_hmac`] of the same arguments, compared in constant time.
///
/// False for whatever is not 64 lower-case hexadecimal digits.
#[must_use]
pub fn verify_hex(secret: &str, body: &[u8], signature: &str) -> bool {
    let mut claimed = [0; 32];
    if signature.bytes().any(|byte| byte.is_ascii_uppercase())
        || hex::decode_to_slice(signature, &mut claimed).is_err()
    {
        return false;
    }
    mac(secret.as_bytes())
        .chain_update(body)
        .verify_slice(&claimed)
        .is_ok()
}

/// One signature for the header `webhook-signature` of Standard Webhooks 1.0.0: `v1,` and the
/// base64 of HMAC-SHA256 over `{message_id}.{unix_seconds}.{body}`.
///
/// The key is what follows `whsec_`, base64-decoded. A secret of any other form is used as its raw
/// bytes; so is one with nothing, or something that is not base64, behind `whsec_`.
#[must_use]
pub fn standard(secret: &str, message_id: &str, unix_seconds: i64, body: &[u8]) -> String {
    let decoded = secret
        .strip_prefix(STANDARD_PREFIX)
        .and_then(|rest| LENIENT.decode(rest).ok());
    // An empty key is one that everybody knows.
    let decoded = decoded.filter(|key| !key.is_empty());
    let tag = mac(decoded.as_deref().unwrap_or(secret.as_bytes()))
        .chain_update(message_id)
        .chain_update(".")
        .chain_update(unix_seconds.to_string())
        .chain_update(".")
        .chain_update(body)
        .finalize()
        .into_bytes();
    let mut signature = String::with_capacity(3 + 44);
    signature.push_str("v1,");
    STANDARD.encode_string(tag, &mut signature);
    signature
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    // HMAC takes keys of any length: this cannot fail, and if it did, nothing would verify.
    Hmac::new_from_slice(key).unwrap_or_else(|_| Hmac::new(&[0; 64].into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hex_hmac_is_rfc_4231() {
        // Test cases 1, 2, 6 and 7; those whose key is UTF-8.
        let long_key = String::from_utf8(vec![0x0b; 20]).unwrap();
        assert_eq!(
            hex_hmac(&long_key, b"Hi There"),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hex_hmac("Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn mac_is_rfc_4231_for_keys_longer_than_a_block() {
        let tag =
            |data: &[u8]| hex::encode(mac(&[0xaa; 131]).chain_update(data).finalize().into_bytes());
        assert_eq!(
            tag(b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
        assert_eq!(
            tag(b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be hashed before being used by the HMAC algorithm."),
            "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"
        );
    }

    #[test]
    fn standard_is_the_vector_of_standard_webhooks() {
        // From the tests of the official libraries.
        let signature = standard(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn secrets_of_other_forms_are_raw_bytes() {
        let expected = |key: &[u8]| {
            let tag = mac(key).chain_update(b"m.1.x").finalize().into_bytes();
            format!("v1,{}", STANDARD.encode(tag))
        };
        for raw in [
            "plain",
            "whsec_",
            "whsec_not base64",
            "whsec_abc",
            "WHSEC_YWJj",
            "whsec_YW-_",
        ] {
            assert_eq!(
                standard(raw, "m", 1, b"x"),
                expected(raw.as_bytes()),
                "{raw}"
            );
        }
        assert_eq!(standard("whsec_YWJj", "m", 1, b"x"), expected(b"abc"));
        assert_eq!(standard("whsec_YWI=", "m", 1, b"x"), expected(b"ab"));
        assert_eq!(standard("whsec_YWJ=", "m", 1, b"x"), expected(b"ab"));
    }

    #[test]
    fn verify_refuses_malformed_signatures() {
        let good = hex_hmac("s", b"body");
        assert!(verify_hex("s", b"body", &good));
        for bad in [
            "",
            "00",
            &good[..63],
            &good.to_uppercase(),
            &format!("{good}0"),
            &format!(" {good}"),
            "é",
        ] {
            assert!(!verify_hex("s", b"body", bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn verify_accepts_only_its_own(secret in ".{1,80}", body: Vec<u8>, flip in 0usize..256) {
            let good = hex_hmac(&secret, &body);
            prop_assert!(verify_hex(&secret, &body, &good));
            let mut tag = hex::decode(&good).unwrap();
            tag[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!verify_hex(&secret, &body, &hex::encode(tag)));
        }
    }
}
