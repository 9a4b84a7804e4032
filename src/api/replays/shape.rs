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

/// An order to send again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Replay {
    /// Its id.
    pub id: Uuid,
    /// Whose it is.
    pub company_id: Uuid,
    /// Whether somebody asked for it, or what ordered it: the resume of a webhook, its recovery from an outage.
    pub kind: ReplayKind,
    /// The webhook, where it is about one.
    pub webhook_id: Option<Uuid>,
    /// What is sent again: `deliveries` and `messages` by their ids, or what they have in common.
    #[schema(value_type = Option<Object>, required = true)]
    pub filter: Option<Box<RawValue>>,
    /// Deliveries a second.
    pub rate: i32,
    /// Who asked.
    pub requested_by: String,
    /// `expanding` while it makes deliveries, `running` while some of them have not ended, `done`.
    pub status: ReplayStatus,
    /// When it was asked for.
    pub started_at: DateTime<Utc>,
    /// When the last of its deliveries was made.
    pub expanded_at: Option<DateTime<Utc>>,
    /// When the last of them ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How many deliveries it has made.
    pub made: i64,
    /// How many had nothing left to send, or nobody to be sent to.
    pub skipped: i64,
    /// How many of those it made have not ended yet, counted up to 10,000; only of one replay by its id, and not of a resume.
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

/// What to send again: `deliveries`, or at least one of the other fields.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct NewReplay {
    /// These deliveries and dead letters, by their ids. Nothing else narrows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 1000)]
    pub deliveries: Option<Vec<Uuid>>,
    /// All of this webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<Uuid>,
    /// All of this event type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 100, example = "ticket.created")]
    pub event_type: Option<String>,
    /// All in this state; `dead` where none is named: what was given up is what a replay is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<DeliveryStatus>,
    /// All of events at this time or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// All of events before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Deliveries a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000, default = 50)]
    pub rate: Option<i32>,
}

impl NewReplay {
    /// What is asked for, and how fast; or every field that is wrong.
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
            let message = "nothing says what to send again; list ids, or name webhook_id, event_type, status, since or until";
            errors.push(FieldError::new("deliveries", message));
        }
        if !listed.is_empty() && is_narrowed {
            errors.push(FieldError::new(
                "deliveries",
                "lists what to send again already; leave the filter out",
            ));
        }
        if listed.len() > IDS_MAX {
            let message =
                format!("are {}; at most {IDS_MAX} are taken, beyond that use a filter", listed.len());
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
            errors.push(FieldError::new("rate", "must be 1 to 10000 a second"));
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
            let told = format!("{:?}", new.read().err());
            for field in ["deliveries", "event_type", "since", "rate"] {
                let is_told = told.contains(&format!("field: \"{field}\""));
                assert_eq!(is_told, wrong.contains(&field), "{body} {field}: {told}");
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
