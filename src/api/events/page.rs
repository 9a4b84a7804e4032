//! Queries for a list of events, and for one event with its deliveries.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use uuid::Uuid;

use super::shape::{EventBody, EventDelivery, EventShown, NotSent};
use crate::{
    api::{
        listing::within_reach,
        pagination::{CountMode, PAGE_MAX},
        problem::{FieldError, Problem},
    },
    model::{CompanyId, EventId, EventType, NonMatch, WebhookId, envelope, id, subscription, why},
    store::events as table,
};

/// The maximum number of webhooks in `not_sent`.
const NOT_SENT_MAX: i64 = 100;

/// The filters of the list.
#[derive(Debug, Deserialize)]
pub(super) struct Filters {
    event_type: Option<String>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    id: Option<String>,
    event_id: Option<String>,
    unmatched: Option<bool>,
    pub(super) limit: Option<u32>,
    pub(super) cursor: Option<String>,
    pub(super) count: Option<CountMode>,
}

/// The query for the filters, or every invalid filter.
pub(super) fn page(filters: Filters) -> Result<table::EventsPage, Problem> {
    let mut wrong = Vec::new();
    let mut page = table::EventsPage {
        before: Uuid::max(),
        unmatched: filters.unmatched,
        ..table::EventsPage::default()
    };
    match filters.event_type.as_deref().map(|text| (text, subscription::check_pattern(text))) {
        None | Some((subscription::ALL, _)) => {}
        Some((_, Err(bad))) => wrong.push(FieldError::new("event_type", bad)),
        Some((text, Ok(()))) => match text.strip_suffix('*') {
            Some(prefix) => page.type_prefix = Some(prefix.to_owned()),
            None => page.event_type = Some(text.to_owned()),
        },
    }
    if let Some(since) = within_reach(filters.since) {
        page.from = id::first_at(since);
    }
    if let Some(until) = within_reach(filters.until) {
        page.before = id::first_at(until);
    }
    if let Some(text) = filters.id {
        let ids: Result<Vec<Uuid>, _> = text.split(',').map(|id| id.trim().parse()).collect();
        match ids {
            Ok(ids) if ids.len() <= PAGE_MAX as usize => page.ids = Some(ids),
            Ok(ids) => {
                wrong.push(FieldError::new(
                    "id",
                    format!("has {} items; at most {PAGE_MAX} are allowed", ids.len()),
                ));
            }
            Err(_) => wrong.push(FieldError::new("id", "must be UUIDs separated by commas")),
        }
    }
    if let Some(message_id) = filters.event_id {
        // No event has such an id, and PostgreSQL would refuse U+0000.
        if message_id.chars().any(char::is_control) {
            wrong.push(FieldError::new("event_id", "must not contain control characters"));
        }
        if message_id.chars().count() > envelope::MESSAGE_ID_BYTES_MAX {
            let most = envelope::MESSAGE_ID_BYTES_MAX;
            wrong.push(FieldError::new("event_id", format!("must have at most {most} characters")));
        }
        page.message_id = Some(message_id);
    }
    if wrong.is_empty() { Ok(page) } else { Err(Problem::invalid(wrong)) }
}

/// An event with its deliveries, and why it has no others.
pub(super) async fn shown(
    db: &sqlx::PgPool,
    row: table::EventRow,
    webhook: Option<WebhookId>,
    now: DateTime<Utc>,
) -> Result<EventShown, Problem> {
    let (company, id, at) = (CompanyId(row.company_id), EventId(row.id), row.matched_as_of);
    let mut sent = table::deliveries(db, company, id).await?;
    if let Some(webhook) = webhook {
        sent.retain(|sent| sent.webhook_id == webhook.0);
    }
    let versions = match webhook {
        Some(webhook) => {
            let versions = table::versions(db, company, Some(webhook), at, 1).await?;
            if versions.is_empty() {
                return Err(Problem::not_found("Webhook not found"));
            }
            if sent.is_empty() { versions } else { Vec::new() }
        }
        None if row.matched == 0 => table::versions(db, company, None, at, NOT_SENT_MAX).await?,
        None => Vec::new(),
    };
    let event_type = row.event_type.parse::<EventType>().ok();
    let not_sent = versions.into_iter().filter_map(|version| not_sent(version, event_type.as_ref()?));
    Ok(EventShown {
        not_sent: not_sent.collect(),
        deliveries: sent.iter().map(|sent| delivery(sent, now)).collect(),
        event: EventBody::from(row),
    })
}

fn not_sent(version: table::Version, event_type: &EventType) -> Option<NotSent> {
    let non_match = match version.events {
        Some(events) => {
            let (active, deleted) = (version.active.unwrap_or(true), version.deleted.unwrap_or(false));
            subscription::why_not_then(&events, active, deleted, event_type)?
        }
        None => NonMatch::NotYetThere,
    };
    let why = why::of_non_match(non_match, event_type);
    Some(NotSent {
        webhook_id: version.webhook_id,
        reason: non_match.as_str().to_owned(),
        why: why.sentence,
        next_move: why.next.as_str().to_owned(),
    })
}

fn delivery(sent: &table::Sent, now: DateTime<Utc>) -> EventDelivery {
    let why =
        why::of_status(sent.status, sent.reason.as_deref(), Some(sent.due_at), sent.queued_at.is_some(), now);
    EventDelivery {
        id: sent.id,
        webhook_id: sent.webhook_id,
        trigger: sent.trigger,
        status: sent.status,
        attempts: sent.attempts,
        response_status: sent.response_status,
        why: why.sentence,
        next_move: why.next.as_str().to_owned(),
        created_at: sent.created_at,
        delivered_at: sent.delivered_at,
    }
}
