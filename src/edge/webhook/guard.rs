//! Which addresses the fabric pushes to: public ones, and what the configuration lists. Pure: an address in, a verdict out.
//!
//! Anyone who may register an agent names a URL; without this, the node would be a way into its operator's network.
//! Start at [`Guard::check`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Whether a node's own loopback addresses are let through: in development mode, where agents live beside the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loopback {
    Allowed,
    Refused,
}

/// The rule that every resolved address must pass.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    loopback: Loopback,
    allowed: Vec<IpNet>,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, third: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, 0), prefix)
}

/// IPv4 ranges that are no public host's (IANA's special-purpose registry), with the word that an error says.
const REFUSED_V4: [(Ipv4Net, &str); 16] = [
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "protocol assignment"),
    (v4(192, 0, 2, 0, 24), "documentation"),
    (v4(192, 31, 196, 0, 24), "AS112"),
    (v4(192, 88, 99, 0, 24), "6to4 relay"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "benchmarking"),
    (v4(198, 51, 100, 0, 24), "documentation"),
    (v4(203, 0, 113, 0, 24), "documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved or broadcast"),
];

/// The only IPv6 range that public hosts are in; what else there is, is refused as such.
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Ranges inside the public one that carry an IPv4 address or are no host's, and the best-known ones outside it.
const REFUSED_V6: [(Ipv6Net, &str); 11] = [
    (v6(0, 0, 0, 8), "unspecified, loopback or IPv4-mapped"),
    (v6(0x64, 0xff9b, 0, 96), "NAT64"),
    (v6(0x64, 0xff9b, 1, 48), "NAT64"),
    (v6(0x2001, 0, 0, 23), "Teredo or protocol assignment"),
    (v6(0x2001, 0xdb8, 0, 32), "documentation"),
    (v6(0x2002, 0, 0, 16), "6to4"),
    (v6(0x3fff, 0, 0, 20), "documentation"),
    (v6(0x5f00, 0, 0, 16), "segment routing"),
    (v6(0xfc00, 0, 0, 7), "private"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

impl Guard {
    pub(super) const fn new(loopback: Loopback, allowed: Vec<IpNet>) -> Self {
        Self { loopback, allowed }
    }

    /// `Err` holds what kind of address it is that may not be called.
    pub(super) fn check(&self, address: IpAddr) -> Result<(), &'static str> {
        if self.allowed.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        // `is_loopback` of an IPv6 address is `::1` alone: `::ffff:127.0.0.1` stays refused, it only exists to dodge such checks.
        if address.is_loopback() && self.loopback == Loopback::Allowed {
            return Ok(());
        }
        match address {
            IpAddr::V4(address) => refusal(&REFUSED_V4, |network| network.contains(&address)).map_or(Ok(()), Err),
            IpAddr::V6(address) => match refusal(&REFUSED_V6, |network| network.contains(&address)) {
                Some(kind) => Err(kind),
                None if PUBLIC_V6.contains(&address) => Ok(()),
                None => Err("reserved"),
            },
        }
    }
}

fn refusal<N>(ranges: &[(N, &'static str)], contains: impl Fn(&N) -> bool) -> Option<&'static str> {
    ranges
        .iter()
        .find(|(network, _)| contains(network))
        .map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, address: &str) -> Result<(), &'static str> {
        guard.check(address.parse().expect(address))
    }

    #[test]
    fn public_addresses_pass() {
        let guard = Guard::new(Loopback::Refused, Vec::new());
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert_eq!(check(&guard, address), Ok(()), "{address}");
        }
    }

    #[test]
    fn everything_inside_is_refused_in_whatever_dress_it_comes() {
        let guard = Guard::new(Loopback::Refused, Vec::new());
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "4000::1",
        ] {
            assert!(check(&guard, address).is_err(), "{address}");
        }
    }

    #[test]
    fn development_mode_lets_loopback_through_and_nothing_else() {
        let guard = Guard::new(Loopback::Allowed, Vec::new());
        assert_eq!(check(&guard, "127.0.0.1"), Ok(()));
        assert_eq!(check(&guard, "::1"), Ok(()));
        for address in ["::ffff:127.0.0.1", "0.0.0.0", "10.0.0.1", "169.254.169.254"] {
            assert!(check(&guard, address).is_err(), "{address}");
        }
    }

    #[test]
    fn a_listed_network_passes_and_its_neighbour_does_not() {
        let guard = Guard::new(
            Loopback::Refused,
            vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()],
        );
        assert_eq!(check(&guard, "10.1.2.3"), Ok(()));
        assert_eq!(check(&guard, "fd00:1::5"), Ok(()));
        assert_eq!(check(&guard, "10.2.0.1"), Err("private"));
        assert!(
            check(&guard, "::ffff:10.1.2.3").is_err(),
            "an IPv4 network lists no IPv6 address"
        );
    }
}
