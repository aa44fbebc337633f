//! Heads of answers that hyper does not take, read once more: those with more than a hundred fields, which it has no room
//! for. And what counts in a head.

use http::header::{HeaderMap, LOCATION, RETRY_AFTER};
use http::{HeaderName, HeaderValue};

use crate::job::Answer;

/// The longest `Retry-After` that can mean something; a date has 29 bytes.
const MAX_RETRY_AFTER: usize = 64;
/// The longest name of a host.
const MAX_HOST: usize = 253;
/// Within 16 KiB there can be no more fields than this: each has a name, a colon, and the end of a line.
const MOST_FIELDS: usize = 4096;

/// What counts in a head.
pub(crate) fn answer(status: u16, fields: &HeaderMap, host: &str) -> Answer {
    Answer {
        status,
        retry_after: fields
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .filter(|value| value.len() <= MAX_RETRY_AFTER)
            .map(str::to_owned),
        leads_to: Some(fields)
            .filter(|_| (300..400).contains(&status))
            .and_then(|fields| fields.get(LOCATION))
            .and_then(|value| value.to_str().ok())
            .and_then(host_of)
            .filter(|to| !to.eq_ignore_ascii_case(host)),
        excerpt: String::new(),
    }
}

/// The host of an absolute URL.
fn host_of(location: &str) -> Option<String> {
    let uri: http::Uri = location.parse().ok()?;
    let host = uri.host()?;
    (host.len() <= MAX_HOST).then(|| host.to_owned())
}

/// The status and the fields of the last head in these bytes, which may follow others of the class 1xx; `None` if it is not
/// there whole, or is no head.
pub(crate) fn read(mut bytes: &[u8]) -> Option<(u16, HeaderMap)> {
    let mut config = httparse::ParserConfig::default();
    config
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    loop {
        let mut fields = vec![httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = config.parse_response(&mut head, bytes).ok()?
        else {
            return None;
        };
        let status = head.code.filter(|code| *code >= 100)?;
        if (100..200).contains(&status) && status != 101 {
            bytes = &bytes[length..];
            continue;
        }
        let known = [RETRY_AFTER, LOCATION];
        let fields = head
            .headers
            .iter()
            .filter_map(|field| {
                let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
                let value = HeaderValue::from_bytes(field.value).ok()?;
                known.contains(&name).then_some((name, value))
            })
            .collect();
        return Some((status, fields));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_with_any_number_of_fields_is_read() {
        let mut head = b"HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 429 Too Many\r\n".to_vec();
        for number in 0..1_000 {
            head.extend_from_slice(format!("x{number}: y\r\n").as_bytes());
        }
        head.extend_from_slice(b"Retry-After : 7\r\n");
        assert_eq!(read(&head), None, "not whole");
        head.extend_from_slice(b"\r\nbody");
        let (status, fields) = read(&head).unwrap();
        assert_eq!(
            answer(status, &fields, "a.test").retry_after.as_deref(),
            Some("7")
        );
        assert_eq!(status, 429);
        assert_eq!(read(b"SSH-2.0-x\r\n\r\n"), None);
    }

    #[test]
    fn where_a_redirect_leads_is_told_by_host() {
        let leads = |status, location: &str| {
            let fields = [(LOCATION, HeaderValue::from_str(location).unwrap())];
            answer(status, &fields.into_iter().collect(), "a.test").leads_to
        };
        assert_eq!(leads(301, "https://b.test/x?y").as_deref(), Some("b.test"));
        assert_eq!(leads(301, "https://A.test/"), None);
        assert_eq!(leads(301, "/there"), None);
        assert_eq!(leads(301, "::"), None);
        assert_eq!(leads(200, "https://b.test/"), None);
        assert_eq!(leads(301, &format!("https://{}/", "b".repeat(300))), None);
    }
}
