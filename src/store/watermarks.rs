//! Watermarks, and the deliveries that have lost their job.
//!
//! AMQP cannot be asked whether a message exists. So schedule regularly sends a numbered watermark into each deliveries
//! queue, including the prompt ones. Queues are first in, first out: when a watermark published after a job has passed
//! and the delivery is still pending and unclaimed a grace later, its job is lost. A backlog delays its watermarks, so
//! nothing in it is rescued; a queue that was emptied or created again lets them through at once. All times are the
//! database's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Uuid};

use crate::model::WebhookId;

/// A watermark may have been published this long before a job with an earlier time reached its queue.
pub const MARK_SLACK: Duration = Duration::from_secs(5);
/// The grace doubles with each rescue of the same delivery, this many times.
pub const RESCUE_DOUBLINGS_MAX: u32 = 6;

/// The number of a watermark to be published now: the database's time in microseconds since 1970.
pub async fn number(pool: &PgPool) -> sqlx::Result<i64> {
    let now = sqlx::query_scalar!(
        r#"-- tide_marks.number
        select clock_timestamp() as "now!""#
    )
    .fetch_one(pool)
    .await?;
    Ok(now.timestamp_micros())
}

/// Records that a watermark has passed the queue of a shard.
pub async fn through(pool: &PgPool, shard: u8, number: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "-- tide_marks.through
        insert into tide_marks (shard, number)
        values ($1, $2)
        on conflict (shard, number) do nothing",
        i16::from(shard),
        number,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A watermark that has passed every deliveries queue, itself or a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    pub published_at: DateTime<Utc>,
    /// When it passed the last queue.
    pub through_at: DateTime<Utc>,
}

/// The watermarks of the last hours that have passed the queues of all `shards`, newest first.
pub async fn list(pool: &PgPool, shards: &[i16]) -> sqlx::Result<Vec<Through>> {
    let rows = sqlx::query!(
        r#"-- tide_marks.list
        select number as "number!", max(through_at) as "through_at!"
        from (
            -- A queue has let a mark through as soon as it let a later one through.
            select m.number, s.shard,
                   min(t.through_at) over (partition by s.shard order by m.number desc) as through_at
            from (select distinct number from tide_marks) m
            cross join unnest($1::smallint[]) as s (shard)
            left join tide_marks t on t.number = m.number and t.shard = s.shard
        ) through
        group by number
        having count(through_at) = cardinality($1)
        order by number desc"#,
        shards,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let published_at = DateTime::from_timestamp_micros(row.number)?;
            Some(Through { published_at, through_at: row.through_at })
        })
        .collect())
}

/// Removes watermarks older than `age`.
pub async fn forget(pool: &PgPool, age: Duration) -> sqlx::Result<()> {
    sqlx::query!(
        "-- tide_marks.forget
        delete from tide_marks
        where through_at < now() - make_interval(secs => $1)",
        age.as_secs_f64(),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Gives deliveries without a job back to schedule; returns the webhook of each. `before[k]` is the instant before which a delivery that was rescued
/// k times must have been queued for its job to be lost now; absent if no watermark says so yet. Nothing that was queued
/// before `from` is looked for.
pub async fn rescue(
    pool: &PgPool,
    low: Uuid,
    from: DateTime<Utc>,
    before: &[Option<DateTime<Utc>>],
    rows_max: i64,
) -> sqlx::Result<Vec<WebhookId>> {
    let Some(newest) = before.iter().flatten().max() else {
        return Ok(Vec::new());
    };
    let webhooks = sqlx::query_scalar!(
        "-- schedule.rescue
        update webhook_deliveries d
        set queued_at = null, rescues = least(d.rescues + 1, 32767)
        from (select id, queued_at
              -- Along the index, which ends with the first that are too many; only those are sorted for their locks.
              from (select id, queued_at
                    from webhook_deliveries
                    where status = 'pending'
                      and queued_at is not null
                      and id >= $1
                      and greatest(queued_at, due_at) >= $5
                      and greatest(queued_at, due_at) <= $2
                      and greatest(queued_at, due_at)
                          <= ($3::timestamptz[])[least(rescues, cardinality($3::timestamptz[]) - 1) + 1]
                      and coalesce(claimed_until, '-infinity') < now()
                    order by greatest(queued_at, due_at)
                    limit $4) first
              order by id) lost
        where d.id = lost.id
          and d.status = 'pending'
          and d.queued_at = lost.queued_at
          and coalesce(d.claimed_until, '-infinity') < now()
        returning d.webhook_id",
        low,
        *newest,
        before as _,
        rows_max,
        from,
    )
    .fetch_all(pool)
    .await?;
    Ok(webhooks.into_iter().map(WebhookId).collect())
}

/// When the oldest delivery that should have a job was queued; nothing before `from` is looked for.
pub async fn oldest_queued(
    pool: &PgPool,
    low: Uuid,
    from: DateTime<Utc>,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar!(
        r#"-- schedule.oldest_queued
        select greatest(queued_at, due_at) as "since!"
        from webhook_deliveries
        where status = 'pending'
          and queued_at is not null
          and id >= $1
          and greatest(queued_at, due_at) >= $2
        order by greatest(queued_at, due_at)
        limit 1"#,
        low,
        from,
    )
    .fetch_optional(pool)
    .await
}
