//! Where requests may go.
//!
//! A webhook's URL comes from outside, so it may name anything this process can reach: a metadata service, a
//! neighbour's database, the loopback interface. Everything here is judged at every request, before the connection is
//! opened; no verdict is kept from the webhook's creation.

use std::net::IpAddr;

use url::{Host, Url};

use crate::model::{
    Outcome,
    address::{Networks, judge},
};

/// The target of a URL, admitted as far as can be judged without a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target<'u> {
    /// Whether TLS is spoken.
    pub https: bool,
    /// A literal that has been judged, or a name whose addresses have not been yet.
    pub host: Host<&'u str>,
    /// The port, given or implied.
    pub port: u16,
}

#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub allowed: Networks,
    pub require_https: bool,
}

impl Guard {
    /// The target of a URL, or the outcome that ends the attempt before it began.
    pub fn admit<'u>(&self, url: &'u Url) -> Result<Target<'u>, Outcome> {
        let https = match url.scheme() {
            "https" => true,
            "http" if self.require_https => return Err(fault("this service sends to https:// only")),
            "http" => false,
            _ => return Err(fault("the URL is neither http:// nor https://")),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("the URL contains a user name or password; use a header instead"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(fault("the URL has no host"));
        };
        if port == 0 {
            return Err(fault("the URL's port is 0"));
        }
        match host {
            Host::Ipv4(ip) => self.judge(ip.into(), || ip.to_string())?,
            Host::Ipv6(ip) => self.judge(ip.into(), || ip.to_string())?,
            Host::Domain("" | ".") => return Err(fault("the URL has no host")),
            Host::Domain(_) => {}
        }
        Ok(Target { https, host, port })
    }

    /// Judges what a name resolved to.
    ///
    /// One forbidden address rejects the name: an attacker who answers with a public and a private address would
    /// otherwise only have to make the public one unreachable. The outcome names the host, not the address, because
    /// what internal names resolve to must not be disclosed.
    pub fn admit_resolved(&self, name: &str, addresses: &[IpAddr]) -> Result<(), Outcome> {
        addresses.iter().try_for_each(|ip| self.judge(*ip, || name.to_owned()))
    }

    fn judge(&self, ip: IpAddr, target: impl FnOnce() -> String) -> Result<(), Outcome> {
        judge(ip, &self.allowed)
            .map_err(|forbidden| Outcome::Blocked { target: target(), network: forbidden.to_string() })
    }
}

fn fault(reason: &str) -> Outcome {
    Outcome::Fault { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OutcomeClass;

    fn guard(allowed: &str, require_https: bool) -> Guard {
        Guard { allowed: allowed.parse().unwrap(), require_https }
    }

    #[test]
    fn a_url_is_admitted_or_refused_before_any_look_up() {
        let check = |url: &str, expected: Result<(&str, u16), OutcomeClass>| {
            let url = Url::parse(url).unwrap();
            let found = guard("", false).admit(&url).map(|t| (t.host.to_string(), t.port));
            assert_eq!(
                found.as_ref().map(|(h, p)| (h.as_str(), *p)).map_err(Outcome::class),
                expected,
                "{url}"
            );
        };
        let (blocked, fault) = (Err(OutcomeClass::Blocked), Err(OutcomeClass::Fault));
        check("https://example.com/x", Ok(("example.com", 443)));
        check("http://example.com:8080", Ok(("example.com", 8080)));
        check("https://93.184.215.14/", Ok(("93.184.215.14", 443)));
        // A name is admitted here; its addresses are judged when they are known.
        check("http://localhost/", Ok(("localhost", 80)));
        check("http://127.0.0.1/", blocked);
        check("http://2130706433/", blocked);
        check("http://0x7f.1/", blocked);
        check("http://0177.0.0.1/", blocked);
        check("http://127.1/", blocked);
        check("http://127.0.0.1./", blocked);
        check("http://１２７.０.０.１/", blocked);
        check("http://[::1]/", blocked);
        check("http://[::ffff:10.0.0.1]/", blocked);
        check("http://[::ffff:7f00:1]/", blocked);
        check("http://[64:ff9b::10.0.0.1]/", blocked);
        check("http://[2002:0a00:0001::]/", blocked);
        check("ftp://example.com/", fault);
        check("file:///etc/passwd", fault);
        check("http://user@example.com/", fault);
        check("http://:secret@example.com/", fault);
        check("http://example.com:0/", fault);
    }

    #[test]
    fn https_can_be_required() {
        let admit = |url: &str| guard("", true).admit(&Url::parse(url).unwrap()).is_ok();
        assert!(admit("https://example.com/"));
        assert!(!admit("http://example.com/"));
    }

    #[test]
    fn an_allowed_network_opens_what_is_otherwise_refused() {
        let url = Url::parse("http://127.0.0.1:9/").unwrap();
        assert!(guard("127.0.0.0/8", false).admit(&url).is_ok());
        assert!(guard("10.0.0.0/8", false).admit(&url).is_err());
    }

    #[test]
    fn one_forbidden_address_condemns_the_name_and_is_not_told() {
        let public = IpAddr::from([93, 184, 215, 14]);
        let private = IpAddr::from([10, 0, 0, 1]);
        let guard = guard("", false);
        assert_eq!(guard.admit_resolved("a.example", &[public]), Ok(()));
        let refused = guard.admit_resolved("a.example", &[public, private]).unwrap_err();
        let Outcome::Blocked { target, network } = refused else { panic!("{refused:?}") };
        assert_eq!(target, "a.example");
        assert!(network.starts_with("10.0.0.0/8"), "{network}");
    }
}
