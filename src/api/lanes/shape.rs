//! A lane as callers see it, with its state as one word.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    model::operational::TransitionKind,
    store::lane_report::{self as table, WAITING_COUNTED_MAX},
};

/// The state of a lane. If several apply, the first one in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LaneState {
    /// The webhook is inactive: no new event is matched.
    Inactive,
    /// The webhook is paused: new deliveries are held.
    Paused,
    /// The breaker is open: deliveries wait until a probe succeeds.
    Open,
    /// The receiver asked to wait: deliveries wait until then.
    RateLimited,
    /// The latest attempts failed; the breaker is still closed.
    Failing,
    /// None of these.
    Healthy,
}

impl LaneState {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Paused => "paused",
            Self::Open => "open",
            Self::RateLimited => "rate-limited",
            Self::Failing => "failing",
            Self::Healthy => "healthy",
        }
    }

    fn of(row: &table::LaneReport) -> Self {
        match row {
            row if !row.active => Self::Inactive,
            row if row.paused_at.is_some() => Self::Paused,
            row if row.opened_at.is_some() => Self::Open,
            row if row.rate_limited_until.is_some_and(|until| until > row.as_of) => Self::RateLimited,
            row if row.failing_since.is_some() || row.failures > 0 => Self::Failing,
            _ => Self::Healthy,
        }
    }
}

/// A lane: the state and limits of sending to one webhook.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Lane {
    /// The webhook.
    pub webhook_id: Uuid,
    /// The company.
    pub company_id: Uuid,
    /// The webhook's name.
    pub name: String,
    /// The state of the lane.
    pub state: LaneState,
    /// The time of this response.
    pub as_of: DateTime<Utc>,
    /// When the webhook was paused; null if it is not paused.
    #[schema(required = true)]
    pub paused_at: Option<DateTime<Utc>>,
    /// Why it is paused.
    #[schema(required = true)]
    pub pause_reason: Option<String>,
    /// When the breaker opened; null if it is closed.
    #[schema(required = true)]
    pub opened_at: Option<DateTime<Utc>>,
    /// Why it opened.
    #[schema(required = true)]
    pub open_reason: Option<String>,
    /// When the next probe may start; null if the breaker is closed.
    #[schema(required = true)]
    pub next_probe_at: Option<DateTime<Utc>>,
    /// Probes that failed since the breaker opened.
    pub probes_failed: i32,
    /// Whether a probe is running.
    pub is_probing: bool,
    /// Until when the lane is rate-limited by the receiver; null if it is not.
    #[schema(required = true)]
    pub rate_limited_until: Option<DateTime<Utc>>,
    /// Consecutive failures that count towards opening the breaker.
    pub failures: i32,
    /// The first failure since the last success.
    #[schema(required = true)]
    pub failing_since: Option<DateTime<Utc>>,
    /// The last success, accurate to about a minute.
    #[schema(required = true)]
    pub last_success_at: Option<DateTime<Utc>>,
    /// The maximum number of requests per second over all workers; null for no limit.
    #[schema(required = true)]
    pub rate_limit: Option<f64>,
    /// The maximum number of concurrent requests from each worker; null for the service's default.
    #[schema(required = true)]
    pub max_in_flight: Option<i32>,
    /// The next free slot, if the webhook has a rate limit.
    #[schema(required = true)]
    pub next_slot_at: Option<DateTime<Utc>>,
    /// Deliveries that have a job.
    pub queued: i64,
    /// How many of these are claimed; a first attempt needs no claim.
    pub claimed: i64,
    /// Whether `queued` and `claimed` may be higher than counted.
    pub queued_is_more: bool,
    /// Deliveries that wait in the ledger, counted up to 10,000.
    pub waiting: i64,
    /// Whether more deliveries wait than were counted.
    pub waiting_is_more: bool,
    /// The earliest due time of the waiting deliveries.
    #[schema(required = true)]
    pub oldest_due_at: Option<DateTime<Utc>>,
}

impl From<table::LaneReport> for Lane {
    fn from(row: table::LaneReport) -> Self {
        let ahead = |at: &DateTime<Utc>| *at > row.as_of;
        Self {
            state: LaneState::of(&row),
            is_probing: row.opened_at.is_some() && row.probe_leased_until.as_ref().is_some_and(ahead),
            rate_limited_until: row.rate_limited_until.filter(ahead),
            next_slot_at: row.next_slot_at.filter(ahead),
            webhook_id: row.webhook_id.uuid(),
            company_id: row.company_id.uuid(),
            name: row.name,
            as_of: row.as_of,
            paused_at: row.paused_at,
            pause_reason: row.pause_reason,
            opened_at: row.opened_at,
            open_reason: row.open_reason,
            next_probe_at: row.next_probe_at,
            probes_failed: row.probes,
            failures: row.failures,
            failing_since: row.failing_since,
            last_success_at: row.last_success_at,
            rate_limit: row.rate_limit,
            max_in_flight: row.max_in_flight,
            queued: row.queued,
            claimed: row.claimed,
            queued_is_more: row.jobs_are_more,
            waiting: row.waiting.min(WAITING_COUNTED_MAX),
            waiting_is_more: row.waiting > WAITING_COUNTED_MAX,
            oldest_due_at: row.oldest_due_at,
        }
    }
}

/// A change of the state of a lane.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Transition {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened.
    pub kind: TransitionKind,
    /// Why it happened.
    #[schema(required = true)]
    pub reason: Option<String>,
    /// For `closed`: when the breaker had opened.
    #[schema(required = true)]
    pub opened_at: Option<DateTime<Utc>>,
    /// For `opened` and `closed`: the first failure.
    #[schema(required = true)]
    pub failing_since: Option<DateTime<Utc>>,
    /// When the service handled the change and published its operational event, if it has one; null until then.
    #[schema(required = true)]
    pub announced_at: Option<DateTime<Utc>>,
}

impl From<table::LaneTransition> for Transition {
    fn from(row: table::LaneTransition) -> Self {
        Self {
            at: row.at,
            kind: row.kind,
            reason: row.reason,
            opened_at: row.opened_at,
            failing_since: row.failing_since,
            announced_at: row.announced_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::{
        clock::SystemClock,
        model::{CompanyId, WebhookId},
    };

    /// A lane of which nothing is known yet.
    fn fresh() -> table::LaneReport {
        table::LaneReport {
            as_of: SystemClock::local(),
            webhook_id: WebhookId(uuid::Uuid::from_u128(1)),
            company_id: CompanyId(uuid::Uuid::from_u128(2)),
            name: "bot".to_owned(),
            active: true,
            paused_at: None,
            pause_reason: None,
            rate_limit: None,
            max_in_flight: None,
            next_slot_at: None,
            rate_limited_until: None,
            opened_at: None,
            open_reason: None,
            next_probe_at: None,
            probes: 0,
            probe_leased_until: None,
            failures: 0,
            failing_since: None,
            last_success_at: None,
            queued: 0,
            claimed: 0,
            jobs_are_more: false,
            waiting: 0,
            oldest_due_at: None,
        }
    }

    #[test]
    fn a_lane_has_the_state_that_says_the_most() {
        let now = fresh().as_of;
        let (past, ahead) = (Some(now - TimeDelta::seconds(5)), Some(now + TimeDelta::seconds(5)));
        let check = |change: &dyn Fn(&mut table::LaneReport), expected: LaneState| {
            let mut row = fresh();
            row.as_of = now;
            change(&mut row);
            assert_eq!(LaneState::of(&row), expected, "{row:?}");
        };
        check(&|_| {}, LaneState::Healthy);
        check(&|row| row.failures = 1, LaneState::Failing);
        check(&|row| row.failing_since = past, LaneState::Failing);
        check(&|row| row.rate_limited_until = past, LaneState::Healthy);
        check(&|row| (row.rate_limited_until, row.failures) = (ahead, 1), LaneState::RateLimited);
        check(&|row| (row.opened_at, row.rate_limited_until) = (past, ahead), LaneState::Open);
        check(&|row| (row.opened_at, row.paused_at) = (past, past), LaneState::Paused);
        check(&|row| (row.active, row.paused_at) = (false, past), LaneState::Inactive);
    }

    #[test]
    fn what_is_over_is_not_shown_and_what_was_counted_has_its_bound() {
        let mut row = fresh();
        let past = Some(row.as_of - TimeDelta::seconds(5));
        (row.rate_limited_until, row.next_slot_at, row.probe_leased_until, row.opened_at) =
            (past, past, past, past);
        row.waiting = WAITING_COUNTED_MAX + 1;
        let lane = Lane::from(row);
        assert_eq!((lane.rate_limited_until, lane.next_slot_at, lane.is_probing), (None, None, false));
        assert_eq!((lane.waiting, lane.waiting_is_more), (WAITING_COUNTED_MAX, true));
    }
}
