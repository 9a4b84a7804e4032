//! Events published over the API: what is taken, what is refused, and what a repeat is.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    api::{Answer, Client},
    app::{App, amqp_url, eventually},
    proxy::Proxy,
    receiver::Receiver,
};

/// Sends bytes as they are.
async fn post_raw(client: &Client, body: &str) -> Answer {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = http
        .post(format!("{}/v1/events", client.base))
        .bearer_auth(client.token.as_deref().expect("a token"))
        .header("content-type", "application/json")
        .body(body.to_owned());
    let response = request.send().await.expect("the API answers");
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a body") }
}

fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().expect("errors").iter().filter_map(|error| error["field"].as_str()).collect()
}

#[tokio::test]
async fn what_is_published_arrives_byte_for_byte_under_the_id_that_was_answered() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.webhook(company, &receiver.url("/"), json!({})).await;
    let service = app.run(&[]).await;
    let client = app.client(&service, company).await;
    let data = r#"{ "z" : 1.0, "a":[ 1e2 ,"\u0000\u00e9" ],  "z2": 12345678901234567890 }"#;
    let now = chrono::Utc::now().timestamp();
    let body = format!(r#"{{"event_type":"ticket.created", "timestamp":{now},"data":{data} }}"#);
    let answer = post_raw(&client, &body).await;
    let accepted = answer.expect(202);
    let request = receiver.wait_for(1).await.remove(0);
    let expected = format!(
        r#"{{"event_type":"ticket.created","data":{data},"company_id":"{company}","timestamp":{now}}}"#
    );
    assert_eq!(String::from_utf8_lossy(&request.body), expected);
    assert_eq!(request.header("webhook-id"), accepted["id"].as_str());
    assert!(accepted["event_id"].is_string());
    // The same bytes, and so the same time, are the same event: as if XTSystems had published them.
    assert_eq!(post_raw(&client, &body).await.expect(202), accepted);
    app.wait_for_count("select count(*) from events", 1).await;

    let shown = client.get(&format!("/v1/events/{}", accepted["id"].as_str().expect("an id"))).await;
    assert!(shown.text.contains(data), "{}", shown.text);
}

#[tokio::test]
async fn an_array_of_a_thousand_is_taken_in_its_order_and_one_more_is_not() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api,ingest"]).await;
    let client = app.client(&service, company).await;
    let now = chrono::Utc::now().timestamp();
    let event =
        |n: usize| json!({"event_type": "a.b", "timestamp": now, "event_id": format!("n{n}"), "data": n});
    let events: Vec<Value> = (0..1_000).map(event).collect();
    let accepted = client.post("/v1/events", json!(events)).await.expect(202);
    let ids: Vec<&str> =
        accepted.as_array().expect("a list").iter().filter_map(|a| a["event_id"].as_str()).collect();
    assert_eq!(ids, (0..1_000).map(|n| format!("n{n}")).collect::<Vec<_>>());
    app.wait_for_count("select count(*) from events", 1_000).await;
    let first = accepted[0]["id"].as_str().expect("derived");
    assert_eq!(client.get(&format!("/v1/events/{first}")).await.expect(200)["data"], json!(0));

    let events: Vec<Value> = (0..1_001).map(event).collect();
    let problem = client.post("/v1/events", json!(events)).await.expect(422);
    assert!(problem["detail"].as_str().is_some_and(|said| said.contains("1001")), "{problem}");
    // An array of one is answered with an array.
    assert_eq!(client.post("/v1/events", json!([event(0)])).await.expect(202), json!([accepted[0]]));
}

#[tokio::test]
async fn one_bad_event_of_an_array_is_named_with_its_place_and_none_is_published() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api,ingest"]).await;
    let client = app.client(&service, company).await;
    let good = json!({"event_type": "a.b", "data": 1});
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event
    };
    let events = json!([
        good,
        with("event_type", json!("a b")),
        with("timestamp", json!("yesterday")),
        with("event_type", json!("webhook.failing")),
        with("event_type", json!("delivery.x")),
        with("company_id", json!(Uuid::new_v4())),
        with("event_id", json!("a\u{0}b")),
        7,
        {"event_type": "a.b"},
    ]);
    let problem = client.post("/v1/events", events).await.expect(422);
    assert_eq!(
        fields(&problem),
        [
            "[1].event_type",
            "[2].timestamp",
            "[3].event_type",
            "[4].event_type",
            "[5].company_id",
            "[6].event_id",
            "[7]",
            "[8].data"
        ]
    );
    assert!(problem["errors"][2]["message"].as_str().is_some_and(|said| said.contains("reserved")));
    let check = async |body: &str, status: u16, said: &str| {
        let problem = post_raw(&client, body).await.expect(status);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(said)), "{body}: {problem}");
    };
    check("[]", 422, "contains no event").await;
    check("7", 422, "JSON object").await;
    check("{", 400, "not valid JSON").await;
    check("", 400, "not valid JSON").await;
    check("[1] 2", 400, "not valid JSON").await;
    check(r#"{"event_type":"a.b"}"#, 422, "`data`: is missing").await;
    check(r#"{"event_type":"a.b","data":1,"data":2}"#, 422, "twice").await;
    check(&format!(r#"{{"event_type":"a.b","data":"{}"}}"#, "x".repeat(262_144)), 422, "EVENT_BYTES_MAX")
        .await;
    check(
        &format!(r#"{{"event_type":"a.b","data":"{}"}}"#, "x".repeat(9 << 20)),
        413,
        "larger than the limit",
    )
    .await;
    check(r#"{"event_type":"a.b","data":1,"timestamp":1e300}"#, 422, "out of range").await;

    // What comes after is the first that is taken in.
    client.post("/v1/events", with("event_id", json!("last"))).await.expect(202);
    app.wait_for_count("select count(*) from events where message_id = 'last'", 1).await;
    assert_eq!(app.count("select count(*) from events").await, 1);
}

#[tokio::test]
async fn a_repeat_under_the_same_id_is_the_same_event_with_and_without_a_time() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api,ingest"]).await;
    let client = app.client(&service, company).await;
    let now = chrono::Utc::now().timestamp();
    let timed = json!({"event_type": "a.b", "event_id": "timed", "timestamp": now, "data": 1});
    let bare = json!({"event_type": "a.b", "event_id": "bare", "data": 1});
    let old = json!({"event_type": "a.b", "event_id": "old", "timestamp": "2020-01-01T00:00:00Z", "data": 1});
    for _ in 0..3 {
        // Only of what has a time of its own near now does the id follow.
        assert!(client.post("/v1/events", timed.clone()).await.expect(202)["id"].is_string());
        assert_eq!(client.post("/v1/events", bare.clone()).await.expect(202)["id"], Value::Null);
        assert_eq!(client.post("/v1/events", old.clone()).await.expect(202)["id"], Value::Null);
    }
    // With a key the ids follow from it, so that an event without one is the same as well.
    let keyed = client.and("idempotency-key", "request-1");
    let two = json!([{"event_type": "a.b", "data": 1}, {"event_type": "a.b", "data": 1}]);
    let first = keyed.post("/v1/events", two.clone()).await.expect(202);
    assert_eq!(keyed.post("/v1/events", two).await.expect(202)[1]["event_id"], first[1]["event_id"]);
    // Without key, id and time nothing says that it is a repeat.
    for _ in 0..2 {
        client.post("/v1/events", json!({"event_type": "a.c", "data": 1})).await.expect(202);
    }
    client.post("/v1/events", json!({"event_type": "a.b", "event_id": "last", "data": 1})).await.expect(202);
    app.wait_for_count("select count(*) from events where message_id = 'last'", 1).await;
    assert_eq!(app.count("select count(*) from events where event_type = 'a.b'").await, 3 + 2 + 1);
    assert_eq!(app.count("select count(*) from events where event_type = 'a.c'").await, 2);
}

#[tokio::test]
async fn an_event_is_of_the_company_of_the_credentials_and_of_no_other() {
    let (app, company, other) = (App::new().await, Uuid::new_v4(), Uuid::new_v4());
    let service = app.run(&["--role", "api,ingest"]).await;
    let own = app.client(&service, company).await;
    let all = own.with(&app.key(None, &["admin"]).await);
    let event = |of: Value| json!({"event_type": "a.b", "data": 1, "company_id": of});
    own.post("/v1/events", event(json!(company))).await.expect(202);
    assert_eq!(fields(&own.post("/v1/events", event(json!(other))).await.expect(422)), ["company_id"]);
    all.post("/v1/events", event(json!(other))).await.expect(202);
    assert_eq!(fields(&all.post("/v1/events", event(Value::Null)).await.expect(422)), ["company_id"]);
    let there = all.and("x-company-id", other);
    there.post("/v1/events", event(Value::Null)).await.expect(202);
    assert_eq!(fields(&there.post("/v1/events", event(json!(company))).await.expect(422)), ["company_id"]);
    app.wait_for_count("select count(*) from events", 3).await;
    // What belongs to another answers as what is not there.
    let rows = all.and("x-company-id", other).get("/v1/events").await.expect(200);
    let id = rows[0]["id"].as_str().expect("an id").to_owned();
    let foreign = own.get(&format!("/v1/events/{id}")).await;
    let missing = own.get(&format!("/v1/events/{}", Uuid::new_v4())).await;
    assert_eq!(foreign.expect(404)["detail"], missing.expect(404)["detail"]);
    assert_eq!(own.get("/v1/events").await.expect(200).as_array().map(Vec::len), Some(1));
    let listed = own.get(&format!("/v1/events?id={id}")).await.expect(200);
    assert_eq!(listed, json!([]));
    let reader = own.with(&app.key(Some(company), &["events:read"]).await);
    reader.post("/v1/events", event(Value::Null)).await.expect(403);
}

#[tokio::test]
async fn while_the_broker_is_away_events_are_refused_and_the_caller_knows_when_to_try_again() {
    let mut app = App::new().await;
    let company = Uuid::new_v4();
    let url: url::Url = amqp_url().parse().expect("a URL");
    let server = format!("{}:{}", url.host_str().expect("a host"), url.port().unwrap_or(5672));
    let proxy = Proxy::to(&server).await;
    let direct = app.amqp_url.clone();
    app.amqp_url = direct.replace(&server, &proxy.address().to_string());
    let service = app.run(&["--role", "api,ingest"]).await;
    let client = app.client(&service, company).await;
    let events = json!([{"event_type": "a.b", "data": 1, "event_id": "one"},
                        {"event_type": "a.b", "data": 2, "event_id": "two"}]);
    client.post("/v1/events", events.clone()).await.expect(202);
    app.wait_for_count("select count(*) from events", 2).await;

    // Silent: nothing is confirmed in time.
    proxy.hold();
    let answer = client.post("/v1/events", events.clone()).await;
    let problem = answer.expect(503);
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    assert_eq!(problem["type"], "/v1/problems/unavailable");
    assert_eq!(
        problem["events"],
        json!([{"event_id": "one", "fate": "unknown"}, {"event_id": "two", "fate": "unknown"}])
    );
    // Gone: it is known at once that nothing was sent.
    proxy.cut();
    let gone = eventually("the loss is noticed", async || {
        let problem = client.post("/v1/events", events.clone()).await.expect(503);
        (problem["events"][1]["fate"] == "not sent").then_some(problem)
    });
    assert!(!gone.await.to_string().contains("amqp"), "nothing internal is told");
    // Reading needs no broker.
    assert_eq!(client.get("/v1/events").await.expect(200).as_array().map(Vec::len), Some(2));

    proxy.resume();
    eventually("the broker is back", async || {
        (client.post("/v1/events", events.clone()).await.status == 202).then_some(())
    })
    .await;
    client.post("/v1/events", json!({"event_type": "a.b", "data": 1, "event_id": "last"})).await.expect(202);
    app.wait_for_count("select count(*) from events", 3).await;
    app.amqp_url = direct;
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_which_of_an_array_it_took() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("EVENTS_QUEUE_BYTES_MAX", 1 << 20).set("PREFETCH", 1);
    let service = app.run(&["--role", "api"]).await;
    let client = app.client(&service, company).await;
    let padding = "x".repeat(6_000);
    let events: Vec<Value> = (0..600)
        .map(
            |n| json!({"event_type": "a.b", "event_id": n.to_string(), "data": {"n": n, "padding": padding}}),
        )
        .collect();
    let answer = client.post("/v1/events", json!(events)).await;
    let problem = answer.expect(503);
    assert!(!answer.header("retry-after").is_empty() && problem["detail"].to_string().contains("is full"));
    let fates = problem["events"].as_array().expect("a list").clone();
    let ids: Vec<&str> = fates.iter().filter_map(|event| event["event_id"].as_str()).collect();
    assert_eq!(ids, (0..600).map(|n| n.to_string()).collect::<Vec<_>>());
    let of = |fate: &str| fates.iter().filter(|event| event["fate"] == fate).count();
    // What its first part filled the queue with, what was refused, and what was not even tried.
    let taken = of("confirmed");
    assert!((100..400).contains(&taken) && of("refused") > 0 && of("not sent") > 0, "{taken}");

    let _ingest = app.run(&["--role", "ingest"]).await;
    app.wait_for_count("select count(*) from events where message_id = '0'", 1).await;
    let left = events.iter().zip(&fates).filter(|(_, told)| told["fate"] != "confirmed");
    let left: Vec<&Value> = left.map(|(event, _)| event).collect();
    assert_eq!(left.len(), 600 - taken);
    for some in left.chunks(100) {
        eventually("there is room again", async || {
            (client.post("/v1/events", json!(some)).await.status == 202).then_some(())
        })
        .await;
    }
    app.wait_for_count("select count(*) from events", 600).await;
}

#[tokio::test]
async fn a_request_under_its_key_is_published_once_and_another_under_it_is_refused() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api,ingest"]).await;
    let client = app.client(&service, company).await.and("idempotency-key", "facts-1");
    let fact = json!({"event_type": "ticket.created", "data": {"n": 1}});
    let taken = client.post("/v1/events", fact.clone()).await.expect(202);
    assert_eq!(client.post("/v1/events", fact).await.expect(202), taken);
    let other = client.post("/v1/events", json!({"event_type": "ticket.created", "data": {"n": 2}})).await;
    assert_eq!(other.expect(422)["errors"][0]["field"], "Idempotency-Key");
    // What comes behind it in the queue shows that nothing else was published.
    app.publish(company, "ticket.closed", json!({})).await;
    app.wait_for_count("select count(*) from events where event_type = 'ticket.closed'", 1).await;
    assert_eq!(app.count("select count(*) from events").await, 2);
}
