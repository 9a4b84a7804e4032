//! The state of one webhook over all workers, as the ledger has it: its pace, until when it is rate-limited, and its
//! breaker.
//!
//! Instants are the database's. What only one worker knows (requests in flight, waiting deliveries) is kept in that
//! worker.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// How late after its slot a request may start; later the slot is given up.
pub const SLOT_MISSED_AFTER: Duration = Duration::from_millis(50);
/// How far ahead slots are reserved, and jobs are made for a paced lane.
pub const SLOTS_AHEAD: Duration = Duration::from_secs(1);

/// The distance of two slots of a lane with that many requests a second.
///
/// A start may come up to [`SLOT_MISSED_AFTER`] after its slot, so a window of w seconds can hold the starts of w +
/// 0.05 seconds' worth of slots. Slots 5 % wider apart make that no more than `rate × w + 1` for each w ≥ 1 s.
#[must_use]
pub fn slot_interval(rate: f64) -> Duration {
    Duration::from_secs_f64((1.0 + SLOT_MISSED_AFTER.as_secs_f64()) / rate.max(f64::MIN_POSITIVE))
}

/// The state of a lane in the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Set while its breaker is open.
    pub open: Option<OpenBreaker>,
    /// The lane is rate-limited until then.
    pub rate_limited_until: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenBreaker {
    pub since: DateTime<Utc>,
    /// When one request may try whether the receiver is back.
    pub next_probe_at: DateTime<Utc>,
}

/// Whether a request may start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// As far as the ledger is concerned.
    Start,
    /// As the one probe, if the ledger leases it.
    Probe,
    /// Not before then.
    Wait(DateTime<Utc>),
}

/// Why nothing starts in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    RateLimited,
    /// Its breaker is open.
    Breaker,
}

impl Standing {
    /// Whether a request may start at `now`.
    #[must_use]
    pub fn may(&self, now: DateTime<Utc>) -> May {
        match (self.rate_limited_until.filter(|until| *until > now), self.open) {
            (Some(until), open) => May::Wait(open.map_or(until, |open| until.max(open.next_probe_at))),
            (None, Some(open)) if open.next_probe_at > now => May::Wait(open.next_probe_at),
            (None, Some(_)) => May::Probe,
            (None, None) => May::Start,
        }
    }

    /// Which of the two keeps it from starting anything: the one that lasts longer.
    #[must_use]
    pub fn why_not(&self, now: DateTime<Utc>) -> WhyNot {
        let rate_limited = self.rate_limited_until.filter(|until| *until > now);
        match (rate_limited, self.open) {
            (Some(until), Some(open)) if open.next_probe_at > until => WhyNot::Breaker,
            (Some(_), _) => WhyNot::RateLimited,
            (None, _) => WhyNot::Breaker,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + s, 0).expect("a time")
    }

    #[test]
    fn a_lane_says_when_a_request_may_start() {
        let check = |probe: Option<i64>, limited: Option<i64>, expected: May| {
            let standing = Standing {
                open: probe.map(|s| OpenBreaker { since: at(-60), next_probe_at: at(s) }),
                rate_limited_until: limited.map(at),
            };
            assert_eq!(standing.may(at(0)), expected, "{standing:?}");
        };
        check(None, None, May::Start);
        check(None, Some(0), May::Start);
        check(None, Some(9), May::Wait(at(9)));
        check(Some(5), None, May::Wait(at(5)));
        check(Some(0), None, May::Probe);
        check(Some(-5), Some(9), May::Wait(at(9)));
        check(Some(12), Some(9), May::Wait(at(12)));
        check(Some(-5), Some(-9), May::Probe);
    }

    #[test]
    fn what_lasts_longer_is_why_nothing_starts() {
        let check = |limited: Option<i64>, probe: Option<i64>, expected: WhyNot| {
            let open = probe.map(|s| OpenBreaker { since: at(-60), next_probe_at: at(s) });
            let standing = Standing { open, rate_limited_until: limited.map(at) };
            assert_eq!(standing.why_not(at(0)), expected, "{standing:?}");
        };
        check(Some(5), None, WhyNot::RateLimited);
        check(Some(5), Some(3), WhyNot::RateLimited);
        check(Some(5), Some(9), WhyNot::Breaker);
        check(Some(-5), Some(9), WhyNot::Breaker);
        check(None, Some(9), WhyNot::Breaker);
    }

    #[test]
    fn slots_are_so_far_apart_that_late_starts_break_no_limit() {
        for rate in [0.01, 0.5, 1.0, 3.0, 50.0, 1_000.0] {
            for w in [1.0, 1.5, 2.0, 60.0, 3_600.0] {
                let slots = (w + SLOT_MISSED_AFTER.as_secs_f64()) / slot_interval(rate).as_secs_f64() + 1.0;
                assert!(slots <= rate * w + 1.0 + 1e-6 * rate * w, "{rate}/s in {w} s: {slots}");
            }
        }
    }
}
