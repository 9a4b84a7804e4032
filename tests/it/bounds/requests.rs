//! How many requests may be open, and how long anything may wait or take.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use super::all_delivered;
use crate::support::{
    app::App,
    load,
    receiver::{Answer, Receiver, Request},
};

/// How long the receiver takes for an answer, where requests are to overlap.
const BUSY: Duration = Duration::from_millis(250);

/// The most requests that were open at the same time. Each is open for at least [`BUSY`].
fn most_open(requests: &[Request]) -> usize {
    let open_at = |at: Instant| requests.iter().filter(|r| r.at <= at && at < r.at + BUSY).count();
    requests.iter().map(|request| open_at(request.at)).max().unwrap_or_default()
}

#[tokio::test]
async fn a_worker_has_no_more_requests_open_than_it_may() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("IN_FLIGHT_MAX", 6);
    receiver.answer([Answer::ok().after(BUSY)]);
    let company = Uuid::new_v4();
    for n in 0..10 {
        app.webhook(company, &receiver.url(&format!("/{n}")), json!({})).await;
    }
    let service = app.run(&[]).await;
    load::publish(&app, company, 5).await;
    all_delivered(&app, 50).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 50);
    assert_eq!(most_open(&receiver.requests()), 6);
}

#[tokio::test]
async fn a_lane_has_no_more_requests_open_than_it_may_and_what_waits_too_long_is_parked() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("LANE_IN_FLIGHT_MAX", 3);
    receiver.answer([Answer::ok().after(BUSY)]);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/default"), json!({})).await;
    app.webhook(company, &receiver.url("/own"), json!({"max_in_flight": 2})).await;
    let service = app.run(&[]).await;
    load::publish(&app, company, 30).await;
    all_delivered(&app, 60).await;
    let parked = service.metric(r#"xtwebhooks_deliver_jobs_total{result="parked"}"#).await;
    assert!(parked > 0.0, "thirty requests of {BUSY:?} cannot all have started in time");
    assert_eq!(service.stop().await, Some(0));
    // Parking is no attempt, and nothing is sent twice because of it.
    assert_eq!(app.count("select count(*) from webhook_deliveries where attempts = 1").await, 60);
    assert_eq!(receiver.count(), 60);
    let to = |path| receiver.requests().into_iter().filter(|r| r.path() == path).collect::<Vec<_>>();
    assert_eq!(most_open(&to("/default")), 3);
    assert_eq!(most_open(&to("/own")), 2);
}

#[tokio::test]
async fn no_attempt_takes_longer_than_it_may_whatever_its_webhook_asks_for() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("TIMEOUT_MAX", "1s");
    receiver.answer([Answer::silence()]);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({"timeout_seconds": 30, "retry_count": 1})).await;
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({})).await;
    let timed_out = "select count(*) from webhook_deliveries
                     where status = 'dead' and outcome = 'timed_out' and total_us between 1000000 and 5000000";
    app.wait_for_count(timed_out, 1).await;
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn a_receiver_cannot_put_its_retry_off_for_longer_than_allowed() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    app.set("RETRY_AFTER_MAX", "2s");
    receiver.answer([Answer::status(429).header("retry-after", "86400"), Answer::ok()]);
    let company = Uuid::new_v4();
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({})).await;
    let requests = receiver.wait_for(2).await;
    let waited = requests[1].at - requests[0].at;
    assert!(waited >= Duration::from_secs(2), "{waited:?}");
    all_delivered(&app, 1).await;
    assert_eq!(service.stop().await, Some(0));
}
