//! Works on the requested erasures, a chunk of each in turn, so that a large company does not delay the others.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::{Prune, ROWS_MAX};
use crate::{
    store::{erasures, intake_keys},
    telemetry::labels::Emptied,
};

/// Erasures that are worked on in turn; others wait for the first of them to be done.
pub const ERASURES_MAX: i64 = 100;
/// How long prune works on erasures before it renews its lease and does everything else.
pub const ERASING: Duration = Duration::from_secs(30);
/// How long after the request an erasure starts: other stages cache webhooks for 10 s, and until then a process that
/// was not notified may write deliveries with their texts. They are written before the erasure comes to them.
pub const ERASED_AFTER: Duration = Duration::from_secs(15);
/// For how long after its end an erasure is checked again: until then a process that had not been notified may have
/// written.
pub const ERASED_AGAIN_FOR: Duration = Duration::from_hours(24);

impl Prune {
    /// Continues the requested erasures. One that fails does not stop the others.
    pub(super) async fn erase(&self) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let began = Instant::now();
        let mut failed = None;
        loop {
            let open = erasures::open(pool, ERASED_AFTER, ERASURES_MAX).await?;
            // Another process may work on all of them, after an expired lease.
            let mut is_idle = true;
            for company in open {
                if self.shutdown.is_requested() || began.elapsed() > ERASING {
                    return failed.map_or(Ok(()), Err);
                }
                match erasures::work::step(pool, company, ROWS_MAX).await {
                    Ok(rows) => {
                        is_idle &= rows.is_none();
                        let rows = usize::try_from(rows.unwrap_or(0)).unwrap_or(usize::MAX);
                        self.metrics.prune_emptied.add(Emptied::Erased, rows);
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if is_idle || failed.is_some() {
                return failed.map_or(Ok(()), Err);
            }
        }
    }

    /// Removes what was written for a company after its erasure by a process that had not been notified yet.
    pub(super) async fn erase_late(&self, now: DateTime<Utc>) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        for company in erasures::done_since(pool, now - ERASED_AGAIN_FOR).await? {
            let mut connection = pool.acquire().await?;
            while erasures::work::events(&mut connection, company, ROWS_MAX).await? > 0 {}
            while intake_keys::erase(&mut *connection, company, ROWS_MAX).await? > 0 {}
        }
        Ok(())
    }
}
