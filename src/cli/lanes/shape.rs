//! A lane as a script reads it, with its state in a word.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    model::{CompanyId, WebhookId},
    store::lane_report::{self as table, WAITING_COUNTED_MAX},
};

/// How a lane does, in the order of what says the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
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

impl State {
    /// For people.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Inactive => "inactive",
            Self::Paused => "paused",
            Self::Open => "open",
            Self::HeldBack => "held back",
            Self::Failing => "failing",
            Self::Healthy => "healthy",
        }
    }

    fn of(row: &table::Lane) -> Self {
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

/// A lane.
#[derive(Serialize)]
pub(super) struct Lane {
    pub(super) webhook_id: WebhookId,
    pub(super) company_id: CompanyId,
    pub(super) name: String,
    pub(super) state: State,
    pub(super) as_of: DateTime<Utc>,
    pub(super) paused_at: Option<DateTime<Utc>>,
    pub(super) pause_reason: Option<String>,
    pub(super) opened_at: Option<DateTime<Utc>>,
    pub(super) open_reason: Option<String>,
    pub(super) next_probe_at: Option<DateTime<Utc>>,
    pub(super) probes_failed: i32,
    /// A worker is trying just now.
    pub(super) is_probing: bool,
    pub(super) held_back_until: Option<DateTime<Utc>>,
    pub(super) failures: i32,
    pub(super) failing_since: Option<DateTime<Utc>>,
    pub(super) last_success_at: Option<DateTime<Utc>>,
    pub(super) rate_limit: Option<f64>,
    pub(super) max_in_flight: Option<i32>,
    pub(super) next_slot_at: Option<DateTime<Utc>>,
    /// Deliveries that have a job, and those of them that are claimed: a first attempt needs no claim.
    pub(super) queued: i64,
    pub(super) claimed: i64,
    /// Whether both may be more than that.
    pub(super) queued_is_more: bool,
    pub(super) waiting: i64,
    /// Whether more wait than were counted.
    pub(super) waiting_is_more: bool,
    pub(super) oldest_due_at: Option<DateTime<Utc>>,
}

impl From<table::Lane> for Lane {
    fn from(row: table::Lane) -> Self {
        let ahead = |at: &DateTime<Utc>| *at > row.as_of;
        Self {
            state: State::of(&row),
            is_probing: row.opened_at.is_some() && row.probe_leased_until.as_ref().is_some_and(ahead),
            held_back_until: row.held_back_until.filter(ahead),
            next_slot_at: row.next_slot_at.filter(ahead),
            webhook_id: row.webhook_id,
            company_id: row.company_id,
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
#[derive(Serialize)]
pub(super) struct Transition {
    pub(super) at: DateTime<Utc>,
    pub(super) kind: String,
    pub(super) reason: Option<String>,
    pub(super) opened_at: Option<DateTime<Utc>>,
    pub(super) failing_since: Option<DateTime<Utc>>,
    pub(super) announced_at: Option<DateTime<Utc>>,
}

impl From<table::Transition> for Transition {
    fn from(row: table::Transition) -> Self {
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
pub(super) mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::clock::SystemClock;

    /// A lane of which nothing is known yet.
    pub(in crate::cli::lanes) fn fresh() -> table::Lane {
        table::Lane {
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
        let check = |change: &dyn Fn(&mut table::Lane), expected: State| {
            let mut row = fresh();
            row.as_of = now;
            change(&mut row);
            assert_eq!(State::of(&row), expected, "{row:?}");
        };
        check(&|_| {}, State::Healthy);
        check(&|row| row.failures = 1, State::Failing);
        check(&|row| row.failing_since = past, State::Failing);
        check(&|row| row.held_back_until = past, State::Healthy);
        check(&|row| (row.held_back_until, row.failures) = (ahead, 1), State::HeldBack);
        check(&|row| (row.opened_at, row.held_back_until) = (past, ahead), State::Open);
        check(&|row| (row.opened_at, row.paused_at) = (past, past), State::Paused);
        check(&|row| (row.active, row.paused_at) = (false, past), State::Inactive);
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
