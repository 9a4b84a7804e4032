//! One HTTP request of a delivery, as it is recorded.

use std::{net::SocketAddr, time::Duration};

use chrono::{DateTime, Utc};

use super::{DeliveryId, EventId, Outcome, Trigger, WebhookId, event::EventType, id::CompanyId};

/// How long each phase of a request took; absent if it did not happen (a reused connection lacks the first three).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Looking up the name.
    pub dns: Option<Duration>,
    /// Opening the TCP connection.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From the start of the request to the first byte of the answer.
    pub first_byte: Option<Duration>,
    /// From the start of the request to its end, whatever the end was.
    pub total: Duration,
}

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Its headers in the order received.
    pub headers: Vec<(String, String)>,
    /// The body, up to the bound that its status has.
    pub body: Vec<u8>,
    /// Whether there was more body than is kept.
    pub truncated: bool,
}

/// One request and its answer, as `egress` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What came of it.
    pub outcome: Outcome,
    /// Where the time went.
    pub phases: Phases,
    /// The address connected to.
    pub address: Option<SocketAddr>,
    /// The answer, if its head arrived.
    pub response: Option<Response>,
    /// Whether a reset on a reused connection was repeated on a fresh one.
    pub repeated: bool,
    /// For how long the webhook is rate-limited, whatever the outcome; not yet bounded by `RETRY_AFTER_MAX`.
    pub rate_limited_for: Option<Duration>,
}

/// A finished attempt, on its way to the ledger.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The delivery it belongs to.
    pub delivery: DeliveryId,
    /// Counts from 1.
    pub number: u32,
    /// Whose webhook it went to.
    pub webhook: WebhookId,
    pub company: CompanyId,
    /// The event it carried.
    pub event: EventId,
    pub event_type: EventType,
    /// Why the delivery exists.
    pub trigger: Trigger,
    /// When the request began, by the database's clock.
    pub started_at: DateTime<Utc>,
    pub url: String,
    /// The headers as sent, signature included, a line each.
    pub request_head: String,
    /// Request and answer.
    pub exchange: Exchange,
}
