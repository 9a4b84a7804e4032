//! A replay as callers see it, and as they ask for one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{IDS_MAX, RATE_DEFAULT};
use crate::{
    api::{
        listing::within_reach,
        problem::{FieldError, Problem},
    },
    model::{
        DeliveryStatus, EventType,
        replay::{ReplayKind, ReplayStatus},
    },
    store::replays::{self, ReplayFilter},
};

/// An order to send events again, or to resume or discard held deliveries.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Replay {
    /// The id of the replay.
    pub id: Uuid,
    /// The company.
    pub company_id: Uuid,
    /// What created it: a request (`replay`), the resume of a webhook, or its recovery after an outage.
    pub kind: ReplayKind,
    /// The webhook, if it is for one webhook.
    pub webhook_id: Option<Uuid>,
    /// What is sent again: the ids of `deliveries` and `messages`, or a filter.
    #[schema(value_type = Option<Object>, required = true)]
    pub filter: Option<Box<RawValue>>,
    /// Deliveries per second.
    pub rate: i32,
    /// Who requested it.
    pub requested_by: String,
    /// `expanding` while it creates deliveries, `running` while some of them have not ended, then `done`.
    pub status: ReplayStatus,
    /// When it was requested.
    pub started_at: DateTime<Utc>,
    /// When the last of its deliveries was created.
    pub expanded_at: Option<DateTime<Utc>>,
    /// When the last of its deliveries ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How many deliveries it has created.
    pub made: i64,
    /// How many were skipped, because the data or the webhook no longer exists.
    pub skipped: i64,
    /// How many of the created deliveries have not ended yet, counted up to 10,000. Only for a single replay requested
    /// by its id, and not for a resume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub open: Option<i64>,
}

impl From<replays::ReplayRow> for Replay {
    fn from(row: replays::ReplayRow) -> Self {
        Self {
            id: row.id.uuid(),
            company_id: row.company_id.uuid(),
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
            open: None,
        }
    }
}

/// What to send again: `deliveries`, or at least one of the filters.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct NewReplay {
    /// The ids of deliveries and dead letters. Cannot be combined with filters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 1000)]
    pub deliveries: Option<Vec<Uuid>>,
    /// Filter: deliveries to this webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<Uuid>,
    /// Filter: deliveries of this event type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100, example = "ticket.created")]
    pub event_type: Option<String>,
    /// Filter: deliveries in this state; `dead` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeliveryStatus>,
    /// Filter: deliveries of events at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Filter: deliveries of events before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Deliveries per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000, default = 50)]
    pub rate: Option<i32>,
}

impl NewReplay {
    /// The requested filter and rate, or every invalid field.
    pub(super) fn read(self) -> Result<(ReplayFilter, i32), Problem> {
        let mut errors = Vec::new();
        let is_narrowed = self.webhook_id.is_some()
            || self.event_type.is_some()
            || self.status.is_some()
            || self.since.is_some()
            || self.until.is_some();
        let mut listed = self.deliveries.unwrap_or_default();
        listed.sort_unstable();
        listed.dedup();
        if listed.is_empty() && !is_narrowed {
            let message = "is missing: list ids, or give at least one of webhook_id, event_type, status, since and until";
            errors.push(FieldError::new("deliveries", message));
        }
        if !listed.is_empty() && is_narrowed {
            errors.push(FieldError::new(
                "deliveries",
                "cannot be combined with filters; list ids or give filters",
            ));
        }
        if listed.len() > IDS_MAX {
            let message =
                format!("has {} ids; at most {IDS_MAX} are allowed; use a filter for more", listed.len());
            errors.push(FieldError::new("deliveries", message));
        }
        if let Some(Err(error)) = self.event_type.as_deref().map(str::parse::<EventType>) {
            errors.push(FieldError::new("event_type", error));
        }
        if let (Some(since), Some(until)) = (self.since, self.until)
            && since >= until
        {
            errors.push(FieldError::new("since", "must be before until"));
        }
        let rate = self.rate.unwrap_or(RATE_DEFAULT);
        if !(1..=10_000).contains(&rate) {
            errors.push(FieldError::new("rate", "must be from 1 to 10000 per second"));
        }
        if !errors.is_empty() {
            return Err(Problem::invalid(errors));
        }
        let is_listed = !listed.is_empty();
        let filter = ReplayFilter {
            deliveries: listed,
            webhook_id: self.webhook_id,
            event_type: self.event_type,
            status: Some(self.status.unwrap_or(DeliveryStatus::Dead)).filter(|_| !is_listed),
            since: within_reach(self.since),
            until: within_reach(self.until),
            ..ReplayFilter::default()
        };
        Ok((filter, rate))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_order_says_what_it_is_about() {
        let check = |body: serde_json::Value, wrong: &[&str]| {
            let new: NewReplay = serde_json::from_value(body.clone()).unwrap();
            let problem = format!("{:?}", new.read().err());
            for field in ["deliveries", "event_type", "since", "rate"] {
                let is_reported = problem.contains(&format!("field: \"{field}\""));
                assert_eq!(is_reported, wrong.contains(&field), "{body} {field}: {problem}");
            }
        };
        let one = Uuid::from_u128(1);
        check(json!({"deliveries": [one]}), &[]);
        check(json!({"status": "delivered", "rate": 10000}), &[]);
        check(json!({}), &["deliveries"]);
        check(json!({"rate": 5, "deliveries": []}), &["deliveries"]);
        check(json!({"deliveries": [one], "status": "dead"}), &["deliveries"]);
        check(json!({"event_type": "no type\u{0}", "rate": 0}), &["event_type", "rate"]);
        check(json!({"since": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}), &["since"]);
        let many: Vec<Uuid> = (0..=IDS_MAX as u128).map(Uuid::from_u128).collect();
        check(json!({"deliveries": many}), &["deliveries"]);
    }

    #[test]
    fn what_is_dead_is_meant_where_no_state_is_named() {
        let read = |body| serde_json::from_value::<NewReplay>(body).unwrap().read().unwrap();
        assert_eq!(read(json!({"since": "2026-01-01T00:00:00Z"})).0.status, Some(DeliveryStatus::Dead));
        assert_eq!(read(json!({"status": "held"})).0.status, Some(DeliveryStatus::Held));
        let (listed, rate) = read(json!({"deliveries": [Uuid::from_u128(1)]}));
        assert_eq!((listed.status, rate), (None, RATE_DEFAULT));
    }
}
