//! Deliveries that the broker handed back, for their workers died: counted, and given up when that goes on.

use sqlx::{PgExecutor, PgPool, types::Uuid};

use crate::model::DeliveryId;

/// Deaths after which a delivery is asked for alone. Few, for unlike the broker's count these are of workers that had
/// claimed it: a restart with a backlog adds none for what only waited.
pub const SUSPECT_AFTER_DEATHS: u32 = 3;

/// Counts that deliveries were handed out alone as often as the broker does it and nobody got as far as to claim them,
/// and gives them back to feed, which asks for them alone from now on.
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
        i32::try_from(SUSPECT_AFTER_DEATHS).unwrap_or(i32::MAX),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Gives up deliveries whose attempt of that number is still owed and not under way, each with its dead letter: both or neither.
pub async fn give_up(
    pool: &PgPool,
    deliveries: &[DeliveryId],
    attempt: u32,
    reason: &str,
) -> sqlx::Result<()> {
    let mut ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    ids.sort_unstable();
    let mut both = pool.begin().await?;
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
    .execute(&mut *both)
    .await?;
    keep_dead(&mut *both, deliveries).await?;
    both.commit().await
}

/// Makes sure that deliveries that are dead have their dead letter.
pub async fn keep_dead(executor: impl PgExecutor<'_>, deliveries: &[DeliveryId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    sqlx::query!(
        r#"-- dead_letters.keep_dead
        insert into dead_letters (id, kind, company_id, webhook_id, event_id, event_type, reason, attempts, outcome,
                                  response_status, body)
        select d.id, 'delivery', d.company_id, d.webhook_id, d.event_id, d.event_type, coalesce(d.reason, 'dead'),
               d.attempts, d.outcome, d.response_status,
               convert_to('{"event_type":' || to_json(e.event_type) || ',"data":' || e.data
                   || ',"company_id":"' || e.company_id || '","timestamp":' || e."timestamp" || '}', 'UTF8')
        from unnest($1::uuid[]) as g (id)
        join webhook_deliveries d on d.id = g.id
        left join events e on e.id = d.event_id
        where d.status = 'dead' and d.trigger <> 'test'
        on conflict (id) do nothing"#,
        &ids,
    )
    .execute(executor)
    .await?;
    Ok(())
}
