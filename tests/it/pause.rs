//! Paused webhooks: what comes is held, and the end of the pause delivers it once, at a bounded rate, or discards it.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::{App, eventually},
    load::Load,
    past::{execute, owe},
    receiver::{Answer, Receiver, Request},
};

const HELD: &str = "select count(*) from webhook_deliveries where status = 'held'";
const PENDING: &str = "select count(*) from webhook_deliveries where status = 'pending'";
const DELIVERED: &str = "select count(*) from webhook_deliveries where status = 'delivered'";
const CANCELLED: &str = "select count(*) from webhook_deliveries where status = 'cancelled'";
const OPEN_ORDERS: &str = "select count(*) from replays where status <> 'done'";

/// Runs `webhooks COMMAND` for a webhook.
async fn webhooks(app: &App, command: &str, company: Uuid, webhook: Uuid, more: &[&str]) -> Value {
    let (company, webhook) = (company.to_string(), webhook.to_string());
    let usual = ["webhooks", command, "--company", &company, &webhook];
    app.cli(&[&usual, more].concat()).await
}

/// The events' numbers, sorted: a repeat shows as a double.
fn numbers(requests: &[Request]) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        requests.iter().map(|request| request.json()["data"]["n"].as_i64().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

async fn publish(app: &App, company: Uuid, numbers: std::ops::Range<i64>) {
    for n in numbers {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
}

#[tokio::test]
async fn what_a_pause_held_arrives_once_at_the_rate_of_the_resume() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let paused = webhooks(&app, "pause", company, webhook, &["--reason", "moving house"]).await;
    assert_eq!(paused["pause_reason"], "moving house");
    publish(&app, company, 0..20).await;
    app.wait_for_count(HELD, 20).await;
    assert_eq!(receiver.count(), 0, "nothing leaves while it is paused");

    webhooks(&app, "resume", company, webhook, &["--rate", "5"]).await;
    let requests = receiver.wait_for(20).await;
    app.wait_for_count(DELIVERED, 20).await;
    app.wait_for_count(OPEN_ORDERS, 0).await;
    assert_eq!(numbers(&receiver.requests()), (0..20).collect::<Vec<_>>());
    // A second ahead, then five a second: the last of twenty comes three seconds after the first.
    let took = requests[19].at - requests[0].at;
    assert!(took >= Duration::from_millis(2500), "20 at 5 a second came within {took:?}");
    for (first, fifteenth) in requests.iter().zip(&requests[14..]) {
        let within = fifteenth.at - first.at;
        assert!(within >= Duration::from_millis(1200), "15 came within {within:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_says_gone_pauses_its_webhook_and_gets_everything_after_the_resume() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer([Answer::status(410)]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    publish(&app, company, 0..1).await;
    app.wait_for_count(HELD, 1).await;
    let shown = webhooks(&app, "show", company, webhook, &[]).await;
    assert_eq!(shown["paused_by"], "xtwebhooks", "{shown}");
    assert!(shown["pause_reason"].as_str().is_some_and(|why| why.contains("410")), "{shown}");
    publish(&app, company, 1..4).await;
    app.wait_for_count(HELD, 4).await;

    receiver.answer([Answer::ok()]);
    let before = receiver.count();
    webhooks(&app, "resume", company, webhook, &[]).await;
    app.wait_for_count(DELIVERED, 4).await;
    app.wait_for_count(OPEN_ORDERS, 0).await;
    let requests = receiver.requests();
    assert_eq!(numbers(&requests[before..]), [0, 1, 2, 3], "the one that met the 410 is attempted again");
    assert_eq!(
        app.count("select attempts::bigint from webhook_deliveries order by attempts desc limit 1").await,
        2
    );
}

#[tokio::test]
async fn a_resume_that_discards_cancels_what_was_held_and_nothing_that_comes_after() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    webhooks(&app, "pause", company, webhook, &[]).await;
    publish(&app, company, 0..3).await;
    app.wait_for_count(HELD, 3).await;
    webhooks(&app, "resume", company, webhook, &["--held", "discard"]).await;
    app.wait_for_count(OPEN_ORDERS, 0).await;
    publish(&app, company, 3..4).await;
    app.wait_for_count(DELIVERED, 1).await;
    assert_eq!(numbers(&receiver.requests()), [3]);
    let discarded =
        "select count(*) from webhook_deliveries where status = 'cancelled' and reason = 'discarded'";
    assert_eq!(app.count(discarded).await, 3, "they stay in the history, with the reason");
}

#[tokio::test]
async fn a_delivery_that_a_stale_worker_holds_after_the_resume_is_released() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer([Answer::status(500), Answer::ok()]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_schedule": [3600]})).await;
    webhooks(&app, "pause", company, webhook, &[]).await;
    webhooks(&app, "resume", company, webhook, &[]).await;
    app.wait_for_count(OPEN_ORDERS, 0).await;
    publish(&app, company, 0..1).await;
    receiver.wait_for(1).await;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'pending' and attempts = 1",
        1,
    )
    .await;
    // What a worker writes whose view of the webhook is older than the resume.
    sqlx::query(
        "update webhook_deliveries set status = 'held', reason = 'paused', queued_at = null, due_at = now()",
    )
    .execute(&app.pool)
    .await
    .expect("it can be written");
    receiver.wait_for(2).await;
    app.wait_for_count(DELIVERED, 1).await;
}

#[tokio::test]
async fn a_pause_is_no_fault_of_the_deliveries_that_waited_through_it() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let paused = app.webhook(company, &receiver.url("/paused"), json!({"name": "paused"})).await;
    let other = app.webhook(company, &receiver.url("/other"), json!({"name": "never paused"})).await;
    webhooks(&app, "pause", company, paused, &[]).await;
    // Longer ago than PARK_MAX allows a delivery to wait.
    let then = Utc::now() - TimeDelta::days(5);
    let waited = owe(&app, company, paused, then, "held").await;
    let given_up = owe(&app, company, other, then, "pending").await;
    webhooks(&app, "resume", company, paused, &[]).await;
    // As a resume leaves it that was interrupted between the release and the job.
    execute(&app, "update webhook_deliveries set status = 'pending' where status = 'held'").await;
    let _service = app.run(&[]).await;
    let requests = receiver.wait_for(1).await;
    assert_eq!(requests[0].header("x-xtsystems-delivery"), Some(waited.to_string().as_str()));
    app.wait_for_count(DELIVERED, 1).await;
    app.wait_for_count("select count(*) from dead_letters where reason = 'expired' and data is not null", 1)
        .await;
    let expired: Uuid =
        sqlx::query_scalar("select id from dead_letters").fetch_one(&app.pool).await.expect("a dead letter");
    assert_eq!(expired, given_up.0);
}

#[tokio::test]
async fn what_is_open_of_an_inactive_or_deleted_webhook_is_cancelled_and_its_history_stays() {
    for end in ["inactive", "deleted"] {
        let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
        let _service = app.run(&[]).await;
        receiver.answer([Answer::ok(), Answer::status(500)]);
        let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_schedule": [3600]})).await;
        publish(&app, company, 0..1).await;
        app.wait_for_count(DELIVERED, 1).await;
        publish(&app, company, 1..2).await;
        app.wait_for_count(PENDING, 1).await;
        receiver.wait_for(2).await;
        webhooks(&app, "pause", company, webhook, &[]).await;
        // The service hears of the pause in its own time: what it sends meanwhile fails, and is pending as well.
        let mut events = 2;
        eventually("one is held", async || {
            publish(&app, company, events..events + 1).await;
            events += 1;
            (app.count(HELD).await > 0).then_some(())
        })
        .await;
        app.wait_for_count("select count(*) from webhook_deliveries", events).await;

        if end == "inactive" {
            webhooks(&app, "update", company, webhook, &["--active", "false"]).await;
        } else {
            webhooks(&app, "delete", company, webhook, &[]).await;
        }
        app.wait_for_count(CANCELLED, events - 1).await;
        let (company, webhook) = (company.to_string(), webhook.to_string());
        let history = app.cli(&["deliveries", "list", "--company", &company, "--webhook", &webhook]).await;
        let mut states: Vec<&str> =
            history.as_array().expect("a list").iter().filter_map(|row| row["status"].as_str()).collect();
        states.sort_unstable();
        assert_eq!(states.pop(), Some("delivered"), "{end}");
        assert!(states.iter().all(|state| *state == "cancelled"), "{end}: {states:?}");
        assert_eq!(i64::try_from(states.len()), Ok(events - 1), "{end}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pausing_and_resuming_under_load_brings_each_delivery_once() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let load = Load::start(&app, company, 150);
    let mut held = 0;
    for _ in 0..3 {
        let before = receiver.count();
        receiver.wait_for(before + 50).await;
        webhooks(&app, "pause", company, webhook, &[]).await;
        held +=
            eventually("many are held", async || Some(app.count(HELD).await).filter(|held| *held > 50)).await;
        webhooks(&app, "resume", company, webhook, &["--rate", "1000"]).await;
        app.wait_for_count(OPEN_ORDERS, 0).await;
    }
    let published = load.stop().await.confirmed.len();
    app.wait_for_count(DELIVERED, published as i64).await;
    assert_eq!(app.count(HELD).await, 0);
    let requests = receiver.requests();
    let once: std::collections::HashSet<_> =
        requests.iter().filter_map(|r| r.header("x-xtsystems-delivery")).collect();
    println!("{published} events, at least {held} held in three pauses");
    assert_eq!((requests.len(), once.len()), (published, published));
}
