//! Plain values for tests; each test changes what it is about.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    AwaitedPhase, CompanyId, DeliveryId, EventId, EventType, Outcome, OutcomeClass, Secret, Unreachable,
    Webhook, WebhookId, lane::Standing, webhook::Settings,
};

pub(crate) fn company() -> CompanyId {
    CompanyId(Uuid::from_u128(7))
}

pub(crate) fn event_type(text: &str) -> EventType {
    text.parse().unwrap()
}

pub(crate) fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).unwrap()
}

pub(crate) fn event() -> EventId {
    EventId(Uuid::from_u128(0x018b_cfe5_6800_8000_8000_0000_0000_0001))
}

pub(crate) fn delivery() -> DeliveryId {
    DeliveryId(Uuid::from_u128(0x018b_cfe5_6800_8000_8000_0000_0000_0200))
}

pub(crate) fn webhook() -> Webhook {
    Webhook {
        id: WebhookId(Uuid::from_u128(9)),
        company: company(),
        settings: Settings {
            name: "the bot".to_owned(),
            url: "https://example.com/webhooks/xtsystems".to_owned(),
            events: vec!["ticket.*".to_owned()],
            secret: Secret::new("your_secure_webhook_secret"),
            ..Settings::default()
        },
        previous_secret: None,
        guide_signature_is_previous: false,
        lane: Standing::default(),
        pause: None,
        deleted: false,
    }
}

pub(crate) fn outcome(class: OutcomeClass) -> Outcome {
    match class {
        OutcomeClass::Accepted => Outcome::Accepted { status: 200 },
        OutcomeClass::Gone => Outcome::Gone,
        OutcomeClass::Blocked => {
            Outcome::Blocked { target: "127.0.0.1".to_owned(), network: "127.0.0.0/8 (loopback)".to_owned() }
        }
        OutcomeClass::Fault => Outcome::Fault { reason: "the header `te` cannot be given".to_owned() },
        OutcomeClass::Redirected => {
            Outcome::Redirected { status: 301, location: Some("https://example.com/new".to_owned()) }
        }
        OutcomeClass::Refused => Outcome::Refused { status: 404 },
        OutcomeClass::Throttled => Outcome::Throttled { retry_after: None },
        OutcomeClass::ServerError => Outcome::ServerError { status: 500, retry_after: None },
        OutcomeClass::TimedOut => {
            Outcome::TimedOut { after: Duration::from_secs(30), waiting: AwaitedPhase::Answer }
        }
        OutcomeClass::Unreachable => Outcome::Unreachable {
            how: Unreachable::Connect,
            address: Some(([203, 0, 113, 9], 443).into()),
            detail: "203.0.113.9:443 refused the connection".to_owned(),
        },
        OutcomeClass::Cut => Outcome::Cut { status: 200, detail: "unexpected end of file".to_owned() },
    }
}
