//! The listener: limits the number of connections and the time to read a request.
//!
//! A client that sends its headers byte by byte, or nothing, is disconnected after [`HEADERS_WITHIN`]; a client that does
//! not read its response, after [`TAKES_WITHIN`]. Until then it holds one of `API_CONNECTIONS_MAX` and nothing else. On
//! shutdown, running requests finish.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service as _;

use super::{access::Peer, state::Config};

/// How long a client may take for the head of a request.
pub const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may not read its response before it is disconnected.
pub const TAKES_WITHIN: Duration = Duration::from_secs(30);
/// How long to wait after the system refused a connection, for example because it has no free descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A bound port, before it answers.
#[derive(Debug)]
pub struct ApiServer {
    listener: TcpListener,
    address: SocketAddr,
    connections: Arc<Semaphore>,
}

impl ApiServer {
    /// Binds the port.
    ///
    /// # Errors
    /// If the port cannot be bound.
    pub async fn bind(config: &Config) -> std::io::Result<Self> {
        let listener = TcpListener::bind(config.api_address).await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(Semaphore::new(config.api_connections_max as usize));
        Ok(Self { listener, address, connections })
    }

    /// The bound address, which has the port if port 0 was requested.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `end`, then accepts no more connections and waits for running requests.
    pub async fn serve(self, router: Router, end: impl Future<Output = ()> + Send) {
        let graceful = GracefulShutdown::new();
        let mut end = std::pin::pin!(end);
        loop {
            let taken = async {
                let permit = Arc::clone(&self.connections).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                taken = taken => taken,
                () = &mut end => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection to the API could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let mut stream = TimeoutStream::new(stream);
            stream.set_write_timeout(Some(TAKES_WITHIN));
            // Responses are small and complete: waiting to fill a packet only delays them.
            let _ = stream.get_ref().set_nodelay(true);
            let router = router.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(Peer(peer.ip()));
                router.clone().call(request)
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADERS_WITHIN)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(Box::pin(stream)), service);
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // A client that disconnects is not an error of the service.
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "a connection to the API has ended");
                }
                drop(permit);
            });
        }
        graceful.shutdown().await;
    }
}
