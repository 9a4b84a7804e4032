//! A connection that is opened, watched, and reopened for as long as the process runs.
//!
//! There are two connections, because RabbitMQ stops reading from a connection that publishes while an alarm is raised,
//! and acknowledgements must not stop with it. A faulty connection is dropped, never repaired: all its channels are
//! dead, and whoever waits for a confirm or an acknowledgement on it has to deal with the loss. The topology is
//! declared before a new connection is handed out.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::{Channel, ConnectionProperties, Event, protocol::constants::REPLY_SUCCESS, uri::AMQPUri};
use secrecy::ExposeSecret;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Error, Queue, Topology, declare,
    error::{on_channel, on_connect},
    version,
};
use crate::telemetry::{labels::ConnectionKind, metrics::BrokerMetrics};

/// How long TCP, TLS, login and the declarations may take in all.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// How long TCP alone may take.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may take to open a channel.
pub(super) const CHANNEL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a stop waits until the server has taken the last acknowledgements.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A peer that disappears silently is noticed after two of these.
const HEARTBEAT_SECONDS: u16 = 10;

/// The first wait before connecting again is a random part of this, and so is each later one of twice as much.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);

/// The waits grow no longer than this.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// How long to wait before a missing queue is declared again. RabbitMQ (seen with 3.10) notifies the consumers of a
/// deleted queue, but not if it is declared again before that: then they wait forever on the former one.
const DECLARE_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// A connection that lasted this long was good: the waits start from the first again.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// How often a connection is checked, in case its end was not reported.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a connection ensures before it is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declares {
    /// That the topology exists as the settings say.
    Everything,
    /// That the exchange of events exists, whoever created it.
    Nothing,
}

/// What the connections have in common.
pub(super) struct Shared {
    pub(super) config: Config,
    declares: Declares,
    pub(super) topology: Topology,
    pub(super) metrics: BrokerMetrics,
    /// One declares at a time.
    declaring: tokio::sync::Mutex<()>,
    version_is_checked: AtomicBool,
    /// The queues that another `DELIVERY_SHARDS` left behind; unknown until they were looked for.
    leftovers: Mutex<Option<Vec<Queue>>>,
}

impl Shared {
    pub(super) fn new(config: Config, declares: Declares, metrics: BrokerMetrics) -> Self {
        Self {
            declares,
            topology: Topology::new(&config),
            config,
            metrics,
            declaring: tokio::sync::Mutex::default(),
            version_is_checked: AtomicBool::default(),
            leftovers: Mutex::default(),
        }
    }

    pub(super) fn leftovers(&self) -> Vec<Queue> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Declares the topology; the first time it also handles what other settings left behind.
    pub(super) async fn declare(&self, connection: &lapin::Connection) -> Result<(), Error> {
        if self.declares == Declares::Nothing {
            return declare::events_exchange_is_there(connection, &self.topology).await;
        }
        let _one_at_a_time = self.declaring.lock().await;
        declare::declare(connection, &self.topology).await?;
        if self.leftovers.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let found = declare::settle_shards(connection, &self.topology).await?;
        if !found.is_empty() {
            tracing::info!(queues = ?found, "queues of a larger DELIVERY_SHARDS still exist and are consumed too");
        }
        *self.leftovers.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(())
    }

    async fn check_version(&self, uri: &AMQPUri) -> Result<(), Error> {
        if !self.version_is_checked.load(Ordering::Relaxed) {
            version::check(uri).await?;
            self.version_is_checked.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// One session of a connection. What belongs to an earlier one stays dead.
pub(super) struct Session {
    connection: lapin::Connection,
    /// Cancelled when the session is over, by whoever notices first.
    pub(super) over: CancellationToken,
    blocked: watch::Sender<Option<String>>,
}

impl Session {
    /// Opens a channel. If the server does not answer, the connection is dropped: there is no other way to continue.
    pub(super) async fn channel(&self) -> Result<Channel, Error> {
        let Ok(channel) = timeout(CHANNEL_TIMEOUT, self.connection.create_channel()).await else {
            self.over.cancel();
            return Err(Error::silent("opening a channel", CHANNEL_TIMEOUT));
        };
        channel.map_err(|error| on_channel(&error))
    }

    /// Declares everything again after a queue was found missing.
    pub(super) async fn declare_again(&self, shared: &Shared) -> Result<(), Error> {
        sleep(DECLARE_AGAIN_AFTER).await;
        let Ok(declared) = timeout(CONNECT_TIMEOUT, shared.declare(&self.connection)).await else {
            self.over.cancel();
            return Err(Error::silent("declarations", CONNECT_TIMEOUT));
        };
        declared
    }

    /// Why the server has blocked publishing, while it does.
    pub(super) fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.blocked.subscribe()
    }
}

/// What a link is doing.
#[derive(Clone)]
pub(super) enum LinkState {
    /// Not connected since then, for this reason if one is known yet.
    Connecting { since: Instant, error: Option<Error> },
    /// Connected, and everything is declared.
    Connected(Arc<Session>),
    /// Closed for good.
    Closed,
}

/// One of the two connections, over all its sessions.
#[derive(Clone)]
pub(super) struct ManagedConnection(watch::Receiver<LinkState>);

impl ManagedConnection {
    /// Starts to connect, and keeps at it until `closing`.
    pub(super) fn start(
        kind: ConnectionKind,
        shared: Arc<Shared>,
        closing: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (state, receiver) = watch::channel(LinkState::Connecting { since: Instant::now(), error: None });
        (Self(receiver), Keeper { kind, shared, closing, state }.run())
    }

    pub(super) fn state(&self) -> LinkState {
        self.0.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<LinkState> {
        self.0.clone()
    }

    /// The session, if there is one now.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        match &*self.0.borrow() {
            LinkState::Connected(session) if !session.over.is_cancelled() => Some(session.clone()),
            _ => None,
        }
    }

    /// The session, as soon as there is one; none once the link is closed.
    pub(super) async fn session(&self) -> Option<Arc<Session>> {
        let mut states = self.0.clone();
        loop {
            match &*states.borrow_and_update() {
                LinkState::Connected(session) if !session.over.is_cancelled() => {
                    return Some(session.clone());
                }
                LinkState::Closed => return None,
                _ => {}
            }
            states.changed().await.ok()?;
        }
    }
}

struct Keeper {
    kind: ConnectionKind,
    shared: Arc<Shared>,
    closing: CancellationToken,
    state: watch::Sender<LinkState>,
}

impl Keeper {
    async fn run(self) {
        let closing = self.closing.clone();
        tokio::select! {
            () = self.keep() => {}
            () = closing.cancelled() => self.close().await,
        }
        self.state.send_replace(LinkState::Closed);
    }

    /// Connects, watches, and connects again.
    async fn keep(&self) {
        let mut failures = 0;
        loop {
            let error = match timeout(CONNECT_TIMEOUT, self.connect()).await {
                Ok(Ok(session)) => {
                    let connected = Instant::now();
                    tracing::info!(connection = self.kind.as_str(), "connected to RabbitMQ");
                    self.state.send_replace(LinkState::Connected(session.clone()));
                    self.shared.metrics.connected.set(self.kind, true);
                    let error = self.watch(&session).await;
                    self.shared.metrics.connected.set(self.kind, false);
                    // Otherwise one that breaks as soon as it is used would be reopened without a pause.
                    if connected.elapsed() >= STABLE_AFTER {
                        failures = 0;
                    }
                    error
                }
                Ok(Err(error)) => error,
                Err(_) => Error::silent("login and declarations", CONNECT_TIMEOUT),
            };
            self.disconnected(error);
            sleep(backoff(failures, fastrand::f64())).await;
            failures += 1;
        }
    }

    fn disconnected(&self, error: Error) {
        self.shared.metrics.reconnects.inc();
        self.state.send_modify(|state| {
            let (since, before) = match state {
                LinkState::Connecting { since, error } => (*since, error.as_ref().map(ToString::to_string)),
                _ => (Instant::now(), None),
            };
            // An outage is one line, and one more whenever its reason changes.
            if before.is_none_or(|before| before != error.to_string()) {
                tracing::warn!(connection = self.kind.as_str(), %error, "no connection to RabbitMQ; reconnecting");
            }
            *state = LinkState::Connecting { since, error: Some(error) };
        });
    }

    async fn connect(&self) -> Result<Arc<Session>, Error> {
        let uri = uri(&self.shared.config)?;
        self.shared.check_version(&uri).await?;
        let properties = ConnectionProperties::default().with_connection_name(
            format!("{} {}", self.shared.config.amqp_prefix, self.kind.as_str()).into(),
        );
        let connection =
            lapin::Connection::connect_uri(uri, properties).await.map_err(|error| on_connect(&error))?;
        self.shared.declare(&connection).await?;
        Ok(Arc::new(Session {
            connection,
            over: CancellationToken::new(),
            blocked: watch::Sender::new(None),
        }))
    }

    /// Watches until this session is over.
    async fn watch(&self, session: &Session) -> Error {
        let mut events = std::pin::pin!(session.connection.events_listener());
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut error = Error::Unreachable("the connection was lost".into());
        while session.connection.status().connected() {
            tokio::select! {
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => self.blocked(session, Some(reason)),
                    Some(Event::ConnectionUnblocked) => self.blocked(session, None),
                    // A channel's end is reported here too; the loop's condition tells them apart.
                    Some(Event::Error(reported)) => error = on_connect(&reported),
                    Some(_) => {}
                    None => break,
                },
                _ = look.tick() => {}
                () = session.over.cancelled() => {
                    error = Error::Unreachable("the connection stopped responding".into());
                    break;
                }
            }
        }
        session.over.cancel();
        self.blocked(session, None);
        error
    }

    fn blocked(&self, session: &Session, reason: Option<String>) {
        let was = session.blocked.send_replace(reason.clone());
        match (was, reason) {
            (None, Some(reason)) => {
                self.shared.metrics.blocked.inc();
                tracing::warn!(connection = self.kind.as_str(), reason, "RabbitMQ has blocked publishing");
            }
            (Some(_), None) => {
                self.shared.metrics.blocked.dec();
                tracing::info!(connection = self.kind.as_str(), "RabbitMQ has unblocked publishing");
            }
            _ => {}
        }
    }

    /// Waits for the server to confirm that it has read everything, including acknowledgements.
    async fn close(&self) {
        let LinkState::Connected(session) = self.state.borrow().clone() else { return };
        let closed = timeout(CLOSE_TIMEOUT, session.connection.close(REPLY_SUCCESS, "OK".into())).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::debug!(connection = self.kind.as_str(), "the connection ended without a clean close");
        }
        session.over.cancel();
        self.shared.metrics.connected.set(self.kind, false);
    }
}

pub(super) fn uri(config: &Config) -> Result<AMQPUri, Error> {
    let mut uri: AMQPUri = config.amqp_url.expose_secret().parse().map_err(Error::Url)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let millis = u64::try_from(TCP_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    uri.query.connection_timeout.get_or_insert(millis);
    Ok(uri)
}

/// Full jitter: a random part of a bound that doubles, so that a cluster's clients do not come back all at once.
fn backoff(failures: u32, random: f64) -> Duration {
    BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(BACKOFF_MAX).mul_f64(random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_between_connections_grow_up_to_their_bound() {
        let check = |failures, random, expected_ms| {
            assert_eq!(backoff(failures, random), Duration::from_millis(expected_ms), "{failures} {random}");
        };
        check(0, 0.0, 0);
        check(0, 1.0, 200);
        check(1, 0.5, 200);
        check(3, 1.0, 1600);
        check(5, 1.0, 5000);
        check(u32::MAX, 1.0, 5000);
    }
}
