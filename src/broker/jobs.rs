//! Job v1: how a [`Job`] looks on the broker.
//!
//! The kept fixtures in `tests/fixtures/job-v1-*.json` are the contract between releases that run side by side:
//! a reader takes every header it knows, ignores the others, and refuses a version it does not know.

use std::{fmt::Write, str::FromStr};

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Destination, Headers, Message, Outgoing, Queue};
use crate::model::{DeliveryId, Job, RetryTier, WebhookId};

/// AMQP's `type` of a job.
pub const KIND: &str = "xtwebhooks.job.v1";

/// Why a message is no job; it is dead-lettered with this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{header}` {reason}")]
pub struct BadJob {
    /// The header at fault, or `type`.
    pub header: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The message of a job, to the deliveries queue of its bucket.
#[must_use]
pub fn encode(job: &Job) -> Outgoing {
    message(job, Destination::Deliveries { bucket: job.bucket() })
}

/// The message of a job that stands in line with none but the first jobs of companies that have few.
#[must_use]
pub fn encode_prompt(job: &Job, shard: u8) -> Outgoing {
    message(job, Destination::Queue(Queue::Prompt(shard)))
}

/// The message of a job that waits in a retry queue first.
#[must_use]
pub fn encode_retry(job: &Job, tier: RetryTier) -> Outgoing {
    message(job, Destination::Retry { tier, bucket: job.bucket() })
}

/// The job of a message.
pub fn decode(message: &Message) -> Result<Job, BadJob> {
    read(message.kind.as_deref(), &message.headers, &message.body)
}

fn message(job: &Job, to: Destination) -> Outgoing {
    let mut headers = Headers::default();
    headers
        .set_str("company", &job.company.to_string())
        .set_str("event", &job.event.to_string())
        .set_str("event_type", job.event_type.as_str())
        .set_str("deliveries", &pairs(&job.deliveries))
        .set_i64("attempt", job.attempt.into())
        .set_str("queued_at", &job.queued_at.to_rfc3339_opts(SecondsFormat::Micros, true))
        .set_str("trigger", job.trigger.as_str());
    if let Some(traceparent) = &job.traceparent {
        headers.set_str("traceparent", traceparent);
    }
    // Bundles of one event have no delivery in common, so the first tells them apart.
    let first = job.deliveries.first().map_or(job.event.uuid(), |(delivery, _)| delivery.uuid());
    let message_id = format!("{first}.{}", job.attempt);
    Outgoing { to, message_id, kind: KIND, timestamp: None, headers, body: job.body.clone() }
}

/// `<delivery>/<webhook>`, joined by a space.
fn pairs(deliveries: &[(DeliveryId, WebhookId)]) -> String {
    let mut text = String::with_capacity(deliveries.len() * 74);
    for (delivery, webhook) in deliveries {
        let space = if text.is_empty() { "" } else { " " };
        write!(text, "{space}{delivery}/{webhook}").expect("a String takes whatever is written to it");
    }
    text
}

fn read(kind: Option<&str>, headers: &Headers, body: &bytes::Bytes) -> Result<Job, BadJob> {
    match kind {
        Some(KIND) => {}
        Some(other) => {
            return Err(bad("type", format!("is `{other}`, and `{KIND}` is the version known here")));
        }
        None => return Err(bad("type", "is missing")),
    }
    Ok(Job {
        company: parsed(headers, "company")?,
        event: parsed(headers, "event")?,
        event_type: parsed(headers, "event_type")?,
        deliveries: deliveries(headers)?,
        attempt: attempt(headers)?,
        queued_at: parsed::<DateTime<Utc>>(headers, "queued_at")?,
        trigger: parsed(headers, "trigger")?,
        traceparent: headers.get_str("traceparent").map(str::to_owned),
        body: body.clone(),
    })
}

fn bad(header: &'static str, reason: impl Into<String>) -> BadJob {
    BadJob { header, reason: reason.into() }
}

fn text<'a>(headers: &'a Headers, header: &'static str) -> Result<&'a str, BadJob> {
    headers.get_str(header).ok_or_else(|| bad(header, "is missing or no text"))
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(headers: &Headers, header: &'static str) -> Result<T, BadJob> {
    let text = text(headers, header)?;
    text.parse().map_err(|error| bad(header, format!("is `{text}`: {error}")))
}

fn attempt(headers: &Headers) -> Result<u32, BadJob> {
    let number = headers.get_i64("attempt").ok_or_else(|| bad("attempt", "is missing or no number"))?;
    match u32::try_from(number) {
        Ok(attempt) if attempt > 0 => Ok(attempt),
        _ => Err(bad("attempt", format!("is {number}, and attempts count from 1"))),
    }
}

fn deliveries(headers: &Headers) -> Result<Vec<(DeliveryId, WebhookId)>, BadJob> {
    let text = text(headers, "deliveries")?;
    if text.is_empty() {
        return Err(bad("deliveries", "is empty"));
    }
    text.split(' ').map(pair).collect()
}

fn pair(text: &str) -> Result<(DeliveryId, WebhookId), BadJob> {
    text.split_once('/')
        .and_then(|(delivery, webhook)| Some((delivery.parse().ok()?, webhook.parse().ok()?)))
        .ok_or_else(|| bad("deliveries", format!("has `{text}` where a delivery and a webhook should be")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::broker::{Topology, config, publisher::Addressed};

    const FRESH: &str = include_str!("../../tests/fixtures/job-v1-fresh.json");
    const BUNDLE: &str = include_str!("../../tests/fixtures/job-v1-bundle.json");
    const CLAIMING: &str = include_str!("../../tests/fixtures/job-v1-claiming.json");

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
            (
                (*name).to_owned(),
                text.or(outgoing.headers.get_i64(name).map(|n| json!(n))).unwrap_or_default(),
            )
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

    #[test]
    fn the_kept_fixtures_are_read_and_written_byte_for_byte() {
        let check =
            |fixture: &str, tier: Option<RetryTier>, deliveries: usize, attempt: u32, trigger: &str| {
                let fixture = parse(fixture);
                let job = decoded(&fixture).expect("a fixture is a job");
                assert_eq!((job.deliveries.len(), job.attempt), (deliveries, attempt));
                assert_eq!(job.trigger.as_str(), trigger);
                let outgoing = tier.map_or_else(|| encode(&job), |tier| encode_retry(&job, tier));
                let names: Vec<_> =
                    fixture["headers"].as_object().expect("headers").keys().map(String::as_str).collect();
                assert_eq!(encoded(outgoing, &names), fixture);
            };
        check(FRESH, None, 1, 1, "event");
        check(BUNDLE, None, 2, 1, "event");
        check(CLAIMING, Some(RetryTier::S4), 1, 3, "replay");
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
        check(|f| f["type"] = json!("xtwebhooks.job.v2"), Some("type"));
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
}
