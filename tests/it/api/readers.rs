//! Readers, whatever they ask, slow no delivery.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

use crate::support::{
    app::{App, eventually},
    receiver::Receiver,
};

/// More than the API has connections to read with.
const READERS: usize = 12;

#[tokio::test]
async fn readers_that_hold_every_connection_and_wait_slow_no_delivery() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let client = app.client(&service, company).await;
    app.webhook(company, &receiver.url("/"), json!({})).await;
    app.publish(company, "ticket.created", json!({"n": 0})).await;
    receiver.wait_for(1).await;

    // A table that readers want and a delivery that arrives does not: whoever reads it now waits until it is ended.
    let mut holder = PgConnection::connect(&app.database_url).await.expect("a connection");
    holder.execute("begin; lock table dead_letters in access exclusive mode").await.expect("locked");
    let asking: Vec<_> = (0..READERS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get("/v1/dead-letters").await.status })
        })
        .collect();
    eventually("every reading connection waits", async || {
        let waiting = app
            .count(
                "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                   and application_name = 'xtwebhooks/api-reads'",
            )
            .await;
        (waiting == 8).then_some(())
    })
    .await;

    let began = Instant::now();
    for n in 1..=20 {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    receiver.wait_for(21).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let still = app
        .count(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
               and application_name = 'xtwebhooks/api-reads'",
        )
        .await;
    assert!(still > 0, "the readers still waited when the last had arrived");

    // Each is told so in the end, and no statement outlives its bound.
    for answered in join_all(asking).await {
        let status = answered.expect("answered");
        assert!([408, 503].contains(&status), "{status}");
    }
    holder.execute("rollback").await.expect("released");
    client.get("/v1/dead-letters").await.expect(200);
}
