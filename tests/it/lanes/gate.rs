//! Whether anything starts at all: a lane that is open or rate-limited lets nothing through but a probe.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;
use xtwebhooks::{
    model::WebhookId,
    store::lanes::{ProbeLeaseRequest, lease_probe, release_probe},
};

use crate::support::{
    app::{App, eventually},
    receiver::{Answer, Receiver},
};

/// Changes a lane as a worker would that has recorded an outcome, and makes it known.
async fn set(app: &App, webhook: Uuid, columns: &str) {
    let sql = format!(
        "with changed as (
            update lanes set {columns} where webhook_id = '{webhook}' returning company_id, webhook_id
         ) select pg_notify('webhooks_changed', company_id || ' ' || webhook_id) from changed"
    );
    sqlx::query(AssertSqlSafe(sql)).execute(&app.pool).await.expect("the lane can be changed");
}

/// Jobs of so many events in the queues of deliveries, and nobody to take them.
async fn jobs(app: &App, company: Uuid, count: u32) {
    let ingest = app.run(&["--role", "ingest"]).await;
    for n in 0..count {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    eventually("the jobs are made", async || (app.jobs().await == count).then_some(())).await;
    assert_eq!(ingest.stop().await, Some(0));
}

const PARKED: &str = "select count(*) from webhook_deliveries d join lanes l using (webhook_id)
    where l.opened_at is not null
      and d.status = 'pending' and d.attempts = 0 and d.queued_at is null and d.claimed_until is null";

#[tokio::test]
async fn while_its_breaker_is_open_nothing_is_requested_and_no_attempt_is_spent() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app.webhook(company, &receiver.url("/down"), json!({})).await;
    app.webhook(company, &receiver.url("/up"), json!({})).await;
    jobs(&app, company, 20).await;
    set(&app, webhook, "opened_at = now(), next_probe_at = now() + interval '1 hour'").await;
    let service = app.run(&["--role", "deliver"]).await;
    receiver.wait_for(20).await;
    app.wait_for_count(PARKED, 20).await;
    let too_soon = "select count(*) from webhook_deliveries d join lanes l using (webhook_id)
                    where l.opened_at is not null and d.due_at not between l.next_probe_at
                          - interval '50 milliseconds' and l.next_probe_at + interval '2 seconds'";
    assert_eq!(app.count(too_soon).await, 0);
    assert!(receiver.requests().iter().all(|request| request.path() == "/up"));
    assert_eq!(service.metric(r#"xtwebhooks_deliver_parked_total{reason="breaker"}"#).await, 20.0);
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn of_several_workers_one_sends_the_probe_that_is_due() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.set("PREFETCH", 3);
    receiver.answer([Answer::ok().after(Duration::from_secs(3))]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    jobs(&app, company, 30).await;
    set(&app, webhook, "opened_at = now() - interval '1 minute', next_probe_at = now()").await;
    let (first, second) = tokio::join!(app.run(&["--role", "deliver"]), app.run(&["--role", "deliver"]),);
    app.wait_for_count(PARKED, 29).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    assert_eq!(receiver.count(), 1);
    let leased = r#"xtwebhooks_deliver_probes_total{fate="leased"}"#;
    assert_eq!(first.metric(leased).await + second.metric(leased).await, 1.0);
    for service in [first, second] {
        assert_eq!(service.stop().await, Some(0));
    }
}

#[tokio::test]
async fn a_probe_that_cannot_start_gives_its_lease_back() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    // So that even a first attempt asks the ledger.
    app.set("FRESH_MAX", "1ms");
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    jobs(&app, company, 1).await;
    set(&app, webhook, "opened_at = now() - interval '1 minute', next_probe_at = now()").await;
    sqlx::query("update webhook_deliveries set status = 'cancelled'").execute(&app.pool).await.expect("done");
    let service = app.run(&["--role", "deliver"]).await;
    let returned = r#"xtwebhooks_deliver_probes_total{fate="returned"}"#;
    eventually("it is given back", async || (service.metric(returned).await == 1.0).then_some(())).await;
    app.wait_for_count("select count(*) from lanes where probe_leased_until is null", 1).await;
    assert_eq!(receiver.count(), 0);
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn twenty_that_ask_at_once_get_one_probe_and_the_next_when_it_is_given_back() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let lease = Duration::from_secs(60);
    let ask = async || {
        let asking = (0..20).map(|_| lease_probe(&app.pool, WebhookId(webhook), lease));
        let answers = futures_util::future::join_all(asking).await;
        let granted = answers.into_iter().filter_map(|answer| match answer.expect("an answer") {
            ProbeLeaseRequest::Granted { until } => Some(until),
            ProbeLeaseRequest::Refused { .. } => None,
        });
        granted.collect::<Vec<_>>()
    };
    assert_eq!(ask().await.len(), 0, "the breaker is closed");
    set(&app, webhook, "opened_at = now(), next_probe_at = now() + interval '1 hour'").await;
    assert_eq!(ask().await.len(), 0, "not due");
    set(&app, webhook, "next_probe_at = now(), held_back_until = now() + interval '1 hour'").await;
    assert_eq!(ask().await.len(), 0, "rate-limited");
    set(&app, webhook, "held_back_until = null").await;
    let granted = ask().await;
    assert_eq!(granted.len(), 1);
    let other = granted[0] + chrono::TimeDelta::seconds(1);
    release_probe(&app.pool, WebhookId(webhook), other).await.expect("done");
    assert_eq!(ask().await.len(), 0, "only its own lease is given back");
    release_probe(&app.pool, WebhookId(webhook), granted[0]).await.expect("done");
    assert_eq!(ask().await.len(), 1);
}

#[tokio::test]
async fn a_rate_limited_lane_goes_on_when_its_time_has_come() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    jobs(&app, company, 5).await;
    set(&app, webhook, "held_back_until = now() + interval '4 seconds'").await;
    let service = app.run(&["--role", "deliver,schedule"]).await;
    receiver.wait_for(5).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 5).await;
    let too_soon = "select count(*) from webhook_deliveries d join lanes l using (webhook_id)
                    where d.attempted_at < l.held_back_until or d.attempts > 1";
    assert_eq!(app.count(too_soon).await, 0);
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn what_waits_in_a_lane_does_not_start_once_its_breaker_opens() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer([Answer::ok().after(Duration::from_millis(200))]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({"max_in_flight": 1})).await;
    jobs(&app, company, 10).await;
    let service = app.run(&["--role", "deliver"]).await;
    receiver.wait_for(1).await;
    set(&app, webhook, "opened_at = clock_timestamp(), next_probe_at = now() + interval '1 hour'").await;
    let open = "select count(*) from webhook_deliveries
                where status = 'pending' and queued_at is null and due_at > now() + interval '30 minutes'";
    eventually("what waited is parked until the probe", async || (app.count(open).await > 0).then_some(()))
        .await;
    eventually("nothing waits in the lane", async || {
        let settled =
            "select count(*) from webhook_deliveries where status = 'delivered' or queued_at is null";
        (app.count(settled).await == 10).then_some(())
    })
    .await;
    let after = "select count(*) from webhook_deliveries d join lanes l using (webhook_id)
                 where d.attempted_at > l.opened_at + interval '150 milliseconds'";
    assert_eq!(app.count(after).await, 0);
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn a_test_delivery_goes_out_whatever_its_lane_says() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let closed = "opened_at = now(), next_probe_at = now() + interval '1 hour',
                  held_back_until = now() + interval '1 hour'";
    set(&app, webhook, closed).await;
    let service = app.run(&["--role", "ingest,deliver"]).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where queued_at is null", 1).await;
    // The lane is left to schedule, and there is none. What asks for the delivery is a job like that of a test.
    let (delivery, event): (Uuid, Uuid) = sqlx::query_as("select id, event_id from webhook_deliveries")
        .fetch_one(&app.pool)
        .await
        .expect("a row");
    for trigger in ["event", "test"] {
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("company", company.to_string()),
            ("event", event.to_string()),
            ("event_type", "ticket.created".to_owned()),
            ("deliveries", format!("{delivery}/{webhook}")),
            ("queued_at", chrono::Utc::now().to_rfc3339()),
            ("trigger", trigger.to_owned()),
        ] {
            headers.insert(name.into(), AMQPValue::LongString(value.into()));
        }
        headers.insert("attempt".into(), AMQPValue::LongLongInt(1));
        let properties =
            lapin::BasicProperties::default().with_type("xtwebhooks.job.v1".into()).with_headers(headers);
        let exchange = format!("{}.deliveries", app.prefix);
        let options = lapin::options::BasicPublishOptions::default();
        let channel = app.channel().await;
        let confirm = channel.basic_publish(exchange.as_str().into(), "b00".into(), options, b"", properties);
        confirm.await.expect("published").await.expect("confirmed");
        if trigger == "event" {
            app.wait_for_count("select count(*) from webhook_deliveries where due_at > now()", 1).await;
            sqlx::query("update webhook_deliveries set due_at = now()")
                .execute(&app.pool)
                .await
                .expect("done");
        }
    }
    receiver.wait_for(1).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    assert_eq!(service.stop().await, Some(0));
}
