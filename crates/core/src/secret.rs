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
            Self::Empty => "Leave the secret out, and one is generated.".to_owned(),
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
    fn a_generated_secret_is_whsec_and_base64_of_32_bytes() {
        let secret = Secret::generate([0xfb; 32]);
        assert_eq!(
            secret.expose(),
            "whsec_+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s="
        );
    }
}
