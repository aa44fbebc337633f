//! What the guard lets pass.
#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn passes(list: &str, address: &str) -> bool {
    Guard::parse(list).unwrap().check(ip(address)).is_ok()
}

/// What is next to a range.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Next {
    Public,
    /// Another refused range begins or ends here.
    Refused,
    /// The range lies at the end of all addresses.
    Nothing,
}

use Next::{Nothing, Public, Refused as Other};

/// Every range of the promise, and what comes before and after it.
const RANGES: [(&str, Next, Next); 29] = [
    ("0.0.0.0/8", Nothing, Public),
    ("10.0.0.0/8", Public, Public),
    ("100.64.0.0/10", Public, Public),
    ("127.0.0.0/8", Public, Public),
    ("168.63.129.16/32", Public, Public),
    ("169.254.0.0/16", Public, Public),
    ("172.16.0.0/12", Public, Public),
    ("192.0.0.0/24", Public, Public),
    ("192.0.2.0/24", Public, Public),
    ("192.88.99.0/24", Public, Public),
    ("192.168.0.0/16", Public, Public),
    ("198.18.0.0/15", Public, Public),
    ("198.51.100.0/24", Public, Public),
    ("203.0.113.0/24", Public, Public),
    ("224.0.0.0/4", Public, Other),
    ("240.0.0.0/4", Other, Nothing),
    ("::/8", Nothing, Other),
    ("64:ff9b::/32", Other, Other),
    ("100::/64", Other, Other),
    ("100:0:0:1::/64", Other, Public),
    ("2001::/23", Public, Public),
    ("2001:db8::/32", Public, Public),
    ("2002::/16", Public, Public),
    ("3fff::/20", Public, Public),
    ("5f00::/16", Public, Public),
    ("fc00::/7", Public, Public),
    ("fe80::/10", Public, Other),
    ("fec0::/10", Other, Other),
    ("ff00::/8", Other, Nothing),
];

/// What is allowed inside of `2001::/23`, and what comes before and after it.
const EXEMPT: [(&str, Next, Next); 5] = [
    ("2001:1::1/128", Other, Public),
    ("2001:1::2/128", Public, Other),
    ("2001:3::/32", Other, Other),
    ("2001:4:112::/48", Other, Other),
    ("2001:20::/28", Other, Other),
];

/// First and last address of a range, and those before and after it.
fn bounds(range: &str) -> [Option<IpAddr>; 4] {
    let net: IpNet = range.parse().unwrap();
    let (first, last) = (net.network(), net.broadcast());
    let (before, after) = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (
            u32::from(first)
                .checked_sub(1)
                .map(|it| IpAddr::V4(it.into())),
            u32::from(last)
                .checked_add(1)
                .map(|it| IpAddr::V4(it.into())),
        ),
        (IpAddr::V6(first), IpAddr::V6(last)) => (
            u128::from(first)
                .checked_sub(1)
                .map(|it| IpAddr::V6(it.into())),
            u128::from(last)
                .checked_add(1)
                .map(|it| IpAddr::V6(it.into())),
        ),
        _ => unreachable!(),
    };
    [before, Some(first), Some(last), after]
}

fn judged(address: Option<IpAddr>) -> Next {
    match address.map(|ip| Guard::default().check(ip)) {
        None => Nothing,
        Some(Ok(())) => Public,
        Some(Err(_)) => Other,
    }
}

#[test]
fn each_range_is_refused_to_its_bounds_and_not_beyond() {
    for (range, before, after) in RANGES {
        assert_eq!(
            bounds(range).map(judged),
            [before, Other, Other, after],
            "{range}"
        );
    }
    for (range, before, after) in EXEMPT {
        assert_eq!(
            bounds(range).map(judged),
            [before, Public, Public, after],
            "{range}"
        );
    }
}

#[test]
fn the_promise_and_the_lists_name_the_same_ranges() {
    let networks = |nets: &[IpNet]| {
        let mut nets: Vec<String> = nets.iter().map(ToString::to_string).collect();
        nets.sort();
        nets
    };
    let promised = |ranges: &[(&str, Next, Next)]| {
        networks(
            &ranges
                .iter()
                .map(|it| it.0.parse().unwrap())
                .collect::<Vec<_>>(),
        )
    };
    let refused: Vec<IpNet> = REFUSED_V4
        .map(IpNet::V4)
        .into_iter()
        .chain(REFUSED_V6.map(IpNet::V6))
        .collect();
    assert_eq!(promised(&RANGES), networks(&refused));
    assert_eq!(promised(&EXEMPT), networks(&PUBLIC_V6.map(IpNet::V6)));
}

#[test]
fn behind_nat64_each_ipv4_range_has_the_same_bounds() {
    let behind = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::V6((0x0064_ff9b_u128 << 96 | u128::from(u32::from(ip))).into()),
        IpAddr::V6(_) => unreachable!(),
    };
    for (range, before, after) in RANGES.iter().filter(|it| it.0.contains('.')) {
        let [left, first, last, right] = bounds(range).map(|ip| judged(ip.map(behind)));
        assert_eq!(
            [left, first, last, right],
            [*before, Other, Other, *after],
            "{range}"
        );
    }
    // The rest of the prefix's 32 bits is for networks of whoever runs the translator.
    let [before, first, last, after] = bounds("64:ff9b::/96").map(judged);
    assert_eq!([before, first, last, after], [Other; 4]);
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

#[test]
fn the_address_of_a_refusal_can_be_left_out_and_nothing_else_changes() {
    let told = refused_at("10.0.0.1".parse().unwrap());
    assert_eq!(told, "address refused: 10.0.0.1");
    assert_eq!(without_address(&told), "address refused");
    assert_eq!(
        without_address(&refused_at("fe80::1".parse().unwrap())),
        "address refused"
    );
    assert_eq!(
        without_address("address refused: 10.0.0.1; payload truncated"),
        "address refused; payload truncated"
    );
    for other in [
        "",
        "address refused",
        "timed out",
        "address refused by 10.0.0.1",
        "x: 10.0.0.1",
    ] {
        assert_eq!(without_address(other), other);
    }
}
