//! What is on the wire to receivers, byte for byte; and that others' code verifies it.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    app::App,
    interop::{to_verify, verify},
    receiver::{Answer, Receiver, Request},
};

/// What `event` publishes, with `data` as it stands.
async fn publish(app: &App, company: Uuid, data: &str, properties: BasicProperties) -> i64 {
    let time = chrono::Utc::now().timestamp();
    // White space of the publisher's envelope is the publisher's own affair.
    let body = format!(
        "{{ \"data\":{data},\t\"event_type\" : \"ticket.created\",\n\"timestamp\":{time}.5, \"company_id\":\"{company}\" }}"
    );
    assert!(app.publish_raw("ticket.created", body.as_bytes(), properties).await);
    time
}

fn expected_body(company: Uuid, data: &str, time: i64) -> String {
    format!(r#"{{"event_type":"ticket.created","data":{data},"company_id":"{company}","timestamp":{time}}}"#)
}

fn header<'r>(request: &'r Request, name: &str) -> &'r str {
    request.header(name).unwrap_or_else(|| panic!("no {name} in {}", request.head))
}

#[tokio::test]
async fn a_request_bears_exactly_these_headers_in_this_order() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    app.webhook(company, &receiver.url("/hook?a=b"), json!({})).await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let mut headers = FieldTable::default();
    headers.insert(
        "traceparent".into(),
        AMQPValue::LongString(format!("00-{trace}-00f067aa0ba902b7-01").into()),
    );
    let time = publish(&app, company, "{}", BasicProperties::default().with_headers(headers)).await;
    let request = receiver.wait_for(1).await.remove(0);
    app.wait_for_count("select count(*) from webhook_deliveries where status = 'delivered'", 1).await;
    assert_eq!(service.stop().await, Some(0));
    let ids: (Uuid, Uuid) = sqlx::query_as("select id, event_id from webhook_deliveries")
        .fetch_one(&app.pool)
        .await
        .expect("there is one");
    let (delivery, event) = (ids.0.to_string(), ids.1.to_string());
    let (host, body) = (receiver.address().to_string(), expected_body(company, "{}", time));
    let (length, at) = (body.len().to_string(), header(&request, "webhook-timestamp").to_owned());
    let made = |name: &'static str| (name, header(&request, name));
    let expected = [
        ("content-type", "application/json"),
        ("user-agent", "XTSystems-Webhook/1.0"),
        made("x-xtsystems-signature"),
        ("x-xtsystems-timestamp", &*at),
        ("x-xtsystems-event", "ticket.created"),
        ("x-xtsystems-delivery", &*delivery),
        ("x-xtsystems-attempt", "1"),
        ("x-xtsystems-trigger", "event"),
        ("webhook-id", &*event),
        ("webhook-timestamp", &*at),
        made("webhook-signature"),
        made("traceparent"),
        ("host", &*host),
        ("content-length", &*length),
    ];
    assert_eq!(request.headers(), expected);
    assert!(request.head.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{}", request.head);
    assert_eq!(String::from_utf8_lossy(&request.body), body);
    let signature = header(&request, "x-xtsystems-signature").strip_prefix("sha256=").unwrap_or_default();
    assert!(
        signature.len() == 64 && signature.bytes().all(|b| b"0123456789abcdef".contains(&b)),
        "{signature}"
    );
    let standard = header(&request, "webhook-signature").strip_prefix("v1,").unwrap_or_default();
    assert_eq!(STANDARD.decode(standard).map(|bytes| bytes.len()), Ok(32), "{standard}");
    let carried = header(&request, "traceparent");
    assert!(carried.starts_with(&format!("00-{trace}-")) && carried.ends_with("-01"), "{carried}");
    assert!(!carried.contains("00f067aa0ba902b7"), "the request is a span of its own");
    let signed: i64 = at.parse().expect("seconds");
    assert!((time - 1..=chrono::Utc::now().timestamp()).contains(&signed));
}

/// Everything a JSON library would change if it read and wrote it.
fn treacherous() -> Vec<String> {
    let wide = format!("[\"{}\",\"🖨\"]", "é".repeat(9_000));
    let huge = format!("[\n\t\"{}\"\r\n]", "\\u0000".repeat(30_000));
    let mut data = [
        r#"{"title":"Drücker 🖨","back\/slash":"\u00fc \ud83d\udda8"}"#,
        r#""\u0000""#,
        r#"{"n":123456789012345678901234567890,"m":-0.100000000000000000000000000000,"e":1E+400,"z":-0}"#,
        r#"{"z":1,"a":{"y":1.0,"b":1.00},"z":2}"#,
        "{ \"b\" : [ 1 ,\t2,\n3 ] , \"\" : null }",
        r#""\ud800 alone""#,
        "\"\u{2028}\u{7f}\u{feff}\"",
        "null",
        "0",
        " \"spaces around are the envelope's\" ",
    ]
    .map(ToOwned::to_owned)
    .to_vec();
    data.extend([wide, huge]);
    data
}

#[tokio::test]
async fn data_survives_byte_for_byte_over_attempts_replays_and_in_the_ledger() {
    data_survives(1).await;
}

#[tokio::test]
async fn data_survives_byte_for_byte_in_jobs_of_version_two() {
    data_survives(2).await;
}

async fn data_survives(job_version: u8) {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    app.set("JOB_VERSION", job_version);
    let service = app.run(&[]).await;
    // The first attempt has it from its job, or from the ledger where it is too large for one; the second
    // from the ledger always.
    receiver.answer_by(|request, _| match request.header("x-xtsystems-attempt") {
        Some("1") if request.header("x-xtsystems-trigger") == Some("event") => Answer::status(500),
        _ => Answer::ok(),
    });
    let webhook = app.webhook(company, &receiver.url("/"), json!({})).await;
    let all = treacherous();
    let mut bodies = Vec::new();
    for data in &all {
        let time = publish(&app, company, data, BasicProperties::default()).await;
        bodies.push(expected_body(company, data.trim_matches(' '), time));
    }
    let delivered = "select count(*) from webhook_deliveries where status = 'delivered'";
    app.wait_for_count(delivered, all.len() as i64).await;
    let (company, webhook) = (company.to_string(), webhook.to_string());
    app.cli(&["replay", "--company", &company, "--webhook", &webhook, "--status", "delivered"]).await;
    app.wait_for_count(delivered, 2 * all.len() as i64).await;
    assert_eq!(service.stop().await, Some(0));

    app.wait_for_count("select count(*) from webhook_delivery_attempts", all.len() as i64).await;
    assert_eq!(app.count("select count(*) from webhook_delivery_attempts where company_id is null").await, 0);
    let requests = receiver.requests();
    assert_eq!(requests.len(), 3 * all.len());
    let mut by_event: BTreeMap<&str, Vec<&Request>> = BTreeMap::new();
    for request in &requests {
        by_event.entry(header(request, "webhook-id")).or_default().push(request);
    }
    assert_eq!(by_event.len(), all.len(), "an event's id is the same over attempts and replays");
    for (event, requests) in by_event {
        let about: Vec<_> = requests
            .iter()
            .map(|request| (header(request, "x-xtsystems-attempt"), header(request, "x-xtsystems-trigger")))
            .collect();
        assert_eq!(about, [("1", "event"), ("2", "event"), ("1", "replay")]);
        let [first, second, again] = [0, 1, 2].map(|n| header(requests[n], "x-xtsystems-delivery"));
        assert!(first == second && second != again, "a replay is a delivery of its own");
        let body = String::from_utf8(requests[0].body.to_vec()).expect("UTF-8");
        assert!(bodies.contains(&body), "{body:.300}");
        assert!(requests.iter().all(|request| request.body == body.as_bytes()), "{body:.300}");
        let id: Uuid = event.parse().expect("a UUID");
        let data: String = sqlx::query_scalar("select data::text from events where id = $1")
            .bind(id)
            .fetch_one(&app.pool)
            .await
            .expect("it is there");
        assert!(body.contains(&format!("\"data\":{data},")), "{data:.300}");
    }
}

#[tokio::test]
async fn a_dead_letter_keeps_the_bytes_and_is_sent_with_them_when_its_event_is_gone() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let service = app.run(&[]).await;
    receiver.answer_by(|request, _| match request.header("x-xtsystems-trigger") {
        Some("replay") => Answer::ok(),
        _ => Answer::status(500),
    });
    app.webhook(company, &receiver.url("/"), json!({"retry_count": 1})).await;
    let all = treacherous();
    for data in &all {
        publish(&app, company, data, BasicProperties::default()).await;
    }
    app.wait_for_count("select count(*) from dead_letters", all.len() as i64).await;
    let ids: Vec<Uuid> =
        sqlx::query_scalar("select id from dead_letters").fetch_all(&app.pool).await.expect("read");
    sqlx::query("delete from events").execute(&app.pool).await.expect("gone");
    let (company, mut dead) = (company.to_string(), Vec::new());
    for id in ids {
        let letter = app.cli(&["dead-letters", "show", "--company", &company, &id.to_string()]).await;
        dead.push((id, letter["body"].as_str().expect("its body").as_bytes().to_vec()));
    }
    let ids: Vec<String> = dead.iter().map(|(id, _)| id.to_string()).collect();
    let args: Vec<&str> =
        ["replay", "--company", &company].into_iter().chain(ids.iter().map(String::as_str)).collect();
    app.cli(&args).await;
    app.wait_for_count("select count(*) from dead_letters where status = 'replayed'", all.len() as i64).await;
    app.wait_for_count(
        "select count(*) from webhook_deliveries where status = 'delivered'",
        all.len() as i64,
    )
    .await;
    assert_eq!(service.stop().await, Some(0));
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2 * all.len());
    for (id, body) in dead {
        let of = requests.iter().find(|request| header(request, "x-xtsystems-delivery") == id.to_string());
        let first = of.expect("the attempt that failed");
        assert_eq!(first.body, body, "{id}: the dead letter keeps what was posted");
        let event = header(first, "webhook-id");
        let again: Vec<_> =
            requests.iter().filter(|request| header(request, "webhook-id") == event).collect();
        assert!(again.len() == 2 && again[1].body == body, "{id}: posted again as it was");
    }
}

#[tokio::test]
async fn a_webhooks_own_headers_are_sent_and_never_replace_ours() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    let rows = [
        ("/own", json!({"Authorization": "Bearer x", "X-Team": "a, b"}), true),
        ("/replaced", json!({"content-type": "application/vnd.xt+json", "User-Agent": "acme/2"}), true),
        ("/signature", json!({"x-xtsystems-signature": "sha256=0"}), false),
        ("/id", json!({"Webhook-Id": "mine"}), false),
        ("/host", json!({"host": "other.test"}), false),
        ("/length", json!({"content-length": "0"}), false),
        ("/split", json!({"x-a": "1\r\nx-b: 2"}), false),
    ];
    for (path, headers, _) in &rows {
        app.webhook(company, &receiver.url(path), json!({"name": path, "headers": headers})).await;
    }
    let service = app.run(&[]).await;
    publish(&app, company, "1", BasicProperties::default()).await;
    app.wait_for_count("select count(*) from webhook_deliveries where status in ('delivered', 'dead')", 7)
        .await;
    assert_eq!(service.stop().await, Some(0));
    let requests = receiver.requests();
    for (path, headers, sent) in rows {
        let request = requests.iter().find(|request| request.path() == path);
        assert_eq!(request.is_some(), sent, "{path}");
        let outcome: (String, String) = sqlx::query_as(
            "select d.status, d.outcome from webhook_deliveries d join webhooks w on w.id = d.webhook_id
             where w.name = $1",
        )
        .bind(path)
        .fetch_one(&app.pool)
        .await
        .expect("read");
        let expected = if sent { ("delivered", "accepted") } else { ("dead", "fault") };
        assert_eq!((&*outcome.0, &*outcome.1), expected, "{path}");
        let Some(request) = request else { continue };
        for (name, value) in headers.as_object().expect("an object") {
            let name = name.to_ascii_lowercase();
            let given: Vec<_> = request.headers().into_iter().filter(|(n, _)| *n == name).collect();
            assert_eq!(given, [(&*name, value.as_str().expect("a text"))], "{path}");
        }
    }
}

#[tokio::test]
async fn signatures_are_verified_by_code_that_is_not_ours() {
    let (app, receiver, company) = (App::new().await, Receiver::start().await, Uuid::new_v4());
    receiver.answer_at("/retried", [Answer::status(500), Answer::ok()]);
    let (plain, whsec) = ("your_secure_webhook_secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let (unicode, unpadded) =
        ("Schlüssel 🔑 mit Leerzeichen", "whsec_c2VjcmV0IG9mIHRoaXJ0eS1vbmUgYnl0ZXMgaGVyZSE");
    let of = company.to_string();
    // (path, first secret, what it is rotated to, whether the guide's header keeps the first until the grace ends)
    let rows = [
        ("/plain", plain, None, false),
        ("/whsec", whsec, None, false),
        ("/unicode", unicode, None, false),
        ("/unpadded", unpadded, None, false),
        ("/retried", plain, None, false),
        ("/rotated", plain, Some(whsec), false),
        ("/rotated-guide-first", whsec, Some(plain), true),
        ("/rotated-long-ago", plain, Some(whsec), false),
    ];
    for (path, first, rotated, keeps) in rows {
        let id = app.webhook(company, &receiver.url(path), json!({"secret": first})).await.to_string();
        let Some(second) = rotated else { continue };
        let grace = if path.ends_with("ago") { "0s" } else { "1h" };
        let guide = if keeps { "previous" } else { "new" };
        let args = ["webhooks", "rotate-secret", "--company", &of, &id, "--secret", second, "--grace", grace];
        app.cli(&[&args[..], &["--guide-signature", guide]].concat()).await;
    }
    let service = app.run(&[]).await;
    for data in treacherous() {
        publish(&app, company, &data, BasicProperties::default()).await;
    }
    let events = treacherous().len();
    let delivered = "select count(*) from webhook_deliveries where status = 'delivered'";
    app.wait_for_count(delivered, (events * rows.len()) as i64).await;
    assert_eq!(service.stop().await, Some(0));
    let requests = receiver.requests();
    let signed: Vec<Value> = requests
        .iter()
        .map(|request| {
            let path = request.path();
            let (.., first, rotated, keeps) =
                rows.into_iter().find(|row| row.0 == path).expect("one of ours");
            let strange = ["another secret"];
            match rotated {
                None => to_verify(path, request, &[first], &[first], &strange),
                Some(new) if path.ends_with("ago") => to_verify(path, request, &[new], &[new], &[first]),
                Some(new) if keeps => to_verify(path, request, &[first], &[first, new], &strange),
                Some(new) => to_verify(path, request, &[new], &[first, new], &strange),
            }
        })
        .collect();
    for request in &requests {
        let signatures = header(request, "webhook-signature").split(' ').count();
        let expected =
            if request.path().starts_with("/rotated") && !request.path().ends_with("ago") { 2 } else { 1 };
        assert_eq!(signatures, expected, "{}", request.path());
    }
    assert_eq!(verify(&signed).await, (true, format!("{} requests verified", signed.len())));
    // And it would have noticed: a request of which somebody has changed a digit.
    let mut tampered = signed[..1].to_vec();
    let mut body = requests[0].body.to_vec();
    let digit = body.len() - 2;
    body[digit] = if body[digit] == b'0' { b'1' } else { b'0' };
    tampered[0]["body"] = STANDARD.encode(body).into();
    let (accepted, words) = verify(&tampered).await;
    assert!(!accepted && words.contains("guide: refused") && words.contains("standard: refused"), "{words}");
}
