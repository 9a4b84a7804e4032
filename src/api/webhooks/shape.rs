//! A webhook as callers see it: the guide's columns under the guide's names, and the product's beside them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{model::webhook::Settings, store::webhooks};

/// A webhook.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookBody {
    /// The id of the webhook.
    pub id: Uuid,
    /// The company.
    pub company_id: Uuid,
    /// What its owner has set; the secret is not among it.
    #[serde(flatten)]
    #[schema(inline)]
    pub settings: Settings,
    /// The secret that signs every request. Shown only when it is created or rotated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub secret: Option<String>,
    /// Until when the previous secret also signs.
    #[schema(required = true)]
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// Which secret signs the guide's header until then: `new` or `previous`.
    pub guide_signature: String,
    /// When it was paused; null if it is not paused.
    #[schema(required = true)]
    pub paused_at: Option<DateTime<Utc>>,
    /// Who paused it.
    #[schema(required = true)]
    pub paused_by: Option<String>,
    /// Why it was paused.
    #[schema(required = true)]
    pub pause_reason: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
    /// Who created it.
    #[schema(required = true)]
    pub created_by: Option<String>,
    /// What is unusual in the request but was accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<Warning>,
}

/// Something unusual that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// The field, with a path into arrays: `events[2]`.
    #[schema(example = "events[0]")]
    pub field: String,
    /// What is unusual about it.
    #[schema(example = "`ticket.create` has not been seen yet; did you mean `ticket.created`?")]
    pub message: String,
}

impl Warning {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// A webhook that was resumed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Resumed {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: WebhookBody,
    /// The replay that sends or discards the held deliveries; null if none were held.
    #[schema(required = true)]
    pub replay_id: Option<Uuid>,
}

/// A response with only a message.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Message)]
pub struct MessageBody {
    /// The message.
    #[schema(example = "Webhook deleted successfully")]
    pub message: String,
}

/// The result of a test.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tested {
    /// Whether the receiver answered with 2xx.
    pub success: bool,
    /// `Test webhook sent`, or why it was not sent.
    #[schema(example = "Test webhook sent")]
    pub message: String,
    /// The delivery of the test; it is kept in the history.
    pub delivery_id: Uuid,
    /// The status of the receiver's response; null if there was none.
    #[schema(required = true)]
    pub response_status: Option<i32>,
    /// How long the attempt took, in milliseconds; null if there was no attempt.
    #[schema(required = true)]
    pub latency_ms: Option<f64>,
    /// Why the test failed; null if it succeeded.
    #[schema(required = true)]
    pub why: Option<String>,
}

/// The result of checking a URL without sending a request to it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckedUrl {
    /// The URL as the service reads it.
    pub url: String,
    /// Whether deliveries would reach a server at the URL, as far as can be checked.
    pub ok: bool,
    /// Why not, in a sentence; null if it is ok.
    #[schema(required = true)]
    pub error: Option<String>,
    /// The addresses that the host resolves to, each with the result of its check.
    pub addresses: Vec<CheckedAddress>,
    /// The result of the TLS handshake; null for http, or if no connection was made.
    #[schema(required = true)]
    pub tls: Option<CheckedTls>,
    /// What is unusual but allowed.
    pub warnings: Vec<Warning>,
}

/// An address with the result of its check.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckedAddress {
    /// The address; null if a host name resolves to an address that is not allowed, because internal addresses are not
    /// disclosed.
    #[schema(required = true)]
    pub address: Option<String>,
    /// Whether deliveries to the address are allowed.
    pub allowed: bool,
    /// The forbidden network that contains the address; null if the address is allowed.
    #[schema(required = true, example = "10.0.0.0/8 (private)")]
    pub network: Option<String>,
}

/// The result of a TLS handshake.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckedTls {
    /// Whether the certificate is trusted, currently valid, and issued for the host.
    pub ok: bool,
    /// Why not, in words; null if it is ok.
    #[schema(required = true)]
    pub error: Option<String>,
    /// When the certificate expires; null if none was accepted.
    #[schema(required = true)]
    pub expires_at: Option<DateTime<Utc>>,
    /// Who issued the certificate; null if none was accepted.
    #[schema(required = true)]
    pub issuer: Option<String>,
}

impl WebhookBody {
    /// With its secret: the one time it is shown.
    #[must_use]
    pub fn with_secret(row: webhooks::WebhookRow) -> Self {
        let secret = row.settings.secret.expose().to_owned();
        Self { secret: Some(secret), ..row.into() }
    }
}

impl From<webhooks::WebhookRow> for WebhookBody {
    fn from(row: webhooks::WebhookRow) -> Self {
        Self {
            id: row.id.uuid(),
            company_id: row.company_id.uuid(),
            settings: row.settings,
            secret: None,
            previous_secret_until: row.previous_secret_until,
            guide_signature: if row.guide_signature_is_previous { "previous" } else { "new" }.to_owned(),
            paused_at: row.paused_at,
            paused_by: row.paused_by,
            pause_reason: row.pause_reason,
            created_at: row.created_at,
            updated_at: row.updated_at,
            created_by: row.created_by,
            warnings: Vec::new(),
        }
    }
}
