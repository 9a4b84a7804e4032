//! Replays over the API.

use chrono::{TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::{App, eventually},
    past::{execute, owe},
    receiver::{Answer, Receiver},
};

const DEAD: &str = "select count(*) from webhook_deliveries where status = 'dead'";

async fn done(client: &Client, replay: &Value) -> Value {
    let path = format!("/v1/replays/{}", replay["id"].as_str().expect("an id"));
    eventually("the replay is done", async || {
        let replay = client.get(&path).await.expect(200);
        (replay["status"] == "done").then_some(replay)
    })
    .await
}

#[tokio::test]
async fn a_replay_arrives_under_its_webhook_id_and_the_order_shows_its_progress() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let client = app.client(&service, company).await;
    receiver.answer([Answer::status(500), Answer::status(500), Answer::ok()]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.publish(company, "ticket.created", json!({"n": 2})).await;
    app.wait_for_count(DEAD, 2).await;
    let dead = client.get("/v1/deliveries?status=dead").await.expect(200);
    let id = dead[0]["id"].as_str().expect("an id");

    let ordered = client.post(&format!("/v1/deliveries/{id}/replay"), json!({})).await.expect(202);
    assert_eq!((&ordered["kind"], &ordered["filter"]), (&json!("replay"), &json!({"deliveries": [id]})));
    assert!(ordered["requested_by"].as_str().is_some_and(|by| by.starts_with("key xtwh_")), "{ordered}");
    let ended = done(&client, &ordered).await;
    assert_eq!((&ended["made"], &ended["skipped"], &ended["open"]), (&json!(1), &json!(0), &json!(0)));
    let requests = receiver.wait_for(3).await;
    let again = &requests[2];
    assert_eq!(again.header("webhook-id"), dead[0]["event_id"].as_str());
    assert_eq!(again.header("x-xtsystems-trigger"), Some("replay"));
    let source = client.get(&format!("/v1/deliveries/{id}")).await.expect(200);
    assert_eq!(source["status"], json!("dead"), "the source stays as it is");

    // The other by what it has in common; what was replayed is not dead any more for a filter.
    let wanted = json!({"webhook_id": webhook, "event_type": "ticket.created", "since": Utc::now() - TimeDelta::hours(1), "rate": 100});
    let ordered = client.post("/v1/replays", wanted).await.expect(202);
    assert_eq!((&ordered["rate"], &ordered["filter"]["status"]), (&json!(100), &json!("dead")));
    assert_eq!(done(&client, &ordered).await["made"], json!(1));
    receiver.wait_for(4).await;
    assert_eq!(app.count("select count(*) from dead_letters where status = 'replayed'").await, 2);

    let audited = "select count(*) from audit_log where action = 'replay.create' and actor like 'key xtwh_%' and after is not null";
    assert_eq!(app.count(audited).await, 2);
    let listed = client.get("/v1/replays?kind=replay&status=done&count=capped").await;
    assert_eq!(listed.expect(200).as_array().map(Vec::len), Some(2));
    assert_eq!((listed.header("x-total-count"), &listed.json()[0]["id"]), ("2", &ordered["id"]));
}

#[tokio::test]
async fn who_may_only_look_cannot_ask_and_nobody_reaches_what_is_anothers() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let nobody = Client::of(&service).await;
    let looks = nobody.with(&app.key(Some(company), &["deliveries:read"]).await);
    let asks = nobody.with(&app.key(Some(company), &["deliveries:replay"]).await);
    let stranger = app.client(&service, Uuid::new_v4()).await;
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let delivery = owe(&app, company, webhook, Utc::now(), "delivered").await;
    let one = format!("/v1/deliveries/{delivery}/replay");
    let listed = json!({"deliveries": [delivery]});

    for path in [&one, "/v1/replays"] {
        assert!(
            looks.post(path, listed.clone()).await.expect(403)["detail"]
                .to_string()
                .contains("deliveries:replay")
        );
    }
    assert_eq!(stranger.post(&one, json!({})).await.expect(404)["detail"], "Delivery not found");
    let unknown = stranger.post("/v1/replays", listed.clone()).await.expect(404);
    assert!(unknown["detail"].to_string().contains(&delivery.to_string()), "{unknown}");
    let theirs = stranger.post("/v1/replays", json!({"webhook_id": webhook})).await;
    assert_eq!(theirs.expect(404)["detail"], "Webhook not found");
    assert_eq!(app.count("select count(*) from replays").await, 0);

    let ordered = asks.post("/v1/replays", listed).await.expect(202);
    let path = format!("/v1/replays/{}", ordered["id"].as_str().expect("an id"));
    assert_eq!(looks.get(&path).await.expect(200)["status"], json!("expanding"));
    assert_eq!(stranger.get(&path).await.expect(404)["detail"], "Replay not found");
    assert_eq!(stranger.get("/v1/replays").await.expect(200), json!([]));
    assert_eq!(asks.get(&path).await.status, 403);
}

#[tokio::test]
async fn an_order_that_says_nothing_or_too_much_is_refused_by_its_fields() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    let check = async |body: Value, status: u16, said: &[&str]| {
        let problem = client.post("/v1/replays", body.clone()).await;
        let text = problem.expect(status).to_string();
        assert!(said.iter().all(|word| text.contains(word)), "{body}: {text}");
    };
    check(json!({}), 422, &["deliveries", "list ids"]).await;
    check(json!({"rate": 0, "event_type": "a\u{0}b"}), 422, &["rate", "event_type"]).await;
    check(json!({"status": "gone"}), 422, &["status"]).await;
    check(json!({"deliveries": ["x"]}), 422, &["deliveries[0]"]).await;
    check(json!({"deliveries": vec![Uuid::nil(); 1]}), 404, &["no delivery or dead letter"]).await;
    check(json!({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}), 422, &["since"]).await;
    check(json!({"rate": 99_999_999_999_i64, "status": "dead"}), 422, &["rate"]).await;
    check(json!([1]), 422, &["must be an object"]).await;
    assert_eq!(app.count("select count(*) from replays").await, 0);
}

#[tokio::test]
async fn orders_are_listed_page_by_page_newest_first() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    execute(
        &app,
        &format!(
            "insert into replays (id, company_id, kind, rate, requested_by, started_at)
             select lpad(n::text, 32, '0')::uuid, '{company}', case when n = 3 then 'recovery' else 'replay' end, 1, 'nobody',
                    -- Two of the same instant.
                    now() - make_interval(secs => n / 2)
             from generate_series(1, 5) n"
        ),
    )
    .await;
    let (mut seen, mut next) = (Vec::new(), Some("/v1/replays?limit=2".to_owned()));
    while let Some(path) = next {
        let page = client.get(&path).await;
        let rows = page.expect(200);
        seen.extend(
            rows.as_array()
                .expect("a list")
                .iter()
                .map(|row| row["id"].to_string().trim_matches('"').trim_start_matches(['0', '-']).to_owned()),
        );
        next = page.next();
    }
    assert_eq!(seen, ["1", "3", "2", "5", "4"]);
    assert_eq!(
        client.get("/v1/replays?kind=recovery,resume").await.expect(200).as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(client.get("/v1/replays?status=over").await.expect(422)["errors"][0]["field"], "status");
}

#[tokio::test]
async fn an_order_that_is_repeated_under_its_key_is_one_order() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await.and("idempotency-key", "again-1");
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let wanted = json!({"webhook_id": webhook, "status": "dead"});
    let ordered = client.post("/v1/replays", wanted.clone()).await.expect(202);
    let again = client.post("/v1/replays", wanted).await.expect(202);
    assert_eq!(again, ordered);
    let other = client.post("/v1/replays", json!({"webhook_id": webhook, "status": "delivered"})).await;
    assert_eq!(other.expect(422)["errors"][0]["field"], "Idempotency-Key");
    assert_eq!(app.count("select count(*) from replays").await, 1);
}
