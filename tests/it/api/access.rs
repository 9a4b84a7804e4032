//! Keys at work: in which company they hold, when they end, and that their use is written down.

use serde_json::json;
use uuid::Uuid;

use crate::support::{api::Client, app::App, app::eventually};

/// A webhook's path, and a key's name out of its text.
async fn webhook(app: &App, company: Uuid) -> String {
    format!("/v1/webhooks/{}", app.webhook(company, "http://127.0.0.1:9/", json!({})).await)
}

fn id(key: &str) -> &str {
    &key["xtwh_".len()..][..8]
}

#[tokio::test]
async fn a_key_that_is_revoked_while_in_use_is_refused_from_the_next_call_on() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let (one, two) = tokio::join!(app.run(&["--role", "api"]), app.run(&["--role", "api"]));
    let path = webhook(&app, company).await;
    let key = app.key(Some(company), &["webhooks:read"]).await;
    let (here, there) = (Client::of(&one).await.with(&key), Client::of(&two).await.with(&key));
    for client in [&here, &there, &here] {
        client.get(&path).await.expect(200);
    }
    let admin = app.client(&one, company).await;
    assert!(admin.delete(&format!("/v1/keys/{}", id(&key))).await.expect(200)["revoked_at"].is_string());
    for client in [&here, &there] {
        let problem = client.get(&path).await.expect(401);
        assert_eq!(problem["detail"], "the key is unknown, has expired or was revoked");
    }
}

#[tokio::test]
async fn an_expired_key_is_refused_and_one_that_has_not_is_taken() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let client = Client::of(&service).await.with(&app.key(Some(company), &["webhooks:read"]).await);
    let expire = async |sql: &'static str| sqlx::query(sql).execute(&app.pool).await.expect("it can be set");
    expire("update api_keys set expires_at = now() + interval '1 hour'").await;
    client.get(&path).await.expect(200);
    expire("update api_keys set expires_at = now() - interval '1 second'").await;
    client.get(&path).await.expect(401);
    // The right name with another secret, and with a bit more.
    let token = client.token.clone().expect("a key");
    expire("update api_keys set expires_at = null").await;
    client.get(&path).await.expect(200);
    for wrong in [format!("{token}x"), token[..token.len() - 1].to_owned(), format!("xtwh_{}_", id(&token))] {
        client.with(&wrong).get(&path).await.expect(401);
    }
}

#[tokio::test]
async fn the_use_of_a_key_is_written_down_once_a_minute() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let client = Client::of(&service).await.with(&app.key(Some(company), &["webhooks:read"]).await);
    client.get(&path).await.expect(200);
    app.wait_for_count("select count(*) from api_keys where last_used_at > now() - interval '20 seconds'", 1)
        .await;
    let last_used = async || {
        let sql = "select last_used_at from api_keys";
        sqlx::query_scalar::<_, chrono::DateTime<chrono::Utc>>(sql).fetch_one(&app.pool).await.expect("used")
    };
    let first = last_used().await;
    for _ in 0..20 {
        client.get(&path).await.expect(200);
    }
    assert_eq!(last_used().await, first, "a minute is not over");
    // A use that was written down a minute ago by another process is written again.
    sqlx::query("update api_keys set last_used_at = now() - interval '61 seconds'")
        .execute(&app.pool)
        .await
        .expect("it can be set");
    let another = app.run(&["--role", "api"]).await;
    Client::of(&another).await.with(client.token.as_deref().expect("a key")).get(&path).await.expect(200);
    eventually("the use is written down", async || (last_used().await > first).then_some(())).await;
}

#[tokio::test]
async fn writing_down_the_use_of_a_key_holds_up_no_call() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let client = Client::of(&service).await.with(&app.key(Some(company), &["webhooks:read"]).await);
    // Somebody holds the key's row; the note has to wait for it, and the call has not.
    let mut holding = app.pool.begin().await.expect("a transaction");
    sqlx::query("update api_keys set name = 'held'").execute(&mut *holding).await.expect("the row is held");
    client.get(&path).await.expect(200);
    let used = "select count(*) from api_keys where last_used_at is not null";
    assert_eq!(app.count(used).await, 0);
    holding.rollback().await.expect("the row is let go");
    app.wait_for_count(used, 1).await;
}

#[tokio::test]
async fn a_key_of_all_companies_names_the_one_that_is_meant() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let all = Client::of(&service).await.with(&app.key(None, &["webhooks:read"]).await);
    assert_eq!(all.get(&path).await.expect(400)["type"], "/v1/problems/company-required");
    all.and("x-company-id", company).get(&path).await.expect(200);
    all.and("x-company-id", Uuid::new_v4()).get(&path).await.expect(404);
    assert_eq!(
        all.and("x-company-id", "acme").get(&path).await.expect(422)["errors"][0]["field"],
        "X-Company-Id"
    );
}

#[tokio::test]
async fn credentials_are_taken_as_bearer_and_in_no_other_way() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let key = app.key(Some(company), &["webhooks:read"]).await;
    let nobody = Client::of(&service).await;
    let check = async |value: &str, status: u16| {
        let answer = nobody.and("authorization", value).get(&path).await;
        assert_eq!(answer.status, status, "{value}: {}", answer.text);
        assert_eq!(answer.header("www-authenticate"), if status == 401 { "Bearer" } else { "" });
    };
    check(&format!("Bearer {key}"), 200).await;
    check(&format!("bearer  {key}"), 200).await;
    check(&key, 401).await;
    check(&format!("Basic {key}"), 401).await;
    check("Bearer", 401).await;
    check("Bearer ", 401).await;
    nobody.get(&format!("{path}?access_token={key}")).await.expect(401);
}
