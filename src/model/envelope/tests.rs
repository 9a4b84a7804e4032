use proptest::prelude::*;

use super::*;
use crate::model::fixtures::{at, company, event_type};

const COMPANY: &str = "00000000-0000-0000-0000-000000000007";
const LIMITS: EnvelopeLimits = EnvelopeLimits { event_bytes_max: 256 * 1024, dedupe_identical: true };

/// A message with nothing but a body and its routing key.
fn bare(body: &[u8]) -> Incoming<'_> {
    Incoming {
        body,
        routing_key: "ticket.created",
        message_id: None,
        timestamp: None,
        company_id: None,
        traceparent: None,
        content_type: None,
        attributes: Attributes::default(),
    }
}

/// The guide's message with `field` as given, or with one more that it has not.
fn with(field: &str, json: &str) -> String {
    let fields = [
        ("event_type", r#""ticket.created""#),
        ("data", "{}"),
        ("company_id", r#""00000000-0000-0000-0000-000000000007""#),
        ("timestamp", "1700000000"),
    ];
    let mut text: Vec<String> = fields
        .into_iter()
        .filter(|(name, _)| *name != field)
        .map(|(name, value)| format!(r#""{name}":{value}"#))
        .collect();
    text.push(format!(r#""{field}":{json}"#));
    format!("{{{}}}", text.join(","))
}

fn read(body: impl AsRef<[u8]>) -> Result<Decoded, Rejected> {
    decode(&bare(body.as_ref()), &LIMITS)
}

fn outcome<T>(read: Result<Decoded, Rejected>, show: impl Fn(Decoded) -> T) -> Result<T, String> {
    read.map(show).map_err(|rejected| rejected.to_string())
}

#[test]
fn the_guides_message_is_read() {
    let body = r#"{"event_type":"ticket.created","data":{"id":7},"company_id":"00000000-0000-0000-0000-000000000007","timestamp":1700000000}"#;
    let decoded = read(body).unwrap();
    assert_eq!(decoded.company, company());
    assert_eq!(decoded.event_type, event_type("ticket.created"));
    assert_eq!(decoded.time, Some(at(1_700_000_000)));
    assert_eq!(decoded.timestamp, Some(1_700_000_000));
    assert_eq!(decoded.data, r#"{"id":7}"#);
    assert_eq!(decoded.traceparent, None);
    // printf 'ticket.created\0<body>' | sha256sum
    assert_eq!(decoded.message_id, "eb4757abd0c4aed5de572b18c76ffa9e784f3e452a134c097eac70d4c2637292");
    // printf '{"id":7}ticket.created' | sha256sum, the first sixteen digits
    assert_eq!(decoded.body_hash, 8_130_492_125_630_184_445);
}

#[test]
fn each_bad_body_is_rejected_for_one_reason() {
    let check = |body: &[u8], expected: &str| {
        let shown = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        assert_eq!(outcome(read(body), |decoded| decoded.message_id), Err(expected.to_owned()), "{shown}");
    };
    check(b"", "`body` is empty");
    check(b"\xff\xfe{}", "`body` is not valid UTF-8 at byte 0");
    check(b"{\"data\":\"\xed\xa0\x80\"}", "`body` is not valid UTF-8 at byte 9");
    check(b"hello", "`body` is not JSON: expected value at line 1 column 1");
    check(b"{\"data\":{}", "`body` is not JSON: EOF while parsing an object at line 1 column 10");
    check(b"{\"data\":{}}\0", "`body` is not JSON: trailing characters at line 1 column 12");
    check(
        b"{\"data\":\"\0\"}",
        "`body` is not JSON: control character (\\u0000-\\u001F) found while parsing a string at line 1 column 9",
    );
    check(b"{\"data\":{}}{}", "`body` is not JSON: trailing characters at line 1 column 12");
    check(b"\xef\xbb\xbf{\"data\":{}}", "`body` is not JSON: expected value at line 1 column 1");
    check(b"{\"data\":{},}", "`body` is not JSON: trailing comma at line 1 column 12");
    check(b"{\"data\":NaN}", "`body` is not JSON: expected value at line 1 column 9");
    check(b"{'data':1}", "`body` is not JSON: key must be a string at line 1 column 2");
    for not_object in ["null", "[]", "7", "\"the customer's secret\"", "true", &"[".repeat(100_000)] {
        check(not_object.as_bytes(), "`body` is not a JSON object");
    }
    let long = with("data", &format!("\"{}\"", "a".repeat(300 * 1024)));
    let reason = format!("`body` has {} bytes, more than EVENT_BYTES_MAX allows (262144)", long.len());
    check(long.as_bytes(), &reason);
}

#[test]
fn a_body_of_just_the_bound_is_taken() {
    let frame = with("data", "\"\"").len();
    let exact = with("data", &format!("\"{}\"", "a".repeat(LIMITS.event_bytes_max - frame)));
    assert_eq!(exact.len(), LIMITS.event_bytes_max);
    assert!(read(&exact).is_ok());
    assert_eq!(read(exact + " ").unwrap_err().field, "body");
}

#[test]
fn data_is_kept_byte_for_byte() {
    for data in [
        "{}",
        "null",
        "[ 1 ,\t2,\n 3 ]",
        r#""text""#,
        r#"{"z":1,"a":2,"z":3}"#,
        r#"{ "b" : { "y" : 1.0, "x" : 1e5 } , "a" : [ ] }"#,
        "123456789012345678901234567890",
        "-0.100000000000000000000000000000",
        "1e999",
        r#""\u0000""#,
        r#""\ud800 lone \udc00""#,
        r#""\/ \u00e9 é 🖨 \\ \"]}""#,
        "\"\u{7f}\u{2028}\"",
    ] {
        assert_eq!(outcome(read(with("data", data)), |decoded| decoded.data), Ok(data.to_owned()), "{data}");
    }
    let spaced =
        " { \"company_id\" : \"00000000-0000-0000-0000-000000000007\" , \"data\" :  { \"a\" : 1 }  } ";
    assert_eq!(read(spaced).unwrap().data, "{ \"a\" : 1 }");
}

#[test]
fn data_is_required() {
    let missing = format!(r#"{{"event_type":"ticket.created","company_id":"{COMPANY}"}}"#);
    assert_eq!(outcome(read(missing), |decoded| decoded.data), Err("`data` is missing".to_owned()));
}

#[test]
fn data_may_nest_so_deep_and_no_deeper() {
    let check = |data: String, expected: Result<(), &str>| {
        let shown = data[..data.len().min(40)].to_owned();
        let found = outcome(read(with("data", &data)), drop);
        assert_eq!(found, expected.map_err(str::to_owned), "{shown}, {} bytes", data.len());
    };
    let too_deep = Err("`data` nests deeper than 256 levels");
    let arrays = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let objects = |levels: usize| r#"{"a":"#.repeat(levels) + "1" + &"}".repeat(levels);
    check(arrays(256), Ok(()));
    check(arrays(257), too_deep);
    check(arrays(100_000), too_deep);
    check(objects(256), Ok(()));
    check(objects(257), too_deep);
    // What only looks like nesting, in strings and behind escapes, does not count.
    check(format!("\"{}\"", "[{".repeat(1_000)), Ok(()));
    check(format!(r#""\"{}\\""#, "[".repeat(1_000)), Ok(()));
    check(format!("[{}]", vec!["[]"; 1_000].join(",")), Ok(()));
    check(format!(r#"["\\",{}]"#, arrays(256)), too_deep);
}

#[test]
fn a_nested_value_of_an_unknown_field_does_no_harm() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert!(read(with("extra", &deep)).is_ok());
}

#[test]
fn unknown_fields_are_ignored_and_known_ones_may_stand_once() {
    let check = |fields: &str, expected: Result<(), &str>| {
        let body = format!(r#"{{"company_id":"{COMPANY}","data":1{fields}}}"#);
        assert_eq!(outcome(read(&body), drop), expected.map_err(str::to_owned), "{body}");
    };
    check("", Ok(()));
    check(r#","extra":1,"extra":2,"Data":3,"":4"#, Ok(()));
    check(r#","data":1"#, Err("`data` appears twice in the body"));
    check(r#","d\u0061ta":1"#, Err("`data` appears twice in the body"));
    check(r#","data":2,"company_id":"x""#, Err("`data` appears twice in the body"));
    check(r#","company_id":"x""#, Err("`company_id` appears twice in the body"));
    check(r#","timestamp":null,"timestamp":1"#, Err("`timestamp` appears twice in the body"));
    check(r#","event_id":"a","event_id":"a""#, Err("`event_id` appears twice in the body"));
    check(r#","event_type":"a","event_type":"a""#, Err("`event_type` appears twice in the body"));
}

#[test]
fn the_event_type_is_the_bodys_else_the_routing_key() {
    let check = |json: Option<&str>, routing_key: &str, expected: Result<&str, &str>| {
        let body = json.map_or_else(
            || format!(r#"{{"company_id":"{COMPANY}","data":1}}"#),
            |json| with("event_type", json),
        );
        let incoming = Incoming { routing_key, ..bare(body.as_bytes()) };
        let found = outcome(decode(&incoming, &LIMITS), |decoded| decoded.event_type.to_string());
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{body} by {routing_key:?}");
    };
    check(Some(r#""ticket.closed""#), "ticket.created", Ok("ticket.closed"));
    check(Some(r#""never.heard.of""#), "ticket.created", Ok("never.heard.of"));
    check(Some("null"), "ticket.created", Ok("ticket.created"));
    check(None, "ticket.created", Ok("ticket.created"));
    check(None, "", Err("`event_type` is missing, and the routing key is empty"));
    let characters = "may contain only letters, digits and . _ - : / and must start with a letter or digit";
    check(None, "#", Err(&format!("`event_type` is missing, and the routing key {characters}")));
    check(Some(r#""""#), "ticket.created", Err("`event_type` is empty"));
    check(Some(r#""a b""#), "ticket.created", Err(&format!("`event_type` {characters}")));
    check(Some(r#""a\u0000""#), "ticket.created", Err(&format!("`event_type` {characters}")));
    check(Some(&format!("\"{}\"", "a".repeat(101))), "t", Err("`event_type` is longer than 100 characters"));
    check(Some(r#""\ud800""#), "t", Err("`event_type` is not a valid Unicode string"));
    check(Some("7"), "t", Err("`event_type` must be a string, not a number"));
    check(Some("{}"), "t", Err("`event_type` must be a string, not an object"));
    check(Some("[]"), "t", Err("`event_type` must be a string, not an array"));
    check(Some("false"), "t", Err("`event_type` must be a string, not a boolean"));
}

#[test]
fn the_company_is_the_bodys_else_the_headers() {
    let other = "00000000-0000-0000-0000-000000000008";
    let check = |json: Option<&str>, header: Option<&str>, expected: Result<&str, &str>| {
        let body = json.map_or_else(|| r#"{"data":1}"#.to_owned(), |json| with("company_id", json));
        let incoming = Incoming { company_id: header, ..bare(body.as_bytes()) };
        let found = outcome(decode(&incoming, &LIMITS), |decoded| decoded.company.to_string());
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{body} with {header:?}");
    };
    let quoted = format!("\"{COMPANY}\"");
    check(Some(&quoted), None, Ok(COMPANY));
    check(Some(&quoted), Some(other), Ok(COMPANY));
    check(Some(&quoted), Some("nonsense"), Ok(COMPANY));
    check(None, Some(other), Ok(other));
    check(Some("null"), Some(other), Ok(other));
    check(
        Some(r#""ABCDEF00-0000-0000-0000-00000000000A""#),
        None,
        Ok("abcdef00-0000-0000-0000-00000000000a"),
    );
    check(None, None, Err("`company_id` is missing from both the body and the headers"));
    check(None, Some("acme"), Err("`company_id` is missing, and the header `company_id` is not a UUID"));
    check(Some(r#""acme""#), Some(other), Err("`company_id` is not a UUID"));
    check(Some(r#""""#), Some(other), Err("`company_id` is not a UUID"));
    check(Some("7"), Some(other), Err("`company_id` must be a string, not a number"));
}

#[test]
fn the_timestamp_is_kept_as_published() {
    // The field, the AMQP property, and the whole seconds with the milliseconds of the time.
    let check = |json: &str, property: Option<u64>, expected: Result<Option<(i64, i64)>, &str>| {
        let body = with("timestamp", json);
        let incoming = Incoming { timestamp: property, ..bare(body.as_bytes()) };
        let found = outcome(decode(&incoming, &LIMITS), |decoded| {
            decoded.timestamp.zip(decoded.time.map(|time| time.timestamp_millis()))
        });
        assert_eq!(found, expected.map_err(str::to_owned), "{json} with {property:?}");
    };
    let whole = |seconds: i64| Ok(Some((seconds, seconds * 1_000)));
    check("1700000000", None, whole(1_700_000_000));
    check("1700000000", Some(5), whole(1_700_000_000));
    check("null", Some(1_700_000_001), whole(1_700_000_001));
    check("null", None, Ok(None));
    check("0", None, whole(0));
    check("-1", None, whole(-1));
    check("253402300799", None, whole(253_402_300_799));
    check("1700000000.0", None, whole(1_700_000_000));
    check("1.7e9", None, whole(1_700_000_000));
    check("1700000000.75", None, Ok(Some((1_700_000_000, 1_700_000_000_750))));
    check("1700000000.9999999999", None, whole(1_700_000_001));
    check("-0.25", None, Ok(Some((-1, -250))));
    check(r#""2023-11-14T22:13:20Z""#, None, whole(1_700_000_000));
    check(r#""2023-11-14T23:13:20.500+01:00""#, None, Ok(Some((1_700_000_000, 1_700_000_000_500))));
    check(r#""1969-12-31T23:59:59.999Z""#, None, Ok(Some((-1, -1))));
    check(r#""1970-01-01T00:00:00Z""#, None, whole(0));
    check(r#""9999-12-31T23:59:59Z""#, None, whole(253_402_300_799));

    let out_of_range = Err("`timestamp` is out of range for a time in seconds since 1970");
    check("9223372036854775807", None, out_of_range);
    check("123456789012345678901234567890", None, out_of_range);
    check("1e300", None, out_of_range);
    check("1e999", None, out_of_range);
    check("-1e17", None, out_of_range);
    check("null", Some(u64::MAX), out_of_range);
    check("null", Some(1 << 62), out_of_range);
    let no_time = Err("`timestamp` is not an RFC 3339 time with a time zone, such as 2026-01-31T12:00:00Z");
    check(r#""yesterday""#, None, no_time);
    check(r#""""#, None, no_time);
    check(r#""1700000000""#, None, no_time);
    check(r#""2023-11-14T22:13:20""#, None, no_time);
    check(r#""2023-11-14""#, Some(1_700_000_000), no_time);
    check(r#""\ud800""#, None, Err("`timestamp` is not a valid Unicode string"));
    let kind = |kind: &str| format!("`timestamp` must be seconds since 1970 or an RFC 3339 time, not {kind}");
    check("true", None, Err(&kind("a boolean")));
    check("{}", None, Err(&kind("an object")));
    check("[1700000000]", None, Err(&kind("an array")));
}

#[test]
fn a_message_without_a_timestamp_takes_that_of_amqp() {
    let body = format!(r#"{{"company_id":"{COMPANY}","data":1}}"#);
    let incoming = Incoming { timestamp: Some(1_700_000_000), ..bare(body.as_bytes()) };
    assert_eq!(decode(&incoming, &LIMITS).unwrap().timestamp, Some(1_700_000_000));
    assert_eq!(read(&body).unwrap().timestamp, None);
}

#[test]
fn the_message_id_is_the_event_id_else_that_of_amqp() {
    let check = |json: &str, property: Option<&str>, expected: Result<&str, &str>| {
        let body = with("event_id", json);
        let incoming = Incoming { message_id: property, ..bare(body.as_bytes()) };
        let found = outcome(decode(&incoming, &LIMITS), |decoded| decoded.message_id);
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{json} with {property:?}");
    };
    let long = "a".repeat(256);
    check(r#""e-1""#, Some("m-1"), Ok("e-1"));
    check(r#""é \ud83d\udda8""#, None, Ok("é 🖨"));
    check("null", Some("m-1"), Ok("m-1"));
    check(r#""""#, Some("m-1"), Ok("m-1"));
    check(&format!("\"{}\"", &long[1..]), None, Ok(&long[1..]));
    check(&format!("\"{long}\""), Some("m-1"), Err("`event_id` is longer than 255 bytes"));
    check(r#""a\u0000b""#, Some("m-1"), Err("`event_id` contains control characters"));
    check(r#""a\nb""#, None, Err("`event_id` contains control characters"));
    check(r#""\udc00""#, None, Err("`event_id` is not a valid Unicode string"));
    check("7", Some("m-1"), Err("`event_id` must be a string, not a number"));
    check("null", Some("a\0b"), Err("`message_id` contains control characters"));
}

#[test]
fn without_an_id_equal_messages_are_one_event_if_so_set() {
    let body = with("data", "1");
    let id = |routing_key, body: &str, dedupe_identical| {
        let incoming = Incoming { routing_key, ..bare(body.as_bytes()) };
        decode(&incoming, &EnvelopeLimits { dedupe_identical, ..LIMITS }).unwrap().message_id
    };
    assert_eq!(id("a", &body, true), id("a", &body, true));
    assert_ne!(id("a", &body, true), id("b", &body, true));
    assert_ne!(id("a", &body, true), id("a", &format!("{body} "), true));
    assert_ne!(id("a", &body, false), id("a", &body, false));
    let named = with("event_id", r#""e-1""#);
    assert_eq!(id("a", &named, false), "e-1");
}

#[test]
fn bodies_that_differ_have_other_hashes() {
    let hash = |body: String| read(body).unwrap().body_hash;
    assert_eq!(hash(with("timestamp", "1")), hash(with("timestamp", "2")));
    assert_ne!(hash(with("data", "1")), hash(with("data", "2")));
    assert_ne!(hash(with("event_type", r#""a""#)), hash(with("event_type", r#""b""#)));
}

#[test]
fn only_a_well_formed_trace_context_is_carried_on() {
    let body = with("data", "1");
    let check = |given: &str, kept: bool| {
        let incoming = Incoming { traceparent: Some(given), ..bare(body.as_bytes()) };
        let found = decode(&incoming, &LIMITS).unwrap().traceparent;
        assert_eq!(found.as_deref(), kept.then_some(given));
    };
    check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", true);
    check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
    check("nonsense", false);
    check("", false);
}

#[test]
fn events_near_in_time_are_placed_there_and_others_claimed() {
    let now = at(1_700_000_000);
    let check = |time: Option<DateTime<Utc>>, near: bool| {
        let decoded = Decoded { time, ..read(with("event_id", r#""e-1""#)).unwrap() };
        let own = time.map(|time| EventId::derive(time, company(), "e-1"));
        let expected = own.filter(|_| near).map_or(Placed::Claim { own }, Placed::At);
        assert_eq!(place(&decoded, now), expected, "{time:?}");
    };
    let (day, hour, millisecond) = (TimeDelta::days(1), TimeDelta::hours(1), TimeDelta::milliseconds(1));
    check(Some(now), true);
    check(Some(now - day), true);
    check(Some(now - day - millisecond), false);
    check(Some(now + hour), true);
    check(Some(now + hour + millisecond), false);
    check(Some(at(0)), false);
    check(Some(at(-1)), false);
    check(Some(at(253_402_300_799)), false);
    check(Some(DateTime::<Utc>::MIN_UTC), false);
    check(Some(DateTime::<Utc>::MAX_UTC), false);
    check(None, false);
}

proptest! {
    #[test]
    fn a_damaged_message_is_rejected_or_its_data_is_what_stands_in_it(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut body = with("data", r#"{"a":[1,"\ud83d\udda8 é"],"b":{"c":null}}"#).into_bytes();
        let at = at.index(body.len());
        body[at] = byte;
        if byte.is_multiple_of(4) {
            body.truncate(cut.index(body.len()));
        }
        match read(&body) {
            Ok(decoded) => prop_assert!(str::from_utf8(&body).unwrap().contains(&decoded.data)),
            Err(rejected) => prop_assert!(rejected.reason.len() < 200, "{}", rejected),
        }
    }

    #[test]
    fn whatever_a_field_is_it_is_read_or_rejected_by_its_name(
        field in prop::sample::select(vec!["event_type", "data", "company_id", "timestamp", "event_id"]),
        json in prop::sample::select(vec!["null", "true", "-1", "1e5", "\"x\"", "\"\\ud800\"", "[]", "{\"a\":{}}", "\"\""]),
    ) {
        if let Err(rejected) = read(with(field, json)) {
            prop_assert_eq!(rejected.field, field);
        }
    }
}
