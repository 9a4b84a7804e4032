//! Writes finished attempts and what follows from them, in one statement that commits itself.
//!
//! The statement moves the previous attempt to its own table, puts the new one in its place, sets the next due time or
//! the final state, pauses webhooks that answered 410, and updates the lanes by the outcomes as `model::breaker` says.
//! A trigger of the ledger writes the dead letter of what is given up. A row that is no longer where the attempt found
//! it changes nothing: a late duplicate is counted, not recorded twice, and affects no lane.
//!
//! A success on a healthy lane reads the lane's row and leaves it alone. A lane that changes is locked first,
//! in the order of webhooks, and judged by its state at that time: twenty workers open it once.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Uuid};

use self::statement::{RecordedBatch, write};
use crate::model::{DeliveryId, breaker};

mod lanes;
mod row;
mod statement;

pub use lanes::{LaneChanged, News};
pub use row::{AttemptRow, Becomes};

/// What a batch changed.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The deliveries it found as expected, with when their next job is due if the ledger holds them ready for one.
    /// Missing ones were not found so.
    pub deliveries: HashMap<DeliveryId, After>,
    /// The lanes whose changes are announced.
    pub lanes: Vec<LaneChanged>,
}

impl Recorded {
    /// Adds what another part of the batch changed.
    pub fn join(&mut self, other: Self) {
        self.deliveries.extend(other.deliveries);
        self.lanes.extend(other.lanes);
    }
}

/// The state of a delivery after its attempt was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// Whether a retry may be published: still pending, with `queued_at` set to this instant.
    pub queued_at: Option<DateTime<Utc>>,
}

/// Records a batch; lanes are judged by `policy`.
pub async fn record_attempts(
    pool: &PgPool,
    rows: &[AttemptRow],
    policy: &breaker::Policy,
) -> sqlx::Result<Recorded> {
    let mut in_order: Vec<(usize, &AttemptRow)> = rows.iter().enumerate().collect();
    // Two recorders that lock the same rows in different orders would deadlock.
    in_order
        .sort_unstable_by_key(|(at, row)| (row.delivery, row.number, row.becomes != Becomes::Delivered, *at));
    // The same attempt twice, after a lost connection: it counts once, and what was accepted stays so.
    in_order.dedup_by_key(|(_, row)| (row.delivery, row.number));
    let sorted: Vec<&AttemptRow> = in_order.iter().map(|(_, row)| *row).collect();
    // Lanes get the outcomes in the order in which they happened.
    in_order.sort_unstable_by_key(|(at, _)| *at);
    let heard: Vec<&AttemptRow> = in_order.into_iter().map(|(_, row)| row).collect();

    let RecordedBatch { deliveries, lanes, missed } =
        write(pool, &sorted, &lanes::changes(&heard), policy).await?;
    let mut recorded = Recorded { deliveries, lanes };
    if !missed.is_empty() {
        // Not all outcomes of these lanes were recorded, or a lane had no row: those that were recorded are applied
        // again.
        let heard: Vec<&AttemptRow> = heard
            .into_iter()
            .filter(|row| missed.contains(&row.webhook) && recorded.deliveries.contains_key(&row.delivery))
            .collect();
        if !heard.is_empty() {
            let mut again = lanes::changes(&heard);
            again.recorded_before();
            match write(pool, &[], &again, policy).await {
                Ok(answer) => recorded.lanes.extend(answer.lanes),
                // The attempts are committed and must not be repeated. The next outcome tells the lane the same, and a
                // probe's lease ends by itself.
                Err(error) => tracing::warn!(%error, "some attempts did not update their lanes"),
            }
        }
    }
    Ok(recorded)
}

/// What tells an attempt from another with its number.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    pub delivery: DeliveryId,
    pub number: u32,
    pub attempted_at: DateTime<Utc>,
}

/// Those of these attempts that are the latest of their delivery: an earlier statement recorded them, and its answer was
/// lost.
pub async fn recorded_before(pool: &PgPool, made: &[Made]) -> sqlx::Result<HashMap<DeliveryId, After>> {
    let ids: Vec<Uuid> = made.iter().map(|made| made.delivery.0).collect();
    let numbers: Vec<i32> = made.iter().map(|made| i32::try_from(made.number).unwrap_or(i32::MAX)).collect();
    let times: Vec<DateTime<Utc>> = made.iter().map(|made| made.attempted_at).collect();
    let rows = sqlx::query!(
        r#"-- deliveries.recorded_before
        select d.id, case when d.status = 'pending' then d.queued_at end as queued_at
        from unnest($1::uuid[], $2::integer[], $3::timestamptz[]) as m (id, number, attempted_at)
        join webhook_deliveries d on d.id = m.id
        where d.attempts = m.number and d.attempted_at = m.attempted_at"#,
        &ids,
        &numbers,
        &times,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (DeliveryId(row.id), After { queued_at: row.queued_at })).collect())
}

/// Counts attempts whose number was already recorded; returns those of `deliveries` that exist.
pub async fn count_repeats(pool: &PgPool, deliveries: &[DeliveryId]) -> sqlx::Result<Vec<DeliveryId>> {
    let mut ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    ids.sort_unstable();
    let found = sqlx::query_scalar!(
        "-- deliveries.count_repeats
        update webhook_deliveries d
        set repeats = least(d.repeats + 1, 32767)
        from unnest($1::uuid[]) as w (id)
        where d.id = w.id
        returning d.id",
        &ids,
    )
    .fetch_all(pool)
    .await?;
    Ok(found.into_iter().map(DeliveryId).collect())
}
