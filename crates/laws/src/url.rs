//! URLs of endpoints: what is accepted means one thing to everybody who reads it.

use http::Uri;
use std::net::IpAddr;
use webhooks_core::address::Guard;
use webhooks_core::endpoint::{Endpoint, MAX_CHARS, Rules};

pub(crate) fn law(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let rules = Rules::default();
    let strict = Rules {
        require_https: true,
        allowed_ports: vec![443],
    };
    let guard = Guard::default();
    let Ok(it) = Endpoint::parse(text, &rules) else {
        assert!(Endpoint::parse(text, &strict).is_err());
        return;
    };
    let url = it.url.as_str();
    // Encoded, it may have become longer than what is taken.
    if url.len() <= MAX_CHARS {
        assert_eq!(Endpoint::parse(url, &rules).as_ref(), Ok(&it), "{url}");
    }
    assert!(matches!(it.url.scheme(), "http" | "https"), "{url}");
    assert!(
        it.url.username().is_empty() && it.url.password().is_none() && it.url.fragment().is_none()
    );
    // It goes into the request line and a header.
    assert!(url.bytes().all(|byte| byte.is_ascii_graphic()), "{url:?}");
    if let Ok(it) = Endpoint::parse(text, &strict) {
        assert!(it.url.scheme() == "https" && it.port() == 443);
    }
    // Who sends it reads it with another parser, which must find the same host and port.
    let uri: Result<Uri, _> = url.parse();
    assert!(uri.is_ok(), "{url}: {uri:?}");
    let Ok(uri) = uri else { return };
    assert_eq!(uri.host(), Some(it.host()), "{url}");
    let implied = if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    };
    assert_eq!(uri.port_u16().unwrap_or(implied), it.port(), "{url}");
    assert!(
        uri.authority()
            .is_some_and(|authority| !authority.as_str().contains('@'))
    );
    // The same address is judged when the webhook is made and when something is sent.
    let bare = it.host().trim_start_matches('[').trim_end_matches(']');
    assert_eq!(bare.parse::<IpAddr>().ok(), it.literal_ip(), "{url}");
    if let Some(ip) = it.literal_ip() {
        assert_eq!(
            it.refused_on_its_face(&guard),
            guard.check(ip).is_err(),
            "{url}"
        );
    }
    let bare = bare.trim_end_matches('.');
    if bare == "localhost" || bare.ends_with(".localhost") {
        assert!(it.refused_on_its_face(&guard), "{url}");
    }
}
