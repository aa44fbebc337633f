//! Canonical JSON: written once it stays as it is, says what the text said, and whatever is made of it
//! (cut by depth, cut by size, read) is JSON again.

use serde_json::Value;
use webhooks_core::json::{MAX_DEPTH, canonicalize, parse, prune, write_value};
use webhooks_core::payload::shrink;

/// The names by which `serde_json` tells its numbers from objects.
const PRIVATE: &str = "$serde_json::private";

pub(crate) fn law(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    pruned(text);
    let mut out = String::from("kept");
    if canonicalize(text, &mut out).is_err() {
        assert_eq!(out, "kept");
        return;
    }
    let out = &out["kept".len()..];
    let mut again = String::new();
    assert!(canonicalize(out, &mut again).is_ok(), "{out}");
    assert_eq!(again, out);
    let (Ok(before), Ok(after)) = (parse(text), parse(out)) else {
        unreachable!("what was written cannot be read: {out}")
    };
    // Reading respells the exponent of a number that is kept as it is.
    if !has_exponent(text) {
        assert_eq!(written(&after), out);
        assert_eq!(written(&before), out);
    }
    if !text.contains(PRIVATE) && !text.contains('\\') {
        let theirs: Result<Value, _> = serde_json::from_str(text);
        assert!(theirs.is_ok_and(|theirs| theirs == before), "{text}");
    }
    for limit in [0, 20, out.len() / 2, out.len()] {
        let mut small = String::new();
        shrink(out, limit, &mut small);
        let mut again = String::new();
        assert!(canonicalize(&small, &mut again).is_ok(), "{small}");
        assert_eq!(again, small);
    }
}

/// Whether there may be a number with an exponent.
fn has_exponent(text: &str) -> bool {
    text.as_bytes()
        .windows(2)
        .any(|pair| pair[0].is_ascii_digit() && matches!(pair[1], b'e' | b'E'))
}

fn pruned(text: &str) {
    let mut whole = String::new();
    let fits = canonicalize(text, &mut whole).is_ok();
    for depth in [0, 1, 3, MAX_DEPTH, usize::MAX] {
        let mut out = String::new();
        if prune(text, depth, &mut out).is_err() {
            assert!(out.is_empty() && !fits, "{text}");
            continue;
        }
        let mut again = String::new();
        assert!(canonicalize(&out, &mut again).is_ok(), "{out}");
        assert_eq!(again, out);
        assert!(!fits || depth < MAX_DEPTH || out == whole, "{text}");
    }
}

fn written(value: &Value) -> String {
    let mut out = String::new();
    write_value(value, &mut out);
    out
}
