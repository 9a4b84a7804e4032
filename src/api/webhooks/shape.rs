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
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub company_id: Uuid,
    /// What its owner has set; the secret is not among it.
    #[serde(flatten)]
    #[schema(inline)]
    pub settings: Settings,
    /// Signs every request. Shown on creation and rotation only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub secret: Option<String>,
    /// Until when the secret before the last rotation signs too.
    #[schema(required = true)]
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// Which secret signs the guide's header until then: `new` or `previous`.
    pub guide_signature: String,
    /// Since when it is paused.
    #[schema(required = true)]
    pub paused_at: Option<DateTime<Utc>>,
    /// By whom.
    #[schema(required = true)]
    pub paused_by: Option<String>,
    /// Why.
    #[schema(required = true)]
    pub pause_reason: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
    /// By whom it was made.
    #[schema(required = true)]
    pub created_by: Option<String>,
    /// What of the request is odd, and was taken all the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pub warnings: Vec<Warning>,
}

/// Something that is odd, and allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// The field, with a path into lists: `events[2]`.
    #[schema(example = "events[0]")]
    pub field: String,
    /// What is odd about it.
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
    /// The replay that works on what was held; null where nothing was.
    #[schema(required = true)]
    pub replay_id: Option<Uuid>,
}

/// An answer that only says something.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Message)]
pub struct MessageBody {
    /// What it says.
    #[schema(example = "Webhook deleted successfully")]
    pub message: String,
}

/// What came of a test.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Tested {
    /// Whether the receiver answered with 2xx.
    pub success: bool,
    /// What was done: `Test webhook sent`, or why it was not.
    #[schema(example = "Test webhook sent")]
    pub message: String,
    /// The delivery of the test, which stays in the history.
    pub delivery_id: Uuid,
    /// The status that the receiver answered with; null where it did not.
    #[schema(required = true)]
    pub response_status: Option<i32>,
    /// How long the attempt took, in milliseconds; null where there was none.
    #[schema(required = true)]
    pub latency_ms: Option<f64>,
    /// Why it failed; null where it did not.
    #[schema(required = true)]
    pub why: Option<String>,
}

/// What is known of a URL without sending a request to it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckedUrl {
    /// The URL as it is read.
    pub url: String,
    /// Whether deliveries would reach a server there, as far as that shows.
    pub ok: bool,
    /// Why not, in a sentence; null where it is ok.
    #[schema(required = true)]
    pub error: Option<String>,
    /// What its host resolves to, each with the verdict.
    pub addresses: Vec<CheckedAddress>,
    /// What was seen of TLS; null for http, and where no connection was made.
    #[schema(required = true)]
    pub tls: Option<CheckedTls>,
    /// What is odd, and allowed.
    pub warnings: Vec<Warning>,
}

/// An address with its verdict.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckedAddress {
    /// The address; null where a name leads to one that is refused, for that is nobody else's business.
    #[schema(required = true)]
    pub address: Option<String>,
    /// Whether deliveries go there.
    pub allowed: bool,
    /// Which network it lies in that is refused; null where it is allowed.
    #[schema(required = true, example = "10.0.0.0/8 (private)")]
    pub network: Option<String>,
}

/// What was seen of TLS.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckedTls {
    /// Whether the certificate is the host's, trusted and in its time.
    pub ok: bool,
    /// Why not, in words; null where it is ok.
    #[schema(required = true)]
    pub error: Option<String>,
    /// When the certificate expires; null where none was accepted.
    #[schema(required = true)]
    pub expires_at: Option<DateTime<Utc>>,
    /// Who issued it; null where none was accepted.
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
