//! Reads what XTSystems publishes.
//!
//! A message is the guide's JSON, `{"event_type", "data", "company_id", "timestamp"}` with an optional
//! `event_id`; what it leaves out is taken from the AMQP message, and where both say something the body wins.
//! `data` is never parsed into values, only delimited: its bytes reach the ledger and the receivers as they
//! were published. What cannot be read is [`Rejected`] with the field that is to blame.
//!
//! Begin with [`decode`]; [`place`] then says where in time the event's id stands.

use std::fmt;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{
    Deserializer,
    de::{Error, IgnoredAny, MapAccess, Visitor},
};
use serde_json::{error::Category, value::RawValue};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{
    event::EventType,
    id::{CompanyId, EventId},
    signature::push_hex,
    trace,
};

/// How deep `data` may nest. PostgreSQL's JSON parser works on a bounded stack and would refuse a deeper value
/// together with all others of its statement.
pub const DATA_DEPTH_MAX: usize = 256;

/// The longest message id, the same as AMQP's short strings.
pub const MESSAGE_ID_BYTES_MAX: usize = 255;

/// How far an event's time may lie back for its id to be placed there. Older ones are placed at intake.
pub const PLACED_PAST_MAX: TimeDelta = TimeDelta::days(1);

/// How far an event's time may lie ahead, for publishers whose clock is fast.
pub const PLACED_FUTURE_MAX: TimeDelta = TimeDelta::hours(1);

/// A message as the broker hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// The payload.
    pub body: &'a [u8],
    /// The routing key, which is the event type.
    pub routing_key: &'a str,
    /// The AMQP property `message_id`.
    pub message_id: Option<&'a str>,
    /// The AMQP property `timestamp`, in seconds since 1970.
    pub timestamp: Option<u64>,
    /// The header `company_id`.
    pub company_id: Option<&'a str>,
    /// The header `traceparent`.
    pub traceparent: Option<&'a str>,
}

/// What is taken at most, and how messages without an id are told apart.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest body: `EVENT_BYTES_MAX`.
    pub event_bytes_max: usize,
    /// Whether equal messages without an id are one event: `DEDUPE_IDENTICAL`.
    pub dedupe_identical: bool,
}

/// An event as it was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The tenant.
    pub company: CompanyId,
    /// What happened.
    pub event_type: EventType,
    /// What makes it the same event when it is published again.
    pub message_id: String,
    /// Its own time, if it has one.
    pub time: Option<DateTime<Utc>>,
    /// Its own time in whole seconds since 1970, as it goes on the wire; a fraction is rounded down.
    pub timestamp: Option<i64>,
    /// The published JSON value, byte for byte.
    pub data: String,
    /// Tells apart two bodies that bear one message id.
    pub body_hash: i64,
    /// Its W3C trace context, if that is well-formed.
    pub traceparent: Option<String>,
}

/// Why a message is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}` {reason}")]
pub struct Rejected {
    /// The field to blame: `body` where it is the whole.
    pub field: &'static str,
    /// What is wrong with it, as the rest of a sentence that begins with the field.
    pub reason: String,
}

fn rejected(field: &'static str, reason: impl Into<String>) -> Rejected {
    Rejected { field, reason: reason.into() }
}

/// Reads a message. Nothing in it is trusted, and no effort grows faster than its length.
pub fn decode(incoming: &Incoming<'_>, limits: &Limits) -> Result<Decoded, Rejected> {
    let fields = envelope(incoming.body, limits.event_bytes_max)?;
    let event_type = event_type(fields.event_type, incoming.routing_key)?;
    let company = company(fields.company_id, incoming.company_id)?;
    let time = time(fields.timestamp, incoming.timestamp)?;
    let data = fields.data.ok_or_else(|| rejected("data", "is missing"))?.get();
    if depth(data) > DATA_DEPTH_MAX {
        return Err(rejected("data", format!("nests deeper than {DATA_DEPTH_MAX} levels")));
    }
    let given = event_id(fields.event_id, incoming.message_id)?;
    let message_id = given.unwrap_or_else(|| made_id(incoming, limits.dedupe_identical));
    Ok(Decoded {
        company,
        message_id,
        time,
        timestamp: time.map(|time| time.timestamp()),
        data: data.to_owned(),
        body_hash: body_hash(data, &event_type),
        event_type,
        traceparent: incoming.traceparent.filter(|text| trace::parse(text).is_some()).map(str::to_owned),
    })
}

/// Whose message it is, as far as that can be read, though the rest of it is no event.
#[must_use]
pub fn company_of(body: &[u8], header: Option<&str>) -> Option<CompanyId> {
    let given = envelope(body, usize::MAX).ok().and_then(|fields| fields.company_id);
    company(given, header).ok()
}

/// The envelope's fields, delimited but not read.
#[derive(Default)]
struct Fields<'a> {
    event_type: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    company_id: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
    event_id: Option<&'a RawValue>,
    /// The first of them that stands there twice.
    doubled: Option<&'static str>,
}

fn envelope(body: &[u8], bytes_max: usize) -> Result<Fields<'_>, Rejected> {
    if body.is_empty() {
        return Err(rejected("body", "is empty"));
    }
    if body.len() > bytes_max {
        let reason = format!("has {} bytes, more than EVENT_BYTES_MAX allows ({bytes_max})", body.len());
        return Err(rejected("body", reason));
    }
    let text = str::from_utf8(body)
        .map_err(|bad| rejected("body", format!("is not UTF-8 from byte {} on", bad.valid_up_to())))?;
    let mut parser = serde_json::Deserializer::from_str(text);
    let fields = parser.deserialize_map(FieldsVisitor).and_then(|fields| parser.end().map(|()| fields));
    let fields = fields.map_err(|bad| match bad.classify() {
        // Its message repeats the value found, which may be long and is nobody's business in a log.
        Category::Data => rejected("body", "is not a JSON object"),
        _ => rejected("body", format!("is not JSON: {bad}")),
    })?;
    match fields.doubled {
        Some(field) => Err(rejected(field, "stands in the body twice")),
        None => Ok(fields),
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with event_type, data, company_id and timestamp")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields = Fields::default();
        while let Some(Key(name)) = map.next_key()? {
            let slot = match name {
                Some("event_type") => &mut fields.event_type,
                Some("data") => &mut fields.data,
                Some("company_id") => &mut fields.company_id,
                Some("timestamp") => &mut fields.timestamp,
                Some("event_id") => &mut fields.event_id,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            let doubled = slot.replace(map.next_value()?).is_some();
            fields.doubled = fields.doubled.or(name.filter(|_| doubled));
        }
        Ok(fields)
    }
}

/// A name of the envelope, however it is escaped; `None` for any other.
struct Key(Option<&'static str>);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Key, E> {
                const NAMES: [&str; 5] = ["event_type", "data", "company_id", "timestamp", "event_id"];
                Ok(Key(NAMES.into_iter().find(|name| *name == text)))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// The field's value, taking `null` for absent: serializers write it for what they leave out.
fn present(value: Option<&RawValue>) -> Option<&str> {
    value.map(RawValue::get).filter(|text| *text != "null")
}

fn string(field: &'static str, json: &str) -> Result<String, Rejected> {
    if !json.starts_with('"') {
        return Err(rejected(field, format!("must be a string, not {}", kind(json))));
    }
    serde_json::from_str(json).map_err(|_| rejected(field, "is not a string of Unicode characters"))
}

fn kind(json: &str) -> &'static str {
    match json.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
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
            let told = |bad| rejected("event_type", format!("is missing, and the routing key {bad}"));
            routing_key.parse().map_err(told)
        }
    }
}

fn company(given: Option<&RawValue>, header: Option<&str>) -> Result<CompanyId, Rejected> {
    let (text, bad) = match (present(given), header) {
        (Some(json), _) => (string("company_id", json)?, "is not a UUID"),
        (None, Some(header)) => (header.to_owned(), "is missing, and the header is not a UUID"),
        (None, None) => return Err(rejected("company_id", "is missing, in the body and as a header")),
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
        return Err(rejected(field, "has control characters"));
    }
    Ok(Some(id))
}

/// The id of a message that has none: by its content, or a fresh one where equal messages are to be different.
fn made_id(incoming: &Incoming<'_>, dedupe_identical: bool) -> String {
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

fn time(given: Option<&RawValue>, property: Option<u64>) -> Result<Option<DateTime<Utc>>, Rejected> {
    let read = match (present(given), property) {
        (Some(json), _) => read_time(json),
        (None, Some(seconds)) => i64::try_from(seconds).ok().and_then(at_second).ok_or_else(out_of_range),
        (None, None) => return Ok(None),
    };
    read.map(Some)
}

fn read_time(json: &str) -> Result<DateTime<Utc>, Rejected> {
    if json.starts_with('"') {
        return DateTime::parse_from_rfc3339(&string("timestamp", json)?).map(|time| time.to_utc()).map_err(
            |_| rejected("timestamp", "is no RFC 3339 time such as 2026-01-31T12:00:00Z, zone included"),
        );
    }
    if let Ok(seconds) = json.parse::<i64>() {
        return at_second(seconds).ok_or_else(out_of_range);
    }
    match kind(json) {
        "a number" => json.parse().ok().and_then(at_fraction).ok_or_else(out_of_range),
        other => {
            Err(rejected("timestamp", format!("must be seconds since 1970 or an RFC 3339 time, not {other}")))
        }
    }
}

fn out_of_range() -> Rejected {
    rejected("timestamp", "is out of range for a time in seconds since 1970")
}

fn at_second(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

fn at_fraction(seconds: f64) -> Option<DateTime<Utc>> {
    let whole = seconds.floor();
    // Beyond this a float has no whole seconds any more, and no calendar reaches that far.
    if whole.abs() > 9e15 {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "both are bounded just above"
    )]
    let (whole, nanos) = (whole as i64, ((seconds - whole) * 1e9) as u32);
    DateTime::from_timestamp(whole, nanos.min(999_999_999))
}

/// How deep arrays and objects nest in a valid JSON text. A loop, for recursion would let the text decide how
/// much stack is used.
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

/// Where in time an event's id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// At its own time.
    At(EventId),
    /// Its own time is absent or too far away: the key (company, message id) is claimed in `intake_keys`, and
    /// the first to claim it is placed at intake.
    Claim {
        /// The id that its own time would give. It is looked up first: the event may have been taken while
        /// its time was near.
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
