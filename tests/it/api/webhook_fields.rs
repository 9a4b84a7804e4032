//! What is taken for a webhook, what is refused, and what is odd and taken all the same.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::App;

/// The fields that a problem names.
fn named(problem: &Value) -> Vec<&str> {
    let mut named: Vec<_> = problem["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .filter_map(|error| error["field"].as_str())
        .collect();
    named.sort_unstable();
    named
}

#[tokio::test]
async fn a_refusal_names_every_wrong_field_at_once() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    app.set("ALLOWED_NETWORKS", "").set("REQUIRE_HTTPS", "true");
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let wrong = json!({
        "url": "http://user:pw@127.0.0.1/", "events": [], "secret": "too short", "retry_count": 21, "timeout_seconds": 61,
        "headers": {"Host": "example.com", "a b": "c", "X-Good": "yes"}, "active": "yes", "rate_limit": -1,
        "max_in_flight": 1e99, "retry_schedule": [0], "metadata": [], "description": 7, "auto_recover": null,
    });
    let problem = admin.post("/v1/webhooks", wrong.clone()).await.expect(422);
    let expected = [
        "active",
        "description",
        "events",
        "headers.Host",
        "headers.a b",
        "max_in_flight",
        "metadata",
        "name",
        "rate_limit",
        "retry_count",
        "retry_schedule",
        "secret",
        "timeout_seconds",
        "url",
    ];
    assert_eq!(named(&problem), expected, "{problem}");
    assert_eq!(problem["type"], "/v1/problems/invalid");

    let webhook = app.webhook(company, "https://example.com/", json!({})).await;
    let path = format!("/v1/webhooks/{webhook}");
    let mut changed = wrong;
    changed["name"] = Value::Null;
    let problem = admin.put(&path, changed).await.expect(422);
    assert_eq!(named(&problem), expected, "{problem}");
    assert_eq!(app.count("select count(*) from audit_log").await, 0);

    let say = async |url: &str| {
        let problem = admin.put(&path, json!({"url": url})).await.expect(422);
        assert_eq!(named(&problem), ["url"]);
        problem["errors"][0]["message"].as_str().expect("a text").to_owned()
    };
    assert!(say("/hooks").await.contains("write a full URL"), "not absolute");
    assert!(say("https://user@example.com/").await.contains("user name"), "with user-info");
    assert!(say("https://10.0.0.1/").await.contains("10.0.0.0/8 (private)"), "to a refused address");
    assert!(say("http://example.com/").await.contains("REQUIRE_HTTPS"), "http where HTTPS is required");

    for (body, status) in [("[]", 422), ("7", 422), ("{", 400), ("", 400), ("{\"name\":\"\\ud800\"}", 400)] {
        let answer = admin.raw("POST", "/v1/webhooks", "application/json", body.as_bytes().to_vec()).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
    }
    let answer = admin.raw("POST", "/v1/webhooks", "text/plain", b"{}".to_vec()).await;
    assert_eq!(answer.status, 415);
    // What PostgreSQL cannot hold never gets there.
    let nul = json!({"name": "a\u{0}", "url": "https://example.com/\u{0}", "events": ["a\u{0}"], "description": "\u{0}"});
    assert_eq!(
        named(&admin.post("/v1/webhooks", nul).await.expect(422)),
        ["description", "events", "name", "url"]
    );
}

#[tokio::test]
async fn what_is_odd_is_taken_and_told() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let odd = json!({
        "name": "odd", "url": "http://bot.internal/hook", "events": ["ticket.create", "asset.created", "tickets.*"],
        "retry_count": 5, "retry_schedule": "patient", "colour": "red",
    });
    let made = admin.post("/v1/webhooks", odd).await.expect(200);
    let warnings = made["warnings"].as_array().expect("warnings");
    let of = |field: &str| -> Vec<&str> {
        let of = warnings.iter().filter(|warning| warning["field"] == field);
        of.filter_map(|warning| warning["message"].as_str()).collect()
    };
    assert_eq!(of("url").len(), 2, "{made}");
    assert_eq!(of("events[0]"), ["`ticket.create`: has not been seen yet; did you mean `ticket.created`?"]);
    assert_eq!(
        of("events[2]"),
        ["`tickets.*`: no matching type has been seen yet; did you mean `ticket.*`?"]
    );
    assert!(of("events[1]").is_empty());
    assert!(of("retry_count")[0].contains("not followed") && of("colour")[0].contains("ignored"));
    assert_eq!(made["retry_schedule"].as_array().map(Vec::len), Some(9));
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    assert!(admin.get(&path).await.expect(200).get("warnings").is_none());
    let changed = admin.put(&path, json!({"retry_count": 4})).await.expect(200);
    assert_eq!(changed["warnings"][0]["field"], "retry_count", "there is a schedule already");
}

#[tokio::test]
async fn null_resets_a_field_and_a_new_secret_is_shown_once() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let full = json!({
        "name": "full", "url": "https://example.com/", "events": ["*"], "secret": "a secret of the customer's",
        "headers": {"Authorization": "Bearer t0ken"}, "active": false, "retry_count": 7, "timeout_seconds": 5,
        "description": "what it is for", "retry_schedule": [5, 60], "max_in_flight": 3, "rate_limit": 2.5,
        "auto_recover": true, "metadata": {"team": "blue", "numbers": [1, 2.5, null]},
    });
    let made = admin.post("/v1/webhooks", full.clone()).await.expect(200);
    for (field, value) in full.as_object().unwrap() {
        assert_eq!(&made[field], value, "{field}");
    }
    let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
    assert_eq!(
        admin.put(&path, json!({})).await.expect(200)["updated_at"],
        made["updated_at"],
        "nothing is named"
    );

    let resets = [
        "headers",
        "active",
        "retry_count",
        "timeout_seconds",
        "description",
        "retry_schedule",
        "max_in_flight",
        "rate_limit",
        "auto_recover",
        "metadata",
        "secret",
    ];
    let nulls: serde_json::Map<String, Value> =
        resets.iter().map(|&name| (name.to_owned(), Value::Null)).collect();
    let reset = admin.put(&path, Value::Object(nulls)).await.expect(200);
    let expected = json!({"headers": {}, "active": true, "retry_count": 3, "timeout_seconds": 30, "description": null,
        "retry_schedule": null, "max_in_flight": null, "rate_limit": null, "auto_recover": false, "metadata": {}});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&reset[field], value, "{field}");
    }
    let secret = reset["secret"].as_str().expect("it is shown");
    assert!(secret.starts_with("whsec_") && secret != full["secret"]);
    assert!(admin.get(&path).await.expect(200).get("secret").is_none());

    // A rotation is under way, and a secret given by PUT replaces at once.
    admin.post(&format!("{path}/rotate-secret"), json!({})).await.expect(200);
    let given = admin.put(&path, json!({"secret": "given by the customer"})).await.expect(200);
    assert!(given.get("secret").is_none() && given["previous_secret_until"].is_null(), "{given}");
    let kept =
        "select count(*) from webhooks where secret = 'given by the customer' and previous_secret is null";
    assert_eq!(app.count(kept).await, 1);
    let told = "select count(*) from audit_log where after->>'secret_changed' = 'true'";
    assert_eq!(app.count(told).await, 3);
    let leaked =
        "select count(*) from audit_log where concat(before::text, after::text) ~ 'whsec_|given by|t0ken'";
    assert_eq!(app.count(leaked).await, 0);
}

#[tokio::test]
async fn names_may_have_quotes_emoji_and_marks_of_direction() {
    let (app, company) = (App::new().await, Uuid::new_v4());
    let service = app.run(&["--role", "api"]).await;
    let admin = app.client(&service, company).await;
    let names = [
        "\"double\" and 'single'; -- and a comment",
        "🦀 and 👩‍👩‍👧‍👦",
        "\u{202e}from right to left\u{202c} and \u{200f}marked",
        "שלום עולם",
        "back\\slash %s {} ${x} <b>&amp;</b>",
    ];
    for name in names {
        let asked = json!({"name": name, "url": "https://example.com/", "events": ["*"], "description": name,
            "metadata": {name: name}});
        let made = admin.post("/v1/webhooks", asked.clone()).await.expect(200);
        assert_eq!((&made["name"], &made["metadata"][name]), (&json!(name), &json!(name)));
        let path = format!("/v1/webhooks/{}", made["id"].as_str().unwrap());
        assert_eq!(admin.get(&path).await.expect(200)["description"], name);
        admin.post("/v1/webhooks", asked).await.expect(409);
    }
    // Pages go by name, whatever it is.
    let (mut seen, mut next) = (0, Some("/v1/webhooks?limit=1&count=capped".to_owned()));
    while let Some(path) = next {
        let page = admin.get(&path).await;
        assert_eq!(page.header("x-total-count"), "5");
        next = page.next();
        seen += page.expect(200).as_array().map_or(0, Vec::len);
    }
    assert_eq!(seen, names.len());
}
