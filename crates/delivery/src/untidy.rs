//! Heads of answers that hyper refuses, read once more, as curl and browsers read them.
//!
//! The rule: an answer is what its status line says, if that line is well-formed and the head ends within 16 KiB.
//!
//! - A status line is `HTTP/` in any case, a version of one or two digits (`1.1`, `2`), spaces, a status of three
//!   digits from 100 on, and whatever follows, but no fourth digit.
//! - A line ends with a line feed. The head ends with the first line that is empty but for carriage returns.
//! - Between the two, `Retry-After`, `Location` and `Content-Length` are looked at. Other lines may be anything.
//!
//! An answer is broken all the same if its head holds a NUL, which no text does, or two lengths that differ, because it
//! may be two answers mixed up (RFC 9112, section 6.3).
//!
//! Where the body of such an answer ends is not known. It is not read, and the connection carries no other request.

use http::header::{CONTENT_LENGTH, HeaderMap, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue};

/// What the bytes of an answer are so far.
#[derive(Debug, PartialEq)]
pub(crate) enum Reading {
    /// The head of the answer, after any others of the class 1xx.
    Head(u16, HeaderMap),
    Unfinished,
    Broken,
}

/// How far an answer has been read. Each line is read once, however few bytes come at a time.
#[derive(Debug, Default)]
pub(crate) struct Untidy {
    /// Where the next line begins.
    line: usize,
    /// Up to where its end was looked for.
    searched: usize,
    status: Option<u16>,
    fields: HeaderMap,
    /// The last field: its value may go on in the next line.
    last: Option<(HeaderName, Vec<u8>)>,
}

impl Untidy {
    /// Reads on. The bytes are those of the last call and more.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Reading {
        while let Some(length) = bytes[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let end = self.searched + length;
            let line = without_returns(&bytes[self.line..end]);
            self.line = end + 1;
            self.searched = self.line;
            if line.contains(&0) {
                return Reading::Broken;
            }
            let Some(status) = self.status else {
                if !line.is_empty() {
                    self.status = status_of(line);
                    if self.status.is_none() {
                        return Reading::Broken;
                    }
                }
                continue;
            };
            if !line.is_empty() {
                self.field(line);
                continue;
            }
            self.end_field();
            let fields = std::mem::take(&mut self.fields);
            if status == 101 || status >= 200 {
                return if has_two_lengths(&fields) {
                    Reading::Broken
                } else {
                    Reading::Head(status, fields)
                };
            }
            self.status = None;
        }
        self.searched = bytes.len();
        if self.status.is_none() && !may_be_status_line(&bytes[self.line..]) {
            return Reading::Broken;
        }
        Reading::Unfinished
    }

    /// Where the next line begins: after a head, where the head ends.
    pub(crate) fn end(&self) -> usize {
        self.line
    }

    fn field(&mut self, line: &[u8]) {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            if let Some((_, value)) = &mut self.last {
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
            }
            return;
        }
        self.end_field();
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        self.last = HeaderName::from_bytes(line[..colon].trim_ascii_end())
            .ok()
            .filter(|name| [RETRY_AFTER, LOCATION, CONTENT_LENGTH].contains(name))
            .map(|name| (name, line[colon + 1..].trim_ascii().to_vec()));
    }

    fn end_field(&mut self) {
        if let Some((name, value)) = self.last.take()
            && let Ok(value) = HeaderValue::from_bytes(value.trim_ascii())
        {
            self.fields.append(name, value);
        }
    }
}

fn without_returns(mut line: &[u8]) -> &[u8] {
    while let Some(shorter) = line.strip_suffix(b"\r") {
        line = shorter;
    }
    line
}

const NAME: &[u8] = b"HTTP/";

fn status_of(line: &[u8]) -> Option<u16> {
    let (name, rest) = line.split_at_checked(NAME.len())?;
    let rest = match rest {
        [b'0'..=b'9', b'.', b'0'..=b'9', rest @ ..] | [b'0'..=b'9', rest @ ..] => rest,
        _ => return None,
    };
    let mut rest = rest.strip_prefix(b" ")?;
    while let Some(shorter) = rest.strip_prefix(b" ") {
        rest = shorter;
    }
    let (digits, rest) = rest.split_at_checked(3)?;
    let is_apart = !rest.first().is_some_and(u8::is_ascii_digit);
    let is_status = digits.iter().all(u8::is_ascii_digit) && digits[0] != b'0';
    if !name.eq_ignore_ascii_case(NAME) || !is_apart || !is_status {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Whether a line that is not there whole can become a status line.
fn may_be_status_line(line: &[u8]) -> bool {
    let begun = line.len().min(NAME.len());
    line.starts_with(b"\r") || line[..begun].eq_ignore_ascii_case(&NAME[..begun])
}

/// Compared as text: a length that is no number may stand alone, but beside no other.
fn has_two_lengths(fields: &HeaderMap) -> bool {
    let mut lengths = fields
        .get_all(CONTENT_LENGTH)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii);
    lengths
        .next()
        .is_some_and(|first| lengths.any(|length| length != first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head;

    fn read(bytes: &[u8]) -> Reading {
        Untidy::default().read(bytes)
    }

    /// The status and Retry-After.
    fn seen(bytes: &[u8]) -> Option<(u16, Option<String>)> {
        match read(bytes) {
            Reading::Head(status, fields) => {
                let answer = head::answer(status, &fields, "a.test");
                Some((answer.status, answer.retry_after))
            }
            Reading::Unfinished | Reading::Broken => None,
        }
    }

    #[test]
    fn a_head_with_any_number_of_fields_is_read() {
        let mut head = b"HTTP/1.1 102 Wait\r\nretry-after: 3\r\n\r\nHTTP/1.1 429 Slow\r\n".to_vec();
        for number in 0..1_000 {
            head.extend_from_slice(format!("x{number}: y\r\n").as_bytes());
        }
        head.extend_from_slice(b"Retry-After : 7\r\n");
        assert_eq!(read(&head), Reading::Unfinished);
        head.extend_from_slice(b"\r\nbody");
        assert_eq!(seen(&head), Some((429, Some("7".to_owned()))));
    }

    #[test]
    fn status_lines() {
        let status = |line: &str| status_of(line.as_bytes());
        for line in [
            "HTTP/1.1 410 Gone",
            "http/1.9  410",
            "HTTP/2 410",
            "Http/0.9 410: \u{7}",
        ] {
            assert_eq!(status(line), Some(410), "{line}");
        }
        for line in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 ",
            "HTTP/1.1 20",
            "HTTP/1.1 2000",
            "HTTP/1.1 099 x",
            "HTTP/1.1 -20 x",
            "HTTP/1.1 +20 x",
            "HTTP/1.1200 x",
            "HTTP/1.10 200 x",
            "HTTP/11 200 x",
            "HTTP/ 200 x",
            "HTTP/1.1\t200 x",
            "HTTPS/1.1 200 x",
            "ICY 200 x",
            " HTTP/1.1 200 x",
            "SSH-2.0-x",
        ] {
            assert_eq!(status(line), None, "{line}");
        }
    }

    #[test]
    fn what_is_no_answer_is_seen_before_its_end() {
        for bytes in [
            &b"SSH-2.0"[..],
            b"\x15\x03",
            b"HTTQ",
            b"HTTP/1.1 2x0\n",
            b"\r\n\r\n<html>",
            b"HTTP/1.1 200\nx\0\n",
        ] {
            assert_eq!(read(bytes), Reading::Broken, "{}", bytes.escape_ascii());
        }
        for bytes in [
            &b""[..],
            b"HT",
            b"\r",
            b"\r\n\nhTtP/1.1 200",
            b"HTTP/1.1 200\nx\n",
            b"HTTP/1.1 100\n\n",
        ] {
            assert_eq!(read(bytes), Reading::Unfinished, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn two_lengths_are_broken_and_a_strange_one_is_not() {
        let with = |lengths: &str| seen(format!("HTTP/1.1 200 OK\n{lengths}\n\n").as_bytes());
        for lengths in [
            "content-length: 1e9",
            "content-length: 2, 2",
            "content-length:\n 2\ncontent-length: 2",
        ] {
            assert_eq!(with(lengths), Some((200, None)), "{lengths}");
        }
        for lengths in [
            "content-length: 2, 3",
            "content-length: 2\ncontent-length : 3",
            "content-length: 2, x",
        ] {
            assert_eq!(with(lengths), None, "{lengths}");
        }
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_come() {
        let whole = b"\r\nHTTP/1.1 100 Continue\r\nx\r\n\r\n\
            HTTP/1.1 503 x\ry\r\r\n x\nretry-after:\r\n 7\r\n\t8\r\n: \r\n\r\r\nno";
        let expected = Some((503, Some("7 8".to_owned())));
        assert_eq!(seen(whole), expected);
        for first in 0..whole.len() {
            let mut untidy = Untidy::default();
            let mut reading = untidy.read(&whole[..first]);
            for end in first..=whole.len() {
                if reading != Reading::Unfinished {
                    break;
                }
                reading = untidy.read(&whole[..end]);
            }
            assert_eq!(reading, read(whole), "{first}");
        }
    }
}
