//! A dead letter as callers see it.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    model::{
        DeliveryStatus, OutcomeClass,
        dead_letter::{DeadLetterKind, DeadLetterStatus},
        why,
    },
    store::dead_letters,
};

/// A delivery or message that was given up.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DeadLetter {
    /// The id of the dead letter; for a delivery, the id of the delivery.
    pub id: Uuid,
    /// What was given up.
    pub kind: DeadLetterKind,
    /// What was done with it: nothing yet (`open`), `replayed` or `discarded`.
    pub status: DeadLetterStatus,
    /// The company; null for a message that does not name one.
    pub company_id: Option<Uuid>,
    /// The webhook, for a delivery.
    pub webhook_id: Option<Uuid>,
    /// The event, if there is one.
    pub event_id: Option<Uuid>,
    /// The type of the event.
    pub event_type: Option<String>,
    /// Why it was given up, as recorded in the ledger.
    pub reason: String,
    /// An explanation of the reason, in a sentence.
    pub why: String,
    /// Who has to act next: `receiver`, `admin`, `operator` or `none`.
    pub next_move: String,
    /// The invalid field, for a message.
    pub field: Option<String>,
    /// The number of attempts.
    pub attempts: i32,
    /// The class of the last attempt's outcome.
    pub outcome: Option<OutcomeClass>,
    /// The status of the last response.
    pub response_status: Option<i32>,
    /// The routing key, for a message.
    pub routing_key: Option<String>,
    /// The publisher's id.
    pub message_id: Option<String>,
    /// The headers, for a message. Null without the scope `payloads:read`.
    #[schema(value_type = Option<Object>, required = true)]
    pub headers: Option<Box<RawValue>>,
    /// When it was given up.
    pub created_at: DateTime<Utc>,
    /// When it was replayed.
    pub replayed_at: Option<DateTime<Utc>>,
    /// The replay that sent it again.
    pub replay_id: Option<Uuid>,
    /// The body to be sent, or the body of the message. Only for a single dead letter requested by its id; null without
    /// the scope `payloads:read`. Bytes that are not UTF-8 are replaced here and unchanged in `body_base64`.
    pub body: Option<String>,
    /// The bytes of a body that is not UTF-8.
    pub body_base64: Option<String>,
}

impl DeadLetter {
    /// As the caller may see it.
    #[must_use]
    pub fn shown(mut row: dead_letters::DeadLetterRow, bodies: bool) -> Self {
        let body = if bodies { row.take_standard_body() } else { None };
        let is_text = |bytes: &Bytes| std::str::from_utf8(bytes).is_ok();
        let why = why::of_status(DeliveryStatus::Dead, Some(&row.reason), None, false, row.created_at);
        Self {
            body: body.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
            body_base64: body.as_ref().filter(|bytes| !is_text(bytes)).map(|bytes| STANDARD.encode(bytes)),
            headers: row.headers.filter(|_| bodies).and_then(|text| RawValue::from_string(text).ok()),
            why: why.sentence,
            next_move: why.next.as_str().to_owned(),
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
            created_at: row.created_at,
            replayed_at: row.replayed_at,
            replay_id: row.replay_id,
        }
    }
}
