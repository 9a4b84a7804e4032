//! Bodies go before the history does: `PAYLOAD_RETENTION`.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;
use xtwebhooks::model::DeliveryId;

use crate::support::{
    app::{App, eventually},
    past::{execute, owe},
    receiver::Receiver,
};

fn ago(days: i64) -> DateTime<Utc> {
    Utc::now() - TimeDelta::days(days)
}

fn retained(app: &App) {
    app.set("RETENTION", "5d").set("PAYLOAD_RETENTION", "2d").set("PARK_MAX", "1h");
}

/// A delivery of then with two attempts, as the recorder would have left it.
async fn recorded(app: &App, company: Uuid, webhook: Uuid, at: DateTime<Utc>, status: &str) -> DeliveryId {
    let delivery = owe(app, company, webhook, at, status).await;
    execute(
        app,
        &format!(
            "update webhook_deliveries set attempts = 2, attempted_at = created_at, outcome = 'accepted', why = 'it said so',
                    response_status = 200, request_head = 'kept', response_head = 'kept', response_body = 'kept'
             where id = '{0}';
             insert into webhook_delivery_attempts (delivery_id, number, attempted_at, outcome, request_head, response_head,
                                                    response_body)
             values ('{0}', 1, now(), 'server_error', 'kept', 'kept', 'kept')",
            delivery.0
        ),
    )
    .await;
    delivery
}

/// Whether the bodies of a delivery are there: its event's, its latest attempt's, its first attempt's.
async fn bodies(app: &App, delivery: DeliveryId) -> [bool; 3] {
    let row: (bool, bool, bool) = sqlx::query_as(
        "select e.data is not null,
                coalesce(d.request_head, d.response_head, d.response_body) is not null,
                coalesce(a.request_head, a.response_head, a.response_body) is not null
         from webhook_deliveries d
         join events e on e.id = d.event_id
         join webhook_delivery_attempts a on a.delivery_id = d.id
         where d.id = $1",
    )
    .bind(delivery.0)
    .fetch_one(&app.pool)
    .await
    .expect("the history is there");
    row.into()
}

const DAYS: &str = "select count(*) from payload_days";

#[tokio::test]
async fn bodies_past_their_retention_go_and_what_is_owed_keeps_its_own_until_it_ends() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    retained(&app);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    execute(&app, "update webhooks set paused_at = now(), paused_by = 'a test', pause_reason = 'to hold'")
        .await;
    let old = recorded(&app, company, webhook, ago(4), "delivered").await;
    let held = recorded(&app, company, webhook, ago(4), "held").await;
    let young = recorded(&app, company, webhook, ago(1), "delivered").await;
    // A day for `old` and `held`; there may be an empty one before.
    let prune = app.run(&["--role", "prune"]).await;
    let noted = "select count(*) from payload_days where events = 1 and deliveries = 1";
    app.wait_for_count(noted, 1).await;
    assert_eq!(bodies(&app, old).await, [false; 3]);
    assert_eq!(bodies(&app, held).await, [true; 3], "it is still owed");
    assert_eq!(bodies(&app, young).await, [true; 3], "it is young");
    app.wait_for_count("select count(*) from payloads_owed where company_id is not null", 1).await;
    app.wait_for_count("select count(*) from payloads_owed", 1).await;
    assert_eq!(prune.stop().await, Some(0));

    // A day is done once: what is put back stays, for nobody looks there again.
    let days = app.count(DAYS).await;
    execute(&app, &format!("update webhook_deliveries set response_body = 'again' where id = '{}'", old.0))
        .await;
    // What was owed is sent with its body, and then loses it as well.
    execute(&app, "update webhooks set paused_at = null, paused_by = null, pause_reason = null").await;
    let running = app.run(&["--role", "schedule,deliver"]).await;
    let sent = &receiver.wait_for(1).await[0];
    assert_eq!(sent.json()["data"]["kept"], "as it was");
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 3).await;
    let prune = app.run(&["--role", "prune"]).await;
    app.wait_for_count("select count(*) from payloads_owed", 0).await;
    assert_eq!(bodies(&app, held).await, [false; 3]);
    assert_eq!(bodies(&app, old).await, [false, true, false], "its day is done");
    assert_eq!(app.count(DAYS).await, days);
    assert_eq!(prune.stop().await, Some(0));

    // The history is there without its bodies, and a replay has nothing to send.
    let of = company.to_string();
    let shown = app.cli(&["deliveries", "show", "--company", &of, &old.0.to_string()]).await;
    assert_eq!((&shown["payload"], &shown["response_status"]), (&Value::Null, &json!(200)), "{shown}");
    app.cli(&["replay", "--company", &of, &old.0.to_string()]).await;
    let expired = "select count(*) from webhook_deliveries where trigger = 'replay' and status = 'dead' and reason = 'expired'";
    app.wait_for_count(expired, 1).await;
    assert_eq!(receiver.count(), 1);
    assert_eq!(running.stop().await, Some(0));
}

#[tokio::test]
async fn the_bodies_of_a_day_that_a_replay_may_still_read_stay_until_it_is_done() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    retained(&app);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let old = recorded(&app, company, webhook, ago(4), "delivered").await;
    app.cli(&["replay", "--company", &company.to_string(), &old.0.to_string()]).await;
    let prune = app.run(&["--role", "prune"]).await;
    // Later than its last look at the days.
    app.wait_for_count("select count(*) from leases where name = 'prune'", 1).await;
    eventually("prune looked at the day", async || {
        let waits =
            |line: &Value| line["message"].as_str().is_some_and(|text| text.contains("may need the bodies"));
        prune.log().iter().any(waits).then_some(())
    })
    .await;
    assert_eq!(bodies(&app, old).await, [true; 3]);
    assert_eq!(prune.stop().await, Some(0));
    let running = app.run(&["--role", "schedule,deliver"]).await;
    assert_eq!(receiver.wait_for(1).await[0].json()["data"]["kept"], "as it was");
    app.wait_for_count("select count(*) from replays where status = 'done'", 1).await;
    assert_eq!(running.stop().await, Some(0));
    let _prune = app.run(&["--role", "prune"]).await;
    app.wait_for_count("select count(*) from payload_days where events = 1 and deliveries = 1", 1).await;
    assert_eq!(bodies(&app, old).await, [false; 3]);
}

/// More events than prune empties in one statement.
const EVENTS: u32 = 1_500;

#[tokio::test]
async fn a_replay_that_is_ordered_while_a_day_is_emptied_finds_the_bodies_that_are_left() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    retained(&app);
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let old = recorded(&app, company, webhook, ago(4), "delivered").await;
    // All before it, in the first instant of its day.
    execute(
        &app,
        &format!(
            "insert into events (id, company_id, event_type, message_id, \"timestamp\", data, body_hash, matched,
                                 matched_as_of, fanned_out)
             select (left(first_id_of('{}')::text, 24) || lpad(n::text, 12, '0'))::uuid, '{company}', 'ticket.created',
                    n::text, 0, '{{}}', 0, 0, now(), true
             from generate_series(1, {EVENTS}) n",
            ago(4).date_naive()
        ),
    )
    .await;
    let mut holding = app.pool.begin().await.expect("begun");
    sqlx::query("select from events where message_id = '1' for update")
        .execute(&mut *holding)
        .await
        .expect("locked");
    let prune = app.run(&["--role", "prune"]).await;
    app.wait_for_count(
        "select count(*) from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock' and query like '-- payloads.empty_events%'",
        1,
    )
    .await;
    app.cli(&["replay", "--company", &company.to_string(), &old.0.to_string()]).await;
    holding.rollback().await.expect("let go");
    eventually("prune stopped at the replay", async || {
        let waits =
            |line: &Value| line["message"].as_str().is_some_and(|text| text.contains("may need the bodies"));
        prune.log().iter().any(waits).then_some(())
    })
    .await;
    app.wait_for_count("select count(*) from events where data is null", 1_000).await;
    assert_eq!(bodies(&app, old).await, [true; 3]);
    assert_eq!(app.count("select count(*) from payload_days where deliveries = 1").await, 0);
    let _running = app.run(&["--role", "schedule,deliver"]).await;
    assert_eq!(receiver.wait_for(1).await[0].json()["data"]["kept"], "as it was");
}

#[tokio::test]
async fn without_a_retention_of_their_own_bodies_stay_as_long_as_the_history() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("RETENTION", "5d").set("PARK_MAX", "1h");
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let old = recorded(&app, company, webhook, ago(4), "delivered").await;
    // Dropped in the same pass, after bodies would have been.
    owe(&app, company, webhook, ago(7), "delivered").await;
    let _prune = app.run(&["--role", "prune"]).await;
    let dropped = "select count(*) from webhook_deliveries";
    app.wait_for_count(dropped, 1).await;
    assert_eq!(bodies(&app, old).await, [true; 3]);
    assert_eq!(app.count(DAYS).await, 0);
}

#[tokio::test]
async fn a_retention_of_bodies_that_cannot_be_is_refused_at_the_start() {
    let app = App::new().await;
    app.set("RETENTION", "5d").set("PARK_MAX", "1h");
    for (retention, said) in [("6d", "longer than RETENTION 5days"), ("1d", "at least 2d is needed")] {
        app.set("PAYLOAD_RETENTION", retention);
        let (code, _, err) = app.try_cli(&["run"]).await;
        assert_eq!(code, 2, "{err}");
        assert!(err.contains("PAYLOAD_RETENTION") && err.contains(said), "{err}");
    }
}
