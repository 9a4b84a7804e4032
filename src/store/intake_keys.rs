//! Ids for messages that cannot be placed by their own time: the id of the first copy is stored, and a second copy gets
//! the same.

use std::collections::HashSet;

use sqlx::{PgPool, types::Uuid};

use crate::model::{CompanyId, EventId, id};

/// Which of these events are already in the ledger.
pub async fn known(pool: &PgPool, events: &[EventId]) -> sqlx::Result<HashSet<EventId>> {
    let ids: Vec<Uuid> = events.iter().map(|event| event.0).collect();
    let (Some(first), Some(last)) = (ids.iter().min(), ids.iter().max()) else {
        return Ok(HashSet::new());
    };
    // `any` alone does not prune partitions under a generic plan.
    let rows = sqlx::query_scalar!(
        "-- events.known
        select id
        from events
        where id = any($1) and id between $2 and $3",
        &ids,
        *first,
        *last,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(EventId).collect())
}

/// Claims (company, message id) for an id placed at now, and returns the id that holds it.
pub async fn claim(
    pool: &PgPool,
    company: CompanyId,
    message_id: &str,
    event: EventId,
) -> sqlx::Result<EventId> {
    // `do update` rather than `do nothing`: only so does a concurrent second copy wait and read the first's id.
    let id = sqlx::query_scalar!(
        "-- intake_keys.claim
        insert into intake_keys as k (company_id, message_id, event_id)
        values ($1, $2, $3)
        on conflict (company_id, message_id) do update set event_id = k.event_id
        returning event_id",
        company.0,
        message_id,
        event.0,
    )
    .fetch_one(pool)
    .await?;
    Ok(EventId(id))
}

/// Forgets keys made before `day`, some at a time; returns how many.
pub async fn forget(pool: &PgPool, day: chrono::NaiveDate, rows_max: i64) -> sqlx::Result<u64> {
    let before = id::time_of(id::first_of_day(day));
    let done = sqlx::query!(
        "-- intake_keys.forget
        delete from intake_keys
        where ctid in (select ctid from intake_keys where created_at < $1 limit $2)",
        before,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Removes keys of an erased company, some at a time; returns how many.
pub async fn erase(db: impl sqlx::PgExecutor<'_>, company: CompanyId, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- intake_keys.erase
        delete from intake_keys
        where (company_id, message_id) in (select company_id, message_id
                                           from intake_keys
                                           where company_id = $1
                                           limit $2)",
        company.0,
        rows_max,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
