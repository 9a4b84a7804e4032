//! Rate limits: requests of each principal, and failed authentications of each address.
//!
//! A principal above its rate gets 429 with `Retry-After`. An address with too many failures gets 429 for every further
//! failure, and no other service is asked for it. Valid credentials from it are still accepted; otherwise one bad client
//! behind a shared address would lock out all others. A request without credentials is not a failure, because nothing was
//! tried and nothing had to be looked up.

use std::{
    hash::Hash,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock, DefaultClock},
};
use moka::future::Cache;

use super::address;
use crate::api::problem::{Problem, ProblemKind};

/// The maximum number of principals, and of addresses, that are counted separately; further ones share one allowance until
/// some are quiet again.
pub const TRACKED_MAX: usize = 100_000;
/// How often quiet keys are forgotten.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// The rate limits.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Config {
    /// Requests per second allowed for each key or user; 0 for no limit
    #[arg(long, env = "API_RATE_LIMIT", value_name = "COUNT", default_value_t = 500, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub api_rate_limit: u32,
    /// Requests that a key or user may make at once after a quiet period
    #[arg(long, env = "API_RATE_BURST_MAX", value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub api_rate_burst_max: u32,
    /// Failed authentications per minute allowed for each address before it is answered 429; 0 for no limit
    #[arg(long, env = "API_FAILURES_PER_MINUTE_MAX", value_name = "COUNT", default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub api_failures_per_minute_max: u32,
}

/// The recent requests and failures.
pub(super) struct RateLimits {
    calls: Option<Allowances<String>>,
    failures: Option<Allowances<IpAddr>>,
    /// Until when an address that failed too often is over its allowance.
    failing: Cache<IpAddr, Instant>,
}

impl RateLimits {
    pub(super) fn new(config: &Config) -> Self {
        let calls = NonZeroU32::new(config.api_rate_limit).map(|rate| {
            let burst = NonZeroU32::new(config.api_rate_burst_max).unwrap_or(NonZeroU32::MIN);
            Allowances::new(Quota::per_second(rate).allow_burst(burst), String::new())
        });
        let failures = NonZeroU32::new(config.api_failures_per_minute_max)
            .map(|count| Allowances::new(Quota::per_minute(count), Ipv4Addr::UNSPECIFIED.into()));
        let failing = Cache::builder().max_capacity(TRACKED_MAX as u64).time_to_live(FORGET_EVERY).build();
        Self { calls, failures, failing }
    }

    /// Counts a call of a principal.
    pub(super) fn call(&self, principal: &str) -> Result<(), Problem> {
        let Some(calls) = &self.calls else { return Ok(()) };
        calls.take(principal.to_owned()).map_err(|wait| {
            let detail = "these credentials made more requests than API_RATE_LIMIT allows";
            Problem::new(ProblemKind::TooManyRequests, detail).after(wait)
        })
    }

    /// Counts a failure of an address; returns the problem to respond with instead if there were too many.
    pub(super) async fn failure(&self, address: IpAddr) -> Option<Problem> {
        let address = address::counted(address);
        let wait = self.failures.as_ref()?.take(address).err()?;
        self.failing.insert(address, Instant::now() + wait).await;
        Some(too_many_failures(wait))
    }

    /// Whether an address has exceeded its allowance of failures; returns the problem to respond with, if so.
    pub(super) async fn is_failing(&self, address: IpAddr) -> Option<Problem> {
        let until = self.failing.get(&address::counted(address)).await?;
        let wait = until.checked_duration_since(Instant::now())?;
        Some(too_many_failures(wait))
    }
}

fn too_many_failures(wait: Duration) -> Problem {
    let detail = "too many failed authentications from this address; check the credentials";
    Problem::new(ProblemKind::TooManyRequests, detail).after(wait)
}

/// An allowance for each key.
struct Allowances<K: Hash + Eq + Clone> {
    limiter: DefaultKeyedRateLimiter<K>,
    clock: DefaultClock,
    /// The key whose allowance is shared by those that are not counted separately.
    others: K,
    tracked_max: usize,
    began: Instant,
    /// When quiet keys were last forgotten, in milliseconds since `began`.
    forgotten_ms: AtomicU64,
}

impl<K: Hash + Eq + Clone> Allowances<K> {
    fn new(quota: Quota, others: K) -> Self {
        Self {
            limiter: DefaultKeyedRateLimiter::keyed(quota),
            clock: DefaultClock::default(),
            others,
            tracked_max: TRACKED_MAX,
            began: Instant::now(),
            forgotten_ms: AtomicU64::new(0),
        }
    }

    /// Takes one from an allowance, or says how long to wait for it.
    fn take(&self, key: K) -> Result<(), Duration> {
        self.forget_the_quiet(FORGET_EVERY);
        let key = if self.limiter.len() < self.tracked_max { key } else { self.others.clone() };
        self.limiter.check_key(&key).map_err(|refused| refused.wait_time_from(self.clock.now()))
    }

    /// Forgets keys whose allowance is complete again, when it is time. A caller does this, because nothing grows without
    /// calls.
    fn forget_the_quiet(&self, every: Duration) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = self.forgotten_ms.load(Ordering::Relaxed);
        let is_due = u128::from(now.saturating_sub(last)) >= every.as_millis();
        if is_due
            && self.forgotten_ms.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(per_minute: u32) -> Quota {
        Quota::per_minute(NonZeroU32::new(per_minute).unwrap())
    }

    #[test]
    fn each_has_an_allowance_of_its_own_and_is_told_how_long_to_wait() {
        let allowances = Allowances::new(quota(2), 0);
        assert!(allowances.take(1).is_ok() && allowances.take(1).is_ok());
        let wait = allowances.take(1).unwrap_err();
        assert!((Duration::from_secs(20)..=Duration::from_secs(30)).contains(&wait), "{wait:?}");
        assert!(allowances.take(2).is_ok());
    }

    #[test]
    fn no_more_are_told_apart_than_may_be_and_the_quiet_are_forgotten() {
        // A thousand calls are made up for within a millisecond.
        let mut allowances = Allowances::new(quota(60_000_000), 0);
        allowances.tracked_max = 10;
        for key in 1..=1_000 {
            let _ = allowances.take(key);
        }
        assert!(allowances.limiter.len() <= 11, "{}", allowances.limiter.len());
        let end = Instant::now() + Duration::from_secs(10);
        while !allowances.limiter.is_empty() {
            assert!(Instant::now() < end, "a millisecond's allowance is whole again soon");
            allowances.forget_the_quiet(Duration::ZERO);
        }
    }

    #[tokio::test]
    async fn an_address_that_fails_too_often_is_over_its_allowance_and_others_are_not() {
        let config = Config { api_rate_limit: 0, api_rate_burst_max: 1, api_failures_per_minute_max: 2 };
        let limits = RateLimits::new(&config);
        let (one, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert!(limits.failure(one).await.is_none() && limits.failure(one).await.is_none());
        assert!(limits.is_failing(one).await.is_none());
        assert_eq!(
            limits.failure(one).await.map(|problem| problem.kind()),
            Some(ProblemKind::TooManyRequests)
        );
        assert!(limits.is_failing(one).await.is_some());
        assert!(limits.failure(other).await.is_none() && limits.is_failing(other).await.is_none());
        assert!((0..10_000).all(|_| limits.call("anybody").is_ok()), "0 is no limit");
    }
}
