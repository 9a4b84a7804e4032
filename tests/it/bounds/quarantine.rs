//! Messages that were handed out too often: tried alone, and given up only if that ends the worker, too.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use super::all_delivered;
use crate::support::{
    app::{App, eventually},
    load,
    receiver::{Answer, Receiver},
};

/// How often a message may be handed out in these tests.
const DELIVERY_LIMIT: usize = 2;
/// How many workers in a row may die with a delivery, the last three of them with it alone.
const DEATHS: usize = 6;
const PATIENCE: Duration = Duration::from_secs(90);

/// Locks this table while the connection that is returned stands.
async fn locked(app: &App, table: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&app.database_url).await.expect("the database answers");
    connection.execute("begin").await.expect("begun");
    let lock = format!("lock table {table} in access exclusive mode");
    connection.execute(AssertSqlSafe(lock)).await.expect("locked");
    connection
}

/// Starts a role and kills it once it holds everything that waits in a queue, so often.
async fn dies_holding(app: &App, role: &str, queue: &str, times: usize) {
    for _ in 0..times {
        eventually("there is something to hold", async || (app.depth(queue).await > 0).then_some(())).await;
        let process = app.run(&["--role", role]).await;
        eventually("it holds all of it", async || (app.depth(queue).await == 0).then_some(())).await;
        process.kill().await;
    }
}

#[tokio::test]
async fn jobs_held_by_workers_that_died_are_quarantined_and_delivered() {
    const EVENTS: u32 = 10;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("DELIVERY_LIMIT", DELIVERY_LIMIT).set("PROMPT_JOBS", 0);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    // Without schedule there are no watermarks among the jobs.
    let upstream = app.run(&["--role", "ingest,dead-letter"]).await;
    load::publish(&app, company, EVENTS.into()).await;
    eventually("the jobs are in the queue", async || {
        (app.depth("deliveries.0").await == EVENTS).then_some(())
    })
    .await;
    // A worker must look at a webhook before it starts anything, so all it can do now is to hold its jobs.
    let lock = locked(&app, "webhooks").await;
    dies_holding(&app, "deliver", "deliveries.0", DELIVERY_LIMIT + 1).await;
    eventually("they are in quarantine", async || (app.depth("suspects.jobs").await == EVENTS).then_some(()))
        .await;
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
    assert_eq!(receiver.count(), 0);

    lock.close().await.expect("closed");
    let worker = app.run(&["--role", "deliver"]).await;
    all_delivered(&app, EVENTS.into()).await;
    assert_eq!(worker.stop().await, Some(0));
    assert_eq!(upstream.stop().await, Some(0));
    assert_eq!(receiver.count(), EVENTS as usize, "each is requested once");
    assert_eq!(app.depth("suspects.jobs").await, 0);
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
}

#[tokio::test]
async fn a_delivery_that_ends_every_worker_is_given_up_and_its_neighbours_arrive() {
    const NEIGHBOURS: i64 = 10;
    let _alone = load::alone().await;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    // The broker's own count is not in play: each time a claim has run out, a new message asks for its delivery.
    app.set("FRESH_MAX", "2s")
        .set("TIMEOUT_MAX", "2s")
        .set("LEASE_MARGIN", "1s")
        .set("RESCUE_GRACE", "6s")
        .set("WATERMARK_EVERY", "1s");
    receiver.answer_at("/killer", [Answer::silence()]);
    // They too are under way when the worker dies.
    receiver.answer_at("/neighbour", [Answer::ok().after(Duration::from_millis(300))]);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/killer"), json!({"events": ["a.killer"]})).await;
    app.webhook(company, &receiver.url("/neighbour"), json!({"events": ["a.neighbour"]})).await;
    let upstream = app.run(&["--role", "ingest,dead-letter,schedule"]).await;
    for n in 0..NEIGHBOURS {
        app.publish(company, "a.neighbour", json!({"n": n})).await;
    }
    app.publish(company, "a.killer", json!({})).await;

    let dead = "select count(*) from webhook_deliveries where status = 'dead'";
    let began = Instant::now();
    let mut deaths = 0;
    while app.count(dead).await == 0 {
        assert!(began.elapsed() < PATIENCE, "{deaths} deaths, and it is still asked for");
        let killers = || receiver.requests().iter().filter(|r| r.path() == "/killer").count();
        let before = killers();
        let worker = app.start(&["--role", "deliver"]).await;
        loop {
            if killers() > before {
                worker.kill().await;
                deaths += 1;
                break;
            }
            if app.count(dead).await > 0 {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "{deaths} deaths");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    assert!(deaths >= DEATHS, "{deaths}");
    let (reason, attempts): (String, i32) =
        sqlx::query_as("select reason, attempts from dead_letters where event_type = 'a.killer'")
            .fetch_one(&app.pool)
            .await
            .expect("a dead letter");
    assert!(reason.starts_with("ended the worker ") && reason.ends_with(" times"), "{reason}");
    assert_eq!(attempts, 0, "no attempt could be recorded");

    let worker = app.run(&["--role", "deliver"]).await;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where event_type = 'a.neighbour' and status = 'delivered'",
        NEIGHBOURS,
    )
    .await;
    assert_eq!(worker.stop().await, Some(0));
    assert_eq!(upstream.stop().await, Some(0));
    assert_eq!(app.count("select count(*) from dead_letters").await, 1);
}
