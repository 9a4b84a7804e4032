//! The clock, passed in wherever time decides something.
//!
//! Requests are signed, and waits are judged, by the *database's* clock: [`SystemClock::now`] is the local clock
//! corrected by the last measured offset. So even a worker whose own clock is wrong signs correctly. Code that must be
//! tested at a given time takes that time as a parameter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

/// The machine's clock with the offset to the database's.
#[derive(Clone, Debug, Default)]
pub struct SystemClock {
    offset_micros: Arc<AtomicI64>,
}

impl SystemClock {
    /// Now, by the database's clock as far as it is known.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        Self::local() + TimeDelta::microseconds(self.offset_micros.load(Ordering::Relaxed))
    }

    /// The machine's own time, uncorrected.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    pub fn local() -> DateTime<Utc> {
        Utc::now()
    }

    /// Records a measurement: the database's time between two readings of the local clock.
    pub fn measured(&self, before: DateTime<Utc>, database: DateTime<Utc>, after: DateTime<Utc>) {
        // The answer was made between the readings; the middle is off by half the round trip at most.
        let middle = before + (after - before) / 2;
        let offset = (database - middle).num_microseconds().unwrap_or(0);
        self.offset_micros.store(offset, Ordering::Relaxed);
    }

    /// By how much the machine's clock differs from the database's.
    #[must_use]
    pub fn offset(&self) -> Duration {
        Duration::from_micros(self.offset_micros.load(Ordering::Relaxed).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_five_minutes_slow_tells_the_databases_time() {
        let clock = SystemClock::default();
        let local = SystemClock::local();
        let database = local + TimeDelta::minutes(5);
        clock.measured(local, database, local + TimeDelta::milliseconds(2));
        assert!((clock.now() - database).num_seconds().abs() < 2);
        assert!(clock.offset() > Duration::from_secs(299));
    }
}
