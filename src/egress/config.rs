//! The settings of the connections to receivers.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use clap::ArgAction;

use crate::model::address::Networks;

/// The port of a name server that is given without one.
pub(super) const DNS_PORT: u16 = 53;

/// Where requests may go and how long they may take.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Receivers")]
#[group(skip)]
pub struct Config {
    /// Networks in which receivers are allowed although they are private, loopback or reserved: `10.0.0.0/8,fd00::/8`
    #[arg(long, env = "ALLOWED_NETWORKS", default_value = "", hide_default_value = true)]
    pub allowed_networks: Networks,
    /// Refuse receivers without TLS, when a webhook is created and at each request
    #[arg(
        long, env = "REQUIRE_HTTPS", default_value_t = false, default_missing_value = "true", num_args = 0..=1,
        require_equals = true, action = ArgAction::Set
    )]
    pub require_https: bool,
    /// Name servers to use instead of the system's: `10.0.0.2,[fd00::2]:5353`; the hosts file is then ignored
    #[arg(long, env = "DNS_SERVERS", default_value = "", hide_default_value = true)]
    pub dns_servers: DnsServers,
    /// PEM file of certificate authorities to trust in addition to the system's
    #[arg(long, env = "EXTRA_CA_FILE")]
    pub extra_ca_file: Option<PathBuf>,
    /// Maximum time that an attempt may take, whatever timeout its webhook sets
    #[arg(long, env = "TIMEOUT_MAX", default_value = "60s", value_parser = humantime::parse_duration)]
    pub timeout_max: Duration,
    /// Time limit for the TCP connection, and again for the TLS handshake
    #[arg(long, env = "CONNECT_TIMEOUT", default_value = "5s", value_parser = humantime::parse_duration)]
    pub connect_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allowed_networks: Networks::default(),
            require_https: false,
            dns_servers: DnsServers::default(),
            extra_ca_file: None,
            timeout_max: Duration::from_mins(1),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Name servers: addresses, with port 53 unless another is given. None at all stands for the system's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsServers(pub Vec<SocketAddr>);

/// Why a text is no name server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the address of a name server; write `10.0.0.2`, `10.0.0.2:5353` or `[fd00::2]:5353`")]
pub struct BadDnsServer(String);

impl FromStr for DnsServers {
    type Err = BadDnsServer;

    fn from_str(text: &str) -> Result<Self, BadDnsServer> {
        let words = text.split(|c: char| c == ',' || c.is_whitespace());
        words.filter(|word| !word.is_empty()).map(dns_server).collect::<Result<_, _>>().map(Self)
    }
}

fn dns_server(text: &str) -> Result<SocketAddr, BadDnsServer> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
    bare.or_else(|_| text.parse()).map_err(|_| BadDnsServer(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn a_name_server_is_an_address_with_or_without_a_port() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let servers = text.parse::<DnsServers>().ok();
            let servers = servers.map(|s| s.0.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(servers, expected.map(|e| e.iter().map(ToString::to_string).collect()), "{text}");
        };
        // A variable that is set to nothing is as good as one that is not set.
        check("", Some(&[]));
        check("10.0.0.2", Some(&["10.0.0.2:53"]));
        check(" 10.0.0.2:5353, fd00::2", Some(&["10.0.0.2:5353", "[fd00::2]:53"]));
        check("[fd00::2]:5353", Some(&["[fd00::2]:5353"]));
        check("10.0.0.2,dns.example", None);
    }

    #[test]
    fn the_defaults_of_the_command_line_are_those_of_the_code() {
        let parsed = Command::try_parse_from(["xtwebhooks"]).unwrap().config;
        assert_eq!(format!("{parsed:?}"), format!("{:?}", Config::default()));
    }

    #[test]
    fn settings_are_read_as_they_are_documented() {
        let arguments = [
            "xtwebhooks",
            "--allowed-networks=10.0.0.0/8,fd00::/8",
            "--require-https",
            "--dns-servers=10.0.0.2,[fd00::2]:5353",
            "--timeout-max=90s",
            "--connect-timeout=250ms",
        ];
        let config = Command::try_parse_from(arguments).unwrap().config;
        assert!(config.allowed_networks.contains(IpAddr::from([10, 1, 2, 3])));
        assert!(config.require_https);
        assert_eq!(config.dns_servers.0.len(), 2);
        assert_eq!(config.timeout_max, Duration::from_secs(90));
        assert_eq!(config.connect_timeout, Duration::from_millis(250));
        assert!(Command::try_parse_from(["xtwebhooks", "--timeout-max=soon"]).is_err());
    }
}
