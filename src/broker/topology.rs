//! The one table of everything that exists on the broker: exchanges, queues with their arguments, bindings.
//!
//! It is data, so `declare` can apply it, `xtwebhooks topology --json` can print it, and tests can compare it. All
//! queues are quorum queues. Every bound is a setting of [`Config`] or a constant here.

use serde_json::json;

use super::Config;
use crate::model::{id::BUCKETS, retry_policy::RetryTier};

/// The delivery limit of queues that have nowhere to dead-letter to: as good as none.
pub const UNLIMITED_DELIVERIES: u32 = 1_000_000;

/// How often a message is tried in quarantine before it counts as poison.
pub const QUARANTINE_DELIVERY_LIMIT: u32 = 3;

/// A queue of ours, by what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// What XTSystems published and no ingest has taken in yet.
    Events,
    /// Jobs of a shard.
    Deliveries(u8),
    /// First jobs of a shard, of companies that have few of them; no other company's backlog is ahead of them.
    Prompt(u8),
    /// Jobs that wait for one of the short times; it has no consumer.
    Retry(RetryTier),
    /// What was given up.
    DeadLetters,
    /// Events that may have ended the ingest that took them; consumed one at a time.
    QuarantineEvents,
    /// Jobs that may have ended their worker; consumed one at a time.
    QuarantineJobs,
}

/// The value of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Argument {
    Text(String),
    Number(i64),
}

/// An exchange; all are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExchangeSpec {
    pub name: String,
    /// `topic`, `direct` or `fanout`.
    pub kind: &'static str,
    pub arguments: Vec<(&'static str, Argument)>,
}

/// A queue; all are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSpec {
    pub queue: Queue,
    pub name: String,
    pub arguments: Vec<(&'static str, Argument)>,
}

/// A queue bound to an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    pub exchange: String,
    pub queue: String,
    pub routing_key: String,
}

/// The names and the table, as the settings make them.
#[derive(Clone, Debug)]
pub struct Topology {
    config: Config,
}

impl Topology {
    /// The topology of these settings.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { config: config.clone() }
    }

    #[must_use]
    pub fn name(&self, queue: Queue) -> String {
        match queue {
            Queue::Events => self.prefixed("events"),
            Queue::Deliveries(shard) => self.prefixed(&format!("deliveries.{shard}")),
            Queue::Prompt(shard) => self.prefixed(&format!("prompt.{shard}")),
            Queue::Retry(tier) => self.retry(tier),
            Queue::DeadLetters => self.prefixed("dead-letters"),
            Queue::QuarantineEvents => self.prefixed("suspects.events"),
            Queue::QuarantineJobs => self.prefixed("suspects.jobs"),
        }
    }

    /// The exchange that spreads jobs over the deliveries queues.
    #[must_use]
    pub fn deliveries_exchange(&self) -> String {
        self.prefixed("deliveries")
    }

    /// The exchange that leads to a retry queue with any routing key, so the key survives the wait.
    #[must_use]
    pub fn retry_exchange(&self, tier: RetryTier) -> String {
        self.retry(tier)
    }

    /// Where a job goes whose bucket is bound to no queue, for example while the number of shards changes.
    #[must_use]
    pub fn unbound_exchange(&self) -> String {
        self.prefixed("deliveries.unbound")
    }

    /// The exchange that XTSystems publishes to.
    #[must_use]
    pub fn events_exchange(&self) -> &str {
        &self.config.events_exchange
    }

    /// How many deliveries queues there are, and as many prompt ones.
    #[must_use]
    pub fn shards(&self) -> u8 {
        self.config.delivery_shards
    }

    #[must_use]
    pub fn shard(&self, bucket: u8) -> u8 {
        bucket % self.config.delivery_shards
    }

    /// The routing key of a bucket, `b00` to `b63`.
    #[must_use]
    pub fn routing_key(bucket: u8) -> String {
        format!("b{bucket:02}")
    }

    /// Every exchange in the order of declaration: one that another names comes before it.
    #[must_use]
    pub fn exchanges(&self) -> Vec<ExchangeSpec> {
        let exchange = |name: String, kind| ExchangeSpec { name, kind, arguments: Vec::new() };
        let mut all = vec![
            exchange(self.config.events_exchange.clone(), "topic"),
            exchange(self.unbound_exchange(), "fanout"),
            ExchangeSpec {
                arguments: vec![("alternate-exchange", Argument::Text(self.unbound_exchange()))],
                ..exchange(self.deliveries_exchange(), "direct")
            },
        ];
        all.extend(RetryTier::ALL.into_iter().map(|tier| exchange(self.retry_exchange(tier), "fanout")));
        all
    }

    /// Every queue in the order of declaration: one that another dead-letters to comes before it.
    #[must_use]
    pub fn queues(&self) -> Vec<QueueSpec> {
        let config = &self.config;
        let mut all = vec![
            self.queue(Queue::DeadLetters).with("x-delivery-limit", UNLIMITED_DELIVERIES),
            self.queue(Queue::QuarantineEvents).quarantine(self),
            self.queue(Queue::QuarantineJobs).quarantine(self),
            self.queue(Queue::Events)
                .with("x-delivery-limit", config.delivery_limit)
                .with("x-max-length-bytes", i64::try_from(config.events_queue_bytes_max).unwrap_or(i64::MAX))
                .dead_lettering(self)
                .safely(),
        ];
        // A prompt queue is bound to nothing: ingest publishes to it by its name, and nothing else does.
        all.extend((0..config.delivery_shards).flat_map(|shard| {
            // At most once is enough here: the ledger's row is written before a job is rejected.
            [Queue::Deliveries(shard), Queue::Prompt(shard)].map(|queue| {
                self.queue(queue).with("x-delivery-limit", config.delivery_limit).dead_lettering(self)
            })
        }));
        all.extend(RetryTier::ALL.into_iter().map(|tier| {
            self.queue(Queue::Retry(tier))
                .with("x-message-ttl", i64::from(tier.seconds()) * 1000)
                .with("x-max-length", config.retry_jobs_max)
                // No routing key is set, so that the bucket's is kept.
                .with("x-dead-letter-exchange", self.deliveries_exchange())
                .safely()
        }));
        all
    }

    #[must_use]
    pub fn bindings(&self) -> Vec<Binding> {
        let mut all = vec![
            Binding {
                exchange: self.config.events_exchange.clone(),
                queue: self.name(Queue::Events),
                routing_key: "#".into(),
            },
            Binding {
                exchange: self.unbound_exchange(),
                queue: self.name(Queue::Deliveries(0)),
                routing_key: String::new(),
            },
        ];
        all.extend((0..BUCKETS).map(|bucket| self.bucket_binding(bucket, self.shard(bucket))));
        all.extend(RetryTier::ALL.into_iter().map(|tier| Binding {
            exchange: self.retry_exchange(tier),
            queue: self.name(Queue::Retry(tier)),
            routing_key: String::new(),
        }));
        all
    }

    /// The binding of a bucket to a shard, the right one or one of earlier settings.
    pub(super) fn bucket_binding(&self, bucket: u8, shard: u8) -> Binding {
        Binding {
            exchange: self.deliveries_exchange(),
            queue: self.name(Queue::Deliveries(shard)),
            routing_key: Self::routing_key(bucket),
        }
    }

    /// The table for `xtwebhooks topology --json`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let arguments = |arguments: &[(&'static str, Argument)]| {
            arguments
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.to_json()))
                .collect::<serde_json::Map<_, _>>()
        };
        json!({
            "exchanges": self.exchanges().iter().map(|exchange| json!({
                "name": exchange.name,
                "type": exchange.kind,
                "arguments": arguments(&exchange.arguments),
            })).collect::<Vec<_>>(),
            "queues": self.queues().iter().map(|queue| json!({
                "name": queue.name,
                "arguments": arguments(&queue.arguments),
            })).collect::<Vec<_>>(),
            "bindings": self.bindings().iter().map(|binding| json!({
                "exchange": binding.exchange,
                "queue": binding.queue,
                "routing_key": binding.routing_key,
            })).collect::<Vec<_>>(),
        })
    }

    fn queue(&self, queue: Queue) -> QueueSpec {
        let arguments = vec![("x-queue-type", Argument::Text("quorum".into()))];
        QueueSpec { queue, name: self.name(queue), arguments }
    }

    fn retry(&self, tier: RetryTier) -> String {
        self.prefixed(&format!("retry.{}", tier.as_str()))
    }

    fn prefixed(&self, name: &str) -> String {
        format!("{}.{name}", self.config.amqp_prefix)
    }
}

impl QueueSpec {
    fn with(mut self, name: &'static str, value: impl Into<Argument>) -> Self {
        self.arguments.push((name, value.into()));
        self
    }

    fn dead_lettering(self, topology: &Topology) -> Self {
        self.with("x-dead-letter-exchange", String::new())
            .with("x-dead-letter-routing-key", topology.name(Queue::DeadLetters))
    }

    /// Dead-letters at least once, which RabbitMQ does only for queues that reject publishes when they are full.
    fn safely(self) -> Self {
        self.with("x-overflow", "reject-publish".to_owned())
            .with("x-dead-letter-strategy", "at-least-once".to_owned())
    }

    fn quarantine(self, topology: &Topology) -> Self {
        self.with("x-delivery-limit", QUARANTINE_DELIVERY_LIMIT).dead_lettering(topology).safely()
    }
}

impl Argument {
    fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) => json!(number),
        }
    }
}

impl From<String> for Argument {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Argument {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Argument {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::broker::config;

    fn topology(shards: u8) -> Topology {
        Topology::new(&Config { delivery_shards: shards, ..config::tests::defaults() })
    }

    #[test]
    fn each_bucket_leads_to_exactly_one_queue_that_is_declared() {
        for shards in [1, 2, 3, 7, 64] {
            let topology = topology(shards);
            let names: BTreeSet<_> = topology.queues().into_iter().map(|queue| queue.name).collect();
            for bucket in 0..BUCKETS {
                let key = Topology::routing_key(bucket);
                let bound: Vec<_> = topology
                    .bindings()
                    .into_iter()
                    .filter(|b| b.exchange == topology.deliveries_exchange() && b.routing_key == key)
                    .map(|b| b.queue)
                    .collect();
                assert_eq!(
                    bound,
                    [topology.name(Queue::Deliveries(topology.shard(bucket)))],
                    "{key} of {shards}"
                );
                assert!(names.contains(&bound[0]));
            }
        }
    }

    #[test]
    fn whatever_is_bound_or_dead_lettered_to_is_declared_before() {
        let topology = topology(2);
        let exchanges: BTreeSet<_> = topology.exchanges().into_iter().map(|exchange| exchange.name).collect();
        let mut queues = BTreeSet::new();
        for QueueSpec { name, arguments, .. } in topology.queues() {
            let text = |key: &str| match arguments.iter().find(|(name, _)| *name == key) {
                Some((_, Argument::Text(text))) => Some(text.clone()),
                _ => None,
            };
            match text("x-dead-letter-exchange").as_deref() {
                Some("") => {
                    assert!(queues.contains(&text("x-dead-letter-routing-key").expect("a queue")), "{name}");
                }
                Some(exchange) => assert!(exchanges.contains(exchange), "{name}"),
                None => assert_eq!(name, topology.name(Queue::DeadLetters), "{name} may lose messages"),
            }
            queues.insert(name);
        }
        for Binding { exchange, queue, .. } in topology.bindings() {
            assert!(exchanges.contains(&exchange) && queues.contains(&queue), "{exchange} to {queue}");
        }
    }

    #[test]
    fn the_arguments_are_those_that_queues_of_former_releases_have() {
        let topology = topology(1);
        let check = |queue: Queue, expected: &[(&str, serde_json::Value)]| {
            let spec =
                topology.queues().into_iter().find(|spec| spec.queue == queue).expect("a declared queue");
            let found: Vec<_> = spec.arguments.iter().map(|(name, value)| (*name, value.to_json())).collect();
            assert_eq!(found, expected, "{}", spec.name);
        };
        let quorum = ("x-queue-type", json!("quorum"));
        let dead_lettering = [
            ("x-dead-letter-exchange", json!("")),
            ("x-dead-letter-routing-key", json!("xtwebhooks.dead-letters")),
        ];
        let safely =
            [("x-overflow", json!("reject-publish")), ("x-dead-letter-strategy", json!("at-least-once"))];
        check(Queue::DeadLetters, &[quorum.clone(), ("x-delivery-limit", json!(1_000_000))]);
        let limited = |limit: u32| vec![quorum.clone(), ("x-delivery-limit", json!(limit))];
        check(Queue::QuarantineJobs, &[&limited(3)[..], &dead_lettering, &safely].concat());
        check(Queue::QuarantineEvents, &[&limited(3)[..], &dead_lettering, &safely].concat());
        let bytes_max = [("x-max-length-bytes", json!(1 << 30))];
        check(Queue::Events, &[&limited(100)[..], &bytes_max, &dead_lettering, &safely].concat());
        check(Queue::Deliveries(0), &[&limited(100)[..], &dead_lettering].concat());
        check(Queue::Prompt(0), &[&limited(100)[..], &dead_lettering].concat());
        let retry = [
            quorum.clone(),
            ("x-message-ttl", json!(64_000)),
            ("x-max-length", json!(100_000)),
            ("x-dead-letter-exchange", json!("xtwebhooks.deliveries")),
        ];
        check(Queue::Retry(RetryTier::S64), &[&retry[..], &safely].concat());
    }

    #[test]
    fn the_table_is_printed_whole() {
        let topology = topology(2);
        let json = topology.to_json();
        let check =
            |what: &str, count: usize| assert_eq!(json[what].as_array().map(Vec::len), Some(count), "{what}");
        check("exchanges", topology.exchanges().len());
        check("queues", topology.queues().len());
        check("bindings", topology.bindings().len());
        assert_eq!(
            json["exchanges"][0],
            json!({"name": "xtsystems.events", "type": "topic", "arguments": {}})
        );
        assert_eq!(json["queues"][0]["name"], "xtwebhooks.dead-letters");
    }
}
