//! Keeps what the broker gave up, each with its reason; the queue of dead letters is normally empty.
//!
//! ```text
//! rejected by ingest (xt-reason) ─▶ dead_letters
//! job of a delivery given up     ─▶ its row is there already; made sure of
//! message at the delivery limit  ─▶ asked for again, alone ─▶ at the limit there: given up, with that reason
//! ```
//!
//! Guarantees: a message is acknowledged only when it stands in the ledger or is confirmed in the queue where it is
//! asked for alone. Whatever comes twice is kept once. The delivery limit alone kills nothing: rolling restarts with
//! a backlog count as deliveries too, and so do the innocent neighbours of a message that ends its worker.

use futures_util::FutureExt;
use sqlx::types::Uuid;

use crate::{
    broker::{
        Broker, Consumer, Death, Destination, Fate, Message, Outgoing, Publisher, Queue, Topology, jobs,
        tide_marks,
    },
    model::{DeadReason, DeliveryId, Job, Status, envelope::company_of},
    shutdown::Shutdown,
    store::{
        self, claim,
        dead_letters::{self, NewMessage},
        give_up::give_up,
        ledger::{BadRow, Ledger},
    },
    telemetry::{Metrics, labels::DeadLetterKind},
};

/// Dead letters held at once.
const PREFETCH: u16 = 50;
/// The pause before a message whose publishing was not confirmed is published again.
const PUBLISH_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The stage.
pub struct Keep {
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
    Suspect,
    /// It was handed out too often although it was alone, so often.
    EndedTheWorker(u32),
}

impl Keep {
    /// Builds the stage.
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

    /// Keeps dead letters until shutdown.
    pub async fn run(mut self) {
        while let Some(message) = self.consumer.next().await {
            let kept = match message.kind.as_deref() {
                Some(tide_marks::KIND) => Ok(true),
                Some(kind) if kind.starts_with(JOB_KINDS) => self.job(&message).await,
                _ => self.event(&message).await,
            };
            match kept {
                Ok(true) => message.receipt.ack(),
                // A stop came first; unacknowledged, the message comes again.
                Ok(false) => {}
                // Kept without what the ledger refuses, so this cannot be; it comes back with the next connection.
                Err(bad) => tracing::error!(%bad, "a dead letter cannot be kept"),
            }
        }
    }

    fn cause(&self, message: &Message) -> Cause {
        let deaths = message.headers.x_death();
        let at_limit = |death: &&Death| death.reason == "delivery_limit";
        let suspects = [Queue::SuspectEvents, Queue::SuspectJobs].map(|queue| self.topology.name(queue));
        match deaths.iter().find(at_limit) {
            // The account keeps every death; the latest stands first.
            Some(_) if deaths.first().is_some_and(|death| death.reason != "delivery_limit") => {
                Cause::Rejected
            }
            Some(death) if suspects.contains(&death.queue) => Cause::EndedTheWorker(SUSPECT_DELIVERIES),
            Some(_) => Cause::Suspect,
            None => Cause::Rejected,
        }
    }

    /// A job that was given up: by a worker, for one of its deliveries is dead; or by the broker.
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
            Cause::Suspect => return Ok(self.ask_alone(&job).await),
            Cause::EndedTheWorker(times) => self.end(&job, times).await?,
        }
        Ok(true)
    }

    /// Makes sure that each delivery of the job that is dead has its dead letter.
    async fn dead(&self, job: &Job) -> Result<(), BadRow> {
        let ids: Vec<DeliveryId> = job.deliveries.iter().map(|(delivery, _)| *delivery).collect();
        let ids = &ids;
        let standing = self
            .ledger
            .persist("keep", |pool| async move { claim::standing(&pool, ids).await }.boxed())
            .await?;
        for standing in standing.iter().filter(|standing| standing.status == Status::Dead) {
            self.metrics.keep_dead_letters.inc(DeadLetterKind::Delivery);
            tracing::info!(
                company = %standing.company,
                webhook = %standing.webhook,
                event = %standing.event,
                delivery = %standing.delivery,
                attempts = standing.attempts,
                "a delivery was given up"
            );
        }
        let dead: Vec<DeliveryId> =
            standing.iter().filter(|s| s.status == Status::Dead).map(|s| s.delivery).collect();
        let dead = &dead;
        self.ledger
            .persist("keep", |pool| async move { store::give_up::keep_dead(&pool, dead).await }.boxed())
            .await
    }

    /// Asks for each delivery of a suspect alone, so that a death of the worker is its own doing.
    async fn ask_alone(&self, job: &Job) -> bool {
        let alone = job.deliveries.iter().map(|delivery| {
            let job = Job { deliveries: vec![*delivery], body: bytes::Bytes::new(), ..job.clone() };
            Outgoing { to: Destination::Queue(Queue::SuspectJobs), ..jobs::encode(&job) }
        });
        self.publish(alone.collect()).await
    }

    /// A delivery that ended its worker although it was alone.
    async fn end(&self, job: &Job, times: u32) -> Result<(), BadRow> {
        let reason = format!("{} {times} times", DeadReason::EndedTheWorker);
        let ids: Vec<DeliveryId> = job.deliveries.iter().map(|(delivery, _)| *delivery).collect();
        tracing::error!(deliveries = ?ids, reason, "a delivery was given up");
        self.metrics.keep_dead_letters.inc(DeadLetterKind::Delivery);
        let (ids, attempt, reason) = (&ids, job.attempt, &reason);
        self.ledger
            .persist("keep", |pool| async move { give_up(&pool, ids, attempt, reason).await }.boxed())
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
            Cause::Suspect => {
                let mut headers = message.headers.clone();
                headers.set_str("xt-routing-key", original_key(message));
                let alone = Outgoing {
                    to: Destination::Queue(Queue::SuspectEvents),
                    message_id: message.message_id.clone().unwrap_or_default(),
                    kind: "",
                    timestamp: message.timestamp,
                    headers,
                    body: message.body.clone(),
                };
                return Ok(self.publish(vec![alone]).await);
            }
            Cause::EndedTheWorker(times) => {
                let reason = format!("{} {times} times", DeadReason::EndedTheWorker);
                self.keep(message, reason, None, "event").await?;
            }
            Cause::Rejected => self.keep(message, "rejected".to_owned(), None, "message").await?,
        }
        Ok(true)
    }

    /// Writes a message as it came.
    async fn keep(
        &self,
        message: &Message,
        reason: String,
        field: Option<String>,
        kind: &'static str,
    ) -> Result<(), BadRow> {
        self.metrics.keep_dead_letters.inc(match kind {
            "event" => DeadLetterKind::Event,
            _ => DeadLetterKind::Message,
        });
        let text = |name: &str| message.headers.get_str(name).map(|text| text.replace('\0', "\u{fffd}"));
        let letter = NewMessage {
            // Ingest gives each rejection an id of its own; a publisher's would be one for all companies, so anything
            // else is told apart by what it is.
            id: message
                .headers
                .get_str("xt-reason")
                .and(message.message_id.as_deref())
                .and_then(|id| Uuid::parse_str(id).ok())
                .unwrap_or_else(|| Uuid::new_v8(digest(message))),
            kind,
            // Found where it can be, so that its company sees it and may ask for it anew.
            company: company_of(&message.body, text("company_id").as_deref()),
            event_type: Some(original_key(message).replace('\0', "\u{fffd}")),
            reason: reason.replace('\0', "\u{fffd}"),
            field,
            body: message.body.to_vec(),
            headers: message.headers.to_json().to_string().replace("\\u0000", "\\ufffd"),
            routing_key: original_key(message).replace('\0', "\u{fffd}"),
            message_id: text("xt-message-id").or_else(|| message.message_id.clone()),
        };
        let letter = &letter;
        self.ledger
            .persist("keep", |pool| {
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
                () = self.shutdown.asked() => return false,
            }
        }
    }
}

/// How often a suspect is handed out; the table of queues says the same.
const SUSPECT_DELIVERIES: u32 = crate::broker::topology::SUSPECT_DELIVERY_LIMIT;

/// What the AMQP type of a job of any version begins with.
const JOB_KINDS: &str = "xtwebhooks.job.";

/// The routing key that XTSystems published it with.
fn original_key(message: &Message) -> &str {
    message.headers.get_str("xt-routing-key").unwrap_or(&message.routing_key)
}

fn digest(message: &Message) -> [u8; 16] {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(message.message_id.as_deref().unwrap_or_default());
    hash.update([0]);
    hash.update(message.headers.get_str("company_id").unwrap_or_default());
    hash.update([0]);
    hash.update(original_key(message));
    hash.update([0]);
    hash.update(&message.body);
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    id
}
