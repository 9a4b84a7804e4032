//! Takes a delivery off its job without an attempt: parked, held or cancelled.
//!
//! Every row names the state it expects, so a stale job changes nothing. A delivery that another worker has claimed
//! is left alone; a caller that holds the claim itself gives it back.

use std::time::Duration;

use sqlx::{PgPool, types::Uuid};

use super::sessions::SESSION_ENDS_WITHIN;
use crate::model::DeliveryId;

/// Where a delivery goes instead of to its receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Back to the ledger; schedule makes a job for it after this time at the earliest.
    Parked(Duration),
    /// Its webhook is paused.
    Held,
    /// Its webhook is deleted or inactive.
    Cancelled(&'static str),
    /// Its data is gone.
    Expired,
}

/// One delivery to park, hold or cancel.
#[derive(Clone, Copy, Debug)]
pub struct Disposed {
    pub delivery: DeliveryId,
    /// The attempt of its job.
    pub attempt: u32,
    /// Where it goes.
    pub aside: Disposition,
    /// Whether the caller holds the claim, which then ends.
    pub holds_claim: bool,
}

/// Parks, holds or cancels a batch. Rows that have moved on stay as they are. One that another worker has claimed is left to
/// schedule, which looks at it again when that claim may have ended.
pub async fn set_aside(pool: &PgPool, batch: &[Disposed]) -> sqlx::Result<()> {
    let mut sorted = batch.to_vec();
    sorted.sort_unstable_by_key(|s| s.delivery);
    let ids: Vec<Uuid> = sorted.iter().map(|s| s.delivery.0).collect();
    let attempts: Vec<i32> = sorted.iter().map(|s| i32::try_from(s.attempt).unwrap_or(i32::MAX)).collect();
    let holds: Vec<bool> = sorted.iter().map(|s| s.holds_claim).collect();
    let mut statuses = Vec::with_capacity(sorted.len());
    let mut reasons = Vec::with_capacity(sorted.len());
    let mut waits = Vec::with_capacity(sorted.len());
    for s in &sorted {
        let (status, reason, wait) = match s.aside {
            Disposition::Parked(wait) => ("pending", None, wait),
            Disposition::Held => ("held", Some("paused"), Duration::ZERO),
            Disposition::Cancelled(reason) => ("cancelled", Some(reason), Duration::ZERO),
            Disposition::Expired => ("dead", Some("expired"), Duration::ZERO),
        };
        statuses.push(status);
        reasons.push(reason);
        waits.push(wait.as_secs_f64());
    }
    sqlx::query!(
        r#"-- deliveries.set_aside
        with aside as (
            select * from unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::double precision[],
                                 $6::boolean[]) as s (id, attempt, status, reason, wait, holds)
        ), claimed as (
            update webhook_deliveries d
            set queued_at = null,
                due_at = greatest(
                    d.due_at,
                    case when d.claimed_by is not null and d.claimed_until = d.session_claim_until
                             then least(d.claimed_until, now() + make_interval(secs => $7))
                         else d.claimed_until end
                )
            from aside s
            where d.id = s.id
              and d.status = 'pending'
              and d.attempts = s.attempt - 1
              and not s.holds
              and d.claimed_until >= now()
        )
        update webhook_deliveries d
        set status = s.status,
            reason = s.reason,
            queued_at = null,
            claimed_until = null,
            due_at = greatest(d.due_at, now() + make_interval(secs => s.wait))
        from aside s
        where d.id = s.id
          and d.status = 'pending'
          and d.attempts = s.attempt - 1
          and (s.holds or coalesce(d.claimed_until, '-infinity') < now())"#,
        &ids,
        &attempts,
        &statuses as _,
        &reasons as _,
        &waits,
        &holds,
        SESSION_ENDS_WITHIN.as_secs_f64(),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Leaves a delivery that another task has claimed to schedule, from the time on at which that claim may have ended: with
/// its lease, or earlier with the session that holds it.
/// What `session` itself has claimed ends with its lease.
pub async fn await_lease(pool: &PgPool, deliveries: &[(DeliveryId, u32)], session: Uuid) -> sqlx::Result<()> {
    let mut sorted = deliveries.to_vec();
    sorted.sort_unstable();
    let ids: Vec<Uuid> = sorted.iter().map(|(delivery, _)| delivery.0).collect();
    let attempts: Vec<i32> = sorted.iter().map(|(_, n)| i32::try_from(*n).unwrap_or(i32::MAX)).collect();
    sqlx::query!(
        "-- deliveries.await_lease
        update webhook_deliveries d
        set queued_at = null,
            due_at = greatest(
                d.due_at,
                case when d.claimed_by <> $4 and d.claimed_until = d.session_claim_until
                         then least(d.claimed_until, now() + make_interval(secs => $3))
                     else d.claimed_until end
            )
        from unnest($1::uuid[], $2::integer[]) as w (id, attempt)
        where d.id = w.id and d.status = 'pending' and d.attempts = w.attempt - 1",
        &ids,
        &attempts,
        SESSION_ENDS_WITHIN.as_secs_f64(),
        session,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Records that no job was made after all: these deliveries wait in the ledger, and schedule takes over.
pub async fn unqueue(pool: &PgPool, deliveries: &[(DeliveryId, u32)]) -> sqlx::Result<()> {
    let mut sorted = deliveries.to_vec();
    sorted.sort_unstable();
    let ids: Vec<Uuid> = sorted.iter().map(|(delivery, _)| delivery.0).collect();
    let attempts: Vec<i32> = sorted.iter().map(|(_, n)| i32::try_from(*n).unwrap_or(i32::MAX)).collect();
    sqlx::query!(
        "-- deliveries.unqueue
        update webhook_deliveries d
        -- Due now at the earliest: schedule looks for what came due since it last looked.
        set queued_at = null, due_at = greatest(d.due_at, now())
        from unnest($1::uuid[], $2::integer[]) as w (id, attempt)
        where d.id = w.id
          and d.status = 'pending'
          and d.attempts = w.attempt - 1
          and coalesce(d.claimed_until, '-infinity') < now()",
        &ids,
        &attempts,
    )
    .execute(pool)
    .await?;
    Ok(())
}
