//! What is answered where nothing can be done: problems, each with its kind, its status and the request's id.

use serde_json::json;
use uuid::Uuid;

use crate::support::{api::Client, app::App};

#[tokio::test]
async fn a_problem_says_its_kind_what_happened_and_the_id_of_the_request() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let nobody = Client::of(&service).await;
    let reader = nobody.with(&app.key(Some(company), &["webhooks:read"]).await);
    let stranger = nobody.with(&app.key(Some(company), &["events:read"]).await);
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let path = format!("/v1/webhooks/{webhook}");

    let found = reader.get(&path).await;
    assert_eq!(found.expect(200)["id"], json!(webhook));
    assert!(!found.header("x-request-id").is_empty());

    let check = async |client: &Client, path: &str, status: u16, kind: &str, said: &str| {
        let answer = client.and("x-request-id", "asked-1").get(path).await;
        let problem = answer.expect(status);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(problem["type"], format!("/v1/problems/{kind}"));
        assert_eq!(problem["status"], json!(status));
        assert_eq!(problem["request_id"], json!("asked-1"));
        assert_eq!(answer.header("x-request-id"), "asked-1");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(said)), "{problem}");
        let page = nobody.get(problem["type"].as_str().expect("an address")).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    };
    check(&nobody, &path, 401, "unauthenticated", "Authorization").await;
    check(&nobody.with("xtwh_00000000_x"), &path, 401, "unauthenticated", "is unknown").await;
    check(&stranger, &path, 403, "forbidden", "webhooks:read").await;
    check(&reader, "/v1/webhooks/none", 404, "not-found", "Webhook not found").await;
    check(&reader, "/v1/nothing", 404, "not-found", "openapi.json").await;
    let elsewhere = reader.and("x-company-id", Uuid::new_v4());
    check(&elsewhere, &path, 403, "forbidden", "X-Company-Id").await;
    let answer = reader.send("PATCH", &path, None).await;
    assert_eq!(answer.expect(405)["type"], "/v1/problems/method-not-allowed");
    assert_eq!(answer.header("allow"), "GET,HEAD,PUT,DELETE");
}

#[tokio::test]
async fn the_document_and_its_page_load_nothing_from_elsewhere() {
    let app = App::new().await;
    let service = app.run(&["--role", "api"]).await;
    let nobody = Client::of(&service).await;
    assert_eq!(nobody.get("/v1/openapi.json").await.expect(200)["openapi"], "3.1.0");
    let page = nobody.get("/v1/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.text.contains("swagger") && !page.text.contains("https://"), "{}", page.text);
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
}
