//! XTSystems' own tokens, of which only XTSystems knows for whom they hold.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::{App, Service, eventually},
    receiver::{Answer, Receiver},
    xtsystems::{XTSYSTEMS_SECRET, XtSystems, token},
};

async fn world(settings: &[(&str, &str)]) -> (App, XtSystems, Service, Client) {
    let (app, xtsystems) = (App::new().await, XtSystems::start().await);
    app.set("AUTH_USERINFO_URL", xtsystems.url());
    for (name, value) in settings {
        app.set(name, value);
    }
    let service = app.run(&["--role", "api"]).await;
    let client = Client::of(&service).await;
    (app, xtsystems, service, client)
}

async fn webhook(app: &App, company: Uuid) -> String {
    format!("/v1/webhooks/{}", app.webhook(company, "http://127.0.0.1:9/", json!({})).await)
}

#[tokio::test]
async fn a_user_of_two_companies_has_in_each_what_xtsystems_gives_there() {
    let (app, xtsystems, _service, client) = world(&[]).await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let (first, second) = (webhook(&app, one).await, webhook(&app, two).await);
    let user = client.with(&xtsystems.user(&[(one, &["webhooks:*"]), (two, &["webhooks:delete"])]));
    user.and("x-company-id", one).get(&first).await.expect(200);
    user.and("x-company-id", two).get(&second).await.expect(403);
    user.and("x-company-id", one).get(&second).await.expect(404);
    user.and("x-company-id", Uuid::new_v4()).get(&first).await.expect(403);
    // Which is meant is not guessed, and what holds in one only is nothing without its name.
    user.get(&first).await.expect(403);
    let both = client.with(&xtsystems.user(&[(one, &["webhooks:read"]), (two, &["*"])]));
    assert_eq!(both.get(&first).await.expect(400)["type"], "/v1/problems/company-required");
    let admin_of_both = client.with(&xtsystems.user(&[(one, &["*"]), (two, &["*"])]));
    assert_eq!(admin_of_both.get("/v1/keys").await.expect(400)["type"], "/v1/problems/company-required");
    admin_of_both.and("x-company-id", two).get("/v1/keys").await.expect(200);
    let single = client.with(&xtsystems.user(&[(one, &["*"])]));
    single.get(&first).await.expect(200);
    single.get(&second).await.expect(404);
    // Everything of that company is nothing of all companies.
    let body = json!({"name": "mine", "scopes": ["admin"]});
    single.post("/v1/keys", body.clone()).await.expect(200);
    let mut all = body;
    all["all_companies"] = json!(true);
    single.post("/v1/keys", all).await.expect(403);
    client.with(&xtsystems.user(&[])).get(&first).await.expect(403);
    client.with(&token(&json!({}))).get(&first).await.expect(401);
}

#[tokio::test]
async fn an_answer_holds_a_minute_and_a_refusal_five_seconds() {
    let (app, xtsystems, _service, client) = world(&[]).await;
    let company = Uuid::new_v4();
    let path = webhook(&app, company).await;
    let known = xtsystems.user(&[(company, &["webhooks:read"])]);
    for _ in 0..5 {
        client.with(&known).get(&path).await.expect(200);
    }
    assert_eq!(xtsystems.server.count(), 1);
    let asked = xtsystems.server.requests();
    assert_eq!(asked[0].header("authorization"), Some(format!("Bearer {known}").as_str()));
    xtsystems.log_out(&known);
    client.with(&known).get(&path).await.expect(200);
    // Nobody's yet; then somebody's, which is seen as soon as the refusal holds no more.
    let (id, late) = (Uuid::new_v4(), token(&json!({})));
    client.with(&late).get(&path).await.expect(401);
    client.with(&late).get(&path).await.expect(401);
    assert_eq!(xtsystems.server.count(), 2);
    let refused = Instant::now();
    xtsystems.change(&late, id, &[(company, &["webhooks:read"])]);
    eventually("the refusal holds no more", async || {
        (client.with(&late).get(&path).await.status == 200).then_some(())
    })
    .await;
    assert!(refused.elapsed() > Duration::from_secs(3), "{:?}", refused.elapsed());
    assert_eq!(xtsystems.server.count(), 3);
}

#[tokio::test]
async fn many_calls_with_one_token_make_one_question() {
    let (app, xtsystems, _service, client) = world(&[]).await;
    let company = Uuid::new_v4();
    let path = webhook(&app, company).await;
    let user = json!({"id": "u", "companies": [{"id": company, "scopes": ["webhooks:read"]}]});
    xtsystems.server.answer([Answer::ok().body(user.to_string()).after(Duration::from_millis(300))]);
    let client = client.with(&token(&json!({})));
    let calls = (0..20).map(|_| {
        let (client, path) = (client.clone(), path.clone());
        tokio::spawn(async move { client.get(&path).await.status })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("it ends"), 200);
    }
    assert_eq!(xtsystems.server.count(), 1);
}

#[tokio::test]
async fn only_so_many_questions_are_under_way_at_once() {
    let (app, xtsystems, _service, client) = world(&[]).await;
    let company = Uuid::new_v4();
    let path = webhook(&app, company).await;
    let user = json!({"id": "u", "companies": [{"id": company, "scopes": ["webhooks:read"]}]});
    xtsystems.server.answer([Answer::ok().body(user.to_string()).after(Duration::from_millis(500))]);
    let calls = (0..50).map(|_| {
        let (client, path) = (client.with(&token(&json!({}))), path.clone());
        tokio::spawn(async move { client.get(&path).await.status })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("it ends"), 200);
    }
    let asked = xtsystems.server.requests();
    let under_way = |at: Instant| {
        let begun = asked.iter().filter(|other| other.at <= at);
        begun.filter(|other| other.answered.get().is_none_or(|answered| *answered > at)).count()
    };
    let most = asked.iter().map(|request| under_way(request.at)).max();
    assert!(asked.len() == 50 && most <= Some(32), "{most:?} of {}", asked.len());
}

#[tokio::test]
async fn while_xtsystems_says_nothing_of_use_the_answer_is_503_and_keys_go_on_holding() {
    let (app, xtsystems, service, client) = world(&[]).await;
    let company = Uuid::new_v4();
    let path = webhook(&app, company).await;
    let known = xtsystems.user(&[(company, &["webhooks:read"])]);
    client.with(&known).get(&path).await.expect(200);
    let elsewhere = Receiver::start().await;
    let check = async |answer: Answer, what: &str| {
        xtsystems.server.answer([answer]);
        let began = Instant::now();
        let answer = client.with(&token(&json!({}))).get(&path).await;
        assert_eq!(answer.status, 503, "{what}: {}", answer.text);
        assert!(!answer.header("retry-after").is_empty(), "{what}");
        assert!(began.elapsed() < Duration::from_secs(10), "{what}: {:?}", began.elapsed());
    };
    check(Answer::status(500), "an error").await;
    check(Answer::status(404), "another address").await;
    check(Answer::status(302).header("location", &elsewhere.url("/")), "a redirect").await;
    check(Answer::ok().body("<html>please log in</html>"), "garbage").await;
    check(Answer::ok().body("{}"), "nothing").await;
    check(Answer::ok().body(r#"{"id":"u","companies":"all"}"#), "another shape").await;
    check(Answer::half(), "half an answer").await;
    check(Answer::close(), "no answer").await;
    check(Answer::flooding(200), "an endless answer").await;
    check(Answer::dripping(200, Duration::from_millis(100)), "an answer byte by byte").await;
    check(Answer::silence(), "silence").await;
    assert_eq!(elsewhere.count(), 0, "no token is carried on");
    // What is known goes on holding for its minute, and keys need nobody.
    client.with(&known).get(&path).await.expect(200);
    app.client(&service, company).await.get(&path).await.expect(200);
    xtsystems.server.stop().await;
    client.with(&token(&json!({}))).get(&path).await.expect(503);
    app.client(&service, company).await.get(&path).await.expect(200);
}

#[tokio::test]
async fn keys_of_this_service_are_shown_to_nobody_and_signed_tokens_with_a_company_are_judged_here() {
    let (app, xtsystems, service, client) = world(&[("JWT_HS256_SECRET", XTSYSTEMS_SECRET)]).await;
    let company = Uuid::new_v4();
    let path = webhook(&app, company).await;
    app.client(&service, company).await.get(&path).await.expect(200);
    client.with("xtwh_00000000_unknown").get(&path).await.expect(401);
    client.with("xtwh_no_key_at_all").get(&path).await.expect(401);
    let scopes = json!({"company_id": company, "scopes": ["webhooks:read"]});
    client.with(&token(&scopes)).get(&path).await.expect(200);
    // Ours, and at its end: nobody else is asked whether it holds all the same.
    let mut expired = scopes;
    expired["exp"] = json!(1_700_000_000);
    client.with(&token(&expired)).get(&path).await.expect(401);
    assert_eq!(xtsystems.server.count(), 0);
    // Ours too, but it names no company: XTSystems knows.
    client.with(&xtsystems.user(&[(company, &["webhooks:read"])])).get(&path).await.expect(200);
    assert_eq!(xtsystems.server.count(), 1);
}
