//! A delivery as callers see it: the guide's columns under the guide's names, and the product's beside them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::hidden;
use crate::{
    model::{DeliveryStatus, EventType, OutcomeClass, Trigger, request, trace, why},
    store::history,
};

/// A delivery. `attempts` is the number of attempts, as in the guide; the attempts themselves are in `history`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// The id of the delivery.
    pub id: Uuid,
    /// The webhook.
    pub webhook_id: Uuid,
    /// The type of the event.
    pub event_type: String,
    /// The request body, byte for byte. Null without the scope `payloads:read`, and after the event was removed from
    /// the ledger.
    #[schema(value_type = Option<Object>, required = true)]
    pub payload: Option<Box<RawValue>>,
    /// The status of the latest response; null if there was none.
    pub response_status: Option<i32>,
    /// The stored part of the latest response body. Null without the scope `payloads:read`.
    pub response_body: Option<String>,
    /// The number of recorded attempts.
    pub attempts: i32,
    /// When the receiver accepted it; null if it did not.
    pub delivered_at: Option<DateTime<Utc>>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// The company.
    pub company_id: Uuid,
    /// The event; receivers see this id as `webhook-id`.
    pub event_id: Uuid,
    /// Why the delivery exists.
    pub trigger: Trigger,
    /// The state of the delivery.
    pub status: DeliveryStatus,
    /// The reason for the state, as recorded in the ledger.
    pub reason: Option<String>,
    /// An explanation of the state, in a sentence.
    pub why: String,
    /// Who has to act next: `receiver`, `admin`, `operator` or `none`.
    pub next_move: String,
    /// When the next attempt is due; null if there is none.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// When the next attempt may start, or when the last one could.
    pub due_at: DateTime<Utc>,
    /// When its current job was queued for a worker; null while it waits in the ledger.
    pub queued_at: Option<DateTime<Utc>>,
    /// The class of the latest attempt's outcome.
    pub outcome: Option<OutcomeClass>,
    /// An explanation of the latest attempt's outcome, in a sentence.
    pub outcome_why: Option<String>,
    /// When the latest attempt began.
    pub attempted_at: Option<DateTime<Utc>>,
    /// How many times it was rescued: its job was lost and a new one was created.
    pub rescues: i16,
    /// How many times an attempt was repeated although it was already recorded.
    pub repeats: i16,
    /// The replay that created it.
    pub replay_id: Option<Uuid>,
    /// The id of the trace of its requests (W3C Trace Context).
    pub trace_id: String,
    /// All attempts, oldest first. Only for a single delivery requested by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub history: Option<Vec<AttemptBody>>,
}

impl Delivery {
    /// As it is at `now`.
    #[must_use]
    pub fn at(now: DateTime<Utc>, row: history::DeliveryRow) -> Self {
        let status = row.status;
        let why =
            why::of_status(status, row.reason.as_deref(), Some(row.due_at), row.queued_at.is_some(), now);
        let published = row.traceparent.as_deref().and_then(trace::parse);
        let trace_id = published
            .map_or_else(|| row.event_id.uuid().simple().to_string(), |trace| trace.trace_id.to_owned());
        Self {
            payload: payload(&row),
            trace_id,
            next_attempt_at: Some(row.due_at).filter(|_| status == DeliveryStatus::Pending),
            id: row.id.uuid(),
            webhook_id: row.webhook_id.uuid(),
            event_type: row.event_type,
            response_status: row.response_status,
            response_body: row.response_body,
            attempts: row.attempts,
            delivered_at: row.delivered_at,
            created_at: row.created_at,
            company_id: row.company_id.uuid(),
            event_id: row.event_id.uuid(),
            trigger: row.trigger,
            status,
            reason: row.reason,
            why: why.sentence,
            next_move: why.next.as_str().to_owned(),
            due_at: row.due_at,
            queued_at: row.queued_at,
            outcome: row.outcome,
            outcome_why: row.why,
            attempted_at: row.attempted_at,
            rescues: row.rescues,
            repeats: row.repeats,
            replay_id: row.replay_id,
            history: None,
        }
    }

    /// Replaces the explanation by a better one than its own row gives.
    pub(super) fn explain(&mut self, why: why::Why) {
        why.next.as_str().clone_into(&mut self.next_move);
        self.why = why.sentence;
    }
}

/// The bytes that are posted, built from the event as the worker builds them.
fn payload(row: &history::DeliveryRow) -> Option<Box<RawValue>> {
    let event_type: EventType = row.event_type.parse().ok()?;
    let body =
        request::envelope(&event_type, row.data.as_deref()?.as_bytes(), row.company_id, row.timestamp?);
    json(&body)
}

/// Bytes parsed as JSON.
pub(super) fn json(bytes: &[u8]) -> Option<Box<RawValue>> {
    serde_json::from_slice(bytes).ok()
}

/// One attempt of a delivery.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
pub struct AttemptBody {
    /// The number of the attempt, starting at 1.
    pub number: i32,
    /// When the request began.
    pub attempted_at: DateTime<Utc>,
    /// The class of the outcome.
    pub outcome: OutcomeClass,
    /// An explanation of the outcome, in a sentence.
    pub why: Option<String>,
    /// The URL of the request.
    pub url: Option<String>,
    /// The IP address and port of the connection.
    pub address: Option<String>,
    /// The request headers as sent, including the signatures, one per line. Without the scope `payloads:read`, the
    /// values of the webhook's additional headers are omitted.
    pub request_head: Option<String>,
    /// The trace context sent with the request.
    pub traceparent: Option<String>,
    /// The status of the response; null if there was none.
    pub response_status: Option<i32>,
    /// The response headers, one per line. Without the scope `payloads:read`, only common headers have values.
    pub response_head: Option<String>,
    /// The stored part of the response body. Null without the scope `payloads:read`.
    pub response_body: Option<String>,
    /// Whether the response body is longer than the stored part.
    pub response_truncated: Option<bool>,
    /// Whether a reused connection broke and the request was repeated once on a new one.
    pub repeated: Option<bool>,
    /// The time for the DNS lookup, in microseconds; null if none was needed.
    pub dns_us: Option<i32>,
    /// The time to connect, in microseconds; null if a connection was reused.
    pub connect_us: Option<i32>,
    /// The time for the TLS handshake, in microseconds.
    pub tls_us: Option<i32>,
    /// The time from the start of the request to the first byte of the response, in microseconds.
    pub first_byte_us: Option<i32>,
    /// The time from the start of the request to the end of the response, in microseconds.
    pub total_us: Option<i32>,
}

impl AttemptBody {
    /// As the caller may see it.
    #[must_use]
    pub fn shown(row: history::RecordedAttempt, bodies: bool) -> Self {
        let head = |head: Option<String>, hidden: fn(&str) -> String| {
            if bodies { head } else { head.map(|head| hidden(&head)) }
        };
        let traceparent = row.request_head.as_deref().and_then(traceparent);
        Self {
            traceparent,
            request_head: head(row.request_head, hidden::request),
            response_head: head(row.response_head, hidden::answer),
            response_body: row.response_body.filter(|_| bodies),
            number: row.number,
            attempted_at: row.attempted_at,
            outcome: row.outcome,
            why: row.why,
            url: row.url,
            address: row.address,
            response_status: row.response_status,
            response_truncated: row.response_truncated,
            repeated: row.repeated,
            dns_us: row.dns_us,
            connect_us: row.connect_us,
            tls_us: row.tls_us,
            first_byte_us: row.first_byte_us,
            total_us: row.total_us,
        }
    }
}

/// The header `traceparent` of those sent.
fn traceparent(head: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("traceparent").then(|| value.trim().to_owned())
    })
}
