//! Stores what the broker dead-letters, each message with its reason. The queue of dead letters is normally empty.
//!
//! ```text
//! rejected by ingest (xt-reason) ─▶ dead_letters
//! job of a delivery given up     ─▶ its dead letter exists already; counted
//! event at the delivery limit    ─▶ quarantine ─▶ at the limit there: once more, then given up
//! job at the delivery limit      ─▶ quarantine ─▶ at the limit there: a death is counted, back to schedule
//! ```
//!
//! Guarantees: a message is acknowledged only when it is in the ledger or confirmed in a quarantine queue. What arrives
//! twice is stored once. The delivery limit alone does not give anything up: rolling restarts with a backlog count as
//! deliveries too, and so do the harmless neighbours of a message that ends its worker. Nor does the limit in
//! quarantine: the first message there can also reach it while processes restart. A poison message that a worker claims
//! never reaches it, because the next worker that meets its claim gives the delivery back; its deaths are counted by
//! claims (`schedule/quarantine.rs`).

use futures_util::FutureExt;
use sqlx::types::Uuid;

use crate::{
    broker::{
        Broker, CONTENT_TYPE_KEPT, Consumer, Death, Destination, Fate, Message, Outgoing, Publisher, Queue,
        Topology, jobs, topology::QUARANTINE_DELIVERY_LIMIT, watermarks,
    },
    model::{DeadReason, DeliveryId, DeliveryStatus, Incoming, Job, envelope::company_of},
    shutdown::Shutdown,
    store::{
        self, claim,
        dead_letters::{self, NewMessage},
        give_up::died_unclaimed,
        ledger::{BadRow, Ledger},
    },
    telemetry::{Metrics, labels::DeadLetterKind},
};

/// Dead letters held at once.
const PREFETCH: u16 = 50;
/// The pause before a message whose publishing was not confirmed is published again.
const PUBLISH_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

pub struct DeadLetterStage {
    consumer: Consumer,
    publisher: Publisher,
    topology: Topology,
    ledger: Ledger,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// Why the broker dead-lettered a message.
enum Cause {
    /// A stage gave it up.
    Rejected,
    /// It was handed out too often, from a queue where it had neighbours.
    DiedAmongOthers,
    /// It was handed out too often although it was alone.
    DiedAlone,
}

impl DeadLetterStage {
    #[must_use]
    pub fn new(broker: &Broker, ledger: Ledger, metrics: Metrics, shutdown: Shutdown) -> Self {
        Self {
            consumer: broker.consumer(&Queue::DeadLetters, PREFETCH),
            publisher: broker.publisher(),
            topology: broker.topology().clone(),
            ledger,
            metrics,
            shutdown,
        }
    }

    /// Stores dead letters until shutdown.
    pub async fn run(mut self) {
        while let Some(message) = self.consumer.next().await {
            let kept = match message.kind.as_deref() {
                Some(watermarks::KIND) => Ok(true),
                Some(kind) if kind.starts_with(JOB_KINDS) => self.job(&message).await,
                _ => self.event(&message).await,
            };
            match kept {
                Ok(true) => message.receipt.ack(),
                // A stop came first; the unacknowledged message will be redelivered.
                Ok(false) => {}
                // It is stored without what the ledger rejects, so this cannot happen; it comes back with the next
                // connection.
                Err(bad) => tracing::error!(%bad, "a dead letter cannot be stored"),
            }
        }
    }

    fn cause(&self, message: &Message) -> Cause {
        let deaths = message.headers.x_death();
        let at_limit = |death: &&Death| death.reason == "delivery_limit";
        let quarantine =
            [Queue::QuarantineEvents, Queue::QuarantineJobs].map(|queue| self.topology.name(queue));
        match deaths.iter().find(at_limit) {
            // The header keeps every death, the latest first.
            Some(_) if deaths.first().is_some_and(|death| death.reason != "delivery_limit") => {
                Cause::Rejected
            }
            Some(death) if quarantine.contains(&death.queue) => Cause::DiedAlone,
            Some(_) => Cause::DiedAmongOthers,
            None => Cause::Rejected,
        }
    }

    /// A job that was rejected by a worker because one of its deliveries is dead, or dead-lettered by the broker.
    async fn job(&self, message: &Message) -> Result<bool, BadRow> {
        let job = match jobs::decode(message) {
            Ok(job) => job,
            Err(bad) => {
                self.keep(message, bad.to_string(), None, "message").await?;
                return Ok(true);
            }
        };
        match self.cause(message) {
            Cause::Rejected => self.dead(&job).await?,
            Cause::DiedAmongOthers => return Ok(self.quarantine_job(&job).await),
            Cause::DiedAlone => self.died_alone(&job).await?,
        }
        Ok(true)
    }

    /// Counts and logs the deliveries of the job that are dead; each got its dead letter in the statement that gave it
    /// up.
    async fn dead(&self, job: &Job) -> Result<(), BadRow> {
        let ids: Vec<DeliveryId> = job.deliveries.iter().map(|(delivery, _)| *delivery).collect();
        let ids = &ids;
        let standing = self
            .ledger
            .persist("dead-letter", |pool| async move { claim::standing(&pool, ids).await }.boxed())
            .await?;
        for standing in standing.iter().filter(|standing| standing.status == DeliveryStatus::Dead) {
            self.metrics.dead_letter_stored.inc(DeadLetterKind::Delivery);
            tracing::info!(
                company = %standing.company,
                webhook = %standing.webhook,
                event = %standing.event,
                delivery = %standing.delivery,
                attempts = standing.attempts,
                "a delivery was given up"
            );
        }
        Ok(())
    }

    /// Puts each delivery of a job into quarantine by itself, so that a death of the worker is its own doing.
    async fn quarantine_job(&self, job: &Job) -> bool {
        let deliveries = job.deliveries.iter();
        let alone: Vec<Job> = deliveries
            .map(|delivery| Job { deliveries: vec![*delivery], payload: None, ..job.clone() })
            .collect();
        let alone = alone.iter().map(|job| (job, Destination::Queue(Queue::QuarantineJobs)));
        self.publish(self.publisher.encode(alone)).await
    }

    /// A delivery in quarantine whose workers died before they had claimed it.
    async fn died_alone(&self, job: &Job) -> Result<(), BadRow> {
        let ids: Vec<DeliveryId> = job.deliveries.iter().map(|(delivery, _)| *delivery).collect();
        tracing::warn!(deliveries = ?ids, "a delivery in quarantine was redelivered too often; trying it again");
        let (ids, attempt) = (&ids, job.attempt);
        self.ledger
            .persist("dead-letter", |pool| async move { died_unclaimed(&pool, ids, attempt).await }.boxed())
            .await
    }

    /// A message of XTSystems: one that could not be decoded, or an event at the delivery limit.
    async fn event(&self, message: &Message) -> Result<bool, BadRow> {
        if let Some(reason) = message.headers.get_str("xt-reason") {
            let field = message.headers.get_str("xt-field").map(ToOwned::to_owned);
            self.keep(message, reason.to_owned(), field, "message").await?;
            return Ok(true);
        }
        match self.cause(message) {
            Cause::DiedAmongOthers => return Ok(self.quarantine_event(message, 1).await),
            Cause::DiedAlone => {
                let round = message.headers.get_i64(ROUND_HEADER).unwrap_or(1);
                if round < QUARANTINE_ROUNDS {
                    return Ok(self.quarantine_event(message, round + 1).await);
                }
                let times = i64::from(QUARANTINE_DELIVERY_LIMIT) * QUARANTINE_ROUNDS;
                let reason = format!("{} {times} times", DeadReason::EndedTheWorker);
                self.keep(message, reason, None, "event").await?;
            }
            Cause::Rejected => self.keep(message, "rejected".to_owned(), None, "message").await?,
        }
        Ok(true)
    }

    /// Puts an event into quarantine, behind those that are there already.
    async fn quarantine_event(&self, message: &Message, round: i64) -> bool {
        let mut headers = message.headers.clone();
        headers.set_str("xt-routing-key", &self.original_key(message));
        headers.set_str("xt-exchange", &original_exchange(message));
        headers.set_i64(ROUND_HEADER, round);
        if let Some(content_type) = &message.content_type {
            headers.set_str(CONTENT_TYPE_KEPT, content_type);
        }
        let alone = Outgoing {
            to: Destination::Queue(Queue::QuarantineEvents),
            message_id: message.message_id.clone().unwrap_or_default(),
            kind: "",
            timestamp: message.timestamp,
            headers,
            body: message.body.clone(),
        };
        self.publish(vec![alone]).await
    }

    /// The routing key that XTSystems published it with: ours, where we published it again, and the broker's, where it
    /// dead-lettered it, do not count.
    fn original_key(&self, message: &Message) -> String {
        if let Some(kept) = message.headers.get_str("xt-routing-key") {
            return kept.to_owned();
        }
        let events = self.topology.name(Queue::Events);
        let died = message.headers.x_death().into_iter().find(|death| death.queue == events);
        died.and_then(|death| death.routing_keys.into_iter().next())
            .unwrap_or_else(|| message.routing_key.clone())
    }

    /// Stores a message as it came.
    async fn keep(
        &self,
        message: &Message,
        reason: String,
        field: Option<String>,
        kind: &'static str,
    ) -> Result<(), BadRow> {
        self.metrics.dead_letter_stored.inc(match kind {
            "event" => DeadLetterKind::Event,
            _ => DeadLetterKind::Message,
        });
        let original_key = self.original_key(message);
        let text = |name: &str| message.headers.get_str(name).map(|text| text.replace('\0', "\u{fffd}"));
        let letter = NewMessage {
            // Ingest gives each rejection its own id; a publisher's id would be shared by all companies, so anything
            // else is identified by its content.
            id: message
                .headers
                .get_str("xt-reason")
                .and(message.message_id.as_deref())
                .and_then(|id| Uuid::parse_str(id).ok())
                .unwrap_or_else(|| Uuid::new_v8(digest(message, &original_key))),
            kind,
            // Determined where possible, so that its company sees it and may replay it.
            company: company_of(&Incoming {
                body: &message.body,
                routing_key: &original_key,
                message_id: None,
                timestamp: None,
                company_id: message.headers.get_str("company_id"),
                traceparent: None,
                content_type: message.content_type.as_deref(),
                attributes: message.headers.cloud_event(),
            }),
            event_type: Some(original_key.replace('\0', "\u{fffd}")),
            reason: reason.replace('\0', "\u{fffd}"),
            field,
            body: message.body.to_vec(),
            headers: message.headers.to_json().to_string().replace("\\u0000", "\\ufffd"),
            routing_key: original_key.replace('\0', "\u{fffd}"),
            message_id: text("xt-message-id").or_else(|| message.message_id.clone()),
        };
        let letter = &letter;
        self.ledger
            .persist("dead-letter", |pool| {
                async move { dead_letters::insert_message(&pool, letter).await.map_err(store::Error::into_sqlx) }.boxed()
            })
            .await
            .map(drop)
    }

    /// Publishes until every message is confirmed; false if a stop came first.
    async fn publish(&self, mut messages: Vec<Outgoing>) -> bool {
        loop {
            let fates = self.publisher.publish(messages.clone()).await;
            let mut fates = fates.into_iter();
            messages.retain(|_| fates.next() != Some(Fate::Confirmed));
            if messages.is_empty() {
                return true;
            }
            tokio::select! {
                () = tokio::time::sleep(PUBLISH_AGAIN) => {}
                () = self.shutdown.requested() => return false,
            }
        }
    }
}

/// How often an event goes through quarantine. More than once: with others queued before it, it seldom comes first
/// twice while processes restart.
pub const QUARANTINE_ROUNDS: i64 = 3;

/// How many times it has gone there.
const ROUND_HEADER: &str = "xt-alone";

/// What the AMQP type of a job of any version begins with.
const JOB_KINDS: &str = "xtwebhooks.job.";

/// The exchange that it was published to first; empty for the default one, which only we use.
fn original_exchange(message: &Message) -> String {
    if let Some(kept) = message.headers.get_str("xt-exchange") {
        return kept.to_owned();
    }
    let first = message.headers.x_death().pop();
    first.map_or_else(|| message.exchange.clone(), |death| death.exchange)
}

fn digest(message: &Message, original_key: &str) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(message.message_id.as_deref().unwrap_or_default());
    hash.update([0]);
    hash.update(message.headers.get_str("company_id").unwrap_or_default());
    hash.update([0]);
    hash.update(original_key);
    hash.update([0]);
    hash.update(&message.body);
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    id
}
