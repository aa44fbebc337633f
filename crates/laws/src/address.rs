//! The address guard: no spelling of an inner address passes, and a list opens what is in it, no more.

use crate::halves;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use webhooks_core::address::Guard;
use webhooks_core::endpoint::parse_ports;

pub(crate) fn law(bytes: &[u8]) {
    let (list, address) = halves(bytes);
    let list = std::str::from_utf8(list).unwrap_or_default();
    let _ = parse_ports(list);
    let guard = Guard::parse(list).unwrap_or_default();
    let mut octets = [0; 16];
    for (to, from) in octets.iter_mut().zip(address) {
        *to = *from;
    }
    let [a, b, c, d, ..] = octets;
    judge(&guard, IpAddr::V4(Ipv4Addr::new(a, b, c, d)));
    judge(&guard, IpAddr::V6(Ipv6Addr::from(octets)));
    for entry in list
        .split(',')
        .filter_map(|entry| entry.trim().parse::<IpAddr>().ok())
    {
        judge(&guard, entry);
        if guard != Guard::default() {
            assert!(guard.check(entry).is_ok(), "{list}: {entry}");
        }
    }
}

fn judge(guard: &Guard, ip: IpAddr) {
    let by_default = Guard::default().check(ip);
    // A list only opens.
    assert!(by_default.is_err() || guard.check(ip).is_ok(), "{ip}");
    assert!(Guard::default().check_own(ip, &[ip]).is_err(), "{ip}");
    match ip {
        IpAddr::V4(v4) => {
            assert!(!is_inner_v4(v4) || by_default.is_err(), "{ip}");
            for v6 in [v4.to_ipv6_mapped(), v4.to_ipv6_compatible()] {
                assert!(Guard::default().check(IpAddr::V6(v6)).is_err(), "{v6}");
            }
        }
        IpAddr::V6(v6) => {
            assert!(!is_inner_v6(v6) || by_default.is_err(), "{ip}");
            let segments = v6.segments();
            if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
                let [.., a, b, c, d] = v6.octets();
                assert_eq!(
                    by_default,
                    Guard::default().check(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
                );
            }
        }
    }
}

/// What the standard library knows of it.
fn is_inner_v4(ip: Ipv4Addr) -> bool {
    ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.octets()[0] == 0
        || ip.octets()[0] >= 224
}

fn is_inner_v6(ip: Ipv6Addr) -> bool {
    ip.is_loopback()
        || ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_unique_local()
        || ip.is_unicast_link_local()
        || ip.to_ipv4_mapped().is_some()
}
