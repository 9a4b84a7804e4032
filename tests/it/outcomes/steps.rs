//! What follows an outcome, over several attempts and events.

use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    LAG_MAX, Next, check_dead_letter,
    record::{earlier, record},
    row,
};
use crate::support::{
    app::App,
    dns::Dns,
    receiver::{Answer, Receiver},
};

#[tokio::test]
async fn the_waits_of_the_guide_double_until_the_last_attempt_allowed() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer_at("/three", [Answer::status(500)]);
    receiver.answer_at("/third-time", [Answer::status(500), Answer::status(502), Answer::ok()]);
    receiver.answer_at("/once", [Answer::status(500)]);
    for (name, retries) in [("/three", Value::Null), ("/third-time", json!(3)), ("/once", json!(1))] {
        app.webhook(company, &receiver.url(name), json!({"name": name, "retry_count": retries})).await;
    }
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status <> 'pending'", 3).await;
    assert_eq!(service.stop().await, Some(0));
    for (name, status, statuses) in [
        ("/three", "dead", &[500, 500, 500][..]),
        ("/third-time", "delivered", &[500, 502, 200]),
        ("/once", "dead", &[500]),
    ] {
        let found = record(&app, name).await;
        let mut attempts = earlier(&app, found.id).await;
        assert_eq!((&*found.status, found.attempts as usize), (status, statuses.len()), "{name}");
        attempts.push(found);
        let answered: Vec<_> = attempts.iter().filter_map(|attempt| attempt.response_status).collect();
        assert_eq!(answered, statuses, "{name}");
        for (n, pair) in attempts.windows(2).enumerate() {
            let [Some(first), Some(second)] = [pair[0].attempted_at, pair[1].attempted_at] else {
                panic!("{name}")
            };
            let (wait, guide) = (second - first, TimeDelta::seconds(1 << n));
            assert!(wait >= guide && wait < guide + LAG_MAX, "{name}: {wait} before attempt {}", n + 2);
        }
    }
    assert_eq!(receiver.count(), 7);
}

#[tokio::test]
async fn forbidden_addresses_are_dead_at_once_and_nobody_is_connected_to() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let dns = Dns::start(&[
        ("loopback.test", &["127.0.0.1"]),
        ("mapped.test", &["::ffff:10.0.0.1"]),
        ("mixed.test", &["93.184.215.14", "127.0.0.1"]),
    ])
    .await;
    app.set("ALLOWED_NETWORKS", "192.168.77.0/24").set("DNS_SERVERS", dns.address());
    let port = receiver.address().port();
    let rows = [
        ("literal", "127.0.0.1", "127.0.0.1", "127.0.0.0/8"),
        ("mapped literal", "[::ffff:10.0.0.1]", "::ffff:10.0.0.1", "10.0.0.0/8"),
        ("name", "loopback.test", "loopback.test", "127.0.0.0/8"),
        ("mapped name", "mapped.test", "mapped.test", "10.0.0.0/8"),
        ("name with a public address too", "mixed.test", "mixed.test", "127.0.0.0/8"),
        ("number", "2130706433", "127.0.0.1", "127.0.0.0/8"),
        ("metadata", "169.254.169.254", "169.254.169.254", "169.254."),
    ];
    for (name, host, ..) in rows {
        app.webhook(company, &format!("http://{host}:{port}/"), json!({"name": name})).await;
    }
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!({"id": 7})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'dead'", rows.len() as i64)
        .await;
    assert_eq!(service.stop().await, Some(0));
    for (name, _, target, network) in rows {
        let found = record(&app, name).await;
        let why = found.why.clone().unwrap_or_default();
        assert!(why.starts_with(&format!("not sent: {target} is in {network}")), "{name}: {why}");
        let seen = (found.outcome.as_deref(), found.reason.as_deref(), found.attempts, found.response_status);
        assert_eq!(seen, (Some("blocked"), Some("blocked"), 1, None), "{name}");
        let row = row(name, String::new(), "blocked", None, Next::Dead("blocked"), "");
        check_dead_letter(&app, &row, &found).await;
    }
    assert_eq!(receiver.connections(), 0);
}

#[tokio::test]
async fn a_reset_on_a_reused_connection_is_repeated_within_the_attempt_and_noted() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer([Answer::ok().resetting_reused()]);
    app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    let service = app.run(&[]).await;
    for (n, repeated) in [(1, 0), (2, 1), (3, 2)] {
        app.publish(company, "ticket.created", json!({"n": n})).await;
        app.wait_for_count(
            "select count(*) from webhook_deliveries where status = 'delivered' and attempts = 1",
            n,
        )
        .await;
        assert_eq!(app.count("select count(*) from webhook_deliveries where repeated").await, repeated);
    }
    assert_eq!(service.stop().await, Some(0));
    let requests = receiver.requests();
    assert_eq!(requests.len(), 5, "the two that met a reset came twice");
    for again in [(1, 2), (3, 4)] {
        assert_eq!(requests[again.0].header("webhook-id"), requests[again.1].header("webhook-id"));
        assert_ne!(requests[again.0].connection, requests[again.1].connection, "on a fresh connection");
    }
}

#[tokio::test]
async fn a_webhook_that_410_paused_holds_what_comes_until_it_is_resumed() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer([Answer::status(410), Answer::ok()]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_count": 1, "name": "gone"})).await;
    let service = app.run(&[]).await;
    app.publish(company, "ticket.created", json!(1)).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'held' and attempts = 1", 1)
        .await;
    let paused: (String, String) =
        sqlx::query_as("select paused_by, pause_reason from webhooks where paused_at is not null")
            .fetch_one(&app.pool)
            .await
            .expect("it is paused");
    assert_eq!(paused, ("xtwebhooks".to_owned(), "the receiver answered 410 Gone".to_owned()));
    app.publish(company, "ticket.created", json!(2)).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'held'", 2).await;
    assert_eq!(receiver.count(), 1);
    app.cli(&["webhooks", "resume", "--company", &company.to_string(), &webhook.to_string()]).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 2).await;
    assert_eq!(service.stop().await, Some(0));
    let requests = receiver.requests();
    let mut came: Vec<_> = requests[1..]
        .iter()
        .map(|request| (request.json()["data"].as_i64(), request.header("x-xtsystems-attempt")))
        .collect();
    came.sort_unstable();
    assert_eq!(came, [(Some(1), Some("2")), (Some(2), Some("1"))]);
}
