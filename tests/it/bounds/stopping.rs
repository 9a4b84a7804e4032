//! How long a stop may take, and what it leaves.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::all_delivered;
use crate::support::{
    app::{App, Service, eventually},
    receiver::{Answer, Receiver},
};

/// A service with one request open, to a receiver that answers so.
async fn in_the_middle_of_a_request(answer: Answer, grace: &str) -> (App, Receiver, Service) {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    // No watermark comes while it stops: one that arrived then would be left in the queue.
    app.set("SHUTDOWN_GRACE", grace).set("WATERMARK_EVERY", "10m");
    receiver.answer([answer]);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    // Without schedule, whose watermarks would stand in the queue as well when nobody takes from it any more.
    let service = app.run(&["--role", "ingest,deliver,dead-letter"]).await;
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(1).await;
    (app, receiver, service)
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_records_it() {
    let answer = Answer::ok().after(Duration::from_secs(2));
    let (app, receiver, service) = in_the_middle_of_a_request(answer, "30s").await;
    assert_eq!(service.stop().await, Some(0));
    all_delivered(&app, 1).await;
    assert_eq!(app.depth("deliveries.0").await, 0, "and its job is acknowledged");
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn a_stop_takes_no_longer_than_its_grace() {
    let (_app, _receiver, service) = in_the_middle_of_a_request(Answer::silence(), "1s").await;
    let asked = Instant::now();
    // It says by its log that something was left; to whoever stopped it all is as asked.
    assert_eq!(service.stop().await, Some(0));
    let took = asked.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(15)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (_app, _receiver, service) = in_the_middle_of_a_request(Answer::silence(), "10m").await;
    service.signal("TERM").await;
    eventually("it is stopping", async || {
        let stopping = |entry: &serde_json::Value| entry["message"] == "stopping; finishing work in progress";
        service.log().iter().any(stopping).then_some(())
    })
    .await;
    let asked = Instant::now();
    // Its timeout alone is thirty seconds.
    assert_eq!(service.stop().await, Some(0));
    assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
}
