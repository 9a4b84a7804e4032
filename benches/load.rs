//! The product under load, on the machine at hand: bursts and steady rates, one line each.
//!
//! ```text
//! make bench                                              all of it, on the servers that scripts/services brings up
//! cargo bench --bench load -- --only burst-1,rate-200     some, on DATABASE_URL and AMQP_URL
//! cargo bench --bench load -- --events 2000 --json        with so many events in each case; a line of JSON for each
//! cargo bench --bench load -- --only kill --kills 5       so many kills, each in a burst of its own
//! ```
//! `XT_BIN` names another binary of the service than the one just built; `benches/compare` uses it.
//!
//! Publisher and receiver run in this process, the service as the real binary with its defaults. Latency is from the
//! start of the publish to the arrival of the whole request. Cost is CPU-seconds of the machine per 1,000 deliveries
//! less this process (Linux only), so it wants a quiet machine; it is split by process name into service, broker and
//! database. Everything stays on loopback, is bounded, and ends what it started.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    dead_code,
    reason = "counts and times of a run are small, its clock is the machine's, and `lanes` uses what this does not"
)]

#[path = "load/kill.rs"]
mod kill;
#[path = "load/machine.rs"]
mod machine;
#[path = "load/publish.rs"]
mod publish;
#[path = "load/receiver.rs"]
mod receiver;
#[path = "load/world.rs"]
mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{machine::Cpu, publish::Pace, receiver::Receiver, world::World};

/// Bytes of `data` in each event.
const DATA_BYTES: usize = 1024;
/// Events of each burst in which the service is killed.
const KILL_EVENTS: usize = 20_000;
/// Kills, unless `--kills` says how many.
const KILLS: usize = 20;
/// How long a case may take to arrive after its last publish.
const PATIENCE: Duration = Duration::from_mins(2);

/// One line of the table.
struct Case {
    name: &'static str,
    webhooks: usize,
    events: usize,
    pace: Pace,
}

const CASES: [Case; 5] = [
    Case { name: "burst-1", webhooks: 1, events: 20_000, pace: Pace::Burst { unconfirmed: 500 } },
    Case { name: "burst-10", webhooks: 10, events: 5_000, pace: Pace::Burst { unconfirmed: 64 } },
    Case { name: "rate-200", webhooks: 1, events: 4_000, pace: Pace::Steady { per_second: 200 } },
    Case { name: "rate-1000", webhooks: 1, events: 10_000, pace: Pace::Steady { per_second: 1_000 } },
    Case { name: "rate-200-10", webhooks: 10, events: 2_000, pace: Pace::Steady { per_second: 200 } },
];

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|arg| arg == name).and_then(|i| args.get(i + 1));
    let only: Option<Vec<&str>> = value("--only").map(|list| list.split(',').collect());
    let events: Option<usize> = value("--events").map(|n| n.parse()).transpose().context("--events")?;
    let kills = value("--kills").map(|n| n.parse()).transpose().context("--kills")?.unwrap_or(KILLS);
    let json = args.iter().any(|arg| arg == "--json");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if !json {
            println!(
                "{:<12} {:>9} {:>10} {:>9} {:>9}   {:>27} {:>9} {:>9}",
                "case",
                "arrived",
                "rate/s",
                "p50 ms",
                "p99 ms",
                "CPU s per 1,000 (s+b+d)",
                "cost",
                "peak MiB"
            );
        }
        for mut case in CASES {
            if only.as_ref().is_none_or(|only| only.contains(&case.name)) {
                case.events = events.unwrap_or(case.events);
                let figures = run(&case).await?;
                println!("{}", if json { figures.json() } else { figures.line() });
            }
        }
        if only.as_ref().is_none_or(|only| only.contains(&"kill")) {
            let mut figures = kill::Figures::default();
            for _ in 0..kills {
                figures.kill(events.unwrap_or(KILL_EVENTS)).await?;
            }
            println!("{}", if json { figures.json() } else { figures.line() });
        }
        Ok(())
    })
}

/// What was measured of a case; costs are CPU-seconds for 1,000 deliveries.
struct Figures {
    case: &'static str,
    arrived: receiver::Summary,
    service: f64,
    broker: f64,
    database: f64,
    cost: f64,
    peak_mib: f64,
}

impl Figures {
    fn line(&self) -> String {
        format!(
            "{:<12} {:>9} {:>10.0} {:>9.1} {:>9.1}   {:>8.3} {:>8.3} {:>8.3}   {:>8.3} {:>9.0}",
            self.case,
            self.arrived.count,
            self.arrived.rate,
            self.arrived.p50_ms,
            self.arrived.p99_ms,
            self.service,
            self.broker,
            self.database,
            self.cost,
            self.peak_mib,
        )
    }

    fn json(&self) -> String {
        serde_json::json!({
            "case": self.case,
            "arrived": self.arrived.count,
            "rate": self.arrived.rate,
            "p50_ms": self.arrived.p50_ms,
            "p99_ms": self.arrived.p99_ms,
            "service_cpu": self.service,
            "broker_cpu": self.broker,
            "database_cpu": self.database,
            "cost": self.cost,
            "peak_mib": self.peak_mib,
        })
        .to_string()
    }
}

/// Runs one case in a world of its own.
async fn run(case: &Case) -> Result<Figures> {
    let receiver = Receiver::start().await?;
    let world = World::new().await?;
    let company = world.webhooks(case.webhooks, receiver.port()).await?;
    let service = world.service().await?;
    let connection = publish::connect(&world).await?;
    // The first deliveries open connections and fill caches; they are not counted.
    publish::publish(&connection, &world, company, 20, DATA_BYTES, Pace::Burst { unconfirmed: 4 }).await?;
    receiver.wait_for(20 * case.webhooks, PATIENCE).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    receiver.reset();

    let before = Cpu::now(service.pid());
    let began = Instant::now();
    publish::publish(&connection, &world, company, case.events, DATA_BYTES, case.pace).await?;
    let expected = case.events * case.webhooks;
    receiver.wait_for(expected, PATIENCE).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let spent = Cpu::now(service.pid()).since(&before);
    let arrived = receiver.summary(began);
    anyhow::ensure!(
        arrived.unique == expected,
        "{} of {expected} deliveries are missing",
        expected - arrived.unique
    );
    let per_1000 = |seconds: f64| seconds * 1000.0 / expected as f64;
    let figures = Figures {
        case: case.name,
        arrived,
        service: per_1000(spent.service),
        broker: per_1000(spent.broker),
        database: per_1000(spent.database),
        cost: per_1000(spent.all_but_us),
        peak_mib: service.peak_mib(),
    };
    service.stop().await?;
    world.remove().await?;
    Ok(figures)
}
