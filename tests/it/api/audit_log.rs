//! `/v1/audit-log`: every change with who, what, before, after and from where; and never a secret.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{api::Client, app::App};

/// The entries of a list.
async fn entries(client: &Client, query: &str) -> Vec<Value> {
    client.get(&format!("/v1/audit-log{query}")).await.expect(200).as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_change_says_who_did_what_from_where_and_tells_no_secret() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("TRUSTED_PROXIES", "127.0.0.0/8");
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await.and("x-forwarded-for", "192.0.2.1, 198.51.100.7");
    let made =
        admin.post("/v1/keys", json!({"name": "the bot", "scopes": ["webhooks:read"]})).await.expect(200);
    let id = made["id"].as_str().expect("an id");
    admin.delete(&format!("/v1/keys/{id}")).await.expect(200);
    // Nothing is changed by it, so nothing is written.
    admin.delete(&format!("/v1/keys/{id}")).await.expect(200);
    admin.delete("/v1/keys/00000000").await.expect(404);
    admin.post("/v1/keys", json!({"name": "", "scopes": []})).await.expect(422);

    let answer = admin.get("/v1/audit-log").await;
    let found = answer.expect(200);
    let [revoked, created] = found.as_array().expect("a list").as_slice() else { panic!("{found}") };
    assert_eq!((&created["action"], &created["subject"]), (&json!("key.create"), &json!(id)));
    assert_eq!((&created["company_id"], &created["address"]), (&json!(company), &json!("198.51.100.7")));
    assert_eq!(created["actor"], format!("key {}", &admin.token.clone().expect("a key")[..13]));
    assert_eq!(created["before"], Value::Null);
    assert_eq!(
        (&created["after"]["name"], &created["after"]["scopes"]),
        (&json!("the bot"), &json!(["webhooks:read"]))
    );
    assert_eq!(revoked["action"], "key.revoke");
    assert_eq!(revoked["before"], json!({"revoked_at": null}));
    assert!(revoked["after"]["revoked_at"].is_string(), "{revoked}");
    let secret = &made["key"].as_str().expect("it is shown")[14..];
    assert!(!answer.text.contains(secret));
    let kept: String = sqlx::query_scalar("select string_agg(a::text, ' ') from audit_log as a")
        .fetch_one(&app.pool)
        .await
        .expect("kept");
    assert!(!kept.contains(secret) && !kept.contains("sha256"), "{kept}");
}

#[tokio::test]
async fn the_log_is_filtered_and_paged_within_its_company() {
    let (app, company, other) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    // One of each hour, all at one instant in pairs, as transactions of one batch would be.
    for n in 0..10 {
        sqlx::query(
            "insert into audit_log (id, at, company_id, actor, action, subject, before, after, address)
             values ($1, '2026-01-01T00:00:00Z'::timestamptz + $2 * interval '1 hour', $3, $4, $5, $6, null, '{\"n\":1}', null)",
        )
        .bind(Uuid::now_v7())
        .bind(n / 2)
        .bind(if n == 9 { None } else { Some(if n == 8 { other } else { company }) })
        .bind(if n % 2 == 0 { "user a" } else { "user b" })
        .bind(if n < 4 { "webhook.update" } else { "webhook.create" })
        .bind(format!("w{}", n % 3))
        .execute(&app.pool)
        .await
        .expect("written");
    }
    let admin = app.client(&service, company).await;
    let check = async |query: &str, expected: usize| {
        let found = entries(&admin, query).await;
        assert_eq!(found.len(), expected, "{query}: {found:?}");
        found
    };
    let all = check("", 8).await;
    check("?actor=user%20a", 4).await;
    check("?action=webhook.update", 4).await;
    check("?subject=w0&actor=user%20b", 1).await;
    check("?since=2026-01-01T01:00:00Z&until=2026-01-01T02:00:00%2B00:00", 2).await;
    check("?since=2026-01-01T04:00:00Z", 0).await;
    check("?actor=nobody%27%20or%20true--", 0).await;
    // Page by page it is the same list, whatever is written meanwhile.
    let (mut seen, mut next) = (Vec::new(), Some("/v1/audit-log?limit=3&count=capped".to_owned()));
    while let Some(path) = next {
        let page = admin.get(&path).await;
        assert_eq!(page.header("x-total-count"), (8 + seen.len() / 3).to_string());
        seen.extend(page.expect(200).as_array().expect("a list").clone());
        next = page.next();
        admin.post("/v1/keys", json!({"name": "n", "scopes": ["webhooks:read"]})).await.expect(200);
    }
    assert_eq!(seen, all);
    let of_all = Client::of(&service).await.with(&app.key(None, &["keys:manage"]).await);
    assert_eq!(entries(&of_all, "?until=2026-02-01T00:00:00Z").await.len(), 10);
    assert_eq!(entries(&of_all.and("x-company-id", other), "").await.len(), 1);
    for bad in [
        "since=yesterday",
        "until=%2B262142-01-01T00:00:00Z",
        "since=-9999-01-01T00:00:00Z",
        "limit=0",
        "cursor=e30",
    ] {
        let answer = admin.get(&format!("/v1/audit-log?{bad}")).await;
        assert_eq!(answer.status, 422, "{bad}: {}", answer.text);
    }
    admin.get("/v1/audit-log?actor=%00").await.expect(400);
}
