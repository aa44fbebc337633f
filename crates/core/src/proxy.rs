//! The proxy that requests go through, and the hosts that are reached without it: what `webhooks.proxy` and
//! `webhooks.no_proxy` may say.
//!
//! ```
//! use webhooks_core::proxy::{NoProxy, Proxy};
//!
//! let proxy = Proxy::parse("http://user:pass%40word@proxy.example.com:3128")?;
//! assert_eq!((proxy.host(), proxy.port()), ("proxy.example.com", 3128));
//!
//! let direct = NoProxy::parse(".corp.example, 10.0.0.0/8, example.org:8443")?;
//! assert!(direct.covers("hooks.corp.example", 443));
//! assert!(!direct.covers("example.org", 443));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use thiserror::Error;
use url::{Host, Url};

/// A text that cannot be the URL of a proxy. The words repeat nothing of the text, which may hold a password.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum ProxyError {
    /// Another scheme than `http`, or none.
    #[error("The URL of the proxy must begin with http://.")]
    Scheme,
    /// `https`: TLS to the proxy itself.
    #[error("A proxy that is itself reached by https is not supported.")]
    Https,
    /// `socks4`, `socks5`, `socks5h`…
    #[error("SOCKS proxies are not supported.")]
    Socks,
    /// The host is missing or malformed, or the port is no number.
    #[error("The URL of the proxy cannot be read.")]
    NotUrl,
    /// No port, or port 0.
    #[error("The URL of the proxy must name its port.")]
    NoPort,
    /// Path, query or fragment.
    #[error("Nothing may follow the port in the URL of the proxy.")]
    Trailing,
    /// The user name holds a colon, user name or password holds a control character, or one of them is not UTF-8.
    #[error("The user name or the password of the proxy cannot be sent.")]
    Credentials,
}

impl ProxyError {
    /// What to do instead.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Scheme | Self::NoPort | Self::Trailing => {
                "Use the form http://[user:password@]host:port, such as http://proxy.example.com:3128."
            }
            Self::Https | Self::Socks => {
                "Use an http:// proxy, such as http://proxy.example.com:3128: requests to https:// URLs pass it encrypted, by CONNECT."
            }
            Self::NotUrl => {
                "Use the form http://[user:password@]host:port. Percent-encode what has a meaning in URLs, such as %2F for / and %23 for # in a password."
            }
            Self::Credentials => {
                "A user name must not contain a colon, and neither of them a control character. Both are percent-encoded UTF-8."
            }
        }
    }
}

/// A proxy. It never shows its password.
#[derive(Clone, Eq, PartialEq)]
pub struct Proxy {
    host: String,
    port: u16,
    authorization: Option<String>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("host", &self.host)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// Reads `http://[user:password@]host:port`. The port must be written out: proxies have no usual one.
    ///
    /// # Errors
    /// One of [`ProxyError`], the first that applies.
    pub fn parse(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.split_once("://").ok_or(ProxyError::Scheme)?;
        match scheme.to_ascii_lowercase().as_str() {
            "http" => {}
            "https" => return Err(ProxyError::Https),
            socks if socks.starts_with("socks") => return Err(ProxyError::Socks),
            _ => return Err(ProxyError::Scheme),
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(ProxyError::NotUrl);
        }
        let url = Url::parse(text).map_err(|_| ProxyError::NotUrl)?;
        let authority = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
        // The parser forgets the port 80.
        if !names_port(authority) {
            return Err(ProxyError::NoPort);
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if port == 0 {
            return Err(ProxyError::NoPort);
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyError::Trailing);
        }
        Ok(Self {
            host: match url.host().ok_or(ProxyError::NotUrl)? {
                Host::Domain(name) => name.to_owned(),
                Host::Ipv4(ip) => ip.to_string(),
                Host::Ipv6(ip) => ip.to_string(),
            },
            port,
            authorization: authorization(&url)?,
        })
    }

    /// A name in lower-case ASCII, or an address; an IPv6 address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The value of `Proxy-Authorization` (RFC 7617), if the URL has a user name or a password.
    #[must_use]
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

/// Whether the authority of a URL ends in a port.
fn names_port(authority: &str) -> bool {
    let host = authority.rsplit('@').next().unwrap_or_default();
    let behind = host.rsplit(']').next().unwrap_or_default();
    behind
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty())
}

fn authorization(url: &Url) -> Result<Option<String>, ProxyError> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().ok()?;
        (!text.chars().any(char::is_control)).then(|| text.into_owned())
    };
    let (user, password) = (url.username(), url.password());
    if user.is_empty() && password.is_none() {
        return Ok(None);
    }
    let user = decoded(user).filter(|user| !user.contains(':'));
    let password = decoded(password.unwrap_or_default());
    let (Some(user), Some(password)) = (user, password) else {
        return Err(ProxyError::Credentials);
    };
    let encoded = STANDARD.encode(format!("{user}:{password}"));
    Ok(Some(format!("Basic {encoded}")))
}

/// An entry of the list of hosts without proxy that is not one.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("invalid host \"{entry}\"")]
pub struct NoProxyError {
    /// The entry as it stands in the list.
    pub entry: String,
}

impl NoProxyError {
    /// Which form was expected.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        "Use a comma-separated list of domains, addresses and networks, each with or without a port, such as corp.example, 10.0.0.0/8, [fd00::1]:8080; or * for all hosts."
    }
}

/// The hosts that are reached without the proxy. The default has none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NoProxy {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Entry {
    hosts: Hosts,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Hosts {
    All,
    /// The domain and those below it.
    Domain(String),
    Network(IpNet),
}

impl NoProxy {
    /// Reads a list as curl and other programs read `no_proxy`: entries with commas or spaces between, perhaps none.
    ///
    /// | entry | hosts |
    /// |---|---|
    /// | `example.com`, `.example.com`, `*.example.com` | the domain and all domains below it |
    /// | `192.0.2.7`, `2001:db8::7`, `10.0.0.0/8` | URLs with such an address, and no names that have it |
    /// | `*` | all |
    ///
    /// `:8443` behind a domain or an address (`[2001:db8::7]:8443`) restricts the entry to that port.
    ///
    /// # Errors
    /// An entry is none of these.
    pub fn parse(list: &str) -> Result<Self, NoProxyError> {
        let entries = list
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty())
            .map(|entry| {
                Entry::parse(entry).ok_or_else(|| NoProxyError {
                    entry: entry.to_owned(),
                })
            });
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
        })
    }

    /// Whether requests to this host, as it stands in a URL, go without the proxy.
    #[must_use]
    pub fn covers(&self, host: &str, port: u16) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = bare.trim_end_matches('.').to_ascii_lowercase();
        let ip = bare.parse::<IpAddr>().ok();
        self.entries
            .iter()
            .filter(|entry| entry.port.is_none_or(|only| only == port))
            .any(|entry| entry.hosts.have(&name, ip))
    }
}

impl Entry {
    fn parse(text: &str) -> Option<Self> {
        let anywhere = |hosts| Some(Self { hosts, port: None });
        if let Ok(network) = text.parse::<IpNet>() {
            return anywhere(Hosts::Network(network.trunc()));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return anywhere(Hosts::Network(ip.into()));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = match port {
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(port.parse().ok().filter(|&port: &u16| port > 0)?)
            }
            Some(_) => return None,
            None => None,
        };
        Some(Self {
            hosts: Hosts::parse(host)?,
            port,
        })
    }
}

impl Hosts {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::All);
        }
        if let Ok(ip) = text.parse::<Ipv4Addr>() {
            return Some(Self::Network(IpAddr::V4(ip).into()));
        }
        if let Some(inside) = text.strip_prefix('[') {
            let ip: Ipv6Addr = inside.strip_suffix(']')?.parse().ok()?;
            return Some(Self::Network(IpAddr::V6(ip).into()));
        }
        let name = text.strip_prefix('*').unwrap_or(text);
        if name.len() < text.len() && !name.starts_with('.') {
            return None;
        }
        let name = name.strip_prefix('.').unwrap_or(name);
        // As the host of an endpoint's URL is read. What browsers take for an address, such as 0x7f.1, is no domain.
        let Ok(Host::Domain(name)) = Host::parse(name) else {
            return None;
        };
        let name = name.trim_end_matches('.');
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        (!name.is_empty() && name.bytes().all(is_name)).then(|| Self::Domain(name.to_owned()))
    }

    /// `name` is in lower case; `ip` is the same, if it is an address.
    fn have(&self, name: &str, ip: Option<IpAddr>) -> bool {
        match (self, ip) {
            (Self::All, _) => true,
            (Self::Network(network), Some(ip)) => {
                network.contains(&ip) || network.contains(&ip.to_canonical())
            }
            (Self::Domain(domain), None) => name
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
            (Self::Network(_), None) | (Self::Domain(_), Some(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn proxy(text: &str) -> Proxy {
        Proxy::parse(text).unwrap()
    }

    #[test]
    fn a_proxy_has_host_and_port_and_perhaps_a_password() {
        for (text, host, port) in [
            ("http://proxy.example.com:3128", "proxy.example.com", 3128),
            ("HTTP://PROXY.example.com:80/", "proxy.example.com", 80),
            ("http://192.0.2.7:8080", "192.0.2.7", 8080),
            ("http://[2001:db8::7]:8080", "2001:db8::7", 8080),
            ("http://my_proxy:1", "my_proxy", 1),
        ] {
            let it = proxy(text);
            assert_eq!((it.host(), it.port()), (host, port), "{text}");
            assert_eq!(it.authorization(), None, "{text}");
        }
        // The example of RFC 7617, section 2.
        let it = proxy("http://Aladdin:open%20sesame@proxy:3128");
        let expected = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(it.authorization(), Some(expected));
        assert_eq!((it.host(), it.port()), ("proxy", 3128));
    }

    #[test]
    fn user_name_and_password_are_sent_as_they_were_before_they_were_encoded() {
        for (text, expected) in [
            ("http://a:b@p:1", "a:b"),
            ("http://a@p:1", "a:"),
            ("http://a:@p:1", "a:"),
            ("http://:b@p:1", ":b"),
            ("http://a:b:c@p:1", "a:b:c"),
            ("http://a:p@ss@p:1", "a:p@ss"),
            ("http://a:%2F%23%25%3a@p:1", "a:/#%:"),
            ("http://%C3%BC:ü@p:1", "ü:ü"),
            ("http://a:100%@p:1", "a:100%"),
            ("http://a+b:c{d}\"e@p:1", "a+b:c{d}\"e"),
        ] {
            let it = proxy(text);
            let encoded = it.authorization().unwrap().strip_prefix("Basic ").unwrap();
            let decoded = STANDARD.decode(encoded).unwrap();
            assert_eq!(String::from_utf8(decoded).unwrap(), expected, "{text}");
            assert_eq!((it.host(), it.port()), ("p", 1), "{text}");
        }
        assert_eq!(proxy("http://@p:1").authorization(), None);
    }

    #[test]
    fn each_mistake_has_its_own_words_and_none_repeats_the_password() {
        for (text, expected) in [
            ("", ProxyError::Scheme),
            ("proxy:3128", ProxyError::Scheme),
            ("u:hush@proxy:3128", ProxyError::Scheme),
            ("//u:hush@proxy:3128", ProxyError::Scheme),
            ("ftp://u:hush@proxy:3128", ProxyError::Scheme),
            ("https://u:hush@proxy:3128", ProxyError::Https),
            ("socks5://u:hush@proxy:1080", ProxyError::Socks),
            ("SOCKS5H://u:hush@proxy:1080", ProxyError::Socks),
            ("http://u:hush@proxy", ProxyError::NoPort),
            ("http://u:hush@proxy/", ProxyError::NoPort),
            ("http://u:hush@proxy:", ProxyError::NoPort),
            ("http://u:hush@proxy:0", ProxyError::NoPort),
            ("http://u:hush@[::1]", ProxyError::NoPort),
            ("http://u:hush@proxy:3128/x", ProxyError::Trailing),
            ("http://u:hush@proxy:3128?x", ProxyError::Trailing),
            ("http://u:hush@proxy:3128/#x", ProxyError::Trailing),
            ("http://", ProxyError::NotUrl),
            ("http://u:hush@:3128", ProxyError::NotUrl),
            ("http://u:hush@proxy:99999", ProxyError::NotUrl),
            ("http://u:hush@proxy:x", ProxyError::NotUrl),
            ("http://u:hu/sh@proxy:3128", ProxyError::NotUrl),
            ("http://u:hu sh@proxy:3128", ProxyError::NotUrl),
            (" http://u:hush@proxy:3128", ProxyError::Scheme),
            ("http://u:hush@proxy:3128\n", ProxyError::NotUrl),
            ("http://a,b:hush@pro xy:3128", ProxyError::NotUrl),
            ("http://u%3av:hush@proxy:3128", ProxyError::Credentials),
            ("http://u:hush%0d@proxy:3128", ProxyError::Credentials),
            ("http://u:hush%ff@proxy:3128", ProxyError::Credentials),
        ] {
            let error = Proxy::parse(text).unwrap_err();
            assert_eq!(error, expected, "{text:?}");
            assert!(!error.to_string().contains("hush") && !error.hint().is_empty());
        }
        let shown = format!("{:?}", proxy("http://user:hush@proxy:3128"));
        assert!(shown.contains("3128"), "{shown}");
        for hidden in ["hush", "user", "Basic", &STANDARD.encode("user:hush")] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }

    fn covers(list: &str, host: &str) -> bool {
        NoProxy::parse(list).unwrap().covers(host, 443)
    }

    #[test]
    fn a_domain_stands_for_itself_and_for_those_below_it() {
        for list in [
            "example.com",
            ".example.com",
            "*.example.com",
            "EXAMPLE.com.",
        ] {
            assert!(covers(list, "example.com"), "{list}");
            assert!(covers(list, "a.b.example.com"), "{list}");
            assert!(covers(list, "a.example.com."), "{list}");
            assert!(!covers(list, "notexample.com"), "{list}");
            assert!(!covers(list, "example.com.evil.test"), "{list}");
            assert!(!covers(list, "com"), "{list}");
        }
        assert!(covers("bücher.example", "xn--bcher-kva.example"));
        assert!(covers("localhost", "localhost"));
        assert!(covers("a.test b.test\tc.test,, d.test ,", "d.test"));
        assert!(!covers("", "example.com"));
        assert!(covers("*", "example.com") && covers("*", "[::1]"));
    }

    #[test]
    fn addresses_and_networks_stand_for_urls_with_an_address() {
        assert!(covers("192.0.2.7", "192.0.2.7"));
        assert!(!covers("192.0.2.7", "192.0.2.8"));
        assert!(covers("10.1.2.3/8", "10.9.9.9"));
        assert!(!covers("10.0.0.0/8", "11.0.0.1"));
        assert!(!covers("10.0.0.0/8", "ten.example.com"));
        assert!(covers("2001:db8::/32", "[2001:db8::9]"));
        assert!(covers("[2001:db8::9]", "[2001:db8::9]"));
        assert!(covers("2001:db8::9", "[2001:db8::9]"));
        assert!(covers("10.0.0.0/8", "[::ffff:10.0.0.1]"));
        // The end of an address is no domain.
        assert!(!covers("example.com", "192.0.2.7"));
        assert!(!covers("7.example.com", "7"));
    }

    #[test]
    fn a_port_restricts_an_entry() {
        let list = NoProxy::parse("a.test:8443, 192.0.2.7:80, [::1]:81, *:9000").unwrap();
        for (host, port, expected) in [
            ("a.test", 8443, true),
            ("b.a.test", 8443, true),
            ("a.test", 443, false),
            ("192.0.2.7", 80, true),
            ("192.0.2.7", 8443, false),
            ("[::1]", 81, true),
            ("[::1]", 80, false),
            ("other.test", 9000, true),
            ("other.test", 443, false),
        ] {
            assert_eq!(list.covers(host, port), expected, "{host}:{port}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_by_its_text() {
        for entry in [
            "10.0.0.0/33",
            "10.0.0.0/8:80",
            "http://a.test",
            "a.test:0",
            "a.test:99999",
            "a.test:x",
            "a.test:",
            "a.test/",
            "192.168.",
            "192.168.*",
            "0x7f.1",
            "1.2.3.256",
            "[::1",
            "[::g]:80",
            "[1.2.3.4]",
            ".",
            "*.",
            "*a.test",
            "a.*",
            "-:-",
            "user@a.test",
            "\"a.test\"",
        ] {
            let error = NoProxy::parse(&format!("b.test, {entry}")).unwrap_err();
            assert_eq!(error.entry, entry);
            assert_eq!(error.to_string(), format!("invalid host \"{entry}\""));
        }
    }

    proptest! {
        #[test]
        fn no_password_is_lost_or_shown(user in "[^:\\p{Cc}]{1,12}", password in "[^\\p{Cc}]{0,12}") {
            use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
            let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
            let it = proxy(&format!("http://{}:{}@p.test:3128", encoded(&user), encoded(&password)));
            let expected = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            prop_assert_eq!(it.authorization(), Some(expected.as_str()));
            prop_assert_eq!((it.host(), it.port()), ("p.test", 3128));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(http://)?[a-z0-9.@:#%/\\[\\]é ,*-]{0,24}") {
            if let Ok(it) = Proxy::parse(&text) {
                prop_assert!(it.port() > 0 && !it.host().is_empty());
            }
            if let Ok(list) = NoProxy::parse(&text) {
                let _ = list.covers("a.test", 443);
            }
        }
    }
}
