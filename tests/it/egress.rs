//! What comes of a request, for everything that receivers and networks do.

mod addresses;
mod connections;
mod outcomes;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use url::Url;
use xtwebhooks::{
    egress::{Config, DnsServers, ReceiverClient},
    model::{AwaitedPhase, Exchange, Outcome, OutcomeClass, Unreachable},
};

use crate::support::{
    dns::{Dns, SILENT},
    receiver::{Answer, Receiver},
    tls::Authority,
};

/// Enough for everything that is not meant to time out.
const AMPLE: Duration = Duration::from_secs(20);
/// For what is.
const SHORT: Duration = Duration::from_millis(300);

/// What a row expects; texts are parts of the detail.
#[derive(Debug)]
enum Expected {
    Outcome(Outcome),
    Unreachable(Unreachable, &'static str),
    Cut(u16, &'static str),
    TimedOut(AwaitedPhase),
    Blocked(&'static str),
    Fault(&'static str),
}

/// Settings that let requests go to the receivers of this file.
fn local() -> Config {
    Config { allowed_networks: "127.0.0.0/8,::1".parse().expect("networks"), ..Config::default() }
}

fn client(config: &Config) -> ReceiverClient {
    ReceiverClient::new(config).expect("the settings can be followed")
}

fn asking(dns: &Dns, config: Config) -> Config {
    Config { dns_servers: DnsServers(vec![dns.address()]), ..config }
}

async fn post(client: &ReceiverClient, url: &str, timeout: Duration) -> Exchange {
    let url = Url::parse(url).expect("the test's URL is one");
    client.post(&url, HeaderMap::new(), Bytes::from_static(b"{}"), timeout).await
}

#[track_caller]
fn check(row: &str, exchange: &Exchange, expected: &Expected) {
    let met = match (&exchange.outcome, expected) {
        (found, Expected::Outcome(expected)) => found == expected,
        (Outcome::Unreachable { how, detail, .. }, Expected::Unreachable(expected, text)) => {
            how == expected && detail.contains(text)
        }
        (Outcome::Cut { status, detail }, Expected::Cut(expected, text)) => {
            status == expected && detail.contains(text)
        }
        (Outcome::TimedOut { waiting, .. }, Expected::TimedOut(expected)) => waiting == expected,
        (Outcome::Blocked { network, .. }, Expected::Blocked(text)) => network.contains(text),
        (Outcome::Fault { reason }, Expected::Fault(text)) => reason.contains(text),
        _ => false,
    };
    assert!(met, "{row}: {expected:?} was expected, not {:?}", exchange.outcome);
}
