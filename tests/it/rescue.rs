//! Rescue: a lost job is found, and one that only waits is left alone.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use chrono::Utc;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, eventually_within},
    load,
    past::{execute, owe},
    private::Private,
    receiver::{Answer, Receiver, Request},
};

/// How long rescue waits after a mark came through. Ten of them must be bearable.
const GRACE_SECONDS: u32 = 3;

/// A world in which rescue is quick.
async fn quick_to_rescue() -> App {
    let app = App::new().await;
    make_quick_to_rescue(&app);
    app
}

fn make_quick_to_rescue(app: &App) {
    app.set("FRESH_MAX", "500ms")
        .set("TIMEOUT_MAX", "1s")
        .set("LEASE_MARGIN", "1s")
        .set("RESCUE_GRACE", format!("{GRACE_SECONDS}s"))
        .set("WATERMARK_EVERY", "500ms")
        .set("WINDOW_JOBS", "50000");
}

/// How often each delivery was requested.
fn by_delivery(requests: &[Request]) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for request in requests {
        *counts.entry(request.header("x-xtsystems-delivery").expect("signed").to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn jobs_deleted_with_their_queue_are_rescued_and_each_delivery_arrives_once() {
    let app = quick_to_rescue().await;
    app.set("PROMPT_JOBS", 0);
    rescued_with_their_queue(&app, "deliveries.0", 300).await;
}

#[tokio::test]
async fn jobs_deleted_with_the_prompt_queue_are_rescued_and_each_delivery_arrives_once() {
    let app = quick_to_rescue().await;
    // No more than one company may have there at once.
    rescued_with_their_queue(&app, "prompt.0", 100).await;
}

/// All jobs are in this queue, it is deleted, and they arrive.
async fn rescued_with_their_queue(app: &App, queue: &str, events: i64) {
    let receiver = Receiver::start().await;
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 200})).await;
    let upstream = app.run(&["--role", "ingest,schedule"]).await;
    load::publish(app, company, events as u64).await;
    app.wait_for_count("select count(*) from webhook_deliveries where queued_at is not null", events).await;
    eventually_within(Duration::from_secs(30), "the jobs are in the queue", async || {
        (i64::from(app.depth(queue).await) >= events).then_some(())
    })
    .await;

    let queue = format!("{}.{queue}", app.prefix);
    app.channel().await.queue_delete(queue.into(), Default::default()).await.expect("it can be deleted");

    let worker = app.run(&["--role", "deliver,dead-letter"]).await;
    receiver.wait_within(events as usize, Duration::from_secs(60)).await;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'delivered' and attempts = 1 and rescues = 1",
        events,
    )
    .await;
    assert_eq!(upstream.metric("xtwebhooks_schedule_rescued_total").await, events as f64);
    assert_eq!(worker.stop().await, Some(0));
    let counts = by_delivery(&receiver.requests());
    assert_eq!(counts.len(), events as usize);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
}

#[tokio::test]
async fn jobs_that_only_wait_for_a_worker_are_never_rescued() {
    const EVENTS: i64 = 20_000;
    let _alone = load::alone().await;
    let (app, receiver) = (quick_to_rescue().await, Receiver::start().await);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 200})).await;
    let upstream = app.run(&["--role", "ingest,schedule"]).await;
    load::publish(&app, company, EVENTS as u64).await;
    eventually_within(Duration::from_secs(90), "every event is taken in", async || {
        (app.count("select count(*) from webhook_deliveries where queued_at is not null").await == EVENTS)
            .then_some(())
    })
    .await;

    // By the database's clock, from the last job on.
    eventually_within(Duration::from_secs(90), "ten graces are over", async || {
        let waited = app
            .count("select extract(epoch from now() - max(queued_at))::bigint from webhook_deliveries")
            .await;
        (waited > i64::from(10 * GRACE_SECONDS)).then_some(())
    })
    .await;
    assert_eq!(upstream.metric("xtwebhooks_schedule_active").await, 1.0);
    assert_eq!(upstream.metric("xtwebhooks_schedule_rescued_total").await, 0.0);
    assert!(i64::from(app.jobs().await) >= EVENTS);
    assert!(app.depth("prompt.0").await >= 100, "some wait in the prompt queue, behind no mark of the other");

    let worker = app.run(&["--role", "deliver,dead-letter"]).await;
    receiver.wait_within(EVENTS as usize, Duration::from_secs(120)).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status <> 'delivered'", 0).await;
    assert_eq!(upstream.metric("xtwebhooks_schedule_rescued_total").await, 0.0);
    assert_eq!(app.count("select sum(rescues) from webhook_deliveries").await, 0);
    assert_eq!(worker.stop().await, Some(0));
    let counts = by_delivery(&receiver.requests());
    assert_eq!(counts.len(), EVENTS as usize);
    assert!(counts.values().all(|count| *count == 1), "some were requested twice");
}

#[tokio::test]
async fn rescue_waits_twice_as_long_each_further_time() {
    const RESCUED: [i16; 3] = [0, 1, 2];
    let (app, receiver, company) = (quick_to_rescue().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let mut deliveries = Vec::new();
    for rescues in RESCUED {
        let delivery = owe(&app, company, webhook, Utc::now(), "pending").await;
        execute(
            &app,
            &format!(
                "update webhook_deliveries set queued_at = now() - interval '1 hour', rescues = {rescues}
                 where id = '{delivery}'"
            ),
        )
        .await;
        deliveries.push(delivery.0);
    }
    let _service = app.run(&[]).await;
    let mut rescued = Vec::new();
    for (delivery, before) in deliveries.iter().zip(RESCUED) {
        let found = eventually_within(Duration::from_secs(60), "it is rescued", async || {
            let rescues: i16 = sqlx::query_scalar("select rescues from webhook_deliveries where id = $1")
                .bind(delivery)
                .fetch_one(&app.pool)
                .await
                .expect("a row");
            (rescues > before).then(Instant::now)
        });
        rescued.push(found.await);
    }
    // A grace, two and four after the same beginning, each by half a second more or less.
    let grace = Duration::from_secs(GRACE_SECONDS.into());
    let (second, third) = (rescued[1] - rescued[0], rescued[2] - rescued[1]);
    println!("the second {second:?} after the first, the third {third:?} after the second");
    assert!(second > grace.mul_f64(0.6), "{second:?} after the first");
    assert!(third > grace.mul_f64(1.6), "{third:?} after the second");
    receiver.wait_for(RESCUED.len()).await;
}

#[tokio::test]
async fn while_rabbitmq_dead_letters_nothing_retries_arrive_by_rescue() {
    // Fewer failures than open a breaker.
    const EVENTS: usize = 4;
    let private = Private::up().await;
    let (app, receiver) = (private.app().await, Receiver::start().await);
    make_quick_to_rescue(&app);
    receiver.answer_by(|request, _| {
        Answer::status(if request.header("x-xtsystems-attempt") == Some("1") { 500 } else { 200 })
    });
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let service = app.run(&[]).await;
    // As a node of 3.10 is left by two of its workers that failed within five seconds: docs/operations.md.
    private.rabbitmqctl(&["eval", "supervisor:terminate_child(rabbit_sup, rabbit_fifo_dlx_sup)."]).await;
    load::publish(&app, company, EVENTS as u64).await;
    receiver.wait_within(2 * EVENTS, Duration::from_secs(60)).await;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'delivered' and attempts = 2 and rescues = 1",
        EVENTS as i64,
    )
    .await;
    assert_eq!(service.metric("xtwebhooks_schedule_rescued_total").await, EVENTS as f64);
    assert_eq!(service.stop().await, Some(0));
    let counts = by_delivery(&receiver.requests());
    assert!(counts.len() == EVENTS && counts.values().all(|count| *count == 2), "{counts:?}");

    // The queues are there, so a process that starts does not mind.
    assert_eq!(app.run(&[]).await.stop().await, Some(0));
}
