//! How many jobs a company may have in the prompt queues: a few at once, and then so many a second. Pure.
//!
//! This is the generic cell rate algorithm, with one instant for each company: when its share will be whole again. A
//! company whose share is whole is forgotten.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::model::CompanyId;

/// Jobs that a company may have at once, in each process of ingest.
pub const SHARE_JOBS: u32 = 100;
/// How fast the share refills.
pub const SHARE_JOBS_PER_SECOND: u32 = 100;
/// The most companies whose shares are kept; beyond that the jobs of others go to the ordinary queues.
pub const COMPANIES_MAX: usize = 100_000;

/// What one job takes of a share.
const JOB: Duration = Duration::from_nanos(1_000_000_000 / SHARE_JOBS_PER_SECOND as u64);
/// The time in which an empty share becomes whole; at this interval whole ones are forgotten.
const WHOLE_AFTER: Duration = JOB.saturating_mul(SHARE_JOBS);

/// The shares of all companies.
#[derive(Debug, Default)]
pub(super) struct FairShares {
    whole_at: HashMap<CompanyId, Instant>,
    swept_at: Option<Instant>,
}

impl FairShares {
    /// Takes so many jobs from the share of a company, or none if there is not enough for all.
    pub(super) fn take(&mut self, company: CompanyId, jobs: usize, now: Instant) -> bool {
        self.sweep(now);
        let known = self.whole_at.get(&company);
        if known.is_none() && self.whole_at.len() >= COMPANIES_MAX {
            return false;
        }
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
        let whole_at = known.map_or(now, |whole_at| now.max(*whole_at)) + JOB.saturating_mul(jobs);
        if whole_at.saturating_duration_since(now) > WHOLE_AFTER {
            return false;
        }
        self.whole_at.insert(company, whole_at);
        true
    }

    fn sweep(&mut self, now: Instant) {
        let swept_at = *self.swept_at.get_or_insert(now);
        if now.saturating_duration_since(swept_at) >= WHOLE_AFTER {
            self.whole_at.retain(|_, whole_at| *whole_at > now);
            self.swept_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn company(n: usize) -> CompanyId {
        CompanyId(Uuid::from_u128(n as u128))
    }

    /// At each millisecond: how many jobs are asked for, and whether they are granted.
    fn check(steps: &[(u64, usize, bool)]) {
        let (mut shares, start) = (FairShares::default(), Instant::now());
        for (ms, jobs, granted) in steps {
            let now = start + Duration::from_millis(*ms);
            assert_eq!(shares.take(company(1), *jobs, now), *granted, "{jobs} at {ms} of {steps:?}");
        }
    }

    #[test]
    fn a_share_is_a_few_at_once_and_comes_back_by_the_second() {
        check(&[(0, 100, true), (0, 1, false), (9, 1, false), (10, 1, true), (10, 1, false)]);
        check(&[(0, 60, true), (0, 40, true), (0, 1, false), (500, 50, true), (500, 1, false)]);
        // What is not granted takes nothing, and idleness brings no more than the whole.
        check(&[(0, 101, false), (0, 100, true), (60_000, 100, true), (60_000, 1, false)]);
        check(&[(0, usize::MAX, false), (0, 100, true)]);
    }

    #[test]
    fn in_no_time_is_more_granted_than_the_whole_and_what_came_back() {
        let (mut shares, start) = (FairShares::default(), Instant::now());
        let granted = (0..10_000).filter(|ms| shares.take(company(1), 1, start + Duration::from_millis(*ms)));
        assert_eq!(granted.count(), 100 + 999);
    }

    #[test]
    fn one_company_takes_nothing_from_another() {
        let (mut shares, now) = (FairShares::default(), Instant::now());
        assert!(shares.take(company(1), 100, now) && !shares.take(company(1), 1, now));
        assert!(shares.take(company(2), 100, now));
    }

    #[test]
    fn companies_are_forgotten_and_no_more_are_remembered_than_there_may_be() {
        let (mut shares, now) = (FairShares::default(), Instant::now());
        assert!((0..COMPANIES_MAX).all(|n| shares.take(company(n), 1, now)));
        assert!(!shares.take(company(COMPANIES_MAX), 1, now), "there is no place for it");
        assert!(shares.take(company(7), 1, now), "who is known is served");
        let later = now + WHOLE_AFTER;
        assert!(shares.take(company(COMPANIES_MAX), 1, later));
        assert_eq!(shares.whole_at.len(), 1);
    }
}
