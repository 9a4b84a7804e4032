//! Outages that heal by themselves: what was given up in one is sent again when the receiver is back, once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, eventually},
    receiver::{Answer, Receiver},
};

async fn count(app: &App, what: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select count(*) from {what}")))
        .fetch_one(&app.pool)
        .await
        .expect("counted")
}

async fn until(app: &App, expected: i64, what: &str) {
    eventually(&format!("{expected} in {what}"), async || (count(app, what).await == expected).then_some(()))
        .await;
}

/// Five events, each given up before the next: the last opens the breaker.
async fn outage(app: &App, company: Uuid, types: [&str; 5]) {
    let before = count(app, "dead_letters").await;
    for (n, event_type) in types.into_iter().enumerate() {
        app.publish(company, event_type, json!({})).await;
        until(app, before + n as i64 + 1, "dead_letters").await;
    }
    until(app, 1, "lanes where opened_at is not null").await;
}

#[tokio::test]
async fn what_an_outage_cost_is_sent_again_from_its_first_failure_on_and_what_is_refused_for_ever_only_once()
{
    const RECOVERED: &str = "webhook_deliveries where trigger = 'recovery'";
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.set("PROBE_WAIT_MIN", "200ms");
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    receiver.answer_by(move |request, _| {
        let refused = request.head.contains("invoice.created");
        Answer::status(if refused || down.load(Ordering::Relaxed) { 500 } else { 200 })
    });
    let events = json!({"retry_count": 1, "auto_recover": true, "events": ["ticket.*", "invoice.*"]});
    app.webhook(company, &receiver.url("/"), events).await;
    let _service = app.run(&[]).await;

    outage(
        &app,
        company,
        ["ticket.created", "ticket.created", "ticket.created", "ticket.created", "invoice.created"],
    )
    .await;
    is_down.store(false, Ordering::Relaxed);
    app.publish(company, "ticket.closed", json!({})).await;
    until(&app, 0, "lanes where opened_at is not null").await;
    // All five, the first too: its dead letter is a little older than the lane's first failure.
    until(&app, 4, &format!("{RECOVERED} and status = 'delivered'")).await;
    until(&app, 1, &format!("{RECOVERED} and status = 'dead'")).await;
    until(&app, 1, "dead_letters where status = 'open'").await;

    is_down.store(true, Ordering::Relaxed);
    outage(&app, company, ["ticket.created"; 5]).await;
    is_down.store(false, Ordering::Relaxed);
    app.publish(company, "ticket.closed", json!({})).await;
    until(&app, 9, &format!("{RECOVERED} and status = 'delivered'")).await;
    until(&app, 2, "replays where status = 'done'").await;
    // What the first recovery sent in vain is left to people.
    assert_eq!(count(&app, RECOVERED).await, 10);
    assert_eq!(count(&app, "dead_letters where status = 'open'").await, 1);
}
