//! What a batch of attempts means for lanes, as columns; and what became of the lanes.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::types::Uuid;

use super::AttemptRow;
use crate::model::{
    CompanyId, WebhookId,
    breaker::{self, LaneChange},
};

/// A lane with a change to be announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneChanged {
    pub company: CompanyId,
    pub webhook: WebhookId,
    /// What is new.
    pub news: News,
}

/// The change of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Its breaker opened.
    Opened {
        /// Why, in words.
        reason: String,
        /// The first failure since the last success.
        failing_since: Option<DateTime<Utc>>,
    },
    /// Its breaker closed.
    Closed {
        /// When it had opened.
        opened_at: Option<DateTime<Utc>>,
    },
    /// The lane is rate-limited for a while.
    RateLimited {
        /// Until then.
        until: Option<DateTime<Utc>>,
    },
}

/// The changes of a batch as columns, with one element for each webhook, in the order of webhooks.
#[derive(Default)]
pub(super) struct Changes {
    pub webhooks: Vec<Uuid>,
    pub attempts: Vec<i32>,
    pub succeeded: Vec<bool>,
    pub failures: Vec<i32>,
    pub failed_events: Vec<Option<Uuid>>,
    pub failed_many: Vec<bool>,
    pub shares: Vec<Option<String>>,
    pub last: Vec<String>,
    pub silent: Vec<bool>,
    pub probes: Vec<bool>,
    pub rate_limited_for: Vec<f64>,
    pub jitters: Vec<f64>,
    companies: Vec<CompanyId>,
}

/// What the rows mean for their lanes, in the order in which they happened.
pub(super) fn changes(rows: &[&AttemptRow]) -> Changes {
    // How many rows there are of each webhook, tests among them: the statement counts those it finds.
    let mut by_webhook: BTreeMap<WebhookId, (i32, Option<CompanyId>, LaneChange)> = BTreeMap::new();
    for row in rows {
        let (count, company, change) = by_webhook.entry(row.webhook).or_default();
        *count += 1;
        if let Some(heard) = &row.heard {
            *company = Some(heard.company);
            change.add(heard, row.why.as_deref().unwrap_or(row.outcome));
        }
    }
    let mut changes = Changes::default();
    for (webhook, (count, company, change)) in by_webhook {
        // Nothing but tests.
        let Some(company) = company else { continue };
        changes.webhooks.push(webhook.0);
        changes.companies.push(company);
        changes.attempts.push(count);
        changes.succeeded.push(change.succeeded);
        changes.failures.push(i32::try_from(change.failures).unwrap_or(i32::MAX));
        changes.silent.push(change.is_silent());
        changes.failed_events.push(change.failed_event.map(|event| event.0));
        changes.failed_many.push(change.failed_many);
        changes.shares.push(change.share.map(|share| share.to_string()));
        changes.last.push(change.last);
        changes.probes.push(change.probe);
        changes.rate_limited_for.push(change.rate_limited_for.as_secs_f64());
        changes.jitters.push(breaker::jitter(fastrand::f64()));
    }
    changes
}

impl Changes {
    /// The rows of these changes were recorded by the previous statement: the next one finds none.
    pub fn recorded_before(&mut self) {
        self.attempts.fill(0);
    }

    pub fn company(&self, webhook: WebhookId) -> CompanyId {
        let at = self.webhooks.binary_search(&webhook.0);
        at.ok().and_then(|at| self.companies.get(at).copied()).unwrap_or(CompanyId(Uuid::nil()))
    }
}
