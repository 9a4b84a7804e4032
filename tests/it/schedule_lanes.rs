//! Schedule makes the jobs that the lanes can start: none for one that is shut, one for each probe, and for a paced
//! one at its pace. No worker runs except where noted: the ledger shows which deliveries have a job.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::{App, Service, eventually, eventually_within},
    past::{execute, owe},
    receiver::Receiver,
};

const DELIVERED: &str = "select count(*) from webhook_deliveries where status = 'delivered'";

/// A webhook to which so many deliveries are owed, a second apart, the last of them a minute ago.
async fn owed(app: &App, company: Uuid, more: Value, count: i64) -> Uuid {
    let webhook = app.webhook(company, "http://127.0.0.1:9/", more).await;
    for n in 0..count {
        let at = Utc::now() - TimeDelta::seconds(60 + count - n);
        owe(app, company, webhook, at, "pending").await;
    }
    webhook
}

async fn jobs(app: &App, webhook: Uuid) -> i64 {
    sqlx::query_scalar(
        "select count(*) from webhook_deliveries where webhook_id = $1 and queued_at is not null",
    )
    .bind(webhook)
    .fetch_one(&app.pool)
    .await
    .expect("a count")
}

async fn wait_for_jobs(app: &App, webhook: Uuid, expected: i64) {
    eventually(&format!("{expected} have jobs"), async || {
        (jobs(app, webhook).await >= expected).then_some(())
    })
    .await;
    assert_eq!(jobs(app, webhook).await, expected);
}

/// Waits for several rounds: a job that schedule has not made by then it does not make.
async fn rounds(app: &App, company: Uuid) {
    for _ in 0..3 {
        let neighbour = owed(app, company, json!({}), 1).await;
        wait_for_jobs(app, neighbour, 1).await;
    }
}

async fn lane(app: &App, webhook: Uuid, set: &str) {
    execute(app, &format!("update lanes set {set} where webhook_id = '{webhook}'")).await;
}

async fn is_flagged(app: &App, webhook: Uuid) -> bool {
    sqlx::query_scalar("select waiting > 0 from lanes where webhook_id = $1")
        .bind(webhook)
        .fetch_one(&app.pool)
        .await
        .expect("a lane")
}

#[tokio::test]
async fn an_open_lane_gets_one_job_for_each_probe_and_no_other() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = owed(&app, company, json!({}), 20).await;
    lane(&app, webhook, "opened_at = now() - interval '1 minute', next_probe_at = now() + interval '1 hour'")
        .await;
    let _schedule = app.run(&["--role", "schedule"]).await;
    rounds(&app, company).await;
    assert_eq!(jobs(&app, webhook).await, 0, "no probe is due");
    assert!(is_flagged(&app, webhook).await, "what is new goes behind what waits");

    lane(&app, webhook, "next_probe_at = now()").await;
    wait_for_jobs(&app, webhook, 1).await;
    let oldest =
        "select queued_at is not null from webhook_deliveries where webhook_id = $1 order by due_at limit 1";
    let oldest: bool =
        sqlx::query_scalar(oldest).bind(webhook).fetch_one(&app.pool).await.expect("a delivery");
    assert!(oldest, "the oldest is the probe");
    // As a worker does that takes the probe, and whose request is under way.
    lane(&app, webhook, "probe_leased_until = now() + interval '1 hour'").await;
    rounds(&app, company).await;
    assert_eq!(jobs(&app, webhook).await, 1);
    // It fails, and the next is due.
    lane(&app, webhook, "probe_leased_until = null, probes = 1, next_probe_at = now()").await;
    wait_for_jobs(&app, webhook, 2).await;
    // It succeeds.
    lane(&app, webhook, "opened_at = null, next_probe_at = null, probes = 0").await;
    wait_for_jobs(&app, webhook, 20).await;
    eventually("the lane is drained", async || (!is_flagged(&app, webhook).await).then_some(())).await;
}

#[tokio::test]
async fn a_rate_limited_lane_gets_no_jobs_until_then() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = owed(&app, company, json!({}), 20).await;
    lane(&app, webhook, "held_back_until = now() + interval '1 hour'").await;
    let _schedule = app.run(&["--role", "schedule"]).await;
    rounds(&app, company).await;
    assert_eq!(jobs(&app, webhook).await, 0);
    assert!(is_flagged(&app, webhook).await, "what is new goes behind what waits");
    lane(&app, webhook, "held_back_until = now()").await;
    wait_for_jobs(&app, webhook, 20).await;
    eventually("the lane is drained", async || (!is_flagged(&app, webhook).await).then_some(())).await;
}

#[tokio::test]
async fn a_paced_lane_gets_jobs_at_its_pace_and_a_second_ahead_at_most() {
    const RATE: f64 = 20.0;
    const COUNT: i64 = 100;
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = owed(&app, company, json!({"rate_limit": RATE}), COUNT).await;
    let _schedule = app.run(&["--role", "schedule"]).await;
    eventually("it gets jobs", async || (jobs(&app, webhook).await > 0).then_some(())).await;
    eventually("it is known to have a backlog", async || is_flagged(&app, webhook).await.then_some(())).await;
    wait_for_jobs(&app, webhook, COUNT).await;
    eventually("the lane is drained", async || (!is_flagged(&app, webhook).await).then_some(())).await;
    let times: Vec<DateTime<Utc>> = sqlx::query_scalar(
        "select queued_at from webhook_deliveries where webhook_id = $1 order by queued_at",
    )
    .bind(webhook)
    .fetch_all(&app.pool)
    .await
    .expect("rows");
    let seconds =
        |from: usize, to: usize| (times[to] - times[from]).num_microseconds().unwrap_or(0) as f64 / 1e6;
    for from in 0..times.len() {
        for to in from..times.len() {
            let (count, within) = ((to - from + 1) as f64, seconds(from, to));
            assert!(count <= RATE * (within + 1.0) + 1.0, "{count} jobs within {within} s");
        }
    }
    let took = seconds(0, times.len() - 1);
    println!("{COUNT} at {RATE}/s had their jobs within {took:.2} s");
    assert!(took < 1.5 * COUNT as f64 / RATE, "too slow: {took} s");
}

#[tokio::test]
async fn a_slow_lane_gets_one_job_when_its_slot_is_near() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = owed(&app, company, json!({"rate_limit": 0.01}), 5).await;
    lane(&app, webhook, "next_slot_at = now() + interval '90 seconds'").await;
    let _schedule = app.run(&["--role", "schedule"]).await;
    rounds(&app, company).await;
    assert_eq!(jobs(&app, webhook).await, 0, "its slot is a minute and a half away");
    lane(&app, webhook, "next_slot_at = now() + interval '900 milliseconds'").await;
    wait_for_jobs(&app, webhook, 1).await;
    // As the worker does that reserves the slot.
    lane(&app, webhook, "next_slot_at = next_slot_at + interval '105 seconds'").await;
    rounds(&app, company).await;
    assert_eq!(jobs(&app, webhook).await, 1);
}

async fn is_active(service: &Service) -> bool {
    service.metric("xtwebhooks_schedule_active").await > 0.0
}

#[tokio::test]
async fn a_scheduler_that_is_killed_is_followed_within_fifteen_seconds_and_no_request_comes_twice() {
    const COUNT: usize = 200;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    // What it has marked and not published when it dies is found by rescue.
    app.set("FRESH_MAX", "500ms")
        .set("TIMEOUT_MAX", "1s")
        .set("LEASE_MARGIN", "1s")
        .set("RESCUE_GRACE", "3s")
        .set("WATERMARK_EVERY", "500ms");
    let webhook = app.webhook(company, &receiver.url("/"), json!({"rate_limit": 40})).await;
    for n in 0..COUNT {
        let at = Utc::now() - TimeDelta::milliseconds(60_000 - n as i64);
        owe(&app, company, webhook, at, "pending").await;
    }
    let first = app.run(&["--role", "schedule"]).await;
    eventually("the first is active", async || is_active(&first).await.then_some(())).await;
    let second = app.run(&["--role", "schedule"]).await;
    let _worker = app.run(&["--role", "deliver,dead-letter"]).await;
    receiver.wait_for(COUNT / 5).await;
    assert!(!is_active(&second).await, "one of them is active");
    first.kill().await;
    let killed = Instant::now();
    eventually_within(Duration::from_secs(15), "the other is active", async || {
        is_active(&second).await.then_some(())
    })
    .await;
    let took_over = killed.elapsed();
    let before = receiver.count();
    assert!(before < COUNT, "something is left to do");
    receiver.wait_within(COUNT, Duration::from_secs(60)).await;
    app.wait_for_count(DELIVERED, COUNT as i64).await;
    println!("taken over within {took_over:?}, after {before} of {COUNT}");
    let requests = receiver.requests();
    let once: HashSet<_> = requests.iter().filter_map(|r| r.header("x-xtsystems-delivery")).collect();
    assert_eq!((requests.len(), once.len()), (COUNT, COUNT));
}
