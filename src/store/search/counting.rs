//! How many deliveries match a filter, up to a bound of rows and of time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use super::{AHEAD_MAX, Deliveries, id_at};
use crate::{
    model::CompanyId,
    store::{Error, Result},
};

/// Counts deliveries up to `rows_max`; `None` if that takes longer than `time_max`.
pub async fn count_deliveries(
    db: &PgPool,
    company: CompanyId,
    query: &Deliveries,
    now: DateTime<Utc>,
    (rows_max, time_max): (i64, Duration),
) -> Result<Option<i64>> {
    let newest = id_at(now.checked_add_signed(AHEAD_MAX).unwrap_or(now));
    let (types, prefixes) = query.types();
    let mut tx = db.begin().await?;
    within(&mut tx, time_max).await?;
    let count = sqlx::query_scalar!(
        r#"
        -- search.count_deliveries
        select count(*) as "count!"
        from (
            select
            from webhooks w
            cross join lateral (
                select
                from webhook_deliveries
                where company_id = $1
                    and webhook_id = w.id
                    and id >= $3
                    and id < $4
                    and ($6::text[] is null or status = any($6))
                    and ($7::text[] is null
                        or event_type = any($7)
                        or exists (select from unnest($8::text[]) as t (prefix) where starts_with(event_type, t.prefix)))
                    and ($9::integer[] is null or response_status = any($9))
                    and ($10::text[] is null or outcome = any($10))
                    and ($11::text[] is null
                        or exists (select from unnest($11::text[]) as t (prefix) where starts_with(reason, t.prefix)))
                    and ($12::text[] is null or trigger = any($12))
                limit $5
            ) d
            where w.company_id = $1
                and ($2::uuid[] is null or w.id = any($2))
            limit $5
        ) as found
        "#,
        company.uuid(),
        query.webhooks.as_deref() as _,
        query.low(),
        query.high().min(newest),
        rows_max,
        query.statuses.as_deref() as _,
        types.as_deref() as _,
        prefixes.as_deref() as _,
        query.response_statuses.as_deref() as _,
        query.outcomes.as_deref() as _,
        query.reasons.as_deref() as _,
        query.triggers.as_deref() as _,
    );
    known_in_time(count.fetch_one(&mut *tx).await)
}

/// Bounds the time of what follows in a transaction.
pub(in crate::store) async fn within(db: &mut PgConnection, time_max: Duration) -> Result<()> {
    sqlx::query_scalar!(
        "
        -- search.within
        select set_config('statement_timeout', $1, true)
        ",
        time_max.as_millis().to_string(),
    )
    .fetch_one(db)
    .await?;
    Ok(())
}

/// A count; `None` if the time was up.
pub(in crate::store) fn known_in_time(counted: sqlx::Result<i64>) -> Result<Option<i64>> {
    match counted.map_err(Error::from) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.sqlstate().as_deref() == Some("57014") => Ok(None),
        Err(error) => Err(error),
    }
}
