//! What one receiver may take of a worker.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    app::{App, eventually},
    load::{self, Load},
    receiver::{Answer, Receiver},
};

/// The most connections that were open at once until `done`.
async fn most_open(receiver: &Receiver, done: impl Future<Output = ()>) -> usize {
    let mut most = 0;
    tokio::pin!(done);
    loop {
        most = most.max(receiver.open_connections());
        tokio::select! {
            () = &mut done => return most,
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

#[tokio::test]
async fn sockets_to_a_silent_receiver_are_never_more_than_may_be_and_its_neighbours_proceed() {
    const LIMIT: usize = 5;
    let _alone = load::alone().await;
    let (app, company) = (App::new().await, Uuid::new_v4());
    let (silent, healthy) = (Receiver::start().await, Receiver::start().await);
    silent.answer([Answer::silence()]);
    app.webhook(company, &silent.url("/"), json!({"max_in_flight": LIMIT})).await;
    for n in 0..3 {
        app.webhook(company, &healthy.url(&format!("/{n}")), json!({})).await;
    }
    let service = app.run(&[]).await;
    let load = Load::start(&app, company, 50);
    // Long enough that much of what is owed to the silent one had no room and came back again.
    let parked = r#"xtwebhooks_deliver_parked_total{reason="no_room"}"#;
    let many = eventually("much was parked", async || (service.metric(parked).await > 100.0).then_some(()));
    let most = most_open(&silent, many).await;
    let published = load.stop().await.confirmed.len();
    assert_eq!(most, LIMIT);
    healthy.wait_for(3 * published).await;
    // From the commit of the event to the request, at the healthy ones.
    let late = "select count(*) from webhook_deliveries
                where status = 'delivered' and attempted_at - created_at > interval '500 milliseconds'";
    assert!(app.count(late).await <= published as i64 / 20, "neighbours waited");
    // Nothing is lost: each delivery of the silent one is in flight, or waits with no attempt spent.
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'pending' and attempts = 0",
        published as i64,
    )
    .await;
    drop(service);
}

#[tokio::test]
async fn slow_jobs_fill_half_of_a_small_prefetch_and_others_keep_starting() {
    const PREFETCH: usize = 12;
    const SLOW: usize = 40;
    const QUICK: usize = 60;
    let _alone = load::alone().await;
    let (app, company) = (App::new().await, Uuid::new_v4());
    let (silent, healthy) = (Receiver::start().await, Receiver::start().await);
    silent.answer([Answer::silence()]);
    app.set("PREFETCH", PREFETCH).set("JOB_DELIVERIES_MAX", 1);
    for n in 0..2 {
        app.webhook(company, &silent.url(&format!("/{n}")), json!({"events": ["ticket.created"]})).await;
    }
    app.webhook(company, &healthy.url("/"), json!({"events": ["ticket.closed"]})).await;
    let service = app.run(&[]).await;
    for n in 0..SLOW {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    silent.wait_for(PREFETCH / 4).await;
    let quick = async {
        let began = Instant::now();
        for n in 0..QUICK {
            app.publish(company, "ticket.closed", json!({"n": n})).await;
        }
        healthy.wait_for(QUICK).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    };
    let most = most_open(&silent, quick).await;
    assert!(most <= PREFETCH / 2, "{most} requests are open to receivers that do not answer");
    let no_room = service.metric(r#"xtwebhooks_deliver_parked_total{reason="no_room"}"#).await;
    assert!(no_room > 0.0, "what exceeds the half is parked");
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'pending' and attempts = 0",
        2 * SLOW as i64,
    )
    .await;
}
