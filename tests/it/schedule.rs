//! What waits in the ledger: for its time, for room, for another scheduler. And the trace that goes along.

use std::{collections::HashSet, time::Duration};

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, Service, eventually_within},
    receiver::{Answer, Receiver},
};

const DELIVERED: &str = "select count(*) from webhook_deliveries where status = 'delivered'";

#[tokio::test]
async fn waits_that_no_retry_queue_has_stand_in_the_ledger_with_their_jitter() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer_by(|request, _| match request.path() {
        "/throttled" => Answer::status(429).header("retry-after", "40"),
        _ => Answer::status(500),
    });
    // Of each: its URL, its policy, and the seconds between which the second attempt is due.
    let patient = [5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400];
    let cases = [
        ("/schedule", json!({"retry_schedule": [100, 200]}), 80.0..=120.0),
        ("/patient", json!({"retry_schedule": patient}), 4.0..=6.0),
        ("/throttled", json!({}), 39.0..=41.0),
    ];
    for (path, more, _) in &cases {
        let mut more = more.clone();
        more["name"] = json!(path);
        app.webhook(company, &receiver.url(path), more).await;
    }
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    let waiting = "select count(*) from webhook_deliveries
                   where status = 'pending' and attempts = 1 and queued_at is null and claimed_until is null";
    app.wait_for_count(waiting, 3).await;
    for (path, _, due) in cases {
        let wait: f64 = sqlx::query_scalar(
            "select extract(epoch from d.due_at - d.attempted_at)::double precision
             from webhook_deliveries d join webhooks w on w.id = d.webhook_id where w.name = $1",
        )
        .bind(path)
        .fetch_one(&app.pool)
        .await
        .expect("a row");
        // The wait counts from the recording, which comes a little after the beginning of the attempt.
        assert!(due.contains(&wait) || due.contains(&(wait - 1.0)), "{path}: {wait} s, not {due:?}");
    }
}

#[tokio::test]
async fn a_wait_in_the_ledger_ends_with_the_next_attempt() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer([Answer::status(503).header("retry-after", "2"), Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_schedule": [1, 3, 60]})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    let requests = receiver.wait_for(3).await;
    app.wait_for_count(DELIVERED, 1).await;
    let waits = [requests[1].at - requests[0].at, requests[2].at - requests[1].at];
    let at_least = |wait: Duration, seconds: f64| wait >= Duration::from_secs_f64(seconds);
    assert!(at_least(waits[0], 1.9) && waits[0] < Duration::from_secs(15), "Retry-After: {waits:?}");
    assert!(at_least(waits[1], 2.3) && waits[1] < Duration::from_secs(15), "3 s less jitter: {waits:?}");
    assert_eq!(requests[2].header("x-xtsystems-attempt"), Some("3"));
}

#[tokio::test]
async fn what_finds_no_room_in_the_window_goes_through_schedule_and_arrives_once() {
    const EVENTS: usize = 60;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.set("WINDOW_JOBS", 5).set("PROMPT_JOBS", 0);
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let ingest = app.run(&["--role", "ingest"]).await;
    // The first fill the window; the others are taken in when that is known.
    for (upto, from) in [(10, 0), (EVENTS, 10)] {
        for n in from..upto {
            app.publish(company, "ticket.created", json!({"n": n})).await;
        }
        app.wait_for_count("select count(*) from webhook_deliveries", upto as i64).await;
    }
    let without_a_job = app.count("select count(*) from webhook_deliveries where queued_at is null").await;
    assert!(without_a_job > 0, "the window was full, and all of them had jobs");
    let _others = app.run(&["--role", "deliver,schedule,dead-letter"]).await;
    receiver.wait_for(EVENTS).await;
    app.wait_for_count(DELIVERED, EVENTS as i64).await;
    assert_eq!(ingest.stop().await, Some(0));
    let requests = receiver.requests();
    let ids: HashSet<_> = requests.iter().filter_map(|request| request.header("webhook-id")).collect();
    assert_eq!((requests.len(), ids.len()), (EVENTS, EVENTS));
}

async fn is_active(service: &Service) -> bool {
    service.metric("xtwebhooks_schedule_active").await > 0.0
}

#[tokio::test]
async fn one_of_two_schedulers_is_active_and_the_other_takes_over_after_a_crash() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let (first, second) = (app.run(&[]).await, app.run(&[]).await);
    let one = async || match (is_active(&first).await, is_active(&second).await) {
        (true, false) => Some(true),
        (false, true) => Some(false),
        (false, false) => None,
        (true, true) => panic!("two schedulers are active"),
    };
    let first_is = eventually_within(Duration::from_secs(15), "a scheduler is active", one).await;
    // Something that only schedule can send once its time has come.
    receiver.answer([Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_schedule": [3]})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where attempts = 1 and queued_at is null", 1)
        .await;
    assert_eq!(one().await, Some(first_is), "it stays the same one");
    let (active, other) = if first_is { (first, second) } else { (second, first) };
    active.kill().await;
    eventually_within(Duration::from_secs(15), "the other scheduler took over", async || {
        is_active(&other).await.then_some(())
    })
    .await;
    receiver.wait_for(2).await;
    app.wait_for_count(DELIVERED, 1).await;
}

#[tokio::test]
async fn a_scheduler_that_is_stopped_hands_over_at_once() {
    let app = App::new().await;
    let first = app.run(&["--role", "schedule"]).await;
    eventually_within(Duration::from_secs(15), "it is active", async || {
        is_active(&first).await.then_some(())
    })
    .await;
    assert_eq!(first.stop().await, Some(0));
    let held = "select count(*) from leases where name = 'feed' and held_until >= now()";
    assert_eq!(app.count(held).await, 0);
}

#[tokio::test]
async fn the_trace_of_the_publisher_goes_to_the_receiver_by_every_way() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    // A fresh job, then a retry queue; and a wait in the ledger.
    receiver.answer_at("/queue", [Answer::status(500), Answer::ok()]);
    receiver.answer_at("/ledger", [Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/queue"), json!({"name": "queue"})).await;
    app.webhook(company, &receiver.url("/ledger"), json!({"name": "ledger", "retry_schedule": [1]})).await;
    let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let mut headers = lapin::types::FieldTable::default();
    headers.insert(
        "traceparent".into(),
        lapin::types::AMQPValue::LongString(format!("00-{trace}-{span}-01").into()),
    );
    let body = json!({"event_type": "ticket.created", "company_id": company, "data": {}});
    let properties = lapin::BasicProperties::default().with_headers(headers);
    assert!(app.publish_raw("ticket.created", body.to_string().as_bytes(), properties).await);
    let requests = receiver.wait_for(4).await;
    let mut spans = HashSet::new();
    for request in &requests {
        let parts: Vec<&str> = request.header("traceparent").expect("a traceparent").split('-').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("00", trace, "01"), "{}", request.path());
        assert_ne!(parts[2], span, "each request is a span of its own");
        spans.insert(parts[2].to_owned());
    }
    assert_eq!(spans.len(), 4);
}
