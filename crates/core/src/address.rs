//! The address guard: which addresses a request may go to.
//!
//! Endpoints are chosen by tenants, so whatever is not an ordinary public address is refused: the
//! server's own network, other hosts behind its firewall, the metadata service of its cloud. The
//! lists are IANA's registries of special-purpose addresses. What an administrator allows wins.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn passes(list: &str, address: &str) -> bool {
        Guard::parse(list).unwrap().check(ip(address)).is_ok()
    }

    #[test]
    fn special_addresses_are_refused() {
        for address in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.255",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "ff::",
            "64:ff9b::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b:0:1::",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:0:5ef5:79fb::1",
            "2001:1::",
            "2001:1::3",
            "2001:2::1",
            "2001:10::1",
            "2001:4:111::",
            "2001:1ff::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "3fff:fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "feff::1",
            "ff02::1",
        ] {
            assert!(!passes("", address), "{address}");
        }
    }

    #[test]
    fn neighbours_of_special_addresses_are_public() {
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.0",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.0",
            "198.51.101.0",
            "203.0.112.0",
            "203.0.114.0",
            "223.255.255.255",
            "64:ff9b::8.8.8.8",
            "2001:1::1",
            "2001:1::2",
            "2001:3::1",
            "2001:4:112::1",
            "2001:20::1",
            "2001:2f::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2001:db7::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700::1111",
            "3ffe:ffff::1",
            "3fff:1000::1",
        ] {
            assert!(passes("", address), "{address}");
        }
    }

    #[test]
    fn what_is_allowed_wins() {
        assert!(passes("127.0.0.0/8", "127.0.0.1"));
        assert!(!passes("127.0.0.0/8", "10.0.0.1"));
        assert!(!passes("127.0.0.0/8", "::1"));
        assert!(passes("10.1.2.3/8, ::1", "10.200.0.1"));
        assert!(passes("10.1.2.3/8, ::1", "::1"));
        assert!(passes("192.168.1.7", "192.168.1.7"));
        assert!(!passes("192.168.1.7", "192.168.1.8"));
        assert!(passes("fd00::/8", "fd12::1"));
        assert!(passes("0.0.0.0/0,::/0", "::1") && passes("0.0.0.0/0", "255.255.255.255"));
    }

    #[test]
    fn an_allowed_ipv4_network_covers_its_embedded_forms() {
        assert!(passes("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(passes("10.0.0.0/8", "64:ff9b::10.0.0.1"));
        assert!(passes("8.8.8.8", "::ffff:8.8.8.8"));
        assert!(!passes("10.0.0.0/8", "::10.0.0.1"));
        assert!(!passes("10.0.0.0/8", "2002:a00:1::"));
        assert!(!passes("64:ff9b::/96", "10.0.0.1"));
        assert!(passes("64:ff9b::/96", "64:ff9b::10.0.0.1"));
    }

    #[test]
    fn the_hosts_own_addresses_are_refused() {
        let own = [ip("8.8.8.8"), ip("2606:4700::1"), ip("::ffff:9.9.9.9")];
        let guard = Guard::default();
        for address in [
            "8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2606:4700::1",
            "9.9.9.9",
            "127.0.0.1",
        ] {
            assert_eq!(
                guard.check_own(ip(address), &own),
                Err(Refused),
                "{address}"
            );
        }
        assert!(
            guard.check_own(ip("8.8.4.4"), &own).is_ok()
                && guard.check_own(ip("2606:4700::2"), &own).is_ok()
        );
        let guard = Guard::parse("8.8.8.0/24").unwrap();
        assert!(guard.check_own(ip("8.8.8.8"), &own).is_ok());
        assert_eq!(guard.check_own(ip("2606:4700::1"), &own), Err(Refused));
    }

    #[test]
    fn lists_are_read_leniently_and_mistakes_named() {
        assert_eq!(Guard::parse(" , ,").unwrap(), Guard::default());
        assert_eq!(
            Guard::parse("10.0.0.0/8").unwrap(),
            Guard::parse(" 10.9.9.9/8 ,").unwrap()
        );
        for bad in [
            "10.0.0.0/33",
            "10/8",
            "localhost",
            "10.0.0.0/8 ::1",
            "[::1]",
            "::/129",
            "1.2.3.4/",
        ] {
            let error = Guard::parse(&format!("127.0.0.1, {bad}")).unwrap_err();
            assert_eq!(error.to_string(), format!("invalid network \"{bad}\""));
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn a_refusal_does_not_name_the_address() {
        assert_eq!(
            Guard::default()
                .check(ip("10.1.2.3"))
                .unwrap_err()
                .to_string(),
            "address refused"
        );
    }

    proptest! {
        #[test]
        fn embedding_never_opens_an_ipv4_address(bits: u32) {
            let guard = Guard::default();
            let v4 = Ipv4Addr::from(bits);
            let judged = guard.check(IpAddr::V4(v4));
            let nat64 = Ipv6Addr::from((0x0064_ff9b_u128 << 96) | u128::from(bits));
            prop_assert_eq!(guard.check(IpAddr::V6(nat64)), judged);
            prop_assert!(guard.check(IpAddr::V6(v4.to_ipv6_mapped())).is_err());
            prop_assert!(guard.check(IpAddr::V6(v4.to_ipv6_compatible())).is_err());
            // The standard library's own notions, as far as they are stable.
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!special || judged.is_err());
        }

        #[test]
        fn what_is_in_an_allowed_network_passes(bits: u128, prefix in 0u8..=128, v4_bits: u32, v4_prefix in 0u8..=32) {
            let list = format!("{}/{prefix},{}/{v4_prefix}", Ipv6Addr::from(bits), Ipv4Addr::from(v4_bits));
            let guard = Guard::parse(&list).unwrap();
            prop_assert!(guard.check(IpAddr::V6(bits.into())).is_ok());
            prop_assert!(guard.check(IpAddr::V4(v4_bits.into())).is_ok());
        }
    }
}
