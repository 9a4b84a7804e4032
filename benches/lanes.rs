//! What one webhook costs another: hostile receivers beside healthy ones, a limit with a backlog behind it, a company
//! that publishes without measure, and an outage with a million deliveries waiting.
//!
//! ```text
//! scripts/services run -- cargo bench --bench lanes                           all of it, about twenty-five minutes
//! cargo bench --bench lanes -- --only silent,pace                             some, on DATABASE_URL and AMQP_URL
//! ```
//! Like `load`, it wants a quiet machine, stays on loopback, is bounded, and ends what it started.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::default_trait_access,
    clippy::disallowed_methods,
    dead_code,
    reason = "counts and times of a run are small, its clock is the machine's, and `load` uses what this does not"
)]

#[path = "lanes/hostile.rs"]
mod hostile;
#[path = "load/machine.rs"]
mod machine;
#[path = "load/publish.rs"]
mod publish;
#[path = "load/receiver.rs"]
mod receiver;
#[path = "load/world.rs"]
mod world;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use crate::{
    hostile::{Hostile, Manner},
    machine::Cpu,
    publish::Pace,
    receiver::Receiver,
    world::World,
};

/// Bytes of `data` in each event.
const DATA_BYTES: usize = 1024;
/// Webhooks of a company in the cases with hostile receivers.
const WEBHOOKS: usize = 10;
/// Events a second there, and for how many seconds.
const EVENTS_PER_SECOND: u32 = 50;
const SECONDS: u32 = 60;
/// How long what is published may take to arrive.
const PATIENCE: Duration = Duration::from_mins(3);
/// What waits behind the limit of `pace`, and the limit.
const BACKLOG: usize = 10_000;
const RATE: u32 = 50;
/// What the greedy company of `greedy` publishes.
const GREEDY_EVENTS: usize = 100_000;
/// What the modest one beside it publishes, and how many a second.
const MODEST_EVENTS: usize = 1_000;
const MODEST_PER_SECOND: u32 = 50;
/// What waits in `outage`, and how often others are measured without it and with it.
const WAITING: i64 = 1_000_000;
const TURNS: usize = 3;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let only: Option<Vec<&str>> = args
        .iter()
        .position(|arg| arg == "--only")
        .and_then(|i| args.get(i + 1))
        .map(|list| list.split(',').collect());
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only.contains(&name));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let cases: [(&str, usize, Manner); 7] = [
            ("none", 0, Manner::Well),
            ("silent", 1, Manner::Silent),
            ("slow", 1, Manner::Slow),
            ("drip", 1, Manner::Drip),
            ("reset", 1, Manner::Reset),
            ("error", 1, Manner::Error),
            ("five-silent", 5, Manner::Silent),
        ];
        for (name, bad, manner) in cases {
            if wanted(name) {
                beside(name, bad, manner).await?;
            }
        }
        if wanted("pace") {
            pace().await?;
        }
        if wanted("greedy") {
            greedy().await?;
        }
        if wanted("crowd") {
            for (companies, webhooks) in CROWDS {
                crowd(companies, webhooks).await?;
            }
        }
        if wanted("outage") {
            outage().await?;
        }
        if wanted("depth") {
            for waiting in DEPTHS {
                depth(waiting).await?;
            }
        }
        if wanted("scattered") {
            for (webhooks, status) in SCATTERED {
                scattered(webhooks, status).await?;
            }
        }
        Ok(())
    })
}

/// Some bad receivers beside healthy ones, at a steady rate: what the healthy ones notice, and what becomes of the rest.
async fn beside(name: &str, bad: usize, manner: Manner) -> Result<()> {
    let (receiver, world) = (Receiver::start().await?, World::new().await?);
    let company = world.webhooks(WEBHOOKS - bad, receiver.port()).await?;
    let mut hostile = Vec::new();
    for n in 0..bad {
        let one = Hostile::start(manner).await?;
        world.webhook(company, &format!("hostile {n}"), &one.url(), &[("timeout_seconds", "30")]).await?;
        hostile.push(one);
    }
    let service = world.service().await?;
    let connection = publish::connect(&world).await?;
    warm(&world, &connection, &receiver, company, WEBHOOKS - bad).await?;
    let began = Instant::now();
    let events = (EVENTS_PER_SECOND * SECONDS) as usize;
    let steady = Pace::Steady { per_second: EVENTS_PER_SECOND };
    publish::publish(&connection, &world, company, events, DATA_BYTES, steady).await?;
    let expected = events * (WEBHOOKS - bad);
    receiver.wait_for(expected, PATIENCE).await?;
    let arrived = receiver.summary(began);
    ensure!(arrived.unique == expected, "{} deliveries are missing", expected - arrived.unique);
    // What the bad ones were owed stands in the ledger, whatever became of it.
    let mut database = world.database().await?;
    let owed: Vec<(String, i64)> = sqlx::query_as(
        "select d.status, count(*) from webhook_deliveries d join webhooks w on w.id = d.webhook_id
         where w.name like 'hostile%' group by 1 order by 1",
    )
    .fetch_all(&mut database)
    .await?;
    let accounted: i64 = owed.iter().map(|(_, count)| count).sum();
    ensure!(
        accounted == ((events + WARM_EVENTS) * bad) as i64,
        "{accounted} deliveries of hostile receivers"
    );
    let sockets = hostile.iter().map(Hostile::open_most).max().unwrap_or(0);
    let requests: usize = hostile.iter().map(Hostile::requests).sum();
    println!(
        "{name:<12} healthy: {} arrived, p50 {:.1} ms, p99 {:.1} ms; hostile: {sockets} sockets at most, \
         {requests} requests, {owed:?}",
        arrived.count, arrived.p50_ms, arrived.p99_ms,
    );
    database.close().await?;
    service.stop().await?;
    world.remove().await
}

/// Events that open connections and fill caches before a case is measured.
const WARM_EVENTS: usize = 20;

async fn warm(
    world: &World,
    connection: &lapin::Connection,
    receiver: &Receiver,
    company: Uuid,
    webhooks: usize,
) -> Result<()> {
    let burst = Pace::Burst { unconfirmed: 4 };
    publish::publish(connection, world, company, WARM_EVENTS, DATA_BYTES, burst).await?;
    receiver.wait_for(WARM_EVENTS * webhooks, PATIENCE).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    receiver.reset();
    Ok(())
}

/// A backlog behind a limit: whether the limit is kept, and how often a delivery passes through the broker.
async fn pace() -> Result<()> {
    let (receiver, world) = (Receiver::start().await?, World::new().await?);
    let company = Uuid::new_v4();
    let url = format!("http://127.0.0.1:{}/1", receiver.port());
    world.webhook(company, "limited", &url, &[("rate_limit", &RATE.to_string())]).await?;
    let service = world.service().await?;
    let connection = publish::connect(&world).await?;
    let began = Instant::now();
    let burst = Pace::Burst { unconfirmed: 500 };
    publish::publish(&connection, &world, company, BACKLOG, DATA_BYTES, burst).await?;
    receiver.wait_for(BACKLOG, Duration::from_secs(BACKLOG as u64 / u64::from(RATE)) * 2).await?;
    let seconds = began.elapsed().as_secs_f64();
    let jobs = service.metric("xtwebhooks_deliver_jobs_total").await?;
    let mut database = world.database().await?;
    // In no window of w ≥ 1 s, by the database's clock, do more than rate × w + 1 requests start.
    let excess: f64 = sqlx::query_scalar(
        "with s as (select extract(epoch from attempted_at)::float8 as at, row_number() over (order by attempted_at) as n
                    from webhook_deliveries)
         select max((b.n - a.n + 1) - ($1 * greatest(b.at - a.at, 1) + 1))
         from s a join s b on b.n > a.n and b.n <= a.n + 4 * $1::bigint",
    )
    .bind(f64::from(RATE))
    .fetch_one(&mut database)
    .await?;
    println!(
        "pace         {BACKLOG} at {RATE}/s: {seconds:.1} s, {:.2} jobs a delivery, at most {excess:.2} requests more \
         than the limit in any window of 1 to 4 s",
        jobs / BACKLOG as f64,
    );
    database.close().await?;
    service.stop().await?;
    world.remove().await
}

/// A company that publishes without measure beside one that publishes now and then.
async fn greedy() -> Result<()> {
    let (receiver, crowd, world) = (Receiver::start().await?, Receiver::start().await?, World::new().await?);
    let greedy = world.webhooks(1, crowd.port()).await?;
    let modest = world.webhooks(1, receiver.port()).await?;
    let service = world.service().await?;
    let connection = publish::connect(&world).await?;
    warm(&world, &connection, &receiver, modest, 1).await?;
    let began = Instant::now();
    let burst = Pace::Burst { unconfirmed: 1000 };
    let flood = publish::publish(&connection, &world, greedy, GREEDY_EVENTS, DATA_BYTES, burst);
    let steady = Pace::Steady { per_second: MODEST_PER_SECOND };
    let trickle = publish::publish(&connection, &world, modest, MODEST_EVENTS, DATA_BYTES, steady);
    let seen = commits(world.database().await?, modest);
    let (flooded, trickled, seen) = tokio::join!(flood, trickle, seen);
    flooded?;
    trickled?;
    let seen = seen?;
    receiver.wait_for(MODEST_EVENTS, PATIENCE).await?;
    crowd.wait_for(GREEDY_EVENTS, PATIENCE).await?;
    let whole = receiver.summary(began);
    let mut delays: Vec<f64> = (receiver.times().iter())
        .filter_map(|(event, at)| {
            Some(at.saturating_duration_since(*seen.get(event)?).as_secs_f64() * 1000.0)
        })
        .collect();
    delays.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| delays[((delays.len() as f64 * q).ceil() as usize).saturating_sub(1)];
    println!(
        "greedy       beside {GREEDY_EVENTS} events at once: from commit to arrival p50 {:.1} ms, p99 {:.1} ms \
         ({} events); from publish to arrival p50 {:.1} ms, p99 {:.1} ms",
        quantile(0.5),
        quantile(0.99),
        delays.len(),
        whole.p50_ms,
        whole.p99_ms,
    );
    service.stop().await?;
    world.remove().await
}

/// Companies of `crowd` beside the modest one, and the webhooks of each.
const CROWDS: [(usize, usize); 4] = [(0, 0), (1, 1_000), (1, 5_000), (3, 1_000)];
const CROWD_SECONDS: usize = 30;

/// Companies with very many webhooks that answer in 0.9 s, each with one event a second, beside one with a single webhook.
async fn crowd(companies: usize, webhooks: usize) -> Result<()> {
    let (receiver, late, world) =
        (Receiver::start().await?, Hostile::start(Manner::Late).await?, World::new().await?);
    let modest = world.webhooks(1, receiver.port()).await?;
    let mut crowds = Vec::new();
    for _ in 0..companies {
        crowds.push(world.webhooks(webhooks, late.port()).await?);
    }
    let service = world.service().await?;
    let connection = publish::connect(&world).await?;
    warm(&world, &connection, &receiver, modest, 1).await?;
    let floods = crowds.iter().map(|company| {
        let steady = Pace::Steady { per_second: 1 };
        publish::publish(&connection, &world, *company, CROWD_SECONDS, DATA_BYTES, steady)
    });
    let measured = async {
        // Until the crowds have taken what they can.
        tokio::time::sleep(Duration::from_secs(5)).await;
        receiver.reset();
        let began = Instant::now();
        let steady = Pace::Steady { per_second: MODEST_PER_SECOND };
        let events = MODEST_PER_SECOND as usize * (CROWD_SECONDS - 10);
        publish::publish(&connection, &world, modest, events, DATA_BYTES, steady).await?;
        receiver.wait_for(events, PATIENCE).await?;
        anyhow::Ok(receiver.summary(began))
    };
    let (floods, arrived) = tokio::join!(futures_util::future::try_join_all(floods), measured);
    floods?;
    let arrived = arrived?;
    println!(
        "crowd        {companies} companies with {webhooks} webhooks that answer in 0.9 s: the other's p50 {:.1} ms, p99 {:.1} \
         ms; {} accepted by the crowds",
        arrived.p50_ms,
        arrived.p99_ms,
        late.accepted(),
    );
    service.stop().await?;
    world.remove().await
}

/// When the events of a company became visible, looked at every few milliseconds: nobody tells the instant of a commit.
async fn commits(mut database: sqlx::PgConnection, company: Uuid) -> Result<HashMap<u64, Instant>> {
    let mut seen = HashMap::new();
    let end = Instant::now() + PATIENCE;
    let since: String = sqlx::query_scalar("select now()::text").fetch_one(&mut database).await?;
    while seen.len() < MODEST_EVENTS && Instant::now() < end {
        let fresh: Vec<String> = sqlx::query_scalar(
            "select data ->> 'bench_id' from events
             where company_id = $1 and received_at > greatest($2::timestamptz, now() - interval '2 seconds')",
        )
        .bind(company)
        .bind(&since)
        .fetch_all(&mut database)
        .await?;
        let now = Instant::now();
        for event in fresh {
            seen.entry(event.parse()?).or_insert(now);
        }
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    database.close().await?;
    Ok(seen)
}

/// A million deliveries waiting for a receiver that is down: what they cost the others, and how they drain. The others are
/// measured without and with them in turns, for a machine has better and worse minutes.
async fn outage() -> Result<()> {
    let (receiver, idle, world) = (Receiver::start().await?, World::new().await?, World::new().await?);
    let idle_company = idle.webhooks(1, receiver.port()).await?;
    let company = world.webhooks(1, receiver.port()).await?;
    let down = Hostile::start(Manner::Error).await?;
    let other = Uuid::new_v4();
    let webhook =
        world.webhook(other, "down", &down.url(), &[("rate_limit", "500"), ("retry_count", "20")]).await?;
    waiting(&world, other, webhook, WAITING).await?;
    for turn in 1..=TURNS {
        let without = others(&idle, &receiver, idle_company).await?;
        let with = others(&world, &receiver, company).await?;
        println!(
            "outage {turn}     others at 200/s without: p50 {:.1} ms, p99 {:.1} ms, {:.0} MiB; with {WAITING} waiting: \
             p50 {:.1} ms, p99 {:.1} ms, {:.0} MiB; {} jobs in the broker, {} requests to the receiver that is down",
            without.p50_ms,
            without.p99_ms,
            without.mib,
            with.p50_ms,
            with.p99_ms,
            with.mib,
            with.jobs,
            down.requests(),
        );
    }
    idle.remove().await?;
    let service = world.service().await?;
    down.turn(Manner::Well);
    let end = Instant::now() + Duration::from_mins(6);
    while down.accepted() == 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (first, from) = (down.accepted(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let rate = (down.accepted() - first) as f64 / from.elapsed().as_secs_f64();
    println!(
        "             back: drains at {rate:.0}/s, its limit being 500/s; {:.0} MiB",
        service.resident_mib()
    );
    service.stop().await?;
    world.remove().await
}

/// How many wait in `depth`, and how fast they are let go.
const DEPTHS: [i64; 3] = [10_000, 1_000_000, 5_000_000];
const DRAINED_PER_SECOND: u32 = 200;

/// What a delivery that schedule makes a job of costs, by how many wait behind it.
async fn depth(deliveries: i64) -> Result<()> {
    let (receiver, world) = (Hostile::start(Manner::Well).await?, World::new().await?);
    let company = Uuid::new_v4();
    let limit = DRAINED_PER_SECOND.to_string();
    let webhook = world.webhook(company, "deep", &receiver.url(), &[("rate_limit", &limit)]).await?;
    waiting(&world, company, webhook, deliveries).await?;
    let service = world.service().await?;
    let end = Instant::now() + PATIENCE;
    while receiver.accepted() < DRAINED_PER_SECOND as usize && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (first, before) = (receiver.accepted(), Cpu::now(service.pid()));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let spent = Cpu::now(service.pid()).since(&before);
    let drained = (receiver.accepted() - first) as f64;
    ensure!(drained > 0.0, "nothing was sent");
    println!(
        "depth        {deliveries} waiting, {drained:.0} drained in 20 s: {:.2} ms of the database and {:.2} ms of the \
         service for each; {:.0} MiB",
        1000.0 * spent.database / drained,
        1000.0 * spent.service / drained,
        service.resident_mib(),
    );
    service.stop().await?;
    world.remove().await
}

/// Webhooks that have one delivery each in `scattered`, and its state.
const SCATTERED: [(i64, &str); 4] =
    [(10, "pending"), (10_000, "pending"), (100_000, "pending"), (10_000, "held")];

/// A lane at 200/s among many webhooks that wait for tomorrow, or that hold.
async fn scattered(webhooks: i64, status: &str) -> Result<()> {
    let (receiver, world) = (Hostile::start(Manner::Well).await?, World::new().await?);
    let company = Uuid::new_v4();
    let limit = DRAINED_PER_SECOND.to_string();
    let webhook = world.webhook(company, "limited", &receiver.url(), &[("rate_limit", &limit)]).await?;
    let mut database = world.database().await?;
    sqlx::query(
        "insert into webhooks (id, company_id, name, url, events, secret, paused_at)
         select gen_random_uuid(), $1, n::text, 'http://127.0.0.1:9/', '{*}', 's',
                case when $3 = 'held' then now() end
         from generate_series(1, $2) n",
    )
    .bind(Uuid::new_v4())
    .bind(webhooks)
    .bind(status)
    .execute(&mut database)
    .await?;
    sqlx::query(
        "insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, due_at)
         select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint), 12, '0')
                 || '8' || substr(md5(w.name), 1, 3) || '8' || substr(md5(w.name), 4, 15))::uuid,
                w.company_id, w.id, gen_random_uuid(), 'ticket.created', 'event', $2, now() + interval '1 day'
         from webhooks w
         where w.company_id <> $1",
    )
    .bind(company)
    .bind(status)
    .execute(&mut database)
    .await?;
    database.close().await?;
    waiting(&world, company, webhook, 10_000).await?;
    let service = world.service().await?;
    let end = Instant::now() + PATIENCE;
    while receiver.accepted() < DRAINED_PER_SECOND as usize && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (first, began) = (receiver.accepted(), Instant::now());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let per_second = (receiver.accepted() - first) as f64 / began.elapsed().as_secs_f64();
    let rounds = service.metric("xtwebhooks_schedule_round_seconds_count").await?;
    let seconds = service.metric("xtwebhooks_schedule_round_seconds_sum").await?;
    let short = service.metric("xtwebhooks_schedule_round_seconds_bucket{le=\"0.05\"}").await?;
    println!(
        "scattered    {webhooks} webhooks {status}: {per_second:.1}/s of {DRAINED_PER_SECOND}/s; {rounds} rounds of {:.1} ms \
         on the average, {} above 50 ms",
        1000.0 * seconds / rounds,
        rounds - short,
    );
    service.stop().await?;
    world.remove().await
}

/// What others notice, and what the service takes.
struct Others {
    p50_ms: f64,
    p99_ms: f64,
    mib: f64,
    jobs: u32,
}

/// Runs the service of a world, and measures a company in it.
async fn others(world: &World, receiver: &Receiver, company: Uuid) -> Result<Others> {
    let service = world.service().await?;
    let connection = publish::connect(world).await?;
    receiver.reset();
    warm(world, &connection, receiver, company, 1).await?;
    let steady = Pace::Steady { per_second: 200 };
    let (p50_ms, p99_ms) = measure(world, &connection, receiver, company, steady).await?;
    let jobs = queue(&connection, world.prefix()).await?;
    let others = Others { p50_ms, p99_ms, mib: service.resident_mib(), jobs };
    service.stop().await?;
    Ok(others)
}

async fn measure(
    world: &World,
    connection: &lapin::Connection,
    receiver: &Receiver,
    company: Uuid,
    pace: Pace,
) -> Result<(f64, f64)> {
    receiver.reset();
    let began = Instant::now();
    publish::publish(connection, world, company, 4_000, DATA_BYTES, pace).await?;
    receiver.wait_for(4_000, PATIENCE).await?;
    let arrived = receiver.summary(began);
    Ok((arrived.p50_ms, arrived.p99_ms))
}

/// Deliveries of one webhook, as ingest leaves them to schedule.
async fn waiting(world: &World, company: Uuid, webhook: Uuid, deliveries: i64) -> Result<()> {
    let mut database = world.database().await?;
    sqlx::query(
        "with e as (
             insert into events (id, company_id, event_type, message_id, \"timestamp\", data, body_hash, matched,
                                 matched_as_of, fanned_out)
             select (lpad(to_hex((extract(epoch from now()) * 1000)::bigint), 12, '0')
                     || '8' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
                    $1, 'ticket.created', n::text, extract(epoch from now())::bigint, '{\"bench_id\":0,\"sent_at_us\":0}',
                    n, 1, now(), true
             from generate_series(1, $3) as n
             returning id)
         insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status)
         select id, $1, $2, id, 'ticket.created', 'event', 'pending' from e",
    )
    .bind(company)
    .bind(webhook)
    .bind(deliveries)
    .execute(&mut database)
    .await?;
    // In an outage they come over hours, and the server has long written and counted them.
    database.execute("vacuum analyze").await?;
    database.execute("checkpoint").await?;
    Ok(database.close().await?)
}

/// Jobs ready in the deliveries queue.
async fn queue(connection: &lapin::Connection, prefix: &str) -> Result<u32> {
    let channel = connection.create_channel().await?;
    let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
    let queue =
        channel.queue_declare(format!("{prefix}.deliveries.0").into(), options, Default::default()).await?;
    Ok(queue.message_count())
}
