//! `/v1/keys`: made, shown once, listed, ended; and that nobody gives what they have not.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{api::Client, app::App};

#[tokio::test]
async fn a_key_is_shown_once_and_does_what_it_was_given() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let wanted = json!({
        "name": "  the bot 🤖 “ours”\u{202e}  ", "scopes": ["webhooks:read"], "expires_at": "2099-01-01T00:00:00+02:00",
        "unknown": 1,
    });
    let made = admin.post("/v1/keys", wanted).await.expect(200);
    let text = made["key"].as_str().expect("it is shown");
    let id = made["id"].as_str().expect("an id");
    assert!(text.starts_with(&format!("xtwh_{id}_")) && text.len() == 57, "{text}");
    assert_eq!(made["name"], "the bot 🤖 “ours”\u{202e}");
    assert_eq!(made["company_id"], json!(company));
    assert_eq!(made["expires_at"], "2098-12-31T22:00:00Z");
    assert!(made["created_by"].as_str().is_some_and(|by| by.starts_with("key xtwh_")), "{made}");
    assert_eq!((&made["last_used_at"], &made["revoked_at"]), (&Value::Null, &Value::Null));

    let path = format!("/v1/webhooks/{}", app.webhook(company, "http://127.0.0.1:9/", json!({})).await);
    let bot = admin.with(text);
    bot.get(&path).await.expect(200);
    bot.get("/v1/keys").await.expect(403);
    let one = admin.get(&format!("/v1/keys/{id}")).await;
    assert_eq!(one.expect(200)["scopes"], json!(["webhooks:read"]));
    let list = admin.get("/v1/keys").await;
    assert_eq!(list.expect(200).as_array().map(Vec::len), Some(2));
    let secret = &text[14..];
    for answer in [&one, &list] {
        assert!(!answer.text.contains(secret) && !answer.text.contains("\"key\""), "{}", answer.text);
    }
    let kept: String = sqlx::query_scalar("select string_agg(k::text, ' ') from api_keys as k")
        .fetch_one(&app.pool)
        .await
        .expect("kept");
    assert!(!kept.contains(secret));

    // What a key may do is fixed: who holds it would not notice.
    admin.put(&format!("/v1/keys/{id}"), json!({"scopes": ["admin"]})).await.expect(405);

    let revoked = admin.delete(&format!("/v1/keys/{id}")).await.expect(200);
    assert!(revoked["revoked_at"].is_string());
    bot.get(&path).await.expect(401);
    assert_eq!(
        admin.delete(&format!("/v1/keys/{id}")).await.expect(200)["revoked_at"],
        revoked["revoked_at"]
    );
    for none in ["00000000", "XTWH", "%00", "0000000'", "ab12cd3%F0%9F%98%80"] {
        assert_eq!(admin.delete(&format!("/v1/keys/{none}")).await.expect(404)["detail"], "Key not found");
    }
}

#[tokio::test]
async fn nobody_gives_a_scope_or_companies_that_they_have_not() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let nobody = Client::of(&service).await;
    let manager = nobody.with(&app.key(Some(company), &["keys:manage", "webhooks:read"]).await);
    let admin = app.client(&service, company).await;
    let of_all = nobody.with(&app.key(None, &["admin"]).await);
    let manager_of_all = nobody.with(&app.key(None, &["keys:manage", "webhooks:read"]).await);
    let ask = async |client: &Client, scopes: &[&str], all_companies: bool, status: u16| {
        let body = json!({"name": "n", "scopes": scopes, "all_companies": all_companies});
        let answer = client.post("/v1/keys", body).await;
        assert_eq!(answer.status, status, "{scopes:?} {all_companies}: {}", answer.text);
        answer.json()
    };
    ask(&manager, &["webhooks:read", "keys:manage"], false, 200).await;
    let refused = ask(&manager, &["webhooks:read", "webhooks:write"], false, 403).await;
    assert_eq!(
        refused["detail"],
        "you do not have the scope webhooks:write yourself, so you cannot grant it"
    );
    ask(&manager, &["admin"], false, 403).await;
    ask(&admin, &["admin"], false, 200).await;
    // All companies: who has them all and administers.
    ask(&manager, &["webhooks:read"], true, 403).await;
    ask(&admin, &["webhooks:read"], true, 403).await;
    ask(&manager_of_all, &["webhooks:read"], true, 403).await;
    let made = ask(&of_all, &["webhooks:read"], true, 200).await;
    assert_eq!(made["company_id"], Value::Null);
    let here = of_all.and("x-company-id", company);
    assert_eq!(ask(&here, &["webhooks:read"], false, 200).await["company_id"], json!(company));
    assert_eq!(ask(&here, &["webhooks:read"], true, 422).await["errors"][0]["field"], "all_companies");
    let unnamed = ask(&of_all, &["webhooks:read"], false, 400).await;
    assert_eq!(unnamed["type"], "/v1/problems/company-required");
    // And nobody else ends them.
    let path = format!("/v1/keys/{}", made["id"].as_str().expect("an id"));
    admin.delete(&path).await.expect(404);
    here.delete(&path).await.expect(404);
    manager_of_all.delete(&path).await.expect(403);
    of_all.delete(&path).await.expect(200);
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_named_all_at_once() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let check = async |body: Value, fields: &[&str]| {
        let problem = admin.post("/v1/keys", body).await.expect(422);
        let found = problem["errors"].as_array().into_iter().flatten();
        let found: Vec<_> = found.map(|error| error["field"].as_str().expect("a field")).collect();
        assert_eq!(found, fields, "{problem}");
    };
    check(
        json!({"name": "", "scopes": ["webhooks:read", "all"], "expires_at": "2001-01-01T00:00:00Z"}),
        &["name", "scopes[1]", "expires_at"],
    )
    .await;
    check(json!({"name": "a\u{0}b", "scopes": ["*"]}), &["name", "scopes[0]"]).await;
    check(json!({"name": "n", "scopes": []}), &["scopes"]).await;
    check(
        json!({"name": "n", "scopes": ["admin"], "expires_at": "+262142-01-01T00:00:00Z"}),
        &["expires_at"],
    )
    .await;
    check(json!({"name": "n", "scopes": ["admin"], "expires_at": "soon"}), &["expires_at"]).await;
    check(json!({"scopes": ["admin"]}), &["body"]).await;
    check(json!({"name": 1, "scopes": ["admin"]}), &["name"]).await;
    app.wait_for_count("select count(*) from api_keys", 1).await;
}

#[tokio::test]
async fn keys_are_listed_by_pages_within_their_company() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let other = app.client(&service, Uuid::new_v4()).await;
    for _ in 0..4 {
        app.key(Some(company), &["webhooks:read"]).await;
    }
    let first = admin.get("/v1/keys?limit=2&count=capped").await;
    let (next, mut seen) =
        (first.next().expect("a next page"), first.expect(200).as_array().expect("a list").clone());
    assert_eq!(first.header("x-total-count"), "5");
    // What is made meanwhile shifts no page.
    app.key(Some(company), &["webhooks:read"]).await;
    let mut next = Some(next);
    while let Some(path) = next {
        let page = admin.get(&path).await;
        seen.extend(page.expect(200).as_array().expect("a list").clone());
        next = page.next();
        other.get(&path).await.expect(422);
    }
    let ids: std::collections::BTreeSet<_> = seen.iter().map(|key| key["id"].to_string()).collect();
    assert_eq!((ids.len(), seen.len()), (5, 5));
    assert_eq!(other.get("/v1/keys").await.expect(200).as_array().map(Vec::len), Some(1));
    let all = Client::of(&service).await.with(&app.key(None, &["keys:manage"]).await);
    assert_eq!(all.get("/v1/keys").await.expect(200).as_array().map(Vec::len), Some(8));
    assert_eq!(
        all.and("x-company-id", company).get("/v1/keys").await.expect(200).as_array().map(Vec::len),
        Some(6)
    );
    for bad in ["limit=0", "limit=501", "limit=x", "cursor=x", "count=all"] {
        admin.get(&format!("/v1/keys?{bad}")).await.expect(422);
    }
}

#[tokio::test]
async fn the_first_key_is_made_in_the_database_and_further_ones_are_looked_after_by_the_api() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let output = app
        .command(&["keys", "create", "--scope", "admin", "--by", "root", "--json"])
        .output()
        .await
        .expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let first: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&first["company_id"], &first["created_by"]), (&Value::Null, &json!("command line root")));
    let client = Client::of(&service).await.with(first["key"].as_str().expect("it is shown"));
    client.get("/v1/keys").await.expect(200);
    client
        .post("/v1/keys", json!({"name": "n", "scopes": ["admin"], "all_companies": true}))
        .await
        .expect(200);

    let of_one = app
        .cli(&[
            "keys",
            "create",
            "--scope",
            "webhooks:read,events:read",
            "--company",
            &company.to_string(),
            "--expires-in",
            "90d",
        ])
        .await;
    assert_eq!(of_one["scopes"], json!(["webhooks:read", "events:read"]));
    assert_eq!(of_one["company_id"], json!(company));
    let listed = app.cli(&["keys", "list", "--company", &company.to_string()]).await;
    assert_eq!(listed[0]["id"], of_one["id"]);
    assert_eq!(listed[0].get("key"), None);
    let revoked = app.cli(&["keys", "revoke", of_one["id"].as_str().expect("an id")]).await;
    assert!(revoked["revoked_at"].is_string());
    let (code, _, said) = app.try_cli(&["keys", "revoke", "00000000"]).await;
    assert_eq!((code, said.trim()), (4, "xtwebhooks: Key not found"));
    let (code, _, said) = app.try_cli(&["keys", "create", "--scope", "everything"]).await;
    assert!(code == 2 && said.contains("webhooks:read"), "{said}");

    let audit = app.cli(&["audit", "list", "--action", "key.create", "--actor", "command line root"]).await;
    assert_eq!((audit.as_array().map(Vec::len), &audit[0]["subject"]), (Some(1), &first["id"]));
}

#[tokio::test]
async fn a_request_for_a_key_that_is_repeated_makes_one_and_shows_it_once() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await.and("idempotency-key", "make-it-once");
    let wanted = json!({"name": "reader", "scopes": ["webhooks:read"]});
    let made = admin.post("/v1/keys", wanted.clone()).await.expect(200);
    let again = admin.post("/v1/keys", wanted).await.expect(200);
    assert_eq!(again["id"], made["id"]);
    assert!(made["key"].is_string() && again["key"].is_null(), "{again}");
    let other = admin.post("/v1/keys", json!({"name": "another", "scopes": ["webhooks:read"]})).await;
    assert_eq!(other.expect(422)["errors"][0]["field"], "Idempotency-Key");
    assert_eq!(app.count("select count(*) from api_keys where name = 'reader'").await, 1);
    let kept = "select count(*) from idempotency_keys where response_body ~ 'xtwh_[0-9a-f]{8}_'";
    assert_eq!(app.count(kept).await, 0, "the key itself is kept nowhere");
}
