//! The secret that signs a webhook's requests. It never shows itself in logs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;
use thiserror::Error;

/// The longest secret, in bytes.
pub const MAX_BYTES: usize = 256;

/// A text that cannot be a secret.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum SecretError {
    /// No bytes at all.
    #[error("secret must not be empty")]
    Empty,
    /// Over [`MAX_BYTES`].
    #[error("secret is too long: {0} bytes")]
    TooLong(usize),
}

impl SecretError {
    /// What to do instead.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Empty => {
                "Leave the secret out: create_webhook() and rotate_secret() generate one."
                    .to_owned()
            }
            Self::TooLong(_) => format!("A secret has 1 to {MAX_BYTES} bytes."),
        })
    }
}

/// A secret of 1 to [`MAX_BYTES`] bytes.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret that a user chose.
    ///
    /// # Errors
    /// It is empty or longer than [`MAX_BYTES`].
    pub fn parse(text: String) -> Result<Self, SecretError> {
        match text.len() {
            0 => Err(SecretError::Empty),
            1..=MAX_BYTES => Ok(Self(text)),
            length => Err(SecretError::TooLong(length)),
        }
    }

    /// A new secret in the form of Standard Webhooks: `whsec_` and the base64 of `random`.
    #[must_use]
    pub fn generate(random: [u8; 32]) -> Self {
        let mut text = String::from(crate::sign::STANDARD_PREFIX);
        STANDARD.encode_string(random, &mut text);
        Self(text)
    }

    /// The secret itself, for signing, storing, and showing once to whoever made it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// A secret of a webhook, and until when it signs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LiveSecret {
    /// The secret.
    pub secret: Secret,
    /// Unix milliseconds from which on it signs no more; `None`: it is the newest, and has no end.
    pub until_ms: Option<i64>,
}

impl LiveSecret {
    /// Whether an attempt of this time is signed with it.
    #[must_use]
    pub fn signs_at(&self, unix_ms: i64) -> bool {
        self.until_ms.is_none_or(|until| unix_ms < until)
    }
}

impl From<Secret> for LiveSecret {
    /// A secret without an end.
    fn from(secret: Secret) -> Self {
        Self {
            secret,
            until_ms: None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn length_is_1_to_256_bytes() {
        assert_eq!(Secret::parse(String::new()), Err(SecretError::Empty));
        assert!(Secret::parse("x".to_owned()).is_ok());
        assert!(Secret::parse("é".repeat(128)).is_ok());
        assert_eq!(
            Secret::parse("é".repeat(129)),
            Err(SecretError::TooLong(258))
        );
    }

    #[test]
    fn debug_does_not_tell() {
        assert_eq!(
            format!("{:?}", Secret::parse("abc".to_owned()).unwrap()),
            "Secret(…)"
        );
    }

    #[test]
    fn debug_of_what_holds_a_secret_does_not_tell() {
        let live = LiveSecret::from(Secret::parse("abc".to_owned()).unwrap());
        assert!(!format!("{live:?}").contains("abc"));
    }

    #[test]
    fn a_secret_signs_until_its_end_and_not_at_it() {
        let mut live = LiveSecret::from(Secret::parse("abc".to_owned()).unwrap());
        assert!(live.signs_at(i64::MAX));
        live.until_ms = Some(1_000);
        assert!(live.signs_at(999) && !live.signs_at(1_000) && !live.signs_at(1_001));
    }

    #[test]
    fn a_generated_secret_is_whsec_and_base64_of_32_bytes() {
        let secret = Secret::generate([0xfb; 32]);
        assert_eq!(
            secret.expose(),
            "whsec_+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s="
        );
    }
}
