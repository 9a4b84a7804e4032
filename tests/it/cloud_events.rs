//! CloudEvents as the SDK of their makers publishes them arrive like any other event, each once.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use crate::support::{app::App, python::python, receiver::Receiver};

/// Publishes one event in each form, each twice; gives forms and data as the SDK had them.
async fn publish(app: &App, company: Uuid) -> Vec<Value> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/cloud_events.py");
    let output = Command::new(python().await)
        .args(["-B", program, &company.to_string()])
        .env("AMQP_URL", &app.amqp_url)
        .env("EVENTS_EXCHANGE", &app.exchange)
        .output()
        .await
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect()
}

#[tokio::test]
async fn cloud_events_of_their_own_sdk_arrive_in_each_form_once() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let service = app.run(&[]).await;
    let published = publish(&app, company).await;
    assert_eq!(published.len(), 5);
    // Behind the repeats, so that what they would cause has happened when it has arrived.
    app.publish(company, "ticket.closed", json!({})).await;
    let delivered = "select count(*) from webhook_deliveries where status = 'delivered'";
    app.wait_for_count(delivered, published.len() as i64 + 1).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(app.count("select count(*) from dead_letters").await, 0);

    let mut ids: Vec<String> =
        sqlx::query_scalar("select message_id from events where event_type = 'ticket.created'")
            .fetch_all(&app.pool)
            .await
            .expect("read");
    let source = "https://xtsystems.example/tickets";
    let mut expected: Vec<String> =
        published.iter().map(|p| format!("{source} {}", p["form"].as_str().expect("a text"))).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
    let requests = receiver.requests();
    let created: Vec<_> = requests.iter().filter(|r| r.json()["event_type"] == "ticket.created").collect();
    assert_eq!((created.len(), requests.len()), (published.len(), published.len() + 1));
    let now = chrono::Utc::now().timestamp();
    for request in created {
        let body = request.json();
        assert_eq!((&body["data"], &body["company_id"]), (&published[0]["data"], &json!(company)));
        let time = body["timestamp"].as_i64().expect("a number");
        assert!((now - 60..=now).contains(&time), "{time}, and now it is {now}");
        let trace = request.header("traceparent").expect("a trace");
        assert!(trace.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"), "{trace}");
    }
}

#[tokio::test]
async fn a_cloud_event_that_was_refused_keeps_what_it_came_with_when_it_is_replayed() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let mut headers = FieldTable::default();
    headers.insert("company_id".into(), AMQPValue::LongString(company.to_string().into()));
    headers.insert("ce-specversion".into(), AMQPValue::LongString("1.0".into()));
    headers.insert("ce-time".into(), AMQPValue::Timestamp(1_700_000_000));
    let properties = BasicProperties::default().with_headers(headers).with_content_type("text/plain".into());
    assert!(app.publish_raw("a.b", b"hello", properties).await);
    let refused = "select count(*) from dead_letters
                   where field = 'datacontenttype' and headers->>'xt-content-type' = 'text/plain'
                     and headers->>'ce-time' = '2023-11-14T22:13:20Z'";
    app.wait_for_count(refused, 1).await;
    let id: Uuid = sqlx::query_scalar("select id from dead_letters").fetch_one(&app.pool).await.expect("one");
    app.cli(&["replay", "--company", &company.to_string(), &id.to_string()]).await;
    app.wait_for_count(refused, 2).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(
        app.count("select count(*) from dead_letters").await,
        2,
        "refused again, and for the same reason"
    );
}
