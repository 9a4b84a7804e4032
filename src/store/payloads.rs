//! Bodies that are removed before their history: what was sent and what was answered, of days past `PAYLOAD_RETENTION`.
//!
//! A day is emptied once. What it still owes keeps its body until it ends: those few deliveries are written down
//! first (`payloads_owed`), the rest of the day is emptied around them, and they are checked again from then on.

use std::collections::HashSet;

use chrono::NaiveDate;
use sqlx::{PgPool, types::Uuid};

use crate::model::id::first_of_day;

/// The most deliveries that one statement writes down as owed. Each statement skips those written down before, and a
/// day may owe a paused webhook a million.
pub const OWED_MAX: i64 = 10_000;

/// What one part looked at.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The last id that it processed; `None` if there was none left.
    pub upto: Option<Uuid>,
    /// How many rows it emptied, or wrote down.
    pub emptied: i64,
}

/// What is processed, part by part.
#[derive(Clone, Copy, Debug)]
pub enum Pass {
    /// What a day still owes, which is written down; nothing can be added, because the day is over.
    Owe(NaiveDate),
    /// The events of a day, emptied but for those of which something is owed.
    Events(NaiveDate),
    /// The deliveries of a day with all their attempts, emptied but for those that are owed.
    Deliveries(NaiveDate),
    /// What was owed when its day was emptied: emptied where it has ended since.
    Settle,
}

/// The part of a pass that follows `after`.
pub async fn part(pool: &PgPool, pass: Pass, after: Uuid, rows_max: i64) -> sqlx::Result<Part> {
    match pass {
        Pass::Owe(day) => owe(pool, day).await,
        Pass::Events(day) => empty_events(pool, day, after, rows_max).await,
        Pass::Deliveries(day) => empty_deliveries(pool, day, after, rows_max).await,
        Pass::Settle => settle(pool, after, rows_max).await,
    }
}

/// Whether the bodies of a day are gone.
pub async fn is_emptied(pool: &PgPool, day: NaiveDate) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- payloads.is_emptied
        select exists (select from payload_days where day = $1::text::date) as "is!""#,
        day.to_string(),
    )
    .fetch_one(pool)
    .await
}

/// Records that the bodies of a day are gone.
pub async fn note(pool: &PgPool, day: NaiveDate, events: i64, deliveries: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "-- payloads.note
        insert into payload_days (day, events, deliveries)
        values ($1::text::date, $2, $3)
        on conflict do nothing",
        day.to_string(),
        events,
        deliveries,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Forgets about a day that is dropped, and about what it owed: that is dead by then, with a body of its own.
pub async fn forget(pool: &PgPool, day: NaiveDate) -> sqlx::Result<()> {
    let (first, end) = bounds(day);
    sqlx::query!(
        "-- payloads.forget
        with owed as (
            delete from payloads_owed
            where delivery_id >= $1 and delivery_id < $2
        )
        delete from payload_days
        where day = $3::text::date",
        first,
        end,
        day.to_string(),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Some of what is not written down yet, by the index that finds it: each branch is the predicate of one, and none has
/// the ids in order. When nothing is left, everything owed at that instant is written down.
async fn owe(pool: &PgPool, day: NaiveDate) -> sqlx::Result<Part> {
    let (first, end) = bounds(day);
    let rows = sqlx::query_scalar!(
        r#"-- payloads.owe
        with open as (
            select id, event_id, company_id
            from (select id, event_id, company_id
                  from webhook_deliveries
                  where id >= $1 and id < $2 and status = 'pending' and queued_at is null
                  union all
                  select id, event_id, company_id
                  from webhook_deliveries
                  where id >= $1 and id < $2 and status = 'pending' and queued_at is not null
                  union all
                  select id, event_id, company_id
                  from webhook_deliveries
                  where id >= $1 and id < $2 and status = 'held') d
            where not exists (select from payloads_owed o where o.delivery_id = d.id)
            limit $3
        ), noted as (
            insert into payloads_owed (delivery_id, event_id, company_id)
            select id, event_id, company_id
            from open
            on conflict do nothing
        )
        select count(*) as "rows!"
        from open"#,
        first,
        end,
        OWED_MAX,
    )
    .fetch_one(pool)
    .await?;
    Ok(Part { upto: (rows > 0).then_some(first), emptied: rows })
}

async fn empty_events(pool: &PgPool, day: NaiveDate, after: Uuid, rows_max: i64) -> sqlx::Result<Part> {
    let (first, end) = bounds(day);
    let row = sqlx::query!(
        r#"-- payloads.empty_events
        with looked as (
            select id
            from events
            where id >= $1 and id < $2 and id > $3
            order by id
            limit $4
        ), emptied as (
            update events e
            set data = null
            from looked l
            where e.id = l.id and e.id >= $1 and e.id < $2
              and e.data is not null
              and not exists (select from payloads_owed o where o.event_id = e.id)
            returning 1
        )
        select (select max(id::text)::uuid from looked) as upto, (select count(*) from emptied) as "emptied!""#,
        first,
        end,
        after,
        rows_max,
    )
    .fetch_one(pool)
    .await?;
    Ok(Part { upto: row.upto, emptied: row.emptied })
}

async fn empty_deliveries(pool: &PgPool, day: NaiveDate, after: Uuid, rows_max: i64) -> sqlx::Result<Part> {
    let (first, end) = bounds(day);
    let row = sqlx::query!(
        r#"-- payloads.empty_deliveries
        with looked as (
            select id
            from webhook_deliveries
            where id >= $1 and id < $2 and id > $3
            order by id
            limit $4
        ), emptied as (
            update webhook_deliveries d
            set request_head = null, response_head = null, response_body = null
            from looked l
            where d.id = l.id and d.id >= $1 and d.id < $2
              and d.status not in ('pending', 'held')
              and coalesce(d.request_head, d.response_head, d.response_body) is not null
            returning 1
        ), attempts as (
            update webhook_delivery_attempts a
            set request_head = null, response_head = null, response_body = null
            from looked l
            where a.delivery_id = l.id and a.delivery_id >= $1 and a.delivery_id < $2
              and not exists (select from payloads_owed o where o.delivery_id = a.delivery_id)
        )
        select (select max(id::text)::uuid from looked) as upto, (select count(*) from emptied) as "emptied!""#,
        first,
        end,
        after,
        rows_max,
    )
    .fetch_one(pool)
    .await?;
    Ok(Part { upto: row.upto, emptied: row.emptied })
}

/// The body of an event goes with the last delivery that was owed, unless a replay has made something of it that is. Ids
/// first, then statements with their range: a join would go through every day, or gather the history in memory.
async fn settle(pool: &PgPool, after: Uuid, rows_max: i64) -> sqlx::Result<Part> {
    let owed = sqlx::query!(
        "-- payloads.owed
        select delivery_id, event_id
        from payloads_owed
        where delivery_id > $1
        order by delivery_id
        limit $2",
        after,
        rows_max,
    )
    .fetch_all(pool)
    .await?;
    let Some(last) = owed.last() else { return Ok(Part { upto: None, emptied: 0 }) };
    let upto = Some(last.delivery_id);
    let open = open(pool, &Ids::of(owed.iter().map(|row| row.delivery_id))).await?;
    let again = replayed(pool, &Ids::of(owed.iter().map(|row| row.event_id))).await?;
    let ended: Vec<_> = owed
        .iter()
        .filter(|row| !open.contains(&row.delivery_id) && !again.contains(&row.event_id))
        .collect();
    if ended.is_empty() {
        return Ok(Part { upto, emptied: 0 });
    }
    let deliveries = Ids::of(ended.iter().map(|row| row.delivery_id));
    let events = Ids::of(ended.iter().map(|row| row.event_id));
    empty(pool, &deliveries, &events).await?;
    Ok(Part { upto, emptied: i64::try_from(ended.len()).unwrap_or(i64::MAX) })
}

/// Ids, and the range in which they lie: `any` alone does not prune partitions.
struct Ids {
    all: Vec<Uuid>,
    first: Uuid,
    last: Uuid,
}

impl Ids {
    fn of(ids: impl Iterator<Item = Uuid>) -> Self {
        let mut all: Vec<Uuid> = ids.collect();
        // In the order in which all statements lock them.
        all.sort_unstable();
        all.dedup();
        let (first, last) =
            (all.first().copied().unwrap_or_default(), all.last().copied().unwrap_or_default());
        Self { all, first, last }
    }
}

/// Which of these deliveries are still owed.
async fn open(pool: &PgPool, deliveries: &Ids) -> sqlx::Result<HashSet<Uuid>> {
    let open = sqlx::query_scalar!(
        "-- payloads.open
        select id
        from webhook_deliveries
        where id = any($1)
          and id between $2 and $3
          and status in ('pending', 'held')",
        &deliveries.all,
        deliveries.first,
        deliveries.last,
    )
    .fetch_all(pool)
    .await?;
    Ok(open.into_iter().collect())
}

/// Those of these events of which a replay has made something that is still owed; these are few, and have their own
/// index.
async fn replayed(pool: &PgPool, events: &Ids) -> sqlx::Result<HashSet<Uuid>> {
    let again = sqlx::query_scalar!(
        "-- payloads.replayed
        select event_id
        from webhook_deliveries
        where replay_id is not null
          and status in ('pending', 'held')
          and event_id = any($1)",
        &events.all,
    )
    .fetch_all(pool)
    .await?;
    Ok(again.into_iter().collect())
}

/// Empties deliveries that are no longer owed, with their attempts, and the events of which nothing else is owed.
async fn empty(pool: &PgPool, deliveries: &Ids, events: &Ids) -> sqlx::Result<()> {
    let mut tx = pool.begin().await?;
    sqlx::query!(
        "-- payloads.settle_deliveries
        update webhook_deliveries
        set request_head = null, response_head = null, response_body = null
        where id = any($1)
          and id between $2 and $3",
        &deliveries.all,
        deliveries.first,
        deliveries.last,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "-- payloads.settle_attempts
        update webhook_delivery_attempts
        set request_head = null, response_head = null, response_body = null
        where delivery_id = any($1)
          and delivery_id between $2 and $3",
        &deliveries.all,
        deliveries.first,
        deliveries.last,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "-- payloads.settled
        delete from payloads_owed
        where delivery_id = any($1)",
        &deliveries.all,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "-- payloads.settle_events
        update events e
        set data = null
        where id = any($1)
          and id between $2 and $3
          and not exists (select from payloads_owed o where o.event_id = e.id)",
        &events.all,
        events.first,
        events.last,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

fn bounds(day: NaiveDate) -> (Uuid, Uuid) {
    (first_of_day(day), first_of_day(day.succ_opt().unwrap_or(NaiveDate::MAX)))
}
