//! Jobs of version 1 and 2: how a [`Job`] looks on the broker.
//!
//! The kept fixtures in `tests/fixtures/job-v*.json` are the contract between releases that run side by side: a reader takes
//! every header it knows, ignores the others, and refuses a version it does not know.
//!
//! | | version 1 (`xtwebhooks.job.v1`) | version 2 (`xtwebhooks.job.v2`) |
//! |---|---|---|
//! | body | the rendered body, posted byte for byte | the event's `data`, from which the worker renders |
//! | header `timestamp` | none | the event's time in whole seconds, where there is a body |
//! | no body | the delivery must be claimed | the same |
//!
//! All other headers are the same in both. Version 2 reserves the names `webhook_version` and `mac`: readers of this release
//! ignore them, and a later release defines them. Both versions are read; `JOB_VERSION` says which one is published.

use std::{fmt::Write, str::FromStr};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

pub use super::config::JobVersion;
use super::{Destination, Headers, Message, Outgoing};
use crate::model::{DeliveryId, EventId, Job, Payload, WebhookId, request};

/// AMQP's `type` of a job of version 1.
pub const KIND_V1: &str = "xtwebhooks.job.v1";
/// AMQP's `type` of a job of version 2.
pub const KIND_V2: &str = "xtwebhooks.job.v2";

/// Why a message is not a valid job; it is dead-lettered with this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{header}` {reason}")]
pub struct BadJob {
    /// The header at fault, or `type`.
    pub header: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// The messages of jobs, in their order, each to its destination.
pub fn encode<'j>(
    version: JobVersion,
    jobs: impl IntoIterator<Item = (&'j Job, Destination)>,
) -> Vec<Outgoing> {
    let mut rendered = LastRendered::default();
    jobs.into_iter().map(|(job, to)| message(version, job, to, &mut rendered)).collect()
}

pub fn decode(message: &Message) -> Result<Job, BadJob> {
    read(message.kind.as_deref(), &message.headers, &message.body)
}

/// The body that was rendered last: the jobs of an event follow each other, and share it.
#[derive(Default)]
struct LastRendered(Option<(EventId, Bytes)>);

impl LastRendered {
    fn body(&mut self, job: &Job, payload: &Payload) -> Bytes {
        match &self.0 {
            Some((event, body)) if *event == job.event => body.clone(),
            _ => {
                let body = request::standard_body(payload, &job.event_type, job.company);
                self.0 = Some((job.event, body.clone()));
                body
            }
        }
    }
}

fn message(version: JobVersion, job: &Job, to: Destination, rendered: &mut LastRendered) -> Outgoing {
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
    let (kind, body) = match (&job.payload, version) {
        (Some(Payload::Event { data, timestamp }), JobVersion::V2) => {
            headers.set_i64("timestamp", *timestamp);
            (KIND_V2, data.clone())
        }
        // What is rendered already can only be a job of version 1.
        (Some(payload), _) => (KIND_V1, rendered.body(job, payload)),
        (None, JobVersion::V1) => (KIND_V1, Bytes::new()),
        (None, JobVersion::V2) => (KIND_V2, Bytes::new()),
    };
    // Bundles of one event have no delivery in common, so the first tells them apart.
    let first = job.deliveries.first().map_or(job.event.uuid(), |(delivery, _)| delivery.uuid());
    let message_id = format!("{first}.{}", job.attempt);
    Outgoing { to, message_id, kind, timestamp: None, headers, body }
}

/// `<delivery>/<webhook>`, joined by a space.
fn pairs(deliveries: &[(DeliveryId, WebhookId)]) -> String {
    let mut text = String::with_capacity(deliveries.len() * 74);
    for (delivery, webhook) in deliveries {
        let space = if text.is_empty() { "" } else { " " };
        write!(text, "{space}{delivery}/{webhook}").expect("writing to a String cannot fail");
    }
    text
}

fn read(kind: Option<&str>, headers: &Headers, body: &Bytes) -> Result<Job, BadJob> {
    let has_body = !body.is_empty();
    let payload = match kind {
        Some(KIND_V1) => has_body.then(|| Payload::Rendered(body.clone())),
        Some(KIND_V2) if has_body => {
            Some(Payload::Event { data: body.clone(), timestamp: timestamp(headers)? })
        }
        Some(KIND_V2) => None,
        Some(other) => {
            let known = format!("this release knows only `{KIND_V1}` and `{KIND_V2}`");
            return Err(bad("type", format!("is `{other}`, but {known}")));
        }
        None => return Err(bad("type", "is missing")),
    };
    Ok(Job {
        company: parsed(headers, "company")?,
        event: parsed(headers, "event")?,
        event_type: parsed(headers, "event_type")?,
        deliveries: deliveries(headers)?,
        attempt: attempt(headers)?,
        queued_at: parsed::<DateTime<Utc>>(headers, "queued_at")?,
        trigger: parsed(headers, "trigger")?,
        traceparent: headers.get_str("traceparent").map(str::to_owned),
        payload,
    })
}

fn bad(header: &'static str, reason: impl Into<String>) -> BadJob {
    BadJob { header, reason: reason.into() }
}

fn text<'a>(headers: &'a Headers, header: &'static str) -> Result<&'a str, BadJob> {
    headers.get_str(header).ok_or_else(|| bad(header, "is missing or not a string"))
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(headers: &Headers, header: &'static str) -> Result<T, BadJob> {
    let text = text(headers, header)?;
    text.parse().map_err(|error| bad(header, format!("is `{text}`: {error}")))
}

fn attempt(headers: &Headers) -> Result<u32, BadJob> {
    let number = headers.get_i64("attempt").ok_or_else(|| bad("attempt", "is missing or not a number"))?;
    match u32::try_from(number) {
        Ok(attempt) if attempt > 0 => Ok(attempt),
        _ => Err(bad("attempt", format!("is {number}; attempts count from 1"))),
    }
}

fn timestamp(headers: &Headers) -> Result<i64, BadJob> {
    headers.get_i64("timestamp").ok_or_else(|| bad("timestamp", "is missing or not a number"))
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
        .ok_or_else(|| bad("deliveries", format!("has `{text}` instead of a delivery and a webhook")))
}

#[cfg(test)]
mod tests;
