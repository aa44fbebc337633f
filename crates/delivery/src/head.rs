//! What counts in the head of an answer.

use http::header::{HeaderMap, LOCATION, RETRY_AFTER};

use crate::job::Answer;

/// The longest `Retry-After` that can mean something; a date has 29 bytes.
const MAX_RETRY_AFTER: usize = 64;
/// The longest name of a host.
const MAX_HOST: usize = 253;

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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

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
