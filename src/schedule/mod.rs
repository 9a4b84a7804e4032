//! Makes jobs of what is due in the ledger.
//!
//! ```text
//! waits that no retry queue holds ─┐
//! what found no room in a queue   ─┼─▶ round-robin over webhooks ─▶ queued_at ─▶ job
//! held, of a resumed webhook      ─┤
//! replays, chunk by chunk         ─┤
//! lost jobs (watermarks)          ─┘
//!
//! changes of lanes and deliveries ─▶ operational events, recoveries
//! ```
//!
//! One process is active, by a lease; the others stand by and take over when it ends. Nothing here is kept that the
//! ledger does not know: a scheduler that dies at any line is followed by one that continues from the rows.
//!
//! Begin with [`Scheduler::run`]. `due.rs` makes jobs, `held.rs` releases and cancels, `replays.rs` expands replays,
//! `rescue.rs` finds deliveries whose job was lost, `quarantine.rs` those whose workers died. `lanes.rs` says how many
//! jobs a webhook's lane can take, `cursors.rs` up to when jobs were made; `transitions.rs` publishes what happened to
//! lanes and deliveries, and orders what follows.

mod cursors;
mod due;
mod held;
mod lanes;
mod paces;
mod quarantine;
mod replays;
mod rescue;
mod transitions;
mod visits;

use std::{
    collections::HashSet,
    convert::Infallible,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, Utc};
use clap::Args;
use sqlx::types::Uuid;

use crate::{
    broker::{Broker, Publisher, Window},
    clock::SystemClock,
    model::{
        WebhookId,
        envelope::PLACED_FUTURE_MAX,
        id::{first_at, first_of_day},
    },
    shutdown::Shutdown,
    store::{due as rows, fault::is_outage, lease, ledger::Ledger, partitions, waiting},
    telemetry::Metrics,
};

/// The name of the lease. A scheduler of release 0.3.0, where the role was `feed`, has the same, so only one is active.
const LEASE: &str = "feed";
/// How long the lease outlives its last renewal: others take over that long after a crash.
pub const LEASE_LASTS: Duration = Duration::from_secs(10);
/// How often it is renewed, and how often the processes on standby check it.
const LEASE_EVERY: Duration = Duration::from_secs(3);
/// The pause after a round that made no jobs.
const IDLE_EVERY: Duration = Duration::from_millis(250);
/// The pause after a round that made jobs, so that the queues can be counted again.
const BUSY_EVERY: Duration = Duration::from_millis(50);
/// How often changes of lanes are announced.
const ANNOUNCE_EVERY: Duration = Duration::from_millis(500);
/// How long to wait before retrying when the broker does not take an announcement.
const ANNOUNCE_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// How often schedule looks for webhooks that have failed for too long.
const AUTO_PAUSE_EVERY: Duration = Duration::from_secs(5);
/// How often held deliveries and open replays are processed.
const ORDERS_EVERY: Duration = Duration::from_millis(500);
/// How often schedule looks for the oldest open day.
const LOW_EVERY: Duration = Duration::from_secs(30);
/// How often watermarks are published.
pub const MARK_EVERY: Duration = Duration::from_secs(10);
/// The most rows that one statement of schedule changes.
pub const ROWS_MAX: i64 = 1_000;
/// Deliveries among which one round looks for those that have waited for too long.
pub const EXPIRY_LOOKED_AT_MAX: i64 = 2_000;
/// Webhooks handled in one round; the next round continues after them.
pub const WEBHOOKS_MAX: i64 = 500;

/// How jobs are made from the ledger.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Schedule")]
pub struct Config {
    /// How long after a watermark a delivery may still be on its way before its job counts as lost
    #[arg(long, env = "RESCUE_GRACE", default_value = "120s", value_parser = humantime::parse_duration)]
    pub rescue_grace: Duration,

    /// How often a watermark is published to each deliveries queue
    #[arg(long, env = "WATERMARK_EVERY", default_value = "10s", value_parser = humantime::parse_duration)]
    pub watermark_every: Duration,

    /// How long a delivery may wait for its webhook, counted from its last attempt or else from its intake
    #[arg(long, env = "PARK_MAX", default_value = "3d", value_parser = humantime::parse_duration)]
    pub park_max: Duration,

    /// How long a webhook may fail without a single success before it is paused and its events are held
    #[arg(long, env = "AUTO_PAUSE_AFTER", default_value = "5d", value_parser = humantime::parse_duration)]
    pub auto_pause_after: Duration,
}

pub struct Scheduler {
    ledger: Ledger,
    publisher: Publisher,
    window: Window,
    shards: u8,
    clock: SystemClock,
    metrics: Metrics,
    shutdown: Shutdown,
    config: Config,
    holder: String,
    lane_jobs_max: i64,
}

/// What the stage is built from.
#[derive(Clone)]
pub struct Parts<'a> {
    /// Where jobs go.
    pub broker: &'a Broker,
    /// Where they come from.
    pub ledger: Ledger,
    /// The database's time.
    pub clock: SystemClock,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    /// Jobs that one webhook gets in a round: what a worker lets be in flight for it, or they would be parked again.
    pub lane_jobs_max: u32,
}

/// What the active scheduler knows since it became active.
struct Round {
    /// When the grace of rescue began: since then the ledger has answered and the lease was ours.
    undisturbed_since: DateTime<Utc>,
    /// The least id that may be pending.
    low: Uuid,
    /// The least id that may be open, that is, pending or held.
    low_held: Uuid,
    /// Since when jobs may be lost; `rescue.rs` moves it.
    rescue_from: rescue::From,
    /// Up to where deliveries that wait for too long were looked for; nil to start from the beginning.
    expired_upto: Uuid,
    /// Where the next look at what is held continues.
    held_after: Uuid,
    /// What came due.
    due: due::DueCursor,
    /// The webhooks that the rounds visit.
    visits: visits::Visits,
    /// Up to when jobs were made of their backlogs.
    cursors: cursors::Cursors,
    /// The replay after which the next round of replays continues.
    orders_after: Uuid,
    /// What the rates of the open replays allow.
    paces: paces::Paces,
    /// What the lanes allow.
    lanes: lanes::Lanes,
    /// Webhooks whose new deliveries ingest leaves to schedule.
    flagged: HashSet<WebhookId>,
    next: DueState,
}

/// When each of the slower duties is next.
struct DueState {
    low: Instant,
    orders: Instant,
    mark: Instant,
    rescue: Instant,
    expiry: Instant,
    announce: Instant,
    auto_pause: Instant,
}

impl DueState {
    fn at_once() -> Self {
        let now = Instant::now();
        Self { low: now, orders: now, mark: now, rescue: now, expiry: now, announce: now, auto_pause: now }
    }
}

/// Whether a duty's time has come; if so, its next time is set.
fn is_due(next: &mut Instant, every: Duration) -> bool {
    let now = Instant::now();
    let due = *next <= now;
    if due {
        *next = now + every;
    }
    due
}

/// What a duty did, or nothing where it failed; only an outage of the ledger ends all of them.
fn duty<T>(duty: &'static str, result: sqlx::Result<T>) -> sqlx::Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if is_outage(&error) => Err(error),
        Err(error) => {
            tracing::warn!(duty, %error, "a duty of schedule failed; it will be tried again");
            Ok(None)
        }
    }
}

/// Whether there may be more webhooks behind those of a page.
fn is_full<T>(page: &[T]) -> bool {
    i64::try_from(page.len()).is_ok_and(|n| n >= WEBHOOKS_MAX)
}

impl Scheduler {
    #[must_use]
    pub fn new(config: &Config, parts: &Parts<'_>) -> Self {
        Self {
            ledger: parts.ledger.clone(),
            publisher: parts.broker.publisher(),
            window: parts.broker.window(),
            shards: parts.broker.topology().shards(),
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            shutdown: parts.shutdown.clone(),
            config: config.clone(),
            holder: Uuid::new_v4().to_string(),
            lane_jobs_max: parts.lane_jobs_max.into(),
        }
    }

    /// Makes jobs while it holds the lease, until shutdown.
    pub async fn run(self) {
        while !self.shutdown.is_requested() {
            match lease::take(self.ledger.pool(), LEASE, &self.holder, LEASE_LASTS).await {
                Ok(Some(_since)) => {
                    tracing::info!("schedule is active in this process");
                    self.metrics.schedule_active.set(true);
                    let lost = AtomicBool::new(false);
                    let ended = tokio::select! {
                        ended = self.run_rounds(&lost) => ended,
                        never = self.keep_lease(&lost) => match never {},
                    };
                    if let Err(error) = ended {
                        tracing::warn!(%error, "schedule was interrupted; the grace of rescues starts again");
                        self.ledger.leave_read_only(&error).await;
                    }
                    self.metrics.schedule_active.set(false);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "schedule cannot request its lease");
                    self.ledger.leave_read_only(&error).await;
                }
            }
            self.pause(LEASE_EVERY.min(LEASE_LASTS)).await;
        }
        // So that another need not wait for the lease to run out.
        let _ = lease::release(self.ledger.pool(), LEASE, &self.holder).await;
    }

    /// Renews the lease, however long a round takes. Says when it is lost: to another process, or because the ledger did
    /// not answer until it had run out.
    async fn keep_lease(&self, lost: &AtomicBool) -> Infallible {
        let mut until = Instant::now() + LEASE_LASTS;
        while !lost.load(Ordering::Relaxed) {
            tokio::time::sleep(LEASE_EVERY).await;
            let began = Instant::now();
            match lease::take(self.ledger.pool(), LEASE, &self.holder, LEASE_LASTS).await {
                Ok(Some(_since)) => until = began + LEASE_LASTS,
                Ok(None) => lost.store(true, Ordering::Relaxed),
                Err(error) => {
                    tracing::warn!(%error, "schedule cannot renew its lease");
                    lost.store(Instant::now() >= until, Ordering::Relaxed);
                }
            }
        }
        std::future::pending().await
    }

    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.shutdown.requested() => {}
        }
    }

    /// Runs rounds until the lease is lost, the ledger fails, or shutdown. The next scheduler starts the grace of
    /// rescues again: what could not be recorded meanwhile must not look lost.
    async fn run_rounds(&self, lost: &AtomicBool) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let mut round = Round {
            undisturbed_since: self.clock.now(),
            low: Uuid::nil(),
            low_held: Uuid::nil(),
            rescue_from: rescue::From::start(),
            expired_upto: Uuid::nil(),
            held_after: Uuid::nil(),
            due: due::DueCursor::from_day(waiting::due_index_from(pool).await?),
            visits: visits::Visits::default(),
            cursors: cursors::Cursors::none(),
            orders_after: Uuid::nil(),
            paces: paces::Paces::default(),
            lanes: lanes::Lanes::default(),
            flagged: waiting::flagged(pool).await?.into_iter().collect(),
            next: DueState::at_once(),
        };
        let given_back = duty("give back what was marked last", rows::give_back(pool).await)?;
        if let Some(given_back) = given_back.filter(|count| *count > 0) {
            tracing::info!(
                given_back,
                "the last jobs of the scheduler before may be missing; making new ones"
            );
        }
        while !self.shutdown.is_requested() && !lost.load(Ordering::Relaxed) {
            self.run_duties(&mut round).await?;
            let began = Instant::now();
            let jobs = duty("make jobs", self.due(&mut round).await)?.unwrap_or_default();
            self.metrics.schedule_round_seconds.observe(began.elapsed().as_secs_f64());
            let goes_on = jobs > 0 || round.visits.has_more() || round.due.goes_on();
            self.pause(if goes_on { BUSY_EVERY } else { IDLE_EVERY }).await;
        }
        Ok(())
    }

    /// The slower duties whose time has come. One that fails does not prevent the others.
    async fn run_duties(&self, round: &mut Round) -> sqlx::Result<()> {
        if is_due(&mut round.next.low, LOW_EVERY) {
            duty("find the oldest open day", self.find_low(round).await)?;
        }
        if is_due(&mut round.next.mark, self.config.watermark_every) {
            duty("publish watermarks", self.publish_marks().await)?;
        }
        if is_due(&mut round.next.rescue, self.config.watermark_every.min(MARK_EVERY) / 2) {
            duty("rescue deliveries without a job", self.rescue(round).await)?;
        }
        if is_due(&mut round.next.expiry, LOW_EVERY) {
            duty("expire what waited too long", self.expire(round).await)?;
        }
        if is_due(&mut round.next.orders, ORDERS_EVERY) {
            duty("release what was held", self.held(round).await)?;
            duty("expand replays", self.orders(round).await)?;
            round.lanes.forget(Instant::now());
        }
        if is_due(&mut round.next.auto_pause, AUTO_PAUSE_EVERY) {
            duty("pause failing webhooks", self.pause_failing(round).await)?;
        }
        if is_due(&mut round.next.announce, ANNOUNCE_EVERY) {
            duty("announce changes", self.announce(round).await)?;
        }
        Ok(())
    }

    /// Finds the least ids that may be open: those of the oldest days that owe something; of yesterday, where none does,
    /// because new rows may be placed a day back.
    async fn find_low(&self, round: &mut Round) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let days = partitions::days(pool).await?;
        let open = rows::oldest_open_days(pool, &days).await?;
        let yesterday = self.clock.now().date_naive().pred_opt().unwrap_or(NaiveDate::MIN);
        let pending = open.pending.unwrap_or(yesterday).min(yesterday);
        round.low = first_of_day(pending);
        round.low_held = first_of_day(open.held.unwrap_or(pending).min(pending));
        Ok(())
    }

    /// Gives up what has waited too long, a part of it at a time.
    async fn expire(&self, round: &mut Round) -> sqlx::Result<()> {
        let since = self.clock.now() - self.config.park_max;
        let high = first_at(since + PLACED_FUTURE_MAX);
        let after = round.expired_upto.max(round.low);
        let upto =
            rows::expire_parked(self.ledger.pool(), after, high, self.config.park_max, EXPIRY_LOOKED_AT_MAX);
        round.expired_upto = upto.await?.unwrap_or(Uuid::nil());
        if !round.expired_upto.is_nil() {
            // The others wait for the next round, so that nothing else is delayed.
            round.next.expiry = Instant::now();
        }
        Ok(())
    }
}
