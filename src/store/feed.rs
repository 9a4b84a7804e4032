//! What feed reads and marks: deliveries that wait in the ledger.
//!
//! None of these statements counts or sorts a backlog: each walks an index and stops. `low` is the least id that
//! may still be open; with it PostgreSQL does not even look at the days before.
//!
//! A row that was picked is updated if it still is as it was picked. That is said by comparing it with the pick, not
//! with a constant: a condition that a partial index answers would let PostgreSQL go through all that waits for
//! each row picked, as long as its statistics are from a time when nothing did.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgPool, types::Uuid};

use crate::model::{
    CompanyId, DeliveryId, EventId, EventType, Trigger, WebhookId,
    id::{first_of_day, time_of},
};

/// What may be done with what waits for a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Make jobs.
    Open,
    /// Hold everything.
    Paused,
    /// Cancel everything: it is inactive, deleted or unknown.
    Closed,
}

/// A webhook for which something waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The webhook.
    pub webhook: WebhookId,
    /// What may be done.
    pub standing: Standing,
    /// Whether a resume is releasing its held deliveries at a rate.
    pub resuming: bool,
    /// Whether ingest leaves its new deliveries to feed.
    pub flagged: bool,
    /// Whether the time of something that waits has come.
    pub due: bool,
}

/// Which deliveries are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Pending, without a job.
    Waiting,
    /// Held.
    Held,
}

/// The next webhooks after `after`, in the order of their ids, for which something waits or is held.
pub async fn webhooks(
    pool: &PgPool,
    which: Which,
    low: Uuid,
    after: Uuid,
    webhooks_max: i64,
) -> sqlx::Result<Vec<Waiting>> {
    let ids = match which {
        // A loose index scan: one probe for each webhook, however many deliveries it has.
        Which::Waiting => {
            sqlx::query_scalar!(
                r#"-- feed.waiting_webhooks
                with recursive w as (
                    (select webhook_id
                     from webhook_deliveries
                     where status = 'pending' and queued_at is null and id >= $1 and webhook_id > $2
                     order by webhook_id
                     limit 1)
                    union all
                    select (select d.webhook_id
                            from webhook_deliveries d
                            where d.status = 'pending' and d.queued_at is null and d.id >= $1
                              and d.webhook_id > w.webhook_id
                            order by d.webhook_id
                            limit 1)
                    from w
                    where w.webhook_id is not null
                )
                select webhook_id as "id!" from w where webhook_id is not null limit $3"#,
                low,
                after,
                webhooks_max,
            )
            .fetch_all(pool)
            .await?
        }
        Which::Held => {
            sqlx::query_scalar!(
                r#"-- feed.held_webhooks
                with recursive w as (
                    (select webhook_id
                     from webhook_deliveries
                     where status = 'held' and id >= $1 and webhook_id > $2
                     order by webhook_id
                     limit 1)
                    union all
                    select (select d.webhook_id
                            from webhook_deliveries d
                            where d.status = 'held' and d.id >= $1 and d.webhook_id > w.webhook_id
                            order by d.webhook_id
                            limit 1)
                    from w
                    where w.webhook_id is not null
                )
                select webhook_id as "id!" from w where webhook_id is not null limit $3"#,
                low,
                after,
                webhooks_max,
            )
            .fetch_all(pool)
            .await?
        }
    };
    standing(pool, low, &ids).await
}

async fn standing(pool: &PgPool, low: Uuid, ids: &[Uuid]) -> sqlx::Result<Vec<Waiting>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"-- feed.standing
        select i.id as "id!",
               w.paused_at is not null as "paused!",
               coalesce(w.active and w.deleted_at is null, false) as "living!",
               coalesce(l.waiting > 0, false) as "flagged!",
               exists (select from webhook_deliveries d
                       where d.webhook_id = i.id and (d.replay_id is not null) = false and d.status = 'pending'
                         and d.queued_at is null and d.due_at <= now() and d.id >= $2)
               or exists (select from webhook_deliveries d
                       where d.webhook_id = i.id and (d.replay_id is not null) = true and d.status = 'pending'
                         and d.queued_at is null and d.due_at <= now() and d.id >= $2) as "due!",
               exists (select from replays r
                       where r.webhook_id = i.id and r.kind = 'resume' and r.status <> 'done') as "resuming!"
        from unnest($1::uuid[]) as i (id)
        left join webhooks w on w.id = i.id
        left join lanes l on l.webhook_id = i.id"#,
        ids,
        low,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Waiting {
            webhook: WebhookId(row.id),
            standing: match (row.living, row.paused) {
                (false, _) => Standing::Closed,
                (true, true) => Standing::Paused,
                (true, false) => Standing::Open,
            },
            resuming: row.resuming,
            flagged: row.flagged,
            due: row.due,
        })
        .collect())
}

/// A delivery that was marked as queued: its job is to be published now.
#[derive(Clone, Debug)]
pub struct Due {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The tenant.
    pub company: CompanyId,
    /// Where it goes.
    pub webhook: WebhookId,
    /// What it carries.
    pub event: EventId,
    /// Its type.
    pub event_type: EventType,
    /// The attempt to ask for.
    pub attempt: u32,
    /// Why it exists.
    pub trigger: Trigger,
    /// When it was marked.
    pub queued_at: DateTime<Utc>,
    /// How often in a row a worker was gone that had claimed it.
    pub deaths: u32,
}

/// Marks what is due as queued, up to `room` for each webhook; oldest first, replays and recoveries last.
pub async fn take(pool: &PgPool, low: Uuid, rooms: &[(WebhookId, i64)]) -> sqlx::Result<Vec<Due>> {
    let (webhooks, rooms): (Vec<Uuid>, Vec<i64>) =
        rooms.iter().map(|(webhook, room)| (webhook.0, *room)).unzip();
    let rows = sqlx::query!(
        r#"-- feed.take
        with picked as (
            select d.id, d.queued_at
            from unnest($1::uuid[], $2::bigint[]) as w (id, room)
            cross join lateral (
                (select id, 0 as again, due_at, queued_at
                 from webhook_deliveries
                 where webhook_id = w.id and (case when replay_id is null then 0 else 1 end) = 0
                   and status = 'pending' and queued_at is null and due_at <= now()
                   and coalesce(claimed_until, '-infinity') < now()
                   and id >= $3
                 order by due_at, id
                 limit w.room)
                union all
                (select id, 1 as again, due_at, queued_at
                 from webhook_deliveries
                 where webhook_id = w.id and (case when replay_id is null then 0 else 1 end) = 1
                   and status = 'pending' and queued_at is null and due_at <= now()
                   and coalesce(claimed_until, '-infinity') < now()
                   and id >= $3
                 order by due_at, id
                 limit w.room)
                order by again, due_at
                limit w.room
            ) d
        )
        update webhook_deliveries d
        set queued_at = now()
        from (select id, queued_at from picked order by id) p
        where d.id = p.id and d.status = 'pending' and d.queued_at is not distinct from p.queued_at
        returning d.id, d.company_id, d.webhook_id, d.event_id, d.event_type, d.attempts, d.trigger,
                  d.queued_at as "queued_at!", d.deaths"#,
        &webhooks,
        &rooms,
        low,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Due {
                delivery: DeliveryId(row.id),
                company: CompanyId(row.company_id),
                webhook: WebhookId(row.webhook_id),
                event: EventId(row.event_id),
                event_type: row.event_type.parse().ok()?,
                attempt: u32::try_from(row.attempts).unwrap_or(0) + 1,
                trigger: row.trigger.parse().unwrap_or(Trigger::Event),
                queued_at: row.queued_at,
                deaths: u32::try_from(row.deaths).unwrap_or(0),
            })
        })
        .collect())
}

/// Sets held deliveries of a webhook that is no longer paused pending; returns how many.
pub async fn release_held(pool: &PgPool, low: Uuid, webhook: WebhookId, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- feed.release_held
        update webhook_deliveries d
        set status = 'pending', reason = null, queued_at = null
        from (select h.id, h.status
              from webhook_deliveries h
              join webhooks w on w.id = h.webhook_id and w.paused_at is null and w.active and w.deleted_at is null
              where h.webhook_id = $1 and h.status = 'held' and h.id >= $2
              order by h.id
              limit $3) p
        where d.id = p.id and d.status = p.status",
        webhook.0,
        low,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Cancels what waits or is held for a webhook; returns how many.
pub async fn cancel(
    pool: &PgPool,
    low: Uuid,
    webhook: WebhookId,
    reason: &str,
    rows_max: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- feed.cancel
        update webhook_deliveries d
        set status = 'cancelled', reason = $2, queued_at = null
        from (select id, status
              from (
                  -- Each by its own index; the two together would be looked for in the whole history.
                  (select id, status
                   from webhook_deliveries
                   where webhook_id = $1 and status = 'held' and id >= $3
                   limit $4)
                  union all
                  (select id, status
                   from webhook_deliveries
                   where webhook_id = $1 and status = 'pending' and queued_at is null and id >= $3
                   limit $4)
              ) open
              order by id) p
        where d.id = p.id
          and d.status = p.status
          and d.queued_at is null
          and coalesce(d.claimed_until, '-infinity') < now()",
        webhook.0,
        reason,
        low,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Gives up what has waited for its webhook longer than it may: counted from the last attempt, else from intake,
/// and never from before the end of a pause, for a pause is no fault of the delivery. What waits so long was placed
/// before `high`, so only old days are looked at.
pub async fn expire_parked(
    pool: &PgPool,
    low: Uuid,
    high: Uuid,
    park_max: Duration,
    rows_max: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        r#"-- feed.expire_parked
        with old as (
            select d.id
            from webhook_deliveries d
            where d.id >= $1
              and d.id < $2
              and d.status = 'pending'
              and d.queued_at is null
              and d.due_at <= now()
              and coalesce(d.attempted_at, d.created_at) < now() - make_interval(secs => $3)
              and coalesce(d.claimed_until, '-infinity') < now()
              and not exists (select
                              from webhook_versions v
                              where v.webhook_id = d.webhook_id
                                and v.paused
                                and v.valid_to >= now() - make_interval(secs => $3))
            order by d.id
            limit $4
        ), expired as (
            update webhook_deliveries d
            set status = 'dead', reason = 'expired', queued_at = null
            from old o
            where d.id = o.id
              and d.status = 'pending'
              and d.queued_at is null
              and coalesce(d.claimed_until, '-infinity') < now()
            returning d.id, d.company_id, d.webhook_id, d.event_id, d.event_type, d.attempts, d.outcome, d.response_status
        )
        insert into dead_letters (id, kind, company_id, webhook_id, event_id, event_type, reason, attempts, outcome,
                                  response_status, body)
        select x.id, 'delivery', x.company_id, x.webhook_id, x.event_id, x.event_type, 'expired', x.attempts,
               x.outcome, x.response_status,
               convert_to('{"event_type":' || to_json(e.event_type) || ',"data":' || e.data
                   || ',"company_id":"' || e.company_id || '","timestamp":' || e."timestamp" || '}', 'UTF8')
        from expired x
        left join events e on e.id = x.event_id
        on conflict (id) do nothing"#,
        low,
        high,
        park_max.as_secs_f64(),
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Tells ingest whether a webhook has a backlog, so that what is new stands behind what waits.
pub async fn flag(pool: &PgPool, webhooks: &[WebhookId], waiting: i64) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = webhooks.iter().map(|webhook| webhook.0).collect();
    sqlx::query!(
        "-- feed.flag
        update lanes
        set waiting = $2
        where webhook_id = any($1)",
        &ids,
        waiting,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The webhooks that are flagged.
pub async fn flagged(pool: &PgPool) -> sqlx::Result<Vec<WebhookId>> {
    let ids = sqlx::query_scalar!(
        "-- feed.flagged
        select webhook_id
        from lanes
        where waiting > 0"
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(WebhookId).collect())
}

/// The first of `days` in which something is open; the days before owe nothing.
pub async fn oldest_open_day(pool: &PgPool, days: &[NaiveDate]) -> sqlx::Result<Option<NaiveDate>> {
    let first: Vec<Uuid> = days.iter().map(|day| first_of_day(*day)).collect();
    let end: Vec<Uuid> =
        days.iter().map(|day| first_of_day(day.succ_opt().unwrap_or(NaiveDate::MAX))).collect();
    let low = sqlx::query_scalar!(
        r#"-- feed.oldest_open_day
        select d.first as "first!"
        from unnest($1::uuid[], $2::uuid[]) as d (first, upto)
        where exists (select from webhook_deliveries w
                      where w.id >= d.first and w.id < d.upto and w.status = 'pending' and w.queued_at is null)
           or exists (select from webhook_deliveries w
                      where w.id >= d.first and w.id < d.upto and w.status = 'pending' and w.queued_at is not null)
           or exists (select from webhook_deliveries w
                      where w.id >= d.first and w.id < d.upto and w.status = 'held')
        order by d.first
        limit 1"#,
        &first,
        &end,
    )
    .fetch_optional(pool)
    .await?;
    Ok(low.map(|id| time_of(id).date_naive()))
}
