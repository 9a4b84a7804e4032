//! What the service itself has to say, and what it does of itself: operational events, recoveries, automatic pauses.
//!
//! What a lane goes through is written here as the recorder writes it.

use std::collections::BTreeSet;

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::{App, eventually},
    past::{execute, owe},
    receiver::{Answer, Receiver, Request},
};

const UNTOLD: &str = "select (select count(*) from lane_transitions where announced_at is null)
                           + (select count(*) from dead_letters where kind = 'delivery' and not announced)";
const TOLD: &str =
    "select count(*) from events where event_type like 'webhook.%' or event_type like 'delivery.%'";
const DEAD: &str = "select count(*) from webhook_deliveries where status = 'dead'";
const RECOVERIES: &str = "select count(*) from replays where kind = 'recovery'";

/// Writes a transition of a webhook.
async fn transition(app: &App, company: Uuid, webhook: Uuid, kind: &str, ago: &str, more: &str) {
    let (columns, values): (Vec<&str>, Vec<&str>) =
        more.split(';').filter_map(|pair| pair.split_once('=')).unzip();
    let (columns, values) = (columns.join(", "), values.join(", "));
    let sql = format!(
        "insert into lane_transitions (webhook_id, at, kind, company_id, {columns})
         values ('{webhook}', now() - interval '{ago}', '{kind}', '{company}', {values})"
    );
    execute(app, &sql).await;
}

fn types(requests: &[Request]) -> BTreeSet<String> {
    requests.iter().map(|r| r.header("x-xtsystems-event").expect("signed").to_owned()).collect()
}

fn of_type(requests: &[Request], event_type: &str) -> Value {
    let found = requests.iter().find(|r| r.header("x-xtsystems-event") == Some(event_type));
    found.unwrap_or_else(|| panic!("no {event_type}")).json()
}

async fn webhooks(app: &App, command: &str, company: Uuid, webhook: Uuid, more: &[&str]) -> Value {
    let (company, webhook) = (company.to_string(), webhook.to_string());
    app.cli(&[&["webhooks", command, "--company", &company, &webhook], more].concat()).await
}

#[tokio::test]
async fn what_happens_to_a_webhook_is_announced_to_its_company() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let watched = app.webhook(company, &receiver.url("/watched"), json!({"name": "the bot"})).await;
    app.webhook(company, &receiver.url("/told"), json!({"events": ["webhook.*"]})).await;
    app.webhook(company, &receiver.url("/all"), json!({"events": ["*"]})).await;
    app.webhook(Uuid::new_v4(), &receiver.url("/others"), json!({"events": ["*"]})).await;
    // From when schedule was off; the oldest is too old for its event to lie at its own time.
    let failing = "failing_since=now() - interval '74 hours';reason='5 attempts in a row failed'";
    transition(&app, company, watched, "opened", "73 hours", failing).await;
    let since = "opened_at=now() - interval '73 hours';failing_since=now() - interval '74 hours'";
    transition(&app, company, watched, "closed", "2 hours", since).await;
    transition(&app, company, watched, "opened", "1 hour", "silent=true").await;
    let _service = app.run(&[]).await;
    webhooks(&app, "pause", company, watched, &["--reason", "moving house"]).await;
    app.wait_for_count(UNTOLD, 0).await;
    let requests = receiver.wait_for(6).await;

    let at = |path: &str| requests.iter().filter(|r| r.path() == path).cloned().collect::<Vec<_>>();
    let all = ["webhook.failing", "webhook.paused", "webhook.recovered"].map(str::to_owned);
    assert_eq!(types(&at("/told")), BTreeSet::from(all.clone()));
    assert_eq!(types(&at("/all")), BTreeSet::from(all));
    let failing = of_type(&requests, "webhook.failing");
    assert_eq!(failing["company_id"], company.to_string());
    assert_eq!(failing["data"]["webhook_id"], watched.to_string());
    assert_eq!(
        (&failing["data"]["name"], &failing["data"]["reason"]),
        (&json!("the bot"), &json!("5 attempts in a row failed"))
    );
    let ago = |body: &Value| (Utc::now().timestamp() - body["timestamp"].as_i64().expect("seconds")) / 3600;
    assert_eq!((ago(&failing), ago(&of_type(&requests, "webhook.recovered"))), (73, 2));
    assert!(failing["data"]["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{failing}");
    let paused = of_type(&requests, "webhook.paused");
    assert_eq!(paused["data"]["reason"], "moving house", "{paused}");

    // As after a crash between the confirm and the note: the same is said again, and is no other event.
    execute(&app, "update lane_transitions set announced_at = null").await;
    app.wait_for_count(UNTOLD, 0).await;
    app.publish(company, "ticket.created", json!({})).await;
    receiver.wait_for(7).await;
    eventually("the repeats are taken in", async || (app.depth("events").await == 0).then_some(())).await;
    assert_eq!(app.count(TOLD).await, 3);
    webhooks(&app, "resume", company, watched, &[]).await;
    app.wait_for_count(UNTOLD, 0).await;
    assert_eq!(app.count(TOLD).await, 3, "of the end of a pause nobody is told");
}

#[tokio::test]
async fn a_delivery_given_up_is_announced_and_no_announcement_is_announced() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let _service = app.run(&[]).await;
    receiver.answer([Answer::status(500)]);
    // It is told of its own trouble, too, and fails at that as well.
    let webhook = app.webhook(company, &receiver.url("/"), json!({"events": ["*"], "retry_count": 1})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    let requests = receiver.wait_for(2).await;
    app.wait_for_count(DEAD, 2).await;
    app.wait_for_count(UNTOLD, 0).await;
    let told = of_type(&requests, "delivery.dead_lettered");
    let data = &told["data"];
    let delivery = requests[0].header("x-xtsystems-delivery").expect("signed");
    assert_eq!((&data["delivery_id"], &data["webhook_id"]), (&json!(delivery), &json!(webhook)));
    assert_eq!((&data["event_type"], &data["attempts"]), (&json!("ticket.created"), &json!(1)));
    assert_eq!((&data["outcome"], &data["response_status"]), (&json!("server_error"), &json!(500)));
    assert_eq!(data["event_id"], requests[0].header("webhook-id").expect("signed"));
    assert!(data["reason"].is_string(), "{told}");
    assert_eq!(app.count(TOLD).await, 1);
    assert_eq!(app.count("select count(*) from dead_letters").await, 2);
}

#[tokio::test]
async fn of_each_type_only_so_many_are_told_for_a_webhook_in_an_hour() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let flooded = app.webhook(company, &receiver.url("/"), json!({"name": "flooded"})).await;
    let other = app.webhook(company, &receiver.url("/"), json!({"name": "other"})).await;
    let dead = |webhook: Uuid, count: u32, hours: u32| {
        format!(
            "insert into dead_letters (id, kind, company_id, webhook_id, event_id, event_type, reason, created_at)
             select gen_random_uuid(), 'delivery', '{company}', '{webhook}', gen_random_uuid(), 'ticket.created', 'expired',
                    date_trunc('hour', now()) - interval '{hours} hours' + n * interval '1 ms'
             from generate_series(1, {count}) n"
        )
    };
    for (webhook, count, hours) in [(flooded, 300, 2), (flooded, 70, 1), (other, 5, 1)] {
        execute(&app, &dead(webhook, count, hours)).await;
    }
    let service = app.run(&["--role", "schedule,ingest"]).await;
    app.wait_for_count(UNTOLD, 0).await;
    app.wait_for_count(TOLD, 60 + 60 + 5).await;
    assert_eq!(service.metric("xtwebhooks_schedule_announced_total{result=\"published\"}").await, 125.0);
    assert_eq!(service.metric("xtwebhooks_schedule_announced_total{result=\"too_many\"}").await, 250.0);
}

#[tokio::test]
async fn no_other_publisher_sends_a_reserved_type_neither_at_first_nor_by_a_replay() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.webhook(company, &receiver.url("/"), json!({"events": ["*"]})).await;
    let _service = app.run(&[]).await;
    app.publish(company, "webhook.failing", json!({"forged": true})).await;
    // With everything that we ourselves write where we publish something again.
    let mut headers = lapin::types::FieldTable::default();
    headers.insert("xt-exchange".into(), lapin::types::AMQPValue::LongString("".into()));
    let body =
        json!({"event_type": "delivery.dead_lettered", "company_id": company, "data": {"forged": true}});
    let properties = lapin::BasicProperties::default().with_headers(headers);
    assert!(app.publish_raw("ticket.created", body.to_string().as_bytes(), properties).await);
    let reserved = "select count(*) from dead_letters where kind = 'message' and field = 'event_type'
                    and reason like '%reserved type%' and status = 'open'";
    app.wait_for_count(reserved, 2).await;
    let ids: Vec<Uuid> =
        sqlx::query_scalar("select id from dead_letters").fetch_all(&app.pool).await.expect("rows");
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    let company_text = company.to_string();
    app.cli(&["replay", "--company", &company_text, "--wait", &ids[0], &ids[1]]).await;
    // They come back as what they are: refused once more.
    app.wait_for_count("select count(*) from dead_letters where kind = 'message'", 4).await;
    app.wait_for_count(reserved, 2).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    let requests = receiver.wait_for(1).await;
    assert_eq!(requests[0].json()["data"]["n"], 1);
    assert_eq!(app.count("select count(*) from events").await, 1);

    let publish = ["publish", "--company", &company_text, "--type", "webhook.failing", "--data", "{}"];
    let (code, _, error) = app.try_cli(&publish).await;
    assert!(code != 0 && error.contains("reserved type"), "{code}: {error}");
}

#[tokio::test]
async fn an_outage_that_ends_sends_again_what_was_given_up_in_it_once_and_oldest_first() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let webhook = app
        .webhook(
            company,
            &receiver.url("/"),
            json!({"auto_recover": true, "max_in_flight": 1, "retry_count": 1}),
        )
        .await;
    let other = app.webhook(company, &receiver.url("/other"), json!({"retry_count": 1})).await;
    receiver.answer([Answer::status(500)]);
    receiver.answer_at("/other", [Answer::status(500)]);
    let service = app.run(&[]).await;
    // Their events happened in the reverse of the order in which they are published.
    for n in 0..5_i64 {
        let at = Utc::now() - TimeDelta::minutes(30 * n);
        let body = json!({"event_type": "ticket.created", "company_id": company, "timestamp": at.timestamp(), "data": {"n": n}});
        assert!(app.publish_raw("ticket.created", body.to_string().as_bytes(), Default::default()).await);
        app.wait_for_count(DEAD, 2 * (n + 1)).await;
    }
    // One was given up before the outage.
    execute(
        &app,
        "update dead_letters set created_at = now() - interval '2 hours'
                   where id in (select id from dead_letters order by created_at limit 2)",
    )
    .await;
    receiver.answer([Answer::ok()]);
    receiver.answer_at("/other", [Answer::ok()]);
    let seen = receiver.count();
    let outage = "opened_at=now() - interval '59 minutes';failing_since=now() - interval '1 hour'";
    // One statement, so that both closings name the same opening.
    execute(
        &app,
        &format!(
            "insert into lane_transitions (webhook_id, at, kind, company_id, opened_at, failing_since)
             select '{webhook}', now() + n * interval '1 millisecond', 'closed', '{company}',
                    date_trunc('minute', now()) - interval '59 minutes', now() - interval '1 hour'
             from generate_series(0, 1) n"
        ),
    )
    .await;
    transition(&app, company, other, "closed", "0 seconds", outage).await;
    receiver.wait_for(seen + 4).await;
    app.wait_for_count(UNTOLD, 0).await;
    app.wait_for_count(
        "select count(*) from replays where kind = 'recovery' and status = 'done' and made = 4",
        1,
    )
    .await;
    assert_eq!(
        app.count(RECOVERIES).await,
        1,
        "the same outage is recovered once, and only where it is wanted"
    );
    assert_eq!(service.metric("xtwebhooks_schedule_recoveries_total").await, 1.0);
    let again = receiver.requests().split_off(seen);
    let numbers: Vec<i64> = again.iter().filter_map(|r| r.json()["data"]["n"].as_i64()).collect();
    assert_eq!(numbers, [4, 3, 2, 1], "those of the oldest events first");
    assert!(again.iter().all(|r| r.header("x-xtsystems-trigger") == Some("recovery") && r.path() == "/"));
    let letters = "select count(*) from dead_letters where status = 'replayed' and replay_id is not null";
    assert_eq!(app.count(letters).await, 4);
}

#[tokio::test]
async fn a_webhook_that_fails_for_days_is_paused_and_only_then() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.webhook(company, &receiver.url("/told"), json!({"name": "told", "events": ["webhook.paused"]})).await;
    let failing = async |name: &str, set: &str, tried: bool| {
        let wants = if ["dead", "probed"].contains(&name) { "ticket.*" } else { "asset.*" };
        let more = json!({"name": name, "events": [wants]});
        let webhook = app.webhook(company, &receiver.url("/failing"), more).await;
        let delivery = owe(&app, company, webhook, Utc::now(), "dead").await;
        if tried {
            execute(
                &app,
                &format!("update webhook_deliveries set attempted_at = now() where id = '{delivery}'"),
            )
            .await;
        }
        execute(
            &app,
            &format!(
                "update lanes set failures = 9, failing_many = true, failing_since = now() - interval '6 days'
                 where webhook_id = '{webhook}';
                 update lanes set {set} where webhook_id = '{webhook}'"
            ),
        )
        .await;
        webhook
    };
    let dead = failing("dead", "failures = 9", true).await;
    let probed =
        "opened_at = now() - interval '6 days', probes = 40, next_probe_at = now() + interval '1 minute'";
    let probed = failing("probed", probed, false).await;
    let spared = [
        failing("one event", "failing_many = false", true).await,
        failing("not for so long", "failing_since = now() - interval '4 days'", true).await,
        failing("with a success", "last_success_at = now() - interval '1 day'", true).await,
        failing("not tried since", "failures = 9", false).await,
        failing("resumed lately", "failures = 9", true).await,
    ];
    execute(
        &app,
        &format!(
            "insert into webhook_versions (webhook_id, valid_from, valid_to, company_id, events, active, paused, deleted)
             values ('{}', now() - interval '5 days', now() - interval '2 days', '{company}', '{{*}}', true, true, false)",
            spared[4]
        ),
    )
    .await;
    let service = app.run(&[]).await;
    let paused = "select count(*) from webhooks where paused_at is not null";
    app.wait_for_count(paused, 2).await;
    let shown = webhooks(&app, "show", company, dead, &[]).await;
    assert_eq!(shown["paused_by"], "xtwebhooks", "{shown}");
    assert!(
        shown["pause_reason"]
            .as_str()
            .is_some_and(|why| why.starts_with("no attempt has succeeded since 20")),
        "{shown}"
    );
    assert!(!webhooks(&app, "show", company, probed, &[]).await["paused_at"].is_null());
    let requests = receiver.wait_for(2).await;
    assert!(requests.iter().all(|r| r.path() == "/told"));
    let names: BTreeSet<_> =
        requests.iter().map(|r| r.json()["data"]["name"].as_str().map(str::to_owned)).collect();
    assert_eq!(names, ["dead", "probed"].map(|name| Some(name.to_owned())).into());
    assert_eq!(of_type(&requests, "webhook.paused")["data"]["by"], "xtwebhooks");
    assert_eq!(service.metric("xtwebhooks_schedule_auto_paused_total").await, 2.0);

    // What comes is held.
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'held'", 2).await;
    // Whoever resumes it restarts the clock, although it fails on.
    webhooks(&app, "resume", company, dead, &[]).await;
    let next = failing("the next", "failures = 9", true).await;
    eventually("the next is paused", async || {
        (!webhooks(&app, "show", company, next, &[]).await["paused_at"].is_null()).then_some(())
    })
    .await;
    assert_eq!(app.count(paused).await, 2, "the one that was resumed is not paused again");
}
