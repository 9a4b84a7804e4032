//! Removes what is past its retention, some at a time.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

/// Removes dead letters made before `until`; returns how many.
pub async fn dead_letters(pool: &PgPool, until: DateTime<Utc>, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- dead_letters.forget
        delete from dead_letters
        where id in (select id from dead_letters where created_at < $1 limit $2)",
        until,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Removes orders that ended before `until`; returns how many.
pub async fn replays(pool: &PgPool, until: DateTime<Utc>, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- replays.forget
        delete from replays
        where id in (select id from replays where status = 'done' and ended_at < $1 limit $2)",
        until,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Removes transitions of lanes from before `until`; returns how many.
pub async fn lane_transitions(pool: &PgPool, until: DateTime<Utc>, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- lane_transitions.forget
        delete from lane_transitions
        where (webhook_id, at, kind) in (select webhook_id, at, kind
                                         from lane_transitions
                                         where at < $1
                                         order by at
                                         limit $2)",
        until,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Removes answers under an `Idempotency-Key` from before `until`; returns how many.
pub async fn idempotency_keys(pool: &PgPool, until: DateTime<Utc>, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- idempotency_keys.forget
        delete from idempotency_keys
        where (company_id, key) in (select company_id, key
                                    from idempotency_keys
                                    where created_at < $1
                                    order by created_at
                                    limit $2)",
        until,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
