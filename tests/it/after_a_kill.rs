//! What a killed process had committed but not published arrives within seconds, without rescue, and once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use lapin::options::{BasicGetOptions, BasicNackOptions};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, amqp_url, database_url, eventually, eventually_within},
    past::{execute, owe},
    proxy::Proxy,
    receiver::{Answer, Receiver},
};

/// An event that a dead process had committed arrives this long after the next one is ready.
const EVENT_WITHIN: Duration = Duration::from_secs(5);
/// A retry that a dead process had claimed, or recorded and not published, arrives this long after.
const RETRY_WITHIN: Duration = Duration::from_secs(15);
/// An answer that takes longer than every job that is published again waits.
const SLOW: Duration = Duration::from_secs(6);

/// A proxy in front of the database, by which the service, and only the service, goes.
async fn database_behind_a_proxy(app: &App) -> Proxy {
    let url: url::Url = database_url().parse().expect("a URL");
    let server = format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5432));
    let proxy = Proxy::to(&server).await;
    app.set("DATABASE_URL", app.database_url.replace(&server, &proxy.address().to_string()));
    proxy
}

/// A proxy in front of the broker, by which the service, and only the service, goes.
async fn behind_a_proxy(app: &App) -> Proxy {
    let url: url::Url = amqp_url().parse().expect("a URL");
    let server = format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5672));
    let proxy = Proxy::to(&server).await;
    app.set("AMQP_URL", amqp_url().replace(&server, &proxy.address().to_string()));
    proxy
}

/// Ends the connections of the dead, and what they had said into the void.
async fn cut_off(proxy: &Proxy) {
    proxy.cut();
    tokio::time::sleep(Duration::from_millis(300)).await;
    proxy.resume();
}

async fn no_rescue(app: &App) {
    assert_eq!(app.count("select coalesce(sum(rescues), 0) from webhook_deliveries").await, 0);
    assert_eq!(app.count("select coalesce(sum(repeats), 0)::bigint from webhook_deliveries").await, 0);
}

#[tokio::test]
async fn what_a_killed_ingest_had_committed_and_not_published_arrives_in_seconds() {
    const EVENTS: usize = 30;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let proxy = behind_a_proxy(&app).await;
    let service = app.run(&[]).await;
    // The commit waits for this lock, and the jobs for the broker.
    let mut lock = app.pool.begin().await.expect("a transaction");
    sqlx::query("lock table webhook_deliveries in share mode").execute(&mut *lock).await.expect("locked");
    for n in 0..EVENTS {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    eventually("ingest holds the events", async || (app.depth("events").await == 0).then_some(())).await;
    let waiting = "select least(count(*), 1) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock'";
    app.wait_for_count(waiting, 1).await;
    proxy.hold();
    lock.commit().await.expect("unlocked");
    let committed = "select count(*) from webhook_deliveries where queued_at is not null and attempts = 0";
    eventually("some are committed", async || (app.count(committed).await > 0).then_some(())).await;
    service.kill().await;
    cut_off(&proxy).await;

    let service = app.run(&[]).await;
    receiver.wait_within(EVENTS, EVENT_WITHIN).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", EVENTS as i64)
        .await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), EVENTS);
    no_rescue(&app).await;
}

#[tokio::test]
async fn an_event_that_comes_again_while_its_first_job_is_out_is_requested_once() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer_by(|_, _| Answer::ok().after(SLOW));
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let worker = app.run(&["--role", "deliver"]).await;
    let ingest = app.run(&["--role", "ingest"]).await;
    let body = json!({
        "event_type": "ticket.created", "company_id": company, "event_id": "first", "data": {},
        "timestamp": chrono::Utc::now().timestamp(),
    });
    let publish = async || {
        assert!(app.publish_raw("ticket.created", body.to_string().as_bytes(), Default::default()).await);
    };
    publish().await;
    receiver.wait_for(1).await;
    assert_eq!(ingest.stop().await, Some(0));

    // As the broker would hand it out again after a kill between its jobs and its acknowledgement.
    publish().await;
    let (channel, queue) = (app.another_channel().await, format!("{}.events", app.prefix));
    let message = eventually("the event is there", async || {
        channel
            .basic_get(queue.as_str().into(), BasicGetOptions::default())
            .await
            .expect("the queue is there")
    })
    .await;
    message
        .delivery
        .acker
        .nack(BasicNackOptions { requeue: true, ..Default::default() })
        .await
        .expect("returned");
    let ingest = app.run(&["--role", "ingest"]).await;

    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    eventually("nothing is on its way", async || {
        (app.depth("retry.2s").await + app.depth("events").await + app.jobs().await == 0).then_some(())
    })
    .await;
    assert_eq!(ingest.stop().await, Some(0));
    assert_eq!(worker.stop().await, Some(0));
    assert_eq!(receiver.count(), 1, "the first job was still out, and a second one was sent");
    no_rescue(&app).await;
}

#[tokio::test]
async fn a_retry_that_a_killed_worker_had_claimed_waits_for_its_session_and_not_for_its_timeout() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let second = AtomicBool::new(true);
    receiver.answer_by(move |request, _| match request.header("x-xtsystems-attempt") {
        Some("1") => Answer::status(500),
        _ if second.swap(false, Ordering::Relaxed) => Answer::ok().after(Duration::from_secs(60)),
        _ => Answer::ok(),
    });
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(2).await;
    service.kill().await;

    let service = app.run(&[]).await;
    receiver.wait_within(3, RETRY_WITHIN).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    assert_eq!(service.stop().await, Some(0));
    no_rescue(&app).await;
}

#[tokio::test]
async fn a_retry_that_a_killed_worker_had_recorded_and_not_published_arrives_without_rescue() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer_by(|request, _| match request.header("x-xtsystems-attempt") {
        Some("1") => Answer::status(500).after(Duration::from_secs(2)),
        _ => Answer::ok(),
    });
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let proxy = behind_a_proxy(&app).await;
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.hold();
    app.wait_for_count(
        "select count(*) from webhook_deliveries where attempts = 1 and queued_at is not null",
        1,
    )
    .await;
    service.kill().await;
    cut_off(&proxy).await;

    let service = app.run(&[]).await;
    let ready = Instant::now();
    receiver.wait_within(2, RETRY_WITHIN).await;
    println!("the retry came {:.1} s after readiness", ready.elapsed().as_secs_f64());
    eventually_within(RETRY_WITHIN, "it is delivered", async || {
        (app.count("select count(*) from webhook_deliveries where status = 'delivered'").await == 1)
            .then_some(())
    })
    .await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 2);
    no_rescue(&app).await;
}

#[tokio::test]
async fn a_retry_whose_commit_lost_its_answer_is_published() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer_by(|request, _| match request.header("x-xtsystems-attempt") {
        Some("1") => Answer::status(500).after(Duration::from_secs(1)),
        _ => Answer::ok(),
    });
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let proxy = database_behind_a_proxy(&app).await;
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(1).await;
    let mut lock = app.pool.begin().await.expect("a transaction");
    sqlx::query("select from webhook_deliveries for update").execute(&mut *lock).await.expect("locked");
    let waiting = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock' and query like '%deliveries.record_attempts%'";
    app.wait_for_count(waiting, 1).await;
    // Its statement goes on without it, and it sends the same again.
    proxy.cut();
    app.wait_for_count(waiting, 2).await;
    lock.commit().await.expect("unlocked");

    receiver.wait_within(2, RETRY_WITHIN).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 2);
    no_rescue(&app).await;
}

#[tokio::test]
async fn what_a_killed_scheduler_had_marked_and_not_published_arrives_without_rescue() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    owe(&app, company, webhook, chrono::Utc::now(), "pending").await;
    execute(&app, "update webhook_deliveries set queued_at = null").await;
    let proxy = behind_a_proxy(&app).await;
    let mut lock = app.pool.begin().await.expect("a transaction");
    sqlx::query("select from webhook_deliveries for update").execute(&mut *lock).await.expect("locked");
    let scheduler = app.run(&["--role", "schedule"]).await;
    let waiting = "select count(*) from pg_stat_activity
                   where datname = current_database() and wait_event_type = 'Lock' and query like '%schedule.take%'";
    app.wait_for_count(waiting, 1).await;
    proxy.hold();
    lock.commit().await.expect("unlocked");
    app.wait_for_count("select count(*) from webhook_deliveries where queued_at is not null", 1).await;
    scheduler.kill().await;
    cut_off(&proxy).await;

    let service = app.run(&[]).await;
    receiver.wait_within(1, RETRY_WITHIN).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 1);
    no_rescue(&app).await;
}
