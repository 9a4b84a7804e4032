use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::{
    broker::{Topology, config, publisher::Addressed},
    model::RetryTier,
};

const FRESH: &str = include_str!("../../../tests/fixtures/job-v1-fresh.json");
const BUNDLE: &str = include_str!("../../../tests/fixtures/job-v1-bundle.json");
const CLAIMING: &str = include_str!("../../../tests/fixtures/job-v1-claiming.json");
const FRESH_V2: &str = include_str!("../../../tests/fixtures/job-v2-fresh.json");
const BUNDLE_V2: &str = include_str!("../../../tests/fixtures/job-v2-bundle.json");
const CLAIMING_V2: &str = include_str!("../../../tests/fixtures/job-v2-claiming.json");

fn parse(fixture: &str) -> Value {
    serde_json::from_str(fixture).expect("a fixture is JSON")
}

fn headers(fixture: &Value) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in fixture["headers"].as_object().expect("a fixture has headers") {
        match (value.as_str(), value.as_i64()) {
            (Some(text), _) => headers.set_str(name, text),
            (_, Some(number)) => headers.set_i64(name, number),
            _ => panic!("`{name}` is neither text nor number"),
        };
    }
    headers
}

fn body(fixture: &Value) -> Bytes {
    Bytes::from(fixture["body"].as_str().expect("a fixture has a body").to_owned())
}

fn decoded(fixture: &Value) -> Result<Job, BadJob> {
    read(fixture["type"].as_str(), &headers(fixture), &body(fixture))
}

fn encoded(outgoing: Outgoing, names: &[&str]) -> Value {
    let fields = names.iter().map(|name| {
        let text = outgoing.headers.get_str(name).map(|text| json!(text));
        ((*name).to_owned(), text.or(outgoing.headers.get_i64(name).map(|n| json!(n))).unwrap_or_default())
    });
    let headers: Value = fields.collect::<serde_json::Map<_, _>>().into();
    let (kind, message_id, body) = (outgoing.kind, outgoing.message_id.clone(), outgoing.body.clone());
    let addressed = Addressed::new(&Topology::new(&config::tests::defaults()), outgoing);
    json!({
        "type": kind,
        "exchange": addressed.exchange.as_str(),
        "routing_key": addressed.routing_key.as_str(),
        "message_id": message_id,
        "headers": headers,
        "body": String::from_utf8(body.to_vec()).expect("a fixture's body is text"),
    })
}

/// The message of one job, to a retry queue where a tier is given.
fn message_of(version: JobVersion, job: &Job, tier: Option<RetryTier>) -> Outgoing {
    let retry = |tier| Destination::Retry { tier, bucket: job.bucket() };
    encode(version, [(job, tier.map_or_else(|| job.into(), retry))]).remove(0)
}

#[test]
fn the_kept_fixtures_are_read_and_written_byte_for_byte() {
    let check = |version: JobVersion,
                 fixture: &str,
                 tier: Option<RetryTier>,
                 deliveries: usize,
                 attempt: u32,
                 trigger: &str| {
        let fixture = parse(fixture);
        let job = decoded(&fixture).expect("a fixture is a job");
        assert_eq!((job.deliveries.len(), job.attempt), (deliveries, attempt));
        assert_eq!(job.trigger.as_str(), trigger);
        let names: Vec<_> =
            fixture["headers"].as_object().expect("headers").keys().map(String::as_str).collect();
        assert_eq!(encoded(message_of(version, &job, tier), &names), fixture);
    };
    check(JobVersion::V1, FRESH, None, 1, 1, "event");
    check(JobVersion::V1, BUNDLE, None, 2, 1, "event");
    check(JobVersion::V1, CLAIMING, Some(RetryTier::S4), 1, 3, "replay");
    check(JobVersion::V2, FRESH_V2, None, 1, 1, "event");
    check(JobVersion::V2, BUNDLE_V2, None, 2, 1, "event");
    check(JobVersion::V2, CLAIMING_V2, Some(RetryTier::S4), 1, 3, "replay");
    // A body that was rendered stays in a job of version 1, whatever is published.
    check(JobVersion::V2, FRESH, None, 1, 1, "event");
}

#[test]
fn what_version_two_carries_is_rendered_for_version_one() {
    let check = |fixture_v2: &str, fixture_v1: &str, tier: Option<RetryTier>| {
        let job = decoded(&parse(fixture_v2)).expect("a fixture is a job");
        let fixture = parse(fixture_v1);
        let mut names: Vec<_> =
            fixture["headers"].as_object().expect("headers").keys().map(String::as_str).collect();
        let outgoing = message_of(JobVersion::V1, &job, tier);
        assert_eq!(outgoing.headers.get_i64("timestamp"), None, "version 1 has it in its body");
        names.sort_unstable();
        assert_eq!(encoded(outgoing, &names), fixture);
    };
    check(FRESH_V2, FRESH, None);
    check(CLAIMING_V2, CLAIMING, Some(RetryTier::S4));
}

#[test]
fn the_jobs_of_an_event_share_a_body_that_is_rendered_once() {
    let job = decoded(&parse(FRESH_V2)).expect("a fixture is a job");
    let other = Job { event: EventId(uuid::Uuid::from_u128(7)), ..job.clone() };
    let jobs = [&job, &job, &other, &other].map(|job| (job, Destination::from(job)));
    let bodies = encode(JobVersion::V1, jobs).into_iter().map(|message| message.body);
    let [first, second, third, fourth] = <[Bytes; 4]>::try_from(bodies.collect::<Vec<_>>()).expect("four");
    assert_eq!((first.as_ptr(), third.as_ptr()), (second.as_ptr(), fourth.as_ptr()));
    assert_ne!(first.as_ptr(), third.as_ptr());
}

#[test]
fn the_reserved_headers_of_version_two_are_no_obstacle() {
    for fixture in [FRESH_V2, BUNDLE_V2, CLAIMING_V2] {
        let fixture = parse(fixture);
        let mut later = fixture.clone();
        later["headers"]["webhook_version"] = json!(41);
        later["headers"]["mac"] = json!("c2lnbmVk");
        assert_eq!(decoded(&later), decoded(&fixture));
        assert!(decoded(&later).is_ok());
    }
}

#[test]
fn only_a_job_that_carries_data_needs_its_time() {
    let check = |fixture: &str, value: Value, expected: Option<&str>| {
        let mut fixture = parse(fixture);
        fixture["headers"].as_object_mut().expect("headers").remove("timestamp");
        if !value.is_null() {
            fixture["headers"]["timestamp"] = value;
        }
        assert_eq!(decoded(&fixture).err().map(|bad| bad.header), expected, "{fixture}");
    };
    check(FRESH_V2, json!(-1), None);
    check(FRESH_V2, json!(i64::MAX), None);
    check(FRESH_V2, Value::Null, Some("timestamp"));
    check(FRESH_V2, json!("1700000000"), Some("timestamp"));
    check(CLAIMING_V2, Value::Null, None);
}

fn without(fixture: &mut Value, name: &str) {
    fixture["headers"].as_object_mut().expect("headers").remove(name).expect("a header to leave out");
}

#[test]
fn a_header_that_is_wrong_is_named() {
    let check = |change: fn(&mut Value), expected: Option<&str>| {
        let mut fixture = parse(FRESH);
        change(&mut fixture);
        assert_eq!(decoded(&fixture).err().map(|bad| bad.header), expected, "{fixture}");
    };
    check(|_| {}, None);
    check(|f| f["headers"]["of a later release"] = json!("x"), None);
    check(|f| without(f, "traceparent"), None);
    check(|f| f["type"] = json!("xtwebhooks.job.v3"), Some("type"));
    check(|f| f["type"] = Value::Null, Some("type"));
    check(|f| without(f, "company"), Some("company"));
    check(|f| f["headers"]["company"] = json!("me"), Some("company"));
    check(|f| f["headers"]["company"] = json!(7), Some("company"));
    check(|f| without(f, "event"), Some("event"));
    check(|f| f["headers"]["event_type"] = json!("ticket created"), Some("event_type"));
    check(|f| f["headers"]["deliveries"] = json!(""), Some("deliveries"));
    check(|f| f["headers"]["deliveries"] = json!("a/b"), Some("deliveries"));
    check(
        |f| f["headers"]["deliveries"] = json!(f["headers"]["event"].as_str().expect("a text")),
        Some("deliveries"),
    );
    check(|f| f["headers"]["attempt"] = json!(0), Some("attempt"));
    check(|f| f["headers"]["attempt"] = json!(-1), Some("attempt"));
    check(|f| f["headers"]["attempt"] = json!(5_000_000_000_i64), Some("attempt"));
    check(|f| f["headers"]["attempt"] = json!("1"), Some("attempt"));
    check(|f| f["headers"]["queued_at"] = json!("yesterday"), Some("queued_at"));
    check(|f| f["headers"]["trigger"] = json!("whim"), Some("trigger"));
}
