//! Takes in events: writes each with all its deliveries to the ledger, publishes jobs, then acknowledges the message.
//!
//! ```text
//! queue events ─▶ decode ─▶ place ─▶ match ─▶ one commit ─▶ publish jobs, prompt ones separately ─▶ acknowledge
//!                   └─▶ dead letter that names the field
//! ```
//!
//! Guarantees: a message is acknowledged only after its event and all its deliveries are committed and its jobs are
//! confirmed or left to schedule, or after the broker has confirmed its dead letter. A repeated event is acknowledged and
//! nothing is published for it. One that the broker hands out *again* may be that of a process that died before it had
//! published all jobs: where a row is still open, a job that claims is published through a retry queue, and the first
//! one, if it is out, is not fresh any more (`store/ingest_batch.rs`, `deliver/session.rs`). One bad message does not
//! affect the others in its batch. When the ledger fails, messages are kept and the commit is retried.
//!
//! The jobs of a company that has few go to the prompt queues, so that they do not wait behind another company's
//! backlog. Jobs beyond its share (`fair_share.rs`), retries, and what schedule makes go to the ordinary queues.
//!
//! A batch is whatever has arrived: nothing waits for it to fill. Begin with [`Ingest::run`]. `intake.rs` makes an
//! event of a message, `fan_out.rs` its deliveries and jobs, `publish.rs` publishes them, `subscriptions.rs` knows
//! which webhooks want it, `schemas.rs` what types must look like, and `dropped.rs` counts what came for erased
//! companies.

mod dropped;
mod fair_share;
mod fan_out;
mod intake;
mod publish;
mod schemas;
mod subscriptions;

use std::sync::{Arc, Mutex};

use clap::Args;
use futures_util::FutureExt;

pub use fair_share::SHARE_JOBS;
pub(crate) use schemas::SchemaCache;
pub(crate) use subscriptions::Subscriptions;

use self::{dropped::Dropped, fair_share::FairShares, publish::Way};
use crate::{
    broker::{Broker, Consumer, Message, Queue},
    clock::SystemClock,
    model::EnvelopeLimits,
    shutdown::Shutdown,
    store::ledger::Ledger,
    telemetry::Metrics,
};

/// Events written in one statement. More would make the commit longer without making an event cheaper.
pub const BATCH_EVENTS_MAX: usize = 500;
/// The most batches whose jobs may be on their way to the broker at once; beyond that ingest waits for the oldest. The
/// prompt ones are counted separately.
pub const PUBLISHING_BATCHES_MAX: usize = 16;

/// What may come in.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Ingest")]
pub(crate) struct Config {
    /// The largest message accepted, in bytes; a larger one becomes a dead letter
    #[arg(long, env = "EVENT_BYTES_MAX", default_value_t = 256 * 1024, value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    pub event_bytes_max: u32,

    /// Treat two messages without an id and with identical bytes as one event
    #[arg(long, env = "DEDUPE_IDENTICAL", default_value_t = true, action = clap::ArgAction::Set)]
    pub dedupe_identical: bool,

    /// Maximum number of deliveries of one event in a job, which carries the event's data once
    #[arg(long, env = "JOB_DELIVERIES_MAX", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub job_deliveries_max: u16,
}

impl Config {
    /// What may come in, by the broker or by the API.
    #[must_use]
    pub fn limits(&self) -> EnvelopeLimits {
        EnvelopeLimits {
            event_bytes_max: usize::try_from(self.event_bytes_max).unwrap_or(usize::MAX),
            dedupe_identical: self.dedupe_identical,
        }
    }
}

pub(crate) struct Ingest {
    consumer: Consumer,
    worker: IngestWorker,
}

/// What a batch is worked on with.
#[derive(Clone)]
struct IngestWorker {
    ledger: Ledger,
    /// The ordinary publishing channel, and the prompt one.
    ordinary: Way,
    prompt: Way,
    shares: Arc<Mutex<FairShares>>,
    subscriptions: Subscriptions,
    schemas: SchemaCache,
    dropped: Dropped,
    clock: SystemClock,
    metrics: Metrics,
    limits: EnvelopeLimits,
    /// The process that adds to the counts, so that no two processes contend for a row.
    writer: i32,
    job_deliveries_max: usize,
    shutdown: Shutdown,
}

/// What the stage is built from.
#[derive(Clone)]
pub(crate) struct Parts<'a> {
    /// Where events come from and jobs go.
    pub broker: &'a Broker,
    /// Where everything is written.
    pub ledger: Ledger,
    /// Which webhooks want what.
    pub subscriptions: Subscriptions,
    /// What the types of events must look like.
    pub schemas: SchemaCache,
    /// The database's time.
    pub clock: SystemClock,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    /// Messages held at once.
    pub prefetch: u16,
}

impl Ingest {
    /// The two consumers of the stage: of the queue of events, and of the events in quarantine, which are taken one by
    /// one.
    #[must_use]
    pub fn both(config: &Config, parts: &Parts<'_>) -> [Self; 2] {
        let worker = IngestWorker {
            ledger: parts.ledger.clone(),
            ordinary: Way::new(parts.broker.publisher(), parts.broker.window()),
            prompt: Way::new(parts.broker.publisher(), parts.broker.prompt_window()),
            shares: Arc::default(),
            subscriptions: parts.subscriptions.clone(),
            schemas: parts.schemas.clone(),
            dropped: Dropped::start(parts.ledger.clone(), &parts.shutdown),
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            limits: config.limits(),
            writer: fastrand::i32(1..),
            job_deliveries_max: config.job_deliveries_max.into(),
            shutdown: parts.shutdown.clone(),
        };
        [(Queue::Events, parts.prefetch), (Queue::QuarantineEvents, 1)].map(|(queue, prefetch)| Self {
            consumer: parts.broker.consumer(&queue, prefetch),
            worker: worker.clone(),
        })
    }

    /// Takes events until shutdown is asked for.
    pub async fn run(mut self) {
        self.worker.prompt.look().await;
        while let Some(first) = self.consumer.next().await {
            let mut batch = vec![first];
            while batch.len() < BATCH_EVENTS_MAX {
                match self.consumer.next().now_or_never() {
                    Some(Some(message)) => batch.push(message),
                    _ => break,
                }
            }
            self.worker.take(batch).await;
        }
    }
}

impl IngestWorker {
    /// The way of a batch, in the order in which it happens.
    async fn take(&self, messages: Vec<Message>) {
        let judge = self.schemas.clone().now().await;
        let arrivals = self.decode(messages, &judge);
        let arrivals = self.without_erased(arrivals).await;
        let arrivals = self.place(arrivals).await;
        self.fan_out(arrivals).await;
    }
}
