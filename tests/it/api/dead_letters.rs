//! What was given up: listed, replayed, discarded.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::Client,
    app::{App, eventually},
    past::execute,
    receiver::{Answer, Receiver},
};

const OPEN: &str = "select count(*) from dead_letters where status = 'open'";

#[tokio::test]
async fn on_call_sees_what_was_given_up_sends_it_again_or_puts_it_away() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let client = app.client(&service, company).await;
    receiver.answer([Answer::status(500), Answer::status(500), Answer::ok()]);
    let webhook = app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    app.publish(company, "ticket.created", json!({"n": 1})).await;
    app.wait_for_count(OPEN, 1).await;
    app.publish(company, "ticket.created", json!({"n": 2})).await;
    app.wait_for_count(OPEN, 2).await;
    // A message of the company that is no event.
    let body =
        json!({"event_type": "ticket.created", "company_id": company, "timestamp": "never", "data": {}});
    assert!(app.publish_raw("ticket.created", body.to_string().as_bytes(), Default::default()).await);
    app.wait_for_count(OPEN, 3).await;

    let list = client.get("/v1/dead-letters?status=open&kind=delivery").await.expect(200);
    let letters = list.as_array().expect("a list");
    assert_eq!(letters.len(), 2);
    let (newer, older) =
        (letters[0]["id"].as_str().expect("an id"), letters[1]["id"].as_str().expect("an id"));
    assert_eq!((&letters[0]["webhook_id"], &letters[0]["response_status"]), (&json!(webhook), &json!(500)));
    assert_eq!((&letters[0]["next_move"], &letters[0]["body"]), (&json!("receiver"), &Value::Null));
    assert!(
        letters[0]["why"].as_str().is_some_and(|why| why.contains("replay it when the receiver works again"))
    );
    let message = client.get("/v1/dead-letters?kind=message,event").await.expect(200);
    assert_eq!((message.as_array().map(Vec::len), &message[0]["field"]), (Some(1), &json!("timestamp")));

    let path = format!("/v1/dead-letters/{older}");
    let shown = client.get(&path).await.expect(200);
    assert!(shown["body"].as_str().is_some_and(|body| body.contains(r#""data":{"n":1}"#)), "{shown}");
    let reader = Client::of(&service).await.with(&app.key(Some(company), &["deliveries:read"]).await);
    let hidden = reader.get(&path).await.expect(200);
    assert!(
        hidden["body"].is_null() && hidden.get("body").is_some() && hidden["headers"].is_null(),
        "{hidden}"
    );
    assert_eq!(reader.post(&format!("{path}/replay"), json!({})).await.status, 403);
    assert_eq!(reader.post(&format!("{path}/discard"), json!({})).await.status, 403);

    let order = client.post(&format!("{path}/replay"), json!({})).await.expect(202);
    assert_eq!(order["filter"], json!({"deliveries": [older]}));
    let requests = receiver.wait_for(3).await;
    assert_eq!(requests[2].header("webhook-id"), letters[1]["event_id"].as_str());
    eventually("its dead letter says so", async || {
        let letter = client.get(&path).await.expect(200);
        (letter["status"] == "replayed" && letter["replay_id"] == order["id"]).then_some(())
    })
    .await;
    let refused = client.post(&format!("{path}/discard"), json!({})).await.expect(409);
    assert_eq!(refused["detail"], "the dead letter was already replayed");

    // Put away, it is replayed by no filter; putting it away again changes nothing.
    let path = format!("/v1/dead-letters/{newer}/discard");
    for _ in 0..2 {
        assert_eq!(client.post(&path, json!({})).await.expect(200)["status"], json!("discarded"));
    }
    let audited =
        "select count(*) from audit_log where action = 'dead_letter.discard' and before->>'status' = 'open'";
    assert_eq!(app.count(audited).await, 1);
    let order = client.post("/v1/replays", json!({"status": "dead"})).await.expect(202);
    eventually("nothing is left to replay", async || {
        let path = format!("/v1/replays/{}", order["id"].as_str().expect("an id"));
        let replay = client.get(&path).await.expect(200);
        (replay["status"] == "done" && replay["made"] == 0).then_some(())
    })
    .await;

    let stranger = app.client(&service, Uuid::new_v4()).await;
    assert_eq!(stranger.get("/v1/dead-letters").await.expect(200), json!([]));
    for path in [format!("/v1/dead-letters/{older}"), "/v1/dead-letters/none".to_owned()] {
        assert_eq!(stranger.get(&path).await.expect(404)["detail"], "Dead letter not found");
        for verb in ["replay", "discard"] {
            let answer = stranger.post(&format!("{path}/{verb}"), json!({})).await;
            assert_eq!(answer.expect(404)["detail"], "Dead letter not found");
        }
    }
}

#[tokio::test]
async fn a_message_that_names_no_company_is_seen_by_who_may_do_everything_in_all_of_them_alone() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    assert!(app.publish_raw("a.b", b"no event \xff", Default::default()).await);
    app.wait_for_count(OPEN, 1).await;
    let nobody = Client::of(&service).await;
    let operator = nobody.with(&app.key(None, &["admin"]).await);
    let list = operator.get("/v1/dead-letters?count=capped").await;
    let letter = list.expect(200)[0].clone();
    assert_eq!((&letter["company_id"], list.header("x-total-count")), (&Value::Null, "1"));
    let path = format!("/v1/dead-letters/{}", letter["id"].as_str().expect("an id"));
    let shown = operator.get(&path).await.expect(200);
    assert_eq!(
        (&shown["body"], &shown["body_base64"]),
        (&json!("no event \u{fffd}"), &json!("bm8gZXZlbnQg/w=="))
    );

    // Neither by naming a company nor with fewer scopes.
    let named = operator.and("x-company-id", company);
    assert_eq!(named.get("/v1/dead-letters").await.expect(200), json!([]));
    assert_eq!(named.get(&path).await.status, 404);
    let reader = nobody.with(&app.key(None, &["deliveries:read", "payloads:read"]).await);
    for path in ["/v1/dead-letters", &path] {
        assert_eq!(reader.get(path).await.expect(400)["type"], "/v1/problems/company-required");
    }
    let admin = app.client(&service, company).await;
    assert_eq!(admin.get(&path).await.status, 404);
    assert_eq!(operator.post(&format!("{path}/replay"), json!({})).await.status, 409);
    assert_eq!(
        operator.post(&format!("{path}/discard"), json!({})).await.expect(200)["status"],
        json!("discarded")
    );
}

#[tokio::test]
async fn dead_letters_are_listed_page_by_page_and_a_rare_one_is_found() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    let webhook = Uuid::new_v4();
    execute(
        &app,
        &format!(
            "insert into dead_letters (id, kind, company_id, webhook_id, reason, created_at)
             select lpad(n::text, 32, '0')::uuid, 'delivery', '{company}', '{webhook}',
                    case when n = 30000 then 'blocked' else 'attempts exhausted' end,
                    -- Many of each instant.
                    now() - make_interval(secs => n / 100)
             from generate_series(1, 30000) n"
        ),
    )
    .await;
    let number =
        |row: &Value| row["id"].as_str().expect("an id").replace('-', "").parse::<u32>().expect("a number");
    let (mut seen, mut next) = (Vec::new(), Some("/v1/dead-letters?limit=70".to_owned()));
    for _ in 0..4 {
        let page = client.get(&next.expect("there is more")).await;
        seen.extend(page.expect(200).as_array().expect("a list").iter().map(number));
        next = page.next();
    }
    let expected: Vec<u32> =
        (1..100).rev().chain((100..200).rev()).chain((200..300).rev()).take(280).collect();
    assert_eq!(seen, expected);

    let (mut found, mut pages, mut next) =
        (Vec::new(), 0, Some("/v1/dead-letters?reason=blocked".to_owned()));
    while let Some(path) = next {
        let page = client.get(&path).await;
        found.extend(page.expect(200).as_array().expect("a list").iter().map(number));
        (pages, next) = (pages + 1, page.next());
    }
    assert_eq!((found, pages), (vec![30_000], 2));
    let counted = client.get(&format!("/v1/dead-letters?webhook_id={webhook}&count=capped&limit=1")).await;
    assert_eq!(counted.header("x-total-count"), "10000+");
    let cursor = counted.next().expect("there is more").split("cursor=").nth(1).expect("a cursor").to_owned();
    let stranger = app.client(&service, Uuid::new_v4()).await;
    let refused = stranger.get(&format!("/v1/dead-letters?webhook_id={webhook}&cursor={cursor}")).await;
    assert_eq!(refused.expect(422)["errors"][0]["field"], "cursor");
}
