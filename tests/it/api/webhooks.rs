//! The guide's calls, and what stands beside them.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{app::App, receiver::Receiver};

#[tokio::test]
async fn a_webhook_is_made_listed_changed_and_deleted_as_the_guide_has_it() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    assert_eq!(admin.get("/v1/webhooks").await.expect(200), json!([]));

    let asked = json!({
        "name": "Discord Bot Integration",
        "url": "https://discord-bot.example.com/webhooks/xtsystems",
        "events": ["ticket.created", "ticket.updated", "machine.registered", "alert.triggered"],
        "secret": "your_secure_webhook_secret",
    });
    let made = admin.post("/v1/webhooks", asked.clone()).await;
    let etag = made.header("etag").to_owned();
    let made = made.expect(200);
    assert!(!etag.is_empty());
    for field in ["name", "url", "events", "secret"] {
        assert_eq!(made[field], asked[field], "{field}");
    }
    assert_eq!(made["company_id"], json!(company));
    assert_eq!(
        (&made["active"], &made["retry_count"], &made["timeout_seconds"]),
        (&json!(true), &json!(3), &json!(30))
    );
    assert_eq!((&made["headers"], &made["metadata"]), (&json!({}), &json!({})));
    assert!(made["created_by"].as_str().is_some_and(|by| by.starts_with("key xtwh_")), "{made}");
    assert!(made.get("warnings").is_none(), "nothing about it is odd: {made}");
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());

    let shown = admin.get(&path).await;
    assert_eq!(shown.header("etag"), etag);
    let shown = shown.expect(200);
    assert!(shown.get("secret").is_none(), "a secret is shown on creation and rotation only: {shown}");
    assert_eq!(admin.get("/v1/webhooks").await.expect(200), json!([shown]));

    let changed = admin.put(&path, json!({"events": ["*"], "active": false})).await.expect(200);
    assert_eq!((&changed["events"], &changed["active"]), (&json!(["*"]), &json!(false)));
    assert_eq!((&changed["name"], &changed["url"]), (&made["name"], &made["url"]), "what is not named stays");
    assert!(changed.get("secret").is_none() && changed["updated_at"] != made["updated_at"]);

    let answer = admin.post("/v1/webhooks", asked.clone()).await;
    let taken = answer.expect(409);
    assert_eq!(
        (&taken["errors"][0]["field"], &taken["type"]),
        (&json!("name"), &json!("/v1/problems/conflict"))
    );

    let answer = admin.delete(&path).await;
    assert_eq!(answer.expect(200), json!({"message": "Webhook deleted successfully"}));
    for answer in [
        admin.get(&path).await,
        admin.put(&path, json!({"name": "x"})).await,
        admin.delete(&path).await,
        admin.post(&format!("{path}/pause"), json!({})).await,
        admin.post(&format!("{path}/resume"), json!({})).await,
        admin.post(&format!("{path}/rotate-secret"), json!({})).await,
        admin.post(&format!("{path}/test"), json!({})).await,
    ] {
        assert_eq!(answer.expect(404)["detail"], "Webhook not found");
    }
    admin.post("/v1/webhooks", asked).await.expect(200);

    let actions: Vec<String> =
        sqlx::query_scalar("select action from audit_log where company_id = $1 order by id")
            .bind(company)
            .fetch_all(&app.pool)
            .await
            .unwrap();
    assert_eq!(actions, ["webhook.create", "webhook.update", "webhook.delete", "webhook.create"]);
    let written: String =
        sqlx::query_scalar("select string_agg(concat(before::text, after::text), '') from audit_log")
            .fetch_one(&app.pool)
            .await
            .unwrap();
    assert!(!written.contains("your_secure_webhook_secret"), "{written}");
}

#[tokio::test]
async fn another_companys_webhook_is_there_for_nobody_else() {
    let (app, ours, theirs) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let webhook = app.webhook(ours, "https://example.com/", json!({"name": "ours"})).await;
    let stranger = app.client(&service, theirs).await;
    let path = format!("/v1/webhooks/{webhook}");
    for answer in [
        stranger.get(&path).await,
        stranger.put(&path, json!({"name": "theirs"})).await,
        stranger.delete(&path).await,
        stranger.post(&format!("{path}/pause"), json!({})).await,
        stranger.post(&format!("{path}/resume"), json!({})).await,
        stranger.post(&format!("{path}/rotate-secret"), json!({})).await,
        stranger.post(&format!("{path}/test"), json!({})).await,
        stranger.get(&format!("{path}/lane")).await,
        stranger.get(&format!("{path}/lane/transitions")).await,
    ] {
        assert_eq!(answer.expect(404)["detail"], "Webhook not found");
    }
    assert_eq!(stranger.get("/v1/webhooks").await.expect(200), json!([]));
    assert_eq!(stranger.get("/v1/lanes").await.expect(200), json!([]));
    // A name is taken in its own company only.
    let asked = json!({"name": "ours", "url": "https://example.com/", "events": ["*"]});
    stranger.post("/v1/webhooks", asked).await.expect(200);
    assert_eq!(app.count("select count(*) from webhook_deliveries").await, 0);
    assert_eq!(app.count("select count(*) from webhooks where paused_at is not null").await, 0);
}

#[tokio::test]
async fn a_pause_holds_and_a_resume_names_the_replay_that_works_on_what_was_held() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let admin = app.client(&service, company).await;
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let path = format!("/v1/webhooks/{webhook}");
    // Without a body, and with none of a content type.
    let paused = admin.send("POST", &format!("{path}/pause"), None).await.expect(200);
    assert_eq!(paused["pause_reason"], "paused by hand");
    let again = admin.post(&format!("{path}/pause"), json!({"reason": "again"})).await.expect(200);
    assert_eq!(
        (&again["pause_reason"], &again["paused_at"]),
        (&paused["pause_reason"], &paused["paused_at"])
    );
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'held'", 1).await;

    let resumed = admin.post(&format!("{path}/resume"), json!({"rate": 100})).await.expect(200);
    assert!(resumed["paused_at"].is_null());
    let replay: Uuid = serde_json::from_value(resumed["replay_id"].clone()).expect("it is named");
    receiver.wait_for(1).await;
    let rate: i32 = sqlx::query_scalar("select rate from replays where id = $1 and kind = 'resume'")
        .bind(replay)
        .fetch_one(&app.pool)
        .await
        .expect("the replay is there");
    assert_eq!(rate, 100);

    admin.post(&format!("{path}/pause"), json!({"reason": "moving"})).await.expect(200);
    app.publish(company, "ticket.created", json!({"n": 2})).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'held'", 1).await;
    admin.post(&format!("{path}/resume"), json!({"held": "discard"})).await.expect(200);
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'cancelled'", 1).await;
    assert_eq!(receiver.count(), 1);

    for (action, body, field) in [
        ("pause", json!({"reason": 7}), "reason"),
        ("resume", json!({"held": "keep"}), "held"),
        ("resume", json!({"rate": 0}), "rate"),
        ("rotate-secret", json!({"secret": "short"}), "secret"),
        ("rotate-secret", json!({"grace_seconds": -1}), "grace_seconds"),
        ("rotate-secret", json!({"guide_signature": "both"}), "guide_signature"),
    ] {
        let problem = admin.post(&format!("{path}/{action}"), body).await.expect(422);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}

#[tokio::test]
async fn ten_thousand_webhooks_of_a_company_are_listed_in_one_call_and_by_pages() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    sqlx::query(
        "insert into webhooks (company_id, name, url, events, secret)
         select $1, 'webhook ' || n, 'https://example.com/' || n, '{*}', 'sixteen letters and more'
         from generate_series(1, 10000) n",
    )
    .bind(company)
    .execute(&app.pool)
    .await
    .expect("written");
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|webhook| webhook["name"].as_str().expect("a name").to_owned()).collect()
    };
    let all = admin.get("/v1/webhooks?count=capped").await;
    assert_eq!((all.header("x-total-count"), all.header("link")), ("10000+", ""));
    let all = names(&all.expect(200));
    assert_eq!(all.len(), 10_000);

    let (mut paged, mut next) = (Vec::new(), Some("/v1/webhooks?limit=500".to_owned()));
    while let Some(path) = next {
        let page = admin.get(&path).await;
        next = page.next();
        let page = names(&page.expect(200));
        assert!(page.len() <= 500);
        paged.extend(page);
        if paged.len() == 500 {
            // What comes and goes meanwhile moves nobody else to another page.
            app.webhook(company, "https://example.com/", json!({"name": "a webhook before all others"}))
                .await;
            sqlx::query("update webhooks set deleted_at = now() where name = $1")
                .bind(&paged[0])
                .execute(&app.pool)
                .await
                .expect("deleted");
        }
    }
    assert_eq!(paged, all);

    let other = app.client(&service, Uuid::new_v4()).await;
    let second = admin.get("/v1/webhooks?limit=500").await.next().expect("a second page");
    assert_eq!(other.get(&second).await.expect(422)["errors"][0]["field"], "cursor");
    for (path, field) in [
        ("/v1/webhooks?limit=0", "limit"),
        ("/v1/webhooks?limit=501", "limit"),
        ("/v1/webhooks?limit=x", "limit"),
        ("/v1/webhooks?cursor=x", "cursor"),
    ] {
        assert_eq!(admin.get(path).await.expect(422)["errors"][0]["field"], field, "{path}");
    }
}
