//! Empties the days past `PAYLOAD_RETENTION`: the history stays, the bodies are removed.

use std::time::{Duration, Instant};

use chrono::NaiveDate;
use sqlx::types::Uuid;

use super::{LEASE, LEASE_LASTS, Prune, ROWS_MAX, days_of};
use crate::{
    store::{
        lease, partitions,
        payloads::{self, Pass},
        replay_rows,
    },
    telemetry::labels::Emptied,
};

/// How long prune empties days in one turn; the next turn continues there. Erasures are handled in between.
pub const EMPTYING: Duration = Duration::from_secs(30);

/// What is done to a day, in this order.
const PASSES: [fn(NaiveDate) -> Pass; 3] = [Pass::Owe, Pass::Events, Pass::Deliveries];

/// Where a turn stopped. It is lost with the process: another one starts its day again, which changes nothing twice.
#[derive(Debug, Default)]
pub(super) struct DayCursor {
    day: Option<Begun>,
    /// Of what was owed.
    settled_upto: Option<Uuid>,
}

impl DayCursor {
    /// Whether a turn ended before its work did.
    pub(super) fn goes_on(&self) -> bool {
        self.day.is_some() || self.settled_upto.is_some()
    }
}

/// A day in the middle of being emptied.
#[derive(Debug)]
struct Begun {
    day: NaiveDate,
    /// Which of the passes.
    pass: usize,
    after: Uuid,
    /// How many rows each pass wrote down or emptied.
    rows: [i64; PASSES.len()],
}

impl Begun {
    fn of(day: NaiveDate) -> Self {
        Self { day, pass: 0, after: Uuid::nil(), rows: [0; PASSES.len()] }
    }
}

/// Why a day is left for now.
enum Left {
    Emptied,
    /// A replay may read it.
    ToAReplay,
    /// The turn is over.
    ToTheNextTurn,
}

impl Prune {
    /// Empties the days that are due, one by one, and what has ended since in days that were emptied before.
    pub(super) async fn empty(
        &self,
        holder: &str,
        place: &mut DayCursor,
        today: NaiveDate,
    ) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let until = Instant::now() + EMPTYING;
        let retention = self.config.payload_retention();
        if retention < self.config.retention {
            let keep_from = days_of(today, retention);
            let mut days = partitions::days(pool).await?;
            days.retain(|day| *day < keep_from);
            // First the one already started; otherwise a day kept by a replay would make it start again each time.
            if let Some(begun) = place.day.as_ref().map(|at| at.day) {
                days.sort_by_key(|day| *day != begun);
            }
            for day in days {
                if payloads::is_emptied(pool, day).await? {
                    continue;
                }
                let at = place.day.get_or_insert_with(|| Begun::of(day));
                if at.day != day {
                    *at = Begun::of(day);
                }
                match self.empty_day(holder, until, at).await? {
                    Left::Emptied => place.day = None,
                    Left::ToAReplay => {
                        tracing::info!(%day, "a running replay may need the bodies of this day; keeping them for now");
                        place.day = None;
                    }
                    Left::ToTheNextTurn => return Ok(()),
                }
            }
        }
        place.day = None;
        self.settle(holder, until, place).await
    }

    /// Continues with a day, part by part. Each part first checks whether a replay that may read it was ordered.
    async fn empty_day(&self, holder: &str, until: Instant, at: &mut Begun) -> sqlx::Result<Left> {
        let (pool, day) = (self.ledger.pool(), at.day);
        while let Some(pass) = PASSES.get(at.pass) {
            if !self.goes_on(holder, until).await? {
                return Ok(Left::ToTheNextTurn);
            }
            if replay_rows::may_read(pool, day, self.config.retention).await? {
                return Ok(Left::ToAReplay);
            }
            let part = payloads::part(pool, pass(day), at.after, ROWS_MAX).await?;
            at.rows[at.pass] += part.emptied;
            if let Some(upto) = part.upto {
                at.after = upto;
            } else {
                (at.pass, at.after) = (at.pass + 1, Uuid::nil());
            }
        }
        let [owed, events, deliveries] = at.rows;
        payloads::note(pool, day, events, deliveries).await?;
        self.metrics.prune_emptied.add(Emptied::Events, usize::try_from(events).unwrap_or(0));
        self.metrics.prune_emptied.add(Emptied::Deliveries, usize::try_from(deliveries).unwrap_or(0));
        tracing::info!(%day, events, deliveries, owed, "emptied the bodies of a day of the history");
        Ok(Left::Emptied)
    }

    /// Empties what was owed when its day was emptied, and has ended since.
    async fn settle(&self, holder: &str, until: Instant, place: &mut DayCursor) -> sqlx::Result<()> {
        let mut after = place.settled_upto.unwrap_or_default();
        while self.goes_on(holder, until).await? {
            let part = payloads::part(self.ledger.pool(), Pass::Settle, after, ROWS_MAX).await?;
            place.settled_upto = part.upto;
            let Some(upto) = part.upto else { break };
            after = upto;
        }
        Ok(())
    }

    /// Whether another part starts in this turn; renews the lease.
    async fn goes_on(&self, holder: &str, until: Instant) -> sqlx::Result<bool> {
        if self.shutdown.is_requested() || Instant::now() >= until {
            return Ok(false);
        }
        Ok(lease::take(self.ledger.pool(), LEASE, holder, LEASE_LASTS).await?.is_some())
    }
}
