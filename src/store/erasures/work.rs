//! The work of an erasure, one chunk after the other.
//!
//! A step is one transaction, and moves the erasure's cursor with what it did: after a crash the next step does what
//! this one had not committed. A lock that nothing else takes keeps two prune processes from working on the same chunk.
//! The erasure's row itself is locked only by the last statement, because other processes count in it what arrives for
//! the company. Deliveries come first, because they are found by their webhooks; the webhooks themselves go last.

use sqlx::{PgConnection, PgPool, types::Uuid};

use super::ERASED;
use crate::model::CompanyId;

/// Webhooks that a step processes, most of which may have few deliveries.
pub const WEBHOOKS_MAX: usize = 100;

/// The reason of deliveries that were still owed.
pub const COMPANY_ERASED: &str = "company erased";

/// The position of an erasure.
struct At {
    stage: String,
    webhook: Option<Uuid>,
    cursor: Option<Uuid>,
}

impl At {
    /// At the beginning of a stage.
    fn begin(stage: &str) -> Self {
        Self { stage: stage.to_owned(), webhook: None, cursor: None }
    }

    /// Continues with the next stage if a chunk was not full.
    fn after(self, rows: u64, full: i64, next: &str) -> Self {
        if i64::try_from(rows).unwrap_or(i64::MAX) >= full { self } else { Self::begin(next) }
    }
}

/// How many deliveries, cancelled ones among them, events, dead letters, records and webhooks.
type Counts = [u64; 6];

/// Processes a chunk of about `rows_max` rows; returns how many rows it was, or `None` if all is done or another
/// process is at it.
pub async fn step(pool: &PgPool, company: CompanyId, rows_max: i64) -> sqlx::Result<Option<u64>> {
    let mut tx = pool.begin().await?;
    if !begin(&mut tx, company).await? {
        return Ok(None);
    }
    let Some(at) = at(&mut tx, company).await? else { return Ok(None) };
    let (rows, counts, next) = match at.stage.as_str() {
        "deliveries" => deliveries(&mut tx, company, at, rows_max).await?,
        "events" => {
            let rows = events(&mut tx, company, rows_max).await?;
            (rows, [0, 0, rows, 0, 0, 0], at.after(rows, rows_max, "dead_letters"))
        }
        "dead_letters" => {
            let rows = dead_letters(&mut tx, company, rows_max).await?;
            (rows, [0, 0, 0, rows, 0, 0], at.after(rows, rows_max, "records"))
        }
        "records" => {
            let rows = records(&mut tx, company, rows_max).await?;
            (rows, [0, 0, 0, 0, rows, 0], at.after(rows, 1, "webhooks"))
        }
        _ => {
            let rows = webhooks(&mut tx, company, rows_max).await?;
            (rows, [0, 0, 0, 0, 0, rows], at.after(rows, rows_max, "done"))
        }
    };
    advance(&mut tx, company, counts, next).await?;
    tx.commit().await?;
    Ok(Some(rows))
}

/// Keeps others from the erasure until the transaction ends; false if another process is at it. A separate statement:
/// what is read after it is what the previous one has committed.
async fn begin(db: &mut PgConnection, company: CompanyId) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"-- erasures.begin
        select pg_try_advisory_xact_lock(hashtextextended('xtwebhooks.erasure ' || $1::uuid, 0)) as "is_ours!""#,
        company.0,
    )
    .fetch_one(db)
    .await
}

async fn at(db: &mut PgConnection, company: CompanyId) -> sqlx::Result<Option<At>> {
    sqlx::query_as!(
        At,
        "-- erasures.at
        select stage, webhook_id as webhook, cursor
        from erasures
        where company_id = $1
          and done_at is null",
        company.0,
    )
    .fetch_optional(db)
    .await
}

/// Records what a chunk did and where the next begins. The last statement of a step: it locks the row.
async fn advance(db: &mut PgConnection, company: CompanyId, more: Counts, next: At) -> sqlx::Result<()> {
    let more = more.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
    sqlx::query!(
        "-- erasures.advance
        update erasures
        set deliveries = deliveries + $2, cancelled = cancelled + $3, events = events + $4,
            dead_letters = dead_letters + $5, records = records + $6, webhooks = webhooks + $7,
            stage = $8, webhook_id = $9, cursor = $10, done_at = case when $8 = 'done' then now() end
        where company_id = $1",
        company.0,
        more[0],
        more[1],
        more[2],
        more[3],
        more[4],
        more[5],
        next.stage,
        next.webhook,
        next.cursor,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Cancels what is owed and empties the history, webhook after webhook. Ids, times, states and numbers stay until the
/// retention removes them: they identify no one.
async fn deliveries(
    db: &mut PgConnection,
    company: CompanyId,
    at: At,
    rows_max: i64,
) -> sqlx::Result<(u64, Counts, At)> {
    let mut webhook = match at.webhook {
        Some(webhook) => Some(webhook),
        None => webhook_after(db, company, Uuid::nil()).await?,
    };
    let mut cursor = at.cursor.unwrap_or_default();
    let (mut rows, mut cancelled, mut left) = (0, 0, rows_max);
    for _ in 0..WEBHOOKS_MAX {
        let Some(id) = webhook else { break };
        let emptied = empty_deliveries(db, company, id, cursor, left).await?;
        let found = i64::try_from(emptied.len()).unwrap_or(i64::MAX);
        rows += emptied.len() as u64;
        cancelled += emptied.iter().filter(|(_, owed)| *owed).count() as u64;
        if found >= left {
            cursor = emptied.last().map_or(cursor, |(id, _)| *id);
            break;
        }
        left -= found;
        webhook = webhook_after(db, company, id).await?;
        cursor = Uuid::nil();
    }
    let next = match webhook {
        Some(_) => At { stage: at.stage, webhook, cursor: Some(cursor) },
        None => At::begin("events"),
    };
    Ok((rows, [rows, cancelled, 0, 0, 0, 0], next))
}

async fn webhook_after(db: &mut PgConnection, company: CompanyId, after: Uuid) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar!(
        "-- erasures.webhook_after
        select id
        from webhooks
        where company_id = $1
          and id > $2
        order by id
        limit 1",
        company.0,
        after,
    )
    .fetch_optional(db)
    .await
}

/// Empties the next deliveries of a webhook, each with whether it was owed until its webhook was deleted.
async fn empty_deliveries(
    db: &mut PgConnection,
    company: CompanyId,
    webhook: Uuid,
    after: Uuid,
    rows_max: i64,
) -> sqlx::Result<Vec<(Uuid, bool)>> {
    // By id, the order in which all statements lock deliveries.
    let found = sqlx::query!(
        r#"-- erasures.deliveries
        select id,
               -- Schedule and workers cancel what is owed to a deleted webhook, and are often faster.
               status in ('pending', 'held') or (status = 'cancelled' and coalesce(starts_with(reason, 'webhook deleted'), false))
                   as "owed!"
        from webhook_deliveries
        where company_id = $1
          and webhook_id = $2
          and id > $3
        order by id
        limit $4
        for update"#,
        company.0,
        webhook,
        after,
        rows_max,
    )
    .fetch_all(&mut *db)
    .await?;
    let ids: Vec<Uuid> = found.iter().map(|row| row.id).collect();
    let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { return Ok(Vec::new()) };
    sqlx::query!(
        "-- erasures.empty_deliveries
        update webhook_deliveries
        set status = case when status in ('pending', 'held') then 'cancelled' else status end,
            reason = case when status in ('pending', 'held')
                              or (status = 'cancelled' and coalesce(starts_with(reason, 'webhook deleted'), false)) then $4
                          else reason end,
            queued_at = null, claimed_until = null, event_type = $5, why = null, url = null, address = null,
            request_head = null, response_head = null, response_body = null
        where id = any($1)
          and id between $2 and $3",
        &ids,
        first,
        last,
        COMPANY_ERASED,
        ERASED,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "-- erasures.empty_attempts
        update webhook_delivery_attempts
        set why = null, url = null, address = null, request_head = null, response_head = null, response_body = null
        where delivery_id = any($1)
          and delivery_id between $2 and $3",
        &ids,
        first,
        last,
    )
    .execute(&mut *db)
    .await?;
    Ok(found.into_iter().map(|row| (row.id, row.owed)).collect())
}

/// Removes events; a later claim for one finds nothing to send.
pub async fn events(db: &mut PgConnection, company: CompanyId, rows_max: i64) -> sqlx::Result<u64> {
    let ids = sqlx::query_scalar!(
        "-- erasures.events
        select id
        from events
        where company_id = $1
        order by id
        limit $2",
        company.0,
        rows_max,
    )
    .fetch_all(&mut *db)
    .await?;
    let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else { return Ok(0) };
    let done = sqlx::query!(
        "-- erasures.delete_events
        delete from events
        where id = any($1)
          and id between $2 and $3",
        &ids,
        first,
        last,
    )
    .execute(&mut *db)
    .await?;
    Ok(done.rows_affected())
}

async fn dead_letters(db: &mut PgConnection, company: CompanyId, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- erasures.dead_letters
        delete from dead_letters
        where id in (select id from dead_letters where company_id = $1 limit $2)",
        company.0,
        rows_max,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Removes everything small that has a name or a text of the company, and the names in its audit log. Of that log the
/// actions and times stay, and who requested the erasure.
async fn records(db: &mut PgConnection, company: CompanyId, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query_scalar!(
        r#"-- erasures.records
        with intake as (
            delete from intake_keys
            where (company_id, message_id) in (select company_id, message_id from intake_keys where company_id = $1 limit $2)
            returning 1
        ), orders as (
            delete from replays
            where id in (select id from replays where company_id = $1 limit $2)
            returning 1
        ), transitions as (
            delete from lane_transitions
            where (webhook_id, at, kind) in (select webhook_id, at, kind from lane_transitions where company_id = $1 limit $2)
            returning 1
        ), versions as (
            delete from webhook_versions
            where (webhook_id, valid_from) in (select webhook_id, valid_from from webhook_versions where company_id = $1 limit $2)
            returning 1
        ), of_deliveries as (
            delete from delivery_stats
            where (company_id, webhook_id, event_type, minute, outcome, writer) in (
                select company_id, webhook_id, event_type, minute, outcome, writer
                from delivery_stats
                where company_id = $1
                limit $2)
            returning 1
        ), of_events as (
            delete from event_stats
            where (company_id, event_type, minute, writer) in (
                select company_id, event_type, minute, writer
                from event_stats
                where company_id = $1
                limit $2)
            returning 1
        ), idempotency as (
            delete from idempotency_keys
            where (company_id, key) in (select company_id, key from idempotency_keys where company_id = $1 limit $2)
            returning 1
        ), audit as (
            update audit_log
            set actor = $3, subject = $3, before = null, after = null, address = null
            where id in (select id
                         from audit_log
                         where company_id = $1
                           and actor <> $3
                           and action <> 'company.erase'
                         limit $2)
            returning 1
        )
        select (select count(*) from intake) + (select count(*) from orders) + (select count(*) from transitions)
             + (select count(*) from versions) + (select count(*) from of_deliveries)
             + (select count(*) from of_events) + (select count(*) from idempotency)
             + (select count(*) from audit) as "rows!""#,
        company.0,
        rows_max,
        ERASED,
    )
    .fetch_one(db)
    .await?;
    Ok(u64::try_from(done).unwrap_or(0))
}

async fn webhooks(db: &mut PgConnection, company: CompanyId, rows_max: i64) -> sqlx::Result<u64> {
    let done = sqlx::query_scalar!(
        r#"-- erasures.webhooks
        with gone as (
            delete from webhooks
            where id in (select id from webhooks where company_id = $1 order by id limit $2)
            returning id
        ), lane as (
            delete from lanes
            where webhook_id in (select id from gone)
        )
        select count(*) as "rows!" from gone"#,
        company.0,
        rows_max,
    )
    .fetch_one(db)
    .await?;
    Ok(u64::try_from(done).unwrap_or(0))
}
