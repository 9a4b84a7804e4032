//! What an outcome leads to, and the waits and reasons that come with it.
//!
//! [`RetryPolicy::next`](super::retry_policy::RetryPolicy::next) chooses among these.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};

/// The retry queues, one for each wait that doubling gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RetryTier {
    S1,
    S2,
    S4,
    S8,
    S16,
    S32,
    /// Sixty-four seconds: the wait after the seventh attempt and all later ones.
    S64,
}

impl RetryTier {
    /// Every tier, shortest first.
    pub const ALL: [Self; 7] = [Self::S1, Self::S2, Self::S4, Self::S8, Self::S16, Self::S32, Self::S64];

    /// How long it waits.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        match self {
            Self::S1 => 1,
            Self::S2 => 2,
            Self::S4 => 4,
            Self::S8 => 8,
            Self::S16 => 16,
            Self::S32 => 32,
            Self::S64 => 64,
        }
    }

    /// The suffix of its queue's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::S1 => "1s",
            Self::S2 => "2s",
            Self::S4 => "4s",
            Self::S8 => "8s",
            Self::S16 => "16s",
            Self::S32 => "32s",
            Self::S64 => "64s",
        }
    }
}

/// How the wait for the next attempt is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// In a retry queue.
    Tier(RetryTier),
    /// In the ledger, for this long.
    Ledger(Duration),
}

impl Wait {
    /// How long it is.
    #[must_use]
    pub fn duration(self) -> Duration {
        match self {
            Self::Tier(tier) => Duration::from_secs(tier.seconds().into()),
            Self::Ledger(wait) => wait,
        }
    }
}

/// What follows from an outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextStep {
    Done,
    /// The webhook is paused with this reason, and the delivery held.
    Hold {
        /// The reason of the pause, for a person.
        why: String,
    },
    Retry {
        wait: Wait,
    },
    DeadLetter {
        reason: DeadReason,
    },
}

impl NextStep {
    /// This step, if no attempt may start after `end`: a retry that would is given up instead.
    #[must_use]
    pub fn ending(self, now: DateTime<Utc>, end: Option<DateTime<Utc>>) -> Self {
        let is_late = |wait: Wait| {
            end.is_some_and(|end| (end - now).to_std().map_or(true, |left| wait.duration() > left))
        };
        match self {
            Self::Retry { wait } if is_late(wait) => Self::DeadLetter { reason: DeadReason::TooOld },
            other => other,
        }
    }

    /// The word for it in the log.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Hold { .. } => "hold",
            Self::Retry { .. } => "retry",
            Self::DeadLetter { .. } => "dead letter",
        }
    }
}

/// Why a delivery or a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// Every attempt that the policy allows has failed.
    AttemptsExhausted,
    /// The address is in a forbidden network.
    Blocked,
    /// The request could not be made.
    Fault,
    /// It became older than the retention, or its event did.
    Expired,
    /// The next attempt would start later than its webhook allows.
    TooOld,
    /// An attempt was made for a delivery that the ledger does not know.
    UnknownDelivery,
    /// Its worker died repeatedly, even in quarantine.
    EndedTheWorker,
    /// The message is not an event that can be read.
    Undecodable,
    /// The job has an unknown version.
    UnknownVersion,
    /// PostgreSQL rejected the row, even alone.
    RefusedByLedger,
}

impl DeadReason {
    pub const ALL: [Self; 10] = [
        Self::AttemptsExhausted,
        Self::Blocked,
        Self::Fault,
        Self::Expired,
        Self::TooOld,
        Self::UnknownDelivery,
        Self::EndedTheWorker,
        Self::Undecodable,
        Self::UnknownVersion,
        Self::RefusedByLedger,
    ];

    /// The reason that the ledger's text begins with; some have a count after it.
    #[must_use]
    pub fn of(words: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| words.starts_with(reason.as_str()))
    }

    /// The text in the ledger's `reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsExhausted => "attempts exhausted",
            Self::Blocked => "blocked",
            Self::Fault => "fault",
            Self::Expired => "expired",
            Self::TooOld => "too old",
            Self::UnknownDelivery => "unknown delivery",
            Self::EndedTheWorker => "ended the worker",
            Self::Undecodable => "cannot be decoded",
            Self::UnknownVersion => "unknown job version",
            Self::RefusedByLedger => "refused by the ledger",
        }
    }
}

impl fmt::Display for DeadReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
