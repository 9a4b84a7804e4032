//! Jobs of both versions: what a publisher of either writes is what a worker sends.

use std::time::Duration;

use lapin::{
    BasicProperties,
    message::BasicGetMessage,
    options::{BasicGetOptions, BasicPublishOptions},
};
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, eventually},
    receiver::{Answer, Receiver, Request},
};

/// What the events carry. A JSON library would change it if it read and wrote it.
const DATA: &str = r#"{ "n": 1.00,"text":"\u0000 é" }"#;
/// What their jobs carry once they are on their way again, so that it shows what was sent from a job.
const TRAVELLED: &str = r#"{"travelled":  "so"}"#;

fn envelope(data: &str, company: Uuid, timestamp: i64) -> String {
    format!(
        r#"{{"event_type":"ticket.created","data":{data},"company_id":"{company}","timestamp":{timestamp}}}"#
    )
}

/// Publishes an event with [`DATA`]; gives its time.
async fn publish(app: &App, company: Uuid) -> i64 {
    let timestamp = chrono::Utc::now().timestamp();
    let body = envelope(DATA, company, timestamp);
    assert!(app.publish_raw("ticket.created", body.as_bytes(), BasicProperties::default()).await);
    timestamp
}

/// Takes a message out of the first of these queues that has one, for good.
async fn take(app: &App, queues: &[&str]) -> BasicGetMessage {
    let channel = app.channel().await;
    eventually(&format!("a job in one of {queues:?}"), async || {
        for queue in queues {
            let name = format!("{}.{queue}", app.prefix);
            let taken = channel.basic_get(name.as_str().into(), BasicGetOptions { no_ack: true }).await;
            if let Some(taken) = taken.expect("the broker answers") {
                return Some(taken);
            }
        }
        None
    })
    .await
}

/// Publishes a message that was taken, to where it was published before, with this body.
async fn put(app: &App, taken: &BasicGetMessage, body: &[u8]) {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let (exchange, key) = (taken.delivery.exchange.clone(), taken.delivery.routing_key.clone());
    let properties = taken.delivery.properties.clone();
    let sent = app.channel().await.basic_publish(exchange, key, options, body, properties).await;
    let confirm = sent.expect("published").await.expect("answered");
    assert!(matches!(confirm, lapin::Confirmation::Ack(None)), "{confirm:?}");
}

fn kind(taken: &BasicGetMessage) -> &str {
    taken.delivery.properties.kind().as_ref().expect("a type").as_str()
}

fn timestamp(taken: &BasicGetMessage) -> Option<i64> {
    let headers = taken.delivery.properties.headers().as_ref().expect("headers");
    headers.inner().get("timestamp").and_then(lapin::types::AMQPValue::as_long_long_int)
}

/// One delivery with a retry, and a bundle, from jobs that were published in `version`.
async fn is_carried(version: u8) {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let (single, bundled) = (Uuid::new_v4(), Uuid::new_v4());
    app.set("JOB_VERSION", version).set("FRESH_MAX", "10m").set("RESCUE_GRACE", "20m");
    // So late that the worker is told to stop before: it still publishes the retry, and takes nothing any more.
    let failure = Answer::status(500).after(Duration::from_secs(3));
    receiver.answer_at("/single", [failure, Answer::ok()]);
    app.webhook(single, &receiver.url("/single"), json!({})).await;
    for path in ["/first", "/second", "/third"] {
        app.webhook(bundled, &receiver.url(path), json!({"name": path})).await;
    }
    let ingest = app.run(&["--role", "ingest"]).await;
    let mut jobs = Vec::new();
    let mut expected = Vec::new();
    for company in [single, bundled] {
        let happened = publish(&app, company).await;
        let job = take(&app, &["prompt.0", "deliveries.0"]).await;
        assert_eq!(kind(&job), format!("xtwebhooks.job.v{version}"));
        let body = envelope(DATA, company, happened);
        let carried = String::from_utf8_lossy(&job.delivery.data).into_owned();
        if version == 1 {
            assert_eq!((carried, timestamp(&job)), (body.clone(), None));
            expected.push((TRAVELLED.to_owned(), body));
        } else {
            assert_eq!((carried, timestamp(&job)), (DATA.to_owned(), Some(happened)));
            expected.push((envelope(TRAVELLED, company, happened), body));
        }
        jobs.push(job);
    }
    assert_eq!(ingest.stop().await, Some(0));

    app.set("JOB_VERSION", 2);
    let worker = app.run(&["--role", "deliver"]).await;
    for job in &jobs {
        put(&app, job, TRAVELLED.as_bytes()).await;
    }
    let requests = receiver.wait_for(4).await;
    assert_eq!(worker.stop().await, Some(0));
    for request in &requests {
        let (first, _) = &expected[usize::from(request.path() != "/single")];
        assert_eq!(String::from_utf8_lossy(&request.body), *first, "{}", request.path());
    }
    let mut paths: Vec<_> = requests.iter().map(Request::path).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/first", "/second", "/single", "/third"]);

    // The retry carries nothing: what it sends is rendered from the ledger.
    let retry = take(&app, &["deliveries.0"]).await;
    assert_eq!((kind(&retry), retry.delivery.data.as_slice()), ("xtwebhooks.job.v2", &b""[..]));
    put(&app, &retry, b"").await;
    let worker = app.run(&["--role", "deliver"]).await;
    let again = &receiver.wait_for(5).await[4];
    assert_eq!((again.path(), again.header("x-xtsystems-attempt")), ("/single", Some("2")));
    assert_eq!(String::from_utf8_lossy(&again.body), expected[0].1);
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 4).await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn what_an_old_publisher_rendered_is_posted_as_it_is_by_a_new_worker() {
    is_carried(1).await;
}

#[tokio::test]
async fn jobs_of_version_two_carry_data_and_are_rendered_when_they_are_sent() {
    is_carried(2).await;
}
