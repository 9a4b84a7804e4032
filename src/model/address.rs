//! Judges where a request may go.
//!
//! A webhook's URL comes from a customer. A service that follows it blindly can be sent to an internal database or to
//! the machine's own credentials. So every address is judged: a literal address when the webhook is created
//! ([`check_url`]), and each address of a name at every connection ([`judge`]). The address judged is the one connected
//! to; a name alone never decides.
//!
//! An address that embeds another one (mapped, NAT64, 6to4 …) is unwrapped first. [`Networks`] opens exceptions, for
//! receivers in the same cluster and for tests.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// The longest URL of a webhook. Proxies and servers on the way seldom accept more.
pub const URL_BYTES_MAX: usize = 2_048;

/// Networks that are allowed although they would be refused: `ALLOWED_NETWORKS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// Whether `ip`, without unwrapping, is in one of them.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&ip))
    }
}

/// Why a text is not a list of networks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNetworks {
    /// It is neither an address nor a network.
    #[error("`{0}` is not a network; write it as 10.0.0.0/8 or fd00::/8, and separate several with commas")]
    Unreadable(String),
    /// It has bits after its prefix, so it is unclear what was meant.
    #[error("`{given}` has bits set after its prefix; write `{meant}` for the network, or the bare address")]
    HostBits {
        /// What was written.
        given: String,
        /// The network it is in.
        meant: IpNet,
    },
}

impl FromStr for Networks {
    type Err = BadNetworks;

    fn from_str(text: &str) -> Result<Self, BadNetworks> {
        let words = text.split(|c: char| c == ',' || c.is_whitespace());
        words.filter(|word| !word.is_empty()).map(network).collect::<Result<_, _>>().map(Self)
    }
}

fn network(text: &str) -> Result<IpNet, BadNetworks> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(ip.into());
    }
    let network: IpNet = text.parse().map_err(|_| BadNetworks::Unreadable(text.to_owned()))?;
    if network.trunc() == network {
        Ok(network)
    } else {
        Err(BadNetworks::HostBits { given: text.to_owned(), meant: network.trunc() })
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, network) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{network}")?;
        }
        Ok(())
    }
}

/// The network, and what it is for, that an address must not be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{network} ({name})")]
pub struct Forbidden {
    /// As `127.0.0.0/8`.
    pub network: &'static str,
    /// What it is: `loopback`.
    pub name: &'static str,
}

type Row<Net> = (Net, Forbidden);

const fn v4(ip: [u8; 4], prefix: u8, network: &'static str, name: &'static str) -> Row<Ipv4Net> {
    (Ipv4Net::new_assert(Ipv4Addr::from_octets(ip), prefix), Forbidden { network, name })
}

const fn v6(ip: [u16; 8], prefix: u8, network: &'static str, name: &'static str) -> Row<Ipv6Net> {
    (Ipv6Net::new_assert(Ipv6Addr::from_segments(ip), prefix), Forbidden { network, name })
}

/// Networks that no request goes to, by the IANA special-purpose registry and the metadata services of the clouds.
/// Single addresses come before the networks that hold them, so that they are named.
const FORBIDDEN_V4: [Row<Ipv4Net>; 18] = [
    v4([169, 254, 169, 254], 32, "169.254.169.254/32", "cloud metadata"),
    v4([168, 63, 129, 16], 32, "168.63.129.16/32", "cloud metadata of Azure"),
    v4([100, 100, 100, 200], 32, "100.100.100.200/32", "cloud metadata of Alibaba"),
    v4([0, 0, 0, 0], 8, "0.0.0.0/8", "this network"),
    v4([10, 0, 0, 0], 8, "10.0.0.0/8", "private"),
    v4([100, 64, 0, 0], 10, "100.64.0.0/10", "shared by carriers"),
    v4([127, 0, 0, 0], 8, "127.0.0.0/8", "loopback"),
    v4([169, 254, 0, 0], 16, "169.254.0.0/16", "link-local"),
    v4([172, 16, 0, 0], 12, "172.16.0.0/12", "private"),
    v4([192, 0, 0, 0], 24, "192.0.0.0/24", "protocol assignments"),
    v4([192, 0, 2, 0], 24, "192.0.2.0/24", "documentation"),
    v4([192, 88, 99, 0], 24, "192.88.99.0/24", "6to4 relays"),
    v4([192, 168, 0, 0], 16, "192.168.0.0/16", "private"),
    v4([198, 18, 0, 0], 15, "198.18.0.0/15", "benchmarking"),
    v4([198, 51, 100, 0], 24, "198.51.100.0/24", "documentation"),
    v4([203, 0, 113, 0], 24, "203.0.113.0/24", "documentation"),
    v4([224, 0, 0, 0], 4, "224.0.0.0/4", "multicast"),
    v4([240, 0, 0, 0], 4, "240.0.0.0/4", "reserved and broadcast"),
];

const FORBIDDEN_V6: [Row<Ipv6Net>; 14] = [
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "fd00:ec2::254/128", "cloud metadata"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, "::/128", "unspecified"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "::1/128", "loopback"),
    // Translators of this prefix are local and place the inner address as they like (RFC 8215), so it cannot be known.
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "64:ff9b:1::/48", "local NAT64"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "100::/64", "discard"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "2001::/32", "Teredo"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "2001::/23", "protocol assignments"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "2001:db8::/32", "documentation"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "3fff::/20", "documentation"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "5f00::/16", "segment routing"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "fc00::/7", "private"),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "fe80::/10", "link-local"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "fec0::/10", "site-local"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "ff00::/8", "multicast"),
];

/// Whether a request may go to `ip`: it is public, or it (or the address inside it) is in `allowed`.
pub fn judge(ip: IpAddr, allowed: &Networks) -> Result<(), Forbidden> {
    if allowed.contains(ip) {
        return Ok(());
    }
    match ip {
        IpAddr::V4(ip) => judge_v4(ip),
        IpAddr::V6(ip) => match inner(ip) {
            Some(inner) if allowed.contains(inner.into()) => Ok(()),
            Some(inner) => judge_v4(inner).and_then(|()| judge_v6(ip)),
            None => judge_v6(ip),
        },
    }
}

fn judge_v4(ip: Ipv4Addr) -> Result<(), Forbidden> {
    let row = FORBIDDEN_V4.iter().find(|(network, _)| network.contains(&ip));
    row.map_or(Ok(()), |(_, forbidden)| Err(*forbidden))
}

fn judge_v6(ip: Ipv6Addr) -> Result<(), Forbidden> {
    let row = FORBIDDEN_V6.iter().find(|(network, _)| network.contains(&ip));
    row.map_or(Ok(()), |(_, forbidden)| Err(*forbidden))
}

/// The IPv4 address that packets to `ip` end at: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4
/// (RFC 3056) or Teredo (RFC 4380, where it stands inverted).
fn inner(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let tail = || {
        let [.., a, b, c, d] = ip.octets();
        Ipv4Addr::new(a, b, c, d)
    };
    let o = ip.octets();
    match ip.segments() {
        // `::` and `::1` are special addresses, not compatible ones.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Some(tail()),
        [0x2002, ..] => Some(Ipv4Addr::new(o[2], o[3], o[4], o[5])),
        [0x2001, 0, ..] => Some(Ipv4Addr::from_bits(!tail().to_bits())),
        _ => None,
    }
}

/// Why a text cannot be a webhook's URL. None of the messages repeats the URL: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// Longer than [`URL_BYTES_MAX`].
    #[error("the URL has {0} bytes; at most {URL_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// It does not follow the URL standard.
    #[error("the URL cannot be read ({0}); write a full URL such as https://example.com/hooks")]
    Unreadable(url::ParseError),
    /// Another scheme than http and https.
    #[error("the URL starts with `{0}:`; only https: and http: are supported")]
    Scheme(String),
    /// `REQUIRE_HTTPS` is on.
    #[error("the URL must start with https:; this service does not deliver unencrypted (REQUIRE_HTTPS)")]
    NotHttps,
    /// It has a user name or a password.
    #[error("the URL contains a user name or password; use an `Authorization` header instead")]
    UserInfo,
    /// It names no host.
    #[error("the URL has no host; write a full URL such as https://example.com/hooks")]
    NoHost,
    /// Its port is 0, which is not valid.
    #[error("the URL's port is 0, which is not valid; leave it out or give the real port")]
    PortZero,
    /// Its host is a literal address that must not be connected to.
    #[error(
        "the URL's host {host} is in {forbidden}, a network that deliveries may not reach; use a public address, \
         or ask the operator to add the network to ALLOWED_NETWORKS"
    )]
    Forbidden {
        /// The address that the host's spelling stands for.
        host: IpAddr,
        /// The network it is in.
        forbidden: Forbidden,
    },
}

/// Reads a webhook's URL and judges what can be judged without a lookup.
///
/// The text is read as the WHATWG standard has it, so that `http://2130706433` or `http://0x7f.1` is seen as
/// the 127.0.0.1 that it is; what is connected to must come from the [`Url`] returned, never from the text.
pub fn check_url(text: &str, allowed: &Networks, require_https: bool) -> Result<Url, BadUrl> {
    if text.len() > URL_BYTES_MAX {
        return Err(BadUrl::TooLong(text.len()));
    }
    let url = Url::parse(text).map_err(BadUrl::Unreadable)?;
    match url.scheme() {
        "http" if require_https => return Err(BadUrl::NotHttps),
        "https" | "http" => {}
        other => return Err(BadUrl::Scheme(other.to_owned())),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadUrl::UserInfo);
    }
    if url.port() == Some(0) {
        return Err(BadUrl::PortZero);
    }
    let literal: Option<IpAddr> = match url.host() {
        None | Some(Host::Domain("")) => return Err(BadUrl::NoHost),
        Some(Host::Domain(_)) => None,
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
    };
    if let Some(host) = literal {
        judge(host, allowed).map_err(|forbidden| BadUrl::Forbidden { host, forbidden })?;
    }
    Ok(url)
}

/// A warning for a host name that usually resolves to an address refused later. It refuses nothing: the address
/// decides.
#[must_use]
pub fn hint(url: &Url) -> Option<String> {
    const LOCAL: [&str; 6] = ["localhost", "local", "internal", "svc", "cluster.local", "home.arpa"];
    let name = url.domain()?.trim_end_matches('.');
    let local = |end: &str| name == end || name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'));
    LOCAL.into_iter().find(|end| local(end)).map(|end| {
        format!(
            "names under `{end}` usually resolve to addresses that are refused; \
             deliveries need their network in ALLOWED_NETWORKS"
        )
    })
}

#[cfg(test)]
mod tests;
