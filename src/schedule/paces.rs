//! How much a rate allows at the moment: of a replay, or of a webhook's lane. Pure; instants are arguments.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use sqlx::types::Uuid;

/// A rate, and how far ahead of it one may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct LanePaces {
    /// How many a second.
    pub per_second: f64,
    /// So many seconds' worth are allowed at once at first; at least one.
    pub begins_with: Duration,
    /// So many seconds' worth are allowed at once later; at least one.
    pub most: Duration,
}

/// What each may take. Nothing is made up for: what could not be taken while schedule was interrupted, or before it
/// became active here, comes at the rate as well.
#[derive(Default)]
pub(super) struct Paces(HashMap<Uuid, Tokens>);

struct Tokens {
    at: Instant,
    allowed: f64,
}

impl Paces {
    /// How many more may be taken now.
    pub(super) fn allowed(&mut self, of: Uuid, pacing: LanePaces, now: Instant) -> i64 {
        let worth = |time: Duration| (pacing.per_second * time.as_secs_f64()).max(1.0);
        let pace = self.0.entry(of).or_insert(Tokens { at: now, allowed: worth(pacing.begins_with) });
        let gained = now.saturating_duration_since(pace.at).as_secs_f64() * pacing.per_second;
        pace.allowed = (pace.allowed + gained).min(worth(pacing.most));
        pace.at = now;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a rate is at most 100,000 and so is a second's worth"
        )]
        let whole = pace.allowed as i64;
        whole
    }

    /// Takes so many of what is allowed.
    pub(super) fn took(&mut self, of: Uuid, count: i64) {
        #[expect(clippy::cast_precision_loss, reason = "at most what a statement changes")]
        let count = count as f64;
        if let Some(pace) = self.0.get_mut(&of) {
            pace.allowed -= count;
        }
    }

    /// Forgets one: what it has taken no longer counts.
    pub(super) fn forget_one(&mut self, of: Uuid) {
        self.0.remove(&of);
    }

    /// Forgets those not asked for within this time; if one comes again, it starts from the beginning.
    pub(super) fn forget(&mut self, now: Instant, unasked: Duration) {
        self.0.retain(|_, pace| now.saturating_duration_since(pace.at) <= unasked);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn check(rate: f64, begins_with: Duration, taken_at_ms: &[u64], expected: &[i64]) {
        let (start, of, mut paces) = (Instant::now(), Uuid::from_u128(1), Paces::default());
        let pacing = LanePaces { per_second: rate, begins_with, most: SECOND };
        let take = |ms: &u64| {
            let allowed = paces.allowed(of, pacing, start + Duration::from_millis(*ms));
            paces.took(of, allowed);
            allowed
        };
        let taken: Vec<i64> = taken_at_ms.iter().map(take).collect();
        assert_eq!(taken, expected, "at a rate of {rate}");
    }

    #[test]
    fn a_pace_begins_as_far_ahead_as_it_may_and_makes_up_for_nothing() {
        check(10.0, SECOND, &[0, 0, 500, 1000, 1050], &[10, 0, 5, 5, 0]);
        check(1.0, SECOND, &[0, 500, 1000, 1500, 2000], &[1, 0, 1, 0, 1]);
        // An hour of standing still gives a second's worth, not an hour's.
        check(10.0, SECOND, &[0, 3_600_000, 3_600_100], &[10, 10, 1]);
        check(48.0, Duration::from_millis(250), &[0, 250, 1250, 5000], &[12, 12, 48, 48]);
        // One is the least, or the lowest rates would never begin.
        check(0.01, Duration::from_millis(250), &[0, 99_000, 100_000], &[1, 0, 1]);
    }

    #[test]
    fn what_is_allowed_and_not_taken_stays() {
        let (now, of, mut paces) = (Instant::now(), Uuid::from_u128(1), Paces::default());
        let pacing = LanePaces { per_second: 10.0, begins_with: SECOND, most: SECOND };
        assert_eq!(paces.allowed(of, pacing, now), 10);
        paces.took(of, 3);
        assert_eq!(paces.allowed(of, pacing, now), 7);
        paces.forget(now + SECOND * 2, SECOND);
        assert_eq!(paces.allowed(of, pacing, now + SECOND * 2), 10, "it begins again");
    }
}
