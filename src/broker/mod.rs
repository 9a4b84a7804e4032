//! The boundary to RabbitMQ, and the only module that knows AMQP.
//!
//! Events come in here; jobs go out and come back. A job is a hint that may be lost, an event must not be lost.
//! Guarantees: what is published is persistent, mandatory and confirmed, and its fate is known within
//! [`CONFIRM_TIMEOUT`]; what is consumed is redelivered until it is settled; connections reopen by themselves, with
//! everything declared before they are used; this service never requeues a message.
//!
//! Begin with `topology.rs`, the table of what exists; then read `connection.rs`, which everything else uses.

mod acks;
mod config;
mod confirms;
mod connection;
mod consumer;
mod declare;
mod error;
mod headers;
pub(crate) mod inspect;
pub mod jobs;
mod outgoing;
mod publisher;
mod publishing;
pub mod topology;
mod version;
pub mod watermarks;
mod window;

use std::{sync::Arc, time::Instant};

use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use config::{CONFIRM_TIMEOUT, Config};
pub use consumer::{Consumer, Message, Receipt};
pub use error::Error;
pub(crate) use headers::CONTENT_TYPE_KEPT;
pub use headers::{Death, Headers};
pub use outgoing::{Destination, Outgoing};
pub use publisher::Fate;
pub(crate) use publisher::Publisher;
pub use topology::{Queue, Topology};
pub(crate) use window::Window;
pub use window::{STALLED_AFTER, WindowRoom};

use crate::{
    shutdown::Shutdown,
    telemetry::{Metrics, labels::ConnectionKind, metrics::BrokerMetrics},
};
use connection::{CLOSE_TIMEOUT, Declares, LinkState, ManagedConnection, Shared};
use publishing::Publishing;

/// The two kept connections to RabbitMQ. Cheap to clone.
#[derive(Clone)]
pub struct Broker {
    inner: Arc<BrokerInner>,
    tasks: TaskTracker,
}

/// What consumers, publishers and windows share.
struct BrokerInner {
    shared: Arc<Shared>,
    consume: ManagedConnection,
    publish: ManagedConnection,
    shutdown: Shutdown,
    /// The tasks that acknowledge; each ends with its last receipt.
    acknowledging: TaskTracker,
    /// Closes the connections when nothing is left to use them.
    closing: DropGuard,
}

/// Whether the broker can be used, for readiness.
#[derive(Clone, Debug)]
pub enum ConnectionState {
    /// Both connections are open, and everything is declared.
    Connected,
    /// A connection is missing.
    Connecting {
        since: Instant,
        /// Why, if known.
        error: Option<Error>,
    },
    /// RabbitMQ has blocked publishing: a memory or disk alarm.
    Blocked {
        /// What it says about it.
        reason: String,
    },
}

impl Broker {
    /// Starts to connect and returns at once. Must be called on a tokio runtime.
    #[must_use]
    pub fn open(config: Config, shutdown: Shutdown) -> Self {
        Self::open_counted(config, shutdown, Metrics::new().broker.clone())
    }

    /// Like [`Broker::open`], with shared metrics.
    #[must_use]
    pub fn open_counted(config: Config, shutdown: Shutdown, metrics: BrokerMetrics) -> Self {
        let shared = Arc::new(Shared::new(config, Declares::Everything, metrics));
        let closing = CancellationToken::new();
        let (consume, keep_consume) =
            ManagedConnection::start(ConnectionKind::Consume, shared.clone(), closing.clone());
        let (publish, keep_publish) =
            ManagedConnection::start(ConnectionKind::Publish, shared.clone(), closing.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(keep_consume);
        tasks.spawn(keep_publish);
        tasks.close();
        let closing = closing.drop_guard();
        let acknowledging = TaskTracker::new();
        Self {
            inner: Arc::new(BrokerInner { shared, consume, publish, shutdown, acknowledging, closing }),
            tasks,
        }
    }

    /// Like [`Broker::open`], for a client that only publishes events, as XTSystems does: over one connection and
    /// without declaring anything, so that the client's settings are never imposed on the service.
    #[must_use]
    pub fn open_as_publisher(config: Config, shutdown: Shutdown) -> Self {
        let shared = Arc::new(Shared::new(config, Declares::Nothing, Metrics::new().broker.clone()));
        let closing = CancellationToken::new();
        let (publish, keep) =
            ManagedConnection::start(ConnectionKind::Publish, shared.clone(), closing.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(keep);
        tasks.close();
        let (consume, closing, acknowledging) = (publish.clone(), closing.drop_guard(), TaskTracker::new());
        Self {
            inner: Arc::new(BrokerInner { shared, consume, publish, shutdown, acknowledging, closing }),
            tasks,
        }
    }

    /// Resolves when both connections are open and everything is declared; at once, with the reason, if waiting cannot
    /// help: another topology, an old server, refused credentials, a bad URL.
    pub async fn ready(&self) -> Result<(), Error> {
        for link in [&self.inner.consume, &self.inner.publish] {
            let mut states = link.watch();
            loop {
                match &*states.borrow_and_update() {
                    LinkState::Connected(_) => break,
                    LinkState::Connecting { error: Some(error), .. } if error.is_fatal() => {
                        return Err(error.clone());
                    }
                    LinkState::Connecting { .. } => {}
                    LinkState::Closed => return Err(Error::Closed),
                }
                states.changed().await.map_err(|_| Error::Closed)?;
            }
        }
        Ok(())
    }

    /// What readiness and the log should say now.
    #[must_use]
    pub fn state(&self) -> ConnectionState {
        for link in [&self.inner.consume, &self.inner.publish] {
            match link.state() {
                LinkState::Connected(session) => {
                    let blocked = session.blocked().borrow().clone();
                    if let Some(reason) = blocked {
                        return ConnectionState::Blocked { reason };
                    }
                }
                LinkState::Connecting { since, error } => {
                    return ConnectionState::Connecting { since, error };
                }
                LinkState::Closed => {
                    return ConnectionState::Connecting { since: Instant::now(), error: Some(Error::Closed) };
                }
            }
        }
        ConnectionState::Connected
    }

    /// Consumes a queue on its own channel. At most `prefetch` messages are held at a time.
    #[must_use]
    pub fn consumer(&self, queue: &Queue, prefetch: u16) -> Consumer {
        Consumer::new(self.inner.clone(), *queue, prefetch)
    }

    /// A channel to publish on, with its task.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        let (calls, publishing) = Publishing::new(self.inner.shared.clone(), &self.inner.publish);
        tokio::spawn(publishing.run());
        Publisher::new(self.inner.clone(), calls)
    }

    /// The room in the deliveries queues. Clones share what they count, so one is enough for a process.
    #[must_use]
    pub fn window(&self) -> Window {
        Window::new(self.inner.clone(), Queue::Deliveries, self.inner.shared.config.window_jobs)
    }

    /// The room in the prompt ones.
    #[must_use]
    pub fn prompt_window(&self) -> Window {
        Window::new(self.inner.clone(), Queue::Prompt, self.inner.shared.config.prompt_jobs)
    }

    /// How many messages and consumers the queue of a delivery's job has.
    ///
    /// # Errors
    /// When the server does not answer, or the queue does not exist.
    pub async fn depth(&self, bucket: u8) -> Result<inspect::Depth, Error> {
        let queue = Queue::Deliveries(self.topology().shard(bucket));
        let counting = async {
            // Each check has its own channel, because a refusal closes it.
            let channel = self.inner.consume.current().ok_or(Error::Closed)?.channel().await?;
            inspect::depth_of(&channel, queue, self.topology().name(queue)).await
        };
        let answered = timeout(inspect::QUESTION_TIMEOUT, counting).await;
        answered.unwrap_or_else(|_| Err(Error::silent("counting messages", inspect::QUESTION_TIMEOUT)))
    }

    /// Names, and the table of what exists.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.inner.shared.topology
    }

    /// Every deliveries queue that exists, ordinary or prompt: those of `DELIVERY_SHARDS`, and what a larger number
    /// left. A worker consumes them all. The leftovers are known once [`Broker::ready`] has resolved; they are no
    /// longer bound to anything, and stay, empty, until an operator deletes them.
    #[must_use]
    pub fn deliveries_queues(&self) -> Vec<Queue> {
        let own = (0..self.topology().shards()).flat_map(|n| [Queue::Deliveries(n), Queue::Prompt(n)]);
        own.chain(self.inner.shared.leftovers()).collect()
    }

    /// What the connections did.
    #[must_use]
    pub fn metrics(&self) -> &BrokerMetrics {
        &self.inner.shared.metrics
    }

    /// Closes both connections after everything on them, including acknowledgements, has reached the server. Call it
    /// last, when the stages have ended: it does not wait long for receipts that are still held.
    pub async fn close(&self) {
        self.inner.acknowledging.close();
        let settled = timeout(CLOSE_TIMEOUT, self.inner.acknowledging.wait()).await;
        if settled.is_err() {
            tracing::debug!("closing with unacknowledged messages: the broker will redeliver them");
        }
        self.inner.closing.token().cancel();
        self.tasks.wait().await;
    }
}
