//! What the log says: one line for each attempt with all of it, and never a secret or what a message carries.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::{App, Service, eventually},
    receiver::{Answer, Receiver},
};

const SECRET: &str = "a-secret-that-no-line-may-show";
const MARKER: &str = "a-body-that-no-line-may-show";
const TOKEN: &str = "a-header-that-no-line-may-show";

fn attempts(service: &Service) -> Vec<Value> {
    service.log().into_iter().filter(|line| line["message"] == "attempt").collect()
}

#[tokio::test]
async fn each_attempt_is_one_line_with_everything_in_it() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    receiver.answer([Answer::status(503), Answer::ok()]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_schedule": [1]})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    let lines = eventually("both attempts are logged", async || {
        let lines = attempts(&service);
        (lines.len() == 2).then_some(lines)
    })
    .await;
    let requests = receiver.requests();
    for (n, line) in lines.iter().enumerate() {
        let check = |field: &str, expected: Value| assert_eq!(line[field], expected, "{field} of {line}");
        check("level", json!("INFO"));
        check("company", json!(company));
        check("webhook", json!(webhook));
        check("event", json!(requests[n].header("webhook-id")));
        check("event_type", json!("ticket.created"));
        check("delivery", json!(requests[n].header("x-xtsystems-delivery")));
        check("attempt", json!(n + 1));
        check("trigger", json!("event"));
        check("outcome", json!(["server_error", "accepted"][n]));
        check("next", json!(["retry", "done"][n]));
        check("status", json!([503, 200][n]));
        check("address", json!(receiver.address().to_string()));
        assert!(line["why"].as_str().is_some_and(|why| why.starts_with("the receiver ")), "{line}");
        assert!(line["total_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{line}");
    }
}

#[tokio::test]
async fn no_line_shows_a_secret_or_what_a_message_carries() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    // As talkative as it can be made.
    app.set("LOG", "trace").set("PROMPT_JOBS", 0);
    let service = app.run(&[]).await;
    receiver.answer([
        Answer::status(500).body(MARKER),
        Answer::status(302).header("location", "/elsewhere"),
        Answer::ok(),
    ]);
    let headers = json!({"Authorization": format!("Bearer {TOKEN}")});
    let more = json!({"secret": SECRET, "headers": headers, "retry_schedule": [1, 1]});
    app.webhook(company, &receiver.url("/"), more).await;
    app.publish(company, "ticket.created", json!({"text": MARKER})).await;
    receiver.wait_for(3).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    // A message that is no event, and one whose row PostgreSQL refuses.
    assert!(app.publish_raw("ticket.created", MARKER.as_bytes(), Default::default()).await);
    app.wait_for_count("select count(*) from dead_letters", 1).await;
    // A returned message: with its queue unbound, the broker hands a job back whole.
    let mut bindings: Vec<(String, String)> =
        (0..64).map(|bucket| (format!("{}.deliveries", app.prefix), format!("b{bucket:02}"))).collect();
    bindings.push((format!("{}.deliveries.unbound", app.prefix), String::new()));
    let queue = format!("{}.deliveries.0", app.prefix);
    for (exchange, key) in bindings {
        app.channel()
            .await
            .queue_unbind(
                queue.as_str().into(),
                exchange.as_str().into(),
                key.as_str().into(),
                Default::default(),
            )
            .await
            .expect("unbound");
    }
    app.publish(company, "ticket.created", json!({"text": MARKER})).await;
    eventually("a job came back", async || {
        let (_, metrics) = service.get("/metrics").await?;
        metrics
            .lines()
            .any(|line| {
                line.starts_with("xtwebhooks_broker_published_total")
                    && line.contains("returned")
                    && !line.ends_with(" 0")
            })
            .then_some(())
    })
    .await;
    let log = service.log();
    assert!(attempts(&service).len() >= 3 && log.len() > 50, "there is much to search: {} lines", log.len());
    for line in log {
        let text = line.to_string();
        for never in [SECRET, MARKER, TOKEN] {
            assert!(!text.contains(never), "`{never}` stands in {text}");
        }
    }
}
