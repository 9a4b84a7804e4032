use proptest::prelude::*;

use super::*;
use crate::model::{
    envelope::{self, decode},
    fixtures::{at, company, event_type},
};

const COMPANY: &str = "00000000-0000-0000-0000-000000000007";
const LIMITS: EnvelopeLimits = EnvelopeLimits { event_bytes_max: 256 * 1024, dedupe_identical: true };
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const REQUIRED: [(&str, &str); 5] = [
    ("specversion", r#""1.0""#),
    ("id", r#""e-1""#),
    ("source", r#""/xtsystems/tickets""#),
    ("type", r#""ticket.created""#),
    ("companyid", r#""00000000-0000-0000-0000-000000000007""#),
];

fn incoming<'a>(body: &'a [u8], content_type: Option<&'a str>) -> Incoming<'a> {
    Incoming {
        body,
        routing_key: "by.another.name",
        message_id: Some("not used"),
        timestamp: None,
        company_id: None,
        traceparent: None,
        content_type,
        attributes: Attributes::default(),
    }
}

/// A structured event with `field` as given, left out where that is empty, or with one more that it has not.
fn with(field: &str, json: &str) -> String {
    let others = REQUIRED.into_iter().chain([("data", "{}")]).filter(|(name, _)| *name != field);
    let given = (!json.is_empty()).then_some((field, json));
    let fields: Vec<String> =
        others.chain(given).map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    format!("{{{}}}", fields.join(","))
}

fn structured(body: &str) -> Result<Decoded, String> {
    read(&incoming(body.as_bytes(), Some("application/cloudevents+json; charset=UTF-8")))
}

fn read(incoming: &Incoming<'_>) -> Result<Decoded, String> {
    decode(incoming, &LIMITS).map_err(|rejected| rejected.to_string())
}

/// A binary event with its required headers, but for `changed`.
fn binary(
    prefix: &str,
    content_type: Option<&str>,
    body: &str,
    changed: &[(&str, Option<Value<'_>>)],
) -> Result<Decoded, String> {
    let required = REQUIRED.map(|(name, json)| (name, Some(Value::Text(json.trim_matches('"')))));
    let headers: Vec<(String, Value<'_>)> = required
        .iter()
        .filter(|(name, _)| !changed.iter().any(|(other, _)| other == name))
        .chain(changed)
        .filter_map(|(name, value)| Some((format!("{prefix}{name}"), (*value)?)))
        .collect();
    let attributes = Attributes::pick(headers.iter().map(|(name, value)| (name.as_str(), *value)));
    read(&Incoming { attributes, ..incoming(body.as_bytes(), content_type) })
}

#[test]
fn a_structured_event_is_read() {
    let body = with("time", r#""2023-11-14T23:13:20.5+01:00""#).replace("{}", r#"{ "b":1.0, "a":[ ] }"#);
    let decoded = structured(&body).unwrap();
    assert_eq!(decoded.company, company());
    assert_eq!(decoded.event_type, event_type("ticket.created"));
    assert_eq!(decoded.message_id, "/xtsystems/tickets e-1");
    assert_eq!(decoded.timestamp, Some(1_700_000_000));
    assert_eq!(decoded.time.map(|time| time.timestamp_millis()), Some(1_700_000_000_500));
    assert_eq!(decoded.data, r#"{ "b":1.0, "a":[ ] }"#);
    // Without a content type the body itself says what it is.
    assert_eq!(read(&incoming(body.as_bytes(), None)), Ok(decoded.clone()));
    assert_eq!(read(&incoming(body.as_bytes(), Some("application/json"))), Ok(decoded));
}

#[test]
fn a_binary_event_is_the_same_event_by_whatever_prefix() {
    let body = structured(&with("time", r#""2023-11-14T22:13:20Z""#)).unwrap();
    let time = [("time", Some(Value::Text("2023-11-14T22:13:20Z")))];
    for prefix in ["cloudEvents:", "cloudEvents_", "ce-", "ce_", "CE-", "cloudevents_"] {
        assert_eq!(binary(prefix, Some("application/json"), "{}", &time), Ok(body.clone()), "{prefix}");
    }
    for content_type in [None, Some(""), Some("text/json"), Some("application/vnd.xt+json; charset=utf-8")] {
        assert_eq!(binary("ce-", content_type, " {}\n", &time), Ok(body.clone()), "{content_type:?}");
    }
}

#[test]
fn the_guides_form_stays_the_guides() {
    // Nothing of a CloudEvent has an underscore in its name.
    let body = format!(
        r#"{{"event_type":"a.b","specversion":"1.0","id":"1","id":"2","company_id":"{COMPANY}","data":1}}"#
    );
    let decoded = read(&incoming(body.as_bytes(), Some("application/json"))).unwrap();
    assert_eq!((decoded.message_id.as_str(), decoded.event_type), ("not used", event_type("a.b")));
    // Some headers that happen to look like attributes make no event.
    let headers = [("ce-id", Value::Text("x")), ("ce-type", Value::Text("y")), ("ce", Value::Other)];
    let attributes = Attributes::pick(headers.into_iter());
    assert!(read(&Incoming { attributes, ..incoming(body.as_bytes(), None) }).is_ok());
}

#[test]
fn data_is_kept_byte_for_byte() {
    for data in [
        "null",
        "[ 1 ,\t2,\n 3 ]",
        r#"{"z":1,"a":2,"z":3}"#,
        "123456789012345678901234567890",
        "-0.100000000000000000000000000000",
        "1e999",
        r#""\u0000""#,
        r#""\ud800 lone \udc00""#,
        "\"\u{7f}\u{2028} é 🖨\"",
    ] {
        let kept = |read: Result<Decoded, String>| read.map(|decoded| decoded.data);
        assert_eq!(kept(structured(&with("data", data))), Ok(data.to_owned()), "{data}");
        assert_eq!(kept(binary("ce-", None, data, &[])), Ok(data.to_owned()), "{data}");
        let coded =
            with("data", "").replacen('{', &format!(r#"{{"data_base64":"{}","#, STANDARD.encode(data)), 1);
        assert_eq!(kept(structured(&coded)), Ok(data.to_owned()), "{coded}");
    }
    assert_eq!(structured(&with("data", "")).unwrap().data, "null", "an event may have none");
    assert_eq!(binary("ce-", None, "", &[]).unwrap().data, "null");
}

#[test]
fn each_bad_attribute_is_rejected_by_its_name() {
    let check = |field: &str, json: &str, expected: &str| {
        let found = structured(&with(field, json)).map(drop);
        assert_eq!(found, Err(format!("`{field}` {expected}")), "{field}: {json}");
    };
    check("specversion", r#""0.3""#, "must be 1.0, the supported version of CloudEvents");
    check("specversion", "1.0", "must be a string, not a number");
    check("specversion", "", "is missing; it must be 1.0");
    check("id", "", "is missing; every CloudEvent must have it");
    check("id", "null", "is missing; every CloudEvent must have it");
    check("id", r#""""#, "is empty");
    check("id", "7", "must be a string, not a number");
    check("id", r#""a\u0000""#, "contains control characters");
    check("source", r#""a b""#, "is not a URI reference: it contains white space or control characters");
    check("source", "", "is missing; every CloudEvent must have it");
    check("type", "", "is missing; every CloudEvent must have it");
    check(
        "type",
        r#""a b""#,
        "may contain only letters, digits and . _ - : / and must start with a letter or digit",
    );
    check("time", "1700000000", "must be a string, not a number");
    check("time", r#""yesterday""#, "is not an RFC 3339 time with a time zone, such as 2026-01-31T12:00:00Z");
    check("companyid", r#""acme""#, "is not a UUID");
    check(
        "companyid",
        "",
        "is missing: send the company's UUID in this extension or in the header `company_id`",
    );
    let json = "must be application/json or a type that ends with +json";
    check("datacontenttype", r#""text/plain""#, json);
    check("datacontenttype", r#""json""#, json);
    check("data_base64", r#""e30=""#, "is present together with `data`; send only one of them");
    check("traceparent", "{}", "must be a string, not an object");
    let twice = with("id", r#""e-1","id":"e-2""#);
    assert_eq!(structured(&twice).map(drop), Err("`id` appears twice in the body".to_owned()));

    let base64 =
        |json: &str| structured(&with("data", "").replacen('{', &format!(r#"{{"data_base64":{json},"#), 1));
    assert_eq!(base64(r#""!""#).map(drop), Err("`data_base64` is not base64".to_owned()));
    assert_eq!(base64(r#""/w==""#).map(drop), Err("`data_base64` does not contain UTF-8".to_owned()));
    assert_eq!(base64(r#""e30x""#).map(drop), Err("`data_base64` does not contain JSON".to_owned()));

    let deep = "[".repeat(257) + &"]".repeat(257);
    assert_eq!(
        structured(&with("data", &deep)).map(drop),
        Err("`data` nests deeper than 256 levels".to_owned())
    );
}

#[test]
fn each_bad_header_is_rejected_by_its_name() {
    let check = |name: &str, value: Option<Value<'_>>, expected: &str| {
        let found = binary("ce-", None, "{}", &[(name, value)]).map(drop);
        assert_eq!(found, Err(format!("`{name}` {expected}")), "{name}: {value:?}");
    };
    check("specversion", Some(Value::Text("0.3")), "must be 1.0, the supported version of CloudEvents");
    check("specversion", None, "is missing; it must be 1.0");
    check("id", None, "is missing; every CloudEvent must have it");
    check("id", Some(Value::Other), "must be a string");
    check(
        "time",
        Some(Value::Text("now")),
        "is not an RFC 3339 time with a time zone, such as 2026-01-31T12:00:00Z",
    );
    check("time", Some(Value::Number(i64::MAX)), "is out of range for a time in milliseconds since 1970");
    let body = |content_type, body| binary("ce-", content_type, body, &[]).map(drop);
    let json = "`datacontenttype` must be application/json or a type that ends with +json";
    assert_eq!(body(Some("text/plain"), "hello"), Err(json.to_owned()));
    assert_eq!(body(Some("application/octet-stream"), "{}"), Err(json.to_owned()));
    let not_json = "`body` is not JSON: expected value at line 1 column 1";
    assert_eq!(body(None, "hello"), Err(not_json.to_owned()));
    let headers = [
        ("ce-specversion", Value::Text("1.0")),
        ("cloudEvents:id", Value::Text("1")),
        ("cloudEvents_id", Value::Text("2")),
    ];
    let attributes = Attributes::pick(headers.into_iter());
    let twice = read(&Incoming { attributes, ..incoming(b"{}", None) }).map(drop);
    assert_eq!(twice, Err("`id` appears twice in the headers with different values".to_owned()));
}

#[test]
fn the_time_of_a_header_is_read_in_each_form_of_it() {
    let check = |value: Value<'_>, expected: i64| {
        let found = binary("ce-", None, "{}", &[("time", Some(value))]).unwrap().time;
        assert_eq!(found.map(|time| time.timestamp_millis()), Some(expected), "{value:?}");
    };
    check(Value::Text("2023-11-14T22:13:20.25Z"), 1_700_000_000_250);
    check(Value::Number(1_700_000_000_250), 1_700_000_000_250);
    check(Value::Time(at(1_700_000_000)), 1_700_000_000_000);
    let without = Incoming { timestamp: Some(77), ..incoming(b"{}", Some("application/json")) };
    let body = with("data", "1");
    let found = read(&Incoming { body: body.as_bytes(), ..without }).unwrap();
    assert_eq!(found.timestamp, Some(77), "AMQP's, where the event has none");
}

#[test]
fn other_forms_are_refused_with_the_way_out() {
    let check = |content_type: &str, expected: &str| {
        let found = read(&incoming(b"[]", Some(content_type))).map(drop);
        assert_eq!(found, Err(format!("`content_type` {expected}")), "{content_type}");
    };
    let batch = "is that of a batch; publish each event as a separate message";
    check("application/cloudevents-batch+json", batch);
    check("Application/CloudEvents-Batch+JSON; charset=utf-8", batch);
    let form = "is a CloudEvents format that is not supported; publish application/cloudevents+json or use binary mode";
    check("application/cloudevents+avro", form);
    check("application/cloudevents", form);
}

#[test]
fn company_and_trace_come_from_the_event_else_from_the_headers() {
    let other = "00000000-0000-0000-0000-000000000008";
    let body = with("companyid", "");
    let by_header = Incoming { company_id: Some(other), ..incoming(body.as_bytes(), None) };
    assert_eq!(read(&by_header).unwrap().company.to_string(), other);
    let body = with("data", "1");
    let both = Incoming { company_id: Some(other), ..incoming(body.as_bytes(), None) };
    assert_eq!(read(&both).unwrap().company, company(), "the event's own wins");
    let traced = structured(&with("traceparent", &format!("\"{TRACE}\""))).unwrap();
    assert_eq!(traced.traceparent.as_deref(), Some(TRACE));
    let by_header = Incoming { traceparent: Some(TRACE), ..incoming(body.as_bytes(), None) };
    assert_eq!(read(&by_header).unwrap().traceparent.as_deref(), Some(TRACE));
}

#[test]
fn it_can_be_told_whose_a_bad_event_is() {
    let check = |incoming: &Incoming<'_>, expected: bool| {
        assert_eq!(envelope::company_of(incoming), expected.then(company), "{incoming:?}");
    };
    let (bad, nobodys) = (with("specversion", r#""2.0""#), with("companyid", "7"));
    let twice = with("companyid", &format!(r#""{COMPANY}","companyid":"{COMPANY}""#));
    check(&incoming(bad.as_bytes(), None), true);
    check(&incoming(nobodys.as_bytes(), None), false);
    check(
        &Incoming {
            company_id: Some(COMPANY),
            ..incoming(b"[]", Some("application/cloudevents-batch+json"))
        },
        true,
    );
    let headers = [("ce-specversion", Value::Text("2")), ("ce-companyid", Value::Text(COMPANY))];
    let attributes = Attributes::pick(headers.into_iter());
    check(&Incoming { attributes, ..incoming(b"\xff", None) }, true);
    check(&incoming(twice.as_bytes(), None), false);
}

proptest! {
    #[test]
    fn no_two_events_have_one_message_id(
        sources in ("[a-z/:]{1,40}", "[a-z/:]{1,40}"),
        ids in (".{1,300}", ".{1,300}"),
    ) {
        let (one, other) = (message_id(&sources.0, &ids.0), message_id(&sources.1, &ids.1));
        prop_assert_eq!(one == other, sources.0 == sources.1 && ids.0 == ids.1);
        prop_assert!(one.len() <= MESSAGE_ID_BYTES_MAX);
    }

    #[test]
    fn whatever_an_attribute_is_it_is_read_or_rejected_by_its_name(
        field in prop::sample::select(CLOUD_EVENT.to_vec()),
        json in prop::sample::select(vec!["null", "true", "-1", "1e5", "\"x\"", "\"\\ud800\"", "[]", "{\"a\":{}}", "\"\""]),
    ) {
        if let Err(reason) = structured(&with(field, json)) {
            prop_assert!(reason.starts_with(&format!("`{field}` ")), "{}: {}", field, reason);
        }
    }
}
