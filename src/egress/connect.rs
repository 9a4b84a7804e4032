//! Opens connections: look up, judge, connect to what was judged, shake hands.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use url::Host;

use super::{
    connection::{ReceiverConnection, Stream},
    error_text,
    guard::{Guard, Target},
    resolver::Resolver,
    timing::Timeline,
};
use crate::model::{Outcome, Unreachable};

/// How many addresses of a name are tried. All are judged.
const ADDRESSES_MAX: usize = 8;

/// How long one address has before the next is tried in parallel (RFC 8305, section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Opens connections.
pub(super) struct Connector {
    pub guard: Guard,
    pub resolver: Resolver,
    pub tls: Arc<ClientConfig>,
    /// For TCP, and again for TLS; the lookup has its own timeout.
    pub timeout: Duration,
}

impl Connector {
    /// Opens a connection to a target whose literal address, if it has one, is already judged.
    pub async fn open(
        &self,
        target: &Target<'_>,
        course: &mut Timeline,
    ) -> Result<Box<ReceiverConnection>, Outcome> {
        let addresses = self.addresses(target, course).await?;
        let started = Instant::now();
        let (stream, address) = self.dial(&addresses).await?;
        course.phases.connect = Some(started.elapsed());
        course.address = Some(address);
        let stream = if target.https {
            let started = Instant::now();
            let stream = self.shake_hands(target, stream, address).await?;
            course.phases.tls = Some(started.elapsed());
            stream
        } else {
            Stream::Plain(stream)
        };
        ReceiverConnection::open(stream, address)
            .await
            .map_err(|e| reset(Some(address), error_text::broken(&e)))
    }

    /// Where to connect to: judged, of both families in turn, at most [`ADDRESSES_MAX`].
    async fn addresses(
        &self,
        target: &Target<'_>,
        course: &mut Timeline,
    ) -> Result<Vec<SocketAddr>, Outcome> {
        let name = match target.host {
            Host::Ipv4(ip) => return Ok(vec![SocketAddr::new(ip.into(), target.port)]),
            Host::Ipv6(ip) => return Ok(vec![SocketAddr::new(ip.into(), target.port)]),
            Host::Domain(name) => name,
        };
        let started = Instant::now();
        let resolved = self.resolved(name).await;
        course.phases.dns = Some(started.elapsed());
        let resolved = resolved?;
        self.guard.admit_resolved(name, &resolved)?;
        Ok(on_port(&resolved, target.port))
    }

    /// What a name resolves to, not judged yet.
    pub async fn resolved(&self, name: &str) -> Result<Vec<IpAddr>, Outcome> {
        let resolved = self.resolver.resolve(name).await;
        resolved.map_err(|detail| unreachable(Unreachable::Dns, None, detail))
    }

    /// Connects to one of a target's addresses, which have been judged.
    pub async fn dial_judged(
        &self,
        target: &Target<'_>,
        ips: &[IpAddr],
    ) -> Result<(TcpStream, SocketAddr), Outcome> {
        self.dial(&on_port(ips, target.port)).await
    }

    async fn dial(&self, addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), Outcome> {
        let only = if let [address] = addresses { Some(*address) } else { None };
        match timeout(self.timeout, first_to_connect(addresses)).await {
            Ok(Ok(connected)) => Ok(connected),
            Ok(Err(failures)) => {
                let errors: Vec<_> =
                    failures.iter().map(|(address, e)| error_text::connect(*address, e)).collect();
                Err(unreachable(Unreachable::Connect, only, errors.join("; ")))
            }
            Err(_) => {
                let detail = error_text::connect_timeout(addresses, self.timeout);
                Err(unreachable(Unreachable::Connect, only, detail))
            }
        }
    }

    pub async fn shake_hands(
        &self,
        target: &Target<'_>,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Result<Stream, Outcome> {
        let failed = |detail| unreachable(Unreachable::Tls, Some(address), detail);
        let name = server_name(&target.host)
            .ok_or_else(|| failed("the host name cannot appear in a certificate".to_owned()))?;
        let connector = TlsConnector::from(self.tls.clone());
        match timeout(self.timeout, connector.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream))),
            Ok(Err(e)) => Err(failed(error_text::handshake(&e))),
            Err(_) => Err(failed(format!("the TLS handshake did not finish within {:?}", self.timeout))),
        }
    }
}

/// The outcome of a connection that broke before an answer.
pub(super) fn reset(address: Option<SocketAddr>, detail: String) -> Outcome {
    unreachable(Unreachable::Reset, address, detail)
}

fn unreachable(how: Unreachable, address: Option<SocketAddr>, detail: String) -> Outcome {
    Outcome::Unreachable { how, address, detail }
}

/// The name that a certificate must have. The dot that may end a name in a URL is never part of it.
fn server_name(host: &Host<&str>) -> Option<ServerName<'static>> {
    match host {
        Host::Domain(name) => ServerName::try_from(name.trim_end_matches('.').to_owned()).ok(),
        Host::Ipv4(ip) => Some(ServerName::IpAddress((*ip).into())),
        Host::Ipv6(ip) => Some(ServerName::IpAddress((*ip).into())),
    }
}

/// Addresses to connect to, in the order in which they are tried.
fn on_port(ips: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    interleave(ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect())
}

/// Alternates the families, IPv4 first: clusters often have IPv6 addresses but no route for them.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.into_iter().partition(SocketAddr::is_ipv4);
    let longer = v4.len().max(v6.len());
    let alternating = (0..longer).flat_map(|i| [v4.get(i), v6.get(i)]);
    alternating.flatten().copied().take(ADDRESSES_MAX).collect()
}

type Failures = Vec<(SocketAddr, io::Error)>;

/// Tries the addresses one after the other, each [`STAGGER`] after the one before or at once when that failed.
async fn first_to_connect(addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), Failures> {
    let mut waiting = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut failures = Failures::new();
    running.extend(waiting.next().map(connect));
    loop {
        tokio::select! {
            biased;
            Some((address, connected)) = running.next() => match connected {
                Ok(stream) => return Ok((stream, address)),
                Err(e) => {
                    failures.push((address, e));
                    running.extend(waiting.next().map(connect));
                }
            },
            () = sleep(STAGGER), if waiting.len() > 0 => running.extend(waiting.next().map(connect)),
            else => return Err(failures),
        }
    }
}

async fn connect(address: SocketAddr) -> (SocketAddr, io::Result<TcpStream>) {
    let connected = TcpStream::connect(address).await.and_then(|stream| {
        // A request goes out in one or two writes; waiting to join them would cost 40 ms.
        stream.set_nodelay(true)?;
        Ok(stream)
    });
    (address, connected)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(n: u8) -> SocketAddr {
        (Ipv4Addr::new(192, 0, 2, n), 443).into()
    }

    fn v6(n: u16) -> SocketAddr {
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n), 443).into()
    }

    #[test]
    fn families_take_turns_and_addresses_are_bounded() {
        let check =
            |given: Vec<SocketAddr>, expected: Vec<SocketAddr>| assert_eq!(interleave(given), expected);
        check(vec![], vec![]);
        check(vec![v6(1), v6(2), v4(1)], vec![v4(1), v6(1), v6(2)]);
        check(vec![v4(1), v4(2)], vec![v4(1), v4(2)]);
        assert_eq!(interleave((0..100).map(v4).collect()).len(), ADDRESSES_MAX);
    }

    #[test]
    fn a_certificate_bears_the_name_without_its_last_dot() {
        let check = |host: Host<&str>, expected: &str| {
            assert_eq!(server_name(&host).map(|n| n.to_str().into_owned()).as_deref(), Some(expected));
        };
        check(Host::Domain("example.com."), "example.com");
        check(Host::Ipv4(Ipv4Addr::new(192, 0, 2, 1)), "192.0.2.1");
        check(Host::Ipv6(Ipv6Addr::LOCALHOST), "::1");
    }

    #[tokio::test]
    async fn every_address_that_failed_is_reported() {
        // Ports that were free a moment ago, so nobody listens there.
        let mut addresses = Vec::new();
        for _ in 0..2 {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            addresses.push(listener.local_addr().unwrap());
        }
        let failures = first_to_connect(&addresses).await.unwrap_err();
        assert_eq!(failures.iter().map(|(a, _)| *a).collect::<Vec<_>>(), addresses);
        assert!(first_to_connect(&[]).await.unwrap_err().is_empty());
    }
    #[tokio::test]
    async fn an_address_that_does_not_answer_is_overtaken_by_the_next() {
        // A listener that accepts nothing: when its queue is full, the system answers no more.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let silent = full.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok((_, connected)) = timeout(STAGGER, connect(silent)).await {
            queued.push(connected.unwrap());
            assert!(queued.len() < 4096, "the queue has no end");
        }
        let listening = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = listening.local_addr().unwrap();
        let connected = timeout(Duration::from_secs(20), first_to_connect(&[silent, second])).await;
        assert_eq!(connected.unwrap().unwrap().1, second);
    }
}
