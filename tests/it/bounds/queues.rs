//! What may wait in the broker, and where the rest waits.

use std::{collections::HashMap, time::Duration};

use lapin::types::AMQPValue;
use serde_json::json;
use uuid::Uuid;

use super::{all_delivered, declare};
use crate::support::{
    app::{App, eventually},
    load,
    receiver::{Answer, Receiver},
};

#[tokio::test]
async fn a_full_queue_of_events_refuses_and_what_it_took_arrives() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("EVENTS_QUEUE_BYTES_MAX", 1 << 20);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    declare(&app).await;
    let padding = "x".repeat(100_000);
    let event = |n: usize| {
        let now = chrono::Utc::now().timestamp();
        json!({"event_type": "a.b", "company_id": company, "event_id": n.to_string(), "timestamp": now,
               "data": {"n": n, "padding": padding}})
        .to_string()
    };
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for n in 0..60 {
        let confirmed = app.publish_raw("a.b", event(n).as_bytes(), Default::default()).await;
        if confirmed { &mut taken } else { &mut refused }.push(n);
    }
    assert!(taken.len() >= 10, "a mebibyte holds ten of them: {taken:?}");
    assert!(refused.len() >= 10, "nothing bounds the queue: {taken:?}");

    let service = app.run(&[]).await;
    receiver.wait_for(taken.len()).await;
    // There is room again, so what was refused is taken when it is published once more.
    for n in &refused {
        assert!(app.publish_raw("a.b", event(*n).as_bytes(), Default::default()).await, "{n}");
    }
    all_delivered(&app, 60).await;
    assert_eq!(service.stop().await, Some(0));
    let mut arrived: Vec<_> = receiver.requests().iter().map(|r| r.json()["data"]["n"].clone()).collect();
    arrived.sort_by_key(serde_json::Value::as_u64);
    assert_eq!(arrived, (0..60).map(|n| json!(n)).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_the_window_has_no_room_for_waits_in_the_ledger() {
    const WEBHOOKS: i64 = 2_500;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("WINDOW_JOBS", 10).set("JOB_DELIVERIES_MAX", 1);
    let company = Uuid::new_v4();
    for _ in 0..WEBHOOKS {
        app.webhook(company, &receiver.url("/"), json!({})).await;
    }
    let upstream = app.run(&["--role", "ingest,schedule"]).await;
    app.publish(company, "ticket.created", json!({})).await;
    // More webhooks than a statement writes: three chunks, and the event is acknowledged after the last.
    app.wait_for_count("select count(*) from webhook_deliveries", WEBHOOKS).await;
    app.wait_for_count("select count(*) from events where fanned_out", 1).await;
    let queued = app.count("select count(*) from webhook_deliveries where queued_at is not null").await;
    // The room, and what a batch may publish beyond it.
    assert!((10..=10 + 500 + 50).contains(&queued), "{queued} jobs");
    eventually("ingest and schedule have published no more", async || {
        (i64::from(app.depth("deliveries.0").await) >= queued).then_some(())
    })
    .await;

    let worker = app.run(&["--role", "deliver"]).await;
    receiver.wait_within(WEBHOOKS as usize, Duration::from_secs(90)).await;
    all_delivered(&app, WEBHOOKS).await;
    assert!(upstream.metric("xtwebhooks_schedule_jobs_total").await >= (WEBHOOKS - queued) as f64);
    assert_eq!(worker.stop().await, Some(0));
    assert_eq!(receiver.count(), WEBHOOKS as usize);
}

#[tokio::test]
async fn a_retry_that_its_queue_refuses_waits_in_the_ledger() {
    const EVENTS: u64 = 200;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("RETRY_JOBS_MAX", 2);
    // They fail one after the other: RabbitMQ tells its publishers of a full queue, and lets through what a burst had
    // brought by then.
    receiver.answer_by(|request, nth| {
        let failure = Answer::status(500).after(Duration::from_millis(5 * nth as u64));
        if request.header("x-xtsystems-attempt") == Some("1") { failure } else { Answer::ok() }
    });
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 200})).await;
    let service = app.run(&[]).await;
    load::publish(&app, company, EVENTS).await;
    all_delivered(&app, EVENTS as i64).await;
    let refused = service.metric(r#"xtwebhooks_broker_published_total{queue="retry",fate="refused"}"#).await;
    assert!(refused > 0.0, "the queue never was full");
    assert!(service.metric("xtwebhooks_schedule_jobs_total").await >= refused);
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 2 * EVENTS as usize, "two attempts each, none twice");
}

#[tokio::test]
async fn a_job_carries_so_many_deliveries_and_no_more() {
    let app = App::new().await;
    app.set("JOB_DELIVERIES_MAX", 3).set("PROMPT_JOBS", 0);
    let company = Uuid::new_v4();
    for n in 0..10 {
        app.webhook(company, &format!("http://127.0.0.1:9/{n}"), json!({})).await;
    }
    let ingest = app.run(&["--role", "ingest"]).await;
    app.publish(company, "ticket.created", json!({})).await;
    eventually("ten deliveries are in four jobs", async || {
        (app.depth("deliveries.0").await == 4).then_some(())
    })
    .await;
    let mut bundles = Vec::new();
    let queue = format!("{}.deliveries.0", app.prefix);
    for _ in 0..4 {
        let got = app.channel().await.basic_get(queue.as_str().into(), Default::default()).await;
        let job = got.expect("the broker answers").expect("a job");
        let headers = job.delivery.properties.headers().clone().expect("headers");
        let Some(AMQPValue::LongString(deliveries)) = headers.inner().get("deliveries") else {
            panic!("{headers:?}");
        };
        // Pairs of a delivery and its webhook.
        bundles.push(deliveries.to_string().matches('/').count());
    }
    bundles.sort_unstable();
    assert_eq!(bundles, [1, 3, 3, 3]);
    assert_eq!(ingest.stop().await, Some(0));
}

#[tokio::test]
async fn a_worker_holds_no_more_jobs_than_its_prefetch() {
    const EVENTS: usize = 20;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("PREFETCH", 5).set("PROMPT_JOBS", 0);
    // The first answer shows, while others wait, that the receiver answers in time: else it would not get them all.
    receiver.answer([Answer::ok().after(Duration::from_millis(100)), Answer::silence()]);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    // Without schedule there are no watermarks among the jobs.
    let ingest = app.run(&["--role", "ingest"]).await;
    load::publish(&app, company, EVENTS as u64).await;
    eventually("the jobs are in the queue", async || {
        (app.depth("deliveries.0").await as usize == EVENTS).then_some(())
    })
    .await;
    let worker = app.start(&["--role", "deliver"]).await;
    receiver.wait_for(1 + 5).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    eventually("one is acknowledged and five are held", async || {
        (app.depth("deliveries.0").await as usize == EVENTS - 1 - 5).then_some(())
    })
    .await;
    assert_eq!(receiver.count(), 1 + 5);
    worker.kill().await;
    assert_eq!(ingest.stop().await, Some(0));

    // Whoever comes next has all of them to do, the five again.
    receiver.answer([Answer::ok()]);
    app.set("PREFETCH", 500).set("TIMEOUT_MAX", "2s").set("LEASE_MARGIN", "1s");
    let service = app.run(&["--role", "deliver,schedule"]).await;
    all_delivered(&app, EVENTS as i64).await;
    assert_eq!(service.stop().await, Some(0));
    let mut counts: HashMap<String, usize> = HashMap::new();
    for request in receiver.requests() {
        *counts.entry(request.header("x-xtsystems-delivery").expect("signed").to_owned()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_values().collect();
    counts.sort_unstable();
    assert_eq!(counts, [vec![1; EVENTS - 5], vec![2; 5]].concat());
}
