//! What must hold whatever bytes come from outside, one function for each fuzz target of `fuzz/`.
//!
//! Each function takes bytes that anybody may have chosen, and panics when a law is broken. cargo-fuzz
//! looks for such bytes; `tests/corpus.rs` replays what it has found before, without cargo-fuzz.
#![forbid(unsafe_code)]

mod address;
mod excerpt;
mod filter;
mod json;
mod retry_after;
mod token;
mod url;

/// A law.
pub type Law = fn(&[u8]);

/// Each law by the name of its fuzz target.
pub const LAWS: [(&str, Law); 7] = [
    ("address", address::law),
    ("canonical_json", json::law),
    ("excerpt", excerpt::law),
    ("filter", filter::law),
    ("retry_after", retry_after::law),
    ("token", token::law),
    ("url", url::law),
];

/// Puts bytes to the law of this name. A name that is none is passed over.
pub fn obey(name: &str, bytes: &[u8]) {
    for (_, law) in LAWS.iter().filter(|(known, _)| *known == name) {
        law(bytes);
    }
}

/// Two inputs in one: what is before the first byte 0xff, which is in no text, and what is behind it.
fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == 0xff) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}
