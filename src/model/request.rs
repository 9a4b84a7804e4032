//! What is sent to a receiver: the body and the headers of one attempt.
//!
//! [`render`] is the one place where a request is made: it uses the webhook as it is at that moment. The body is the
//! guide's envelope, the same bytes in every attempt. The headers are the guide's, those of Standard Webhooks and the
//! webhook's own, which may replace the content type and the user agent and nothing else.

use std::io::Write;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    delivery::Trigger,
    event::EventType,
    id::{CompanyId, DeliveryId, EventId},
    payload::Payload,
    trace,
    webhook::Webhook,
};

/// The `Content-Type` of every request, unless the webhook has its own.
pub const CONTENT_TYPE: &str = "application/json";
/// The `User-Agent` of every request, unless the webhook has its own.
pub const USER_AGENT: &str = "XTSystems-Webhook/1.0";
/// How many headers of its own a webhook may have.
pub const OWN_HEADERS_MAX: usize = 32;
/// The most bytes of their names and values in all; servers commonly accept 8 KiB of headers. A webhook that had more before
/// this bound keeps them.
pub const OWN_HEADERS_BYTES_MAX: usize = 8 * 1024;
/// The longest name of such a header.
pub const HEADER_NAME_BYTES_MAX: usize = 128;
/// The longest value of such a header.
pub const HEADER_VALUE_BYTES_MAX: usize = 4_096;

/// What no webhook may set: the framing of the request, which this service controls, and the headers that receivers
/// verify.
const RESERVED: [&str; 13] = [
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "upgrade",
    "keep-alive",
    "trailer",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "traceparent",
    "expect",
];
const RESERVED_PREFIXES: [&str; 2] = ["proxy-", "x-xtsystems-"];

/// The guide's envelope: exactly `{"event_type":…,"data":…,"company_id":…,"timestamp":…}`, without white space of ours
/// and with `data` as it was published.
#[must_use]
pub fn envelope(event_type: &EventType, data: &[u8], company: CompanyId, timestamp: i64) -> Bytes {
    // Room for the names, the punctuation, a UUID and the longest timestamp.
    const AROUND: usize = 128;
    let event_type = event_type.as_str();
    let mut body = Vec::with_capacity(AROUND + event_type.len() + data.len());
    // Neither an event type nor a UUID has a character that JSON would escape.
    body.extend_from_slice(b"{\"event_type\":\"");
    body.extend_from_slice(event_type.as_bytes());
    body.extend_from_slice(b"\",\"data\":");
    body.extend_from_slice(data);
    write!(body, ",\"company_id\":\"{company}\",\"timestamp\":{timestamp}}}")
        .expect("writing to a Vec cannot fail");
    body.into()
}

/// The standard body of a webhook: the envelope, or what was rendered earlier.
#[must_use]
pub fn standard_body(payload: &Payload, event_type: &EventType, company: CompanyId) -> Bytes {
    match payload {
        Payload::Event { data, timestamp } => envelope(event_type, data, company, *timestamp),
        Payload::Rendered(body) => body.clone(),
    }
}

/// A request, ready to be posted.
#[derive(Clone, Debug)]
pub struct Request {
    /// In the order in which they are sent.
    pub headers: HeaderMap,
    /// The bytes that are signed.
    pub body: Bytes,
}

/// Makes the request of an attempt: renders the body, then signs it. The error says which setting of the webhook makes
/// the request impossible.
pub fn render(draft: &Draft<'_>) -> Result<Request, String> {
    let body = standard_body(draft.payload, draft.event_type, draft.webhook.company);
    Ok(Request { headers: headers(draft, &body)?, body })
}

/// What the request of one attempt is made of.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// Where it goes, with secret and headers.
    pub webhook: &'a Webhook,
    pub event: EventId,
    /// The delivery it belongs to.
    pub delivery: DeliveryId,
    pub event_type: &'a EventType,
    /// The attempt's number, from 1.
    pub attempt: u32,
    /// Why the delivery exists.
    pub trigger: Trigger,
    /// The event's trace context.
    pub traceparent: Option<&'a str>,
    /// When it is signed, by the database's clock.
    pub now: DateTime<Utc>,
    /// What it carries.
    pub payload: &'a Payload,
}

fn headers(draft: &Draft<'_>, body: &[u8]) -> Result<HeaderMap, String> {
    let webhook = draft.webhook;
    let mut headers = HeaderMap::with_capacity(12 + webhook.settings.headers.len());
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    if webhook.settings.headers.len() > OWN_HEADERS_MAX {
        return Err(format!("the webhook has more than {OWN_HEADERS_MAX} headers of its own"));
    }
    for (name, value) in &webhook.settings.headers {
        let (name, value) = own_header(name, value)?;
        headers.insert(name, value);
    }
    for (name, value) in ours(draft, body) {
        let value = HeaderValue::try_from(value).map_err(|_| format!("the header {name} cannot be sent"))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

fn ours(draft: &Draft<'_>, body: &[u8]) -> [(&'static str, String); 10] {
    let timestamp = draft.now.timestamp();
    let (guide, standard) = signatures(draft, body, timestamp);
    [
        ("x-xtsystems-signature", guide),
        ("x-xtsystems-timestamp", timestamp.to_string()),
        ("x-xtsystems-event", draft.event_type.to_string()),
        ("x-xtsystems-delivery", draft.delivery.to_string()),
        ("x-xtsystems-attempt", draft.attempt.to_string()),
        ("x-xtsystems-trigger", draft.trigger.to_string()),
        ("webhook-id", draft.event.to_string()),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", standard),
        ("traceparent", trace::of_attempt(draft.traceparent, draft.event, draft.delivery, draft.attempt)),
    ]
}

/// The guide's header holds one signature; that of Standard Webhooks holds both during the grace of a rotation.
fn signatures(draft: &Draft<'_>, body: &[u8], timestamp: i64) -> (String, String) {
    let Draft { webhook, event, now, .. } = *draft;
    let standard = webhook.settings.secret.standard(event, timestamp, body);
    match &webhook.previous_secret {
        Some((previous, until)) if now < *until => {
            let guide = if webhook.guide_signature_is_previous { previous } else { &webhook.settings.secret };
            let both = format!("{standard} {}", previous.standard(event, timestamp, body));
            (guide.guide(timestamp, body), both)
        }
        _ => (webhook.settings.secret.guide(timestamp, body), standard),
    }
}

/// Whether a webhook may have this header of its own; if not, why.
pub fn check_header(name: &str, value: &str) -> Result<(), String> {
    own_header(name, value).map(drop)
}

// No message repeats a value: it may be a password.
fn own_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    if name.len() > HEADER_NAME_BYTES_MAX {
        return Err(format!("a header name is longer than {HEADER_NAME_BYTES_MAX} bytes"));
    }
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("`{}` is not a valid header name", name.escape_debug()))?;
    let lower = parsed.as_str();
    let ours = RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    if ours || RESERVED.contains(&lower) {
        return Err(format!("the header `{lower}` is set by this service and cannot be overridden"));
    }
    if value.len() > HEADER_VALUE_BYTES_MAX {
        return Err(format!(
            "the value of the header `{lower}` is longer than {HEADER_VALUE_BYTES_MAX} bytes"
        ));
    }
    // `HeaderValue` accepts bytes beyond ASCII too, which servers interpret differently.
    let parsed_value = HeaderValue::from_str(value).ok().filter(|value| value.to_str().is_ok());
    let mut value = parsed_value.ok_or_else(|| {
        format!("the value of the header `{lower}` contains characters other than visible ASCII")
    })?;
    value.set_sensitive(true);
    Ok((parsed, value))
}

#[cfg(test)]
mod tests;
