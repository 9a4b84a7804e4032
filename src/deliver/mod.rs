//! Carries deliveries to receivers, one attempt at a time.
//!
//! ```text
//! job ─▶ webhook's present state ─▶ lane ─▶ fresh? else claim ─▶ request ─▶ record ─▶ next job ─▶ acknowledge
//!            ├─▶ held, cancelled       └─▶ parked (no room within 250 ms, its slot is far off)
//!            └─▶ parked (breaker open, rate-limited)
//! ```
//!
//! A fresh job carries its payload. Any other job must claim its delivery, and the ledger decides whether there is
//! still something to do. `session.rs` says what a claim is worth once its worker is dead, and when no job is fresh. The lane decides first and the claim comes last, so nothing waits while it holds a claim. A
//! job is acknowledged only after its attempt and the next step are committed. A crash anywhere repeats a request at
//! worst; it never loses one.
//!
//! When commits have failed for [`consume::TROUBLE_AFTER`], no request starts and no more jobs are consumed: finished
//! attempts wait in memory and are committed first. No job is returned to the broker, because that would use up its
//! delivery limit.
//!
//! Begin with `attempt.rs`: its steps are in the order in which they happen. `consume.rs` decides when jobs are
//! consumed, `admission.rs` what becomes of their deliveries, `lane.rs` what may start (with `pace.rs` and `slow.rs`).
//! `claim.rs`, `pacing.rs` and `probe.rs` ask the ledger, `recorder.rs` writes the attempts, `outcomes.rs` derives what
//! they mean for lanes, `disposition.rs` writes what was not sent.

mod admission;
mod attempt;
mod claim;
mod consume;
mod disposition;
mod lane;
mod linger;
mod outcomes;
mod pace;
mod pacing;
mod probe;
mod recorder;
mod session;
mod slow;
mod task;
mod webhooks;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::AtomicU64},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use clap::Args;
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinError, JoinSet},
};

pub use webhooks::Webhooks;

use self::{
    claim::Claims,
    consume::Backlogs,
    disposition::Dispositions,
    lane::Lanes,
    outcomes::Outcomes,
    pacing::{Keepers, SlotKeeper},
    recorder::Recorder,
    session::Session,
    task::Task,
};
use crate::{
    broker::{Broker, Consumer, Queue},
    clock::SystemClock,
    egress,
    model::{JobClass, Payload, WebhookId, breaker},
    shutdown::Shutdown,
    store::{lanes, ledger::Ledger},
    telemetry::{
        Metrics,
        labels::{JobResult, ParkedFor},
    },
};

/// What has waited this long for its lane, and would wait as long again, is parked.
pub const PARK_AFTER: Duration = Duration::from_millis(250);
/// The most deliveries that may wait in the lanes of a worker; beyond that it consumes no further job. A job can bring
/// sixteen, so the prefetch alone would let them wait for a second even when nothing is wrong. Those of prompt jobs are
/// counted separately, up to the same number, so that a waiting backlog keeps no prompt job out.
pub const WAITING_MAX: usize = 1_000;
/// A parked delivery comes back after this time at the earliest: by then its lane has had time for others.
pub const PARKED_FOR: Duration = Duration::from_secs(1);

/// How deliveries are made.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Deliver")]
pub struct Config {
    /// Maximum number of requests in flight in a worker
    #[arg(long, env = "IN_FLIGHT_MAX", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight_max: u32,

    /// Maximum number of requests in flight to one webhook in a worker, unless the webhook sets its own
    #[arg(long, env = "LANE_IN_FLIGHT_MAX", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub lane_in_flight_max: u32,

    /// Maximum age at which a fresh job may start its request without a claim in the ledger
    #[arg(long, env = "FRESH_MAX", default_value = "30s", value_parser = humantime::parse_duration)]
    pub fresh_max: Duration,

    /// The longest `Retry-After` that is honoured
    #[arg(long, env = "RETRY_AFTER_MAX", default_value = "24h", value_parser = humantime::parse_duration)]
    pub retry_after_max: Duration,

    /// Consecutive failures, over all workers, that open the breaker of a webhook
    #[arg(long, env = "BREAKER_FAILURES", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub breaker_failures: u32,

    /// Wait before the first probe of an open breaker; each failed probe doubles it, up to 5 minutes
    #[arg(long, env = "PROBE_WAIT_MIN", default_value = "5s", value_parser = humantime::parse_duration)]
    pub probe_wait_min: Duration,

    /// Time that an attempt has after its timeout to be recorded, before the delivery may be claimed again
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
    /// Connections of their own for the session, so that no batch makes its renewal late.
    pub upkeep: sqlx::PgPool,
    /// What is known of webhooks.
    pub webhooks: Webhooks,
    /// The way out.
    pub client: egress::ReceiverClient,
    /// The longest timeout of an attempt.
    pub timeout_max: Duration,
    /// The database's time.
    pub clock: SystemClock,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    /// Jobs held at once, for each shard.
    pub prefetch: u16,
}

pub struct Deliver {
    worker: Arc<DeliverWorker>,
    /// Each with the class of its jobs.
    consumers: Vec<(Consumer, JobClass)>,
    recorder: Recorder,
    upkeep: sqlx::PgPool,
}

/// What the tasks of a worker share.
struct DeliverWorker {
    lanes: Mutex<Lanes<Task>>,
    /// Notified whenever the last request in flight may have ended.
    idle: Notify,
    /// What waits in the lanes.
    backlogs: Backlogs,
    /// Jobs taken so far, which numbers them.
    jobs: AtomicU64,
    pacing: SlotKeeper,
    probe_requests: probe::ProbeRequests,
    claims: Claims,
    session: Arc<Session>,
    dispositions: Dispositions,
    finished: mpsc::UnboundedSender<attempt::Finished>,
    webhooks: Webhooks,
    client: egress::ReceiverClient,
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
    /// A worker for all shards and for the jobs in quarantine, which it takes one by one.
    #[must_use]
    pub fn new(config: &Config, parts: &Parts<'_>) -> Self {
        let (finished, recorded) = mpsc::unbounded_channel();
        let worker = Arc::new_cyclic(|worker| DeliverWorker {
            lanes: Mutex::new(Lanes::new(
                usize::try_from(config.in_flight_max).unwrap_or(usize::MAX),
                parts.prefetch.into(),
            )),
            jobs: AtomicU64::new(0),
            pacing: SlotKeeper::default(),
            probe_requests: probe::ProbeRequests::default(),
            idle: Notify::new(),
            backlogs: Backlogs::default(),
            claims: Claims::start(worker.clone(), parts.ledger.clone(), &parts.shutdown),
            session: Session::new(),
            dispositions: Dispositions::start(parts.ledger.clone(), &parts.shutdown),
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
            outcomes: Outcomes::new(
                breaker::Policy { failures: config.breaker_failures, probe_wait_min: config.probe_wait_min },
                config.retry_after_max,
            ),
        };
        let consumers = parts
            .broker
            .deliveries_queues()
            .into_iter()
            .map(|queue| (queue, parts.prefetch))
            .chain([(Queue::QuarantineJobs, 1)])
            .map(|(queue, prefetch)| {
                let class = match queue {
                    Queue::Prompt(_) => JobClass::Prompt,
                    _ => JobClass::Ordinary,
                };
                (parts.broker.consumer(&queue, prefetch), class)
            })
            .collect();
        Self { worker, consumers, recorder, upkeep: parts.upkeep.clone() }
    }

    /// Delivers until shutdown is asked for, then finishes and records what is in flight.
    pub async fn run(self) {
        let Self { worker, consumers, recorder, upkeep } = self;
        let session = Arc::clone(&worker.session);
        let keeping = tokio::spawn(Arc::clone(&session).keep(upkeep.clone()));
        let mut recorder = tokio::spawn(recorder.run());
        let parking = tokio::spawn(park(Arc::clone(&worker)));
        let keepers = Keepers::start(&worker);
        let mut taking: JoinSet<()> = (consumers.into_iter())
            .map(|(consumer, class)| consume::take(Arc::clone(&worker), consumer, class))
            .collect();
        let ended = tokio::select! {
            ended = all(&mut taking) => ended,
            recorder = &mut recorder => recorder,
        };
        parking.abort();
        drop(keepers);
        if !worker.shutdown.is_requested() {
            // Requests that nothing records must not be made: the process is restarted instead.
            tracing::error!(?ended, "a task of the worker ended unexpectedly");
            worker.lanes(Lanes::stop);
            keeping.abort();
            return;
        }
        worker.drain().await;
        // The recorder ends with the last sender of finished attempts.
        drop(worker);
        if let Err(panicked) = recorder.await {
            tracing::error!(%panicked, "the recorder ended unexpectedly");
        }
        keeping.abort();
        session.end(&upkeep).await;
    }
}

/// Waits for every consumer, or for the first that fails.
async fn all(taking: &mut JoinSet<()>) -> Result<(), JoinError> {
    while let Some(ended) = taking.join_next().await {
        ended?;
    }
    Ok(())
}

/// Parks what has waited too long for its lane.
async fn park(worker: Arc<DeliverWorker>) {
    let mut ticks = tokio::time::interval(PARK_AFTER);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(since) = Instant::now().checked_sub(PARK_AFTER) else { continue };
        let now = worker.clock.now();
        let overdue = worker.lanes(|lanes| lanes.overdue(since, now));
        let mut full = BTreeSet::new();
        for lane::Overdue { task, for_pace, is_full } in overdue {
            let why = if for_pace.is_some() { ParkedFor::Pace } else { ParkedFor::NoRoom };
            if for_pace.is_none() && is_full {
                full.insert(task.known.webhook.id);
            }
            worker.park(&task, for_pace.unwrap_or(PARKED_FOR), why, false);
        }
        worker.report_full(full.into_iter().collect());
    }
}

impl DeliverWorker {
    /// Notifies schedule of lanes that have no room. If that fails, they are reported again with the next delivery that
    /// is parked.
    fn report_full(&self, full: Vec<WebhookId>) {
        if full.is_empty() {
            return;
        }
        let pool = self.ledger.pool().clone();
        self.shutdown.spawn(async move {
            if let Err(error) = lanes::report_full(&pool, &full).await {
                tracing::debug!(%error, "could not notify schedule that lanes have no room");
            }
        });
    }

    fn lanes<R>(&self, work: impl FnOnce(&mut Lanes<Task>) -> R) -> R {
        // A panic cannot leave the lanes half changed: no step of theirs calls anything foreign.
        work(&mut self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Starts everything that has a permit: fresh tasks go to their request, the others claim first.
    fn start_what_may(self: &Arc<Self>) {
        while let Some(lane::Start { mut task, permit, slot }) = self.lanes(Lanes::next) {
            (task.slot, task.waits) = (slot, None);
            if !self.webhooks.is_current(&task.known) {
                // The webhook changed, or its breaker opened, while the task waited.
                self.free(permit);
                self.admit_again(task);
                continue;
            }
            let permit = Permit { worker: Arc::clone(self), key: permit, paced: slot.is_some() };
            match self.start_fresh(&task) {
                Some((payload, started)) => {
                    self.metrics.deliver_jobs.inc(JobResult::Fresh);
                    task.started = Some(started);
                    let trace = task.handle.job.traceparent.clone();
                    tokio::spawn(attempt::attempt(task, payload, trace, permit, false));
                }
                None => self.claims.send(task, permit),
            }
        }
    }

    /// What a fresh task sends; nothing if it must claim first.
    fn start_fresh(&self, task: &Task) -> Option<(Payload, session::Started)> {
        let job = &task.handle.job;
        let payload = job.payload.as_ref()?;
        if !task.handle.is_fresh(self.clock.now(), self.fresh_max) {
            return None;
        }
        let lease = self.timeout(task) + self.lease_margin;
        let started = self.session.start(task.delivery, job.queued_at, lease, Instant::now())?;
        Some((payload.clone(), started))
    }

    /// Frees a permit in a lane.
    fn free(&self, permit: usize) {
        let in_flight = self.lanes(|lanes| {
            lanes.ended(permit);
            lanes.in_flight()
        });
        if in_flight == 0 {
            self.idle.notify_waiters();
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

/// A permit in a lane, given back when dropped.
struct Permit {
    worker: Arc<DeliverWorker>,
    key: usize,
    /// Whether its lane has a pace.
    paced: bool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.worker.free(self.key);
        if self.paced {
            self.worker.pacing.look();
        }
        self.worker.start_what_may();
    }
}
