//! How much one may ask before the answer is 429.

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    api::{Answer, Client},
    app::{App, eventually},
    xtsystems::{XtSystems, token},
};

async fn webhook(app: &App, company: Uuid) -> String {
    format!("/v1/webhooks/{}", app.webhook(company, "http://127.0.0.1:9/", json!({})).await)
}

/// The seconds to wait of an answer with 429.
#[track_caller]
fn wait(answer: &Answer) -> u64 {
    assert_eq!(answer.expect(429)["type"], "/v1/problems/too-many-requests");
    answer.header("retry-after").parse().expect("whole seconds")
}

#[tokio::test]
async fn each_key_has_a_rate_of_its_own() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("API_RATE_LIMIT", 1).set("API_RATE_BURST_MAX", 3);
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let (one, other) = (app.client(&service, company).await, app.client(&service, company).await);
    for _ in 0..3 {
        one.get(&path).await.expect(200);
    }
    // Calls that are refused for another reason count as well.
    let refused = one.get(&path).await;
    assert_eq!(wait(&refused), 1);
    other.get(&path).await.expect(200);
    eventually("the key may ask again", async || (one.get(&path).await.status == 200).then_some(())).await;
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_told_apart_behind_a_trusted_proxy() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("API_FAILURES_PER_MINUTE_MAX", 3).set("TRUSTED_PROXIES", "127.0.0.0/8");
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let nobody = Client::of(&service).await;
    let from = |addresses: &str, token: &str| nobody.with(token).and("x-forwarded-for", addresses);
    let wrong = "xtwh_00000000_wrong";
    for n in 0..3 {
        // What a caller writes itself, left of what the proxy says, changes nothing.
        from(&format!("192.0.2.{n}, 198.51.100.7"), wrong).get(&path).await.expect(401);
    }
    let wait = wait(&from("198.51.100.7", wrong).get(&path).await);
    assert!((1..=20).contains(&wait), "{wait}");
    from("198.51.100.8", wrong).get(&path).await.expect(401);
    // Who has the right key is let in from there all the same.
    let key = app.key(Some(company), &["webhooks:read"]).await;
    from("198.51.100.7", &key).get(&path).await.expect(200);
    // Nothing was tried where nothing was sent.
    for _ in 0..5 {
        nobody.and("x-forwarded-for", "198.51.100.9").get(&path).await.expect(401);
    }
}

#[tokio::test]
async fn without_a_trusted_proxy_nobody_chooses_the_address_that_is_counted() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("API_FAILURES_PER_MINUTE_MAX", 2);
    let service = app.run(&["--role", "api"]).await;
    let path = webhook(&app, company).await;
    let wrong = Client::of(&service).await.with("xtwh_00000000_wrong");
    for n in 0..2 {
        wrong.and("x-forwarded-for", format!("192.0.2.{n}")).get(&path).await.expect(401);
    }
    wait(&wrong.and("x-forwarded-for", "192.0.2.9").get(&path).await);
}

#[tokio::test]
async fn on_behalf_of_an_address_that_fails_too_often_xtsystems_is_asked_no_more() {
    let (app, xtsystems, company) = (App::new().await, XtSystems::start().await, Uuid::new_v4());
    app.set("API_FAILURES_PER_MINUTE_MAX", 3).set("AUTH_USERINFO_URL", xtsystems.url());
    let service = app.run(&["--role", "api"]).await;
    let (path, nobody) = (webhook(&app, company).await, Client::of(&service).await);
    let known = nobody.with(&xtsystems.user(&[(company, &["webhooks:read"])]));
    known.get(&path).await.expect(200);
    let mut refused = 0;
    for _ in 0..50 {
        refused += usize::from(nobody.with(&token(&json!({}))).get(&path).await.status == 429);
    }
    assert!(refused > 40, "{refused}");
    assert!(xtsystems.server.count() < 10, "{}", xtsystems.server.count());
    known.get(&path).await.expect(200);
}
