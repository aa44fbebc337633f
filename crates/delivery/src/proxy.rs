//! Requests through a proxy. An `https` request asks it for a tunnel (CONNECT) and speaks TLS through that, so the proxy
//! sees host and port alone; an `http` request is sent to it with the whole URL.
//!
//! What the proxy is to blame for costs no attempt: it is out of reach, it refuses, it wants a password. What it says of
//! the endpoint, that it cannot be connected to or does not answer, is the endpoint's failure, as without a proxy.

use http::HeaderValue;
use http::header::{HeaderMap, PROXY_AUTHENTICATE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use webhooks_core::proxy::{NoProxy, Proxy};

use crate::client::Destination;
use crate::failure::Failure;
use crate::stream::{MAX_HEAD, Paced};
use crate::untidy::{Reading, Untidy};

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
        let mut head = Untidy::default();
        loop {
            let count = socket.read_buf(&mut answer).await.map_err(lost)?;
            match head.read(&answer) {
                Reading::Unfinished if count > 0 && answer.len() < MAX_HEAD => {}
                // What speaks like this is no proxy.
                Reading::Unfinished | Reading::Broken => return Err(Failure::ProxyUnreachable),
                Reading::Head(status, _) => {
                    judge(status)?;
                    // A server waits for its client to begin TLS.
                    return if head.end() == answer.len() {
                        Ok(())
                    } else {
                        Err(Failure::Tls("peer does not speak tls"))
                    };
                }
            }
        }
    }
}

/// What an answer to CONNECT means.
///
/// Of the class 5xx all but two say that the proxy could not reach the endpoint: 502, 503 and 504 by their names, 500
/// because tinyproxy says it so. All else is its own refusal.
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

/// What the head of an answer that came without a tunnel says of the proxy. Only a proxy may ask for a password like this, and
/// it has to say how (RFC 9110, sections 15.5.8 and 11.7.1); its other refusals look like answers of the endpoint.
pub(crate) fn refusal(status: u16, fields: &HeaderMap) -> Option<Failure> {
    (status == PASSWORD_WANTED && fields.contains_key(PROXY_AUTHENTICATE))
        .then_some(Failure::ProxyRefused(status))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let asking = [(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic"))];
        let asking: HeaderMap = asking.into_iter().collect();
        assert_eq!(refusal(407, &asking), Some(Failure::ProxyRefused(407)));
        assert_eq!(refusal(407, &HeaderMap::new()), None, "an endpoint's own");
        assert_eq!(refusal(403, &asking), None);
    }
}
