//! Creates the days of the history ahead, and drops those that are past the retention.
//!
//! What a day still owes is ended first: each delivery becomes dead with the reason *expired* and gets a dead letter.
//! Only then is the day detached and dropped. A day that a running replay may still read stays. One process is active,
//! by a lease.
//!
//! Two things are removed earlier: bodies past `PAYLOAD_RETENTION` (`payloads.rs`), and everything of a company that is
//! erased (`erase.rs`), which does not wait for the next pass.

mod erase;
mod payloads;

use std::time::{Duration, Instant};

use chrono::{DateTime, Days, NaiveDate, Utc};
use clap::Args;
use sqlx::types::Uuid;

use self::{erase::ERASED_AFTER, payloads::DayCursor};
use crate::{
    clock::SystemClock,
    shutdown::Shutdown,
    store::{
        erasures, event_types, forget, idempotency_keys, intake_keys, lease, ledger::Ledger, partitions,
        payloads as bodies, replay_rows,
    },
    telemetry::{Metrics, labels::PartitionAction},
};

const LEASE: &str = "prune";
const LEASE_LASTS: Duration = Duration::from_mins(10);
/// How often everything is checked.
const EVERY: Duration = Duration::from_mins(5);
/// How often prune checks for requested erasures.
const ERASURES_EVERY: Duration = Duration::from_secs(2);
/// How many days ahead partitions are created.
pub const DAYS_AHEAD: i32 = 14;
/// The most rows that one statement of prune changes.
pub const ROWS_MAX: i64 = 1_000;
/// The history must outlive the longest wait and the longest parking by this.
pub const RETENTION_MARGIN: Duration = Duration::from_hours(48);

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// How long things are kept.
#[derive(Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Prune")]
pub struct Config {
    /// How long events and their counts, deliveries, attempts and lane transitions are kept, in whole days
    #[arg(long, env = "RETENTION", default_value = "30d", value_parser = humantime::parse_duration)]
    pub retention: Duration,

    /// How long bodies are kept (event data, requests, responses); at most RETENTION [default: RETENTION]
    #[arg(long, env = "PAYLOAD_RETENTION", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub payload_retention: Option<Duration>,

    /// How long dead letters are kept, and replays after their end
    #[arg(long, env = "DEAD_LETTER_RETENTION", default_value = "90d", value_parser = humantime::parse_duration)]
    pub dead_letter_retention: Duration,
}

/// A retention under which what is still owed would lose its row or its body.
#[derive(Debug, thiserror::Error)]
pub enum BadRetention {
    /// The history would be dropped before it is over.
    #[error(
        "RETENTION {} is shorter than the longest wait plus PARK_MAX plus two days: at least {}d is needed",
        humantime::format_duration(*retention),
        needed.as_secs().div_ceil(DAY_SECONDS)
    )]
    TooShort {
        /// What it is.
        retention: Duration,
        /// The least it must be.
        needed: Duration,
    },
    /// Bodies would be removed while most deliveries of their day are still being attempted.
    #[error(
        "PAYLOAD_RETENTION {} is shorter than the longest wait between two attempts: at least {}d is needed",
        humantime::format_duration(*retention),
        needed.as_secs().div_ceil(DAY_SECONDS)
    )]
    PayloadsTooShort {
        /// What it is.
        retention: Duration,
        /// The least it must be.
        needed: Duration,
    },
    /// Bodies cannot outlive their rows.
    #[error(
        "PAYLOAD_RETENTION {} is longer than RETENTION {}, which removes bodies together with their rows",
        humantime::format_duration(*payloads),
        humantime::format_duration(*retention)
    )]
    PayloadsTooLong {
        /// What it is.
        payloads: Duration,
        /// The most it may be.
        retention: Duration,
    },
}

impl Config {
    /// Refuses a retention that would remove what may still be waiting.
    pub fn check(&self, longest_wait: Duration, park_max: Duration) -> Result<(), BadRetention> {
        let (retention, payloads) = (self.retention, self.payload_retention());
        let needed = longest_wait + park_max + RETENTION_MARGIN;
        if retention < needed {
            return Err(BadRetention::TooShort { retention, needed });
        }
        if payloads > retention {
            return Err(BadRetention::PayloadsTooLong { payloads, retention });
        }
        if payloads < longest_wait {
            return Err(BadRetention::PayloadsTooShort { retention: payloads, needed: longest_wait });
        }
        Ok(())
    }

    /// How long bodies are kept.
    #[must_use]
    pub fn payload_retention(&self) -> Duration {
        self.payload_retention.unwrap_or(self.retention)
    }
}

pub struct Prune {
    /// Where the history is.
    pub ledger: Ledger,
    /// The database's time.
    pub clock: SystemClock,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    /// How long things are kept.
    pub config: Config,
}

impl Prune {
    /// Prunes regularly while it holds the lease, until shutdown.
    pub async fn run(self) {
        let holder = Uuid::new_v4().to_string();
        let (mut next, mut place) = (Instant::now(), DayCursor::default());
        while !self.shutdown.is_requested() {
            if let Err(error) = self.run_due(&holder, &mut next, &mut place).await {
                tracing::warn!(%error, "pruning was interrupted; it will continue later");
                self.ledger.leave_read_only(&error).await;
            }
            tokio::select! {
                () = tokio::time::sleep(ERASURES_EVERY) => {}
                () = self.shutdown.requested() => {}
            }
        }
        let _ = lease::release(self.ledger.pool(), LEASE, &holder).await;
    }

    /// Does what is due: erasures at once, emptying for as long as they leave time, everything else regularly. Most
    /// turns find nothing and write nothing.
    async fn run_due(&self, holder: &str, next: &mut Instant, place: &mut DayCursor) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let is_due = Instant::now() >= *next;
        if !is_due && !place.goes_on() && erasures::open(pool, ERASED_AFTER, 1).await?.is_empty() {
            return Ok(());
        }
        if is_due {
            *next = Instant::now() + EVERY;
        }
        if lease::take(pool, LEASE, holder, LEASE_LASTS).await?.is_none() {
            *place = DayCursor::default();
            return Ok(());
        }
        let erased = self.erase().await;
        let pruned = if is_due {
            self.prune(holder, place).await
        } else if place.goes_on() {
            self.empty(holder, place, self.clock.now().date_naive()).await
        } else {
            Ok(())
        };
        all_done([("erase companies", erased), ("prune", pruned)])
    }

    /// One pass over everything. A duty that fails is logged and prevents none of the others.
    async fn prune(&self, holder: &str, place: &mut DayCursor) -> sqlx::Result<()> {
        let now = self.clock.now();
        let today = now.date_naive();
        let done = [
            ("create the days ahead", self.create_days(today).await),
            ("drop the days past RETENTION", self.drop_days(today).await),
            ("empty the days past PAYLOAD_RETENTION", self.empty(holder, place, today).await),
            ("erase what came late for an erased company", self.erase_late(now).await),
            ("forget what is no part of a day", self.forget(now).await),
        ];
        all_done(done)
    }

    async fn create_days(&self, today: NaiveDate) -> sqlx::Result<()> {
        let yesterday = today.pred_opt().unwrap_or(NaiveDate::MIN);
        let made = partitions::ensure(self.ledger.pool(), yesterday, DAYS_AHEAD + 2).await?;
        self.metrics.prune_partitions.add(PartitionAction::Made, usize::try_from(made).unwrap_or(0));
        Ok(())
    }

    /// Ends and drops the days past the retention. One that cannot be dropped now does not prevent the next.
    async fn drop_days(&self, today: NaiveDate) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let keep_from = days_of(today, self.config.retention);
        // Before their days are dropped, plus one day, so that nothing holds an id of a day that is gone.
        let keys_from = keep_from.succ_opt().unwrap_or(NaiveDate::MAX);
        while intake_keys::forget(pool, keys_from, ROWS_MAX).await? > 0 {}
        let mut done = Vec::new();
        for day in partitions::days(pool).await?.into_iter().take_while(|day| *day < keep_from) {
            if replay_rows::may_read(pool, day, self.config.retention).await? {
                tracing::info!(%day, "a running replay may need this day; keeping it for now");
                continue;
            }
            done.push(("drop a day", self.end_day(day).await));
        }
        all_done(done)
    }

    /// Removes what is no part of a day, each after its own retention.
    async fn forget(&self, now: DateTime<Utc>) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let expired = now - self.config.dead_letter_retention;
        let kept_from = now - self.config.retention;
        let keys_from = now - idempotency_keys::KEPT;
        all_done([
            ("forget dead letters", until_none(|| forget::dead_letters(pool, expired, ROWS_MAX)).await),
            ("forget replays", until_none(|| forget::replays(pool, expired, ROWS_MAX)).await),
            (
                "forget idempotency keys",
                until_none(|| forget::idempotency_keys(pool, keys_from, ROWS_MAX)).await,
            ),
            (
                "forget lane transitions",
                until_none(|| forget::lane_transitions(pool, kept_from, ROWS_MAX)).await,
            ),
            (
                "forget counts of event types",
                until_none(|| event_types::forget_counts(pool, kept_from, ROWS_MAX)).await,
            ),
        ])
    }

    async fn end_day(&self, day: NaiveDate) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let mut expired = 0;
        loop {
            let rows = partitions::expire(pool, day, ROWS_MAX).await?;
            expired += rows;
            if rows == 0 || self.shutdown.is_requested() {
                break;
            }
        }
        if self.shutdown.is_requested() {
            return Ok(());
        }
        partitions::drop_day(pool, day).await?;
        bodies::forget(pool, day).await?;
        self.metrics.prune_partitions.add(PartitionAction::Dropped, partitions::PARENTS.len());
        tracing::info!(%day, expired, "dropped a day of the history");
        Ok(())
    }
}

/// Logs each duty that failed, and gives the first failure.
fn all_done(done: impl IntoIterator<Item = (&'static str, sqlx::Result<()>)>) -> sqlx::Result<()> {
    let mut first = Ok(());
    for (duty, result) in done {
        if let Err(error) = result {
            tracing::warn!(duty, %error, "a duty of prune failed; it will be tried again");
            first = first.and(Err(error));
        }
    }
    first
}

/// Repeats a statement that changes some rows at a time until it changes none.
async fn until_none<F: Future<Output = sqlx::Result<u64>>>(statement: impl Fn() -> F) -> sqlx::Result<()> {
    while statement().await? > 0 {}
    Ok(())
}

/// The first day that a retention keeps whole.
fn days_of(today: NaiveDate, retention: Duration) -> NaiveDate {
    let days = retention.as_secs().div_ceil(DAY_SECONDS);
    today.checked_sub_days(Days::new(days)).unwrap_or(NaiveDate::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_that_would_drop_what_is_owed_is_refused() {
        let day = Duration::from_hours(24);
        let check = |days: u32, payloads: Option<u32>, expected: Option<[&str; 2]>| {
            let payload_retention = payloads.map(|days| day * days);
            let config = Config { retention: day * days, payload_retention, dead_letter_retention: day };
            match (config.check(2 * day, 2 * day), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => {
                    let error = error.to_string();
                    assert!(expected.iter().all(|part| error.contains(part)), "{error}");
                }
                (found, expected) => panic!("{found:?}, not {expected:?}"),
            }
        };
        check(6, None, None);
        check(6, Some(6), None);
        check(6, Some(2), None);
        check(5, None, Some(["RETENTION 5days", "at least 6d "]));
        check(6, Some(7), Some(["PAYLOAD_RETENTION 7days", "RETENTION 6days"]));
        check(6, Some(1), Some(["PAYLOAD_RETENTION 1day", "at least 2d "]));
    }
}
