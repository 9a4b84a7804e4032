//! From the body of a request to confirmed messages.
//!
//! An event is checked by the rules of ingest ([`decode`]), which checks it again. Its bytes are published unchanged,
//! with the company as a header and the id as AMQP's message id. A missing time is not filled in, because a repeated
//! event is the same event only if company, message id and timestamp are the same.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::shape::{Accepted, EVENTS_MAX, Published, Taken, not_confirmed};
use crate::{
    api::problem::{FieldError, Problem, ProblemKind, UNAVAILABLE_FOR},
    broker::{Broker, ConnectionState, Destination, Fate, Headers, Outgoing, Publisher},
    model::{
        CompanyId, Decoded, EnvelopeLimits, Incoming, Placed, Rejected,
        envelope::{Attributes, decode, made_id, place},
        signature::push_hex,
        trace,
    },
};

/// The maximum number of unconfirmed events at a time; each must be confirmed within the broker's time limit.
const CHUNK_MAX: usize = 200;
/// How long a caller waits while the queue of events is full.
const FULL_FOR: Duration = Duration::from_secs(5);

/// The companies for which a caller may publish.
#[derive(Clone, Copy, Debug)]
pub(super) enum PublishScope {
    Company(CompanyId),
    /// For the company that each event names.
    Named,
}

/// The events of a request.
#[derive(Debug)]
pub(super) struct PublishBatch {
    events: Vec<CheckedEvent>,
    /// The index in `events` of each event of the request: two identical ones are published once.
    places: Vec<usize>,
    is_list: bool,
}

#[derive(Debug)]
struct CheckedEvent {
    decoded: Decoded,
    body: Bytes,
    trace: Option<String>,
}

impl PublishBatch {
    /// Reads the events of a body; every invalid one is reported with its index.
    pub(super) fn read(
        body: &Bytes,
        whose: PublishScope,
        key: Option<&str>,
        trace: Option<&str>,
        limits: &EnvelopeLimits,
    ) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body).map_err(|_| {
            Problem::new(ProblemKind::Malformed, "the body is not valid JSON: it is not UTF-8")
        })?;
        let is_list = text.trim_start().starts_with('[');
        let items: Vec<&RawValue> = if is_list {
            serde_json::from_str(text)
        } else {
            serde_json::from_str(text).map(|item| vec![item])
        }
        .map_err(|bad| Problem::new(ProblemKind::Malformed, format!("the body is not valid JSON: {bad}")))?;
        if items.is_empty() {
            return Err(Problem::field("body", "contains no event"));
        }
        if items.len() > EVENTS_MAX {
            let message =
                format!("contains {} events; at most {EVENTS_MAX} are allowed in one request", items.len());
            return Err(Problem::field("body", message));
        }
        let mut batch = Self { events: Vec::new(), places: Vec::with_capacity(items.len()), is_list };
        let mut wrong = Vec::new();
        let mut known: HashMap<(CompanyId, String), (usize, usize)> = HashMap::new();
        let trace = trace.filter(|text| trace::parse(text).is_some());
        for (n, item) in items.iter().enumerate() {
            let named = |rejected: Rejected| named(n, is_list, &rejected);
            let decoded = match read_one(item, n, whose, key, limits) {
                Ok(decoded) => decoded,
                Err(rejected) => {
                    wrong.push(named(rejected));
                    continue;
                }
            };
            let id = (decoded.company, decoded.message_id.clone());
            if let Some(&(first, place)) = known.get(&id) {
                let former = &batch.events[place].decoded;
                if (former.body_hash, former.time) == (decoded.body_hash, decoded.time) {
                    batch.places.push(place);
                } else {
                    let reason = format!("is also the id of [{first}], which is a different event");
                    wrong.push(named(Rejected { field: "event_id".into(), reason }));
                }
                continue;
            }
            known.insert(id, (n, batch.events.len()));
            batch.places.push(batch.events.len());
            let body = Bytes::copy_from_slice(item.get().as_bytes());
            batch.events.push(CheckedEvent { decoded, body, trace: trace.map(str::to_owned) });
        }
        if wrong.is_empty() { Ok(batch) } else { Err(Problem::invalid(wrong)) }
    }

    /// Publishes all of them, and returns their ids when they are confirmed.
    pub(super) async fn publish(
        &self,
        publisher: &Publisher,
        broker: &Broker,
        now: DateTime<Utc>,
    ) -> Result<Taken, Problem> {
        let mut fates = Vec::with_capacity(self.events.len());
        // While nobody takes anything there is nothing to wait for.
        if matches!(broker.state(), ConnectionState::Connected) {
            for chunk in self.events.chunks(CHUNK_MAX) {
                fates.extend(publisher.publish(chunk.iter().map(CheckedEvent::outgoing).collect()).await);
                if fates.iter().any(|fate| *fate != Fate::Confirmed) {
                    break;
                }
            }
        }
        if fates.len() == self.events.len() && fates.iter().all(|fate| *fate == Fate::Confirmed) {
            let mut accepted = self.places.iter().map(|place| self.events[*place].accepted(now));
            return Ok(match (self.is_list, accepted.next()) {
                (false, Some(one)) => Taken::One(one),
                (_, first) => Taken::Many(first.into_iter().chain(accepted).collect()),
            });
        }
        Err(self.not_taken(&fates))
    }

    /// The problem for a request in which not all events were confirmed.
    fn not_taken(&self, fates: &[Fate]) -> Problem {
        let events: Vec<Published> = self
            .places
            .iter()
            .map(|place| Published {
                event_id: self.events[*place].decoded.message_id.clone(),
                fate: fates.get(*place).map_or("not sent", |fate| fate.as_str()),
            })
            .collect();
        let why = if fates.contains(&Fate::Refused) {
            "the queue of events is full"
        } else if fates.contains(&Fate::Returned) {
            "no queue is bound to the exchange yet"
        } else {
            "the broker cannot be reached or does not respond in time"
        };
        let confirmed = events.iter().filter(|event| event.fate == Fate::Confirmed.as_str()).count();
        let detail = format!(
            "{confirmed} of {} events were confirmed: {why}; send the others again with the same ids and timestamps",
            events.len()
        );
        let wait = if fates.contains(&Fate::Refused) { FULL_FOR } else { UNAVAILABLE_FOR };
        not_confirmed(detail, &events).after(wait)
    }
}

fn read_one(
    item: &RawValue,
    n: usize,
    whose: PublishScope,
    key: Option<&str>,
    limits: &EnvelopeLimits,
) -> Result<Decoded, Rejected> {
    let rejected =
        |field: &'static str, reason: &str| Rejected { field: field.into(), reason: reason.to_owned() };
    let company = match whose {
        PublishScope::Company(company) => Some(company.to_string()),
        PublishScope::Named => None,
    };
    // Distinct from anything in a body: the response has a fresh id only if the event has none.
    let fresh = Uuid::new_v4().to_string();
    let incoming = Incoming {
        body: item.get().as_bytes(),
        routing_key: "",
        message_id: Some(&fresh),
        timestamp: None,
        company_id: company.as_deref(),
        traceparent: None,
        content_type: None,
        attributes: Attributes::default(),
    };
    let mut decoded = decode(&incoming, limits).map_err(|bad| match (&*bad.field, whose) {
        // No routing key and no header here that could fill them in.
        ("event_type", _) if bad.reason.starts_with("is missing") => rejected("event_type", "is missing"),
        ("company_id", PublishScope::Named) if bad.reason.starts_with("is missing") => {
            rejected("company_id", "is missing; give it here or in the header X-Company-Id")
        }
        _ => bad,
    })?;
    if let PublishScope::Company(company) = whose
        && decoded.company != company
    {
        return Err(rejected("company_id", "is not the company of the request"));
    }
    if decoded.event_type.is_reserved() {
        return Err(Rejected::reserved_type());
    }
    if decoded.message_id == fresh {
        let by_content = decoded.time.is_some() && limits.dedupe_identical;
        if let Some(key) = key {
            decoded.message_id = of_key(decoded.company, key, n, incoming.body);
        } else if by_content {
            // As ingest makes it of a message without an id.
            let routing_key = decoded.event_type.as_str();
            decoded.message_id = made_id(&Incoming { routing_key, ..incoming }, true);
        }
    }
    Ok(decoded)
}

/// The id of the nth event of a request with a key. It includes the bytes, because a key may be reused after it has
/// expired, and then the event is a different one.
fn of_key(company: CompanyId, key: &str, n: usize, bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(company.uuid().as_bytes());
    hash.update((key.len() as u64).to_be_bytes());
    hash.update(key);
    hash.update((n as u64).to_be_bytes());
    hash.update(bytes);
    let mut id = String::new();
    push_hex(&mut id, &hash.finalize());
    id
}

/// The field as named in the request.
fn named(n: usize, is_list: bool, rejected: &Rejected) -> FieldError {
    let field = match (is_list, &*rejected.field) {
        (false, field) => field.to_owned(),
        (true, "body") => format!("[{n}]"),
        (true, field) => format!("[{n}].{field}"),
    };
    FieldError::new(field, &rejected.reason)
}

impl CheckedEvent {
    fn outgoing(&self) -> Outgoing {
        let mut headers = Headers::default();
        headers.set_str("company_id", &self.decoded.company.to_string());
        if let Some(trace) = &self.trace {
            headers.set_str("traceparent", trace);
        }
        Outgoing {
            to: Destination::Events { event_type: self.decoded.event_type.as_str().to_owned() },
            message_id: self.decoded.message_id.clone(),
            kind: "",
            timestamp: None,
            headers,
            body: self.body.clone(),
        }
    }

    fn accepted(&self, now: DateTime<Utc>) -> Accepted {
        let id = match place(&self.decoded, now) {
            Placed::At(id) => Some(id.uuid()),
            Placed::Claim { .. } => None,
        };
        Accepted { id, event_id: self.decoded.message_id.clone() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIMITS: EnvelopeLimits = EnvelopeLimits { event_bytes_max: 1024, dedupe_identical: true };

    fn company() -> CompanyId {
        CompanyId(Uuid::from_u128(7))
    }

    fn read(body: &serde_json::Value, key: Option<&str>) -> Result<PublishBatch, Problem> {
        PublishBatch::read(&body.to_string().into(), PublishScope::Company(company()), key, None, &LIMITS)
    }

    #[test]
    fn every_wrong_event_is_named_with_its_place() {
        let check = |body: serde_json::Value, expected: &[&str]| {
            let problem = format!("{:?}", read(&body, None).unwrap_err());
            assert!(expected.iter().all(|text| problem.contains(text)), "{body}: {problem}");
        };
        check(json!([]), &["contains no event"]);
        check(json!(1), &["not a JSON object"]);
        check(json!({"data": 1}), &["\"event_type\"", "is missing"]);
        check(json!({"event_type": "webhook.failing", "data": 1}), &["reserved"]);
        check(
            json!([{"event_type": "a.b", "data": 1}, 2, {"event_type": "a b", "data": 1},
                   {"event_type": "a.b", "data": 1, "company_id": Uuid::from_u128(8)}]),
            &["\"[1]\"", "\"[2].event_type\"", "\"[3].company_id\""],
        );
        check(
            json!([{"event_type": "a.b", "data": 1, "event_id": "x"}, {"event_type": "a.b", "data": 2, "event_id": "x"}]),
            &["\"[1].event_id\"", "is also the id of [0]"],
        );
        let many = vec![json!({"event_type": "a.b", "data": 1}); EVENTS_MAX + 1];
        check(json!(many), &["1001 events"]);
    }

    #[test]
    fn ids_are_given_or_made_so_that_a_repeat_is_the_same_event() {
        let ids = |body: &serde_json::Value, key: Option<&str>| -> Vec<String> {
            let batch = read(body, key).unwrap();
            batch.places.iter().map(|at| batch.events[*at].decoded.message_id.clone()).collect()
        };
        let bare = json!([{"event_type": "a.b", "data": 1}, {"event_type": "a.b", "data": 1}]);
        let once = ids(&bare, Some("k"));
        assert_eq!(once, ids(&bare, Some("k")));
        assert_ne!(once[0], once[1]);
        assert_ne!(once, ids(&bare, Some("l")));
        // Without a time nothing tells two alike apart but that there are two of them.
        let fresh = ids(&bare, None);
        assert!(fresh[0] != fresh[1] && fresh != ids(&bare, None));
        let timed = json!([{"event_type": "a.b", "data": 1, "timestamp": 1}, {"event_type": "a.b", "data": 1, "timestamp": 1}]);
        let by_content = ids(&timed, None);
        assert_eq!(by_content[0], by_content[1]);
        assert_eq!(by_content, ids(&timed, None));
        assert_eq!(ids(&json!({"event_type": "a.b", "data": 1, "event_id": "x"}), Some("k")), ["x"]);
    }
}
