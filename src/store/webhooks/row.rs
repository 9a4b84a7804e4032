//! The shapes of a webhook in the ledger: as it stands, as it is made, as it is changed.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::model::{
    CompanyId, RetryPolicy, Secret, Webhook, WebhookId,
    lane::{Open, Standing},
    webhook::Pause,
};

/// A row of `webhooks`.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its id.
    pub id: WebhookId,
    /// Its company.
    pub company_id: CompanyId,
    /// Unique among the living of the company.
    pub name: String,
    /// A note for people.
    pub description: Option<String>,
    /// Where to post.
    pub url: String,
    /// The event types wanted, with wildcards.
    pub events: Vec<String>,
    /// Whether it is matched at all.
    pub active: bool,
    /// Shown on creation and rotation only.
    pub secret: SecretString,
    pub(super) previous_secret: SecretString,
    /// Until when the secret before the last rotation signs too.
    pub previous_secret_until: Option<DateTime<Utc>>,
    /// Whether the guide's header bears the previous secret's signature until then.
    pub guide_signature_is_previous: bool,
    pub(super) headers: String,
    /// Attempts in all, where there is no schedule.
    pub retry_count: i32,
    /// Waits in seconds.
    pub retry_schedule: Option<Vec<i32>>,
    /// The whole time an attempt may take.
    pub timeout_seconds: i32,
    /// Requests at once in a worker.
    pub max_in_flight: Option<i32>,
    /// Requests a second over all workers.
    pub rate_limit: Option<f64>,
    /// Whether the end of an outage sends again what was given up in it.
    pub auto_recover: bool,
    pub(super) metadata: String,
    /// When it was paused.
    pub paused_at: Option<DateTime<Utc>>,
    /// By whom.
    pub paused_by: Option<String>,
    /// Why.
    pub pause_reason: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
    /// By whom it was made.
    pub created_by: Option<String>,
    /// When it was deleted.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Another with each change of the row; no change of its lane touches it.
    pub version: String,
    pub(super) opened_at: Option<DateTime<Utc>>,
    pub(super) next_probe_at: Option<DateTime<Utc>>,
    pub(super) held_back_until: Option<DateTime<Utc>>,
}

impl Row {
    /// Its own headers.
    #[must_use]
    pub fn headers(&self) -> BTreeMap<String, String> {
        let text = |value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        match serde_json::from_str(&self.headers) {
            Ok(Value::Object(headers)) => {
                headers.into_iter().map(|(name, value)| (name, text(value))).collect()
            }
            // Only a hand in the table writes such a thing, and it must not cost the company its other webhooks.
            _ => BTreeMap::new(),
        }
    }

    /// What its owner keeps beside it.
    #[must_use]
    pub fn metadata(&self) -> serde_json::Map<String, Value> {
        serde_json::from_str(&self.metadata).unwrap_or_default()
    }

    /// Attempts and waits; the default where a hand in the table wrote what is no policy.
    #[must_use]
    pub fn retry(&self) -> RetryPolicy {
        let schedule = self
            .retry_schedule
            .iter()
            .flatten()
            .map(|&seconds| u32::try_from(seconds).unwrap_or(0))
            .collect();
        let count = u32::try_from(self.retry_count).unwrap_or(0);
        let by_count = || RetryPolicy::from_count(count).unwrap_or_default();
        if self.retry_schedule.is_none() {
            by_count()
        } else {
            RetryPolicy::from_schedule(schedule).unwrap_or_else(|_| by_count())
        }
    }
}

impl From<Row> for Webhook {
    fn from(row: Row) -> Self {
        let secret = |text: &SecretString| Secret::new(text.expose_secret());
        let pause = row.paused_at.map(|since| Pause {
            since,
            by: row.paused_by.clone().unwrap_or_default(),
            why: row.pause_reason.clone().unwrap_or_default(),
        });
        Self {
            id: row.id,
            company: row.company_id,
            headers: row.headers(),
            retry: row.retry(),
            secret: secret(&row.secret),
            previous_secret: row.previous_secret_until.map(|until| (secret(&row.previous_secret), until)),
            name: row.name,
            url: row.url,
            events: row.events,
            active: row.active,
            guide_signature_is_previous: row.guide_signature_is_previous,
            timeout: Duration::from_secs(u64::try_from(row.timeout_seconds).unwrap_or_default()),
            max_in_flight: row.max_in_flight.and_then(|max| u32::try_from(max).ok()),
            rate_limit: row.rate_limit,
            lane: Standing {
                open: row
                    .opened_at
                    .map(|since| Open { since, next_probe_at: row.next_probe_at.unwrap_or(since) }),
                held_back_until: row.held_back_until,
            },
            pause,
            deleted: row.deleted_at.is_some(),
        }
    }
}

/// A webhook to be made. What it holds has been checked by whoever took it in.
#[derive(Clone, Debug)]
pub struct New {
    /// Whose it will be.
    pub company: CompanyId,
    /// Unique among the living of the company.
    pub name: String,
    /// A note for people.
    pub description: Option<String>,
    /// Where to post.
    pub url: String,
    /// The event types wanted, with wildcards.
    pub events: Vec<String>,
    /// Whether it is matched from the start.
    pub active: bool,
    /// Signs every request.
    pub secret: Secret,
    /// Headers of its own.
    pub headers: BTreeMap<String, String>,
    /// Attempts in all, where there is no schedule.
    pub retry_count: i32,
    /// Waits in seconds.
    pub retry_schedule: Option<Vec<i32>>,
    /// The whole time an attempt may take.
    pub timeout_seconds: i32,
    /// Requests at once in a worker.
    pub max_in_flight: Option<i32>,
    /// Requests a second over all workers.
    pub rate_limit: Option<f64>,
    /// Whether the end of an outage sends again what was given up in it.
    pub auto_recover: bool,
    /// A JSON object that its owner keeps beside it.
    pub metadata: String,
    /// Who makes it.
    pub created_by: Option<String>,
}

/// What is to be changed: only what is named, with the meaning it has in [`New`]. Where options stand two deep, the
/// inner `None` empties the column.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub url: Option<String>,
    pub events: Option<Vec<String>>,
    pub active: Option<bool>,
    pub secret: Option<Secret>,
    pub headers: Option<BTreeMap<String, String>>,
    pub retry_count: Option<i32>,
    pub retry_schedule: Option<Option<Vec<i32>>>,
    pub timeout_seconds: Option<i32>,
    pub max_in_flight: Option<Option<i32>>,
    pub rate_limit: Option<Option<f64>>,
    pub auto_recover: Option<bool>,
    pub metadata: Option<String>,
}

/// What becomes of the deliveries that a pause held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// They are sent, so many a second at most.
    Deliver {
        /// Deliveries a second.
        rate: i32,
    },
    /// They are cancelled.
    Discard,
}
