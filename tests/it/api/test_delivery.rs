//! The test of a webhook: through the real pipeline, and without a trace on anything but the history.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::App,
    receiver::{Answer, Receiver},
};

async fn test(client: &Client, webhook: Uuid) -> Value {
    client.send("POST", &format!("/v1/webhooks/{webhook}/test"), None).await.expect(200)
}

fn why(tested: &Value) -> &str {
    tested["why"].as_str().unwrap_or_default()
}

/// Nothing that a real delivery would have left.
async fn left_no_trace(app: &App) {
    let told = "select (select count(*) from dead_letters) + (select count(*) from lane_transitions)
                     + (select count(*) from webhooks where paused_by = 'xtwebhooks')
                     + (select count(*) from delivery_stats) + (select count(*) from replays)
                     + (select count(*) from lanes where failures > 0 or failing_since is not null or opened_at is not null
                                                      or last_success_at is not null or held_back_until is not null)";
    assert_eq!(app.count(told).await, 0);
    assert_eq!(app.count("select count(*) from webhook_deliveries where attempts > 1").await, 0);
    assert_eq!(app.count("select count(*) from webhook_deliveries where trigger <> 'test'").await, 0);
    assert_eq!(app.count("select count(*) from events where event_type <> 'webhook.test'").await, 0);
}

#[tokio::test]
async fn a_test_goes_through_the_real_pipeline_and_says_what_came_of_it() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let admin = app.client(&service, company).await;
    let webhook =
        app.webhook(company, &receiver.url("/hook"), json!({"events": ["ticket.*"], "retry_count": 5})).await;

    let tested = test(&admin, webhook).await;
    assert_eq!(
        (&tested["success"], &tested["message"]),
        (&json!(true), &json!("Test webhook sent")),
        "{tested}"
    );
    assert_eq!((&tested["response_status"], &tested["why"]), (&json!(200), &Value::Null));
    assert!(tested["latency_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    let request = &receiver.wait_for(1).await[0];
    let body = request.json();
    assert_eq!(body["event_type"], "webhook.test");
    assert_eq!(body["data"]["message"], "This is a test webhook");
    assert_eq!(body["data"]["webhook_id"], json!(webhook));
    assert!(body["data"]["timestamp"].is_string() && body["company_id"] == json!(company));
    assert_eq!(request.header("x-xtsystems-trigger"), Some("test"));
    assert_eq!(request.header("x-xtsystems-delivery"), tested["delivery_id"].as_str());
    let signature = request.header("x-xtsystems-signature").expect("it is signed");
    assert!(signature.starts_with("sha256="));

    // Refused: one attempt, and no other although the webhook wants five.
    for (status, said) in [(500, "500"), (404, "404"), (429, "429"), (302, "302")] {
        receiver.answer([Answer::status(status)]);
        let tested = test(&admin, webhook).await;
        assert_eq!(
            (&tested["success"], &tested["response_status"]),
            (&json!(false), &json!(status)),
            "{tested}"
        );
        assert!(why(&tested).contains(said) && tested["message"] == "Test webhook sent", "{tested}");
    }
    // A 410 would pause.
    receiver.answer([Answer::status(410)]);
    assert!(why(&test(&admin, webhook).await).contains("410"));
    receiver.answer([Answer::reset()]);
    let tested = test(&admin, webhook).await;
    assert_eq!((&tested["success"], &tested["response_status"]), (&json!(false), &Value::Null), "{tested}");
    assert!(why(&tested).contains("reset"), "{tested}");
    // More failures in a row than open a lane were sent by now.
    // A reset on a kept connection is tried once more on a fresh one, within the attempt.
    assert!((7..=8).contains(&receiver.count()), "{}", receiver.count());
    assert_eq!(
        app.count("select count(*) from webhook_deliveries where status in ('delivered', 'dead')").await,
        7
    );
    left_no_trace(&app).await;
    assert_eq!(app.depth("dead-letters").await, 0);

    // What a replay of everything that failed finds is nothing: a test is repeated by a new test.
    let events = "select count(*) from events where fanned_out and matched = 1";
    assert_eq!(app.count(events).await, 7);
}

#[tokio::test]
async fn a_test_that_times_out_or_goes_to_a_refused_address_says_so() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let admin = app.client(&service, company).await;
    receiver.answer([Answer::silence()]);
    let silent = app.webhook(company, &receiver.url("/"), json!({"timeout_seconds": 1})).await;
    let began = Instant::now();
    let tested = test(&admin, silent).await;
    assert!(began.elapsed() < Duration::from_secs(6), "its timeout and five seconds at most");
    assert!(tested["success"] == json!(false) && why(&tested).contains("1 s"), "{tested}");

    let private = app.webhook(company, "http://10.0.0.1/", json!({})).await;
    let tested = test(&admin, private).await;
    assert_eq!(tested["success"], json!(false));
    assert!(why(&tested).contains("10.0.0.0/8"), "{tested}");
    let nobody = app.webhook(company, "http://127.0.0.1:1/", json!({})).await;
    assert!(why(&test(&admin, nobody).await).contains("refused the connection"));
    left_no_trace(&app).await;
}

#[tokio::test]
async fn a_test_is_sent_while_its_webhook_is_paused_inactive_or_its_lane_shut() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let admin = app.client(&service, company).await;
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let path = format!("/v1/webhooks/{webhook}");
    admin.post(&format!("{path}/pause"), json!({"reason": "moving"})).await.expect(200);
    assert_eq!(test(&admin, webhook).await["success"], json!(true), "paused");
    admin.put(&path, json!({"active": false})).await.expect(200);
    assert_eq!(test(&admin, webhook).await["success"], json!(true), "paused and inactive");
    admin.post(&format!("{path}/resume"), json!({})).await.expect(200);
    admin.put(&path, json!({"active": true})).await.expect(200);
    let open = "update lanes set opened_at = now(), open_reason = 'five in a row', failures = 5,
                    next_probe_at = now() + interval '1 hour', failing_since = now()";
    sqlx::query(open).execute(&app.pool).await.unwrap();
    // A change of the webhook wakes the cache of the worker.
    admin.put(&path, json!({"description": "open"})).await.expect(200);
    assert_eq!(test(&admin, webhook).await["success"], json!(true), "its breaker is open");
    let as_it_was = "select count(*) from lanes where opened_at is not null and failures = 5 and probe_leased_until is null
                     and last_success_at is null";
    assert_eq!(app.count(as_it_was).await, 1, "and stays so: a test is no probe");
    assert_eq!(receiver.count(), 3);
    assert_eq!(admin.get(&path).await.expect(200)["paused_at"], Value::Null);
}

#[tokio::test]
async fn without_a_worker_a_test_says_so_and_is_not_sent_later() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let webhook = app.webhook(company, &receiver.url("/"), json!({"timeout_seconds": 60})).await;
    let began = Instant::now();
    let tested = test(&admin, webhook).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(tested["success"], json!(false));
    assert!(tested["message"].as_str().is_some_and(|said| said.contains("no worker is running")), "{tested}");
    assert_eq!(app.depth("deliveries.0").await, 1, "its job is still there");

    // A worker that comes later finds the job, and that there is nothing to do; what comes after it is sent.
    let _worker = app.run(&["--role", "ingest,deliver,dead-letter,schedule"]).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    let requests = receiver.wait_for(1).await;
    assert_eq!(requests[0].json()["event_type"], "ticket.created");
    let back = "select count(*) from webhook_deliveries where trigger = 'test' and status = 'cancelled'
                and reason = 'test not begun in time' and attempts = 0";
    assert_eq!(app.count(back).await, 1);
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
}

#[tokio::test]
async fn a_test_that_does_not_get_its_turn_says_how_many_are_ahead_and_is_taken_back() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let admin = app.client(&service, company).await;
    receiver.answer([Answer::ok().after(Duration::from_secs(20))]);
    let busy = json!({"timeout_seconds": 30, "max_in_flight": 1});
    let webhook = app.webhook(company, &receiver.url("/"), busy).await;
    for n in 0..3 {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    receiver.wait_for(1).await;
    app.wait_for_count("select count(*) from webhook_deliveries where queued_at is null", 2).await;
    // From here on its turn does not come within its own timeout.
    sqlx::query("update webhooks set timeout_seconds = 1").execute(&app.pool).await.unwrap();
    let tested = test(&admin, webhook).await;
    assert_eq!(tested["success"], json!(false));
    let said = tested["message"].as_str().unwrap_or_default();
    assert!(said.starts_with("waiting, ") && said.ends_with(" ahead"), "{tested}");
    assert_eq!(
        app.count("select count(*) from webhook_deliveries where trigger = 'test' and status = 'cancelled'")
            .await,
        1
    );
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_test_whose_asker_died_is_not_sent_an_hour_later() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let old = chrono::Utc::now() - chrono::TimeDelta::hours(1);
    let delivery = crate::support::past::owe(&app, company, webhook, old, "pending").await;
    sqlx::query("update webhook_deliveries set trigger = 'test' where id = $1")
        .bind(delivery.0)
        .execute(&app.pool)
        .await
        .unwrap();
    let _service = app.run(&[]).await;
    let back = "select count(*) from webhook_deliveries where status = 'cancelled' and reason = 'test not begun in time'";
    app.wait_for_count(back, 1).await;
    assert_eq!((receiver.count(), app.count("select count(*) from dead_letters").await), (0, 0));
}
