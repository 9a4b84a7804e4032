//! A lane as callers see it, with its state in a word.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::store::lane_report::{self as table, WAITING_COUNTED_MAX};

/// How a lane does, in the order of what says the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LaneState {
    /// Its webhook is inactive: nothing new is matched.
    Inactive,
    /// Its webhook is paused: what comes is held.
    Paused,
    /// Its breaker is open: what comes waits for a probe to succeed.
    Open,
    /// The receiver has asked for time: what comes waits for that.
    HeldBack,
    /// The latest attempts failed; it is tried all the same.
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
            Self::HeldBack => "held back",
            Self::Failing => "failing",
            Self::Healthy => "healthy",
        }
    }

    fn of(row: &table::LaneReport) -> Self {
        match row {
            row if !row.active => Self::Inactive,
            row if row.paused_at.is_some() => Self::Paused,
            row if row.opened_at.is_some() => Self::Open,
            row if row.held_back_until.is_some_and(|until| until > row.as_of) => Self::HeldBack,
            row if row.failing_since.is_some() || row.failures > 0 => Self::Failing,
            _ => Self::Healthy,
        }
    }
}

/// A lane: what is known and allowed for one webhook.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Lane {
    /// The webhook.
    pub webhook_id: Uuid,
    /// Whose it is.
    pub company_id: Uuid,
    /// The webhook's name.
    pub name: String,
    /// How it does.
    pub state: LaneState,
    /// The time of this answer.
    pub as_of: DateTime<Utc>,
    /// Since when the webhook is paused.
    #[schema(required = true)]
    pub paused_at: Option<DateTime<Utc>>,
    /// Why.
    #[schema(required = true)]
    pub pause_reason: Option<String>,
    /// Since when the breaker is open.
    #[schema(required = true)]
    pub opened_at: Option<DateTime<Utc>>,
    /// Why.
    #[schema(required = true)]
    pub open_reason: Option<String>,
    /// When the receiver is tried next.
    #[schema(required = true)]
    pub next_probe_at: Option<DateTime<Utc>>,
    /// Probes that failed since the opening.
    pub probes_failed: i32,
    /// A worker is trying just now.
    pub is_probing: bool,
    /// Until when the receiver asked for time.
    #[schema(required = true)]
    pub held_back_until: Option<DateTime<Utc>>,
    /// Failures in a row that count towards opening.
    pub failures: i32,
    /// The first failure since the last success.
    #[schema(required = true)]
    pub failing_since: Option<DateTime<Utc>>,
    /// The last success, to the minute or so.
    #[schema(required = true)]
    pub last_success_at: Option<DateTime<Utc>>,
    /// Requests a second over all workers; null for no limit.
    #[schema(required = true)]
    pub rate_limit: Option<f64>,
    /// Requests at once from each worker; null for the service's default.
    #[schema(required = true)]
    pub max_in_flight: Option<i32>,
    /// The first slot that nobody has reserved, where there is a pace.
    #[schema(required = true)]
    pub next_slot_at: Option<DateTime<Utc>>,
    /// Deliveries that have a job.
    pub queued: i64,
    /// Those of them that are claimed; a first attempt needs no claim.
    pub claimed: i64,
    /// Whether both may be more than that.
    pub queued_is_more: bool,
    /// Deliveries that wait in the ledger, 10,000 at most.
    pub waiting: i64,
    /// Whether more wait than were counted.
    pub waiting_is_more: bool,
    /// The earliest due time among them.
    #[schema(required = true)]
    pub oldest_due_at: Option<DateTime<Utc>>,
}

impl From<table::LaneReport> for Lane {
    fn from(row: table::LaneReport) -> Self {
        let ahead = |at: &DateTime<Utc>| *at > row.as_of;
        Self {
            state: LaneState::of(&row),
            is_probing: row.opened_at.is_some() && row.probe_leased_until.as_ref().is_some_and(ahead),
            held_back_until: row.held_back_until.filter(ahead),
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

/// A change of a lane.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Transition {
    /// When.
    pub at: DateTime<Utc>,
    /// `opened`, `closed`, `paused` or `resumed`.
    pub kind: String,
    /// In words.
    #[schema(required = true)]
    pub reason: Option<String>,
    /// Of a closing: the opening.
    #[schema(required = true)]
    pub opened_at: Option<DateTime<Utc>>,
    /// Of an opening and a closing: the first failure.
    #[schema(required = true)]
    pub failing_since: Option<DateTime<Utc>>,
    /// When others were told.
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
            held_back_until: None,
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
        check(&|row| row.held_back_until = past, LaneState::Healthy);
        check(&|row| (row.held_back_until, row.failures) = (ahead, 1), LaneState::HeldBack);
        check(&|row| (row.opened_at, row.held_back_until) = (past, ahead), LaneState::Open);
        check(&|row| (row.opened_at, row.paused_at) = (past, past), LaneState::Paused);
        check(&|row| (row.active, row.paused_at) = (false, past), LaneState::Inactive);
    }

    #[test]
    fn what_is_over_is_not_shown_and_what_was_counted_has_its_bound() {
        let mut row = fresh();
        let past = Some(row.as_of - TimeDelta::seconds(5));
        (row.held_back_until, row.next_slot_at, row.probe_leased_until, row.opened_at) =
            (past, past, past, past);
        row.waiting = WAITING_COUNTED_MAX + 1;
        let lane = Lane::from(row);
        assert_eq!((lane.held_back_until, lane.next_slot_at, lane.is_probing), (None, None, false));
        assert_eq!((lane.waiting, lane.waiting_is_more), (WAITING_COUNTED_MAX, true));
    }
}
