//! What a replay will send again, found part by part.

use sqlx::{PgPool, types::Uuid};

use super::replays::{Open, ReplayFilter};
use crate::model::{DeliveryId, DeliveryStatus, EventId, WebhookId, id::first_at, replay::ReplayKind};

/// Rows of the history that one step reads.
pub const LOOKED_AT_MAX: i64 = 20_000;

/// A delivery to be sent again.
#[derive(Clone, Debug)]
pub struct Source {
    pub delivery: DeliveryId,
    /// What it carries.
    pub event: EventId,
    /// Where it goes.
    pub webhook: WebhookId,
    pub event_type: String,
    /// Whether its webhook still accepts deliveries.
    pub living: bool,
}

/// The next part of what a replay is to send again.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// In the order of their ids; may be empty although there are more after.
    pub sources: Vec<Source>,
    /// Searched up to this id.
    pub upto: Uuid,
    /// Whether there is nothing after.
    pub finished: bool,
}

impl Chunk {
    /// From the sources found, up to `rows_max`; fewer than that are the last.
    fn of(sources: Vec<Source>, replay: &Open, rows_max: i64) -> Self {
        let upto = sources.last().map_or(replay.cursor, |source| source.delivery.0);
        let finished = i64::try_from(sources.len()).is_ok_and(|n| n < rows_max);
        Self { sources, upto, finished }
    }
}

/// At most `rows_max` sources of a replay after its cursor. What is named is found wherever it is; what is dead is
/// found by its dead letter, which outlives it; everything else in the history. What was made after the replay's start
/// is excluded; otherwise a replay would replay its own deliveries.
pub async fn next_chunk(pool: &PgPool, replay: &Open, rows_max: i64) -> sqlx::Result<Chunk> {
    if !replay.filter.deliveries.is_empty() {
        return Ok(Chunk::of(named(pool, replay, rows_max).await?, replay, rows_max));
    }
    if replay.kind == ReplayKind::Recovery {
        return Ok(Chunk::of(of_outage(pool, replay, rows_max).await?, replay, rows_max));
    }
    match replay.filter.status.unwrap_or(DeliveryStatus::Dead) {
        DeliveryStatus::Dead => Ok(Chunk::of(dead(pool, replay, rows_max).await?, replay, rows_max)),
        status => by_status(pool, replay, status, rows_max).await,
    }
}

async fn named(pool: &PgPool, replay: &Open, rows_max: i64) -> sqlx::Result<Vec<Source>> {
    sqlx::query_as!(
        SourceRow,
        r#"-- replays.sources_named
        select n.id as "id!", coalesce(d.event_id, l.event_id) as "event_id!",
               coalesce(d.webhook_id, l.webhook_id) as "webhook_id!",
               coalesce(d.event_type, l.event_type, '') as "event_type!",
               coalesce(w.active and w.deleted_at is null, false) as "living!"
        from unnest($1::uuid[]) as n (id)
        left join webhook_deliveries d on d.id = n.id and d.company_id = $2
        left join dead_letters l on l.id = n.id and l.company_id = $2 and l.kind = 'delivery'
        left join webhooks w on w.id = coalesce(d.webhook_id, l.webhook_id) and w.company_id = $2
        where coalesce(d.event_type, l.event_type) is not null
              and n.id > $3 and coalesce(d.event_id, l.event_id) is not null
          and coalesce(d.webhook_id, l.webhook_id) is not null
          -- A test is repeated by a new test.
          and d.trigger is distinct from 'test'
        order by n.id
        limit $4"#,
        &replay.filter.deliveries,
        replay.company.0,
        replay.cursor,
        rows_max,
    )
    .fetch_all(pool)
    .await
    .map(read)
}

async fn dead(pool: &PgPool, replay: &Open, rows_max: i64) -> sqlx::Result<Vec<Source>> {
    sqlx::query_as!(
        SourceRow,
        r#"-- replays.sources_dead
        select l.id as "id!", l.event_id as "event_id!", l.webhook_id as "webhook_id!",
               coalesce(l.event_type, '') as "event_type!",
               coalesce(w.active and w.deleted_at is null, false) as "living!"
        from dead_letters l
        left join webhooks w on w.id = l.webhook_id and w.company_id = $1
        where l.company_id = $1 and l.kind = 'delivery' and l.status = 'open' and l.id > $2
          and l.event_id is not null and l.webhook_id is not null
          and ($3::uuid is null or l.webhook_id = $3)
          and ($4::text is null or l.event_type = $4)
          and l.id >= $5 and l.id < $6 and l.created_at <= $7
        order by l.id
        limit $8"#,
        replay.company.0,
        replay.cursor,
        webhook(replay),
        replay.filter.event_type,
        low(&replay.filter),
        high(&replay.filter),
        replay.started_at,
        rows_max,
    )
    .fetch_all(pool)
    .await
    .map(read)
}

/// The open dead letters that a webhook has of an outage, those of the oldest events first.
async fn of_outage(pool: &PgPool, replay: &Open, rows_max: i64) -> sqlx::Result<Vec<Source>> {
    sqlx::query_as!(
        SourceRow,
        r#"-- replays.sources_of_outage
        select l.id as "id!", l.event_id as "event_id!", l.webhook_id as "webhook_id!",
               coalesce(l.event_type, '') as "event_type!",
               coalesce(w.active and w.deleted_at is null, false) as "living!"
        from dead_letters l
        left join webhooks w on w.id = l.webhook_id and w.company_id = $1
        where l.webhook_id = $2 and l.kind = 'delivery' and l.status = 'open' and l.id > $3
          and l.company_id = $1 and l.event_id is not null
          and l.created_at >= coalesce($4, '-infinity'::timestamptz)
          and l.created_at <= coalesce($5, 'infinity'::timestamptz)
          and not exists (select from webhook_deliveries d where d.id = l.id and d.trigger = 'recovery')
        order by l.id
        limit $6"#,
        replay.company.0,
        webhook(replay),
        replay.cursor,
        replay.filter.dead_since,
        replay.filter.dead_until,
        rows_max,
    )
    .fetch_all(pool)
    .await
    .map(read)
}

/// Reads at most [`LOOKED_AT_MAX`] rows of the history: matches may be few and far between, and schedule has other
/// work.
async fn by_status(
    pool: &PgPool,
    replay: &Open,
    status: DeliveryStatus,
    rows_max: i64,
) -> sqlx::Result<Chunk> {
    let (from, high) = (replay.cursor.max(low(&replay.filter)), high(&replay.filter));
    let behind = sqlx::query_scalar!(
        "-- replays.end_of_look
        select id
        from webhook_deliveries
        where id > $1 and id < $2
        order by id
        offset $3
        limit 1",
        from,
        high,
        LOOKED_AT_MAX,
    )
    .fetch_optional(pool)
    .await?;
    let sources = sqlx::query_as!(
        SourceRow,
        r#"-- replays.sources_by_status
        select d.id as "id!", d.event_id as "event_id!", d.webhook_id as "webhook_id!",
               d.event_type as "event_type!", coalesce(w.active and w.deleted_at is null, false) as "living!"
        from webhook_deliveries d
        left join webhooks w on w.id = d.webhook_id and w.company_id = $1
        where d.company_id = $1 and d.id > $2 and d.id < $3 and d.status = $4
          and ($5::uuid is null or d.webhook_id = $5)
          and ($6::text is null or d.event_type = $6)
          and d.created_at <= $7
          and d.trigger <> 'test'
        order by d.id
        limit $8"#,
        replay.company.0,
        from,
        behind.unwrap_or(high),
        status.as_str(),
        webhook(replay),
        replay.filter.event_type,
        replay.started_at,
        rows_max,
    )
    .fetch_all(pool)
    .await
    .map(read)?;
    let chunk = Chunk::of(sources, replay, rows_max);
    Ok(match behind {
        Some(behind) if chunk.finished => Chunk { upto: before(behind), finished: false, ..chunk },
        _ => chunk,
    })
}

fn webhook(replay: &Open) -> Option<Uuid> {
    replay.filter.webhook_id.or(replay.webhook.map(WebhookId::uuid))
}

fn before(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128().saturating_sub(1))
}

struct SourceRow {
    id: Uuid,
    event_id: Uuid,
    webhook_id: Uuid,
    event_type: String,
    living: bool,
}

fn read(rows: Vec<SourceRow>) -> Vec<Source> {
    let source = |row: SourceRow| Source {
        delivery: DeliveryId(row.id),
        event: EventId(row.event_id),
        webhook: WebhookId(row.webhook_id),
        event_type: row.event_type,
        living: row.living,
    };
    rows.into_iter().map(source).collect()
}

/// Ids begin with their time, so a filter by time is one by id, and prunes days.
fn low(filter: &ReplayFilter) -> Uuid {
    filter.since.map_or(Uuid::nil(), first_at)
}

/// If the filter has no end, the ids have none: an event's own time may be after the replay's start.
fn high(filter: &ReplayFilter) -> Uuid {
    filter.until.map_or(Uuid::max(), first_at)
}
