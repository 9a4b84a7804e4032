//! Reads CloudEvents 1.0, in both content modes.
//!
//! *Structured*: the body is a JSON object with attributes and data; its content type starts with
//! `application/cloudevents+json`, or it has a `specversion` and no `event_type`. *Binary*: the body is the data,
//! the attributes are headers, and AMQP's `content_type` is `datacontenttype`. Headers have the prefixes of the AMQP
//! binding, `cloudEvents:` and `cloudEvents_`, or `ce-` and `ce_`, which are common with RabbitMQ and Kafka.
//!
//! As in the specification, `source` and `id` together identify an event; the company is the extension `companyid`,
//! else the header `company_id`. As with the guide's form, data reaches the receivers byte for byte; an event without
//! data has the data `null`.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>, with `bindings/amqp-protocol-binding.md` and
//! `formats/json-format.md` in the same repository;
//! <https://github.com/knative-extensions/eventing-rabbitmq/blob/main/cloudevents-protocol-spec/spec.md> for `ce-`.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{
    Decoded, EnvelopeLimits, Incoming, MESSAGE_ID_BYTES_MAX, Rejected,
    fields::{CLOUD_EVENT, EnvelopeFields, present, string, text_of},
    finish, rejected, times,
};
use crate::model::{id::CompanyId, signature::push_hex};

/// The only version of the specification that is read.
const SPECVERSION: &str = "1.0";
/// The prefix of a structured event's content type.
const MEDIA_TYPE: &str = "application/cloudevents";
/// The prefixes of a binary event's headers, in any case.
const PREFIXES: [&str; 4] = ["cloudEvents:", "cloudEvents_", "ce-", "ce_"];

/// The value of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Text(&'a str),
    Number(i64),
    Time(DateTime<Utc>),
    Other,
}

/// The attributes in the headers of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes<'a> {
    specversion: Option<Value<'a>>,
    id: Option<Value<'a>>,
    source: Option<Value<'a>>,
    kind: Option<Value<'a>>,
    time: Option<Value<'a>>,
    companyid: Option<Value<'a>>,
    traceparent: Option<Value<'a>>,
    /// The first attribute that appears twice, under two prefixes and with different values.
    doubled: Option<&'static str>,
}

impl<'a> Attributes<'a> {
    /// Picks them from all headers of a message.
    pub fn pick(headers: impl Iterator<Item = (&'a str, Value<'a>)>) -> Self {
        let mut picked = Self::default();
        for (name, value) in headers {
            let Some(name) = PREFIXES.iter().find_map(|prefix| without(prefix, name)) else { continue };
            let (name, slot) = match name.to_ascii_lowercase().as_str() {
                "specversion" => ("specversion", &mut picked.specversion),
                "id" => ("id", &mut picked.id),
                "source" => ("source", &mut picked.source),
                "type" => ("type", &mut picked.kind),
                "time" => ("time", &mut picked.time),
                "companyid" => ("companyid", &mut picked.companyid),
                "traceparent" => ("traceparent", &mut picked.traceparent),
                _ => continue,
            };
            if slot.replace(value).is_some_and(|former| former != value) {
                picked.doubled.get_or_insert(name);
            }
        }
        picked
    }

    /// Whether they make the message a CloudEvent: it has `specversion`, or everything else that is required.
    const fn are_of_one(&self) -> bool {
        self.specversion.is_some() || (self.id.is_some() && self.source.is_some() && self.kind.is_some())
    }
}

fn without<'a>(prefix: &str, name: &'a str) -> Option<&'a str> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// How a message shows that it is a CloudEvent, before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// All of it is in the body.
    Structured,
    /// The body is the data.
    Binary,
}

/// The mode by content type and headers; `None` if they say nothing, or an error if it is not supported.
pub(super) fn mode(incoming: &Incoming<'_>) -> Result<Option<Mode>, Rejected> {
    let media = essence(incoming.content_type.unwrap_or_default());
    if let Some(format) = without(MEDIA_TYPE, media) {
        return match format.to_ascii_lowercase().as_str() {
            "+json" => Ok(Some(Mode::Structured)),
            batch if batch.starts_with("-batch") => {
                Err(rejected("content_type", "is that of a batch; publish each event as a separate message"))
            }
            _ => Err(rejected(
                "content_type",
                "is a CloudEvents format that is not supported; publish application/cloudevents+json or use binary mode",
            )),
        };
    }
    Ok(incoming.attributes.are_of_one().then_some(Mode::Binary))
}

/// The attributes of an event, wherever they came from.
struct CloudEvent<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    time: Option<DateTime<Utc>>,
    companyid: Option<Cow<'a, str>>,
    traceparent: Option<Cow<'a, str>>,
    data: Cow<'a, str>,
}

/// Reads a structured event.
pub(super) fn structured(fields: &EnvelopeFields<'_>, incoming: &Incoming<'_>) -> Result<Decoded, Rejected> {
    fields.once(&CLOUD_EVENT)?;
    let text = |name, value| Ok(present(value).map(|json| string(name, json)).transpose()?.map(Cow::Owned));
    is_json(text("datacontenttype", fields.datacontenttype)?.as_deref())?;
    let time =
        text("time", fields.time)?.map(|time: Cow<'_, str>| times::rfc3339("time", &time)).transpose()?;
    let data = match (fields.data, present(fields.data_base64)) {
        (Some(_), Some(_)) => {
            return Err(rejected("data_base64", "is present together with `data`; send only one of them"));
        }
        (None, Some(json)) => Cow::Owned(from_base64(json)?),
        (data, None) => Cow::Borrowed(data.map_or("null", RawValue::get)),
    };
    let event = CloudEvent {
        specversion: text("specversion", fields.specversion)?,
        id: text("id", fields.id)?,
        source: text("source", fields.source)?,
        kind: text("type", fields.kind)?,
        time,
        companyid: text("companyid", fields.companyid)?,
        traceparent: text("traceparent", fields.traceparent)?,
        data,
    };
    decoded(event, incoming)
}

/// Reads a binary event.
pub(super) fn binary(incoming: &Incoming<'_>, limits: &EnvelopeLimits) -> Result<Decoded, Rejected> {
    let attributes = &incoming.attributes;
    if let Some(name) = attributes.doubled {
        return Err(rejected(name, "appears twice in the headers with different values"));
    }
    is_json(incoming.content_type)?;
    let time = match attributes.time {
        Some(Value::Text(text)) => Some(times::rfc3339("time", text)?),
        Some(Value::Time(time)) => Some(time),
        // A timestamp of AMQP 1.0, sent by clients without that type.
        Some(Value::Number(milliseconds)) => Some(
            DateTime::from_timestamp_millis(milliseconds)
                .ok_or_else(|| rejected("time", "is out of range for a time in milliseconds since 1970"))?,
        ),
        Some(Value::Other) => return Err(rejected("time", "must be an RFC 3339 time")),
        None => None,
    };
    let data = match text_of(incoming.body, limits.event_bytes_max)? {
        "" => "null",
        text => value(text).map_err(|bad| rejected("body", format!("is not JSON: {bad}")))?,
    };
    let event = CloudEvent {
        specversion: text("specversion", attributes.specversion)?,
        id: text("id", attributes.id)?,
        source: text("source", attributes.source)?,
        kind: text("type", attributes.kind)?,
        time,
        companyid: text("companyid", attributes.companyid)?,
        traceparent: text("traceparent", attributes.traceparent)?,
        data: Cow::Borrowed(data),
    };
    decoded(event, incoming)
}

/// The company of an event whose other parts may be bad.
pub(super) fn company_of(
    mode: Mode,
    fields: Option<&EnvelopeFields<'_>>,
    incoming: &Incoming<'_>,
) -> Option<CompanyId> {
    let given = match mode {
        Mode::Binary => text("companyid", incoming.attributes.companyid).ok()?,
        Mode::Structured => {
            let json = fields.and_then(|fields| present(fields.companyid));
            json.map(|json| string("companyid", json)).transpose().ok()?.map(Cow::Owned)
        }
    };
    company(given.as_deref(), incoming.company_id).ok()
}

fn decoded(event: CloudEvent<'_>, incoming: &Incoming<'_>) -> Result<Decoded, Rejected> {
    match event.specversion.as_deref() {
        Some(SPECVERSION) => {}
        Some(_) => {
            return Err(rejected("specversion", "must be 1.0, the supported version of CloudEvents"));
        }
        None => return Err(rejected("specversion", "is missing; it must be 1.0")),
    }
    let source = required("source", event.source)?;
    let id = required("id", event.id)?;
    if source.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(rejected(
            "source",
            "is not a URI reference: it contains white space or control characters",
        ));
    }
    if id.chars().any(char::is_control) {
        return Err(rejected("id", "contains control characters"));
    }
    let event_type =
        required("type", event.kind)?.parse().map_err(|bad| rejected("type", format!("{bad}")))?;
    let time = match (event.time, incoming.timestamp) {
        (Some(time), _) => Some(time),
        (None, property) => property.map(times::of_property).transpose()?,
    };
    finish(
        company(event.companyid.as_deref(), incoming.company_id)?,
        event_type,
        message_id(&source, &id),
        time,
        &event.data,
        event.traceparent.as_deref().or(incoming.traceparent),
    )
}

/// Source and id joined, which is unambiguous because a source has no space. What is too long is replaced by its hash,
/// which has no space either.
fn message_id(source: &str, id: &str) -> String {
    let joined = format!("{source} {id}");
    if joined.len() <= MESSAGE_ID_BYTES_MAX {
        return joined;
    }
    let mut hash = "sha256:".to_owned();
    push_hex(&mut hash, &Sha256::digest(joined));
    hash
}

fn company(given: Option<&str>, header: Option<&str>) -> Result<CompanyId, Rejected> {
    let (text, bad) = match (given, header) {
        (Some(given), _) => (given, "is not a UUID"),
        (None, Some(header)) => (header, "is missing, and the header `company_id` is not a UUID"),
        (None, None) => {
            let reason =
                "is missing: send the company's UUID in this extension or in the header `company_id`";
            return Err(rejected("companyid", reason));
        }
    };
    text.parse().map_err(|_| rejected("companyid", bad))
}

fn required<'a>(name: &'static str, given: Option<Cow<'a, str>>) -> Result<Cow<'a, str>, Rejected> {
    match given {
        Some(text) if text.is_empty() => Err(rejected(name, "is empty")),
        Some(text) => Ok(text),
        None => Err(rejected(name, "is missing; every CloudEvent must have it")),
    }
}

fn text<'a>(name: &'static str, given: Option<Value<'a>>) -> Result<Option<Cow<'a, str>>, Rejected> {
    match given {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(Cow::Borrowed(text))),
        Some(Value::Number(number)) => Ok(Some(Cow::Owned(number.to_string()))),
        Some(Value::Time(_) | Value::Other) => Err(rejected(name, "must be a string")),
    }
}

/// Data is carried as JSON, so it must be JSON; without a content type it is.
fn is_json(datacontenttype: Option<&str>) -> Result<(), Rejected> {
    let Some(given) = datacontenttype.filter(|given| !given.is_empty()) else { return Ok(()) };
    let subtype = essence(given).split_once('/').map(|(_, subtype)| subtype.to_ascii_lowercase());
    match subtype {
        Some(subtype) if subtype == "json" || subtype.ends_with("+json") => Ok(()),
        _ => Err(rejected("datacontenttype", "must be application/json or a type that ends with +json")),
    }
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

fn from_base64(json: &str) -> Result<String, Rejected> {
    let bad = |reason: &'static str| rejected("data_base64", reason);
    let bytes = STANDARD.decode(string("data_base64", json)?).map_err(|_| bad("is not base64"))?;
    let text = String::from_utf8(bytes).map_err(|_| bad("does not contain UTF-8"))?;
    let value = value(&text).map_err(|_| bad("does not contain JSON"))?;
    Ok(value.to_owned())
}

/// The one JSON value that a text holds.
fn value(text: &str) -> serde_json::Result<&str> {
    serde_json::from_str::<&RawValue>(text).map(RawValue::get)
}

#[cfg(test)]
mod tests;
