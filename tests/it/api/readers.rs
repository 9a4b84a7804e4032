//! Readers, whatever they ask, slow no delivery, and those of one company none of another.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::{App, eventually},
    receiver::Receiver,
};

/// More than the API has connections to read with.
const READERS: usize = 12;

/// Locks a table that readers want and a delivery that arrives does not: whoever reads it now waits until it is ended.
async fn hold(app: &App) -> PgConnection {
    let mut holder = PgConnection::connect(&app.database_url).await.expect("a connection");
    holder.execute("begin; lock table dead_letters in access exclusive mode").await.expect("locked");
    holder
}

fn ask(client: &Client) -> JoinHandle<u16> {
    let client = client.clone();
    tokio::spawn(async move { client.get("/v1/dead-letters").await.status })
}

/// How many readings wait for the table.
async fn waiting(app: &App) -> i64 {
    app.count(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
           and application_name = 'xtwebhooks/api-reads'",
    )
    .await
}

async fn all_give_up(asking: Vec<JoinHandle<u16>>) {
    for answered in join_all(asking).await {
        let status = answered.expect("answered");
        assert!([408, 503].contains(&status), "{status}");
    }
}

#[tokio::test]
async fn readers_that_hold_every_connection_and_wait_slow_no_delivery() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let client = app.client(&service, company).await;
    app.webhook(company, &receiver.url("/"), json!({})).await;
    app.publish(company, "ticket.created", json!({"n": 0})).await;
    receiver.wait_for(1).await;

    let mut holder = hold(&app).await;
    let other = app.client(&service, Uuid::new_v4()).await;
    let asking: Vec<_> = (0..READERS).map(|n| ask([&client, &other][n % 2])).collect();
    eventually("every reading connection waits", async || (waiting(&app).await == 8).then_some(())).await;

    let began = Instant::now();
    for n in 1..=20 {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    receiver.wait_for(21).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    let still = waiting(&app).await;
    assert!(still > 0, "the readers still waited when the last had arrived");

    // Each is told so in the end, and no statement outlives its bound.
    all_give_up(asking).await;
    holder.execute("rollback").await.expect("released");
    client.get("/v1/dead-letters").await.expect(200);
}

#[tokio::test]
async fn one_company_reads_on_half_of_the_connections_at_most() {
    let app = App::new().await;
    let service = app.run(&["--role", "api"]).await;
    let greedy = app.client(&service, Uuid::new_v4()).await;
    let other = app.client(&service, Uuid::new_v4()).await;
    let mut holder = hold(&app).await;
    let asking: Vec<_> = (0..READERS).map(|_| ask(&greedy)).collect();
    eventually("half of the reading connections wait", async || (waiting(&app).await == 4).then_some(()))
        .await;
    for _ in 0..5 {
        let began = Instant::now();
        other.get("/v1/webhooks").await.expect(200);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(waiting(&app).await <= 4);
    }
    // What waited for its turn comes to it; a statement that waited past its bound was ended.
    holder.execute("rollback").await.expect("released");
    let answered: Vec<_> =
        join_all(asking).await.into_iter().map(|status| status.expect("answered")).collect();
    assert!(answered.iter().all(|status| [200, 408].contains(status)), "{answered:?}");
    assert!(answered.contains(&200), "{answered:?}");
}
