//! Reads what XTSystems publishes.
//!
//! A message is the guide's JSON, `{"event_type", "data", "company_id", "timestamp"}` with an optional `event_id`, or a
//! CloudEvent (`cloud_event.rs`). What it leaves out is taken from the AMQP message; if both are present, the body
//! wins. `data` is never parsed into values, only delimited: its bytes reach the ledger and the receivers as they were
//! published. What cannot be read is [`Rejected`], naming the field at fault.
//!
//! Begin with [`decode`]; [`place`] then says where in time the event's id lies.

mod cloud_event;
mod fields;
mod times;

use std::borrow::Cow;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use self::cloud_event::{Attributes, Value};
use self::{
    cloud_event::Mode,
    fields::{EnvelopeFields, GUIDE, present, string, text_of},
};
use super::{
    event::EventType,
    event_schema::Violation,
    id::{CompanyId, EventId},
    signature::push_hex,
    trace,
};

/// How deep `data` may nest. PostgreSQL's JSON parser works on a bounded stack and would refuse a deeper value
/// together with all others of its statement.
pub const DATA_DEPTH_MAX: usize = 256;

/// The longest message id, the same as AMQP's short strings.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;

/// How far in the past an event's time may be for its id to be placed there. Older ones are placed at intake.
pub const PLACED_PAST_MAX: TimeDelta = TimeDelta::days(1);

/// How far in the future an event's time may be, for publishers whose clock is fast.
pub const PLACED_FUTURE_MAX: TimeDelta = TimeDelta::hours(1);

/// A message as the broker hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    pub body: &'a [u8],
    /// The routing key, which is the event type.
    pub routing_key: &'a str,
    pub message_id: Option<&'a str>,
    /// The AMQP property `timestamp`, in seconds since 1970.
    pub timestamp: Option<u64>,
    pub company_id: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    pub content_type: Option<&'a str>,
    /// The attributes of a CloudEvent in binary mode, if the headers have any.
    pub attributes: Attributes<'a>,
}

/// The limits of a message, and how messages without an id are told apart.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeLimits {
    /// The longest body: `EVENT_BYTES_MAX`.
    pub event_bytes_max: usize,
    /// Whether equal messages without an id are one event: `DEDUPE_IDENTICAL`.
    pub dedupe_identical: bool,
}

/// An event as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    pub company: CompanyId,
    pub event_type: EventType,
    /// What makes it the same event when it is published again.
    pub message_id: String,
    /// Its own time, if it has one.
    pub time: Option<DateTime<Utc>>,
    /// Its own time in whole seconds since 1970, as it is sent; a fraction is rounded down.
    pub timestamp: Option<i64>,
    /// The published JSON value, byte for byte.
    pub data: String,
    /// Distinguishes two bodies with the same message id.
    pub body_hash: i64,
    /// Its W3C trace context, if that is well-formed.
    pub traceparent: Option<String>,
}

/// Why a message is not a valid event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct Rejected {
    /// The field at fault; `body` for the whole message.
    pub field: Cow<'static, str>,
    /// What is wrong with it, as the rest of a sentence that begins with the field.
    pub reason: String,
}

impl Rejected {
    /// An event of a reserved type from another publisher.
    #[must_use]
    pub fn reserved_type() -> Self {
        rejected("event_type", "is a reserved type: only this service publishes `webhook.*` and `delivery.*`")
    }

    /// An event that fits no schema of its type, if such events become dead letters.
    #[must_use]
    pub fn violation(violation: Violation) -> Self {
        let reason = format!("violates the schema, version {}: {}", violation.version, violation.rule);
        Self { field: violation.field.into(), reason }
    }
}

fn rejected(field: &'static str, reason: impl Into<String>) -> Rejected {
    Rejected { field: Cow::Borrowed(field), reason: reason.into() }
}

/// Reads a message. Nothing in it is trusted, and the work is linear in its length.
pub fn decode(incoming: &Incoming<'_>, limits: &EnvelopeLimits) -> Result<Decoded, Rejected> {
    let mode = cloud_event::mode(incoming)?;
    if mode == Some(Mode::Binary) {
        return cloud_event::binary(incoming, limits);
    }
    let fields = envelope(incoming.body, limits.event_bytes_max)?;
    if mode == Some(Mode::Structured) || fields.is_cloud_event() {
        return cloud_event::structured(&fields, incoming);
    }
    fields.once(&GUIDE)?;
    let event_type = event_type(fields.event_type, incoming.routing_key)?;
    let company = company(fields.company_id, incoming.company_id)?;
    let time = times::time(fields.timestamp, incoming.timestamp)?;
    let data = fields.data.ok_or_else(|| rejected("data", "is missing"))?.get();
    let given = event_id(fields.event_id, incoming.message_id)?;
    let message_id = given.unwrap_or_else(|| made_id(incoming, limits.dedupe_identical));
    finish(company, event_type, message_id, time, data, incoming.traceparent)
}

/// What both forms have in common once their parts are read.
fn finish(
    company: CompanyId,
    event_type: EventType,
    message_id: String,
    time: Option<DateTime<Utc>>,
    data: &str,
    traceparent: Option<&str>,
) -> Result<Decoded, Rejected> {
    if depth(data) > DATA_DEPTH_MAX {
        return Err(rejected("data", format!("nests deeper than {DATA_DEPTH_MAX} levels")));
    }
    Ok(Decoded {
        company,
        message_id,
        time,
        timestamp: time.map(|time| time.timestamp()),
        data: data.to_owned(),
        body_hash: body_hash(data, &event_type),
        event_type,
        traceparent: traceparent.filter(|text| trace::parse(text).is_some()).map(str::to_owned),
    })
}

/// The company of a message, if that can be read although the rest is not an event.
#[must_use]
pub fn company_of(incoming: &Incoming<'_>) -> Option<CompanyId> {
    let mode = cloud_event::mode(incoming).unwrap_or_default();
    if mode == Some(Mode::Binary) {
        return cloud_event::company_of(Mode::Binary, None, incoming);
    }
    let fields = envelope(incoming.body, usize::MAX).ok();
    if mode == Some(Mode::Structured) || fields.as_ref().is_some_and(EnvelopeFields::is_cloud_event) {
        let fields = fields.filter(|fields| fields.once(&["companyid"]).is_ok());
        return cloud_event::company_of(Mode::Structured, fields.as_ref(), incoming);
    }
    let given = fields.filter(|fields| fields.once(&GUIDE).is_ok()).and_then(|fields| fields.company_id);
    company(given, incoming.company_id).ok()
}

fn envelope(body: &[u8], bytes_max: usize) -> Result<EnvelopeFields<'_>, Rejected> {
    if body.is_empty() {
        return Err(rejected("body", "is empty"));
    }
    EnvelopeFields::of(text_of(body, bytes_max)?)
}

fn event_type(given: Option<&RawValue>, routing_key: &str) -> Result<EventType, Rejected> {
    match present(given) {
        Some(json) => {
            string("event_type", json)?.parse().map_err(|bad| rejected("event_type", format!("{bad}")))
        }
        None if routing_key.is_empty() => {
            Err(rejected("event_type", "is missing, and the routing key is empty"))
        }
        None => {
            let missing = |bad| rejected("event_type", format!("is missing, and the routing key {bad}"));
            routing_key.parse().map_err(missing)
        }
    }
}

fn company(given: Option<&RawValue>, header: Option<&str>) -> Result<CompanyId, Rejected> {
    let (text, bad) = match (present(given), header) {
        (Some(json), _) => (string("company_id", json)?, "is not a UUID"),
        (None, Some(header)) => (header.to_owned(), "is missing, and the header `company_id` is not a UUID"),
        (None, None) => return Err(rejected("company_id", "is missing from both the body and the headers")),
    };
    text.parse().map_err(|_| rejected("company_id", bad))
}

fn event_id(given: Option<&RawValue>, property: Option<&str>) -> Result<Option<String>, Rejected> {
    let given = present(given).map(|json| string("event_id", json)).transpose()?;
    let given = given.filter(|id| !id.is_empty()).map(|id| ("event_id", id));
    let property = property.filter(|id| !id.is_empty()).map(|id| ("message_id", id.to_owned()));
    let Some((field, id)) = given.or(property) else { return Ok(None) };
    if id.len() > MESSAGE_ID_BYTES_MAX {
        return Err(rejected(field, format!("is longer than {MESSAGE_ID_BYTES_MAX} bytes")));
    }
    if id.chars().any(char::is_control) {
        return Err(rejected(field, "contains control characters"));
    }
    Ok(Some(id))
}

/// The id of a message that has none: by its content, or a random one if equal messages count as different.
#[must_use]
pub fn made_id(incoming: &Incoming<'_>, dedupe_identical: bool) -> String {
    if !dedupe_identical {
        return Uuid::new_v4().to_string();
    }
    let hash = Sha256::new().chain_update(incoming.routing_key).chain_update([0]);
    let digest = hash.chain_update(incoming.body).finalize();
    let mut id = String::with_capacity(2 * digest.len());
    push_hex(&mut id, &digest);
    id
}

fn body_hash(data: &str, event_type: &EventType) -> i64 {
    let digest = Sha256::new().chain_update(data).chain_update(event_type.as_str()).finalize();
    let (first, _) = digest.split_first_chunk().expect("SHA-256 has 32 bytes");
    i64::from_be_bytes(*first)
}

/// How deep arrays and objects nest in a valid JSON text. A loop, because with recursion the text would decide how much
/// stack is used.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Where in time an event's id is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// At its own time.
    At(EventId),
    /// Its own time is absent or too far away: the key (company, message id) is claimed in `intake_keys`, and
    /// the first to claim it is placed at intake.
    Claim {
        /// The id that its own time would give. It is looked up first: the event may have been taken in while its time
        /// was near.
        own: Option<EventId>,
    },
}

/// Places an event in time, as seen at `now`.
#[must_use]
pub fn place(decoded: &Decoded, now: DateTime<Utc>) -> Placed {
    let own = decoded.time.map(|time| EventId::derive(time, decoded.company, &decoded.message_id));
    let near = |time: DateTime<Utc>| {
        let ahead = time - now;
        -PLACED_PAST_MAX <= ahead && ahead <= PLACED_FUTURE_MAX
    };
    match own {
        Some(id) if decoded.time.is_some_and(near) => Placed::At(id),
        own => Placed::Claim { own },
    }
}

#[cfg(test)]
mod tests;
