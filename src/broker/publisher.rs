//! Publishes messages and reports what became of each.
//!
//! Everything is persistent, mandatory and confirmed. `publish` hands its messages to the task of its channel
//! (`publishing.rs`) and always answers within [`CONFIRM_TIMEOUT`]: what is not known by then is [`Fate::Unknown`],
//! whether the broker is unreachable, blocked or slow.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lapin::{BasicProperties, types::ShortString};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{BrokerInner, Destination, Outgoing, Topology, config::CONFIRM_TIMEOUT, headers::short, jobs};
use crate::{
    model::Job,
    telemetry::labels::{self, QueueKind},
};

/// How many calls of `publish` may wait for the task; a further one waits to be accepted, within the same time.
pub const CALLS_WAITING_MAX: usize = 256;

/// The task answers in time by itself; if it does not, the caller stops waiting this much later.
const ANSWER_MARGIN: Duration = Duration::from_millis(250);

/// AMQP's delivery mode of what survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The broker has it, on disk and in a queue.
    Confirmed,
    /// No queue is bound for it; the broker has dropped it.
    Returned,
    /// The broker rejected it: the queue is full or broken. It may be there all the same.
    Refused,
    /// No answer in time, or none at all: it may be there.
    Unknown,
}

impl Fate {
    /// The word for it in log and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Returned => "returned",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Fate> for labels::Fate {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Confirmed => Self::Confirmed,
            Fate::Returned => Self::Returned,
            Fate::Refused => Self::Refused,
            Fate::Unknown => Self::Unknown,
        }
    }
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One call of `publish`, on its way to the task.
pub(super) struct Call {
    pub(super) messages: Vec<Outgoing>,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Vec<Fate>>,
}

/// Publishes on its own channel. Clones share the channel.
#[derive(Clone)]
pub struct Publisher {
    calls: mpsc::Sender<Call>,
    /// Keeps the connections open while there is a publisher.
    inner: Arc<BrokerInner>,
}

impl Publisher {
    pub(super) const fn new(inner: Arc<BrokerInner>, calls: mpsc::Sender<Call>) -> Self {
        Self { calls, inner }
    }

    /// The messages of jobs, in the version that is published, each to its destination.
    pub fn encode<'j>(&self, jobs: impl IntoIterator<Item = (&'j Job, Destination)>) -> Vec<Outgoing> {
        jobs::encode(self.inner.shared.config.job_version, jobs)
    }

    /// Publishes the messages in order, and returns the fate of each in the same order.
    pub async fn publish(&self, messages: Vec<Outgoing>) -> Vec<Fate> {
        let count = messages.len();
        if count == 0 {
            return Vec::new();
        }
        let kinds: Vec<QueueKind> = messages.iter().map(|message| message.to.kind()).collect();
        let deadline = Instant::now() + CONFIRM_TIMEOUT;
        let (answer, answered) = oneshot::channel();
        let sent = timeout_at(deadline, self.calls.send(Call { messages, deadline, answer })).await;
        let fates = match sent {
            Ok(Ok(())) => timeout_at(deadline + ANSWER_MARGIN, answered).await.ok().and_then(Result::ok),
            _ => None,
        };
        let fates = fates.unwrap_or_else(|| vec![Fate::Unknown; count]);
        self.count(&kinds, &fates);
        fates
    }

    fn count(&self, kinds: &[QueueKind], fates: &[Fate]) {
        let published = &self.inner.shared.metrics.published;
        let mut pairs = kinds.iter().zip(fates).peekable();
        // Most calls publish to one kind of queue and get one fate: count runs, not messages.
        while let Some(pair) = pairs.next() {
            let mut run = 1;
            while pairs.next_if_eq(&pair).is_some() {
                run += 1;
            }
            published.add((*pair.0, (*pair.1).into()), run);
        }
    }
}

/// A message in the library's terms.
pub(super) struct Addressed {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Bytes,
}

impl Addressed {
    pub(super) fn new(topology: &Topology, outgoing: Outgoing) -> Self {
        let (exchange, routing_key) = match outgoing.to {
            Destination::Deliveries { bucket } => {
                (topology.deliveries_exchange(), Topology::routing_key(bucket))
            }
            Destination::Retry { tier, bucket } => {
                (topology.retry_exchange(tier), Topology::routing_key(bucket))
            }
            // The default exchange has the empty name, and leads to a queue by the queue's name.
            Destination::Queue(queue) => (String::new(), topology.name(queue)),
            Destination::Events { event_type } => (topology.events_exchange().to_owned(), event_type),
        };
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_message_id(short(&outgoing.message_id));
        if !outgoing.kind.is_empty() {
            properties = properties.with_type(outgoing.kind.into());
        }
        if let Some(timestamp) = outgoing.timestamp {
            properties = properties.with_timestamp(timestamp);
        }
        if !outgoing.headers.is_empty() {
            properties = properties.with_headers(outgoing.headers.into_table());
        }
        Self { exchange: short(&exchange), routing_key: short(&routing_key), properties, body: outgoing.body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::{Headers, Queue, config},
        model::retry_policy::RetryTier,
    };

    #[test]
    fn every_destination_has_its_exchange_and_routing_key() {
        let topology = Topology::new(&config::tests::defaults());
        let check = |to: Destination, exchange: &str, routing_key: &str| {
            let outgoing = Outgoing {
                to: to.clone(),
                message_id: "m".into(),
                kind: "k",
                timestamp: None,
                headers: Headers::default(),
                body: Bytes::new(),
            };
            let addressed = Addressed::new(&topology, outgoing);
            let found = (addressed.exchange.as_str(), addressed.routing_key.as_str());
            assert_eq!(found, (exchange, routing_key), "{to:?}");
            assert_eq!(*addressed.properties.delivery_mode(), Some(PERSISTENT));
        };
        check(Destination::Deliveries { bucket: 7 }, "xtwebhooks.deliveries", "b07");
        check(Destination::Deliveries { bucket: 63 }, "xtwebhooks.deliveries", "b63");
        check(Destination::Retry { tier: RetryTier::S8, bucket: 0 }, "xtwebhooks.retry.8s", "b00");
        check(Destination::Queue(Queue::DeadLetters), "", "xtwebhooks.dead-letters");
        check(Destination::Queue(Queue::QuarantineJobs), "", "xtwebhooks.suspects.jobs");
        check(Destination::Queue(Queue::Prompt(3)), "", "xtwebhooks.prompt.3");
        check(
            Destination::Events { event_type: "ticket.created".into() },
            "xtsystems.events",
            "ticket.created",
        );
    }
}
