//! Strings, escaped as ECMAScript's `QuoteJSONString` does.

/// The escape of each byte: 0 none, `u` a `\u00xx`, any other the letter behind the backslash.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        table[control] = b'u';
        control += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Writes a string with its quotes.
///
/// `"`, `\` and the controls below U+0020 are escaped, with the short form where there is one;
/// everything else, U+007F and U+2028 included, is written as it is.
pub fn write_string(text: &str, out: &mut String) {
    out.reserve(text.len() + 2);
    out.push('"');
    write_escaped(text, out);
    out.push('"');
}

/// The inside of a string.
fn write_escaped(text: &str, out: &mut String) {
    let mut rest = text;
    while let Some(at) = rest
        .bytes()
        .position(|byte| ESCAPES[usize::from(byte)] != 0)
    {
        // What needs an escape is ASCII, so both sides of it are whole characters.
        let (clean, tail) = rest.split_at(at);
        out.push_str(clean);
        if let Some(special) = tail.bytes().next() {
            write_escape(special, out);
        }
        rest = &tail[1..];
    }
    out.push_str(rest);
}

fn write_escape(special: u8, out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push('\\');
    match ESCAPES[usize::from(special)] {
        b'u' => {
            out.push_str("u00");
            out.push(char::from(DIGITS[usize::from(special >> 4)]));
            out.push(char::from(DIGITS[usize::from(special & 0x0f)]));
        }
        letter => out.push(char::from(letter)),
    }
}

/// Writes one character of a string's inside.
pub(super) fn write_char(character: char, out: &mut String) {
    match u8::try_from(character) {
        Ok(byte) if ESCAPES[usize::from(byte)] != 0 => write_escape(byte, out),
        _ => out.push(character),
    }
}
