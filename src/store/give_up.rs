//! Deliveries that the broker handed back because their workers died: counted, and given up when that continues.

use sqlx::{PgPool, types::Uuid};

use crate::model::DeliveryId;

/// Deaths after which a delivery goes into quarantine. Few, because unlike the broker's count these are of workers that
/// had claimed it: a restart with a backlog adds none for what only waited.
pub const QUARANTINE_AFTER_DEATHS: u32 = 3;

/// Counts deaths of deliveries that were handed out in quarantine as often as the broker does, without any worker
/// claiming them, and gives them back to schedule, which keeps them in quarantine from now on.
pub async fn died_unclaimed(pool: &PgPool, deliveries: &[DeliveryId], attempt: u32) -> sqlx::Result<()> {
    let mut ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    ids.sort_unstable();
    sqlx::query!(
        "-- deliveries.died_unclaimed
        update webhook_deliveries d
        set deaths = least(greatest(d.deaths + 1, $3), 32767), queued_at = null
        from unnest($1::uuid[]) as g (id)
        where d.id = g.id
          and d.status = 'pending'
          and d.queued_at is not null
          and d.attempts = $2 - 1
          and coalesce(d.claimed_until, '-infinity') < now()",
        &ids,
        i32::try_from(attempt).unwrap_or(i32::MAX),
        i32::try_from(QUARANTINE_AFTER_DEATHS).unwrap_or(i32::MAX),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Gives up deliveries whose attempt of that number is still owed and not in flight. The ledger writes their dead
/// letters.
pub async fn give_up(
    pool: &PgPool,
    deliveries: &[DeliveryId],
    attempt: u32,
    reason: &str,
) -> sqlx::Result<()> {
    let mut ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    ids.sort_unstable();
    sqlx::query!(
        "-- deliveries.give_up
        update webhook_deliveries d
        set status = 'dead', reason = $2, queued_at = null, claimed_until = null
        from unnest($1::uuid[]) as g (id)
        where d.id = g.id
          and d.status in ('pending', 'held')
          and d.attempts = $3 - 1
          and coalesce(d.claimed_until, '-infinity') < now()",
        &ids,
        reason,
        i32::try_from(attempt).unwrap_or(i32::MAX),
    )
    .execute(pool)
    .await?;
    Ok(())
}
