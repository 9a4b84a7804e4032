//! Sessions of worker processes, and up to when jobs are no longer fresh.
//!
//! Guarantees: a claim that names a session holds as long as the session does, and no longer than its own time. A session
//! ends when its lease ran out and another worker noticed that renewed its own without a break meanwhile: so the ledger
//! was there, and whoever lived could have renewed. All times are the database's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Uuid};

use crate::model::DeliveryId;

/// How long a session outlives its last renewal.
pub const SESSION_LASTS: Duration = Duration::from_secs(6);
/// How often a session is renewed.
pub const SESSION_EVERY: Duration = Duration::from_secs(2);
/// When what a dead session claimed is free at the latest, from the start of a process that takes over.
pub const SESSION_ENDS_WITHIN: Duration =
    Duration::from_secs(SESSION_LASTS.as_secs() + SESSION_EVERY.as_secs());

/// Begins or renews a session, and ends those that are over; returns up to when jobs are not fresh.
pub async fn renew(pool: &PgPool, session: Uuid) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(
        r#"-- sessions.renew
        with mine as (
            insert into worker_sessions as s (id, since, held_until)
            values ($1, now(), now() + make_interval(secs => $2))
            on conflict (id) do update
            set since = case when s.held_until >= now() then s.since else now() end,
                held_until = excluded.held_until
            returning since
        ), ended as (
            delete from worker_sessions s
            using mine
            where s.id <> $1
              and s.held_until < now()
              and mine.since <= now() - make_interval(secs => $2)
        )
        select queued_upto from fresh_limit"#,
        session,
        SESSION_LASTS.as_secs_f64(),
    )
    .fetch_one(pool)
    .await
}

/// Ends a session that holds no claim any more.
pub async fn end(pool: &PgPool, session: Uuid) -> sqlx::Result<()> {
    sqlx::query!(
        "-- sessions.end
        delete from worker_sessions
        where id = $1",
        session,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Up to when jobs are not fresh.
pub async fn fresh_limit(pool: &PgPool) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(
        "-- sessions.fresh_limit
        select queued_upto from fresh_limit"
    )
    .fetch_one(pool)
    .await
}

/// Claims first attempts whose request began without a claim and is still under way, each with its lease. What is
/// recorded already, or claimed by another, stays as it is.
pub async fn claim_started(
    pool: &PgPool,
    session: Uuid,
    started: &[(DeliveryId, Duration)],
) -> sqlx::Result<()> {
    let mut sorted = started.to_vec();
    sorted.sort_unstable();
    let (ids, leases): (Vec<Uuid>, Vec<f64>) =
        sorted.iter().map(|(delivery, lease)| (delivery.0, lease.as_secs_f64())).unzip();
    sqlx::query!(
        "-- sessions.claim_started
        update webhook_deliveries d
        set claimed_until = now() + make_interval(secs => w.lease),
            claimed_by = (select id from worker_sessions where id = $3),
            session_claim_until = now() + make_interval(secs => w.lease)
        from unnest($1::uuid[], $2::double precision[]) as w (id, lease)
        where d.id = w.id
          and d.status in ('pending', 'held')
          and d.attempts = 0
          and coalesce(d.claimed_until, '-infinity') < now()",
        &ids,
        &leases,
        session,
    )
    .execute(pool)
    .await?;
    Ok(())
}
