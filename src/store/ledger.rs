//! The ledger as the stages use it: a statement is retried until it is committed or one of its rows is bad.
//!
//! Trouble of our own (no connection, a full disk, a deadlock, a read-only server) never costs a message: the same
//! batch is retried with backoff for as long as it takes, and the time since when it fails is visible to all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use chrono::NaiveDate;
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::sync::watch;

use super::{
    fault::{Fault, fault, is_read_only},
    partitions,
};
use crate::clock::SystemClock;

/// The longest pause between two attempts to commit the same batch.
const RETRY_EVERY_MAX: Duration = Duration::from_secs(2);
/// A connection is back in its pool this long after its statement.
const GIVEN_BACK_AFTER: Duration = Duration::from_millis(100);
/// The pause between two attempts of the same read.
const READ_AGAIN: Duration = Duration::from_millis(200);
/// Days on either side of today for which a missing partition is created at once.
const PARTITION_DAYS: i32 = 3;

/// A row that PostgreSQL will never take.
#[derive(Debug, thiserror::Error)]
#[error("the ledger rejected the row ({sqlstate}{})", constraint.as_deref().map(|c| format!(", {c}")).unwrap_or_default())]
pub struct BadRow {
    /// PostgreSQL's code.
    pub sqlstate: String,
    /// The constraint that rejected it, if any.
    pub constraint: Option<String>,
}

impl BadRow {
    fn of(error: &sqlx::Error) -> Self {
        let refusal = error.as_database_error();
        Self {
            sqlstate: refusal.and_then(sqlx::error::DatabaseError::code).unwrap_or_default().into_owned(),
            constraint: refusal.and_then(|r| r.constraint()).map(ToOwned::to_owned),
        }
    }
}

/// A pool, and whether its commits succeed.
#[derive(Clone, Debug)]
pub struct Ledger {
    pool: PgPool,
    failing_since: Arc<watch::Sender<Option<Instant>>>,
}

impl Ledger {
    /// Over a pool.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool, failing_since: Arc::new(watch::Sender::new(None)) }
    }

    /// The pool, for statements that may fail.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// For how long commits have failed without a success.
    #[must_use]
    pub fn failing_for(&self) -> Option<Duration> {
        self.failing_since.borrow().map(|since| since.elapsed())
    }

    /// Follows whether commits fail.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Instant>> {
        self.failing_since.subscribe()
    }

    /// Retries until it is written. Only a bad row is returned as an error.
    pub async fn persist<T, F, Fut>(&self, what: &'static str, statement: F) -> Result<T, BadRow>
    where
        F: Fn(PgPool) -> Fut,
        Fut: Future<Output = sqlx::Result<T>>,
    {
        let mut waits = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(RETRY_EVERY_MAX)
            .without_max_times()
            .build();
        let mut tried_again = false;
        loop {
            let error = match statement(self.pool.clone()).await {
                Ok(written) => {
                    self.works(what);
                    return Ok(written);
                }
                Err(error) => error,
            };
            match fault(&error) {
                Fault::BadRow => {
                    self.works(what);
                    return Err(BadRow::of(&error));
                }
                Fault::NoPartition => match self.make_partitions().await {
                    // Another process may have created it in between; but retry only once, or a day that is gone for
                    // good would be waited for.
                    Ok(made) if made > 0 || !std::mem::replace(&mut tried_again, true) => continue,
                    Ok(_) => return Err(BadRow::of(&error)),
                    Err(error) => self.fails(what, &error),
                },
                Fault::Ours => {
                    self.fails(what, &error);
                    self.leave_read_only(&error).await;
                }
            }
            tokio::time::sleep(waits.next().unwrap_or(RETRY_EVERY_MAX)).await;
        }
    }

    /// Closes the idle connections when an error says that the server is read-only: each stays with the server and the
    /// settings it began with, and so would never notice a failover.
    pub async fn leave_read_only(&self, error: &sqlx::Error) {
        if !is_read_only(error) {
            return;
        }
        // The connection with the error is still on its way back to the pool.
        tokio::time::sleep(GIVEN_BACK_AFTER).await;
        for _ in 0..self.pool.num_idle() {
            if let Some(connection) = self.pool.try_acquire() {
                // It is not used again, so the result of closing it does not matter.
                let _ = connection.close().await;
            }
        }
    }

    async fn make_partitions(&self) -> sqlx::Result<i32> {
        let today = SystemClock::local().date_naive();
        let first = today.checked_sub_days(chrono::Days::new(1)).unwrap_or(NaiveDate::MIN);
        partitions::ensure(&self.pool, first, PARTITION_DAYS).await
    }

    /// Retries until it is read. A read that succeeds says nothing about commits: on a full disk or a read-only server
    /// it succeeds while nothing can be written.
    pub async fn read<T, F, Fut>(&self, what: &'static str, statement: F) -> Result<T, BadRow>
    where
        F: Fn(PgPool) -> Fut,
        Fut: Future<Output = sqlx::Result<T>>,
    {
        loop {
            match statement(self.pool.clone()).await {
                Ok(read) => return Ok(read),
                Err(error) if fault(&error) == Fault::BadRow => return Err(BadRow::of(&error)),
                Err(error) => tracing::debug!(what, %error, "cannot read the ledger; retrying"),
            }
            tokio::time::sleep(READ_AGAIN).await;
        }
    }

    fn works(&self, what: &'static str) {
        self.failing_since.send_if_modified(|since| {
            let recovered = since.take();
            if let Some(since) = recovered {
                tracing::info!(
                    what,
                    seconds = since.elapsed().as_secs_f64(),
                    "the ledger accepts commits again"
                );
            }
            recovered.is_some()
        });
    }

    fn fails(&self, what: &'static str, error: &sqlx::Error) {
        let first = self.failing_since.send_if_modified(|since| {
            let first = since.is_none();
            since.get_or_insert_with(Instant::now);
            first
        });
        if first {
            tracing::error!(what, %error, "the ledger accepts no commits; holding all work and retrying");
        } else {
            tracing::debug!(what, %error, "the ledger still accepts no commits");
        }
    }
}

/// Writes `items` in one statement; if a row is bad, in halves until it is alone. Returns each part with its result; a
/// part that failed has one item.
pub async fn bisect<'i, T, R>(
    items: &'i [T],
    write: impl Fn(&'i [T]) -> BoxFuture<'i, Result<R, BadRow>>,
) -> Vec<(&'i [T], Result<R, BadRow>)> {
    let mut parts = vec![items];
    let mut written = Vec::with_capacity(1);
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        match write(part).await {
            Err(_bad) if part.len() > 1 => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.push(second);
                parts.push(first);
            }
            result => written.push((part, result)),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn bad() -> BadRow {
        BadRow { sqlstate: "22021".to_owned(), constraint: None }
    }

    proptest! {
        #[test]
        fn a_bad_row_ends_alone_and_every_other_is_written_once(bad_rows in prop::collection::vec(any::<bool>(), 0..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let parts = runtime.block_on(bisect(&bad_rows, |part| {
                let refused = part.contains(&true);
                async move { if refused { Err(bad()) } else { Ok(part.len()) } }.boxed()
            }));
            let written: usize = parts.iter().filter_map(|(_, r)| r.as_ref().ok()).sum();
            let refused = parts.iter().filter(|(part, r)| r.is_err() && part.len() == 1).count();
            prop_assert_eq!(refused, bad_rows.iter().filter(|bad| **bad).count());
            prop_assert_eq!(written + refused, bad_rows.len());
        }
    }
}
