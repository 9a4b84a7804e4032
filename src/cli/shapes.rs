//! Results in the shapes of the REST API: the guide's columns under the guide's names, and the product's beside them.
//!
//! Today they are made of rows; once commands ask the API they are read from its answers, and nothing that renders
//! them has to change.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    model::{CompanyId, DeliveryId, EventId, EventType, Status, WebhookId, request, why},
    store::{dead_letters, history, replays, webhooks},
};

/// A webhook. Its secret stands there on creation and rotation only.
#[derive(Serialize)]
pub(super) struct Webhook {
    pub(super) id: WebhookId,
    pub(super) company_id: CompanyId,
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) url: String,
    pub(super) events: Vec<String>,
    pub(super) active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<String>,
    pub(super) previous_secret_until: Option<DateTime<Utc>>,
    pub(super) guide_signature: &'static str,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) retry_count: i32,
    pub(super) retry_schedule: Option<Vec<i32>>,
    pub(super) timeout_seconds: i32,
    pub(super) max_in_flight: Option<i32>,
    pub(super) rate_limit: Option<f64>,
    pub(super) auto_recover: bool,
    pub(super) paused_at: Option<DateTime<Utc>>,
    pub(super) paused_by: Option<String>,
    pub(super) pause_reason: Option<String>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) created_by: Option<String>,
}

impl Webhook {
    /// With its secret: the one time it is shown.
    pub(super) fn with_secret(row: webhooks::Row) -> Self {
        let secret = row.secret.expose_secret().to_owned();
        Self { secret: Some(secret), ..row.into() }
    }
}

impl From<webhooks::Row> for Webhook {
    fn from(row: webhooks::Row) -> Self {
        Self {
            headers: row.headers(),
            id: row.id,
            company_id: row.company_id,
            name: row.name,
            description: row.description,
            url: row.url,
            events: row.events,
            active: row.active,
            secret: None,
            previous_secret_until: row.previous_secret_until,
            guide_signature: if row.guide_signature_is_previous { "previous" } else { "new" },
            retry_count: row.retry_count,
            retry_schedule: row.retry_schedule,
            timeout_seconds: row.timeout_seconds,
            max_in_flight: row.max_in_flight,
            rate_limit: row.rate_limit,
            auto_recover: row.auto_recover,
            paused_at: row.paused_at,
            paused_by: row.paused_by,
            pause_reason: row.pause_reason,
            created_at: row.created_at,
            updated_at: row.updated_at,
            created_by: row.created_by,
        }
    }
}

/// An answer that only says something, as the guide's to a deletion.
#[derive(Serialize)]
pub(super) struct Message {
    pub(super) message: &'static str,
}

/// A delivery. `attempts` is the guide's number; the attempts themselves are its `history`.
#[derive(Serialize)]
pub(super) struct Delivery {
    pub(super) id: DeliveryId,
    pub(super) webhook_id: WebhookId,
    pub(super) event_type: String,
    /// The bytes posted, as they are; null once the event is gone from the ledger.
    pub(super) payload: Option<Box<RawValue>>,
    pub(super) response_status: Option<i32>,
    pub(super) response_body: Option<String>,
    pub(super) attempts: i32,
    pub(super) delivered_at: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) company_id: CompanyId,
    pub(super) event_id: EventId,
    pub(super) trigger: String,
    pub(super) status: String,
    pub(super) reason: Option<String>,
    /// The state in a sentence, and whose move is next.
    pub(super) why: String,
    pub(super) next_move: &'static str,
    pub(super) due_at: DateTime<Utc>,
    pub(super) queued_at: Option<DateTime<Utc>>,
    pub(super) outcome: Option<String>,
    /// The latest attempt's outcome in a sentence.
    pub(super) outcome_why: Option<String>,
    pub(super) attempted_at: Option<DateTime<Utc>>,
    pub(super) rescues: i16,
    pub(super) repeats: i16,
    pub(super) replay_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) history: Option<Vec<Attempt>>,
}

impl Delivery {
    /// As it stands at `now`.
    pub(super) fn at(now: DateTime<Utc>, row: history::Delivery) -> Self {
        let status = row.status.parse().unwrap_or(Status::Pending);
        let why =
            why::of_status(status, row.reason.as_deref(), Some(row.due_at), row.queued_at.is_some(), now);
        Self {
            payload: payload(&row),
            id: row.id,
            webhook_id: row.webhook_id,
            event_type: row.event_type,
            response_status: row.response_status,
            response_body: row.response_body,
            attempts: row.attempts,
            delivered_at: row.delivered_at,
            created_at: row.created_at,
            company_id: row.company_id,
            event_id: row.event_id,
            trigger: row.trigger,
            status: row.status,
            reason: row.reason,
            why: why.sentence,
            next_move: why.next.as_str(),
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
}

/// The bytes that are posted, put together from the event as the worker does.
fn payload(row: &history::Delivery) -> Option<Box<RawValue>> {
    let event_type: EventType = row.event_type.parse().ok()?;
    let body = request::body(&event_type, row.data.as_deref()?, row.company_id, row.timestamp?);
    RawValue::from_string(String::from_utf8(body.to_vec()).ok()?).ok()
}

/// One attempt of a delivery.
#[derive(Serialize)]
pub(super) struct Attempt {
    pub(super) number: i32,
    pub(super) attempted_at: DateTime<Utc>,
    pub(super) outcome: String,
    pub(super) why: Option<String>,
    pub(super) url: Option<String>,
    pub(super) address: Option<String>,
    pub(super) request_head: Option<String>,
    pub(super) response_status: Option<i32>,
    pub(super) response_head: Option<String>,
    pub(super) response_body: Option<String>,
    pub(super) response_truncated: Option<bool>,
    pub(super) repeated: Option<bool>,
    pub(super) dns_us: Option<i32>,
    pub(super) connect_us: Option<i32>,
    pub(super) tls_us: Option<i32>,
    pub(super) first_byte_us: Option<i32>,
    pub(super) total_us: Option<i32>,
}

impl From<history::Attempt> for Attempt {
    fn from(row: history::Attempt) -> Self {
        Self {
            number: row.number,
            attempted_at: row.attempted_at,
            outcome: row.outcome,
            why: row.why,
            url: row.url,
            address: row.address,
            request_head: row.request_head,
            response_status: row.response_status,
            response_head: row.response_head,
            response_body: row.response_body,
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

/// Something given up.
#[derive(Serialize)]
pub(super) struct DeadLetter {
    pub(super) id: Uuid,
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) company_id: Option<Uuid>,
    pub(super) webhook_id: Option<Uuid>,
    pub(super) event_id: Option<Uuid>,
    pub(super) event_type: Option<String>,
    pub(super) reason: String,
    pub(super) field: Option<String>,
    pub(super) attempts: i32,
    pub(super) outcome: Option<String>,
    pub(super) response_status: Option<i32>,
    pub(super) routing_key: Option<String>,
    pub(super) message_id: Option<String>,
    pub(super) headers: Option<Box<RawValue>>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) replayed_at: Option<DateTime<Utc>>,
    pub(super) replay_id: Option<Uuid>,
    /// What was to be sent, or what came; only of one dead letter by its id. Bytes that are no UTF-8 are replaced,
    /// and stand as they are in `body_base64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body_base64: Option<String>,
}

impl From<dead_letters::DeadLetter> for DeadLetter {
    fn from(row: dead_letters::DeadLetter) -> Self {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let is_text = |bytes: &Vec<u8>| std::str::from_utf8(bytes).is_ok();
        Self {
            body: row.body.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            body_base64: row
                .body
                .as_ref()
                .filter(|bytes| !is_text(bytes))
                .map(|bytes| STANDARD.encode(bytes)),
            id: row.id,
            kind: row.kind,
            status: row.status,
            company_id: row.company_id,
            webhook_id: row.webhook_id,
            event_id: row.event_id,
            event_type: row.event_type,
            reason: row.reason,
            field: row.field,
            attempts: row.attempts,
            outcome: row.outcome,
            response_status: row.response_status,
            routing_key: row.routing_key,
            message_id: row.message_id,
            headers: row.headers.and_then(|text| RawValue::from_string(text).ok()),
            created_at: row.created_at,
            replayed_at: row.replayed_at,
            replay_id: row.replay_id,
        }
    }
}

/// An order to send again.
#[derive(Serialize)]
pub(super) struct Replay {
    pub(super) id: Uuid,
    pub(super) company_id: CompanyId,
    pub(super) kind: String,
    pub(super) webhook_id: Option<Uuid>,
    pub(super) filter: Option<Box<RawValue>>,
    pub(super) rate: i32,
    pub(super) requested_by: String,
    pub(super) status: String,
    pub(super) started_at: DateTime<Utc>,
    pub(super) expanded_at: Option<DateTime<Utc>>,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) made: i64,
    pub(super) skipped: i64,
}

impl From<replays::Replay> for Replay {
    fn from(row: replays::Replay) -> Self {
        Self {
            id: row.id.uuid(),
            company_id: row.company_id,
            kind: row.kind,
            webhook_id: row.webhook_id,
            filter: RawValue::from_string(row.filter).ok(),
            rate: row.rate,
            requested_by: row.requested_by,
            status: row.status,
            started_at: row.started_at,
            expanded_at: row.expanded_at,
            ended_at: row.ended_at,
            made: row.made,
            skipped: row.skipped,
        }
    }
}

/// A time for people: to the second, in UTC.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}
