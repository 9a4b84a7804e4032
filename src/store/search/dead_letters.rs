//! Finding dead letters: one table, walked along its index by time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    FoundDeliveries,
    counting::{known_in_time, within},
    scan::Scan,
};
use crate::{model::CompanyId, store::Result};

/// Which dead letters are wanted. What is absent does not filter; of a list one must match.
#[derive(Clone, Debug, Default)]
pub struct DeadLetterQuery {
    /// Of this company; without it all, also those without a company: for the operator.
    pub company: Option<CompanyId>,
    pub webhook: Option<Uuid>,
    /// Of these kinds.
    pub kinds: Option<Vec<String>>,
    /// In these states.
    pub statuses: Option<Vec<String>>,
    /// Whose reason starts with one of these.
    pub reasons: Option<Vec<String>>,
    /// Given up then or later.
    pub since: Option<DateTime<Utc>>,
    /// Given up before then.
    pub until: Option<DateTime<Utc>>,
}

/// A place among dead letters.
type Key = (DateTime<Utc>, Uuid);

struct DeadLetterScan {
    ids: Vec<Uuid>,
    times: Vec<DateTime<Utc>>,
    edge_at: Option<DateTime<Utc>>,
    edge_id: Option<Uuid>,
    looked_at: i64,
}

/// A page of at most `rows` dead letters after `before`, or the newest.
pub async fn dead_letters(
    db: &PgPool,
    query: &DeadLetterQuery,
    before: Option<Key>,
    rows: i64,
) -> Result<FoundDeliveries<Key>> {
    let is_filtered = query.kinds.is_some() || query.statuses.is_some() || query.reasons.is_some();
    let mut scan = Scan::new(before, rows, is_filtered);
    loop {
        let step = step(db, query, scan.before, scan.each, scan.missing()).await?;
        let found = step.times.into_iter().zip(step.ids);
        if let Some(page) = scan.take(found, step.edge_at.zip(step.edge_id), step.looked_at) {
            return Ok(FoundDeliveries {
                ids: page.keys.into_iter().map(|(_, id)| id).collect(),
                next: page.next,
            });
        }
    }
}

async fn step(
    db: &PgPool,
    query: &DeadLetterQuery,
    before: Option<Key>,
    each: i64,
    rows: i64,
) -> Result<DeadLetterScan> {
    let step = sqlx::query_as!(
        DeadLetterScan,
        r#"
        -- search.dead_letters
        with looked as (
            select id, created_at, kind, status, reason
            from dead_letters
            where ($1::uuid is null or company_id = $1)
                and ($2::uuid is null or webhook_id = $2)
                and created_at >= coalesce($3, '-infinity'::timestamptz)
                and created_at < coalesce($4, 'infinity'::timestamptz)
                and (created_at, id) < (coalesce($5, 'infinity'::timestamptz), coalesce($6, $12::uuid))
            order by created_at desc, id desc
            limit $7
        ), found as (
            select id, created_at
            from looked
            where ($9::text[] is null or kind = any($9))
                and ($10::text[] is null or status = any($10))
                and ($11::text[] is null
                    or exists (select from unnest($11::text[]) as t (prefix) where starts_with(reason, t.prefix)))
            order by created_at desc, id desc
            limit $8
        )
        select
            array(select id from found order by created_at desc, id desc) as "ids!",
            array(select created_at from found order by created_at desc, id desc) as "times!",
            (select created_at from looked order by created_at, id limit 1) as edge_at,
            (select id from looked order by created_at, id limit 1) as edge_id,
            (select count(*) from looked) as "looked_at!"
        "#,
        query.company.map(CompanyId::uuid),
        query.webhook,
        query.since,
        query.until,
        before.map(|(at, _)| at),
        before.map(|(_, id)| id),
        each,
        rows,
        query.kinds.as_deref() as _,
        query.statuses.as_deref() as _,
        query.reasons.as_deref() as _,
        Uuid::max(),
    );
    Ok(step.fetch_one(db).await?)
}

/// Counts dead letters up to `rows_max`; `None` if that takes longer than `time_max`.
pub async fn count_dead_letters(
    db: &PgPool,
    query: &DeadLetterQuery,
    (rows_max, time_max): (i64, Duration),
) -> Result<Option<i64>> {
    let mut tx = db.begin().await?;
    within(&mut tx, time_max).await?;
    let count = sqlx::query_scalar!(
        r#"
        -- search.count_dead_letters
        select count(*) as "count!"
        from (
            select
            from dead_letters
            where ($1::uuid is null or company_id = $1)
                and ($2::uuid is null or webhook_id = $2)
                and created_at >= coalesce($3, '-infinity'::timestamptz)
                and created_at < coalesce($4, 'infinity'::timestamptz)
                and ($6::text[] is null or kind = any($6))
                and ($7::text[] is null or status = any($7))
                and ($8::text[] is null
                    or exists (select from unnest($8::text[]) as t (prefix) where starts_with(reason, t.prefix)))
            limit $5
        ) as found
        "#,
        query.company.map(CompanyId::uuid),
        query.webhook,
        query.since,
        query.until,
        rows_max,
        query.kinds.as_deref() as _,
        query.statuses.as_deref() as _,
        query.reasons.as_deref() as _,
    );
    known_in_time(count.fetch_one(&mut *tx).await)
}
