//! What schedule reads and marks: deliveries that wait in the ledger.
//!
//! None of these statements counts or sorts a backlog: each walks an index and stops. `low` is the least id that
//! may still be pending, or held where a statement reads what is held; with it PostgreSQL does not even look at the days
//! before.
//!
//! A row that was picked is updated only if it is still as it was picked. It is compared with the pick, not
//! with a constant: with a condition that a partial index answers, PostgreSQL could scan the whole backlog for
//! each row picked, as long as its statistics are from a time when there was no backlog.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgPool, types::Uuid};

use super::waiting::{BEGINNING, Since};
use crate::model::{
    CompanyId, DeliveryId, EventId, EventType, Trigger, WebhookId,
    id::{first_of_day, time_of},
};

/// A delivery that was marked as queued: its job is published next.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    pub delivery: DeliveryId,
    pub company: CompanyId,
    /// Where it goes.
    pub webhook: WebhookId,
    /// What it carries.
    pub event: EventId,
    pub event_type: EventType,
    /// The attempt that is due.
    pub attempt: u32,
    /// Why it exists.
    pub trigger: Trigger,
    /// When it was marked.
    pub queued_at: DateTime<Utc>,
    pub due_at: DateTime<Utc>,
    /// How many workers in a row died that had claimed it.
    pub deaths: u32,
}

/// What a webhook may have now.
#[derive(Clone, Copy, Debug)]
pub struct LaneRoom {
    pub webhook: WebhookId,
    /// How many deliveries.
    pub deliveries_max: i64,
    /// Before which time nothing of its backlog waits.
    pub since: Since,
}

/// Marks what is due as queued, up to `room` for each webhook, and returns it in the order of publishing: oldest first,
/// replays and recoveries last.
pub async fn take(pool: &PgPool, low: Uuid, rooms: &[LaneRoom]) -> sqlx::Result<Vec<DueDelivery>> {
    let webhooks: Vec<Uuid> = rooms.iter().map(|room| room.webhook.0).collect();
    let sinces: Vec<DateTime<Utc>> = rooms.iter().map(|room| room.since.unwrap_or(BEGINNING)).collect();
    let rooms: Vec<i64> = rooms.iter().map(|room| room.deliveries_max).collect();
    let mut rows = sqlx::query!(
        r#"-- schedule.take
        with picked as (
            select d.id, d.queued_at
            from unnest($1::uuid[], $2::bigint[], $4::timestamptz[]) as w (id, room, since)
            cross join lateral (
                (select id, 0 as again, due_at, queued_at
                 from webhook_deliveries
                 where webhook_id = w.id and (case when replay_id is null then 0 else 1 end) = 0
                   and status = 'pending' and queued_at is null and due_at <= now() and due_at >= w.since
                   and (coalesce(claimed_until, '-infinity') < now()
                        or (claimed_until = session_claim_until and claimed_by is not null
                            and not exists (select from worker_sessions s where s.id = claimed_by)))
                   and id >= $3
                 order by due_at, id
                 limit w.room)
                union all
                (select id, 1 as again, due_at, queued_at
                 from webhook_deliveries
                 where webhook_id = w.id and (case when replay_id is null then 0 else 1 end) = 1
                   and status = 'pending' and queued_at is null and due_at <= now()
                   and (coalesce(claimed_until, '-infinity') < now()
                        or (claimed_until = session_claim_until and claimed_by is not null
                            and not exists (select from worker_sessions s where s.id = claimed_by)))
                   and id >= $3
                 order by due_at, id
                 limit w.room)
                order by again, due_at
                limit w.room
            ) d
        ), taken as (
            update schedule_taken
            set taken_at = now()
            where only_row
        )
        update webhook_deliveries d
        set queued_at = now()
        from (select id, queued_at from picked order by id) p
        where d.id = p.id and d.status = 'pending' and d.queued_at is not distinct from p.queued_at
        returning d.id, d.company_id, d.webhook_id, d.event_id, d.event_type, d.attempts, d.trigger,
                  d.queued_at as "queued_at!", d.due_at, d.deaths, d.replay_id"#,
        &webhooks,
        &rooms,
        low,
        &sinces,
    )
    .fetch_all(pool)
    .await?;
    // An update returns its rows in no particular order.
    rows.sort_unstable_by_key(|row| (row.replay_id.is_some(), row.due_at, row.id));
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(DueDelivery {
                delivery: DeliveryId(row.id),
                company: CompanyId(row.company_id),
                webhook: WebhookId(row.webhook_id),
                event: EventId(row.event_id),
                event_type: row.event_type.parse().ok()?,
                attempt: u32::try_from(row.attempts).unwrap_or(0) + 1,
                trigger: row.trigger.parse().unwrap_or(Trigger::Event),
                queued_at: row.queued_at,
                due_at: row.due_at,
                deaths: u32::try_from(row.deaths).unwrap_or(0),
            })
        })
        .collect())
}

/// Gives back what was marked last, in case its jobs were never published: the scheduler before this one may have died
/// between the two. These jobs claim, so a second one does no harm. Returns how many.
pub async fn give_back(pool: &PgPool) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- schedule.give_back
        update webhook_deliveries d
        set queued_at = null
        from (select w.id, w.queued_at
              from schedule_taken t
              join webhook_deliveries w
                on w.status = 'pending'
               and w.queued_at is not null
               and greatest(w.queued_at, w.due_at) = t.taken_at
              where t.only_row
              order by w.id) lost
        where d.id = lost.id
          and d.status = 'pending'
          and d.queued_at = lost.queued_at
          and coalesce(d.claimed_until, '-infinity') < now()",
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Sets held deliveries of a webhook that is no longer paused pending; returns how many.
pub async fn release_held(pool: &PgPool, low: Uuid, webhook: WebhookId, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- schedule.release_held
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
        "-- schedule.cancel
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

/// Gives up what has waited too long for its webhook: counted from the last attempt, else from intake, and never from
/// before the end of a pause, because a pause is not the delivery's fault.
///
/// Checks the next `rows_max` deliveries after `after` that were placed before `high`; returns the last of them if
/// there may be more after it. What has waited this long was placed long ago, so only old days are read; as a rule they
/// owe nothing, and `low` is after them.
pub async fn expire_parked(
    pool: &PgPool,
    after: Uuid,
    high: Uuid,
    park_max: Duration,
    rows_max: i64,
) -> sqlx::Result<Option<Uuid>> {
    let looked = sqlx::query!(
        r#"-- schedule.expire_parked
        with looked as (
            select d.id, d.webhook_id, d.status, d.queued_at, d.due_at, d.attempted_at, d.created_at, d.claimed_until
            from webhook_deliveries d
            where d.id > $1 and d.id < $2
            order by d.id
            limit $4
        ), old as (
            select l.id
            from looked l
            where l.status = 'pending'
              and l.queued_at is null
              and l.due_at <= now()
              and coalesce(l.attempted_at, l.created_at) < now() - make_interval(secs => $3)
              and coalesce(l.claimed_until, '-infinity') < now()
              and not exists (select
                              from webhook_versions v
                              where v.webhook_id = l.webhook_id
                                and v.paused
                                and v.valid_to >= now() - make_interval(secs => $3))
            order by l.id
        ), expired as (
            update webhook_deliveries d
            set status = 'dead', reason = 'expired', queued_at = null
            from old o
            where d.id = o.id
              and d.status = 'pending'
              and d.queued_at is not distinct from null
              and coalesce(d.claimed_until, '-infinity') < now()
        )
        select id as "id!"
        from looked
        order by id
        offset $4 - 1"#,
        after,
        high,
        park_max.as_secs_f64(),
        rows_max,
    )
    .fetch_optional(pool)
    .await?;
    Ok(looked.map(|last| last.id))
}

/// The oldest days that owe something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenDays {
    /// With a pending delivery.
    pub pending: Option<NaiveDate>,
    /// With a held one. A paused webhook holds for weeks, which must not make every other statement look that far back.
    pub held: Option<NaiveDate>,
}

/// The first of `days` with something pending, and with something held; the days before owe nothing.
pub async fn oldest_open_days(pool: &PgPool, days: &[NaiveDate]) -> sqlx::Result<OpenDays> {
    let first: Vec<Uuid> = days.iter().map(|day| first_of_day(*day)).collect();
    let end: Vec<Uuid> =
        days.iter().map(|day| first_of_day(day.succ_opt().unwrap_or(NaiveDate::MAX))).collect();
    let row = sqlx::query!(
        r#"-- schedule.oldest_open_days
        with days as materialized (
            select d.first, d.upto from unnest($1::uuid[], $2::uuid[]) as d (first, upto)
        )
        select (select d.first
                from days d
                where exists (select from webhook_deliveries w
                              where w.id >= d.first and w.id < d.upto
                                and w.status = 'pending' and w.queued_at is null)
                   or exists (select from webhook_deliveries w
                              where w.id >= d.first and w.id < d.upto
                                and w.status = 'pending' and w.queued_at is not null)
                order by d.first
                limit 1) as pending,
               (select d.first
                from days d
                where exists (select from webhook_deliveries w
                              where w.id >= d.first and w.id < d.upto and w.status = 'held')
                order by d.first
                limit 1) as held"#,
        &first,
        &end,
    )
    .fetch_one(pool)
    .await?;
    let day = |first: Option<Uuid>| first.map(|id| time_of(id).date_naive());
    Ok(OpenDays { pending: day(row.pending), held: day(row.held) })
}
