use super::*;
use crate::model::{
    Secret,
    fixtures::{at, company, delivery, event, event_type, webhook},
    signature::{verify_guide, verify_standard},
};

const BODY: &[u8] = br#"{"event_type":"ticket.created","data":{},"company_id":"00000000-0000-0000-0000-000000000007","timestamp":1700000000}"#;

fn headers_of(webhook: &Webhook, now: DateTime<Utc>, traceparent: Option<&str>) -> Result<HeaderMap, String> {
    let data = Bytes::from_static(b"{}");
    let payload = &Payload::Event { data, timestamp: 1_700_000_000 };
    let request = render(&Draft {
        webhook,
        event: event(),
        delivery: delivery(),
        event_type: &event_type("ticket.created"),
        attempt: 2,
        trigger: Trigger::Event,
        traceparent,
        now,
        payload,
    })?;
    assert_eq!(request.body, BODY);
    Ok(request.headers)
}

fn value<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

#[test]
fn the_body_is_the_guides_envelope_around_the_published_bytes() {
    let check = |data: &str, timestamp: i64, expected: &str| {
        let made = envelope(&event_type("ticket.created"), data.as_bytes(), company(), timestamp);
        assert_eq!(str::from_utf8(&made).unwrap(), expected);
    };
    check(
        "{}",
        1_700_000_000,
        r#"{"event_type":"ticket.created","data":{},"company_id":"00000000-0000-0000-0000-000000000007","timestamp":1700000000}"#,
    );
    let data = "{ \"z\" : 123456789012345678901234567890,\n\t\"a\":\"\\u0000 é 🖨 \\ud800\" }";
    let company = "00000000-0000-0000-0000-000000000007";
    let around = |timestamp: i64| {
        format!(
            r#"{{"event_type":"ticket.created","data":{data},"company_id":"{company}","timestamp":{timestamp}}}"#
        )
    };
    check(data, 0, &around(0));
    check(data, -1, &around(-1));
}

#[test]
fn a_body_that_was_rendered_earlier_is_posted_as_it_is() {
    // No envelope of ours, and no JSON.
    let body = Bytes::from_static(b"{ \"of\": an earlier release");
    let request = render(&Draft {
        webhook: &webhook(),
        event: event(),
        delivery: delivery(),
        event_type: &event_type("ticket.created"),
        attempt: 1,
        trigger: Trigger::Replay,
        traceparent: None,
        now: at(1_700_000_001),
        payload: &Payload::Rendered(body.clone()),
    })
    .unwrap();
    assert_eq!(request.body, body);
    let signature = Secret::new("your_secure_webhook_secret").guide(1_700_000_001, &body);
    assert_eq!(value(&request.headers, "x-xtsystems-signature"), signature);
}

#[test]
fn a_request_bears_exactly_these_headers() {
    let headers = headers_of(&webhook(), at(1_700_000_001), None).unwrap();
    let found: Vec<_> =
        headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let secret = Secret::new("your_secure_webhook_secret");
    let expected = [
        ("content-type", "application/json"),
        ("user-agent", "XTSystems-Webhook/1.0"),
        ("x-xtsystems-signature", &secret.guide(1_700_000_001, BODY)),
        ("x-xtsystems-timestamp", "1700000001"),
        ("x-xtsystems-event", "ticket.created"),
        ("x-xtsystems-delivery", "018bcfe5-6800-8000-8000-000000000200"),
        ("x-xtsystems-attempt", "2"),
        ("x-xtsystems-trigger", "event"),
        ("webhook-id", "018bcfe5-6800-8000-8000-000000000001"),
        ("webhook-timestamp", "1700000001"),
        ("webhook-signature", &secret.standard(event(), 1_700_000_001, BODY)),
        ("traceparent", "00-018bcfe5680080008000000000000001-8000000000000202-01"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn own_headers_may_replace_content_type_and_user_agent_and_join_the_others() {
    let mut webhook = webhook();
    let own = [
        ("content-TYPE", "application/cloudevents+json"),
        ("User-Agent", "me"),
        ("Authorization", "Bearer s3cret"),
    ];
    webhook.settings.headers = own.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let headers = headers_of(&webhook, at(5), None).unwrap();
    assert_eq!(headers.len(), 13);
    assert_eq!(value(&headers, "content-type"), "application/cloudevents+json");
    assert_eq!(value(&headers, "user-agent"), "me");
    assert_eq!(value(&headers, "authorization"), "Bearer s3cret");
    assert!(!format!("{headers:?}").contains("s3cret"), "a header's value can be printed by accident");
}

#[test]
fn reserved_headers_are_a_fault_by_name_and_never_show_their_value() {
    let reserved = [
        "host",
        "Host",
        "content-length",
        "transfer-encoding",
        "connection",
        "te",
        "upgrade",
        "proxy-authorization",
        "proxy-connection",
        "keep-alive",
        "trailer",
        "expect",
        "x-xtsystems-signature",
        "X-XTSystems-Timestamp",
        "x-xtsystems-event",
        "x-xtsystems-delivery",
        "x-xtsystems-attempt",
        "x-xtsystems-trigger",
        "x-xtsystems-anything",
        "webhook-id",
        "Webhook-Timestamp",
        "webhook-signature",
        "traceparent",
    ];
    for name in reserved {
        let expected =
            format!("the header `{}` is set by this service and cannot be overridden", name.to_lowercase());
        assert_eq!(check_header(name, "s3cret"), Err(expected.clone()));
        let mut webhook = webhook();
        webhook.settings.headers.insert(name.to_owned(), "s3cret".to_owned());
        assert_eq!(headers_of(&webhook, at(5), None).unwrap_err(), expected);
    }
}

#[test]
fn a_header_must_be_one_that_can_be_sent() {
    let check = |name: &str, value: &str, expected: Result<(), &str>| {
        assert_eq!(check_header(name, value), expected.map_err(str::to_owned), "{name:?}");
    };
    check("X-Api-Key", "s3cret", Ok(()));
    check("X-Empty", "", Ok(()));
    check("Accept", "a\tb", Ok(()));
    check("webhook-secret", "s3cret", Ok(()));
    check("", "s3cret", Err("`` is not a valid header name"));
    check("a b", "s3cret", Err("`a b` is not a valid header name"));
    check("a\r\nHost", "s3cret", Err("`a\\r\\nHost` is not a valid header name"));
    check("é", "s3cret", Err("`é` is not a valid header name"));
    let ascii = "the value of the header `x-a` contains characters other than visible ASCII";
    check("X-A", "s3cret\r\nHost: evil", Err(ascii));
    check("X-A", "s3cret\0", Err(ascii));
    check("X-A", "s3crét", Err(ascii));
    check(&"a".repeat(128), "s3cret", Ok(()));
    check(&"a".repeat(129), "s3cret", Err("a header name is longer than 128 bytes"));
    check("X-A", &"s".repeat(4_096), Ok(()));
    check("X-A", &"s".repeat(4_097), Err("the value of the header `x-a` is longer than 4096 bytes"));
}

#[test]
fn a_webhook_has_so_many_headers_of_its_own_and_no_more() {
    let mut webhook = webhook();
    webhook.settings.headers = (0..32).map(|n| (format!("x-{n}"), String::new())).collect();
    assert_eq!(headers_of(&webhook, at(5), None).unwrap().len(), 12 + 32);
    webhook.settings.headers.insert("x-32".to_owned(), String::new());
    let expected = "the webhook has more than 32 headers of its own";
    assert_eq!(headers_of(&webhook, at(5), None).unwrap_err(), expected);
}

#[test]
fn both_secrets_sign_while_a_rotation_is_in_its_grace() {
    let (new, old) = (Secret::new("your_secure_webhook_secret"), Secret::new("old"));
    // Whose signature the guide's header bears, and whose the standard one has.
    let check = |now: i64, guide_signature_is_previous: bool, guide_by: &Secret, standard_by: &[&Secret]| {
        let mut webhook = webhook();
        webhook.previous_secret = Some((old.clone(), at(100)));
        webhook.guide_signature_is_previous = guide_signature_is_previous;
        let headers = headers_of(&webhook, at(now), None).unwrap();
        assert_eq!(value(&headers, "x-xtsystems-signature"), guide_by.guide(now, BODY));
        let expected: Vec<_> = standard_by.iter().map(|secret| secret.standard(event(), now, BODY)).collect();
        assert_eq!(value(&headers, "webhook-signature"), expected.join(" "));
        for secret in standard_by {
            let (id, time) = (value(&headers, "webhook-id"), value(&headers, "webhook-timestamp"));
            assert!(verify_standard(secret, id, time, BODY, value(&headers, "webhook-signature")));
        }
        let time = value(&headers, "x-xtsystems-timestamp");
        assert!(verify_guide(guide_by, time, BODY, value(&headers, "x-xtsystems-signature")));
    };
    check(99, false, &new, &[&new, &old]);
    check(99, true, &old, &[&new, &old]);
    check(100, false, &new, &[&new]);
    check(100, true, &new, &[&new]);
}

#[test]
fn the_events_trace_is_carried_on_with_a_parent_of_the_attempts_own() {
    let check = |given: Option<&str>, expected: &str| {
        let headers = headers_of(&webhook(), at(5), given).unwrap();
        assert_eq!(value(&headers, "traceparent"), expected);
    };
    check(
        Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
        "00-4bf92f3577b34da6a3ce929d0e0e4736-8000000000000202-00",
    );
    let made = "00-018bcfe5680080008000000000000001-8000000000000202-01";
    check(Some("nonsense"), made);
    check(None, made);
}
