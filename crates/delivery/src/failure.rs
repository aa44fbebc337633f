//! Why an attempt has no answer, in words that a tenant may read. Made on delivery threads.
//!
//! No word here holds an address, a name from a certificate, or text from the peer: an endpoint's owner sees these words,
//! and must not learn from them what else the server can reach. What an administrator is told besides is asked for by
//! [`Failure::for_administrators`].

use std::io;
use std::net::IpAddr;

/// Why a request got no usable answer.
///
/// `Display` is short and lower-case, fit for the log that tenants read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// An address of the host is refused by the address guard; nothing was connected.
    #[error("address refused")]
    AddressRefused(
        /// Which one; `None`: the host's own addresses are not known.
        Option<IpAddr>,
    ),
    /// The port is not among the allowed ones; nothing was connected.
    #[error("port refused")]
    PortRefused,
    /// The host's name has no address, or no name server of its domain answered in time.
    #[error("name not found")]
    NameNotFound,
    /// Nobody listens there.
    #[error("connection refused")]
    ConnectionRefused,
    /// The peer reset the connection before its answer was complete.
    #[error("connection reset")]
    ConnectionReset,
    /// The peer closed the connection before its answer was complete.
    #[error("connection closed")]
    ConnectionClosed,
    /// No route to the host.
    #[error("host unreachable")]
    Unreachable,
    /// The limit of the whole request has passed.
    #[error("timed out")]
    TimedOut,
    /// No trusted TLS session.
    #[error("tls: {0}")]
    Tls(&'static str),
    /// What came back is not HTTP, or too much of it.
    #[error("broken response: {0}")]
    BrokenResponse(&'static str),
    /// The request cannot be expressed in HTTP.
    #[error("request cannot be sent: {0}")]
    BadRequest(&'static str),
    /// Any other failure of a socket.
    #[error("network error")]
    Network,
    /// The pool was shut down while the request was under way.
    #[error("shut down")]
    ShutDown,
    /// The name servers that this machine asks cannot be reached.
    #[error("name servers out of reach")]
    ResolverLost,
    /// The proxy cannot be connected to, or closes the connection, or is none.
    #[error("proxy out of reach")]
    ProxyUnreachable,
    /// The proxy will not make the request, or wants a password: not what it says of the endpoint.
    #[error("proxy refused: {0}")]
    ProxyRefused(
        /// The status of its answer.
        u16,
    ),
    /// More names wait to be looked up than there is room for.
    #[error("name lookup overloaded")]
    LookupOverloaded,
    /// No thread could be started for the job.
    #[error("no thread")]
    NoThread,
    /// The process, or the machine, has no file descriptor or no port left.
    #[error("no file descriptor")]
    NoDescriptor,
    /// No memory for a socket.
    #[error("no memory")]
    NoMemory,
    /// A defect of ours: the attempt panicked.
    #[error("internal error")]
    Internal,
}

impl Failure {
    /// Whether this is no fault of the endpoint's: the request was not made, and to make it later costs no attempt.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        matches!(
            self,
            Failure::ShutDown
                | Failure::ResolverLost
                | Failure::ProxyUnreachable
                | Failure::ProxyRefused(_)
                | Failure::LookupOverloaded
                | Failure::NoThread
                | Failure::NoDescriptor
                | Failure::NoMemory
        )
    }

    /// Whether all requests must fail alike, whatever their endpoint: to go on trying makes it worse.
    #[must_use]
    pub fn is_exhaustion(&self) -> bool {
        matches!(
            self,
            Failure::NoThread | Failure::NoDescriptor | Failure::NoMemory
        )
    }

    /// The same words, with the address where one was refused.
    pub fn for_administrators(&self) -> String {
        match self {
            Failure::AddressRefused(Some(ip)) => webhooks_core::address::refused_at(*ip),
            failure => failure.to_string(),
        }
    }

    /// Whether the time limit was what ended the attempt.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self, Failure::TimedOut)
    }
}

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Failure {
        use io::ErrorKind::*;
        if let Some(code) = error.raw_os_error() {
            use nix::errno::Errno;
            match Errno::from_raw(code) {
                Errno::EMFILE | Errno::ENFILE => return Failure::NoDescriptor,
                Errno::ENOMEM | Errno::ENOBUFS => return Failure::NoMemory,
                _ => {}
            }
        }
        match error.kind() {
            ConnectionRefused => Failure::ConnectionRefused,
            // A socket is not connected any more when the peer has reset it before we looked.
            ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected => {
                Failure::ConnectionReset
            }
            UnexpectedEof => Failure::ConnectionClosed,
            HostUnreachable | NetworkUnreachable | NetworkDown => Failure::Unreachable,
            // No local port is left: to reach this endpoint, so it is not certain whose fault that is.
            AddrNotAvailable => Failure::Unreachable,
            TimedOut => Failure::TimedOut,
            OutOfMemory => Failure::NoMemory,
            _ => Failure::Network,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_peer_are_never_repeated() {
        let error = io::Error::other("10.0.0.1 said secret");
        assert_eq!(Failure::from(&error).to_string(), "network error");
    }

    #[test]
    fn a_reset_is_the_endpoint_s_however_it_shows() {
        for code in [nix::libc::ECONNRESET, nix::libc::EPIPE, nix::libc::ENOTCONN] {
            let failure = Failure::from(&io::Error::from_raw_os_error(code));
            assert_eq!(failure, Failure::ConnectionReset);
            assert!(!failure.is_ours());
        }
    }

    #[test]
    fn an_address_is_told_to_administrators_alone() {
        let failure = Failure::AddressRefused(Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(failure.to_string(), "address refused");
        assert_eq!(failure.for_administrators(), "address refused: 10.0.0.1");
        assert_eq!(Failure::TimedOut.for_administrators(), "timed out");
    }

    #[test]
    fn what_this_machine_lacks_is_no_fault_of_the_endpoint() {
        for (code, expected) in [
            (nix::libc::EMFILE, Failure::NoDescriptor),
            (nix::libc::ENFILE, Failure::NoDescriptor),
            (nix::libc::ENOMEM, Failure::NoMemory),
            (nix::libc::ENOBUFS, Failure::NoMemory),
        ] {
            let failure = Failure::from(&io::Error::from_raw_os_error(code));
            assert_eq!(failure, expected);
            assert!(failure.is_ours() && failure.is_exhaustion());
        }
        assert!(Failure::ResolverLost.is_ours() && !Failure::ResolverLost.is_exhaustion());
        let refused = Failure::from(&io::Error::from_raw_os_error(nix::libc::ECONNREFUSED));
        assert!(!refused.is_ours());
    }
}
