//! Who gets what, and that nobody else does.
//!
//! "Nobody else" is shown by stopping the service once everything is delivered: nothing can come after that.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use uuid::Uuid;
use xtwebhooks::model::signature::{Secret, verify_guide, verify_standard};

use crate::support::{
    app::{App, Service, eventually_within},
    receiver::{Answer, Receiver, Request},
};

const LONG: std::time::Duration = std::time::Duration::from_mins(2);

/// Waits until nothing is open any more, and ends the service.
async fn finish(app: &App, service: Service) {
    app.wait_for_count("select count(*) from webhook_deliveries where status in ('pending', 'held')", 0)
        .await;
    assert_eq!(service.stop().await, Some(0));
}

async fn wait_for_events(app: &App, events: i64) {
    app.wait_for_count("select count(*) from events where fanned_out", events).await;
}

fn is_signed_with(request: &Request, secret: &str) -> bool {
    let secret = Secret::new(secret);
    let header = |name: &str| request.header(name).expect("every request bears it");
    let guide = header("x-xtsystems-signature");
    let (id, time, standard) =
        (header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"));
    verify_guide(&secret, header("x-xtsystems-timestamp"), &request.body, guide)
        && verify_standard(&secret, id, time, &request.body, standard)
}

#[tokio::test]
async fn companies_with_equal_names_urls_types_and_ids_see_only_their_own() {
    const EVENTS: usize = 20;
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let service = app.run(&[]).await;
    let companies = [Uuid::new_v4(), Uuid::new_v4()];
    let secret = |company: Uuid| format!("the secret of {company}");
    for company in companies {
        let more = json!({"name": "bot", "events": ["ticket.created"], "secret": secret(company)});
        app.webhook(company, &receiver.url("/hook"), more).await;
    }
    let time = chrono::Utc::now().timestamp();
    for n in 0..EVENTS {
        for company in companies {
            let body = json!({"event_type": "ticket.created", "company_id": company, "event_id": format!("e-{n}"),
                "data": {"n": n}, "timestamp": time});
            assert!(app.publish_raw("ticket.created", body.to_string().as_bytes(), Default::default()).await);
        }
    }
    wait_for_events(&app, 2 * EVENTS as i64).await;
    finish(&app, service).await;
    let requests = receiver.requests();
    let mut seen = BTreeSet::new();
    for request in &requests {
        let company: Uuid =
            serde_json::from_value(request.json()["company_id"].clone()).expect("the company's id");
        let other = companies.into_iter().find(|other| *other != company).expect("there are two");
        assert!(is_signed_with(request, &secret(company)));
        assert!(!is_signed_with(request, &secret(other)));
        seen.insert((company, request.json()["data"]["n"].as_u64(), request.header("webhook-id")));
    }
    let events: BTreeSet<_> = seen.iter().map(|(_, _, event)| event).collect();
    assert_eq!((requests.len(), seen.len(), events.len()), (2 * EVENTS, 2 * EVENTS, 2 * EVENTS));
    let crossed = "select count(*)
        from webhook_deliveries d
        join events e on e.id = d.event_id
        join webhooks w on w.id = d.webhook_id
        where d.company_id <> e.company_id or d.company_id <> w.company_id";
    assert_eq!(app.count(crossed).await, 0);
}

#[tokio::test]
async fn one_company_can_neither_see_nor_replay_what_is_anothers() {
    let (app, receiver) = (App::new().await, Receiver::start().await);
    let service = app.run(&[]).await;
    let [ours, theirs] = [Uuid::new_v4(), Uuid::new_v4()];
    let webhook = app.webhook(theirs, &receiver.url("/"), json!({})).await.to_string();
    app.publish(theirs, "ticket.created", json!({})).await;
    receiver.wait_for(1).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    let delivery: Uuid = sqlx::query_scalar("select id from webhook_deliveries")
        .fetch_one(&app.pool)
        .await
        .expect("there is one");
    let (ours, delivery) = (ours.to_string(), delivery.to_string());
    assert_eq!(app.cli(&["webhooks", "list", "--company", &ours]).await, json!([]));
    assert_eq!(app.cli(&["dead-letters", "list", "--company", &ours]).await, json!([]));
    for args in [
        &["webhooks", "show", "--company", &ours, &webhook][..],
        &["webhooks", "delete", "--company", &ours, &webhook],
        &["deliveries", "list", "--company", &ours, "--webhook", &webhook],
        &["deliveries", "show", "--company", &ours, &delivery],
        &["replay", "--company", &ours, &delivery],
        &["replay", "--company", &ours, "--webhook", &webhook],
    ] {
        let (code, out, err) = app.try_cli(args).await;
        assert_eq!(code, 4, "{args:?}: {out}{err}");
        assert!(!out.contains(&receiver.url("")) && !err.contains(&receiver.url("")), "{args:?}: {out}{err}");
    }
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 1);
    assert_eq!(app.count("select count(*) from replays").await, 0);
}

#[tokio::test]
async fn each_webhook_gets_the_types_it_names_and_a_disabled_one_nothing() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let types =
        ["ticket.created", "ticket.a.b", "ticket", "tickets.created", "Ticket.created", "asset.created"];
    let rows: &[(&str, &[&str], &[&str])] = &[
        ("/all", &["*"], &types),
        ("/tickets", &["ticket.*"], &["ticket.created", "ticket.a.b"]),
        ("/two", &["ticket.created", "asset.created"], &["ticket.created", "asset.created"]),
        ("/overlapping", &["ticket.*", "*", "ticket.created"], &types),
        ("/one", &["ticket"], &["ticket"]),
        // A star stands for nothing anywhere else.
        ("/within", &["tick*", "*.created", "ticket.*.b", "**"], &[]),
        ("/none", &["user.created"], &[]),
    ];
    for (path, events, _) in rows {
        app.webhook(company, &receiver.url(path), json!({"events": events})).await;
    }
    app.webhook(company, &receiver.url("/disabled"), json!({"active": false})).await;
    let deleted = app.webhook(company, &receiver.url("/deleted"), json!({})).await;
    sqlx::query("update webhooks set deleted_at = now() where id = $1")
        .bind(deleted)
        .execute(&app.pool)
        .await
        .expect("deleted");
    app.webhook(Uuid::new_v4(), &receiver.url("/stranger"), json!({})).await;
    let service = app.run(&[]).await;
    for event_type in types {
        app.publish(company, event_type, json!({})).await;
    }
    wait_for_events(&app, types.len() as i64).await;
    finish(&app, service).await;
    let mut got: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for request in receiver.requests() {
        let event_type = request.header("x-xtsystems-event").expect("every request bears it");
        got.entry(request.path().to_owned()).or_default().push(event_type.to_owned());
    }
    for (path, _, expected) in rows {
        let mut got = got.remove(*path).unwrap_or_default();
        let mut expected = expected.to_vec();
        got.sort();
        expected.sort_unstable();
        assert_eq!(got, expected, "{path}");
    }
    assert!(got.is_empty(), "disabled, deleted or a stranger's: {got:?}");
}

#[tokio::test]
async fn an_event_that_nobody_wants_is_recorded() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    app.webhook(company, &receiver.url("/"), json!({"events": ["alert.triggered"]})).await;
    app.publish(company, "ticket.created", json!({"of": "a company with a webhook"})).await;
    app.publish(Uuid::new_v4(), "ticket.created", json!({"of": "a company without"})).await;
    wait_for_events(&app, 2).await;
    finish(&app, service).await;
    let recorded = "select count(*) from events where matched = 0 and fanned_out and data->>'of' is not null";
    assert_eq!(app.count(recorded).await, 2);
    assert_eq!(app.count("select count(*) from webhook_deliveries").await, 0);
    assert_eq!(receiver.count(), 0);
}

#[tokio::test]
async fn a_webhook_switched_off_or_deleted_between_attempts_gets_no_further_one() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer([Answer::status(500)]);
    let service = app.run(&[]).await;
    // One waits in a retry queue, one in the ledger.
    let kinds = [json!({"retry_count": 5}), json!({"retry_schedule": [2, 2, 2, 2]})];
    let mut webhooks = Vec::new();
    for (n, more) in kinds.iter().enumerate() {
        for end in ["active = false", "deleted_at = now()"] {
            let path = format!("/{n}-{}", &end[..6]);
            webhooks.push((app.webhook(company, &receiver.url(&path), more.clone()).await, end));
        }
    }
    app.publish(company, "ticket.created", json!({})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where attempts = 1", 4).await;
    for (webhook, end) in webhooks {
        let update = format!("update webhooks set {end} where id = $1");
        sqlx::query(sqlx::AssertSqlSafe(update)).bind(webhook).execute(&app.pool).await.expect("changed");
    }
    let cancelled = "select count(*) from webhook_deliveries
        where status = 'cancelled' and attempts = 1 and reason ~ 'deleted|inactive'";
    app.wait_for_count(cancelled, 4).await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(receiver.count(), 4);
}

#[tokio::test]
async fn one_event_arrives_once_at_each_of_ten_thousand_webhooks() {
    const WEBHOOKS: usize = 10_000;
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let made = "insert into webhooks (company_id, name, url, events, secret)
        select $1, n::text, $2 || n, '{*}', $3 from generate_series(1, $4) n";
    sqlx::query(made)
        .bind(company)
        .bind(receiver.url("/"))
        .bind("a-secret-of-ten-thousand")
        .bind(WEBHOOKS as i32)
        .execute(&app.pool)
        .await
        .expect("made");
    // Two ingests that get a copy each: whoever comes second goes on where the first is.
    let services = [app.run(&[]).await, app.run(&["--role", "ingest,deliver"]).await];
    let body = json!({"event_type": "ticket.created", "company_id": company, "event_id": "one", "data": {},
        "timestamp": chrono::Utc::now().timestamp()});
    let body = body.to_string().into_bytes();
    let channels = [app.another_channel().await, app.another_channel().await, app.another_channel().await];
    let sending =
        channels.iter().map(|channel| app.publish_on(channel, "ticket.created", &body, Default::default()));
    assert!(futures_util::future::join_all(sending).await.into_iter().all(|taken| taken));

    receiver.wait_within(WEBHOOKS, LONG).await;
    let delivered = "select count(*) from webhook_deliveries where status = 'delivered' and attempts = 1";
    let all = async || (app.count(delivered).await == WEBHOOKS as i64).then_some(());
    eventually_within(LONG, "all are delivered", all).await;
    eventually_within(LONG, "the copies are taken", async || (app.depth("events").await == 0).then_some(()))
        .await;
    for service in services {
        assert_eq!(service.stop().await, Some(0));
    }
    let requests = receiver.requests();
    let paths: BTreeSet<&str> = requests.iter().map(Request::path).collect();
    let events: BTreeSet<_> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!((paths.len(), requests.len(), events.len()), (WEBHOOKS, WEBHOOKS, 1));
    assert_eq!(app.count("select count(*) from webhook_deliveries where repeats > 0").await, 0);
    assert_eq!(app.count("select count(*) from events where matched = 10000 and fanned_out").await, 1);
}
