//! A webhook as it is in the ledger.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use crate::model::{
    CompanyId, Secret, Webhook, WebhookId,
    lane::Standing,
    webhook::{Pause, Settings},
};

/// A row of `webhooks`, with the state of its lane.
#[derive(Clone, Debug)]
pub struct WebhookRow {
    pub id: WebhookId,
    pub company_id: CompanyId,
    /// The name is unique among the company's webhooks that are not deleted.
    pub settings: Settings,
    pub(super) previous_secret: String,
    /// Until when the secret before the last rotation also signs.
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// Whether the guide's header has the previous secret's signature until then.
    pub guide_signature_is_previous: bool,
    pub paused_at: Option<DateTime<Utc>>,
    pub paused_by: Option<String>,
    pub pause_reason: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub created_by: Option<String>,
    pub(super) deleted_at: Option<DateTime<Utc>>,
    /// Counted up with each change of the row; no change of its lane touches it.
    pub version: i64,
    pub(super) lane: Standing,
}

impl From<WebhookRow> for Webhook {
    fn from(row: WebhookRow) -> Self {
        let pause = row.paused_at.map(|since| Pause {
            since,
            by: row.paused_by.unwrap_or_default(),
            why: row.pause_reason.unwrap_or_default(),
        });
        Self {
            id: row.id,
            company: row.company_id,
            settings: Settings { description: None, metadata: Map::new(), ..row.settings },
            previous_secret: row.previous_secret_until.map(|until| (Secret::new(row.previous_secret), until)),
            guide_signature_is_previous: row.guide_signature_is_previous,
            lane: row.lane,
            pause,
            deleted: row.deleted_at.is_some(),
        }
    }
}

/// The headers in a column. Only a manual change of the table can make them invalid, and that must not cost the company
/// its other webhooks.
pub(super) fn headers(column: &str) -> BTreeMap<String, String> {
    let text = |value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    object(column).into_iter().map(|(name, value)| (name, text(value))).collect()
}

/// The object in a column; an empty one if it is not an object.
pub(super) fn object(column: &str) -> Map<String, Value> {
    serde_json::from_str(column).unwrap_or_default()
}
