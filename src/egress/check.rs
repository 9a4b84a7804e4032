//! Checks a receiver without sending a request: the steps of a connection, reported one by one.
//!
//! The rules are those of a request: the same guard, the same resolver, the same handshake. If one address of a name is
//! refused, nothing is connected to.

use std::{net::IpAddr, time::Duration};

use chrono::{DateTime, Utc};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use url::{Host, Url};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ReceiverClient, connect::Connector, connection::Stream, guard::Target};
use crate::model::{Outcome, address::judge, why};

/// The longest that a check takes.
pub const LOOK_TIMEOUT: Duration = Duration::from_secs(15);
/// The most addresses of a name that are reported.
pub const ADDRESSES_REPORTED_MAX: usize = 32;
/// The most characters of an issuer's name that are reported.
const ISSUER_CHARACTERS_MAX: usize = 200;

/// The result of a check.
#[derive(Clone, Debug, Default)]
pub struct Looked {
    /// What the host resolves to.
    pub addresses: Vec<Address>,
    /// The certificate, or why none was accepted; absent where there was no handshake.
    pub tls: Option<Result<Certificate, String>>,
    /// Why a delivery would fail, in a sentence.
    pub error: Option<String>,
}

/// An address of the host.
#[derive(Clone, Debug)]
pub struct Address {
    pub ip: IpAddr,
    /// The forbidden network that it is in, if any.
    pub forbidden: Option<String>,
}

/// A certificate that was accepted.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub expires_at: Option<DateTime<Utc>>,
    /// Who issued it.
    pub issuer: Option<String>,
}

impl ReceiverClient {
    /// Checks where a URL leads.
    pub async fn look(&self, url: &Url) -> Looked {
        let mut looked = Looked::default();
        let steps = self.connector().look(url, &mut looked);
        let ended = timeout(LOOK_TIMEOUT, steps).await;
        looked.error = match ended {
            Ok(Ok(())) => None,
            Ok(Err(outcome)) => Some(why::of_outcome(&outcome).sentence),
            Err(_) => Some(format!("the check took longer than {LOOK_TIMEOUT:?}")),
        };
        looked
    }
}

impl Connector {
    async fn look(&self, url: &Url, looked: &mut Looked) -> Result<(), Outcome> {
        let target = self.guard.admit(url)?;
        let (ips, name) = match target.host {
            Host::Ipv4(ip) => (vec![IpAddr::from(ip)], None),
            Host::Ipv6(ip) => (vec![IpAddr::from(ip)], None),
            Host::Domain(name) => (self.resolved(name).await?, Some(name)),
        };
        looked.addresses = ips.iter().take(ADDRESSES_REPORTED_MAX).map(|ip| self.judged(*ip)).collect();
        if let Some(name) = name {
            self.guard.admit_resolved(name, &ips)?;
        }
        if !target.https {
            return Ok(());
        }
        let tls = self.certificate(&target, &ips).await;
        looked.tls = match &tls {
            Ok(certificate) => Some(Ok(certificate.clone())),
            Err(outcome) if is_of_tls(outcome) => Some(Err(why::of_outcome(outcome).sentence)),
            Err(_) => None,
        };
        tls.map(drop)
    }

    fn judged(&self, ip: IpAddr) -> Address {
        let forbidden = judge(ip, &self.guard.allowed).err();
        Address { ip, forbidden: forbidden.map(|forbidden| forbidden.to_string()) }
    }

    /// Connects, shakes hands, reads the certificate, and disconnects.
    async fn certificate(&self, target: &Target<'_>, ips: &[IpAddr]) -> Result<Certificate, Outcome> {
        let (stream, address) = self.dial_judged(target, ips).await?;
        match self.shake_hands(target, stream, address).await? {
            Stream::Tls(stream) => Ok(read(&stream)),
            Stream::Plain(_) => Ok(Certificate { expires_at: None, issuer: None }),
        }
    }
}

fn is_of_tls(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Unreachable { how: crate::model::Unreachable::Tls, .. })
}

fn read(stream: &TlsStream<tokio::net::TcpStream>) -> Certificate {
    let (_, session) = stream.get_ref();
    let der = session.peer_certificates().and_then(|chain| chain.first());
    let parsed = der.and_then(|der| X509Certificate::from_der(der).ok());
    let Some((_, certificate)) = parsed else { return Certificate { expires_at: None, issuer: None } };
    let issuer: String = certificate.issuer().to_string().chars().take(ISSUER_CHARACTERS_MAX).collect();
    Certificate {
        expires_at: DateTime::from_timestamp(certificate.validity().not_after.timestamp(), 0),
        issuer: Some(issuer),
    }
}
