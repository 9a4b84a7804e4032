//! Resolves names to addresses: both address families, cached for their time to live, with a timeout of its own.
//!
//! The system's `getaddrinfo` would occupy a thread for each lookup and cache nothing; receivers whose name servers do
//! not answer would then cost the others their threads.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    },
    net::{NetError, runtime::TokioRuntimeProvider},
    system_conf::read_system_conf,
};

use super::{Config, DnsServers, Error, config::DNS_PORT};

/// How long one query to one name server may take, and how often it is repeated.
const DNS_TRY: Duration = Duration::from_secs(2);
const DNS_REPEATS: usize = 1;
/// The longest that a lookup may take, over all servers and search domains.
const DNS_TIMEOUT: Duration = Duration::from_secs(5);
/// How many answers are kept.
const DNS_CACHE_ANSWERS_MAX: u64 = 4096;
/// How long an answer is kept at most: a receiver that moves is found at its new address within this time.
const DNS_CACHE_AGE_MAX: Duration = Duration::from_mins(5);
/// How long "there is no such name" is kept at most.
const DNS_CACHE_NEGATIVE_AGE_MAX: Duration = Duration::from_secs(30);

/// Looks names up.
#[derive(Clone)]
pub(super) struct Resolver(TokioResolver);

impl Resolver {
    pub fn new(config: &Config) -> Result<Self, Error> {
        let DnsServers(servers) = &config.dns_servers;
        let (from, mut options) =
            if servers.is_empty() { system() } else { (explicit(servers), ResolverOpts::default()) };
        bound(&mut options);
        options.use_hosts_file = if servers.is_empty() { ResolveHosts::Always } else { ResolveHosts::Never };
        let builder = TokioResolver::builder_with_config(from, TokioRuntimeProvider::default());
        builder.with_options(options).build().map(Self).map_err(|e| Error::Resolver(e.to_string()))
    }

    /// The addresses of a name, of both families, or why there are none.
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        let Ok(found) = tokio::time::timeout(DNS_TIMEOUT, self.0.lookup_ip(name)).await else {
            return Err(format!("the name servers did not answer for {name} within {DNS_TIMEOUT:?}"));
        };
        match found {
            Ok(found) if found.iter().next().is_none() => Err(format!("{name} has no address")),
            Ok(found) => Ok(found.iter().collect()),
            Err(e) if e.is_nx_domain() => Err(format!("there is no host named {name}")),
            Err(e) if e.is_no_records_found() => Err(format!("{name} has no address")),
            Err(NetError::Timeout) => Err(format!("the name servers did not answer for {name}")),
            Err(e) => Err(format!("{name} could not be looked up: {e}")),
        }
    }
}

fn bound(options: &mut ResolverOpts) {
    options.timeout = DNS_TRY;
    options.attempts = DNS_REPEATS;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = DNS_CACHE_ANSWERS_MAX;
    options.positive_max_ttl = Some(DNS_CACHE_AGE_MAX);
    options.negative_max_ttl = Some(DNS_CACHE_NEGATIVE_AGE_MAX);
}

/// What `/etc/resolv.conf` says. If it names no server, the one on this machine is used (resolv.conf(5)).
fn system() -> (ResolverConfig, ResolverOpts) {
    read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "the system configures no DNS server; using the one on this machine");
        (explicit(&[(Ipv4Addr::LOCALHOST, DNS_PORT).into()]), ResolverOpts::default())
    })
}

fn explicit(servers: &[SocketAddr]) -> ResolverConfig {
    ResolverConfig::from_name_servers(servers.iter().map(|server| name_server(*server)).collect())
}

fn name_server(address: SocketAddr) -> NameServerConfig {
    let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
    udp.port = address.port();
    tcp.port = address.port();
    // An authority's negative answer is final: asking the next server would only cost time.
    NameServerConfig::new(address.ip(), true, vec![udp, tcp])
}
