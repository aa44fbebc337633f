//! Reads answers.txt, which says at its beginning how it is to be read.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic)]

/// An answer, and what we make of it.
#[derive(Debug, Clone, Default)]
pub struct Case {
    pub name: String,
    /// Sent one after the other, with a pause between them.
    pub pieces: Vec<Vec<u8>>,
    pub is_by_byte: bool,
    /// Whether it means something else in pieces.
    pub is_at_once: bool,
    /// Whether the server closes the connection after the answer.
    pub closes: bool,
    /// A status, with "after" and the Retry-After that is seen; or the words of the failure.
    pub expected: String,
    /// Whether the connection carries the next request.
    pub is_kept: bool,
    /// Whether hyper refuses it, so that it is read by our own rule.
    pub is_read_again: bool,
    /// Why curl makes something else of it.
    pub has_reason: bool,
}

pub fn cases() -> Vec<Case> {
    include_str!("answers.txt")
        .split("\n\n")
        .filter(|paragraph| !paragraph.starts_with('#'))
        .map(case)
        .collect()
}

fn case(paragraph: &str) -> Case {
    let mut lines = paragraph.lines();
    let mut case = Case::default();
    let name = lines.next().unwrap();
    let (name, closes) = without(name, " [closes]");
    let (name, is_by_byte) = without(name, " [byte by byte]");
    let (name, is_at_once) = without(name, " [at once]");
    case.name = name.to_owned();
    (case.closes, case.is_by_byte, case.is_at_once) = (closes, is_by_byte, is_at_once);
    for line in lines {
        let (mark, rest) = line.split_at(1);
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match mark {
            "|" => case.pieces.push(bytes(rest)),
            "=" => {
                let (expected, is_kept) = without(rest, " kept");
                (case.expected, case.is_kept) = (expected.to_owned(), is_kept);
            }
            "~" => case.has_reason = true,
            "!" => case.is_read_again = true,
            _ => panic!("what is this line: {line:?}"),
        }
    }
    if case.is_by_byte {
        let bytes = case.pieces.concat();
        case.pieces = bytes.into_iter().map(|byte| vec![byte]).collect();
    }
    case
}

fn without<'a>(text: &'a str, end: &str) -> (&'a str, bool) {
    text.strip_suffix(end)
        .map_or((text, false), |text| (text, true))
}

fn bytes(text: &str) -> Vec<u8> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, times, repeated, after)) = repetition(rest) {
        plain += before;
        for number in 0..times {
            plain += &repeated.replace('#', &number.to_string());
        }
        rest = after;
    }
    plain += rest;
    unescaped(&plain)
}

/// The first `{3*text}`: what is before it, 3, the text, and what is behind it.
fn repetition(text: &str) -> Option<(&str, usize, &str, &str)> {
    text.match_indices('{').find_map(|(start, _)| {
        let (times, rest) = text[start + 1..].split_once('*')?;
        let (repeated, after) = rest.split_once('}')?;
        Some((&text[..start], times.parse().ok()?, repeated, after))
    })
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next().unwrap() {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'\\' => b'\\',
                b'x' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    let digits = std::str::from_utf8(&digits).unwrap();
                    u8::from_str_radix(digits, 16).unwrap()
                }
                other => panic!("what is \\{}", char::from(other)),
            },
            other => other,
        });
    }
    plain
}
