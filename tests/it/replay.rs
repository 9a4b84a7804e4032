//! Replays: of one delivery, of a filter, of a message that was no event; through crashes, and beside others.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;
use xtwebhooks::model::{DeliveryId, EventId, ReplayId, WebhookId};

use crate::support::{
    app::{App, eventually},
    past::{execute, owe},
    receiver::{Answer, Receiver},
};

const DEAD: &str = "select count(*) from webhook_deliveries where status = 'dead'";
const DELIVERED: &str = "select count(*) from webhook_deliveries where status = 'delivered'";
const DONE_REPLAYS: &str = "select count(*) from replays where kind = 'replay' and status = 'done'";

/// Runs `replay` to its end.
async fn replay(app: &App, company: Uuid, more: &[&str]) -> Value {
    let company = company.to_string();
    app.cli(&[&["replay", "--company", &company, "--wait"], more].concat()).await
}

async fn the_one(app: &App, sql: &'static str) -> Uuid {
    sqlx::query_scalar(sql).fetch_one(&app.pool).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Publishes an event that happened so many minutes ago.
async fn publish_of(app: &App, company: Uuid, event_type: &str, minutes_ago: i64) {
    let at = Utc::now() - TimeDelta::minutes(minutes_ago);
    let body = json!({"event_type": event_type, "company_id": company, "timestamp": at.timestamp(),
                      "event_id": Uuid::new_v4(), "data": {"minutes_ago": minutes_ago}});
    assert!(app.publish_raw(event_type, body.to_string().as_bytes(), Default::default()).await);
}

#[tokio::test]
async fn a_dead_delivery_that_is_replayed_arrives_under_its_webhook_id_and_its_dead_letter_says_so() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer([Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count(DEAD, 1).await;
    let source = the_one(&app, "select id from webhook_deliveries").await;

    let order = replay(&app, company, &[&source.to_string()]).await;
    assert_eq!((&order["status"], &order["made"]), (&json!("done"), &json!(1)), "{order}");
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    assert_eq!(requests[0].body, requests[1].body);
    assert_ne!(requests[0].header("x-xtsystems-delivery"), requests[1].header("x-xtsystems-delivery"));
    assert_eq!(requests[1].header("x-xtsystems-trigger"), Some("replay"));
    assert_eq!(requests[1].header("x-xtsystems-attempt"), Some("1"));
    assert_eq!(app.count("select count(*) from dead_letters where status = 'replayed'").await, 1);
    assert_eq!(app.count(DEAD).await, 1, "the source stays as it is");
}

#[tokio::test]
async fn an_order_of_a_kind_of_a_later_release_holds_up_no_other() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    execute(&app, "alter table replays drop constraint replays_kind").await;
    execute(
        &app,
        "insert into replays (id, company_id, kind, rate, requested_by)
         values ('00000000-0000-8000-8000-000000000001', gen_random_uuid(), 'of a later release', 1, 'test')",
    )
    .await;
    let _service = app.run(&[]).await;
    receiver.answer([Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count(DEAD, 1).await;
    let source = the_one(&app, "select id from webhook_deliveries").await;

    let order = replay(&app, company, &[&source.to_string()]).await;
    assert_eq!((&order["status"], &order["made"]), (&json!("done"), &json!(1)), "{order}");
    receiver.wait_for(2).await;
    assert_eq!(app.count("select count(*) from replays where status = 'expanding'").await, 1);
}

#[tokio::test]
async fn a_filter_chooses_by_webhook_type_state_and_time() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer_by(|request, _| Answer::status(if request.path() == "/ill" { 500 } else { 200 }));
    let once = |name: &str| json!({"name": name, "retry_count": 1});
    app.webhook(company, &receiver.url("/ill"), once("ill")).await;
    let well = app.webhook(company, &receiver.url("/well"), once("well")).await;
    let other_company = Uuid::new_v4();
    app.webhook(other_company, &receiver.url("/ill"), once("ill")).await;
    for minutes_ago in [300, 200, 100] {
        for event_type in ["ticket.created", "asset.created"] {
            publish_of(&app, company, event_type, minutes_ago).await;
        }
    }
    publish_of(&app, other_company, "ticket.created", 200).await;
    app.wait_for_count(DEAD, 7).await;
    app.wait_for_count(DELIVERED, 6).await;
    receiver.answer([Answer::ok()]);

    let well = well.to_string();
    let check = async |filter: &[&str], mut expected: Vec<(&str, &str, i64)>| {
        let before = receiver.count();
        let order = replay(&app, company, filter).await;
        assert_eq!(order["made"], json!(expected.len()), "{filter:?}: {order}");
        let requests = receiver.wait_for(before + expected.len()).await;
        let mut came: Vec<(&str, &str, i64)> = requests[before..]
            .iter()
            .map(|request| {
                let minutes = request.json()["data"]["minutes_ago"].as_i64().expect("a number");
                (request.path(), request.header("x-xtsystems-event").expect("a type"), minutes)
            })
            .collect();
        came.sort_unstable();
        expected.sort_unstable();
        assert_eq!(came, expected, "{filter:?}");
    };
    check(
        &["--event-type", "ticket.created", "--since", "250m", "--until", "150m"],
        vec![("/ill", "ticket.created", 200)],
    )
    .await;
    check(
        &["--webhook", &well, "--status", "delivered", "--since", "120m"],
        vec![("/well", "ticket.created", 100), ("/well", "asset.created", 100)],
    )
    .await;
    // Without a state it is what is dead and was not asked for yet.
    check(
        &["--since", "400m"],
        vec![
            ("/ill", "ticket.created", 300),
            ("/ill", "asset.created", 300),
            ("/ill", "asset.created", 200),
            ("/ill", "ticket.created", 100),
            ("/ill", "asset.created", 100),
        ],
    )
    .await;
    assert_eq!(
        app.count("select count(*) from dead_letters where status = 'open'").await,
        1,
        "another company's stays as it is"
    );
}

#[tokio::test]
async fn a_message_that_was_no_event_is_taken_in_once_the_cause_is_gone_and_so_is_a_delivery_beside_it() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer([Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    app.set("EVENT_BYTES_MAX", 1024);
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count("select count(*) from dead_letters where kind = 'delivery'", 1).await;
    let body = json!({"event_type": "ticket.created", "company_id": company, "timestamp": Utc::now().timestamp(),
                      "data": {"text": "x".repeat(2000)}});
    let body = body.to_string();
    assert!(app.publish_raw("ticket.created", body.as_bytes(), Default::default()).await);
    app.wait_for_count("select count(*) from dead_letters where kind = 'message'", 1).await;
    let of = company.to_string();
    let letters = app.cli(&["dead-letters", "list", "--company", &of]).await;
    assert_eq!(letters[0]["field"], "body", "its company sees it: {letters}");
    let ids = [0, 1].map(|n| letters[n]["id"].as_str().expect("an id").to_owned());
    assert_eq!(service.stop().await, Some(0));

    app.set("EVENT_BYTES_MAX", 4096);
    let _service = app.run(&[]).await;
    let order = replay(&app, company, &[&ids[0], &ids[1]]).await;
    assert_eq!(order["made"], 2, "{order}");
    let requests = receiver.wait_for(3).await;
    let lengths: HashSet<_> =
        requests[1..].iter().map(|r| r.json()["data"]["text"].as_str().map(str::len)).collect();
    assert_eq!(lengths, HashSet::from([Some(2000), None]));
    assert_eq!(app.count("select count(*) from dead_letters where status = 'replayed'").await, 2);
}

#[tokio::test]
async fn a_source_that_was_still_open_is_superseded() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer([Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_schedule": [3600]})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'pending' and attempts = 1",
        1,
    )
    .await;
    let source = the_one(&app, "select id from webhook_deliveries").await;
    replay(&app, company, &[&source.to_string()]).await;
    receiver.wait_for(2).await;
    let superseded =
        "select count(*) from webhook_deliveries where status = 'cancelled' and reason = 'superseded'";
    app.wait_for_count(superseded, 1).await;
    app.wait_for_count(DELIVERED, 1).await;

    // A held one as well; what replaces it waits in its turn, for the pause is not over.
    let other = Uuid::new_v4();
    let webhook = app.webhook(other, &receiver.url("/"), json!({})).await;
    let (of, id) = (other.to_string(), webhook.to_string());
    app.cli(&["webhooks", "pause", "--company", &of, &id]).await;
    app.publish(other, "ticket.created", json!({"n": 2})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'held'", 1).await;
    let source = the_one(&app, "select id from webhook_deliveries where status = 'held'").await;
    app.cli(&["replay", "--company", &of, &source.to_string()]).await;
    app.wait_for_count(superseded, 2).await;
    app.cli(&["webhooks", "resume", "--company", &of, &id]).await;
    app.wait_for_count(DELIVERED, 2).await;
    assert_eq!(receiver.count(), 3);
}

#[tokio::test]
async fn a_replay_goes_on_after_a_crash_and_makes_each_delivery_once() {
    const EVENTS: usize = 40;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    // Refused, which opens no breaker: it would hold the replay back until it is made whole.
    receiver.answer([Answer::status(400)]);
    // A short timeout, for what the killed worker had claimed is asked for again when that claim ends.
    let more = json!({"retry_count": 1, "timeout_seconds": 2});
    app.webhook(company, &receiver.url("/"), more).await;
    for n in 0..EVENTS {
        app.publish(company, "ticket.created", json!({"n": n})).await;
    }
    app.wait_for_count(DEAD, EVENTS as i64).await;
    receiver.answer([Answer::ok()]);
    app.cli(&["replay", "--company", &company.to_string(), "--status", "dead", "--rate", "10"]).await;
    receiver.wait_for(EVENTS + 5).await;
    service.kill().await;
    let made = app.count("select made from replays").await;
    assert!((5..EVENTS as i64).contains(&made), "it was in the middle, with {made} made");

    let _service = app.run(&[]).await;
    app.wait_for_count(DONE_REPLAYS, 1).await;
    app.wait_for_count(DELIVERED, EVENTS as i64).await;
    let row =
        sqlx::query("select id, started_at, made from replays").fetch_one(&app.pool).await.expect("a row");
    let (id, started): (Uuid, DateTime<Utc>) = (row.get(0), row.get(1));
    assert_eq!(row.get::<i64, _>("made"), EVENTS as i64);
    let made =
        sqlx::query("select id, event_id, webhook_id from webhook_deliveries where replay_id is not null")
            .fetch_all(&app.pool)
            .await
            .expect("rows");
    assert_eq!(made.len(), EVENTS);
    for row in &made {
        let (event, webhook) = (EventId(row.get("event_id")), WebhookId(row.get("webhook_id")));
        let expected = DeliveryId::of_replay(ReplayId(id), started, event, webhook);
        assert_eq!(row.get::<Uuid, _>("id"), expected.0, "the id follows from what it is");
    }
    let requests = receiver.requests();
    let replayed = || requests.iter().filter(|r| r.header("x-xtsystems-trigger") == Some("replay"));
    let ids: HashSet<_> = replayed().filter_map(|r| r.header("webhook-id")).collect();
    assert_eq!(ids.len(), EVENTS, "every one of them arrived");
    // What was in flight when it was killed may have come twice; nothing else has.
    let in_flight = 32;
    assert!(replayed().count() <= EVENTS + in_flight);
}

#[tokio::test]
async fn orders_that_cannot_end_hold_up_nobody_elses() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    let busy = Uuid::new_v4();
    let paused = app.webhook(busy, &receiver.url("/paused"), json!({})).await;
    let of = busy.to_string();
    app.cli(&["webhooks", "pause", "--company", &of, &paused.to_string()]).await;
    // Older orders of another company, more than are looked at in one round, each waiting for the end of a pause.
    sqlx::query(
        "with orders as (
            insert into replays (id, company_id, kind, filter, rate, requested_by, status, started_at)
            select gen_random_uuid(), $1, 'replay', '{}', 1, 'test', 'running', now() - interval '1 hour'
            from generate_series(1, 250)
            returning id
        )
        insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, replay_id)
        select overlay(gen_random_uuid()::text placing left(first_id_of(current_date)::text, 13) from 1)::uuid,
               $1, $2, gen_random_uuid(), 'ticket.created', 'replay', 'held', id
        from orders",
    )
    .bind(busy)
    .bind(paused)
    .execute(&app.pool)
    .await
    .expect("they can be written");

    receiver.answer([Answer::status(500), Answer::ok()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count(DEAD, 1).await;
    replay(&app, company, &["--status", "dead"]).await;
    receiver.wait_for(2).await;
    let left = "select count(*) from replays where status = 'running' and requested_by = 'test'";
    eventually("the others are still open", async || (app.count(left).await == 250).then_some(())).await;
}

#[tokio::test]
async fn the_few_that_are_wanted_are_found_among_many() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let then = Utc::now() - TimeDelta::days(2);
    for _ in 0..5 {
        owe(&app, company, webhook, then, "delivered").await;
    }
    // More than one look goes through, before and behind the wanted ones.
    sqlx::query(
        "insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status)
         select overlay(gen_random_uuid()::text placing left(first_id_of(day)::text, 13) from 1)::uuid,
                gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'ticket.created', 'event', 'delivered'
         from generate_series(1, 22000), unnest(array[current_date - 1, current_date]) as d (day)
         union all
         select overlay($1::uuid::text placing lpad(to_hex(n), 4, '0') from 15)::uuid,
                gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'ticket.created', 'event', 'delivered'
         from generate_series(1, 100) as n",
    )
    .bind(EventId::derive(then, xtwebhooks::model::CompanyId(company), "any").0)
    .execute(&app.pool)
    .await
    .expect("they can be written");
    owe(&app, company, webhook, Utc::now(), "delivered").await;
    let _service = app.run(&[]).await;
    let order = replay(&app, company, &["--status", "delivered"]).await;
    assert_eq!(order["made"], 6, "{order}");
    receiver.wait_for(6).await;
}

#[tokio::test]
async fn an_order_that_the_ledger_refuses_blocks_schedule_in_nothing_else() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let (company, poisoned) = (Uuid::new_v4(), Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer([Answer::status(500), Answer::status(500), Answer::ok()]);
    for of in [company, poisoned] {
        app.webhook(of, &receiver.url("/"), json!({"retry_count": 1})).await;
        app.publish(of, "ticket.created", json!({"n": 1})).await;
    }
    app.wait_for_count(DEAD, 2).await;
    let refuse = format!(
        "alter table webhook_deliveries add constraint poison check (company_id <> '{poisoned}') not valid"
    );
    execute(&app, &refuse).await;
    app.cli(&["replay", "--company", &poisoned.to_string(), "--status", "dead"]).await;
    replay(&app, company, &["--status", "dead"]).await;
    receiver.wait_for(3).await;
    assert_eq!(app.count("select count(*) from replays where status = 'expanding'").await, 1);
    // And once the ledger takes it, it goes on.
    execute(&app, "alter table webhook_deliveries drop constraint poison").await;
    app.wait_for_count(DONE_REPLAYS, 2).await;
    receiver.wait_for(4).await;
}
