//! What was sent to whom, page by page and one by one.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{
    api::{Answer as Answered, Client},
    app::App,
    past::{execute, owe},
    receiver::{Answer, Receiver},
};

const DELIVERED: &str = "select count(*) from webhook_deliveries where status = 'delivered'";

/// The guide's columns.
const GUIDE: [&str; 9] = [
    "id",
    "webhook_id",
    "event_type",
    "payload",
    "response_status",
    "response_body",
    "attempts",
    "delivered_at",
    "created_at",
];

fn ids(page: &Value) -> Vec<String> {
    let rows = page.as_array().unwrap_or_else(|| panic!("a bare array: {page}"));
    rows.iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
}

/// Every page from a path on.
async fn pages(client: &Client, path: &str) -> Vec<Answered> {
    let (mut pages, mut next) = (Vec::new(), Some(path.to_owned()));
    while let Some(path) = next {
        let page = client.get(&path).await;
        page.expect(200);
        next = page.next();
        pages.push(page);
    }
    pages
}

#[tokio::test]
async fn the_history_is_the_guides_array_and_one_delivery_tells_every_attempt() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    let client = app.client(&service, company).await;
    let answer = Answer::status(503).header("X-Note", "later").body("busy");
    receiver.answer([answer, Answer::ok().body("thanks")]);
    let own = json!({"headers": {"Authorization": "Bearer t0ken"}});
    let webhook = app.webhook(company, &receiver.url("/hook"), own).await;
    app.publish(company, "ticket.created", json!({"n": 1.50})).await;
    app.wait_for_count(DELIVERED, 1).await;
    let requests = receiver.wait_for(2).await;

    let path = format!("/v1/webhooks/{webhook}/deliveries");
    let page = client.get(&format!("{path}?limit=50")).await.expect(200);
    let row = &page[0];
    assert_eq!(ids(&page).len(), 1);
    assert!(GUIDE.iter().all(|column| row.get(column).is_some()), "{row}");
    assert_eq!((&row["attempts"], &row["response_status"]), (&json!(2), &json!(200)));
    assert_eq!((&row["response_body"], &row["why"]), (&json!("thanks"), &json!("delivered")));
    assert_eq!(row["payload"], requests[0].json());
    assert!(row.get("history").is_none());
    assert_eq!(client.get("/v1/deliveries").await.expect(200), page);

    let one = client.get(&format!("/v1/deliveries/{}", row["id"].as_str().expect("an id"))).await.expect(200);
    let history = one["history"].as_array().expect("its attempts");
    assert_eq!(history.len(), 2);
    for (attempt, (request, number)) in history.iter().zip(requests.iter().zip(1..)) {
        let text = |field: &str| {
            attempt[field].as_str().unwrap_or_else(|| panic!("{field} in {attempt}")).to_owned()
        };
        assert_eq!(attempt["number"], json!(number));
        // As sent, the signature among them.
        for name in ["x-xtsystems-signature", "authorization", "webhook-id"] {
            let sent = request.header(name).expect("it was sent");
            assert!(
                text("request_head").to_lowercase().contains(&format!("{name}: {sent}").to_lowercase()),
                "{attempt}"
            );
        }
        assert_eq!(Some(text("traceparent").as_str()), request.header("traceparent"));
        assert!(text("traceparent").contains(one["trace_id"].as_str().expect("a trace")));
        assert_eq!(text("address"), receiver.url("").trim_start_matches("http://").trim_end_matches('/'));
        assert!(
            attempt["total_us"].as_i64() >= attempt["first_byte_us"].as_i64() && attempt["total_us"].is_i64()
        );
    }
    assert!(history[0]["response_head"].as_str().expect("kept").to_lowercase().contains("x-note: later"));
    assert_eq!(
        (&history[0]["outcome"], &history[0]["response_body"]),
        (&json!("server_error"), &json!("busy"))
    );
    assert_eq!(one["next_attempt_at"], Value::Null);

    // A deleted webhook's history stays; one that never was has none, nor has another company's.
    execute(&app, "update webhooks set deleted_at = now()").await;
    assert_eq!(ids(&client.get(&path).await.expect(200)), ids(&page));
    let unknown = client.get(&format!("/v1/webhooks/{}/deliveries", Uuid::new_v4())).await;
    assert_eq!(unknown.expect(404)["detail"], "Webhook not found");
    let stranger = app.client(&service, Uuid::new_v4()).await;
    assert_eq!(stranger.get(&path).await.expect(404)["detail"], "Webhook not found");
    assert_eq!(stranger.get("/v1/deliveries").await.expect(200), json!([]));
    assert_eq!(stranger.get(&format!("/v1/deliveries?webhook_id={webhook}")).await.expect(200), json!([]));
    let theirs = stranger.get(&format!("/v1/deliveries/{}", one["id"].as_str().expect("an id"))).await;
    let nobodys = client.get(&format!("/v1/deliveries/{}", Uuid::new_v4())).await;
    assert_eq!(theirs.expect(404)["detail"], "Delivery not found");
    assert_eq!(nobodys.expect(404)["detail"], "Delivery not found");
}

#[tokio::test]
async fn bodies_and_tokens_in_headers_are_kept_from_who_may_not_see_them() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    receiver.answer([
        Answer::status(500).body("b0dy"),
        Answer::ok().header("Set-Cookie", "s3ssion=1").body("b0dy"),
    ]);
    app.webhook(company, &receiver.url("/"), json!({"headers": {"X-Key": "t0ken"}})).await;
    app.publish(company, "ticket.created", json!({"text": "pr1vate"})).await;
    app.wait_for_count(DELIVERED, 1).await;
    let nobody = Client::of(&service).await;
    let reader = nobody.with(&app.key(Some(company), &["deliveries:read"]).await);
    let trusted = nobody.with(&app.key(Some(company), &["deliveries:read", "payloads:read"]).await);

    let page = reader.get("/v1/deliveries").await.expect(200);
    let path = format!("/v1/deliveries/{}", ids(&page)[0]);
    let one = reader.get(&path).await.expect(200);
    for row in [&page[0], &one, &one["history"][0], &one["history"][1]] {
        assert_eq!(row["response_body"], Value::Null, "null, and there: {row}");
        assert!(
            row.get("response_body").is_some()
                && (row.get("history").is_none() || row.get("payload").is_some())
        );
        let text = row.to_string();
        assert!(
            !["b0dy", "pr1vate", "t0ken", "s3ssion"].iter().any(|secret| text.contains(secret)),
            "{text}"
        );
    }
    let head = one["history"][1]["request_head"].as_str().expect("it is there").to_lowercase();
    assert!(head.contains("x-key: …") && head.contains("x-xtsystems-signature: sha256="), "{head}");
    assert!(
        one["history"][1]["response_head"]
            .as_str()
            .expect("it is there")
            .to_lowercase()
            .contains("set-cookie: …")
    );

    let whole = trusted.get(&path).await.expect(200).to_string();
    assert!(["b0dy", "pr1vate", "t0ken", "s3ssion"].iter().all(|secret| whole.contains(secret)), "{whole}");
    let other = nobody.with(&app.key(Some(company), &["webhooks:read", "payloads:read"]).await);
    assert!(other.get("/v1/deliveries").await.expect(403)["detail"].to_string().contains("deliveries:read"));
}

#[tokio::test]
async fn pages_follow_one_another_whatever_arrives_meanwhile_and_a_cursor_leads_nowhere_else() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let now = Utc::now();
    let mut there = Vec::new();
    // From today back to beyond what any span of days has as its own.
    for hours in [0, 1, 30, 31, 200, 300, 301, 2_000, 3_000] {
        there.push(owe(&app, company, webhook, now - TimeDelta::hours(hours), "delivered").await.to_string());
    }
    let path = format!("/v1/webhooks/{webhook}/deliveries?limit=2");
    let first = client.get(&path).await;
    assert_eq!(ids(&first.expect(200)), there[..2]);
    let newer = owe(&app, company, webhook, now, "delivered").await.to_string();
    let mut seen = ids(&first.json());
    let next = first.next().expect("there is more");
    for page in pages(&client, &next).await {
        seen.extend(ids(&page.json()));
    }
    assert_eq!(seen, there, "each once, in order, and none that came meanwhile");
    assert!(ids(&client.get(&path).await.expect(200)).contains(&newer));

    // Ended exactly with a page, there is no further one.
    let whole = client.get(&format!("/v1/webhooks/{webhook}/deliveries?limit=10&count=capped")).await;
    assert_eq!(
        (ids(&whole.expect(200)).len(), whole.next(), whole.header("x-total-count")),
        (10, None, "10")
    );

    let cursor = next.split("cursor=").nth(1).expect("a cursor");
    let other = Uuid::new_v4();
    let theirs = app.client(&service, other).await;
    let their_webhook = app.webhook(other, "http://127.0.0.1:9/", json!({})).await;
    let refused = async |client: &Client, path: &str| {
        let problem = client.get(path).await.expect(422);
        assert_eq!(problem["errors"][0]["field"], json!("cursor"), "{path}");
    };
    refused(&theirs, &format!("/v1/webhooks/{their_webhook}/deliveries?limit=2&cursor={cursor}")).await;
    refused(&theirs, &format!("/v1/deliveries?cursor={cursor}")).await;
    refused(&client, &format!("/v1/deliveries?cursor={cursor}")).await;
    refused(&client, &format!("/v1/webhooks/{webhook}/deliveries?status=dead&cursor={cursor}")).await;
    refused(&client, &format!("{path}&cursor=bm90IG9uZQ")).await;
}

#[tokio::test]
async fn filters_combine_and_each_narrows() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    let [one, two] = [
        app.webhook(company, "http://127.0.0.1:9/1", json!({})).await,
        app.webhook(company, "http://127.0.0.1:9/2", json!({})).await,
    ];
    let now = Utc::now();
    let mut made = Vec::new();
    for (webhook, hours, changes) in [
        (
            one,
            1,
            "status = 'dead', reason = 'attempts exhausted', response_status = 500, outcome = 'server_error'",
        ),
        (one, 2, "status = 'dead', reason = 'blocked', outcome = 'blocked', event_type = 'asset.created'"),
        (two, 3, "status = 'delivered', response_status = 200, outcome = 'accepted', trigger = 'replay'"),
        (
            two,
            40,
            "status = 'dead', reason = 'attempts exhausted', response_status = 502, outcome = 'server_error'",
        ),
        (
            two,
            41,
            "status = 'cancelled', reason = 'superseded', event_type = 'asset.updated', trigger = 'test'",
        ),
    ] {
        let id = owe(&app, company, webhook, now - TimeDelta::hours(hours), "pending").await;
        execute(&app, &format!("update webhook_deliveries set {changes} where id = '{id}'")).await;
        made.push(id.to_string());
    }
    let before = |hours: i64| {
        let time: DateTime<Utc> = now - TimeDelta::hours(hours);
        time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    let check = async |query: &str, expected: &[usize]| {
        let found = client.get(&format!("/v1/deliveries?{query}&count=capped")).await;
        let expected: Vec<_> = expected.iter().map(|&nth| made[nth].clone()).collect();
        assert_eq!(ids(&found.expect(200)), expected, "{query}");
        assert_eq!(found.header("x-total-count"), expected.len().to_string(), "{query}");
    };
    check("status=", &[0, 1, 2, 3, 4]).await;
    check("status=dead", &[0, 1, 3]).await;
    check("status=dead,cancelled", &[0, 1, 3, 4]).await;
    check(&format!("status=dead&webhook_id={two}"), &[3]).await;
    check(&format!("webhook_id={one},{two}&response_status=500,502"), &[0, 3]).await;
    check("event_type=asset.*", &[1, 4]).await;
    check("event_type=asset.created,ticket.*&outcome=server_error,blocked", &[0, 1, 3]).await;
    check("event_type=asset", &[]).await;
    check("event_type=*&reason=attempts", &[0, 3]).await;
    check("trigger=test,replay", &[2, 4]).await;
    check(&format!("since={}", before(10)), &[0, 1, 2]).await;
    check(&format!("until={}&status=dead", before(10)), &[3]).await;
    check(&format!("since={}&until={}", before(10), before(20)), &[]).await;
    check("event_type=a%00b", &[]).await;
    check("since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59Z&status=dead", &[0, 1, 3]).await;

    let wrong = async |query: &str, fields: &[&str]| {
        let problem = client.get(&format!("/v1/deliveries?{query}")).await.expect(422);
        let told: BTreeSet<_> =
            problem["errors"].as_array().expect("fields").iter().map(|e| e["field"].as_str()).collect();
        assert_eq!(told, fields.iter().map(|&field| Some(field)).collect(), "{problem}");
    };
    wrong(
        "status=gone&response_status=99&trigger=whim&outcome=x",
        &["status", "response_status", "trigger", "outcome"],
    )
    .await;
    wrong("response_status=99999999999999999999", &["response_status"]).await;
    wrong("webhook_id=7", &["webhook_id"]).await;
    wrong("since=yesterday", &["since"]).await;
    wrong("limit=0", &["limit"]).await;
    wrong("limit=501", &["limit"]).await;
}

#[tokio::test]
async fn a_company_with_many_webhooks_sees_them_merged_page_by_page() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    // More than are walked by days, each with a few deliveries at times of its own, and one with many.
    let now = Utc::now();
    let mut there = Vec::new();
    for nth in 0..25 {
        let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
        for minutes in if nth == 0 { (0..40).collect::<Vec<_>>() } else { vec![nth * nth, nth * 400] } {
            let at = now - TimeDelta::seconds(minutes * 60 + nth);
            there.push(owe(&app, company, webhook, at, "delivered").await.to_string());
        }
    }
    there.sort_unstable_by(|a, b| b.cmp(a));
    for (query, limit) in [("", 7), ("status=delivered", 7), ("", 50)] {
        let pages = pages(&client, &format!("/v1/deliveries?{query}&limit={limit}")).await;
        let seen: Vec<_> = pages.iter().flat_map(|page| ids(&page.json())).collect();
        assert_eq!(seen, there, "{query} {limit}");
    }
}

#[tokio::test]
async fn a_filter_that_hardly_anything_matches_is_given_up_page_by_page_until_it_is_found() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({})).await;
    let oldest = owe(&app, company, webhook, Utc::now() - TimeDelta::days(1), "dead").await;
    sqlx::query(AssertSqlSafe(
        "insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status)
         select (left(first_id_of((now() at time zone 'UTC')::date)::text, 24) || lpad(n::text, 12, '0'))::uuid,
                $1, $2, gen_random_uuid(), 'ticket.created', 'event', 'delivered'
         from generate_series(1, 45000) n",
    ))
    .bind(company)
    .bind(webhook)
    .execute(&app.pool)
    .await
    .expect("written");
    let path = format!("/v1/webhooks/{webhook}/deliveries?status=dead&count=capped");
    let pages = pages(&client, &path).await;
    assert!((2..10).contains(&pages.len()), "{} pages", pages.len());
    assert_eq!(pages[0].json(), json!([]), "an empty page that leads on");
    let found: Vec<_> = pages.iter().flat_map(|page| ids(&page.json())).collect();
    assert_eq!(found, [oldest.to_string()]);
    let all = client.get(&format!("/v1/webhooks/{webhook}/deliveries?count=capped")).await;
    assert_eq!(all.header("x-total-count"), "10000+");
}

#[tokio::test]
async fn what_waits_for_its_turn_says_how_many_go_before_it_and_what_is_held_whose_move_is_next() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    let webhook = app.webhook(company, "http://127.0.0.1:9/", json!({"rate_limit": 10.0})).await;
    let now = Utc::now();
    for nth in 0..=340 {
        owe(&app, company, webhook, now - TimeDelta::milliseconds(500 - nth), "pending").await;
    }
    let path = format!("/v1/webhooks/{webhook}/deliveries");
    let newest = client.get(&format!("{path}?limit=1")).await.expect(200);
    let one = client.get(&format!("/v1/deliveries/{}", ids(&newest)[0])).await.expect(200);
    assert_eq!(one["why"], json!("waiting for its turn: 10/s, 340 ahead, about 34 s"));
    assert_eq!((&one["next_move"], &one["history"]), (&json!("none"), &json!([])));
    assert!(one["next_attempt_at"].is_string());

    execute(&app, "update lanes set opened_at = now(), next_probe_at = now() + interval '1 hour'").await;
    let newest = client.get(&format!("{path}?limit=1")).await.expect(200);
    assert!(
        newest[0]["why"].as_str().is_some_and(|why| why.contains("the next probe is due in")),
        "{newest}"
    );
    assert_eq!(newest[0]["next_move"], json!("receiver"));

    execute(&app, "update webhook_deliveries set status = 'held', reason = 'paused'").await;
    let newest = client.get(&format!("{path}?limit=1")).await.expect(200);
    assert_eq!(
        newest[0]["why"],
        json!("held because the webhook is paused; resume the webhook to send or discard it")
    );
    assert_eq!((&newest[0]["next_move"], &newest[0]["next_attempt_at"]), (&json!("admin"), &Value::Null));
}
