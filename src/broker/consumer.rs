//! Consumes a queue across reconnections.
//!
//! Each message carries a receipt. A receipt acknowledges or rejects the message; if it is dropped, the message stays
//! unacknowledged and the broker redelivers it when the channel closes. There is deliberately no way to return a
//! message to its queue: each return counts towards the delivery limit, and an outage would use that up within seconds.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel,
    message::Delivery,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    BrokerInner, CONTENT_TYPE_KEPT, Error, Headers, Queue,
    acks::{self, Settle, Settled},
    connection::{CHANNEL_TIMEOUT, Session},
    error::on_channel,
};

/// How long to wait before a queue that cannot be consumed is tried again.
const CONSUME_AGAIN: Duration = Duration::from_millis(500);

/// How long nothing may arrive before the consumer is renewed on a new channel, in case the broker has silently
/// forgotten it. It is not renewed while messages are held.
const RENEW_AFTER: Duration = Duration::from_secs(5);

/// A message, and the right to settle it.
#[derive(Debug)]
pub struct Message {
    pub body: Bytes,
    /// The exchange it was published to; empty for the default one, which only this service uses.
    pub exchange: String,
    /// The key it was routed by.
    pub routing_key: String,
    /// Whether the broker has handed it out before.
    pub redelivered: bool,
    /// Its id, which the publisher may not have made unique.
    pub message_id: Option<String>,
    /// What it is: AMQP's `type`.
    pub kind: Option<String>,
    /// Its time, in seconds since 1970.
    pub timestamp: Option<u64>,
    /// What its body is: the property, or what we kept of it when we published the message again.
    pub content_type: Option<String>,
    pub headers: Headers,
    /// Settles it.
    pub receipt: Receipt,
}

/// The right to settle a message. It never waits; a task for each channel sends the acknowledgements.
#[derive(Debug)]
#[must_use = "dropping a receipt does not settle the message: it stays unacknowledged until its channel closes"]
pub struct Receipt {
    tag: u64,
    settle: Settle,
}

impl Receipt {
    /// Done: the broker forgets the message.
    pub fn ack(self) {
        self.settle(Settled::Ack(self.tag));
    }

    /// Given up: the broker dead-letters the message.
    pub fn reject(self) {
        self.settle(Settled::Reject(self.tag));
    }

    /// Whether its channel is still open. If not, the broker redelivers the message.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.settle.is_closed()
    }

    fn settle(&self, settled: Settled) {
        // Nothing listens once the channel is gone. The broker then redelivers the message by itself.
        let _gone = self.settle.send(settled);
    }
}

/// The messages of one queue.
pub struct Consumer {
    inner: Arc<BrokerInner>,
    queue: Queue,
    prefetch: u16,
    paused: bool,
    open: Option<OpenChannel>,
    /// A channel that is being opened, in a task, so that a caller may drop `next` at any time without starting again.
    opening: Option<JoinHandle<Option<OpenChannel>>>,
}

/// A channel with its consumer, which is missing while paused.
struct OpenChannel {
    channel: Channel,
    session: Arc<Session>,
    settle: Settle,
    stream: Option<lapin::Consumer>,
    /// We cancelled the consumer: its stream ends after the last message that had arrived.
    cancelled: bool,
    /// The channel itself must be replaced as well.
    is_stale: bool,
    /// When a consumer that received nothing is renewed.
    renew_at: Instant,
}

impl Consumer {
    pub(super) fn new(inner: Arc<BrokerInner>, queue: Queue, prefetch: u16) -> Self {
        Self { inner, queue, prefetch, paused: false, open: None, opening: None }
    }

    /// The next message. Waits through lost connections, deleted queues (they are declared again) and pauses; `None`
    /// once a stop is asked for. May be dropped at any time without losing a message.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            if self.inner.shutdown.is_requested() {
                self.leave().await;
                return None;
            }
            let inner = self.inner.clone();
            tokio::select! {
                biased;
                step = self.step() => if let Some(message) = step { return Some(message) },
                () = inner.shutdown.requested() => {}
            }
        }
    }

    /// Stops the broker from sending more. What was handed out stays held and can be settled; what had arrived but was
    /// not handed out follows after [`Consumer::resume`]. What is held over a pause does not count towards the prefetch
    /// after it, so up to twice as much may be held then.
    pub async fn pause(&mut self) {
        self.paused = true;
        self.cancel().await;
    }

    /// Lets [`Consumer::next`] take messages again.
    pub fn resume(&mut self) {
        self.paused = false;
    }

    /// One message, or one change of the connection.
    async fn step(&mut self) -> Option<Message> {
        if self.paused {
            return std::future::pending().await;
        }
        let Some(open) = &mut self.open else {
            self.reopen().await;
            return None;
        };
        let Some(stream) = &mut open.stream else {
            self.reopen().await;
            return None;
        };
        let Some(arrival) = arrival(stream, open.renew_at).await else {
            self.renew().await;
            return None;
        };
        match arrival {
            Some(Ok(delivery)) => {
                open.renew_at = Instant::now() + RENEW_AFTER;
                self.inner.shared.metrics.consumed.inc();
                Some(message(delivery, open.settle.clone()))
            }
            None if open.cancelled => {
                if open.is_stale {
                    self.open = None;
                } else {
                    open.stream = None;
                }
                None
            }
            // The broker cancelled it: the queue is gone, or its leader.
            None => {
                self.lose(None);
                None
            }
            Some(Err(error)) => {
                self.lose(Some(&on_channel(&error)));
                None
            }
        }
    }

    /// Starts with a new channel, unless messages are held: their receipts belong to this channel.
    async fn renew(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.renew_at = Instant::now() + RENEW_AFTER;
        if open.holds_nothing() {
            open.is_stale = true;
            self.cancel().await;
        }
    }

    fn lose(&mut self, error: Option<&Error>) {
        let queue = self.inner.shared.topology.name(self.queue);
        let error = error.map_or("the broker cancelled the consumer".into(), ToString::to_string);
        tracing::warn!(queue, error, "lost the consumer of a queue; consuming it again");
        self.open = None;
    }

    /// Opens a channel, or continues on the one that a pause left.
    async fn reopen(&mut self) {
        let opening = self.opening.get_or_insert_with(|| {
            tokio::spawn(OpenChannel::begin(self.open.take(), self.inner.clone(), self.queue, self.prefetch))
        });
        self.open = opening.await.unwrap_or_default();
        self.opening = None;
    }

    async fn leave(&mut self) {
        self.cancel().await;
        self.open = None;
    }

    async fn cancel(&mut self) {
        if let Some(opening) = self.opening.take() {
            // A channel that was given up half open is closed when its last receipt is settled.
            opening.abort();
        }
        if let Some(open) = &mut self.open
            && let Err(error) = open.cancel().await
        {
            self.lose(Some(&error));
        }
    }
}

impl OpenChannel {
    /// Tries until it has a channel that consumes, first on the one at hand; none when the connection is closed
    /// for good.
    async fn begin(held: Option<Self>, inner: Arc<BrokerInner>, queue: Queue, prefetch: u16) -> Option<Self> {
        if let Some(mut open) = held
            && open.consume(&inner, queue, prefetch).await.is_ok()
        {
            return Some(open);
        }
        loop {
            let session = inner.consume.session().await?;
            match Self::on(session, &inner, queue, prefetch).await {
                Ok(open) => return Some(open),
                Err(error) => {
                    tracing::debug!(queue = inner.shared.topology.name(queue), %error, "cannot consume yet; retrying");
                    sleep(CONSUME_AGAIN).await;
                }
            }
        }
    }

    async fn on(
        session: Arc<Session>,
        inner: &BrokerInner,
        queue: Queue,
        prefetch: u16,
    ) -> Result<Self, Error> {
        let channel = session.channel().await?;
        let (settle, acknowledging) = acks::start(channel.clone(), session.clone());
        // A stop waits for it, and it ends with the last receipt: nothing finished stays unacknowledged.
        inner.shutdown.spawn(inner.acknowledging.track_future(acknowledging));
        let renew_at = Instant::now() + RENEW_AFTER;
        let mut open =
            Self { channel, session, settle, stream: None, cancelled: false, is_stale: false, renew_at };
        open.consume(inner, queue, prefetch).await?;
        Ok(open)
    }

    /// Consumes on this channel. If the queue is gone, everything is declared again before the next try.
    async fn consume(&mut self, inner: &BrokerInner, queue: Queue, prefetch: u16) -> Result<(), Error> {
        let name = inner.shared.topology.name(queue);
        let begin = async {
            self.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
            let options = BasicConsumeOptions::default();
            // The broker chooses the name. With the name of a cancelled consumer, RabbitMQ (seen with 3.10) would
            // redeliver what that one still holds.
            self.channel.basic_consume(name.as_str().into(), "".into(), options, FieldTable::default()).await
        };
        match timeout(CHANNEL_TIMEOUT, begin).await {
            Ok(Ok(stream)) => {
                (self.stream, self.cancelled) = (Some(stream), false);
                self.renew_at = Instant::now() + RENEW_AFTER;
                Ok(())
            }
            Ok(Err(error)) => {
                if super::error::is_not_found(&error) {
                    self.session.declare_again(&inner.shared).await?;
                }
                Err(on_channel(&error))
            }
            Err(_) => {
                self.session.over.cancel();
                Err(Error::silent("starting a consumer", CHANNEL_TIMEOUT))
            }
        }
    }

    /// Whether every message that was handed out has been settled: then only we hold the sender of the channel's task.
    fn holds_nothing(&self) -> bool {
        self.settle.strong_count() == 1
    }

    /// Stops the broker from sending more. If that fails, the channel cannot be used any more.
    async fn cancel(&mut self) -> Result<(), Error> {
        let Some(stream) = self.stream.as_ref().filter(|_| !self.cancelled) else { return Ok(()) };
        self.cancelled = true;
        let cancel = self.channel.basic_cancel(stream.tag(), BasicCancelOptions::default());
        match timeout(CHANNEL_TIMEOUT, cancel).await {
            Ok(cancelled) => cancelled.map_err(|error| on_channel(&error)),
            Err(_) => Err(Error::silent("cancelling a consumer", CHANNEL_TIMEOUT)),
        }
    }
}

/// What arrives on a stream, including its end; `None` if nothing did in time.
async fn arrival(stream: &mut lapin::Consumer, until: Instant) -> Option<Option<lapin::Result<Delivery>>> {
    // Most messages are here already, and then no timer and no wake-up is needed.
    if let Some(arrival) = stream.next().now_or_never() {
        return Some(arrival);
    }
    timeout_at(until, stream.next()).await.ok()
}

fn message(delivery: Delivery, settle: Settle) -> Message {
    let properties = delivery.properties;
    let content_type = properties.content_type().clone().map(String::from);
    let (message_id, kind) = (properties.message_id().clone(), properties.kind().clone());
    let timestamp = *properties.timestamp();
    let headers = Headers::received(properties);
    Message {
        body: Bytes::from(delivery.data),
        exchange: delivery.exchange.into(),
        routing_key: delivery.routing_key.into(),
        redelivered: delivery.redelivered,
        message_id: message_id.map(Into::into),
        kind: kind.map(Into::into),
        timestamp,
        content_type: content_type.or_else(|| headers.get_str(CONTENT_TYPE_KEPT).map(str::to_owned)),
        headers,
        receipt: Receipt { tag: delivery.delivery_tag, settle },
    }
}
