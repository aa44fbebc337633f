//! Members of an object: the punctuation, and which keys JavaScript moves to the front.

/// Writes the braces and commas of an object.
pub(crate) struct Members {
    first: bool,
}

impl Members {
    pub(crate) fn open(out: &mut String) -> Self {
        out.push('{');
        Self { first: true }
    }

    pub(crate) fn next(&mut self, out: &mut String) {
        if !std::mem::replace(&mut self.first, false) {
            out.push(',');
        }
    }

    pub(crate) fn close(self, out: &mut String) {
        out.push('}');
    }
}

/// The number, if a key is an array index of ECMAScript: a canonical decimal from 0 to 2^32 - 2.
pub(super) fn index(key: &str) -> Option<u32> {
    match key.as_bytes() {
        [b'0'] => Some(0),
        [b'1'..=b'9', rest @ ..] if rest.len() < 10 => {
            key.parse().ok().filter(|&number| number != u32::MAX)
        }
        _ => None,
    }
}
