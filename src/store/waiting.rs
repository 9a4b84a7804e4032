//! The webhooks for which something waits in the ledger, and what their lanes allow.
//!
//! Neither finding them nor checking one of them counts a backlog: each index lookup ends at its first row.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{PgPool, types::Uuid};

use crate::model::{CompanyId, WebhookId, lane};

/// Before everything in the ledger.
pub const BEGINNING: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// What may be done with the waiting deliveries of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookBacklog {
    /// Make jobs.
    Open,
    /// Hold everything.
    Paused,
    /// Cancel everything: it is inactive, deleted or unknown.
    Closed,
}

/// A webhook with waiting deliveries.
#[derive(Clone, Debug)]
pub struct WaitingDeliveries {
    pub webhook: WebhookId,
    /// Its company; nil where the webhook is unknown.
    pub company: CompanyId,
    /// What may be done.
    pub standing: WebhookBacklog,
    /// Whether a resume is releasing its held deliveries at a rate.
    pub resuming: bool,
    /// Whether something that waits is due.
    pub due: bool,
    /// Whether something that a replay or recovery made is due: these come last and do not count as backlog.
    pub again_due: bool,
    /// What its lane allows.
    pub lane: LaneSnapshot,
}

/// A lane as the ledger knows it, at an instant of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct LaneSnapshot {
    pub now: DateTime<Utc>,
    /// Its breaker, and until when it is rate-limited.
    pub standing: lane::Standing,
    /// A worker has leased the one probe until then.
    pub probe_leased_until: Option<DateTime<Utc>>,
    /// Requests a second, if they are limited.
    pub rate_limit: Option<f64>,
    /// The next slot that no worker has reserved.
    pub next_slot_at: Option<DateTime<Utc>>,
    /// When a worker last had no room for its jobs.
    pub full_at: Option<DateTime<Utc>>,
}

/// Which deliveries are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Pending, without a job.
    Waiting,
    Held,
}

/// The time before which nothing waits for a webhook; `None` if that is not known.
pub type Since = Option<DateTime<Utc>>;

/// The next webhooks after `after`, in the order of their ids, with waiting or held deliveries.
pub async fn webhooks(
    pool: &PgPool,
    which: Which,
    low: Uuid,
    after: Uuid,
    webhooks_max: i64,
) -> sqlx::Result<Vec<WebhookId>> {
    let ids = match which {
        // A loose index scan: one lookup for each webhook, however many deliveries it has.
        Which::Waiting => {
            sqlx::query_scalar!(
                r#"-- schedule.waiting_webhooks
                with recursive w as (
                    (select webhook_id
                     from webhook_deliveries
                     where status = 'pending' and queued_at is null and id >= $1 and webhook_id > $2
                     order by webhook_id, (case when replay_id is null then 0 else 1 end), due_at, id
                     limit 1)
                    union all
                    select (select d.webhook_id
                            from webhook_deliveries d
                            where d.status = 'pending' and d.queued_at is null and d.id >= $1
                              and d.webhook_id > w.webhook_id
                            order by d.webhook_id, (case when d.replay_id is null then 0 else 1 end), d.due_at, d.id
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
                r#"-- schedule.held_webhooks
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
    Ok(ids.into_iter().map(WebhookId).collect())
}

/// What came due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BecameDue {
    pub webhooks: Vec<WebhookId>,
    /// Up to when everything was looked at.
    pub upto: DateTime<Utc>,
    /// Whether that is now.
    pub is_all: bool,
}

/// The webhooks for which something came due from `from` on, along the index over all webhooks; `low` must not be before
/// [`due_index_from`]. Looks at `rows_max` deliveries, and at those that were due at the same instant as the last.
pub async fn became_due(
    pool: &PgPool,
    low: Uuid,
    from: DateTime<Utc>,
    rows_max: i64,
) -> sqlx::Result<BecameDue> {
    let row = sqlx::query!(
        r#"-- schedule.became_due
        with due as materialized (
            select webhook_id, due_at
            from webhook_deliveries
            where status = 'pending' and queued_at is null and id >= $1 and due_at > $2 and due_at <= now()
            order by due_at
            fetch first $3 rows with ties
        )
        select coalesce((select array_agg(distinct webhook_id) from due), '{}') as "webhooks!",
               (select count(*) from due) < $3 as "is_all!",
               coalesce((select max(due_at) from due), $2) as "last!",
               now() as "now!""#,
        low,
        from,
        rows_max,
    )
    .fetch_one(pool)
    .await?;
    Ok(BecameDue {
        webhooks: row.webhooks.into_iter().map(WebhookId).collect(),
        upto: if row.is_all { row.now } else { row.last },
        is_all: row.is_all,
    })
}

/// The first day from which on every day has the index that [`became_due`] needs: the days that were filled when it was
/// introduced do not have it.
pub async fn due_index_from(pool: &PgPool) -> sqlx::Result<NaiveDate> {
    let last_without = sqlx::query_scalar!(
        r#"-- schedule.due_index_from
        select max(right(c.relname, 8)) as "day"
        from pg_inherits p
        join pg_class c on c.oid = p.inhrelid
        where p.inhparent = 'webhook_deliveries'::regclass
          and not exists (select
                          from pg_inherits h
                          join pg_index i on i.indexrelid = h.inhrelid
                          where h.inhparent = 'webhook_deliveries_due_idx'::regclass and i.indrelid = p.inhrelid)"#
    )
    .fetch_one(pool)
    .await?;
    let last_without = last_without.and_then(|day| NaiveDate::parse_from_str(&day, "%Y%m%d").ok());
    Ok(last_without.and_then(|day| day.succ_opt()).unwrap_or(NaiveDate::MIN))
}

/// The state of webhooks, and whether something of theirs is due. What waits from before a webhook's `Since` is not
/// looked for: until the next vacuum the index is full of entries of deliveries that already have jobs, and scanning
/// them each time would make the cost of a round grow with their number.
pub async fn standing(
    pool: &PgPool,
    low: Uuid,
    webhooks: &[(WebhookId, Since)],
) -> sqlx::Result<Vec<WaitingDeliveries>> {
    if webhooks.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, sinces): (Vec<Uuid>, Vec<DateTime<Utc>>) =
        webhooks.iter().map(|(webhook, since)| (webhook.0, since.unwrap_or(BEGINNING))).unzip();
    let ids = &ids;
    let rows = sqlx::query!(
        r#"-- schedule.standing
        select i.id as "id!",
               w.company_id as "company_id?",
               now() as "now!",
               w.paused_at is not null as "paused!",
               coalesce(w.active and w.deleted_at is null, false) as "living!",
               w.rate_limit as "rate_limit?",
               l.opened_at as "opened_at?",
               l.next_probe_at as "next_probe_at?",
               l.probe_leased_until as "probe_leased_until?",
               l.held_back_until as "rate_limited_until?",
               l.next_slot_at as "next_slot_at?",
               l.full_at as "full_at?",
               coalesce((select d.due_at
                         from webhook_deliveries d
                         where d.webhook_id = i.id and (case when d.replay_id is null then 0 else 1 end) = 0
                           and d.status = 'pending' and d.queued_at is null and d.id >= $2 and d.due_at >= i.since
                         order by d.due_at, d.id
                         limit 1) <= now(), false) as "due!",
               coalesce((select d.due_at
                         from webhook_deliveries d
                         where d.webhook_id = i.id and (case when d.replay_id is null then 0 else 1 end) = 1
                           and d.status = 'pending' and d.queued_at is null and d.id >= $2
                         order by d.due_at, d.id
                         limit 1) <= now(), false) as "again_due!",
               exists (select from replays r
                       where r.webhook_id = i.id and r.kind = 'resume' and r.status <> 'done') as "resuming!"
        from unnest($1::uuid[], $3::timestamptz[]) as i (id, since)
        left join webhooks w on w.id = i.id
        left join lanes l on l.webhook_id = i.id"#,
        ids,
        low,
        &sinces,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| WaitingDeliveries {
            webhook: WebhookId(row.id),
            company: CompanyId(row.company_id.unwrap_or_default()),
            standing: match (row.living, row.paused) {
                (false, _) => WebhookBacklog::Closed,
                (true, true) => WebhookBacklog::Paused,
                (true, false) => WebhookBacklog::Open,
            },
            resuming: row.resuming,
            due: row.due,
            again_due: row.again_due,
            lane: LaneSnapshot {
                now: row.now,
                standing: lane::Standing {
                    open: row.opened_at.map(|since| lane::OpenBreaker {
                        since,
                        next_probe_at: row.next_probe_at.unwrap_or(since),
                    }),
                    rate_limited_until: row.rate_limited_until,
                },
                probe_leased_until: row.probe_leased_until,
                rate_limit: row.rate_limit,
                next_slot_at: row.next_slot_at,
                full_at: row.full_at,
            },
        })
        .collect())
}

/// Tells ingest whether webhooks have a backlog, so that new deliveries go behind what waits.
pub async fn flag(pool: &PgPool, webhooks: &[WebhookId], waiting: i64) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = webhooks.iter().map(|webhook| webhook.0).collect();
    sqlx::query!(
        "-- schedule.flag
        with flagged as (
            -- In the order of the key, as recorders lock them too.
            select webhook_id
            from lanes
            where webhook_id = any($1) and waiting <> $2
            order by webhook_id
            for update
        )
        update lanes l
        set waiting = $2
        from flagged f
        where l.webhook_id = f.webhook_id",
        &ids,
        waiting,
    )
    .execute(pool)
    .await?;
    Ok(())
}

pub async fn flagged(pool: &PgPool) -> sqlx::Result<Vec<WebhookId>> {
    let ids = sqlx::query_scalar!(
        "-- schedule.flagged
        select webhook_id
        from lanes
        where waiting > 0"
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(WebhookId).collect())
}
