//! An event: a fact that XTSystems published, ingested once, immutable.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::id::{CompanyId, EventId};

/// The longest event type, as the guide's table has it.
pub const EVENT_TYPE_BYTES_MAX: usize = 100;

/// The prefixes of types that only this service publishes: operational events.
pub const RESERVED_PREFIXES: [&str; 2] = ["webhook.", "delivery."];

/// `ticket.created`: letters, digits and `. _ - : /`, beginning with a letter or digit, at most 100 characters.
///
/// It becomes a routing key, a header value and a label, so nothing else is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EventType(Arc<str>);

/// Why a text is not an event type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEventType {
    #[error("is empty")]
    Empty,
    /// It is longer than [`EVENT_TYPE_BYTES_MAX`].
    #[error("is longer than {EVENT_TYPE_BYTES_MAX} characters")]
    TooLong,
    /// It has a character that is not allowed, or not allowed at the start.
    #[error("may contain only letters, digits and . _ - : / and must start with a letter or digit")]
    Characters,
}

impl EventType {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether only this service may publish it: an operational event.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        RESERVED_PREFIXES.iter().any(|prefix| self.0.starts_with(prefix))
    }
}

impl FromStr for EventType {
    type Err = BadEventType;

    fn from_str(text: &str) -> Result<Self, BadEventType> {
        let first = text.bytes().next().ok_or(BadEventType::Empty)?;
        if text.len() > EVENT_TYPE_BYTES_MAX {
            return Err(BadEventType::TooLong);
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-:/".contains(&b);
        if first.is_ascii_alphanumeric() && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(BadEventType::Characters)
        }
    }
}

impl TryFrom<String> for EventType {
    type Error = BadEventType;

    fn try_from(text: String) -> Result<Self, BadEventType> {
        text.parse()
    }
}

impl From<EventType> for String {
    fn from(event_type: EventType) -> Self {
        event_type.as_str().to_owned()
    }
}

impl Borrow<str> for EventType {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An event as it is in the ledger.
#[derive(Clone, Debug)]
pub struct Event {
    /// Derived from time, company and message id.
    pub id: EventId,
    pub company: CompanyId,
    pub event_type: EventType,
    /// What makes it the same event when it is published again.
    pub message_id: String,
    /// The published time in whole seconds since 1970, or that of intake if none was published. It is sent to
    /// receivers.
    pub timestamp: i64,
    /// The published JSON value, byte for byte.
    pub data: String,
    /// Distinguishes two bodies with the same message id.
    pub body_hash: i64,
    /// The W3C trace context it was published with.
    pub traceparent: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_types_are_names_without_surprises() {
        let check = |text: &str, expected: Result<(), BadEventType>| {
            assert_eq!(text.parse::<EventType>().map(drop), expected, "{text:?}");
        };
        check("ticket.created", Ok(()));
        check("a", Ok(()));
        check("x-y_z:1/2", Ok(()));
        check("", Err(BadEventType::Empty));
        check(&"a".repeat(100), Ok(()));
        check(&"a".repeat(101), Err(BadEventType::TooLong));
        check(".ticket", Err(BadEventType::Characters));
        check("ticket.*", Err(BadEventType::Characters));
        check("ticket created", Err(BadEventType::Characters));
        check("tick\u{e9}t", Err(BadEventType::Characters));
        check("a\r\nb", Err(BadEventType::Characters));
    }

    #[test]
    fn what_only_the_service_says_is_reserved() {
        let check = |text: &str, expected: bool| {
            assert_eq!(text.parse::<EventType>().unwrap().is_reserved(), expected, "{text}");
        };
        check("webhook.failing", true);
        check("delivery.dead_lettered", true);
        check("webhook.anything", true);
        check("webhook", false);
        check("webhooks.created", false);
        check("delivery:note", false);
        check("ticket.webhook.created", false);
        // Types are told apart by case everywhere, so this is another one.
        check("Webhook.failing", false);
    }
}
