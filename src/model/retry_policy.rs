//! What follows from an outcome: done, held, another attempt later, or a dead letter.
//!
//! Every outcome class has its row in [`RetryPolicy::next`]. A policy is a count with the guide's doubling
//! waits of 1 to 64 s, which retry queues keep, or its own schedule of waits, which the ledger keeps. The
//! types enforce their bounds: a policy that exists is valid.

use std::{fmt, str::FromStr, time::Duration};

pub use super::next_step::{DeadReason, NextStep, RetryTier, Wait};
use super::{delivery::Trigger, outcome::Outcome};

/// The most attempts a policy by count may have.
pub const ATTEMPTS_MAX: u32 = 20;
/// The guide's default number of attempts.
pub const ATTEMPTS_DEFAULT: u32 = 3;
/// The most waits a schedule may have.
pub const SCHEDULE_ENTRIES_MAX: usize = 20;
/// The longest single wait of a schedule, before jitter.
pub const SCHEDULE_WAIT_SECONDS_MAX: u32 = 24 * 60 * 60;
/// The largest fraction by which jitter lengthens or shortens a schedule's wait.
pub const JITTER: f64 = 0.2;
/// The schedules that have a name, with their waits in seconds.
pub const PRESETS: [(&str, &[u32]); 1] = [
    // For receivers that may be down over a weekend.
    ("patient", &[5, 5 * 60, 30 * 60, 2 * 3600, 5 * 3600, 10 * 3600, 14 * 3600, 20 * 3600, 24 * 3600]),
];

/// The waits of the preset of that name.
#[must_use]
pub fn preset(name: &str) -> Option<&'static [u32]> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, waits)| *waits)
}

/// How many attempts a delivery gets, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryPolicy {
    /// A number of attempts in all, with doubling waits.
    Count(Count),
    /// One attempt, and one more after each of the waits.
    Schedule(Schedule),
}

/// A number of attempts, 1 to [`ATTEMPTS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(u32);

/// Waits in seconds, 1 to [`SCHEDULE_ENTRIES_MAX`] of them, each 1 to [`SCHEDULE_WAIT_SECONDS_MAX`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Box<[u32]>);

/// Why something is not a retry policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRetryPolicy {
    /// No attempt, or too many.
    #[error("{0} attempts are out of range; give 1 to {ATTEMPTS_MAX}")]
    Count(u32),
    /// No wait, or too many.
    #[error("a schedule of {0} waits is out of range; give 1 to {SCHEDULE_ENTRIES_MAX} waits")]
    Entries(usize),
    /// A wait that is too short or too long.
    #[error("a wait of {0} s is out of range; give 1 s to 24 h")]
    Wait(u64),
    /// A word that is not a wait.
    #[error("`{0}` is not a wait in whole seconds; write `{name}`, or waits such as `5s,5m,2h`", name = PRESETS[0].0)]
    Unreadable(String),
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::Count(Count(ATTEMPTS_DEFAULT))
    }
}

impl RetryPolicy {
    /// `count` attempts in all, with waits of 1, 2, 4 … 64 s between them.
    pub fn from_count(count: u32) -> Result<Self, BadRetryPolicy> {
        if (1..=ATTEMPTS_MAX).contains(&count) {
            Ok(Self::Count(Count(count)))
        } else {
            Err(BadRetryPolicy::Count(count))
        }
    }

    /// An attempt, and another after each of these waits in seconds.
    pub fn from_schedule(seconds: Vec<u32>) -> Result<Self, BadRetryPolicy> {
        if seconds.is_empty() || seconds.len() > SCHEDULE_ENTRIES_MAX {
            return Err(BadRetryPolicy::Entries(seconds.len()));
        }
        match seconds.iter().find(|wait| !(1..=SCHEDULE_WAIT_SECONDS_MAX).contains(*wait)) {
            Some(wait) => Err(BadRetryPolicy::Wait((*wait).into())),
            None => Ok(Self::Schedule(Schedule(seconds.into()))),
        }
    }

    /// How many attempts there are in all.
    #[must_use]
    pub fn attempts_max(&self) -> u32 {
        match self {
            Self::Count(Count(count)) => *count,
            Self::Schedule(Schedule(waits)) => waits.iter().fold(1, |attempts, _| attempts + 1),
        }
    }

    /// The value of `retry_schedule`: the waits in seconds; `None` for a policy by count.
    #[must_use]
    pub fn schedule(&self) -> Option<&[u32]> {
        match self {
            Self::Count(_) => None,
            Self::Schedule(Schedule(waits)) => Some(waits),
        }
    }

    /// What follows from the `outcome` of the attempt numbered `attempt` (from 1).
    ///
    /// `jitter` is a random number from 0 to 1 and spreads a schedule's waits. A `Retry-After` counts where it
    /// is longer than the policy's own wait, up to `retry_after_max`.
    #[must_use]
    pub fn next(
        &self,
        attempt: u32,
        outcome: &Outcome,
        trigger: Trigger,
        jitter: f64,
        retry_after_max: Duration,
    ) -> NextStep {
        match outcome {
            Outcome::Accepted { .. } => NextStep::Done,
            Outcome::Blocked { .. } => NextStep::DeadLetter { reason: DeadReason::Blocked },
            Outcome::Fault { .. } => NextStep::DeadLetter { reason: DeadReason::Fault },
            // A test is neither retried nor pauses anything.
            _ if trigger == Trigger::Test => NextStep::DeadLetter { reason: DeadReason::AttemptsExhausted },
            Outcome::Gone => NextStep::Hold { why: "the receiver answered 410 Gone".to_owned() },
            _ if attempt >= self.attempts_max() => {
                NextStep::DeadLetter { reason: DeadReason::AttemptsExhausted }
            }
            _ => NextStep::Retry {
                wait: at_least(self.wait(attempt, jitter), outcome.retry_after(), retry_after_max),
            },
        }
    }

    /// The policy's own wait after `attempt`, which is not the last.
    fn wait(&self, attempt: u32, jitter: f64) -> Wait {
        let done = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        match self {
            Self::Count(_) => Wait::Tier(RetryTier::ALL[done.min(RetryTier::ALL.len() - 1)]),
            Self::Schedule(Schedule(waits)) => {
                let seconds = waits.get(done).copied().unwrap_or(SCHEDULE_WAIT_SECONDS_MAX);
                let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
                Wait::Ledger(Duration::from_secs_f64(
                    f64::from(seconds) * (1.0 - JITTER + 2.0 * JITTER * jitter),
                ))
            }
        }
    }
}

fn at_least(own: Wait, retry_after: Option<Duration>, retry_after_max: Duration) -> Wait {
    match retry_after.map(|requested| requested.min(retry_after_max)) {
        Some(requested) if requested > own.duration() => Wait::Ledger(requested),
        _ => own,
    }
}

impl FromStr for RetryPolicy {
    type Err = BadRetryPolicy;

    /// Reads the name of a preset, or waits as `5s,5m,2h`.
    fn from_str(text: &str) -> Result<Self, BadRetryPolicy> {
        if let Some(waits) = preset(text.trim()) {
            return Self::from_schedule(waits.to_vec());
        }
        Self::from_schedule(text.split(',').map(|word| seconds(word.trim())).collect::<Result<_, _>>()?)
    }
}

fn seconds(word: &str) -> Result<u32, BadRetryPolicy> {
    let unreadable = || BadRetryPolicy::Unreadable(word.to_owned());
    let wait = humantime::parse_duration(word).map_err(|_| unreadable())?;
    if wait.subsec_nanos() != 0 {
        return Err(unreadable());
    }
    u32::try_from(wait.as_secs()).map_err(|_| BadRetryPolicy::Wait(wait.as_secs()))
}

impl fmt::Display for RetryPolicy {
    /// In the form that is read: `patient`, `5s,5m,2h`; a count as `3 attempts`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = PRESETS.iter().find(|(_, waits)| self.schedule() == Some(waits));
        if let Some((name, _)) = named {
            return f.write_str(name);
        }
        match self {
            Self::Count(Count(1)) => f.write_str("1 attempt"),
            Self::Count(Count(count)) => write!(f, "{count} attempts"),
            Self::Schedule(Schedule(waits)) => waits.iter().enumerate().try_for_each(|(n, wait)| {
                let comma = if n == 0 { "" } else { "," };
                let (count, unit) = match wait {
                    wait if wait % 3600 == 0 => (wait / 3600, 'h'),
                    wait if wait % 60 == 0 => (wait / 60, 'm'),
                    wait => (*wait, 's'),
                };
                write!(f, "{comma}{count}{unit}")
            }),
        }
    }
}

#[cfg(test)]
mod tests;
