//! The state of lanes for a person who asks: the webhook, what its lane remembers, and what waits for it.
//!
//! Nothing here counts a whole backlog: what waits and what has a job is counted up to a bound, along a partial index.
//! These statements join over whole days, so they run on their own pool, never on that of the batches.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::Result;
use crate::model::{CompanyId, WebhookId, operational::TransitionKind};

/// The most waiting deliveries that are counted for one webhook.
pub const WAITING_COUNTED_MAX: i64 = 10_000;
/// The most deliveries with a job that are counted, over all webhooks: about what the broker's queues hold.
pub const JOBS_COUNTED_MAX: i64 = 100_000;

/// Which lanes are wanted. What is absent does not filter.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneReportQuery {
    pub company: Option<CompanyId>,
    pub webhook: Option<WebhookId>,
    /// Only those that are not healthy: open, rate-limited, failing or paused.
    pub failing: bool,
    /// After this webhook, in the order of their ids.
    pub after: Option<WebhookId>,
}

/// A lane with its webhook.
#[derive(Clone, Debug)]
pub struct LaneReport {
    /// The database's time of this answer.
    pub as_of: DateTime<Utc>,
    pub webhook_id: WebhookId,
    pub company_id: CompanyId,
    /// The webhook's name.
    pub name: String,
    /// Whether it is matched at all.
    pub active: bool,
    pub paused_at: Option<DateTime<Utc>>,
    pub pause_reason: Option<String>,
    /// Requests a second over all workers.
    pub rate_limit: Option<f64>,
    /// Requests at once in each worker.
    pub max_in_flight: Option<i32>,
    /// The first free slot.
    pub next_slot_at: Option<DateTime<Utc>>,
    pub rate_limited_until: Option<DateTime<Utc>>,
    /// Its breaker is open since then.
    pub opened_at: Option<DateTime<Utc>>,
    pub open_reason: Option<String>,
    pub next_probe_at: Option<DateTime<Utc>>,
    /// Probes that failed since the opening.
    pub probes: i32,
    pub probe_leased_until: Option<DateTime<Utc>>,
    /// Failures in a row that count towards opening.
    pub failures: i32,
    /// The first failure of any kind since the last success.
    pub failing_since: Option<DateTime<Utc>>,
    pub last_success_at: Option<DateTime<Utc>>,
    /// Deliveries that have a job.
    pub queued: i64,
    /// Those of them that a worker has claimed. A fresh job claims nothing, so its request is not among them.
    pub claimed: i64,
    /// Whether there were more jobs than were counted, so that the two figures may be too small.
    pub jobs_are_more: bool,
    /// Deliveries that wait in the ledger, up to [`WAITING_COUNTED_MAX`] and one.
    pub waiting: i64,
    /// The earliest due time among them.
    pub oldest_due_at: Option<DateTime<Utc>>,
}

/// Lanes of webhooks that are not deleted in the order of their ids, at most `limit`.
pub async fn list(pool: &PgPool, query: &LaneReportQuery, limit: i64) -> Result<Vec<LaneReport>> {
    let lanes = sqlx::query_as!(
        LaneReport,
        r#"-- lane_report.list
        with selected as (
            select w.id, w.company_id, w.name, w.active, w.paused_at, w.pause_reason, w.rate_limit, w.max_in_flight,
                   l.next_slot_at, l.held_back_until as rate_limited_until, l.opened_at, l.open_reason, l.next_probe_at,
                   coalesce(l.probes, 0) as probes, l.probe_leased_until, coalesce(l.failures, 0) as failures,
                   l.failing_since, l.last_success_at
            from webhooks w
            left join lanes l on l.webhook_id = w.id
            where w.deleted_at is null
              and ($1::uuid is null or w.company_id = $1)
              and ($2::uuid is null or w.id = $2)
              and (not $3
                   or l.opened_at is not null
                   or l.held_back_until > now()
                   or l.failing_since is not null
                   or l.failures > 0
                   or w.paused_at is not null)
              and ($4::uuid is null or w.id > $4)
            order by w.id
            limit $5
        ), looked_at as (
            select webhook_id, claimed_until
            from webhook_deliveries
            where status = 'pending' and queued_at is not null
            limit $6::bigint + 1
        ), jobs as (
            select webhook_id, count(*) as queued, count(*) filter (where claimed_until > now()) as claimed
            from looked_at
            group by webhook_id
        )
        select x.id as webhook_id, x.company_id, x.name, x.active, x.paused_at, x.pause_reason, x.rate_limit, x.max_in_flight,
               x.next_slot_at as "next_slot_at?", x.rate_limited_until as "rate_limited_until?",
               x.opened_at as "opened_at?", x.open_reason as "open_reason?", x.next_probe_at as "next_probe_at?",
               x.probes as "probes!", x.probe_leased_until as "probe_leased_until?", x.failures as "failures!",
               x.failing_since as "failing_since?", x.last_success_at as "last_success_at?",
               now() as "as_of!",
               coalesce(j.queued, 0) as "queued!",
               coalesce(j.claimed, 0) as "claimed!",
               (select count(*) > $6::bigint from looked_at) as "jobs_are_more!",
               (select count(*)
                from (select
                      from webhook_deliveries d
                      where d.webhook_id = x.id and d.status = 'pending' and d.queued_at is null
                      limit $7::bigint + 1) counted) as "waiting!",
               least((select d.due_at
                      from webhook_deliveries d
                      where d.webhook_id = x.id and (case when d.replay_id is null then 0 else 1 end) = 0
                        and d.status = 'pending' and d.queued_at is null
                      order by d.due_at
                      limit 1),
                     (select d.due_at
                      from webhook_deliveries d
                      where d.webhook_id = x.id and (case when d.replay_id is null then 0 else 1 end) = 1
                        and d.status = 'pending' and d.queued_at is null
                      order by d.due_at
                      limit 1)) as "oldest_due_at?"
        from selected x
        left join jobs j on j.webhook_id = x.id
        order by x.id"#,
        query.company.map(CompanyId::uuid),
        query.webhook.map(WebhookId::uuid),
        query.failing,
        query.after.map(WebhookId::uuid),
        limit,
        JOBS_COUNTED_MAX,
        WAITING_COUNTED_MAX,
    );
    Ok(lanes.fetch_all(pool).await?)
}

/// An announced change of a lane or its webhook.
#[derive(Clone, Debug)]
pub struct LaneTransition {
    pub at: DateTime<Utc>,
    pub kind: TransitionKind,
    /// In words.
    pub reason: Option<String>,
    /// Of a closing: the opening.
    pub opened_at: Option<DateTime<Utc>>,
    /// Of an opening and a closing: the first failure.
    pub failing_since: Option<DateTime<Utc>>,
    pub announced_at: Option<DateTime<Utc>>,
}

/// Whether there is or was such a webhook, in this company if one is named.
pub async fn is_known(pool: &PgPool, company: Option<CompanyId>, webhook: WebhookId) -> Result<bool> {
    let known = sqlx::query_scalar!(
        r#"-- lane_report.is_known
        select exists (select
                       from webhooks
                       where id = $1
                         and ($2::uuid is null or company_id = $2)) as "known!""#,
        webhook.uuid(),
        company.map(CompanyId::uuid),
    );
    Ok(known.fetch_one(pool).await?)
}

/// The latest transitions of a webhook, newest first; of a deleted one as well.
pub async fn history(
    pool: &PgPool,
    company: Option<CompanyId>,
    webhook: WebhookId,
    limit: i64,
) -> Result<Vec<LaneTransition>> {
    let rows = sqlx::query_as!(
        LaneTransition,
        r#"-- lane_report.history
        select at, kind as "kind: TransitionKind", reason, opened_at, failing_since, announced_at
        from lane_transitions
        where webhook_id = $1
          and ($2::uuid is null or company_id = $2)
        order by at desc, kind
        limit $3"#,
        webhook.uuid(),
        company.map(CompanyId::uuid),
        limit,
    );
    Ok(rows.fetch_all(pool).await?)
}
