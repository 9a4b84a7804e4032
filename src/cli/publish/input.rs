//! The events to publish, from arguments or from lines.

use std::fmt;

use anyhow::Context;
use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Stdin};
use uuid::Uuid;

use crate::model::{
    CompanyId, EventType,
    envelope::{Attributes, EnvelopeLimits, Incoming, Rejected, decode},
};

/// The longest line that is read; the service has a lower limit of its own.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The routing key of a line that is published unchecked and names no type.
const NO_TYPE: &str = "unknown";

/// An event as it is published.
pub(super) struct EventInput {
    /// Its message id.
    pub(super) id: String,
    /// Its type.
    pub(super) routing_key: String,
    /// The guide's envelope, byte for byte as it was read.
    pub(super) body: Bytes,
}

impl EventInput {
    /// Reads the envelope as the service will, so that errors are found before it is published.
    pub(super) fn read(body: Bytes, routing_key: &str) -> Result<Self, Rejected> {
        let incoming = Incoming {
            body: &body,
            routing_key,
            message_id: None,
            timestamp: None,
            company_id: None,
            traceparent: None,
            content_type: None,
            attributes: Attributes::default(),
        };
        let limits = EnvelopeLimits { event_bytes_max: LINE_BYTES_MAX, dedupe_identical: true };
        let decoded = decode(&incoming, &limits)?;
        if decoded.event_type.is_reserved() {
            return Err(Rejected::reserved_type());
        }
        Ok(Self { id: decoded.message_id, routing_key: decoded.event_type.as_str().to_owned(), body })
    }

    /// Takes the bytes as they are. The routing key is the type that they name, if they name one.
    fn unchecked(body: Bytes, routing_key: Option<&EventType>) -> Self {
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        let named = value["event_type"].as_str().and_then(|text| text.parse::<EventType>().ok());
        let routing_key = routing_key.or(named.as_ref()).map_or(NO_TYPE, EventType::as_str).to_owned();
        Self { id: Uuid::new_v4().to_string(), routing_key, body }
    }
}

/// The guide's envelope with an id, and with `data` byte for byte. A timestamp that is not a number becomes a string.
pub(super) fn envelope(
    id: &str,
    event_type: &EventType,
    data: &str,
    company: CompanyId,
    timestamp: &str,
) -> Bytes {
    let id = Value::from(id);
    let timestamp = if timestamp.parse::<f64>().is_ok() {
        timestamp.to_owned()
    } else {
        Value::from(timestamp).to_string()
    };
    format!(r#"{{"event_id":{id},"event_type":"{event_type}","data":{data},"company_id":"{company}","timestamp":{timestamp}}}"#).into()
}

/// Lines to publish together.
pub(super) struct InputBatch {
    pub(super) events: Vec<EventInput>,
    pub(super) bad: Vec<BadLine>,
    pub(super) is_last: bool,
}

/// A line that is not a valid event.
#[derive(Debug)]
pub(super) struct BadLine {
    number: usize,
    why: Rejected,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.number, self.why)
    }
}

/// Standard input, read as it comes.
pub(super) struct Lines {
    input: BufReader<Stdin>,
    event_type: Option<EventType>,
    unchecked: bool,
    number: usize,
}

impl Lines {
    pub(super) fn from_stdin(event_type: Option<EventType>, unchecked: bool) -> Self {
        Self { input: BufReader::new(tokio::io::stdin()), event_type, unchecked, number: 0 }
    }

    /// The next lines: what has arrived already, at least one and at most `max`.
    pub(super) async fn batch(&mut self, max: usize) -> anyhow::Result<InputBatch> {
        let mut batch = InputBatch { events: Vec::new(), bad: Vec::new(), is_last: false };
        while batch.events.len() + batch.bad.len() < max {
            let Some(line) = self.line().await? else {
                batch.is_last = true;
                break;
            };
            self.number += 1;
            if line.trim_ascii().is_empty() {
                continue;
            }
            match self.event(line) {
                Ok(event) => batch.events.push(event),
                Err(why) => batch.bad.push(BadLine { number: self.number, why }),
            }
            // Events that are typed or piped one by one are published at once.
            if !self.input.buffer().contains(&b'\n') {
                break;
            }
        }
        Ok(batch)
    }

    fn event(&self, line: Bytes) -> Result<EventInput, Rejected> {
        if self.unchecked {
            return Ok(EventInput::unchecked(line, self.event_type.as_ref()));
        }
        EventInput::read(line, self.event_type.as_ref().map_or("", EventType::as_str))
    }

    async fn line(&mut self) -> anyhow::Result<Option<Bytes>> {
        let mut line = Vec::new();
        let bound = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let read = (&mut self.input).take(bound).read_until(b'\n', &mut line).await;
        read.context("cannot read standard input")?;
        if line.len() == LINE_BYTES_MAX {
            anyhow::bail!("line {} is longer than {LINE_BYTES_MAX} bytes", self.number + 1);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if line.is_empty() {
            return Ok(None);
        }
        Ok(Some(line.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn company() -> CompanyId {
        CompanyId(Uuid::from_u128(7))
    }

    #[test]
    fn an_event_from_arguments_keeps_its_data_byte_for_byte() {
        let event_type: EventType = "ticket.created".parse().unwrap();
        let check = |timestamp: &str, written: &str| {
            let body = envelope("a\"b", &event_type, r#"{"b": 1, "a":"\u0000"}"#, company(), timestamp);
            let expected = format!(
                r#"{{"event_id":"a\"b","event_type":"ticket.created","data":{{"b": 1, "a":"\u0000"}},"company_id":"{}","timestamp":{written}}}"#,
                company()
            );
            assert_eq!(body, expected);
            let event = EventInput::read(body, "ticket.created").unwrap();
            assert_eq!((event.id.as_str(), event.routing_key.as_str()), ("a\"b", "ticket.created"));
        };
        check("1800000000", "1800000000");
        check("1800000000.5", "1800000000.5");
        check("2026-01-31T12:00:00Z", r#""2026-01-31T12:00:00Z""#);
    }

    #[test]
    fn what_is_no_event_is_refused_by_its_field_or_published_as_it_is() {
        let check = |line: &'static str, expected: Result<&str, &str>| {
            let read = EventInput::read(Bytes::from_static(line.as_bytes()), "")
                .map_err(|why| why.field.into_owned());
            assert_eq!(
                read.as_ref().map(|event| event.routing_key.as_str()).map_err(String::as_str),
                expected,
                "{line}"
            );
        };
        check("nonsense", Err("body"));
        check(r#"{"event_type":"a.b","data":1}"#, Err("company_id"));
        check(
            r#"{"event_type":"a.b","company_id":"00000000-0000-0000-0000-000000000007","data":1}"#,
            Ok("a.b"),
        );
        let unchecked =
            |line: &'static [u8]| EventInput::unchecked(Bytes::from_static(line), None).routing_key;
        assert_eq!(unchecked(b"nonsense"), NO_TYPE);
        assert_eq!(unchecked(br#"{"event_type":"a.b"}"#), "a.b");
    }
}
