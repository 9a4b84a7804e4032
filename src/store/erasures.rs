//! The table `erasures`: companies to be erased, the progress of each, and what has arrived for them since.
//!
//! Requesting an erasure is one statement: the webhooks disappear from every list and match nothing more, and the keys
//! are revoked. The texts are removed afterwards, chunk by chunk, by [`work::step`]. The row stays for good; otherwise
//! what arrives later would count as a new company's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Uuid};

use super::Result;
use crate::model::CompanyId;

pub mod work;

/// What replaces an erased text.
pub const ERASED: &str = "erased";

/// The state of an erasure.
#[derive(Clone, Debug)]
pub struct ErasureRow {
    /// The company to erase.
    pub company_id: Uuid,
    /// When it was requested.
    pub asked_at: DateTime<Utc>,
    pub asked_by: String,
    /// The current stage of the work.
    pub stage: String,
    /// When it was finished.
    pub done_at: Option<DateTime<Utc>>,
    /// Webhooks removed.
    pub webhooks: i64,
    /// Deliveries emptied.
    pub deliveries: i64,
    /// Of these, those that were still owed and were cancelled.
    pub cancelled: i64,
    /// Events removed.
    pub events: i64,
    /// Dead letters removed.
    pub dead_letters: i64,
    /// Other rows removed or emptied.
    pub records: i64,
    /// Messages that arrived since and were dropped.
    pub dropped: i64,
    /// When the last of them arrived.
    pub dropped_at: Option<DateTime<Utc>>,
}

/// Requests the erasure of a company. One that is done starts again, one in progress continues; the first requester
/// stays.
pub async fn ask(db: &mut PgConnection, company: CompanyId, by: &str) -> Result<()> {
    sqlx::query!(
        "
        -- erasures.ask
        insert into erasures as e (company_id, asked_by)
        values ($1, $2)
        on conflict (company_id) do update
        set stage = 'deliveries', webhook_id = null, cursor = null, done_at = null, asked_at = now()
        where e.done_at is not null
        ",
        company.uuid(),
        by,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "
        -- erasures.close
        with revoked as (
            update api_keys
            set revoked_at = coalesce(revoked_at, now()), name = $2, created_by = null
            where company_id = $1
        )
        update webhooks
        set active = false, deleted_at = now(), updated_at = now()
        where company_id = $1
            and deleted_at is null
        ",
        company.uuid(),
        ERASED,
    )
    .execute(&mut *db)
    .await?;
    Ok(())
}

/// The state of a company's erasure, if one was requested.
pub async fn get(db: impl PgExecutor<'_>, company: CompanyId) -> Result<Option<ErasureRow>> {
    let row = sqlx::query_as!(
        ErasureRow,
        "
        -- erasures.get
        select company_id, asked_at, asked_by, stage, done_at, webhooks, deliveries, cancelled, events, dead_letters,
               records, dropped, dropped_at
        from erasures
        where company_id = $1
        ",
        company.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
}

/// Companies whose erasure was requested at least this long ago and is not done, longest waiting first.
pub async fn open(pool: &PgPool, after: Duration, rows_max: i64) -> sqlx::Result<Vec<CompanyId>> {
    let ids = sqlx::query_scalar!(
        "-- erasures.open
        select company_id
        from erasures
        where done_at is null
          and asked_at <= now() - make_interval(secs => $1)
        order by asked_at
        limit $2",
        after.as_secs_f64(),
        rows_max,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(CompanyId).collect())
}

/// Companies whose erasure was done then or later.
pub async fn done_since(pool: &PgPool, since: DateTime<Utc>) -> sqlx::Result<Vec<CompanyId>> {
    let ids = sqlx::query_scalar!(
        "-- erasures.done_since
        select company_id
        from erasures
        where done_at >= $1",
        since,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(CompanyId).collect())
}

/// Counts the messages that arrived for erased companies.
pub async fn dropped(pool: &PgPool, counts: &[(CompanyId, i64)]) -> sqlx::Result<()> {
    let mut counts = counts.to_vec();
    // Two ingest processes that count for the same companies in different orders would deadlock.
    counts.sort_unstable_by_key(|(company, _)| *company);
    let (companies, counts): (Vec<Uuid>, Vec<i64>) =
        counts.into_iter().map(|(company, n)| (company.0, n)).unzip();
    sqlx::query!(
        "-- erasures.dropped
        update erasures e
        set dropped = e.dropped + c.n, dropped_at = now()
        from unnest($1::uuid[], $2::bigint[]) as c (company_id, n)
        where e.company_id = c.company_id",
        &companies,
        &counts,
    )
    .execute(pool)
    .await?;
    Ok(())
}
