//! Several who change one webhook, the same request twice, and secrets that change while something is under way.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::{App, eventually},
    interop::{to_verify, verify},
    receiver::{Answer, Receiver},
};

#[tokio::test]
async fn of_two_admins_who_change_one_webhook_the_second_is_told() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let (ada, bob) = (app.client(&service, company).await, app.client(&service, company).await);
    let webhook = app.webhook(company, "https://example.com/", json!({})).await;
    let path = format!("/v1/webhooks/{webhook}");
    let seen = ada.get(&path).await.header("etag").to_owned();
    assert_eq!(bob.get(&path).await.header("etag"), seen);

    let of_ada = ada.and("if-match", &seen).put(&path, json!({"description": "ada's"})).await;
    let now = of_ada.header("etag").to_owned();
    of_ada.expect(200);
    assert_ne!(now, seen);
    let late = bob.and("if-match", &seen);
    for answer in [
        late.put(&path, json!({"description": "bob's"})).await,
        late.delete(&path).await,
        late.post(&format!("{path}/pause"), json!({})).await,
        late.post(&format!("{path}/resume"), json!({})).await,
        late.post(&format!("{path}/rotate-secret"), json!({})).await,
    ] {
        assert_eq!(answer.expect(412)["type"], "/v1/problems/changed");
    }
    let shown = ada.get(&path).await;
    assert_eq!((shown.header("etag"), &shown.json()["description"]), (&*now, &json!("ada's")));

    // A lane moves with every delivery, and its webhook's state is the same all the while.
    sqlx::query("update lanes set failures = 3, failing_since = now()").execute(&app.pool).await.unwrap();
    assert_eq!(ada.get(&path).await.header("etag"), now);
    bob.and("if-match", format!("\"0\", W/{now}"))
        .put(&path, json!({"description": "bob's"}))
        .await
        .expect(200);
    bob.and("if-match", "*").delete(&path).await.expect(200);

    // Both at once, each from what it has seen: one is done, the other is told.
    let webhook = app.webhook(company, "https://example.com/", json!({})).await;
    let path = format!("/v1/webhooks/{webhook}");
    let seen = ada.get(&path).await.header("etag").to_owned();
    let (ada, bob) = (ada.and("if-match", &seen), bob.and("if-match", &seen));
    let (one, other) = tokio::join!(
        ada.put(&path, json!({"description": "ada's"})),
        bob.put(&path, json!({"description": "bob's"}))
    );
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 412]);
}

#[tokio::test]
async fn a_request_with_the_same_key_is_done_once_and_answered_the_same() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let token = app.key(Some(company), &["admin"]).await;
    let admin = Client::of(&service).await.with(&token).and("idempotency-key", "order 7");
    let asked = json!({"name": "bot", "url": "https://example.com/", "events": ["*"]});
    // Ten at once: one makes it, the others wait for its commit.
    let answers =
        futures_util::future::join_all((0..10).map(|_| admin.post("/v1/webhooks", asked.clone()))).await;
    let first = answers[0].expect(200);
    assert!(first["secret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")));
    for answer in &answers {
        assert_eq!(answer.expect(200), first);
    }
    assert_eq!(app.count("select count(*) from webhooks").await, 1);
    assert_eq!(app.count("select count(*) from audit_log").await, 1);

    let other = json!({"name": "other", "url": "https://example.com/", "events": ["*"]});
    let problem = admin.post("/v1/webhooks", other.clone()).await.expect(422);
    assert_eq!(problem["errors"][0]["field"], "Idempotency-Key", "another body under the same key");
    let elsewhere = app.client(&service, Uuid::new_v4()).await.and("idempotency-key", "order 7");
    elsewhere.post("/v1/webhooks", other.clone()).await.expect(200);
    let somebody_else = app.client(&service, company).await.and("idempotency-key", "order 7");
    somebody_else.post("/v1/webhooks", asked.clone()).await.expect(422);

    // What was refused is not kept.
    let again = Client::of(&service).await.with(&token).and("idempotency-key", "order 8");
    again.post("/v1/webhooks", asked.clone()).await.expect(409);
    again.post("/v1/webhooks", other).await.expect(200);
    for key in ["", &"k".repeat(256)] {
        let client = Client::of(&service).await.with(&token).and("idempotency-key", key);
        assert_eq!(
            client.post("/v1/webhooks", asked.clone()).await.expect(422)["errors"][0]["field"],
            "Idempotency-Key"
        );
    }

    // A rotation that is repeated keeps the secret that the first was answered with.
    let path = format!("/v1/webhooks/{}/rotate-secret", first["id"].as_str().unwrap());
    let rotating = Client::of(&service).await.with(&token).and("idempotency-key", "rotate 1");
    let rotated = rotating.post(&path, json!({})).await.expect(200);
    assert_eq!(rotating.post(&path, json!({})).await.expect(200), rotated);
    let of_the_first = "select count(*) from webhooks w join audit_log a on a.subject = w.id::text
                        where a.action = 'webhook.rotate_secret'";
    assert_eq!(app.count(of_the_first).await, 1);

    // A day later the key stands for nothing.
    sqlx::query("update idempotency_keys set created_at = now() - interval '25 hours'")
        .execute(&app.pool)
        .await
        .unwrap();
    admin
        .post("/v1/webhooks", json!({"name": "next day", "url": "https://example.com/", "events": ["*"]}))
        .await
        .expect(200);
    sqlx::query("update idempotency_keys set created_at = now() - interval '25 hours'")
        .execute(&app.pool)
        .await
        .unwrap();
    let _pruner = app.run(&["--role", "prune"]).await;
    app.wait_for_count("select count(*) from idempotency_keys", 0).await;
}

#[tokio::test]
async fn a_rotation_during_a_retry_leaves_both_secrets_good() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let admin = app.client(&service, company).await;
    receiver.answer([Answer::status(500), Answer::ok()]);
    let asked =
        json!({"name": "bot", "url": receiver.url("/"), "events": ["ticket.*"], "retry_schedule": [2]});
    let made = admin.post("/v1/webhooks", asked).await.expect(200);
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    let text = |value: &Value| value["secret"].as_str().expect("a secret").to_owned();
    let first = text(&made);
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    receiver.wait_for(1).await;
    let body = json!({"grace_seconds": 3600, "guide_signature": "previous"});
    let rotated = admin.post(&format!("{path}/rotate-secret"), body).await.expect(200);
    let second = text(&rotated);
    assert_ne!(first, second);
    assert_eq!(rotated["guide_signature"], "previous");
    assert!(rotated["previous_secret_until"].is_string());
    let requests = receiver.wait_for(2).await;
    assert_eq!(requests[0].header("webhook-id"), requests[1].header("webhook-id"));
    let (old, both) = ([&*first], [&*first, &*second]);
    let seen = [
        to_verify("before", &requests[0], &old, &old, &[&second]),
        to_verify("during", &requests[1], &old, &both, &[]),
    ];
    let (good, said) = verify(&seen).await;
    assert!(good, "{said}");

    // Without a grace the old one is gone at once.
    let third =
        text(&admin.post(&format!("{path}/rotate-secret"), json!({"grace_seconds": 0})).await.expect(200));
    let is_new = async || {
        let before = receiver.count();
        app.publish(company, "ticket.created", json!({"n": 2})).await;
        let last = receiver.wait_for(before + 1).await.pop()?;
        let (good, _) = verify(&[to_verify("after", &last, &[&third], &[&third], &both)]).await;
        good.then_some(())
    };
    eventually("only the new secret signs", is_new).await;
}
