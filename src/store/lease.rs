//! Leases: one holder of a name at a time, by the database's clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

/// Takes or renews the lease `name` for `holder`; returns since when it is held without a break, or `None` if another
/// holds it.
pub async fn take(
    pool: &PgPool,
    name: &str,
    holder: &str,
    lasts: Duration,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        "-- leases.take
        insert into leases as l (name, holder, taken_at, held_until)
        values ($1, $2, now(), now() + make_interval(secs => $3))
        on conflict (name) do update
        set holder = excluded.holder,
            taken_at = case when l.holder = excluded.holder and l.held_until >= now() then l.taken_at else now() end,
            held_until = excluded.held_until
        where l.holder = excluded.holder or l.held_until < now()
        returning taken_at",
        name,
        holder,
        lasts.as_secs_f64(),
    )
    .fetch_optional(pool)
    .await
}

/// Releases the lease, so that another holder need not wait for its end.
pub async fn release(pool: &PgPool, name: &str, holder: &str) -> sqlx::Result<()> {
    sqlx::query!(
        "-- leases.release
        update leases
        set held_until = now() - interval '1 microsecond'
        where name = $1 and holder = $2",
        name,
        holder,
    )
    .execute(pool)
    .await?;
    Ok(())
}
