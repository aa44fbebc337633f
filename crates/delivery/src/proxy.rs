//! Requests through a proxy. An `https` request asks it for a tunnel (CONNECT) and speaks TLS through that, so the proxy sees
//! host and port alone; an `http` request is sent to it with the whole URL.
//!
//! What the proxy is to blame for costs no attempt: it is out of reach, it refuses, it wants a password. What it says of the
//! endpoint, that it cannot be connected to or does not answer, is the endpoint's failure, as without a proxy.

use http::HeaderValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use webhooks_core::proxy::{NoProxy, Proxy};

use crate::client::Destination;
use crate::failure::Failure;
use crate::stream::{MAX_HEAD, Paced};

/// Of an answer to CONNECT. Within the largest head there can be no more: each takes four bytes.
const MOST_FIELDS: usize = MAX_HEAD / 4;
/// "Proxy Authentication Required".
const PASSWORD_WANTED: u16 = 407;

/// The proxy of one configuration.
#[derive(Debug)]
pub(crate) struct ViaProxy {
    proxy: Proxy,
    no_proxy: NoProxy,
    authorization: Option<HeaderValue>,
}

impl ViaProxy {
    pub(crate) fn new(proxy: &Proxy, no_proxy: &NoProxy) -> ViaProxy {
        // Base64 is always a value.
        let authorization = proxy.authorization().and_then(|value| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        ViaProxy {
            proxy: proxy.clone(),
            no_proxy: no_proxy.clone(),
            authorization,
        }
    }

    /// Whether requests to this destination go through the proxy.
    pub(crate) fn serves(&self, to: &Destination<'_>) -> bool {
        !self.no_proxy.covers(to.host, to.port)
    }

    pub(crate) fn host(&self) -> &str {
        self.proxy.host()
    }

    pub(crate) fn port(&self) -> u16 {
        self.proxy.port()
    }

    /// For `Proxy-Authorization`.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.authorization.as_ref()
    }

    /// Turns a connection to the proxy into one to the destination.
    pub(crate) async fn tunnel(
        &self,
        to: &Destination<'_>,
        socket: &mut Paced,
    ) -> Result<(), Failure> {
        let (host, port) = (to.host, to.port);
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if let Some(value) = self.proxy.authorization() {
            request.push_str("Proxy-Authorization: ");
            request.push_str(value);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        // Whatever breaks off here does so at the proxy.
        let lost = |_| Failure::ProxyUnreachable;
        socket.write_all(request.as_bytes()).await.map_err(lost)?;
        let mut answer = Vec::new();
        loop {
            let count = socket.read_buf(&mut answer).await.map_err(lost)?;
            if count == 0 || answer.len() > MAX_HEAD {
                return Err(Failure::ProxyUnreachable);
            }
            // A line that has not ended need not be looked at.
            if answer[answer.len() - count..].contains(&b'\n')
                && let Some((status, length)) = status(&answer)?
            {
                judge(status)?;
                // A server waits for its client to begin TLS.
                return if answer.len() == length {
                    Ok(())
                } else {
                    Err(Failure::Tls("peer does not speak tls"))
                };
            }
        }
    }
}

/// The status of an answer to CONNECT, and how long its head is; `None`: it is not there whole. Heads of the class 1xx are
/// passed over.
fn status(bytes: &[u8]) -> Result<Option<(u16, usize)>, Failure> {
    let mut begin = 0;
    loop {
        let mut fields = vec![httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        // Something that is no proxy, nor speaks HTTP.
        let parsed = head
            .parse(&bytes[begin..])
            .map_err(|_| Failure::ProxyUnreachable)?;
        let httparse::Status::Complete(length) = parsed else {
            return Ok(None);
        };
        begin += length;
        match head.code.unwrap_or(0) {
            100..200 => {}
            code => return Ok(Some((code, begin))),
        }
    }
}

/// What an answer to CONNECT means.
///
/// Of the class 5xx all but two say that the proxy could not reach the endpoint: 502, 503 and 504 by their names, 500 as
/// proxies use it. All else is its own refusal.
fn judge(status: u16) -> Result<(), Failure> {
    const NOT_IMPLEMENTED: u16 = 501;
    const GATEWAY_TIMEOUT: u16 = 504;
    const VERSION_NOT_SUPPORTED: u16 = 505;
    match status {
        200..300 => Ok(()),
        GATEWAY_TIMEOUT => Err(Failure::TimedOut),
        NOT_IMPLEMENTED | VERSION_NOT_SUPPORTED => Err(Failure::ProxyRefused(status)),
        500..600 => Err(Failure::Unreachable),
        _ => Err(Failure::ProxyRefused(status)),
    }
}

/// What the status of an answer that came without a tunnel says of the proxy. Only a proxy may ask for a password like this
/// (RFC 9110, section 15.5.8); its other refusals look like answers of the endpoint.
pub(crate) fn refusal(status: u16) -> Option<Failure> {
    (status == PASSWORD_WANTED).then_some(Failure::ProxyRefused(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_head_is_found() {
        let whole = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 a\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(status(&whole[..end]), Ok(None), "{end}");
        }
        assert_eq!(status(whole), Ok(Some((200, whole.len()))));
        let mut more = whole.to_vec();
        more.extend_from_slice(b"\x15\x03");
        assert_eq!(status(&more), Ok(Some((200, whole.len()))));
        let interim = b"HTTP/1.1 102 Wait\r\nA: b\r\n\r\nHTTP/1.0 407 No\r\n\r\n";
        assert_eq!(status(interim), Ok(Some((407, interim.len()))));
        assert_eq!(status(b"SSH-2.0-x\r\n"), Err(Failure::ProxyUnreachable));
        let mut many = b"HTTP/1.1 200 OK\r\n".to_vec();
        many.extend(b"a:\r\n".repeat(1_000));
        many.extend(b"\r\n");
        assert_eq!(status(&many), Ok(Some((200, many.len()))));
    }

    #[test]
    fn who_is_to_blame_is_told_by_the_status() {
        assert_eq!(judge(200), Ok(()));
        assert_eq!(judge(204), Ok(()));
        for status in [302, 400, 403, 404, 405, 407, 429, 501, 505, 600, 0] {
            let refused = judge(status).unwrap_err();
            assert_eq!(refused, Failure::ProxyRefused(status));
            assert!(refused.is_ours() && !refused.is_exhaustion());
        }
        for (status, failure) in [
            (500, Failure::Unreachable),
            (502, Failure::Unreachable),
            (503, Failure::Unreachable),
            (504, Failure::TimedOut),
        ] {
            assert_eq!(judge(status), Err(failure));
            assert!(!failure.is_ours());
        }
        assert_eq!(refusal(407), Some(Failure::ProxyRefused(407)));
        assert_eq!(refusal(403), None);
    }
}
