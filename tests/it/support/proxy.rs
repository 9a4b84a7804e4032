//! A TCP proxy that makes trouble on purpose: between us and a server, without touching the server's others.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast, watch},
    task::JoinHandle,
};

/// How many injected texts a connection may lag behind.
const INJECTED_MAX: usize = 16;

/// Forwards bytes to one server, as long as it is told to.
pub struct Proxy {
    address: SocketAddr,
    links: Links,
    accepting: JoinHandle<()>,
}

#[derive(Clone)]
struct Links {
    is_held: Arc<watch::Sender<bool>>,
    cuts: Arc<watch::Sender<u64>>,
    injected: broadcast::Sender<Vec<u8>>,
}

impl Proxy {
    /// Listens on a port of its own and forwards to `server`, `host:port`.
    pub async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let links = Links {
            is_held: Arc::new(watch::Sender::new(false)),
            cuts: Arc::new(watch::Sender::new(0)),
            injected: broadcast::channel(INJECTED_MAX).0,
        };
        let (server, accepted) = (server.to_owned(), links.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(accepted.clone().join(client, server.clone()));
            }
        });
        Self { address, links, accepting }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection that stands; new ones are welcome.
    pub fn cut(&self) {
        self.links.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Lets no byte through in either direction, and tells nobody. New connections are accepted, and held too.
    pub fn hold(&self) {
        self.links.is_held.send_replace(true);
    }

    /// Lets everything through that was held.
    pub fn resume(&self) {
        self.links.is_held.send_replace(false);
    }

    /// Speaks to every client as if it were the server. To be used while nothing else is being said.
    pub fn inject(&self, bytes: &[u8]) {
        self.links.injected.send(bytes.to_vec()).expect("somebody connected");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Links {
    async fn join(self, client: TcpStream, server: String) {
        let mut cuts = self.cuts.subscribe();
        cuts.mark_unchanged();
        let injected = self.injected.subscribe();
        let Ok(server) = TcpStream::connect(server).await else { return };
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let nothing = broadcast::channel(1).1;
        tokio::select! {
            () = self.pass(from_client, to_server, nothing) => {}
            () = self.pass(from_server, to_client, injected) => {}
            _ = cuts.changed() => {}
        }
    }

    async fn pass(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        mut injected: broadcast::Receiver<Vec<u8>>,
    ) {
        let (mut held, mut buffer) = (self.is_held.subscribe(), vec![0; 64 * 1024]);
        loop {
            let bytes = tokio::select! {
                read = from.read(&mut buffer) => match read {
                    Ok(count) if count > 0 => &buffer[..count],
                    _ => return,
                },
                Ok(bytes) = injected.recv() => &bytes.clone(),
            };
            if held.wait_for(|is_held| !is_held).await.is_err() || to.write_all(bytes).await.is_err() {
                return;
            }
        }
    }
}
