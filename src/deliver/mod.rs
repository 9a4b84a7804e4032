//! Carries deliveries to receivers, one attempt at a time.
//!
//! ```text
//! job ─▶ webhook's present state ─▶ lane ─▶ fresh? else claim ─▶ request ─▶ record ─▶ next job ─▶ acknowledge
//!            └─▶ held, cancelled       └─▶ parked (no room within 250 ms)
//! ```
//!
//! A fresh job brings its body; any other must claim its delivery, and the ledger decides whether there is still
//! something to do. The lane decides first and the claim comes last, so that nothing waits with a claim in hand. A
//! job is acknowledged only after its attempt, and what follows from it, are committed. A crash anywhere repeats a
//! request at worst; it never loses one.
//!
//! When commits have failed for [`TROUBLE_AFTER`], no request starts and nothing more is taken: finished attempts
//! wait in memory and are committed first. Nobody gives a job back to the broker: it would burn its delivery limit.
//!
//! Begin with `attempt.rs`: its steps stand in the order in which they happen. `taking.rs` says when jobs are taken at
//! all, `lane.rs` what may start, `claim.rs` asks the ledger, `recorder.rs` writes what came of it, `aside.rs` what did
//! not come about.

mod aside;
mod attempt;
mod claim;
mod hand;
mod lane;
mod recorder;
mod taking;
mod webhooks;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use clap::Args;
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinError, JoinSet},
};

pub use recorder::RECORD_BATCH_MAX;
pub use taking::TROUBLE_AFTER;
pub use webhooks::Webhooks;

use self::{
    aside::Asides,
    claim::Claims,
    hand::{Hand, Task},
    lane::Lanes,
    recorder::Recorder,
};
use crate::{
    broker::{self, Broker, Consumer, Message, Queue, tide_marks::TideMark},
    clock::{Clock, SystemClock},
    egress,
    model::{DeliveryId, Trigger, WebhookId},
    shutdown::Shutdown,
    store::{ledger::Ledger, set_aside::Aside, tide_marks},
    telemetry::{Metrics, labels::JobResult},
};

/// What has waited so long for its lane, and would wait as long again, is parked.
pub const PARK_AFTER: Duration = Duration::from_millis(250);
/// Deliveries that may wait in the lanes of a worker; it takes no further job beyond. A job can bring sixteen, so the
/// prefetch alone would let them wait for a second when nothing is wrong at all.
pub const WAITING_MAX: usize = 1_000;
/// A parked delivery comes back no sooner: by then its lane has had time for others.
pub const PARKED_FOR: Duration = Duration::from_secs(1);

/// How deliveries are made.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Deliver")]
pub struct Config {
    /// Requests that a worker has in flight at most
    #[arg(long, env = "IN_FLIGHT_MAX", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight_max: u32,

    /// Requests in flight to one webhook in a worker, where the webhook does not say otherwise
    #[arg(long, env = "LANE_IN_FLIGHT_MAX", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub lane_in_flight_max: u32,

    /// How long a job may go to its receiver without asking the ledger
    #[arg(long, env = "FRESH_MAX", default_value = "30s", value_parser = humantime::parse_duration)]
    pub fresh_max: Duration,

    /// The longest `Retry-After` that is followed
    #[arg(long, env = "RETRY_AFTER_MAX", default_value = "24h", value_parser = humantime::parse_duration)]
    pub retry_after_max: Duration,

    /// How long after its timeout an attempt may take to be recorded, before another may start it
    #[arg(long, env = "LEASE_MARGIN", default_value = "10s", value_parser = humantime::parse_duration)]
    pub lease_margin: Duration,
}

/// What the stage is built from.
#[derive(Clone)]
pub struct Parts<'a> {
    /// Where jobs come from and retries go.
    pub broker: &'a Broker,
    /// Where attempts are written.
    pub ledger: Ledger,
    /// What is known of webhooks.
    pub webhooks: Webhooks,
    /// The way out.
    pub client: egress::Client,
    /// The longest timeout of an attempt.
    pub timeout_max: Duration,
    /// The database's time.
    pub clock: SystemClock,
    /// What is counted.
    pub metrics: Metrics,
    /// When to end.
    pub shutdown: Shutdown,
    /// Jobs held at once, for each shard.
    pub prefetch: u16,
}

/// The stage.
pub struct Deliver {
    worker: Arc<Worker>,
    consumers: Vec<Consumer>,
    recorder: Recorder,
}

/// What the tasks of a worker share.
struct Worker {
    lanes: Mutex<Lanes<Task>>,
    /// Told whenever the last request in flight may have ended.
    idle: Notify,
    /// Told whenever fewer than [`WAITING_MAX`] may be waiting again.
    room: Notify,
    claims: Claims,
    asides: Asides,
    finished: mpsc::UnboundedSender<recorder::Finished>,
    webhooks: Webhooks,
    client: egress::Client,
    ledger: Ledger,
    clock: SystemClock,
    metrics: Metrics,
    shutdown: Shutdown,
    fresh_max: TimeDelta,
    lane_in_flight_max: usize,
    timeout_max: Duration,
    lease_margin: Duration,
    retry_after_max: Duration,
}

impl Deliver {
    /// A worker over all shards, and over the jobs suspected of ending their worker, which it takes one by one.
    #[must_use]
    pub fn new(config: &Config, parts: &Parts<'_>) -> Self {
        let (finished, recorded) = mpsc::unbounded_channel();
        let worker = Arc::new_cyclic(|worker| Worker {
            lanes: Mutex::new(Lanes::new(usize::try_from(config.in_flight_max).unwrap_or(usize::MAX))),
            idle: Notify::new(),
            room: Notify::new(),
            claims: Claims::start(worker.clone(), parts.ledger.clone(), &parts.shutdown),
            asides: Asides::start(parts.ledger.clone(), &parts.shutdown),
            finished,
            webhooks: parts.webhooks.clone(),
            client: parts.client.clone(),
            ledger: parts.ledger.clone(),
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            shutdown: parts.shutdown.clone(),
            fresh_max: TimeDelta::from_std(config.fresh_max).unwrap_or(TimeDelta::MAX),
            lane_in_flight_max: usize::try_from(config.lane_in_flight_max).unwrap_or(usize::MAX),
            timeout_max: parts.timeout_max,
            lease_margin: config.lease_margin,
            retry_after_max: config.retry_after_max,
        });
        let recorder = Recorder {
            finished: recorded,
            ledger: parts.ledger.clone(),
            publisher: parts.broker.publisher(),
            metrics: parts.metrics.clone(),
            shutdown: parts.shutdown.clone(),
        };
        let consumers = parts
            .broker
            .deliveries_queues()
            .into_iter()
            .map(|queue| (queue, parts.prefetch))
            .chain([(Queue::SuspectJobs, 1)])
            .map(|(queue, prefetch)| parts.broker.consumer(&queue, prefetch))
            .collect();
        Self { worker, consumers, recorder }
    }

    /// Delivers until shutdown is asked for, then finishes and records what is in flight.
    pub async fn run(self) {
        let Self { worker, consumers, recorder } = self;
        let mut recorder = tokio::spawn(recorder.run());
        let parking = tokio::spawn(park(Arc::clone(&worker)));
        let mut taking: JoinSet<()> =
            consumers.into_iter().map(|consumer| taking::take(Arc::clone(&worker), consumer)).collect();
        let ended = tokio::select! {
            ended = all(&mut taking) => ended,
            recorder = &mut recorder => recorder,
        };
        parking.abort();
        if !worker.shutdown.is_asked() {
            // Requests whose end nobody records must not be made: the process is started anew instead.
            tracing::error!(?ended, "a part of the worker has ended by itself");
            worker.lanes(Lanes::stop);
            return;
        }
        worker.drain().await;
        // The recorder ends with the last sender of finished attempts.
        drop(worker);
        if let Err(panicked) = recorder.await {
            tracing::error!(%panicked, "the recorder has ended");
        }
    }
}

/// Waits for every consumer, or for the first that fails.
async fn all(taking: &mut JoinSet<()>) -> Result<(), JoinError> {
    while let Some(ended) = taking.join_next().await {
        ended?;
    }
    Ok(())
}

/// Gives back to the ledger what has waited too long for its lane.
async fn park(worker: Arc<Worker>) {
    let mut ticks = tokio::time::interval(PARK_AFTER);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(since) = Instant::now().checked_sub(PARK_AFTER) else { continue };
        let overdue = worker.lanes(|lanes| lanes.overdue(since));
        for task in overdue {
            worker.metrics.deliver_jobs.inc(JobResult::Parked);
            worker.asides.send(&task.hand, task.delivery, Aside::Parked(PARKED_FOR), false);
        }
        worker.room.notify_waiters();
    }
}

impl Worker {
    fn lanes<R>(&self, work: impl FnOnce(&mut Lanes<Task>) -> R) -> R {
        // A panic cannot leave the lanes half changed: no step of theirs calls anything foreign.
        work(&mut self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// A message of a deliveries queue: a job, a tide mark, or something that is neither.
    async fn take(self: &Arc<Self>, message: Message) {
        if let Some(mark) = broker::tide_marks::decode(&message) {
            self.tide_mark(mark, message);
            return;
        }
        match broker::jobs::decode(&message) {
            Ok(job) => self.take_job(Hand::new(job, message.redelivered, message.receipt)).await,
            Err(bad) => {
                tracing::error!(%bad, "a message in a deliveries queue is no job; it is now a dead letter");
                self.metrics.deliver_jobs.inc(JobResult::Bad);
                message.receipt.reject();
            }
        }
    }

    /// Writes down that the mark came through. If that fails, the next mark says the same.
    fn tide_mark(&self, mark: TideMark, message: Message) {
        let pool = self.ledger.pool().clone();
        self.shutdown.spawn(async move {
            if let Err(error) = tide_marks::through(&pool, mark.shard, mark.number).await {
                tracing::debug!(%error, "a tide mark was not recorded");
            }
            message.receipt.ack();
        });
    }

    /// Looks at the present state of each webhook, sets aside what may not be sent, and offers the rest to the lanes.
    async fn take_job(self: &Arc<Self>, hand: Arc<Hand>) {
        let mut missing = Vec::new();
        let mut known = HashMap::with_capacity(hand.job.deliveries.len());
        for (_, webhook) in &hand.job.deliveries {
            match self.webhooks.cached(*webhook).await {
                Some(found) => drop(known.insert(*webhook, found)),
                None => missing.push(*webhook),
            }
        }
        if !missing.is_empty() {
            match self.webhooks.read(&missing).await {
                Ok(read) => known.extend(read),
                Err(bad) => {
                    // The job stays with us unacknowledged and comes back with the next connection.
                    tracing::error!(%bad, "cannot read the webhooks of a job");
                    return;
                }
            }
        }
        for &(delivery, webhook) in &hand.job.deliveries {
            match known.get(&webhook) {
                Some(known) => {
                    self.admit(Task { hand: Arc::clone(&hand), delivery, known: Arc::clone(known) });
                }
                None => self.cancel(&hand, delivery, "webhook unknown"),
            }
        }
        self.start_what_may();
    }

    fn admit(&self, task: Task) {
        let webhook = &task.known.webhook;
        let test = task.hand.job.trigger == Trigger::Test;
        if webhook.company != task.hand.job.company {
            self.cancel(&task.hand, task.delivery, "webhook unknown");
        } else if webhook.deleted {
            self.cancel(&task.hand, task.delivery, "webhook deleted");
        } else if !webhook.active && !test {
            self.cancel(&task.hand, task.delivery, "webhook inactive");
        } else if webhook.pause.is_some() && !test {
            self.metrics.deliver_jobs.inc(JobResult::Held);
            self.asides.send(&task.hand, task.delivery, Aside::Held, false);
        } else {
            let limit = webhook.max_in_flight.map_or(self.lane_in_flight_max, |max| max as usize);
            let id = webhook.id;
            self.lanes(|lanes| lanes.offer(id, limit, Instant::now(), task));
        }
    }

    fn cancel(&self, hand: &Arc<Hand>, delivery: DeliveryId, reason: &'static str) {
        self.metrics.deliver_jobs.inc(JobResult::Cancelled);
        self.asides.send(hand, delivery, Aside::Cancelled(reason), false);
    }

    /// Starts whatever has a place: fresh tasks go to their request, the others put their question to the ledger.
    fn start_what_may(self: &Arc<Self>) {
        while let Some(task) = self.lanes(Lanes::next) {
            let place = Place { worker: Arc::clone(self), webhook: task.known.webhook.id };
            if task.hand.is_fresh(self.clock.now(), self.fresh_max) {
                self.metrics.deliver_jobs.inc(JobResult::Fresh);
                let (body, trace) = (task.hand.job.body.clone(), task.hand.job.traceparent.clone());
                tokio::spawn(attempt::attempt(task, body, trace, place));
            } else {
                self.claims.send(task, place);
            }
        }
    }

    /// Waits until nothing is in flight; what waits in the lanes comes back from the broker.
    async fn drain(&self) {
        self.lanes(Lanes::stop);
        loop {
            let idle = self.idle.notified();
            if self.lanes(|lanes| lanes.in_flight()) == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// A place in a lane, given back when dropped.
struct Place {
    worker: Arc<Worker>,
    webhook: WebhookId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let in_flight = self.worker.lanes(|lanes| {
            lanes.ended(self.webhook);
            lanes.in_flight()
        });
        if in_flight == 0 {
            self.worker.idle.notify_waiters();
        }
        self.worker.start_what_may();
        if self.worker.lanes(|lanes| lanes.waiting()) < WAITING_MAX {
            self.worker.room.notify_waiters();
        }
    }
}
