//! The open replays, as schedule expands them.
//!
//! A replay is a row, so it survives any crash: its cursor says what it has made so far, and the ids of what
//! it makes are derived from it, so making something twice makes it once.

use std::time::Duration;

use chrono::NaiveDate;
use serde::Deserialize;
use sqlx::{PgPool, types::Uuid};

use super::{
    replay_sources::{Chunk, Source},
    replays::Open,
};
use crate::model::{
    CompanyId, DeliveryId, ReplayId, WebhookId, id::first_of_day, replay::ReplayKind, webhook::Held,
};

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResumeFilter {
    held: Held,
}

/// The next replays after `after` that still make or release something, in the order of their ids. The next call
/// continues after the last one, so that many slow replays of one company delay no other.
pub async fn open(pool: &PgPool, after: Uuid, rows_max: i64) -> sqlx::Result<Vec<Open>> {
    let rows = sqlx::query!(
        r#"-- replays.open
        select id, company_id, kind as "kind: ReplayKind", webhook_id, filter::text as "filter!", rate, started_at,
               coalesce(cursor, '00000000-0000-0000-0000-000000000000') as "cursor!"
        from replays
        where status = 'expanding'
          and id > $1
          -- A kind of a later release is left to that release; it must not stop the others.
          and kind in ('replay', 'resume', 'recovery')
        order by id
        limit $2"#,
        after,
        rows_max,
    )
    .fetch_all(pool)
    .await?;
    let orders = rows.into_iter().map(|row| Open {
        id: ReplayId(row.id),
        company: CompanyId(row.company_id),
        kind: row.kind,
        webhook: row.webhook_id.map(WebhookId),
        held: serde_json::from_str::<ResumeFilter>(&row.filter).unwrap_or_default().held,
        filter: serde_json::from_str(&row.filter).unwrap_or_default(),
        rate: row.rate,
        started_at: row.started_at,
        cursor: row.cursor,
    });
    Ok(orders.collect())
}

/// Whether a replay or recovery may still read a day: one that is not yet expanded may find a source there, and one
/// that is may have made a delivery whose event is in that day and whose body is not sent yet. None older than the
/// retention counts; otherwise a replay to a webhook that stays paused would keep every day forever.
pub async fn may_read(pool: &PgPool, day: NaiveDate, retention: Duration) -> sqlx::Result<bool> {
    let first = first_of_day(day);
    let end = first_of_day(day.succ_opt().unwrap_or(NaiveDate::MAX));
    sqlx::query_scalar!(
        r#"-- replays.may_read
        select exists (select
                       from replays r
                       where r.status <> 'done'
                         and r.kind <> 'resume'
                         -- Its deliveries lie at its start and expire with that day.
                         and r.started_at > now() - make_interval(secs => $3)
                         and (r.status = 'expanding'
                             or exists (select
                                        from webhook_deliveries d
                                        where d.replay_id = r.id
                                          and d.status in ('pending', 'held')
                                          and d.event_id >= $1
                                          and d.event_id < $2))) as "may!""#,
        first,
        end,
        retention.as_secs_f64(),
    )
    .fetch_one(pool)
    .await
}

/// Makes the deliveries of one chunk, paced by their due times, and moves the cursor, all or nothing. The source
/// stays as it is; its dead letter becomes *replayed*, and one that was still open is cancelled, *superseded*.
pub async fn expand(pool: &PgPool, replay: &Open, chunk: &Chunk) -> sqlx::Result<()> {
    let Chunk { sources, upto, finished } = chunk;
    let living: Vec<&Source> = sources.iter().filter(|source| source.living).collect();
    let ids: Vec<Uuid> = living
        .iter()
        .map(|s| DeliveryId::of_replay(replay.id, replay.started_at, s.event, s.webhook).0)
        .collect();
    let origins: Vec<Uuid> = living.iter().map(|s| s.delivery.0).collect();
    let webhooks: Vec<Uuid> = living.iter().map(|s| s.webhook.0).collect();
    let events: Vec<Uuid> = living.iter().map(|s| s.event.0).collect();
    let types: Vec<&str> = living.iter().map(|s| s.event_type.as_str()).collect();
    sqlx::query!(
        "-- replays.expand
        with again as (
            select *
            from unnest($3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[])
                with ordinality as a (id, origin, webhook_id, event_id, event_type, nth)
        ), made as (
            insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, replay_id,
                                            due_at)
            select distinct on (id) id, $2, webhook_id, event_id, event_type, $8, 'pending', $1,
                   greatest(now(), p.started_at + make_interval(secs => p.made / $9))
                       + make_interval(secs => ((nth - 1)::double precision / $9))
            from again
            cross join (select started_at, made::double precision as made from replays where id = $1) p
            order by id
            on conflict (id) do nothing
            returning id
        ), superseded as (
            update webhook_deliveries d
            set status = 'cancelled', reason = 'superseded', queued_at = null
            from again a
            where d.id = a.origin and d.status in ('pending', 'held')
        ), replayed as (
            update dead_letters l
            set status = 'replayed', replayed_at = now(), replay_id = $1
            from again a
            where l.id = a.origin and l.status = 'open'
        )
        update replays
        set cursor = $10,
            made = made + (select count(*) from made),
            skipped = skipped + $11,
            status = case when $12 then 'running' else status end,
            expanded_at = case when $12 then now() end
        where id = $1",
        replay.id.0,
        replay.company.0,
        &ids,
        &origins,
        &webhooks,
        &events,
        &types as _,
        replay.trigger().as_str(),
        f64::from(replay.rate),
        upto,
        i64::try_from(sources.len() - living.len()).unwrap_or(0),
        *finished,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Counts what a resume has released, and ends it with its last held delivery.
pub async fn resumed(pool: &PgPool, replay: ReplayId, released: u64, ended: bool) -> sqlx::Result<()> {
    sqlx::query!(
        "-- replays.resumed
        update replays
        set made = made + $2,
            status = case when $3 then 'done' else status end,
            ended_at = case when $3 then now() end
        where id = $1",
        replay.0,
        i64::try_from(released).unwrap_or(i64::MAX),
        ended,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Cancels what was held before a resume that discards it; returns how many.
pub async fn discard(pool: &PgPool, replay: &Open, low: Uuid, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- replays.discard
        update webhook_deliveries d
        set status = 'cancelled', reason = 'discarded', queued_at = null
        from (select id, status
              from webhook_deliveries
              where webhook_id = $1 and status = 'held' and created_at <= $2 and id >= $3
              limit $4) h
        where d.id = h.id and d.status = h.status",
        replay.webhook.map(WebhookId::uuid),
        replay.started_at,
        low,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// A dead letter that is not a delivery: a message or an event, as it came.
#[derive(Clone, Debug)]
pub struct OpenDeadLetter {
    pub id: Uuid,
    /// The bytes that came.
    pub body: Vec<u8>,
    /// Its headers, as a JSON object.
    pub headers: String,
    pub routing_key: Option<String>,
    /// The id that the publisher gave.
    pub message_id: Option<String>,
}

/// The messages that a replay names, after its cursor.
pub async fn dead_letters(pool: &PgPool, replay: &Open, rows_max: i64) -> sqlx::Result<Vec<OpenDeadLetter>> {
    sqlx::query_as!(
        OpenDeadLetter,
        r#"-- replays.dead_letters
        select id, coalesce(body, '') as "body!", coalesce(headers::text, '{}') as "headers!", routing_key, message_id
        from dead_letters
        where id = any($1) and id > $2 and kind <> 'delivery' and (company_id is null or company_id = $3)
        order by id
        limit $4"#,
        &replay.filter.messages,
        replay.cursor,
        replay.company.0,
        rows_max,
    )
    .fetch_all(pool)
    .await
}

/// Records that messages were published again, and moves the cursor. After the last of them the replay continues with
/// the deliveries that it names.
pub async fn published(
    pool: &PgPool,
    replay: &Open,
    dead_letters: &[Uuid],
    finished: bool,
) -> sqlx::Result<()> {
    let goes_on = finished && !replay.filter.deliveries.is_empty();
    sqlx::query!(
        "-- replays.published
        with again as (
            update dead_letters
            set status = 'replayed', replayed_at = now(), replay_id = $1
            where id = any($2)
        )
        update replays
        set cursor = case when not $4
                          then coalesce((select max(id::text)::uuid from unnest($2::uuid[]) as l (id)), cursor) end,
            filter = case when $4 then (filter::jsonb - 'messages')::json else filter end,
            made = made + cardinality($2),
            status = case when $3 and not $4 then 'running' else status end,
            expanded_at = case when $3 and not $4 then now() end
        where id = $1",
        replay.id.0,
        dead_letters,
        finished,
        goes_on,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Ends expanded replays whose last delivery has ended.
pub async fn finish(pool: &PgPool) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- replays.finish
        update replays r
        set status = 'done', ended_at = now()
        where r.status = 'running'
          and r.kind <> 'resume'
          and not exists (select
                          from webhook_deliveries d
                          where d.replay_id = r.id and d.status in ('pending', 'held'))"
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
