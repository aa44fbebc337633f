//! How names are looked up, and the system's way of doing it. Runs on the look-up threads; may block.

use std::io;
use std::net::IpAddr;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};

/// Why a look-up found no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// The name has no address: it does not exist, or it has records of other kinds only.
    Absent,
    /// No answer in time, or a temporary failure.
    Unanswered,
    /// It could not be asked: no memory, no descriptor, no thread.
    Unable,
}

/// How names are looked up. A seam: the system's way in earnest, another for tests.
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of `name`, which is lower-case and has no dot at its end. May block for as long as it likes.
    ///
    /// # Errors
    /// When there are none, or they cannot be found out.
    fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress>;

    /// The addresses of this host itself.
    ///
    /// # Errors
    /// When they cannot be found out.
    fn own(&self) -> io::Result<Vec<IpAddr>>;
}

/// Looks names up as the operating system is configured to (`getaddrinfo`).
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress> {
        // One socket type: otherwise each address comes three times.
        let hints = AddrInfoHints {
            socktype: SockType::Stream.into(),
            ..AddrInfoHints::default()
        };
        let found = dns_lookup::getaddrinfo(Some(name), None, Some(hints)).map_err(reason)?;
        // An address of another family than IP cannot be connected to.
        Ok(found
            .flatten()
            .map(|address| address.sockaddr.ip())
            .collect())
    }

    fn own(&self) -> io::Result<Vec<IpAddr>> {
        let interfaces = nix::ifaddrs::getifaddrs()?;
        Ok(interfaces
            .filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .collect())
    }
}

/// glibc's code for "no address of the family that was asked for", which the crate does not name.
const EAI_ADDRFAMILY: i32 = -9;

fn reason(error: LookupError) -> NoAddress {
    match error.kind() {
        LookupErrorKind::NoName | LookupErrorKind::NoData => NoAddress::Absent,
        LookupErrorKind::Memory => NoAddress::Unable,
        LookupErrorKind::System => match io::Error::from(error).raw_os_error() {
            Some(EMFILE | ENFILE | ENOMEM | ENOBUFS) => NoAddress::Unable,
            _ => NoAddress::Unanswered,
        },
        LookupErrorKind::IO => match error.error_num() {
            // Zero: the name holds a NUL byte, so nobody was asked.
            0 | EAI_ADDRFAMILY => NoAddress::Absent,
            _ => NoAddress::Unanswered,
        },
        _ => NoAddress::Unanswered,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc::{EAI_AGAIN, EAI_FAIL, EAI_MEMORY, EAI_NODATA, EAI_NONAME, EAI_SYSTEM};

    #[test]
    fn the_system_knows_this_machine() {
        let found = SystemLookup.lookup("localhost").unwrap();
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
        let own = SystemLookup.own().unwrap();
        assert!(own.contains(&IpAddr::from([127, 0, 0, 1])), "{own:?}");
    }

    #[test]
    fn a_name_that_cannot_be_written_down_has_no_address() {
        for name in ["a\0b.example", ""] {
            assert_eq!(
                SystemLookup.lookup(name),
                Err(NoAddress::Absent),
                "{name:?}"
            );
        }
    }

    #[test]
    fn the_codes_of_getaddrinfo_keep_their_meaning() {
        for (code, expected) in [
            (EAI_NONAME, NoAddress::Absent),
            (EAI_NODATA, NoAddress::Absent),
            (EAI_ADDRFAMILY, NoAddress::Absent),
            (EAI_AGAIN, NoAddress::Unanswered),
            (EAI_FAIL, NoAddress::Unanswered),
            (EAI_MEMORY, NoAddress::Unable),
        ] {
            assert_eq!(reason(LookupError::new(code)), expected, "{code}");
        }
        for (errno, expected) in [
            (EMFILE, NoAddress::Unable),
            (ENOMEM, NoAddress::Unable),
            (nix::libc::ECONNREFUSED, NoAddress::Unanswered),
        ] {
            nix::errno::Errno::from_raw(errno).set();
            assert_eq!(reason(LookupError::new(EAI_SYSTEM)), expected, "{errno}");
        }
    }
}
