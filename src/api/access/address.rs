//! The address of a caller: the peer of the connection, or the address that a trusted proxy reports.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;

use crate::model::address::Networks;

/// The header that proxies write.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// The prefix length of an IPv6 network: a host that has one address of it can use all of them.
const IPV6_NETWORK_BITS: u32 = 64;

/// The address of the caller: from the right, the first that is not a trusted proxy. Anything to the left of it may
/// have been written by anyone.
pub(super) fn caller(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut found = peer.to_canonical();
    let lines = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = lines.flat_map(|line| line.split(',')).collect();
    for hop in hops.iter().rev() {
        if !trusted.contains(found) {
            break;
        }
        let Some(address) = address(hop.trim()) else { break };
        found = address;
    }
    found
}

/// An address, possibly with a port, as some proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let found = bare.parse::<IpAddr>().ok();
    found.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip())).map(|ip| ip.to_canonical())
}

/// The key by which failures are counted: the address, or for IPv6 its network.
pub(super) fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let network = u128::MAX << (u128::BITS - IPV6_NETWORK_BITS);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & network))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_the_rightmost_that_is_no_trusted_proxy() {
        let check = |peer: &str, lines: &[&'static str], trusted: &str, expected: &str| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, line.parse().unwrap());
            }
            let found = caller(peer.parse().unwrap(), &headers, &trusted.parse().unwrap());
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?} {trusted}");
        };
        // Nobody is believed by default.
        check("203.0.113.9", &["198.51.100.1"], "", "203.0.113.9");
        check("10.0.0.1", &["198.51.100.1"], "", "10.0.0.1");
        check("10.0.0.1", &["198.51.100.1"], "10.0.0.0/8", "198.51.100.1");
        // What the caller wrote itself stands further left.
        check("10.0.0.1", &["127.0.0.1, 198.51.100.1"], "10.0.0.0/8", "198.51.100.1");
        check("10.0.0.1", &["127.0.0.1", "198.51.100.1, 10.0.0.2"], "10.0.0.0/8", "198.51.100.1");
        check("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.0/8", "10.0.0.3");
        check("10.0.0.1", &["198.51.100.1:4711"], "10.0.0.0/8", "198.51.100.1");
        check("10.0.0.1", &["[2001:db8::1]:4711"], "10.0.0.0/8", "2001:db8::1");
        check("::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "10.0.0.0/8", "198.51.100.1");
        // What is no address ends it with the last that was said by somebody trusted.
        check("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.0/8", "10.0.0.1");
        check("10.0.0.1", &[], "10.0.0.0/8", "10.0.0.1");
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_counted_together() {
        let counted = |text: &str| counted(text.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:1:2:3::4"), "2001:db8:1:2::");
        assert_eq!(counted("198.51.100.1"), "198.51.100.1");
    }
}
