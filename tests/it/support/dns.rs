//! A name server that knows what a test tells it, and nothing else.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_resolver::proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SOA},
};
use tokio::{net::UdpSocket, task::AbortHandle};

/// Answers on a free UDP port of 127.0.0.1 until it is dropped.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Zone>,
    answering: AbortHandle,
}

#[derive(Default)]
struct Zone {
    names: Mutex<HashMap<String, Vec<IpAddr>>>,
    questions: Mutex<Vec<String>>,
}

/// How long an answer may be kept, in seconds.
const TTL: u32 = 60;

/// The name that is never answered for.
pub const SILENT: &str = "silent.test";

impl Dns {
    /// Knows these names; there is no other.
    pub async fn start(names: &[(&str, &[&str])]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
        let address = socket.local_addr().expect("a bound socket has an address");
        let zone = Arc::<Zone>::default();
        let answering = tokio::spawn(answer(socket, zone.clone())).abort_handle();
        let dns = Self { address, zone, answering };
        for (name, addresses) in names {
            dns.set(name, addresses);
        }
        dns
    }

    /// Where it listens: for `DNS_SERVERS`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on a name has these addresses, of either family; none at all means that the name exists without.
    pub fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|ip| ip.parse().expect("an address")).collect();
        self.zone.names.lock().expect("no test panics within").insert(name.to_owned(), addresses);
    }

    /// How often a name was asked for, whatever the type.
    pub fn questions(&self, name: &str) -> usize {
        let questions = self.zone.questions.lock().expect("no test panics within");
        questions.iter().filter(|asked| *asked == name).count()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

async fn answer(socket: UdpSocket, zone: Arc<Zone>) {
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let reply = Message::from_vec(&buffer[..length]).ok().and_then(|question| zone.reply(&question));
        if let Some(reply) = reply {
            let _ = socket.send_to(&reply, from).await;
        }
    }
}

impl Zone {
    fn reply(&self, question: &Message) -> Option<Vec<u8>> {
        let query = question.queries.first()?.clone();
        let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
        self.questions.lock().expect("no test panics within").push(name.clone());
        if name == SILENT {
            return None;
        }
        let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        match self.names.lock().expect("no test panics within").get(&name) {
            None => reply.metadata.response_code = ResponseCode::NXDomain,
            Some(addresses) => {
                let matching = addresses.iter().filter(|ip| record_type(**ip) == query.query_type());
                let records =
                    matching.map(|ip| Record::from_rdata(query.name().clone(), TTL, RData::from(*ip)));
                reply.add_answers(records);
            }
        }
        if reply.answers.is_empty() {
            // Only with it may a "no" be kept (RFC 2308).
            let soa = SOA::new(Name::root(), Name::root(), 1, 60, 60, 60, TTL);
            reply.add_authority(Record::from_rdata(Name::root(), TTL, RData::SOA(soa)));
        }
        reply.add_query(query);
        reply.to_vec().ok()
    }
}

fn record_type(ip: IpAddr) -> RecordType {
    if ip.is_ipv4() { RecordType::A } else { RecordType::AAAA }
}
