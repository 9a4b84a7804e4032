//! Lanes for people.

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    super::output::{OutputTable, fields, time},
    Lane, Transition,
};
use crate::{api::lanes::LaneState, model::operational::TransitionKind};

/// One lane, field by field.
pub(super) fn one(lane: &Lane) -> String {
    let reason = lane.open_reason.as_deref().unwrap_or("?");
    let open = lane.opened_at.map(|since| format!("{}: {reason}", since_when(since, lane.as_of)));
    let probe = lane.opened_at.and(lane.next_probe_at).map(|at| match lane.is_probing {
        true => "in progress".to_owned(),
        false if at <= lane.as_of => "due".to_owned(),
        false => format!("{}, in {}", time(at), length(at - lane.as_of)),
    });
    let paused = lane.paused_at.map(|since| {
        format!("{}: {}", since_when(since, lane.as_of), lane.pause_reason.as_deref().unwrap_or("?"))
    });
    let until = |at: DateTime<Utc>| format!("{}, in {}", time(at), length(at - lane.as_of));
    fields(&[
        ("webhook", Some(lane.webhook_id.to_string())),
        ("company", Some(lane.company_id.to_string())),
        ("name", Some(lane.name.clone())),
        ("state", Some(lane.state.as_str().to_owned())),
        ("paused", paused),
        ("breaker open", open),
        ("next probe", probe),
        ("probes failed", lane.opened_at.map(|_| lane.probes_failed.to_string())),
        ("rate-limited until", lane.rate_limited_until.map(until)),
        ("consecutive failures", Some(lane.failures.to_string())),
        ("failing", lane.failing_since.map(|since| since_when(since, lane.as_of))),
        ("last success", Some(lane.last_success_at.map_or_else(|| "none".to_owned(), time))),
        ("max in flight", lane.max_in_flight.map(|n| n.to_string())),
        ("rate limit", lane.rate_limit.map(|n| format!("{n}/s"))),
        ("next slot", lane.rate_limit.map(|_| lane.next_slot_at.map_or_else(|| "free".to_owned(), until))),
        ("jobs", Some(count(lane.queued, lane.queued_is_more))),
        ("claimed", Some(count(lane.claimed, lane.queued_is_more))),
        ("waiting", Some(count(lane.waiting, lane.waiting_is_more))),
        ("oldest due", lane.oldest_due_at.map(|at| due(at, lane.as_of))),
    ])
}

/// All of them, one per line.
pub(super) fn many(lanes: &[Lane]) -> String {
    let mut table = OutputTable::new(&[
        "WEBHOOK",
        "NAME",
        "STATE",
        "SINCE",
        "PACE",
        "CLAIMED",
        "WAITING",
        "OLDEST DUE",
        "WHY",
    ]);
    for lane in lanes {
        let since = match lane.state {
            LaneState::Paused => lane.paused_at,
            LaneState::Open => lane.opened_at,
            LaneState::Failing => lane.failing_since,
            LaneState::Inactive | LaneState::RateLimited | LaneState::Healthy => None,
        };
        table.row([
            lane.webhook_id.to_string(),
            lane.name.clone(),
            lane.state.as_str().to_owned(),
            since.map_or_else(dash, time),
            lane.rate_limit.map_or_else(dash, |rate| format!("{rate}/s")),
            count(lane.claimed, lane.queued_is_more),
            count(lane.waiting, lane.waiting_is_more),
            lane.oldest_due_at.map_or_else(dash, |at| due(at, lane.as_of)),
            why(lane),
        ]);
    }
    table.render("no lanes")
}

/// The transitions of one lane, one per line.
pub(super) fn history(transitions: &[Transition]) -> String {
    let mut table = OutputTable::new(&["TIME", "TRANSITION", "DURATION", "FAILING SINCE", "REASON"]);
    for transition in transitions {
        let lasted = transition
            .opened_at
            .filter(|_| transition.kind == TransitionKind::Closed)
            .map(|opened| transition.at - opened);
        table.row([
            time(transition.at),
            transition.kind.to_string(),
            lasted.map_or_else(dash, length),
            transition.failing_since.map_or_else(dash, time),
            transition.reason.clone().unwrap_or_else(dash),
        ]);
    }
    table.render("no transitions")
}

fn why(lane: &Lane) -> String {
    let in_time = |at: DateTime<Utc>| length(at - lane.as_of);
    match lane.state {
        LaneState::Paused => lane.pause_reason.clone().unwrap_or_else(dash),
        LaneState::Open => {
            let probe = match lane.next_probe_at {
                _ if lane.is_probing => "a probe is in progress".to_owned(),
                Some(at) if at > lane.as_of => format!("next probe in {}", in_time(at)),
                _ => "a probe is due".to_owned(),
            };
            format!("{}; {probe}", lane.open_reason.as_deref().unwrap_or("?"))
        }
        LaneState::RateLimited => lane.rate_limited_until.map_or_else(dash, |until| {
            format!("rate-limited by the receiver for another {}", in_time(until))
        }),
        LaneState::Failing => format!("{} consecutive failures", lane.failures),
        LaneState::Inactive | LaneState::Healthy => dash(),
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn count(n: i64, is_more: bool) -> String {
    format!("{n}{}", if is_more { "+" } else { "" })
}

fn since_when(since: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("since {}, for {}", time(since), length(now - since))
}

fn due(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if at > now { format!("in {}", length(at - now)) } else { format!("{} ago", length(now - at)) }
}

/// A duration to the second.
fn length(length: TimeDelta) -> String {
    let seconds = u64::try_from(length.num_seconds()).unwrap_or(0);
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn an_open_lane_says_since_when_why_and_when_it_is_tried() {
        let now = SystemClock::local();
        let lane: Lane = serde_json::from_value(serde_json::json!({
            "webhook_id": uuid::Uuid::from_u128(1), "company_id": uuid::Uuid::from_u128(2), "name": "bot",
            "state": "open", "as_of": now, "opened_at": now - TimeDelta::seconds(90),
            "open_reason": "5 times in a row: timed out", "next_probe_at": now + TimeDelta::seconds(30),
            "probes_failed": 2, "is_probing": false, "failures": 5, "queued": 0, "claimed": 0, "queued_is_more": false,
            "waiting": 10_000, "waiting_is_more": true,
        }))
        .expect("a lane");
        let text = one(&lane);
        for expected in
            ["for 1m 30s: 5 times in a row: timed out", "in 30s", "probes failed         2", "10000+"]
        {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
        let line = many(&[lane]);
        assert!(line.contains("open") && line.contains("next probe in 30s"), "{line}");
    }

    #[test]
    fn a_closing_says_how_long_it_was_open() {
        let at = SystemClock::local();
        let transition = |kind| Transition {
            at,
            kind,
            reason: None,
            opened_at: Some(at - TimeDelta::seconds(61)),
            failing_since: None,
            announced_at: None,
        };
        let text = history(&[transition(TransitionKind::Closed), transition(TransitionKind::Opened)]);
        assert_eq!(text.matches("1m 1s").count(), 1, "{text}");
    }
}
