//! How long a webhook lets retries go on: `max_attempt_age_seconds`.

use chrono::{TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::App,
    past::{execute, owe},
    receiver::{Answer, Receiver},
};

const DEAD: &str = "select count(*) from dead_letters where kind = 'delivery' and reason = 'too old'";

#[tokio::test]
async fn a_retry_that_would_start_too_late_is_given_up_at_once() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let admin = app.client(&service, company).await;
    let mut asked = json!({"name": "bot", "url": receiver.url("/"), "events": ["ticket.*"], "retry_schedule": [1, 3600],
        "max_attempt_age_seconds": 59});
    let problem = admin.post("/v1/webhooks", asked.clone()).await.expect(422);
    assert_eq!(problem["errors"][0]["field"], "max_attempt_age_seconds", "{problem}");
    asked["max_attempt_age_seconds"] = json!(60);
    let made = admin.post("/v1/webhooks", asked).await.expect(200);
    assert_eq!(made["max_attempt_age_seconds"], 60);

    // The second attempt is in time, the third would start an hour later.
    receiver.answer([Answer::status(500), Answer::status(500)]);
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    receiver.wait_for(2).await;
    app.wait_for_count(DEAD, 1).await;
    let letters = admin.get("/v1/dead-letters").await.expect(200);
    assert!(
        letters[0]["why"].as_str().is_some_and(|why| why.contains("max_attempt_age_seconds")),
        "{letters}"
    );

    let path = format!("/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    let reset = admin.put(&path, json!({"max_attempt_age_seconds": null})).await.expect(200);
    assert!(reset["max_attempt_age_seconds"].is_null());
}

#[tokio::test]
async fn age_stops_a_late_retry_and_neither_a_first_attempt_nor_a_replay() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let settings = json!({"max_attempt_age_seconds": 60, "retry_schedule": [1]});
    let webhook = app.webhook(company, &receiver.url("/"), settings).await;
    let long_ago = Utc::now() - TimeDelta::hours(2);
    let retried = owe(&app, company, webhook, long_ago, "pending").await;
    execute(&app, "update webhook_deliveries set attempts = 1").await;
    let service = app.run(&[]).await;
    app.wait_for_count(DEAD, 1).await;
    assert_eq!(receiver.count(), 0, "the retry is too late, and nothing is sent");
    let attempt = "select count(*) from webhook_deliveries where outcome = 'fault' and why like '%60 s%'";
    assert_eq!(app.count(attempt).await, 1);

    // Its replay counts from its own start: the second attempt comes although the event is two hours old.
    let admin = app.client(&service, company).await;
    receiver.answer([Answer::status(500), Answer::ok()]);
    admin.post(&format!("/v1/deliveries/{}/replay", retried.0), json!({})).await.expect(202);
    receiver.wait_for(2).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;

    // A first attempt is made however late it comes.
    owe(&app, company, webhook, long_ago, "pending").await;
    receiver.wait_for(3).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 2).await;
}
