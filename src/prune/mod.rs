//! Makes the days of the history ahead, and ends those that are past the retention.
//!
//! What a day still owes is ended first, dead with the reason *expired* and a dead letter each; only then is the
//! day detached and dropped. A day that a running replay may still read stays. One process is active, by a lease.

use std::time::Duration;

use chrono::{Days, NaiveDate};
use clap::Args;
use sqlx::types::Uuid;

use crate::{
    clock::{Clock, SystemClock},
    shutdown::Shutdown,
    store::{forget, intake_keys, lease, ledger::Ledger, partitions, replay_rows},
    telemetry::{Metrics, labels::PartitionAction},
};

const LEASE: &str = "prune";
const LEASE_LASTS: Duration = Duration::from_mins(10);
/// How often it looks.
const EVERY: Duration = Duration::from_mins(5);
/// Partitions are made so many days ahead.
pub const DAYS_AHEAD: i32 = 14;
/// Rows that one statement of prune changes.
pub const ROWS_MAX: i64 = 1_000;
/// The history must outlive the longest wait and the longest parking by this.
pub const RETENTION_MARGIN: Duration = Duration::from_hours(48);

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// How long things are kept.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Prune")]
pub struct Config {
    /// How long events, deliveries, attempts and the transitions of lanes are kept, in whole days
    #[arg(long, env = "RETENTION", default_value = "30d", value_parser = humantime::parse_duration)]
    pub retention: Duration,

    /// How long dead letters are kept, and orders to replay after their end
    #[arg(long, env = "DEAD_LETTER_RETENTION", default_value = "90d", value_parser = humantime::parse_duration)]
    pub dead_letter_retention: Duration,
}

/// A retention under which what is still owed would be dropped.
#[derive(Debug, thiserror::Error)]
#[error(
    "RETENTION {} is shorter than the longest wait, PARK_MAX and two days together: at least {}d is needed",
    humantime::format_duration(*retention),
    needed.as_secs().div_ceil(DAY_SECONDS)
)]
pub struct RetentionTooShort {
    retention: Duration,
    needed: Duration,
}

impl Config {
    /// Refuses a retention that would end what may still be waiting.
    pub fn check(&self, longest_wait: Duration, park_max: Duration) -> Result<(), RetentionTooShort> {
        let needed = longest_wait + park_max + RETENTION_MARGIN;
        if self.retention < needed {
            return Err(RetentionTooShort { retention: self.retention, needed });
        }
        Ok(())
    }
}

/// The stage.
pub struct Prune {
    /// Where the history is.
    pub ledger: Ledger,
    /// The database's time.
    pub clock: SystemClock,
    /// What is counted.
    pub metrics: Metrics,
    /// When to end.
    pub shutdown: Shutdown,
    /// How long things are kept.
    pub config: Config,
}

impl Prune {
    /// Prunes now and then while it holds the lease, until shutdown.
    pub async fn run(self) {
        let holder = Uuid::new_v4().to_string();
        while !self.shutdown.is_asked() {
            match lease::take(self.ledger.pool(), LEASE, &holder, LEASE_LASTS).await {
                Ok(Some(_since)) => {
                    if let Err(error) = self.prune().await {
                        tracing::warn!(%error, "pruning was interrupted; it goes on later");
                        self.ledger.leave_read_only(&error).await;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "prune cannot ask for its lease");
                    self.ledger.leave_read_only(&error).await;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.shutdown.asked() => {}
            }
        }
        let _ = lease::release(self.ledger.pool(), LEASE, &holder).await;
    }

    /// One pass over everything.
    pub async fn prune(&self) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let now = self.clock.now();
        let today = now.date_naive();
        let yesterday = today.pred_opt().unwrap_or(NaiveDate::MIN);
        let made = partitions::ensure(pool, yesterday, DAYS_AHEAD + 2).await?;
        self.metrics.prune_partitions.add(PartitionAction::Made, usize::try_from(made).unwrap_or(0));
        let keep_from = self.keep_from(today);
        // Before their days go, and a day more, so that nobody holds an id that lies in a day which is gone.
        let keys_from = keep_from.succ_opt().unwrap_or(NaiveDate::MAX);
        while intake_keys::forget(pool, keys_from, ROWS_MAX).await? > 0 {}
        for day in partitions::days(pool).await?.into_iter().take_while(|day| *day < keep_from) {
            if replay_rows::may_read(pool, day, self.config.retention).await? {
                tracing::info!(%day, "a running replay may need this day; it stays for now");
                continue;
            }
            self.end_day(day).await?;
        }
        let expired = now - self.config.dead_letter_retention;
        while forget::dead_letters(pool, expired, ROWS_MAX).await? > 0 {}
        while forget::replays(pool, expired, ROWS_MAX).await? > 0 {}
        while forget::lane_transitions(pool, now - self.config.retention, ROWS_MAX).await? > 0 {}
        Ok(())
    }

    fn keep_from(&self, today: NaiveDate) -> NaiveDate {
        let days = self.config.retention.as_secs().div_ceil(24 * 60 * 60);
        today.checked_sub_days(Days::new(days)).unwrap_or(NaiveDate::MIN)
    }

    async fn end_day(&self, day: NaiveDate) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let mut expired = 0;
        loop {
            let rows = partitions::expire(pool, day, ROWS_MAX).await?;
            expired += rows;
            if rows == 0 || self.shutdown.is_asked() {
                break;
            }
        }
        if self.shutdown.is_asked() {
            return Ok(());
        }
        partitions::drop_day(pool, day).await?;
        self.metrics.prune_partitions.add(PartitionAction::Dropped, partitions::PARENTS.len());
        tracing::info!(%day, expired, "a day of the history is dropped");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_that_would_drop_what_is_owed_is_refused() {
        let day = Duration::from_hours(24);
        let config = |days: u32| Config { retention: day * days, dead_letter_retention: day };
        assert!(config(6).check(day, 3 * day).is_ok());
        let error = config(5).check(day, 3 * day).expect_err("a day short").to_string();
        assert!(error.contains("RETENTION 5days") && error.contains("at least 6d "), "{error}");
    }
}
