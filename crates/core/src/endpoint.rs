//! The URL of an endpoint: what may be one, judged without looking anything up.
//!
//! URLs are read as browsers read them (WHATWG), so that `http://0x7f.1/` is known for what it is.

use crate::address::Guard;
use std::net::{IpAddr, Ipv4Addr};
use thiserror::Error;
use url::{Host, ParseError, Url};

/// The longest URL, in characters.
pub const MAX_CHARS: usize = 2_048;

/// What settings ask of an endpoint.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    /// Plain `http` is refused.
    pub require_https: bool,
    /// The ports that are allowed; empty: any.
    pub allowed_ports: Vec<u16>,
}

/// A text that cannot be the URL of an endpoint.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum EndpointError {
    /// Not a URL: why, as a part of a sentence.
    #[error("invalid URL: {0}")]
    NotUrl(&'static str),
    /// No scheme, and so no absolute URL.
    #[error("invalid URL: the URL has no scheme; it begins with https://")]
    NoScheme,
    /// Another scheme.
    #[error("URL must begin with http:// or https://")]
    Scheme,
    /// Plain `http`, and [`Rules::require_https`].
    #[error("URL must begin with https://")]
    HttpsRequired,
    /// User name or password.
    #[error("URL must not contain a user name or password")]
    Credentials,
    /// `#…`
    #[error("URL must not contain a fragment")]
    Fragment,
    /// Over [`MAX_CHARS`].
    #[error("URL is too long: {0} characters")]
    TooLong(usize),
    /// Nothing where the host should be.
    #[error("URL has no host")]
    NoHost,
    /// Space, tab, newline, or another control character, which browsers would drop in silence.
    #[error("URL must not contain spaces or control characters")]
    Whitespace,
    /// Not among [`Rules::allowed_ports`].
    #[error("port {0} is not allowed")]
    PortNotAllowed(u16),
    /// Port 0.
    #[error("port 0 is not a port")]
    PortZero,
}

impl EndpointError {
    /// What to do instead.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotUrl(BAD_PORT) => {
                "Leave the port out, or use one such as https://example.com:8443/webhooks.".to_owned()
            }
            Self::NotUrl(_) | Self::NoScheme | Self::Scheme | Self::NoHost => {
                "Use an absolute URL, such as https://example.com/webhooks.".to_owned()
            }
            Self::HttpsRequired => "The setting webhooks.require_https is on.".to_owned(),
            Self::Credentials => "Leave them out: receivers verify the signature. A token can stand in the path or the query.".to_owned(),
            Self::Fragment => "Leave out the part from # on: it is never sent.".to_owned(),
            Self::TooLong(_) => format!("At most {MAX_CHARS} characters are allowed."),
            Self::Whitespace => "Percent-encode them, such as %20 for a space.".to_owned(),
            Self::PortNotAllowed(_) => "The setting webhooks.allowed_ports lists the ports that are.".to_owned(),
            Self::PortZero => "Leave the port out, or use 1 to 65535.".to_owned(),
        })
    }
}

/// An entry of the list of allowed ports that is not one.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("invalid port \"{entry}\"")]
pub struct PortsError {
    /// The entry as it stands in the list.
    pub entry: String,
}

impl PortsError {
    /// Which form was expected.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some("Use a comma-separated list of numbers from 1 to 65535, such as 443, 8443.".to_owned())
    }
}

/// Reads a comma-separated list of ports, perhaps empty. Sorted, each once.
///
/// # Errors
/// An entry is not a number from 1 to 65535.
pub fn parse_ports(list: &str) -> Result<Vec<u16>, PortsError> {
    let entries = list
        .split(',')
        .map(str::trim)
        .filter(|entry| !entry.is_empty());
    let ports: Result<Vec<u16>, PortsError> = entries
        .map(|entry| {
            let digits = entry.bytes().all(|byte| byte.is_ascii_digit());
            let port = entry.parse().ok().filter(|&port| digits && port > 0);
            port.ok_or_else(|| PortsError {
                entry: entry.to_owned(),
            })
        })
        .collect();
    let mut ports = ports?;
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

/// An `http` or `https` URL that keeps the rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoint {
    /// Normalised as WHATWG says: scheme and host in lower case, the host in ASCII.
    pub url: Url,
    port: u16,
}

impl Endpoint {
    /// Reads the URL of an endpoint.
    ///
    /// # Errors
    /// One of [`EndpointError`], the first that applies.
    pub fn parse(text: &str, rules: &Rules) -> Result<Self, EndpointError> {
        let length = text.chars().count();
        if length > MAX_CHARS {
            return Err(EndpointError::TooLong(length));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(EndpointError::Whitespace);
        }
        let url = Url::parse(text).map_err(|error| match error {
            ParseError::EmptyHost => EndpointError::NoHost,
            ParseError::RelativeUrlWithoutBase => EndpointError::NoScheme,
            error => EndpointError::NotUrl(in_words(error)),
        })?;
        match url.scheme() {
            "https" => {}
            "http" if rules.require_https => return Err(EndpointError::HttpsRequired),
            "http" => {}
            _ => return Err(EndpointError::Scheme),
        }
        // Browsers also take https:example.com and https:\\example.com; here that is a mistake.
        if !text[url.scheme().len()..].starts_with("://") {
            return Err(EndpointError::Scheme);
        }
        // Also where both are empty, which the parser forgets.
        let authority = text.split("://").nth(1).unwrap_or_default();
        let authority = authority.split(['/', '\\', '?', '#']).next();
        if !url.username().is_empty()
            || url.password().is_some()
            || authority.is_some_and(|authority| authority.contains('@'))
        {
            return Err(EndpointError::Credentials);
        }
        if url.fragment().is_some() {
            return Err(EndpointError::Fragment);
        }
        match url.host() {
            None => return Err(EndpointError::NoHost),
            // Browsers take more, which no name server knows and HTTP libraries do not send.
            Some(Host::Domain(name)) if !name.bytes().all(of_a_name) => {
                return Err(EndpointError::NotUrl(
                    "the host name has a character that no host name has",
                ));
            }
            Some(_) => {}
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if port == 0 {
            return Err(EndpointError::PortZero);
        }
        if !rules.allowed_ports.is_empty() && !rules.allowed_ports.contains(&port) {
            return Err(EndpointError::PortNotAllowed(port));
        }
        Ok(Self { url, port })
    }

    /// The host, as in the URL: a name in lower-case ASCII, an IPv4 address, or an IPv6 address in
    /// brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The port, also if the URL leaves it to the scheme.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The address, if the host is one and not a name.
    #[must_use]
    pub fn literal_ip(&self) -> Option<IpAddr> {
        match self.url.host()? {
            Host::Ipv4(ip) => Some(IpAddr::V4(ip)),
            Host::Ipv6(ip) => Some(IpAddr::V6(ip)),
            Host::Domain(_) => None,
        }
    }

    /// What to do about a URL that is [refused on its face](Self::refused_on_its_face). `text` is the URL as it was given:
    /// what an odd spelling of an address means is not told.
    #[must_use]
    pub fn hint_when_refused(&self, text: &str) -> String {
        let name = self.host().trim_end_matches('.');
        let is_local = name == "localhost"
            || name.ends_with(".localhost")
            || text.contains("://127.")
            || text.contains("://[::1]");
        if is_local {
            // The name has an address of each family, and a receiver may listen on either.
            "For a receiver on the database's own machine, an administrator can run: ALTER SYSTEM SET webhooks.allowed_networks = '127.0.0.0/8, ::1/128'; SELECT pg_reload_conf();".to_owned()
        } else {
            "Use a public address. An administrator can allow networks, for example: ALTER SYSTEM SET webhooks.allowed_networks = '10.0.0.0/8'; SELECT pg_reload_conf();".to_owned()
        }
    }

    /// Whether the URL itself shows that the guard refuses it: a literal address, or `localhost`
    /// and the names below it (RFC 6761, section 6.3), which are as 127.0.0.1.
    #[must_use]
    pub fn refused_on_its_face(&self, guard: &Guard) -> bool {
        const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let name = self.host().trim_end_matches('.');
        let ip = self.literal_ip().or_else(|| {
            let rest = name.strip_suffix("localhost")?;
            (rest.is_empty() || rest.ends_with('.')).then_some(LOOPBACK)
        });
        ip.is_some_and(|ip| guard.check(ip).is_err())
    }
}

const BAD_PORT: &str = "the port is not a number from 1 to 65535";

/// What the parser says, for people who do not know how it works.
fn in_words(error: ParseError) -> &'static str {
    match error {
        ParseError::InvalidPort => BAD_PORT,
        ParseError::InvalidIpv4Address => "the host ends in a number and is not an IPv4 address",
        ParseError::InvalidIpv6Address => "the host in brackets is not an IPv6 address",
        ParseError::IdnaError | ParseError::InvalidDomainCharacter => {
            "the host name has a character that no host name has"
        }
        _ => "it cannot be read",
    }
}

fn of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn endpoint(text: &str) -> Endpoint {
        Endpoint::parse(text, &Rules::default()).unwrap()
    }

    fn error(text: &str) -> EndpointError {
        Endpoint::parse(text, &Rules::default()).unwrap_err()
    }

    #[test]
    fn ordinary_urls_are_accepted() {
        for (text, host, port) in [
            ("https://example.com/hook?a=b", "example.com", 443),
            ("http://EXAMPLE.com:8080", "example.com", 8080),
            ("HTTP://example.com", "example.com", 80),
            ("https://bücher.example/", "xn--bcher-kva.example", 443),
            ("https://[2606:4700::1]:8443/", "[2606:4700::1]", 8443),
            ("https://example.com:443/", "example.com", 443),
            ("http://my_service-1.internal/", "my_service-1.internal", 80),
        ] {
            let it = endpoint(text);
            assert_eq!((it.host(), it.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn each_mistake_has_its_own_error_and_a_hint() {
        let long = format!("https://example.com/{}", "x".repeat(2_029));
        for (text, expected) in [
            ("ftp://example.com/", EndpointError::Scheme),
            ("javascript:alert(1)", EndpointError::Scheme),
            ("https:example.com", EndpointError::Scheme),
            ("https:\\\\example.com", EndpointError::Scheme),
            ("https://user@example.com/", EndpointError::Credentials),
            ("https://:pw@example.com/", EndpointError::Credentials),
            ("https://:@example.com/", EndpointError::Credentials),
            ("https://@example.com\\@/", EndpointError::Credentials),
            ("https://example.com/#x", EndpointError::Fragment),
            ("https://example.com/#", EndpointError::Fragment),
            (&long, EndpointError::TooLong(2_049)),
            ("https://", EndpointError::NoHost),
            ("https://:80/", EndpointError::NoHost),
            (" https://example.com/", EndpointError::Whitespace),
            ("https://example.com/\n", EndpointError::Whitespace),
            ("ht\ttps://example.com/", EndpointError::Whitespace),
            ("https://exa\rmple.com/", EndpointError::Whitespace),
            ("https://example.com/a b", EndpointError::Whitespace),
            ("https://example.com/\u{a0}", EndpointError::Whitespace),
            ("https://example.com/\u{1}", EndpointError::Whitespace),
            ("https://example.com:0/", EndpointError::PortZero),
        ] {
            assert_eq!(error(text), expected, "{text:?}");
            assert!(expected.hint().is_some());
        }
        for text in ["", "example.com", "/hook", "//example.com/"] {
            assert_eq!(error(text), EndpointError::NoScheme, "{text}");
        }
        // The parser takes the host for a scheme.
        assert_eq!(error("example.com:8080/x"), EndpointError::Scheme);
        for (text, says) in [
            (
                "https://a:99999/",
                "the port is not a number from 1 to 65535",
            ),
            ("https://a:b/", "the port is not a number from 1 to 65535"),
            (
                "https://1.2.3.256/",
                "the host ends in a number and is not an IPv4 address",
            ),
            (
                "https://[::g]/",
                "the host in brackets is not an IPv6 address",
            ),
            (
                "https://exa<mple.com/",
                "the host name has a character that no host name has",
            ),
            (
                "https://a,b.example/",
                "the host name has a character that no host name has",
            ),
        ] {
            assert_eq!(error(text).to_string(), format!("invalid URL: {says}"));
        }
        for text in [
            "https://exa<mple.com/",
            "https://1.2.3.256/",
            "https://exa{mple.com/",
            "https://a\"b.example/",
            "https://a,b.example/",
            "https://a:99999/",
        ] {
            assert!(matches!(error(text), EndpointError::NotUrl(_)), "{text}");
        }
        assert!(Endpoint::parse(&long[..2_048], &Rules::default()).is_ok());
    }

    #[test]
    fn settings_restrict_scheme_and_port() {
        let https = Rules {
            require_https: true,
            ..Rules::default()
        };
        assert_eq!(
            Endpoint::parse("http://example.com/", &https),
            Err(EndpointError::HttpsRequired)
        );
        assert!(Endpoint::parse("https://example.com/", &https).is_ok());
        let ports = Rules {
            allowed_ports: vec![443, 8443],
            ..Rules::default()
        };
        assert_eq!(
            Endpoint::parse("http://example.com/", &ports),
            Err(EndpointError::PortNotAllowed(80))
        );
        assert!(Endpoint::parse("https://example.com/", &ports).is_ok());
        assert!(Endpoint::parse("http://example.com:8443/", &ports).is_ok());
    }

    #[test]
    fn ports_are_a_list_of_numbers() {
        assert_eq!(parse_ports(" "), Ok(vec![]));
        assert_eq!(parse_ports("8443, 443,443"), Ok(vec![443, 8443]));
        for bad in ["0", "65536", "+1", "-1", "https", "1-2", "443 80"] {
            assert_eq!(parse_ports(&format!("80,{bad}")).unwrap_err().entry, bad);
        }
    }

    #[test]
    fn addresses_are_known_in_every_spelling() {
        for text in [
            "http://127.0.0.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://127.0.0.1./",
            "http://１２７.0.0.1/",
            "http://%31%32%37.0.0.1/",
        ] {
            assert_eq!(
                endpoint(text).literal_ip(),
                Some("127.0.0.1".parse().unwrap()),
                "{text}"
            );
        }
        assert_eq!(
            endpoint("http://[::ffff:7f00:1]/").literal_ip(),
            Some("::ffff:127.0.0.1".parse().unwrap())
        );
        assert_eq!(endpoint("http://localhost/").literal_ip(), None);
    }

    #[test]
    fn odd_spellings_of_inner_hosts_are_refused_on_their_face() {
        let guard = Guard::default();
        for text in [
            "http://017700000001/",
            "http://0x7f000001/",
            "http://0X7F.1/",
            "http://127.0x0.00.1/",
            "http://0x7f.1./",
            "http://2130706433./",
            "http://0300.0250.1/",
            "http://0xa9fea9fe/latest/meta-data",
            "http://168.63.0x81.020/",
            "http://0/",
            "http://127。0。0。1/",
            "http://127．0．0．1/",
            "http://①②⑦.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://[0:0:0:0:0:ffff:7f00:1]/",
            "http://[::FFFF:a9fe:a9fe]/",
            "http://[64:ff9b::10.0.0.1]/",
            "http://[2002:7f00:1::]/",
            "http://LocalHost./",
            "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/",
            "http://ｌｏｃａｌｈｏｓｔ/",
            "http://loca\u{217c}host/",
            "http://lo\u{ad}calhost/",
            "http://%6c%6F%63alhost/",
            "http://localhost%2e/",
            "http://localhost。/",
            "http://a.LOCALHOST。/",
        ] {
            assert!(endpoint(text).refused_on_its_face(&guard), "{text}");
        }
        // A look-alike in another script is another name, which is looked up as any other.
        let other = endpoint("http://lос\u{430}lhost/");
        assert!(other.host().starts_with("xn--") && !other.refused_on_its_face(&guard));
        // What is no address in the end is no URL.
        for text in [
            "http://[::1%25lo]/",
            "http://[::1%lo]/",
            "http://[127.0.0.1]/",
            "http://0x7f.0.0.0x100/",
            "http://4294967296/",
            "http://127.0.0.0.1/",
            "http://[::1/",
            "http://::1/",
            "http://local\u{0}host/",
            "http://loc%00alhost/",
            "http://example.com%2f@127.0.0.1/",
            "http://example.com%0d%0aHost:x/",
        ] {
            assert!(
                Endpoint::parse(text, &Rules::default()).is_err(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn local_endpoints_are_refused_on_their_face() {
        let guard = Guard::default();
        for text in [
            "http://127.1/",
            "http://10.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:8.8.8.8]/",
            "http://169.254.169.254/",
            "http://localhost/",
            "http://LOCALHOST:80/",
            "http://localhost./",
            "http://a.localhost/",
            "http://a.b.localhost./",
            "http://localhost../",
        ] {
            assert!(endpoint(text).refused_on_its_face(&guard), "{text}");
        }
        for text in [
            "http://8.8.8.8/",
            "http://example.com/",
            "http://notlocalhost/",
            "http://localhost.example.com/",
            "http://[2606:4700::1]/",
        ] {
            assert!(!endpoint(text).refused_on_its_face(&guard), "{text}");
        }
        let guard = Guard::parse("127.0.0.0/8").unwrap();
        assert!(!endpoint("http://localhost/").refused_on_its_face(&guard));
        assert!(endpoint("http://[::1]/").refused_on_its_face(&guard));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_accepted_again(text in "(https?|ftp)://([a-z0-9.@:#\\[\\]%/\\\\?é-]{0,24})") {
            if let Ok(it) = Endpoint::parse(&text, &Rules::default()) {
                prop_assert_eq!(Endpoint::parse(it.url.as_str(), &Rules::default()), Ok(it.clone()));
                prop_assert!(it.url.host().is_some() && it.url.fragment().is_none() && it.url.username().is_empty());
            }
        }

        #[test]
        fn any_ipv4_number_is_judged_as_its_address(bits: u32) {
            let guard = Guard::default();
            let it = endpoint(&format!("http://{bits}/"));
            prop_assert_eq!(it.refused_on_its_face(&guard), guard.check(IpAddr::V4(bits.into())).is_err());
        }
    }
}
