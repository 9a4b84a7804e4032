//! The breaker of a webhook's lane: what outcomes open and close it, and when a probe may try whether the receiver is
//! back.
//!
//! ```text
//!             5 failures in a row over all workers,
//!             or half of 20 within a minute in one
//!   closed ──────────────────────────────────────────▶ open ── a probe fails: the next in 5 s, 10 s … 5 min ─┐
//!      ▲                                                │ ▲                                                   │
//!      └──────────────────── any success ───────────────┘ └───────────────────────────────────────────────────┘
//! ```
//!
//! A batch of finished attempts makes one [`LaneChange`] for each webhook, and is judged at its end. The ledger applies
//! it to the lane (`store::record_attempts`), because only the ledger sees all workers.
//! `tests/it/lanes/breaker_model.rs` says the same in Rust, and a test compares the two. An open lane always has a next
//! probe, so none stays open for lack of an attempt.
//!
//! The outcome of a test does not count, and answers below 500 do not count towards opening, because they show that the
//! receiver is there.

use std::time::Duration;

use super::{
    id::{CompanyId, EventId},
    outcome::OutcomeClass,
};

mod failure_ratio;

pub use failure_ratio::{FailureRatios, SHARE_ATTEMPTS_MIN, SHARE_WINDOW, Share, WATCHED_MAX};

/// The longest wait for the next probe, before jitter.
pub const PROBE_WAIT_MAX: Duration = Duration::from_mins(5);
/// The largest fraction by which jitter lengthens or shortens the wait for a probe.
pub const PROBE_JITTER: f64 = 0.2;
/// A `rate_limited_until` that moves by no more than this is not announced.
pub const RATE_LIMITED_PROLONGED_MIN: Duration = Duration::from_secs(1);
/// How old `last_success_at` becomes before a success rewrites a healthy lane.
pub const SUCCESS_RECORDED_EVERY: Duration = Duration::from_mins(1);
/// The longest reason of an opening that is stored, in characters.
pub const REASON_MAX: usize = 400;
/// The reason of a closing.
pub const CLOSED_BECAUSE: &str = "the receiver accepted a delivery again";

/// When a breaker opens, and how its probes wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Failures in a row that open it.
    pub failures: u32,
    /// The wait for the first probe; each that fails doubles it, up to [`PROBE_WAIT_MAX`].
    pub probe_wait_min: Duration,
}

impl Policy {
    /// The waits before jitter: for the first probe, the second, and so on; the last holds for all further ones.
    #[must_use]
    pub fn probe_waits(&self) -> Vec<Duration> {
        let first = self.probe_wait_min.clamp(Duration::from_millis(1), PROBE_WAIT_MAX);
        let doubled = std::iter::successors(Some(first), |wait| Some((*wait * 2).min(PROBE_WAIT_MAX)));
        let mut waits: Vec<Duration> = doubled.take_while(|wait| *wait < PROBE_WAIT_MAX).collect();
        waits.push(PROBE_WAIT_MAX);
        waits
    }
}

/// The factor that a random number from 0 to 1 lengthens or shortens a wait by.
#[must_use]
pub fn jitter(random: f64) -> f64 {
    let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.5 };
    1.0 - PROBE_JITTER + 2.0 * PROBE_JITTER * random
}

/// Whether outcomes of this class open a breaker: the receiver was not there, or not working.
#[must_use]
pub const fn counts(class: OutcomeClass) -> bool {
    matches!(class, OutcomeClass::ServerError | OutcomeClass::TimedOut | OutcomeClass::Unreachable)
}

/// What one finished attempt means for its lane. Tests do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub company: CompanyId,
    /// The event it carried.
    pub event: EventId,
    /// Whether that is an operational event.
    pub operational: bool,
    /// What came of it.
    pub class: OutcomeClass,
    /// Whether it was the lane's one probe.
    pub probe: bool,
    /// For how long the webhook is rate-limited, already bounded.
    pub rate_limited_for: Option<Duration>,
    /// The share of failures that this worker saw, if it opens the breaker.
    pub share: Option<Share>,
}

/// What a batch of finished attempts does to a lane: the attempts of one webhook in the order of their ends, folded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not exclude each other, a column each in the ledger's statement"
)]
pub struct LaneChange {
    /// How many attempts it is made of.
    pub attempts: u32,
    /// Whether there was a success.
    pub succeeded: bool,
    /// Failures that count since the last success.
    pub failures: u32,
    /// The event of the first failure of any class since the last success.
    pub failed_event: Option<EventId>,
    /// Whether more than one event has failed since.
    pub failed_many: bool,
    /// The share that opens the breaker.
    pub share: Option<Share>,
    /// What the last failure that counts was, in words.
    pub last: String,
    /// Whether a failure that counts was of an event that is not operational.
    pub loud: bool,
    /// Whether one of them was the probe.
    pub probe: bool,
    /// For how long the webhook is rate-limited.
    pub rate_limited_for: Duration,
}

impl LaneChange {
    /// Adds the next attempt; `why` is its outcome in words.
    pub fn add(&mut self, heard: &Heard, why: &str) {
        self.attempts = self.attempts.saturating_add(1);
        self.probe |= heard.probe;
        self.rate_limited_for = self.rate_limited_for.max(heard.rate_limited_for.unwrap_or_default());
        if heard.class == OutcomeClass::Accepted {
            let Self { attempts, probe, rate_limited_for, .. } = *self;
            *self = Self { attempts, probe, rate_limited_for, succeeded: true, ..Self::default() };
            return;
        }
        let first = *self.failed_event.get_or_insert(heard.event);
        self.failed_many |= first != heard.event;
        if counts(heard.class) {
            self.failures = self.failures.saturating_add(1);
            self.loud |= !heard.operational;
            self.share = heard.share.or(self.share);
            self.last = why.chars().take(REASON_MAX).collect();
        }
    }

    /// Whether all failures that count were of operational events.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.failures > 0 && !self.loud
    }
}

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;
