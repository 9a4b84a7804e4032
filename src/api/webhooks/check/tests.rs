use serde_json::json;

use super::*;
use crate::{
    api::problem::ProblemKind,
    model::{
        request,
        webhook::settings::{DESCRIPTION_CHARACTERS_MAX, EVENTS_GIVEN_MAX, EVENTS_MAX, METADATA_BYTES_MAX},
    },
};

fn object(value: Value) -> Map<String, Value> {
    let Value::Object(object) = value else { panic!("{value}") };
    object
}

fn rules(require_https: bool) -> egress::Config {
    egress::Config { require_https, ..egress::Config::default() }
}

fn made(body: Value) -> Result<(Settings, Vec<Warning>), Problem> {
    settings(object(body), None, &rules(false)).map(|checked| (checked.settings, checked.warnings))
}

fn good() -> Value {
    json!({"name": "bot", "url": "https://example.com/hook", "events": ["ticket.created"]})
}

/// A body that is good but for this.
fn with(field: &str, value: Value) -> Value {
    let mut body = good();
    body[field] = value;
    body
}

#[test]
fn what_is_left_out_has_the_guides_defaults() {
    let (new, odd) = made(good()).unwrap();
    assert_eq!((new.active, new.retry_count, new.timeout_seconds), (true, 3, 30));
    assert!(new.headers.is_empty() && new.retry_schedule.is_none() && !new.auto_recover);
    assert!(new.secret.expose().starts_with("whsec_"));
    assert_eq!(odd, []);
    let (new, _) = made(with("secret", Value::Null)).unwrap();
    assert!(new.secret.expose().starts_with("whsec_"), "null is as good as nothing");
}

#[test]
fn each_field_is_refused_with_its_name() {
    let check = |field: &str, value: Value, named: &str| {
        let problem = made(with(field, value.clone())).unwrap_err();
        assert_eq!(problem.kind(), ProblemKind::Invalid);
        let text = format!("{problem:?}");
        assert!(text.contains(&format!("{named:?}")), "{field} {value}: {text}");
    };
    for url in [
        "/hook",
        "example.com",
        "ftp://example.com/",
        "https://user:pw@example.com/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://2130706433/",
        "https://example.com:0/",
        "https:///",
        "",
    ] {
        check("url", json!(url), "url");
    }
    check("url", json!(7), "url");
    check("url", json!(format!("https://example.com/{}", "a".repeat(3000))), "url");
    for name in [json!(""), json!("a".repeat(256)), json!("a\nb"), json!("a\0"), json!(null), json!(["a"])] {
        check("name", name, "name");
    }
    for events in [json!([]), json!("*"), json!([7]), json!(["tick*t"]), json!(["a b"]), json!(null)] {
        check("events", events, "events");
    }
    let many: Vec<String> = (0..=EVENTS_MAX).map(|n| format!("a.{n}")).collect();
    check("events", json!(many), "events");
    check("secret", json!("fifteen letters"), "secret");
    check("secret", json!("a".repeat(256)), "secret");
    for seconds in [json!(0), json!(61), json!(1.5), json!("30"), json!(true), json!(1e300)] {
        check("timeout_seconds", seconds, "timeout_seconds");
    }
    for count in [json!(0), json!(21), json!(-1), json!("3")] {
        check("retry_count", count, "retry_count");
    }
    for headers in [json!([]), json!("a"), json!(7)] {
        check("headers", headers, "headers");
    }
    for name in ["Host", "X-XTSystems-Signature", "webhook-id", "Content-Length", "a b", "", "é"] {
        check("headers", json!({name: "x"}), &format!("headers.{name}"));
    }
    check("headers", json!({"X-A": "é"}), "headers.X-A");
    check("headers", json!({"X-A": 7}), "headers.X-A");
    check("headers", json!({"X-A": "1", "x-a": "2"}), "headers.x-a");
    let many: Map<String, Value> =
        (0..=request::OWN_HEADERS_MAX).map(|n| (format!("X-{n}"), json!("x"))).collect();
    check("headers", json!(many), "headers");
    let large: Map<String, Value> = (0..3).map(|n| (format!("X-{n}"), json!("x".repeat(3_000)))).collect();
    check("headers", json!(large), "headers");
    for waits in [json!([]), json!([0]), json!([86_401]), json!(["5s"]), json!("soon"), json!(vec![1; 21])] {
        check("retry_schedule", waits, "retry_schedule");
    }
    check("max_in_flight", json!(0), "max_in_flight");
    check("rate_limit", json!(0), "rate_limit");
    check("rate_limit", json!(1e9), "rate_limit");
    check("active", json!("yes"), "active");
    check("auto_recover", json!(1), "auto_recover");
    check("metadata", json!([1]), "metadata");
    check("metadata", json!({"a": "x".repeat(METADATA_BYTES_MAX)}), "metadata");
    check("description", json!("a".repeat(DESCRIPTION_CHARACTERS_MAX + 1)), "description");
}

#[test]
fn every_wrong_field_is_named_at_once() {
    let wrong = json!({"url": "x", "events": [], "secret": "short", "timeout_seconds": 0, "retry_count": 21,
        "headers": {"Host": "x", "a b": "y"}});
    let text = format!("{:?}", made(wrong).unwrap_err());
    for field in
        ["name", "url", "events", "secret", "timeout_seconds", "retry_count", "headers.Host", "headers.a b"]
    {
        assert!(text.contains(&format!("{field:?}")), "{field}: {text}");
    }
}

#[test]
fn a_name_may_be_in_any_script() {
    for name in [
        "\"quoted\" 'name'",
        "🦀 emoji 👩‍👩‍👧",
        "\u{202e}right to left\u{202c}",
        "שלום",
        "a\u{200f}b",
        "-- drop table",
    ] {
        let (new, _) = made(with("name", json!(name))).unwrap();
        assert_eq!(new.name, name);
    }
}

#[test]
fn https_can_be_required() {
    let plain = object(with("url", json!("http://example.com/")));
    assert!(settings(plain.clone(), None, &rules(false)).is_ok());
    let text = format!("{:?}", settings(plain, None, &rules(true)).unwrap_err());
    assert!(text.contains("REQUIRE_HTTPS"), "{text}");
}

#[test]
fn what_is_odd_is_told_and_taken() {
    let check = |body: Value, field: &str, expected: &str| {
        let (_, odd) = made(body.clone()).unwrap();
        let found = odd.iter().find(|warning| warning.field == field);
        assert!(found.is_some_and(|warning| warning.message.contains(expected)), "{body}: {odd:?}");
    };
    check(with("url", json!("http://example.com/")), "url", "http");
    check(with("url", json!("https://bot.internal/")), "url", "ALLOWED_NETWORKS");
    check(with("colour", json!("red")), "colour", "ignored");
    check(with("name", json!(" ")), "name", "blank");
    check(with("secret", json!("whsec_not base64 at all")), "secret", "base64");
    let mut both = with("retry_schedule", json!([5]));
    both["retry_count"] = json!(5);
    check(both, "retry_count", "not followed");
}

#[test]
fn a_schedule_is_a_list_of_seconds_or_a_preset() {
    let schedule = |value: Value| made(with("retry_schedule", value)).unwrap().0.retry_schedule;
    assert_eq!(schedule(json!([5, 300, 7200])), Some(vec![5, 300, 7_200]));
    assert_eq!(schedule(json!("patient")).unwrap().len(), 9);
    assert_eq!(schedule(Value::Null), None);
}

#[test]
fn a_change_holds_what_is_named_and_null_resets() {
    let (before, _) = made(json!({"name": "bot", "url": "https://example.com/hook", "events": ["ticket.created"],
        "secret": "sixteen letters and more", "headers": {"X-A": "1"}, "retry_count": 7, "timeout_seconds": 5,
        "active": false, "retry_schedule": [5], "metadata": {"a": 1}, "description": "a note", "max_in_flight": 3}))
    .unwrap();
    let change = |body: Value| settings(object(body), Some(before.clone()), &rules(false)).unwrap();
    let nothing = change(json!({}));
    assert_eq!(nothing.settings, before);
    assert!(!nothing.shows_secret && !nothing.replaces_secret && nothing.events.is_none());
    let some =
        change(json!({"active": false, "rate_limit": 2.5, "max_in_flight": null, "events": ["*", "*"]}));
    assert_eq!((some.settings.active, some.settings.rate_limit), (false, Some(2.5)));
    assert_eq!((some.settings.max_in_flight, &some.settings.events), (None, &vec!["*".to_owned()]));
    let rest =
        Settings { rate_limit: None, max_in_flight: Some(3), events: before.events.clone(), ..some.settings };
    assert_eq!(rest, before, "what is not named stays");
    let reset = change(json!({"secret": null, "headers": null, "retry_count": null, "timeout_seconds": null,
        "active": null, "retry_schedule": null, "metadata": null, "description": null}));
    assert!(reset.shows_secret && reset.replaces_secret);
    let reset = reset.settings;
    assert!(reset.secret.expose().starts_with("whsec_"));
    assert!(reset.headers.is_empty());
    assert_eq!((reset.retry_count, reset.timeout_seconds), (3, 30));
    assert_eq!((reset.active, reset.retry_schedule), (true, None));
    assert!(reset.metadata.is_empty());
    assert_eq!(reset.description, None);
    for field in ["name", "url", "events"] {
        let refused =
            settings(object(json!({field: null})), Some(before.clone()), &rules(false)).unwrap_err();
        assert!(format!("{refused:?}").contains("no default"), "{field}");
    }
    let odd = change(json!({"retry_count": 5})).warnings;
    assert_eq!(odd.len(), 1);
}

#[test]
fn what_is_far_too_much_is_not_looked_at_in_full() {
    let many: Vec<String> = (0..=EVENTS_GIVEN_MAX).map(|n| format!("a.b{n}")).collect();
    assert!(made(with("events", json!(many))).is_err());
    assert!(made(with("events", json!(vec!["a.b"; EVENTS_GIVEN_MAX]))).is_ok(), "one, many times");
    let mut body = object(good());
    body.extend((0..1_000).map(|n| (format!("unknown_{n}"), Value::Null)));
    let (_, odd) = made(Value::Object(body)).unwrap();
    assert_eq!(odd.len(), UNKNOWN_REPORTED_MAX);
}
