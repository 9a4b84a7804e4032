//! `xtwebhooks run`: the service, with all roles in one process or with those given.
//!
//! The roles are built here: each setting from the command line goes to the module it belongs to, and no module reads
//! settings by itself.

use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use tokio::sync::{broadcast, watch};

use super::{args::duration, failure::CommandFailure};
use crate::{
    api::{self, Api, ApiServer},
    broker::{self, Broker, ConnectionState},
    clock::SystemClock,
    dead_letter::DeadLetterStage,
    deliver::{self, Deliver, Webhooks},
    egress,
    ingest::{self, Ingest, SchemaCache, Subscriptions},
    model::retry_policy,
    prune::{self, Prune},
    schedule::{self, Scheduler},
    shutdown::Shutdown,
    store::{self, changes, ledger::Ledger, time},
    telemetry::{
        Health, Metrics,
        probes::{self, Probes},
    },
};

/// Connections to the database that each role has: batches are few and large, so a few connections are enough.
const ROLE_CONNECTIONS: u32 = 4;
/// Connections to the database that prune has: it does one thing at a time.
const PRUNE_CONNECTIONS: u32 = 1;
/// Connections to the database through which the API changes something.
const API_CHANGES_CONNECTIONS: u32 = 4;
/// Connections through which the API authenticates callers.
const API_ACCESS_CONNECTIONS: u32 = 2;
/// Connections through which the API reads: its own, so that no reader slows deliveries.
const API_READS_CONNECTIONS: u32 = 2 * api::access::READINGS_MAX;
/// Connections that every process has for work that belongs to no role.
const UPKEEP_CONNECTIONS: u32 = 2;
/// Connections that wait for notifications, in a process that has a cache.
const LISTEN_CONNECTIONS: u32 = 1;
/// How often the database's clock is measured, and so how soon a role with nothing to write notices an outage.
const CLOCK_EVERY: Duration = Duration::from_secs(5);
/// How often a database that is unreachable at the start is tried again.
const DATABASE_AGAIN: Duration = Duration::from_secs(1);
/// A worker whose clock is further off takes no jobs until it is corrected.
pub(super) const CLOCK_OFFSET_MAX: Duration = Duration::from_mins(1);

/// A part of the service that can run apart.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Takes events in, and writes what is owed to whom.
    Ingest,
    /// Sends, and records what came of it.
    Deliver,
    /// Makes jobs of what is due in the ledger.
    Schedule,
    /// Stores what the broker dead-letters.
    DeadLetter,
    /// Makes partitions ahead, and drops those past the retention.
    Prune,
    /// Answers the REST API.
    Api,
}

/// The settings of the service.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// The roles of this process, separated by commas [default: all]
    #[arg(long, env = "ROLE", value_enum, value_name = "ROLES", value_delimiter = ',')]
    pub(super) role: Vec<Role>,
    /// How long a shutdown waits for running work; a second signal ends the process at once
    #[arg(long, env = "SHUTDOWN_GRACE", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(super) shutdown_grace: Duration,
    /// Messages that each consumer may hold unacknowledged
    #[arg(long, env = "PREFETCH", value_name = "COUNT", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) prefetch: u16,
    #[command(flatten)]
    pub(super) probes: probes::Config,
    #[command(flatten)]
    pub(super) store: store::Config,
    #[command(flatten)]
    pub(super) broker: broker::Config,
    #[command(flatten)]
    pub(super) ingest: ingest::Config,
    #[command(flatten)]
    pub(super) deliver: deliver::Config,
    #[command(flatten)]
    pub(super) egress: egress::Config,
    #[command(flatten)]
    pub(super) schedule: schedule::Config,
    #[command(flatten)]
    pub(super) prune: prune::Config,
    #[command(flatten)]
    pub(super) api: api::Config,
}

impl Args {
    /// Refuses settings that are wrong only in combination.
    pub(super) fn check(&self) -> Result<(), CommandFailure> {
        let longest_wait = Duration::from_secs(retry_policy::SCHEDULE_WAIT_SECONDS_MAX.into());
        let longest_wait = longest_wait.mul_f64(1.0 + retry_policy::JITTER).max(self.deliver.retry_after_max);
        self.prune
            .check(longest_wait, self.schedule.park_max)
            .map_err(|error| CommandFailure::Usage(error.to_string()))?;
        let needed = self.deliver.fresh_max + self.egress.timeout_max + self.deliver.lease_margin;
        if self.schedule.rescue_grace <= needed {
            return Err(CommandFailure::Usage(format!(
                "RESCUE_GRACE is {}; it must be longer than FRESH_MAX, TIMEOUT_MAX and LEASE_MARGIN together, which are \
                 {}, or a delivery could be rescued that is still on its way",
                humantime::format_duration(self.schedule.rescue_grace),
                humantime::format_duration(needed),
            )));
        }
        Ok(())
    }

    fn has(&self, role: Role) -> bool {
        self.role.is_empty() || self.role.contains(&role)
    }
}

/// How many connections to the database a process with these roles opens at most; none named are all.
pub(super) fn connections(roles: &[Role]) -> u32 {
    let has = |role: &Role| roles.is_empty() || roles.contains(role);
    let of_role = |role| match role {
        Role::Prune => PRUNE_CONNECTIONS,
        Role::Api => API_CHANGES_CONNECTIONS + API_ACCESS_CONNECTIONS + API_READS_CONNECTIONS,
        _ => ROLE_CONNECTIONS,
    };
    let listens = has(&Role::Ingest) || has(&Role::Deliver);
    let of_roles: u32 = Role::value_variants().iter().copied().filter(has).map(of_role).sum();
    UPKEEP_CONNECTIONS + of_roles + if listens { LISTEN_CONNECTIONS } else { 0 }
}

pub(super) async fn execute(args: Args) -> Result<(), CommandFailure> {
    args.check()?;
    // Each receiver and each idle connection needs a descriptor; many systems start with 1,024.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let (shutdown, health, metrics) = (Shutdown::default(), Health::default(), Metrics::new());
    let probes = Probes::bind(&args.probes).await.context("cannot open the port for health and metrics")?;
    tracing::info!(address = %probes.address(), "health and metrics");
    let end = shutdown.clone();
    let serving = probes.serve(health.clone(), metrics.clone(), async move { end.forced().await });
    tokio::spawn(serving);

    let upkeep = store::pool(&args.store, "upkeep", UPKEEP_CONNECTIONS)?;
    let clock = SystemClock::default();
    let trouble = watch_database(&health);
    while let Err(error) = database(&upkeep, &clock).await {
        let store::Error::Unreachable(error) = error else { return Err(error.into()) };
        tracing::warn!(%error, "the database cannot be reached; trying again");
        trouble.send_replace(Some(error.to_string()));
        tokio::time::sleep(DATABASE_AGAIN).await;
    }
    trouble.send_replace(None);
    let broker = Broker::open_counted(args.broker.clone(), shutdown.clone(), metrics.broker.clone());
    watch_broker(&health, &broker);
    let signals = shutdown.clone();
    let grace = args.shutdown_grace;
    let stopping = tokio::spawn(async move { signals.on_signals(grace).await });
    let service = Service { args, shutdown, health, metrics, clock, broker };
    // The API needs the broker only to publish events; these are refused until it is connected.
    if service.args.has(Role::Api) {
        service.api().await?;
    }
    tokio::select! {
        ready = service.broker.ready() => ready?,
        () = service.shutdown.requested() => return Ok(()),
    }
    service.measure_clock(&upkeep, trouble);
    service.start(&upkeep)?;
    service.health.started();
    let finished = stopping.await.context("the task that waits for signals has ended")?;
    if finished.context("cannot receive signals")? {
        service.broker.close().await;
        tracing::info!("stopped; all running work was recorded");
    } else {
        tracing::warn!("stopped before all running work had finished; it will be repeated");
    }
    Ok(())
}

/// Checks that the database answers and is set up as the service needs it.
async fn database(upkeep: &sqlx::PgPool, clock: &SystemClock) -> store::Result<()> {
    store::pool::check_server(upkeep).await?;
    store::migrate::check(upkeep).await?;
    Ok(time::measure(upkeep, clock).await?)
}

/// What the roles are built from.
struct Service {
    args: Args,
    shutdown: Shutdown,
    health: Health,
    metrics: Metrics,
    clock: SystemClock,
    broker: Broker,
}

impl Service {
    /// Builds the roles of this process and starts them.
    fn start(&self, upkeep: &sqlx::PgPool) -> Result<(), CommandFailure> {
        let (changes, _) = broadcast::channel(changes::CHANGES_MAX);
        if self.args.has(Role::Ingest) || self.args.has(Role::Deliver) {
            let options = self.args.store.listen_options("listen")?;
            self.shutdown.spawn(changes::listen(options, changes.clone(), self.shutdown.clone()));
        }
        if self.args.has(Role::Ingest) {
            self.ingest(&changes)?;
        }
        if self.args.has(Role::Deliver) {
            self.deliver(&changes, upkeep)?;
        }
        if self.args.has(Role::DeadLetter) {
            let ledger = self.ledger("dead-letter", ROLE_CONNECTIONS)?;
            let stage =
                DeadLetterStage::new(&self.broker, ledger, self.metrics.clone(), self.shutdown.clone());
            self.stage("dead-letter", stage.run());
        }
        if self.args.has(Role::Schedule) {
            let scheduler = Scheduler::new(
                &self.args.schedule,
                &schedule::Parts {
                    broker: &self.broker,
                    ledger: self.ledger("schedule", ROLE_CONNECTIONS)?,
                    clock: self.clock.clone(),
                    metrics: self.metrics.clone(),
                    shutdown: self.shutdown.clone(),
                    lane_jobs_max: self.args.deliver.lane_in_flight_max,
                },
            );
            self.stage("schedule", scheduler.run());
        }
        if self.args.has(Role::Prune) {
            let prune = Prune {
                // Joins over whole days are right here, so this is no hot pool.
                ledger: Ledger::new(store::pool(&self.args.store, "prune", PRUNE_CONNECTIONS)?),
                clock: self.clock.clone(),
                metrics: self.metrics.clone(),
                shutdown: self.shutdown.clone(),
                config: self.args.prune.clone(),
            };
            self.stage("prune", prune.run());
        }
        Ok(())
    }

    /// Opens the API's port and answers there.
    async fn api(&self) -> Result<(), CommandFailure> {
        let server = ApiServer::bind(&self.args.api).await.context("cannot open the port for the API")?;
        tracing::info!(address = %server.address(), "api");
        let parts = api::Parts {
            changes: store::pool(&self.args.store, "api", API_CHANGES_CONNECTIONS)?,
            access: store::reading_pool(&self.args.store, "api-access", API_ACCESS_CONNECTIONS)?,
            reads: store::reading_pool(&self.args.store, "api-reads", API_READS_CONNECTIONS)?,
            broker: self.broker.clone(),
            client: egress::ReceiverClient::new(&self.args.egress)
                .map_err(|error| CommandFailure::Usage(error.to_string()))?,
            receivers: self.args.egress.clone(),
            limits: self.args.ingest.limits(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        };
        let api = Api::new(self.args.api.clone(), parts)
            .map_err(|error| CommandFailure::Usage(error.to_string()))?;
        let (router, _document) = api.router();
        let end = self.shutdown.clone();
        self.stage("api", server.serve(router, async move { end.requested().await }));
        Ok(())
    }

    fn ingest(&self, changes: &broadcast::Sender<changes::WebhookChange>) -> Result<(), CommandFailure> {
        let ledger = self.ledger("ingest", ROLE_CONNECTIONS)?;
        let parts = ingest::Parts {
            broker: &self.broker,
            subscriptions: Subscriptions::new(ledger.clone(), changes.subscribe(), &self.shutdown),
            schemas: SchemaCache::new(ledger.clone(), changes.subscribe(), &self.shutdown),
            ledger,
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            prefetch: self.args.prefetch,
        };
        for ingest in Ingest::both(&self.args.ingest, &parts) {
            self.stage("ingest", ingest.run());
        }
        Ok(())
    }

    fn deliver(
        &self,
        changes: &broadcast::Sender<changes::WebhookChange>,
        upkeep: &sqlx::PgPool,
    ) -> Result<(), CommandFailure> {
        let ledger = self.ledger("deliver", ROLE_CONNECTIONS)?;
        let parts = deliver::Parts {
            broker: &self.broker,
            webhooks: Webhooks::new(ledger.clone(), changes.subscribe(), &self.shutdown),
            ledger,
            upkeep: upkeep.clone(),
            client: egress::ReceiverClient::new(&self.args.egress)
                .map_err(|error| CommandFailure::Usage(error.to_string()))?,
            timeout_max: self.args.egress.timeout_max,
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            shutdown: self.shutdown.clone(),
            prefetch: self.args.prefetch,
        };
        self.stage("deliver", Deliver::new(&self.args.deliver, &parts).run());
        Ok(())
    }

    /// A ledger for a role, which readiness follows.
    fn ledger(&self, role: &'static str, connections: u32) -> Result<Ledger, CommandFailure> {
        let ledger = Ledger::new(store::hot_pool(&self.args.store, role, connections)?);
        let watched = ledger.clone();
        self.health.check(role, move || match watched.failing_for() {
            Some(failing) => {
                Err(format!("no commit to the ledger has succeeded for {} s", failing.as_secs()))
            }
            None => Ok(()),
        });
        Ok(ledger)
    }

    /// Runs a stage. A stage that ends before it is asked to is a fault that only a new process repairs.
    fn stage(&self, name: &'static str, stage: impl Future<Output = ()> + Send + 'static) {
        let (shutdown, health) = (self.shutdown.clone(), self.health.clone());
        let running = tokio::spawn(stage);
        self.shutdown.spawn(async move {
            let ended = running.await;
            if !shutdown.is_requested() {
                let why =
                    ended.err().map_or_else(|| "the task returned".to_owned(), |panic| panic.to_string());
                tracing::error!(stage = name, why, "a stage ended unexpectedly");
                health.stage_ended(name, why);
            }
        });
    }

    /// Measures the database's clock regularly, and so notices whether the database answers: a role with nothing to
    /// write would not notice an outage.
    fn measure_clock(&self, upkeep: &sqlx::PgPool, trouble: watch::Sender<Option<String>>) {
        let (clock, pool, shutdown, metrics) =
            (self.clock.clone(), upkeep.clone(), self.shutdown.clone(), self.metrics.clone());
        self.shutdown.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(CLOCK_EVERY) => {}
                    () = shutdown.requested() => return,
                }
                match time::measure(&pool, &clock).await {
                    Ok(()) => {
                        metrics.clock_offset_seconds.set(clock.offset().as_secs_f64());
                        trouble.send_replace(None);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the database's clock could not be measured");
                        trouble.send_replace(Some(error.to_string()));
                    }
                }
            }
        });
        let clock = self.clock.clone();
        self.health.check("clock", move || match clock.offset() {
            offset if offset > CLOCK_OFFSET_MAX => {
                Err(format!("this machine's clock differs from the database's by {} s; synchronise both with a time server", offset.as_secs()))
            }
            _ => Ok(()),
        });
    }
}

/// Lets readiness follow the database: not ready while the channel holds what is wrong with it.
fn watch_database(health: &Health) -> watch::Sender<Option<String>> {
    let (tell, trouble) = watch::channel(None);
    health.check("database", move || match &*trouble.borrow() {
        Some(trouble) => Err(format!("the database does not answer: {trouble}")),
        None => Ok(()),
    });
    tell
}

/// Lets readiness follow the broker.
fn watch_broker(health: &Health, broker: &Broker) {
    let broker = broker.clone();
    health.check("broker", move || match broker.state() {
        ConnectionState::Connected => Ok(()),
        ConnectionState::Blocked { reason } => Err(format!("RabbitMQ accepts no messages: {reason}")),
        ConnectionState::Connecting { since, error } => Err(format!(
            "no connection to RabbitMQ for {} s{}",
            since.elapsed().as_secs(),
            error.map(|error| format!(": {error}")).unwrap_or_default()
        )),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_opens_so_many_connections_at_most() {
        let check = |roles: &[Role], expected: u32| assert_eq!(connections(roles), expected, "{roles:?}");
        check(&[], 34);
        check(&[Role::Ingest], 7);
        check(&[Role::Schedule], 6);
        check(&[Role::Prune], 3);
        check(&[Role::Api], 16);
        check(&[Role::Ingest, Role::Deliver], 11);
    }
}
