//! Headers that no client library would write: they end or hold up no process that reads them.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};
use uuid::Uuid;

use crate::support::{app::App, python::python, receiver::Receiver};

/// What the headers of a message are like; `tests/interop/raw_headers.py` has the bytes.
const RAW: [&str; 3] = ["array", "table", "name"];
/// How many ordinary events are published among them.
const NEIGHBOURS: i64 = 20;

async fn publish(app: &App, messages: &[Value]) {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/raw_headers.py");
    let mut child = Command::new(python().await)
        .args(["-B", program])
        .stdin(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let order = json!({"url": app.amqp_url, "messages": messages}).to_string();
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(order.as_bytes()).await.expect("it reads");
    drop(stdin);
    assert!(child.wait().await.expect("it ends").success(), "all messages are confirmed");
}

#[tokio::test]
async fn headers_nested_to_the_limit_of_a_frame_end_no_process_and_cost_no_neighbour() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"events": ["*"]})).await;
    let service = app.run(&[]).await;
    let good = json!({"event_type": "ticket.created", "data": {"raw": true}, "company_id": company, "timestamp": null})
        .to_string();
    let message = |name: String, raw: &str, exchange: &str, key: &str, kind: Option<&str>, body: &str| {
        json!({"raw": raw, "exchange": exchange, "routing_key": key, "type": kind, "headers": {"row": name},
            "body": body})
    };
    let mut messages = Vec::new();
    for raw in RAW {
        let (jobs, dead) = (format!("{}.deliveries", app.prefix), format!("{}.dead-letters", app.prefix));
        messages.extend([
            message(format!("{raw} good"), raw, &app.exchange, "ticket.created", None, &good),
            message(format!("{raw} event"), raw, &app.exchange, "ticket.created", None, "{"),
            message(format!("{raw} job"), raw, &jobs, "b00", Some("xtwebhooks.job.v1"), "{"),
            message(format!("{raw} dead"), raw, "", &dead, None, "{"),
        ]);
    }
    // The rows of `raw` go beside others, in the same batches.
    let neighbours = async {
        for number in 0..NEIGHBOURS {
            app.publish(company, "ticket.created", json!({"number": number})).await;
        }
    };
    tokio::join!(publish(&app, &messages), neighbours);
    let good = RAW.len() as i64;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'delivered'",
        NEIGHBOURS + good,
    )
    .await;
    app.wait_for_count("select count(*) from dead_letters", 3 * good).await;
    let rows: Vec<String> =
        sqlx::query_scalar("select headers->>'row' from dead_letters where status = 'open' order by 1")
            .fetch_all(&app.pool)
            .await
            .expect("read");
    let mut expected: Vec<String> =
        (RAW.iter()).flat_map(|raw| ["dead", "event", "job"].map(|place| format!("{raw} {place}"))).collect();
    expected.sort();
    assert_eq!(rows, expected, "one dead letter for each");
    // The process that took the first one is the one that ends here, and it left no message behind.
    assert_eq!(service.stop().await, Some(0));
    for queue in ["events", "dead-letters", "deliveries.0", "prompt.0", "suspects.events", "suspects.jobs"] {
        assert_eq!(app.depth(queue).await, 0, "{queue}");
    }
}
