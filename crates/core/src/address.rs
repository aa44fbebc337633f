//! The address guard: which addresses a request may go to.
//!
//! Endpoints are chosen by tenants, so whatever is not an ordinary public address is refused: the
//! server's own network, other hosts behind its firewall, the metadata service of its cloud. The
//! lists are IANA's registries of special-purpose addresses. What an administrator allows wins.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use thiserror::Error;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, d: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>, multicast, and one metadata
/// service that has a public address.
const REFUSED_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // shared, behind carriers' NAT
    v4(127, 0, 0, 0, 8),      // loopback
    v4(168, 63, 129, 16, 32), // Azure's host agent
    v4(169, 254, 0, 0, 16),   // link-local; metadata services
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarks
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, broadcast
];

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>, multicast, and site-local.
const REFUSED_V6: [Ipv6Net; 13] = [
    v6(0, 0, 0, 0, 8),           // unspecified, loopback, embedded IPv4
    v6(0x64, 0xff9b, 0, 0, 32),  // NAT64 for local use; the well-known prefix is judged before
    v6(0x100, 0, 0, 0, 64),      // discard
    v6(0x100, 0, 0, 1, 64),      // dummy prefix
    v6(0x2001, 0, 0, 0, 23),     // protocol assignments, Teredo
    v6(0x2001, 0xdb8, 0, 0, 32), // documentation
    v6(0x2002, 0, 0, 0, 16),     // 6to4: embedded IPv4
    v6(0x3fff, 0, 0, 0, 20),     // documentation
    v6(0x5f00, 0, 0, 0, 16),     // segment routing
    v6(0xfc00, 0, 0, 0, 7),      // unique local
    v6(0xfe80, 0, 0, 0, 10),     // link-local
    v6(0xfec0, 0, 0, 0, 10),     // site-local, once
    v6(0xff00, 0, 0, 0, 8),      // multicast
];

/// Inside `2001::/23`, what the registry calls globally reachable.
const PUBLIC_V6: [Ipv6Net; 5] = [
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 1), 128), // Port Control Protocol
    Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 2), 128), // TURN
    v6(0x2001, 3, 0, 0, 32),                                              // AMT
    v6(0x2001, 4, 0x112, 0, 48),                                          // AS112
    v6(0x2001, 0x20, 0, 0, 28),                                           // ORCHIDv2
];

/// The well-known prefix of NAT64 (RFC 6052): its last 32 bits are where the request goes.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 0, 96);

/// The address is none that requests may go to. It does not say which address that is: whoever
/// chose the name may not be meant to know what it resolves to in here.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("address refused")]
pub struct Refused;

impl Refused {
    /// What an administrator can do.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some("An administrator can allow networks with webhooks.allowed_networks.".to_owned())
    }
}

/// What stands between the words of [`Refused`] and the address, where administrators are told that.
const AT: &str = ": ";

/// The words of [`Refused`] with the address, for administrators.
#[must_use]
pub fn refused_at(ip: IpAddr) -> String {
    format!("{Refused}{AT}{ip}")
}

/// An attempt's error as an endpoint's owner may read it: without the address of [`refused_at`]. A remark behind it,
/// after a semicolon, stays.
#[must_use]
pub fn without_address(error: &str) -> Cow<'_, str> {
    let words = Refused.to_string();
    let told = error
        .strip_prefix(&words)
        .and_then(|rest| rest.strip_prefix(AT));
    match told {
        None => Cow::Borrowed(error),
        Some(told) => {
            let remark = told.find(';').map_or("", |place| &told[place..]);
            Cow::Owned(words + remark)
        }
    }
}

/// An entry of the list of allowed networks that is not one.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("invalid network \"{entry}\"")]
pub struct GuardError {
    /// The entry as it stands in the list.
    pub entry: String,
}

impl GuardError {
    /// Which form was expected.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some("Use a comma-separated list of networks and addresses, such as 10.0.0.0/8, fd00::/8, 192.168.1.7.".into())
    }
}

/// Judges addresses. The default allows public ones only.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Guard {
    allowed: Vec<IpNet>,
}

impl Guard {
    /// Takes the networks that are exempt: CIDRs or plain addresses with commas between, perhaps
    /// none. Bits behind a network's prefix do not matter.
    ///
    /// # Errors
    /// An entry is neither.
    pub fn parse(list: &str) -> Result<Self, GuardError> {
        let entries = list
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty());
        let allowed: Result<Vec<IpNet>, GuardError> = entries
            .map(|entry| {
                let address = || entry.parse::<IpAddr>().map(IpNet::from);
                let network = entry.parse::<IpNet>().or_else(|_| address());
                network
                    .map(|network| network.trunc())
                    .map_err(|_| GuardError {
                        entry: entry.to_owned(),
                    })
            })
            .collect();
        Ok(Self { allowed: allowed? })
    }

    /// Whether a request may go to this address.
    ///
    /// # Errors
    /// It is not a public one, and not allowed either.
    pub fn check(&self, ip: IpAddr) -> Result<(), Refused> {
        let public = match ip {
            IpAddr::V4(ip) => is_public_v4(ip),
            IpAddr::V6(ip) if NAT64.contains(&ip) => is_public_v4(last_32_bits(ip)),
            IpAddr::V6(ip) => {
                PUBLIC_V6.iter().any(|net| net.contains(&ip))
                    || !REFUSED_V6.iter().any(|net| net.contains(&ip))
            }
        };
        if public || self.allows(ip) {
            Ok(())
        } else {
            Err(Refused)
        }
    }

    /// The same, and the host's own addresses are refused too, unless they are allowed.
    ///
    /// # Errors
    /// As [`Guard::check`], or the address is among `own`.
    pub fn check_own(&self, ip: IpAddr, own: &[IpAddr]) -> Result<(), Refused> {
        self.check(ip)?;
        let ip_v4 = embedded(ip);
        let is_own = own
            .iter()
            .any(|&other| other == ip || (ip_v4.is_some() && embedded(other) == ip_v4));
        if is_own && !self.allows(ip) {
            Err(Refused)
        } else {
            Ok(())
        }
    }

    /// Whether the list has the address, or the IPv4 address inside of it.
    fn allows(&self, ip: IpAddr) -> bool {
        let inner = embedded(ip);
        self.allowed.iter().any(|net| {
            net.contains(&ip) || inner.is_some_and(|inner| net.contains(&IpAddr::V4(inner)))
        })
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !REFUSED_V4.iter().any(|net| net.contains(&ip))
}

/// The IPv4 address that packets to `ip` reach: itself, v4-mapped or behind NAT64.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(ip) if NAT64.contains(&ip) => Some(last_32_bits(ip)),
        IpAddr::V6(ip) => ip.to_ipv4_mapped(),
    }
}

const fn last_32_bits(ip: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = ip.octets();
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests;
