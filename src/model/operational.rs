//! Operational events: what the service itself tells a company about its webhooks and deliveries.
//!
//! They are events like any other, in the guide's shape, and a webhook subscribes to them like to any other. Their
//! types are reserved (`EventType::is_reserved`). The message id is derived from what is announced, so announcing it
//! twice makes one event. `data` has facts and the sentences that people read elsewhere too: no secret, no URL.
//!
//! They never cause others: what happens to an operational event is not announced.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    event::EventType,
    id::{CompanyId, DeliveryId, EventId, WebhookId},
    request,
    words::words,
};

/// The most events of each type that are published for a webhook in one hour; others are only counted.
pub const ANNOUNCED_PER_HOUR_MAX: i64 = 60;
/// The longest sentence that is passed on, in characters; a person may have written it.
const SENTENCE_CHARS_MAX: usize = 500;

/// What happened to a webhook, as the ledger's table of transitions has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransitionKind {
    /// Its breaker opened.
    Opened,
    /// Its breaker closed.
    Closed,
    /// It was paused.
    Paused,
    /// Its pause ended.
    Resumed,
}

words!(TransitionKind { Opened = "opened", Closed = "closed", Paused = "paused", Resumed = "resumed" });

impl TransitionKind {
    /// The type of the event that announces it. The end of a pause is not announced, because a person caused it.
    #[must_use]
    pub const fn event_type(self) -> Option<&'static str> {
        match self {
            Self::Opened => Some("webhook.failing"),
            Self::Closed => Some("webhook.recovered"),
            Self::Paused => Some("webhook.paused"),
            Self::Resumed => None,
        }
    }
}

/// The type of the event that announces a delivery given up.
pub const DEAD_LETTERED: &str = "delivery.dead_lettered";

/// A change of a webhook to be announced.
#[derive(Clone, Debug)]
pub struct WebhookStatus {
    /// What changed.
    pub transition: TransitionKind,
    pub at: DateTime<Utc>,
    pub company: CompanyId,
    pub webhook: WebhookId,
    /// The webhook's name, while its row exists.
    pub name: Option<String>,
    /// Why, in words for a person.
    pub reason: Option<String>,
    /// Of a pause: who caused it.
    pub by: Option<String>,
    /// Of a closing: the opening.
    pub opened_at: Option<DateTime<Utc>>,
    /// Of an opening and a closing: the first failure.
    pub failing_since: Option<DateTime<Utc>>,
}

/// A delivery given up, to be announced.
#[derive(Clone, Debug)]
pub struct DeadLettered {
    pub delivery: DeliveryId,
    /// When it was given up.
    pub at: DateTime<Utc>,
    pub company: CompanyId,
    /// Where it should have gone.
    pub webhook: WebhookId,
    /// The webhook's name, while its row exists.
    pub name: Option<String>,
    /// What it carried.
    pub event: Option<EventId>,
    pub event_type: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// How many attempts were made.
    pub attempts: i32,
    /// The outcome of the last.
    pub outcome: Option<String>,
    /// The status that the receiver answered.
    pub response_status: Option<i32>,
}

/// A message in the guide's shape, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What makes it the same event when it is published again.
    pub message_id: String,
    /// When it happened, in seconds since 1970.
    pub timestamp: i64,
    /// The guide's envelope.
    pub body: Bytes,
}

impl WebhookStatus {
    /// The announcement of it, if there is one.
    #[must_use]
    pub fn announcement(&self) -> Option<Announcement> {
        let event_type = self.transition.event_type()?;
        let mut data = facts(&[
            ("webhook_id", Some(json!(self.webhook))),
            ("name", self.name.as_ref().map(|name| json!(name))),
            ("reason", self.reason.as_deref().map(sentence)),
        ]);
        data.extend(match self.transition {
            TransitionKind::Paused => {
                facts(&[("since", Some(time(self.at))), ("by", self.by.as_ref().map(|by| json!(by)))])
            }
            TransitionKind::Opened => facts(&[
                ("since", Some(time(self.failing_since.unwrap_or(self.at)))),
                ("opened_at", Some(time(self.at))),
            ]),
            TransitionKind::Closed | TransitionKind::Resumed => facts(&[
                ("since", self.failing_since.or(self.opened_at).map(time)),
                ("opened_at", self.opened_at.map(time)),
                ("recovered_at", Some(time(self.at))),
            ]),
        });
        let message_id = format!("{event_type}:{}:{}", self.webhook, self.at.timestamp_micros());
        announcement(event_type, message_id, self.at, self.company, data)
    }
}

impl DeadLettered {
    #[must_use]
    pub fn announcement(&self) -> Option<Announcement> {
        let data = facts(&[
            ("delivery_id", Some(json!(self.delivery))),
            ("webhook_id", Some(json!(self.webhook))),
            ("name", self.name.as_ref().map(|name| json!(name))),
            ("event_id", Some(json!(self.event))),
            ("event_type", Some(json!(self.event_type))),
            ("reason", Some(sentence(&self.reason))),
            ("attempts", Some(json!(self.attempts))),
            ("outcome", Some(json!(self.outcome))),
            ("response_status", Some(json!(self.response_status))),
        ]);
        let message_id = format!("{DEAD_LETTERED}:{}", self.delivery);
        announcement(DEAD_LETTERED, message_id, self.at, self.company, data)
    }
}

fn announcement(
    event_type: &str,
    message_id: String,
    at: DateTime<Utc>,
    company: CompanyId,
    data: Map<String, Value>,
) -> Option<Announcement> {
    let event_type: EventType = event_type.parse().ok()?;
    let timestamp = at.timestamp();
    let data = Value::Object(data).to_string();
    let body = request::envelope(&event_type, data.as_bytes(), company, timestamp);
    Some(Announcement { message_id, timestamp, body })
}

fn facts(given: &[(&str, Option<Value>)]) -> Map<String, Value> {
    given.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?))).collect()
}

fn time(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

fn sentence(text: &str) -> Value {
    let mut kept: String = text.chars().take(SENTENCE_CHARS_MAX).collect();
    if kept.len() < text.len() {
        kept.push('…');
    }
    json!(kept)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(s: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + s, 250_000_000).expect("a time")
    }

    fn changed(transition: TransitionKind) -> WebhookStatus {
        WebhookStatus {
            transition,
            at: at(60),
            company: CompanyId(Uuid::from_u128(7)),
            webhook: WebhookId(Uuid::from_u128(1)),
            name: Some("the \"bot\"".to_owned()),
            reason: Some("x".repeat(600)),
            by: Some("xtwebhooks".to_owned()),
            opened_at: Some(at(10)),
            failing_since: Some(at(0)),
        }
    }

    fn read(announcement: &Announcement) -> Value {
        serde_json::from_slice(&announcement.body).expect("JSON")
    }

    #[test]
    fn a_change_is_announced_in_the_guides_shape() {
        let check = |transition, event_type: &str, since: &str, more: &str| {
            let announcement = changed(transition).announcement().expect("it is announced");
            let body = read(&announcement);
            assert_eq!(body["event_type"], event_type);
            assert_eq!(body["timestamp"], 1_700_000_060);
            assert_eq!(body["company_id"], Uuid::from_u128(7).to_string());
            let data = &body["data"];
            assert_eq!(data["webhook_id"], Uuid::from_u128(1).to_string());
            assert_eq!(data["name"], "the \"bot\"");
            assert_eq!(data["reason"].as_str().expect("a text").chars().count(), SENTENCE_CHARS_MAX + 1);
            assert_eq!(data["since"], since, "{body}");
            assert!(!data[more].is_null(), "{more} in {body}");
            assert!(announcement.message_id.contains(event_type) && announcement.message_id.len() < 255);
        };
        check(TransitionKind::Paused, "webhook.paused", "2023-11-14T22:14:20.250Z", "by");
        check(TransitionKind::Opened, "webhook.failing", "2023-11-14T22:13:20.250Z", "opened_at");
        check(TransitionKind::Closed, "webhook.recovered", "2023-11-14T22:13:20.250Z", "recovered_at");
        assert_eq!(changed(TransitionKind::Resumed).announcement(), None);
    }

    #[test]
    fn telling_it_twice_makes_one_message_and_another_instant_another() {
        let first = changed(TransitionKind::Opened).announcement();
        assert_eq!(first, changed(TransitionKind::Opened).announcement());
        let later = WebhookStatus {
            at: at(60) + chrono::TimeDelta::microseconds(1),
            ..changed(TransitionKind::Opened)
        };
        let message_id =
            |announcement: Option<Announcement>| announcement.expect("it is announced").message_id;
        assert_ne!(message_id(first), message_id(later.announcement()));
    }

    #[test]
    fn every_announced_type_is_reserved_and_every_word_is_read_back() {
        for transition in
            [TransitionKind::Opened, TransitionKind::Closed, TransitionKind::Paused, TransitionKind::Resumed]
        {
            assert_eq!(transition.as_str().parse(), Ok(transition));
            if let Some(name) = transition.event_type() {
                assert!(name.parse::<EventType>().expect("a type").is_reserved(), "{name}");
            }
        }
        assert!(DEAD_LETTERED.parse::<EventType>().expect("a type").is_reserved());
        assert!("stopped".parse::<TransitionKind>().is_err());
    }
}
