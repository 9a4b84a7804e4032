//! No fault, no repeat: an event that is published again is not requested again.
//!
//! "Not again" is shown by stopping every process once all that was published is settled: what a process still had
//! to send it would have sent before it ended.

use std::collections::HashMap;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::{App, Service, eventually},
    receiver::{Receiver, Request},
};

/// What a publisher sends as one message; its copies are these bytes again.
fn message(company: Uuid, id: Option<&str>, timestamp: Option<i64>, data: Value) -> Vec<u8> {
    let mut body = json!({"event_type": "ticket.created", "company_id": company, "data": data});
    if let Some(id) = id {
        body["event_id"] = id.into();
    }
    if let Some(timestamp) = timestamp {
        body["timestamp"] = timestamp.into();
    }
    body.to_string().into_bytes()
}

fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// Every message once by each of three publishers, who publish at once.
async fn publish_by_three(app: &App, messages: &[Vec<u8>]) {
    let channels = [app.another_channel().await, app.another_channel().await, app.another_channel().await];
    let sending = channels.iter().map(async |channel| {
        for message in messages {
            assert!(app.publish_on(channel, "ticket.created", message, Default::default()).await);
        }
    });
    futures_util::future::join_all(sending).await;
}

/// Messages that these ingests met, by what became of them.
async fn taken(services: &[Service], result: &str) -> usize {
    let mut sum = 0.0;
    for service in services {
        sum += service.metric(&format!("xtwebhooks_ingest_messages_total{{result=\"{result}\"}}")).await;
    }
    sum as usize
}

async fn wait_for_taken(services: &[Service], result: &str, expected: usize) {
    eventually(&format!("{expected} messages are {result}"), async || {
        (taken(services, result).await == expected).then_some(())
    })
    .await;
}

async fn wait_for_delivered(app: &App, deliveries: i64) {
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", deliveries)
        .await;
    assert_eq!(app.count("select count(*) from webhook_deliveries").await, deliveries);
    let again = "select count(*) from webhook_deliveries where attempts <> 1 or repeats > 0 or rescues > 0";
    assert_eq!(app.count(again).await, 0);
}

async fn stop_all(services: Vec<Service>) {
    for service in services {
        assert_eq!(service.stop().await, Some(0));
    }
}

/// How often each event was requested at each path.
fn times(requests: &[Request]) -> HashMap<(String, String), usize> {
    let mut times = HashMap::new();
    for request in requests {
        let event = request.header("webhook-id").expect("every request bears it").to_owned();
        *times.entry((request.path().to_owned(), event)).or_default() += 1;
    }
    times
}

#[tokio::test]
async fn events_published_three_times_at_once_are_each_requested_once() {
    const EVENTS: usize = 200;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let ingests =
        vec![app.run(&["--role", "ingest,schedule"]).await, app.run(&["--role", "ingest,dead-letter"]).await];
    let workers = vec![app.run(&["--role", "deliver"]).await, app.run(&["--role", "deliver"]).await];
    for path in ["/a", "/b"] {
        app.webhook(company, &receiver.url(path), json!({})).await;
    }
    let messages: Vec<_> = (0..EVENTS)
        .map(|n| message(company, Some(&format!("e-{n}")), Some(now()), json!({"n": n})))
        .collect();
    publish_by_three(&app, &messages).await;
    wait_for_taken(&ingests, "repeated", 2 * EVENTS).await;
    assert_eq!(taken(&ingests, "committed").await, EVENTS);
    wait_for_delivered(&app, 2 * EVENTS as i64).await;
    for ingest in &ingests {
        assert!(taken(std::slice::from_ref(ingest), "repeated").await > 0, "both ingests had copies");
    }
    for worker in &workers {
        assert!(worker.metric("xtwebhooks_deliver_jobs_total{result=\"fresh\"}").await > 0.0, "both worked");
    }
    stop_all(ingests).await;
    stop_all(workers).await;
    let times = times(&receiver.requests());
    assert_eq!(times.len(), 2 * EVENTS);
    assert!(times.values().all(|times| *times == 1), "{times:#?}");
}

#[tokio::test]
async fn events_that_their_own_time_cannot_place_are_requested_once_too() {
    const EVENTS: usize = 40;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let services = vec![app.run(&[]).await, app.run(&["--role", "ingest"]).await];
    app.webhook(company, &receiver.url("/"), json!({})).await;
    // By an id or by their bytes alone; of 1970, of 9999, without a time.
    let messages: Vec<_> = (0..EVENTS)
        .map(|n| {
            let id = format!("e-{n}");
            let id = n.is_multiple_of(2).then_some(id.as_str());
            let timestamp = [Some(0), Some(n as i64), Some(253_402_300_799), None][n / 2 % 4];
            message(company, id, timestamp, json!({"n": n}))
        })
        .collect();
    publish_by_three(&app, &messages).await;
    wait_for_taken(&services, "repeated", 2 * EVENTS).await;
    wait_for_delivered(&app, EVENTS as i64).await;
    // Long after, too: the key that the first copy claimed is kept.
    assert!(app.publish_raw("ticket.created", &messages[0], Default::default()).await);
    wait_for_taken(&services, "repeated", 2 * EVENTS + 1).await;
    stop_all(services).await;
    let times = times(&receiver.requests());
    assert_eq!((times.len(), receiver.count()), (EVENTS, EVENTS));
}

#[tokio::test]
async fn another_body_under_a_known_message_id_is_counted_and_not_sent() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let services = vec![app.run(&[]).await];
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let publish = async |id: &str, timestamp: i64, data: Value| {
        let body = message(company, Some(id), Some(timestamp), data);
        assert!(app.publish_raw("ticket.created", &body, Default::default()).await);
    };
    let time = now();
    publish("late", time, json!("first")).await;
    receiver.wait_for(1).await;
    publish("late", time, json!("second")).await;
    wait_for_taken(&services, "conflicting", 1).await;
    // At once, and probably in one batch.
    let both =
        [json!("first"), json!("second")].map(|data| message(company, Some("at once"), Some(time), data));
    let channel = app.channel().await;
    let sending = both.iter().map(|body| app.publish_on(channel, "ticket.created", body, Default::default()));
    futures_util::future::join_all(sending).await;
    // Without a usable time the message id alone says what is the same.
    publish("no time", 0, json!("first")).await;
    publish("no time", 0, json!("second")).await;
    wait_for_taken(&services, "conflicting", 3).await;
    assert_eq!(taken(&services, "repeated").await, 0);
    wait_for_delivered(&app, 3).await;
    stop_all(services).await;
    let data: Vec<_> = receiver.requests().iter().map(|request| request.json()["data"].clone()).collect();
    assert_eq!(data, [json!("first"), json!("first"), json!("first")]);
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);
}

#[tokio::test]
async fn equal_messages_without_an_id_are_one_event_unless_the_setting_says_otherwise() {
    for (dedupe, expected) in [(true, 1), (false, 3)] {
        let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
        app.set("DEDUPE_IDENTICAL", dedupe);
        let services = vec![app.run(&[]).await];
        app.webhook(company, &receiver.url("/"), json!({})).await;
        let time = Some(now());
        let messages = [message(company, None, time, json!(1)), message(company, Some("id"), time, json!(2))];
        publish_by_three(&app, &messages).await;
        wait_for_taken(&services, "committed", expected + 1).await;
        wait_for_taken(&services, "repeated", 3 - expected + 2).await;
        wait_for_delivered(&app, expected as i64 + 1).await;
        stop_all(services).await;
        let requests = receiver.requests();
        let without_id = requests.iter().filter(|request| request.json()["data"] == 1).count();
        assert_eq!((without_id, requests.len()), (expected, expected + 1), "DEDUPE_IDENTICAL={dedupe}");
        assert_eq!(times(&requests).len(), requests.len(), "each is an event of its own");
    }
}

#[tokio::test]
async fn a_late_repeat_reaches_no_webhook_made_since() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let services = vec![app.run(&[]).await];
    app.webhook(company, &receiver.url("/old"), json!({"events": ["ticket.created"]})).await;
    let wanted = message(company, Some("wanted"), Some(now()), json!({}));
    let unwanted = json!({"event_type": "asset.created", "company_id": company, "event_id": "unwanted",
        "data": {}, "timestamp": now()});
    let unwanted = unwanted.to_string().into_bytes();
    let publish_both = async || {
        for (routing_key, body) in [("ticket.created", &wanted), ("asset.created", &unwanted)] {
            assert!(app.publish_raw(routing_key, body, Default::default()).await);
        }
    };
    publish_both().await;
    wait_for_taken(&services, "committed", 2).await;
    app.webhook(company, &receiver.url("/new"), json!({"events": ["*"]})).await;
    eventually("the new webhook is known", async || {
        app.publish(company, "user.created", json!({})).await;
        receiver.requests().iter().any(|request| request.path() == "/new").then_some(())
    })
    .await;
    publish_both().await;
    wait_for_taken(&services, "repeated", 2).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status <> 'delivered'", 0).await;
    stop_all(services).await;
    for request in receiver.requests() {
        let event_type = request.header("x-xtsystems-event").expect("every request bears it");
        let expected = if request.path() == "/old" { "ticket.created" } else { "user.created" };
        assert_eq!(event_type, expected, "at {}", request.path());
    }
    let old = receiver.requests().iter().filter(|request| request.path() == "/old").count();
    assert_eq!(old, 1);
}
