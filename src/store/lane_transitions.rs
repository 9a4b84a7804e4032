//! What happened to lanes and must be announced, and what follows from it: announcements, recoveries, automatic pauses.
//!
//! A transition is a row, written by whatever caused it, and read here until it is announced. Reading it
//! again after a crash announces the same again, under the same ids.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgPool, types::Uuid};

use super::replays::ReplayFilter;
use crate::model::{
    CompanyId, DeliveryId, EventId, ReplayId, WebhookId,
    event::RESERVED_PREFIXES,
    operational::{DeadLettered, WebhookStatus},
};

/// The newest deliveries of a failing webhook among which a late attempt is looked for.
const LOOKED_AT_MAX: i64 = 100;

/// A transition that is not announced yet.
#[derive(Clone, Debug)]
pub struct Unannounced {
    pub changed: WebhookStatus,
    /// Caused by an operational event: it is not announced.
    pub silent: bool,
    /// How many of its kind came before it in its hour.
    pub earlier: i64,
    /// Whether the end of an outage orders a recovery.
    pub auto_recover: bool,
    /// The pace of the webhook, if it has one.
    pub rate_limit: Option<f64>,
}

/// The oldest transitions that are not announced.
pub async fn unannounced(pool: &PgPool, rows_max: i64) -> sqlx::Result<Vec<Unannounced>> {
    let rows = sqlx::query!(
        r#"-- lane_transitions.unannounced
        select t.webhook_id as "webhook_id!", t.at as "at!", t.kind as "kind!", t.company_id as "company_id!",
               t.reason, t.opened_at, t.failing_since, t.silent as "silent!",
               w.name as "name?", w.rate_limit as "rate_limit?",
               coalesce(w.auto_recover and w.active and w.deleted_at is null, false) as "auto_recover!",
               case when w.paused_at = t.at then w.paused_by end as paused_by,
               (select count(*)
                from lane_transitions e
                where e.webhook_id = t.webhook_id
                  and e.kind = t.kind
                  and not e.silent
                  and e.at >= date_trunc('hour', t.at)
                  and e.at < t.at) as "earlier!"
        from (select *
              from lane_transitions
              where announced_at is null
              order by at, webhook_id
              limit $1) t
        left join webhooks w on w.id = t.webhook_id
        order by t.at, t.webhook_id"#,
        rows_max,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Unannounced {
                changed: WebhookStatus {
                    // One that a later release added is left to it.
                    transition: row.kind.parse().ok()?,
                    at: row.at,
                    company: CompanyId(row.company_id),
                    webhook: WebhookId(row.webhook_id),
                    name: row.name,
                    reason: row.reason,
                    by: row.paused_by,
                    opened_at: row.opened_at,
                    failing_since: row.failing_since,
                },
                silent: row.silent,
                earlier: row.earlier,
                auto_recover: row.auto_recover,
                rate_limit: row.rate_limit,
            })
        })
        .collect())
}

/// Records that transitions are announced, or need not be.
pub async fn announced(pool: &PgPool, transitions: &[&WebhookStatus]) -> sqlx::Result<()> {
    let webhooks: Vec<Uuid> = transitions.iter().map(|t| t.webhook.0).collect();
    let instants: Vec<DateTime<Utc>> = transitions.iter().map(|t| t.at).collect();
    let kinds: Vec<&str> = transitions.iter().map(|t| t.transition.as_str()).collect();
    sqlx::query!(
        "-- lane_transitions.announced
        update lane_transitions t
        set announced_at = now()
        from unnest($1::uuid[], $2::timestamptz[], $3::text[]) as a (webhook_id, at, kind)
        where t.webhook_id = a.webhook_id and t.at = a.at and t.kind = a.kind and t.announced_at is null",
        &webhooks,
        &instants,
        &kinds as _,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The longest time that a statement may take.
const STATEMENT_MAX: TimeDelta = TimeDelta::seconds(30);

/// Starts the recovery after an outage: of the dead letters that its webhook has from it. What a recovery has sent
/// again in vain is left to people; otherwise a receiver that refuses some events forever would loop forever. Says
/// whether there were any and the order is new.
pub async fn recover(pool: &PgPool, closed: &WebhookStatus, rate: i32) -> sqlx::Result<bool> {
    let opened_at = closed.opened_at.unwrap_or(closed.at);
    let filter = ReplayFilter {
        webhook_id: Some(closed.webhook.0),
        // A dead letter has the time its statement began; the lane has the time it was locked, somewhat later.
        dead_since: Some(closed.failing_since.unwrap_or(opened_at) - STATEMENT_MAX),
        dead_until: Some(closed.at),
        ..ReplayFilter::default()
    };
    let done = sqlx::query!(
        "-- lane_transitions.recover
        insert into replays (id, company_id, kind, webhook_id, filter, rate, requested_by)
        select $1, $2, 'recovery', $3, $4::text::json, $5, 'xtwebhooks'
        where exists (select
                      from dead_letters l
                      where l.webhook_id = $3 and l.kind = 'delivery' and l.status = 'open'
                        and l.created_at >= $6 and l.created_at <= $7
                        and not exists (select
                                        from webhook_deliveries d
                                        where d.id = l.id and d.trigger = 'recovery'))
        on conflict (id) do nothing",
        ReplayId::of_recovery(closed.webhook, opened_at).0,
        closed.company.0,
        closed.webhook.0,
        serde_json::to_string(&filter).unwrap_or_default(),
        rate,
        filter.dead_since,
        filter.dead_until,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// A delivery given up that is not announced yet.
#[derive(Clone, Debug)]
pub struct UnannouncedDeadLetter {
    pub dead: DeadLettered,
    /// It carried an operational event: it is not announced.
    pub silent: bool,
    /// How many came before it in its hour, as far as `announced_max`.
    pub earlier: i64,
}

/// The oldest deliveries given up that are not announced.
pub async fn unannounced_dead_letters(
    pool: &PgPool,
    announced_max: i64,
    rows_max: i64,
) -> sqlx::Result<Vec<UnannouncedDeadLetter>> {
    let rows = sqlx::query!(
        r#"-- dead_letters.unannounced
        select l.id as "id!", l.created_at as "created_at!", l.company_id, l.webhook_id, w.name as "name?", l.event_id,
               l.event_type, l.reason as "reason!", l.attempts as "attempts!", l.outcome, l.response_status,
               coalesce(l.event_type ^@ any($1::text[]), false) as "reserved!",
               (select count(*)
                from (select
                      from dead_letters e
                      where e.webhook_id = l.webhook_id
                        and e.created_at >= date_trunc('hour', l.created_at)
                        and (e.created_at, e.id) < (l.created_at, l.id)
                        and not coalesce(e.event_type ^@ any($1::text[]), false)
                      limit $2) e) as "earlier!"
        from (select *
              from dead_letters
              where kind = 'delivery' and not announced
              order by created_at, id
              limit $3) l
        left join webhooks w on w.id = l.webhook_id
        order by l.created_at, l.id"#,
        &RESERVED_PREFIXES as _,
        announced_max,
        rows_max,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| UnannouncedDeadLetter {
            // Without a company there is nobody to notify; only a manual change of the table makes such a row.
            silent: row.reserved || row.company_id.is_none() || row.webhook_id.is_none(),
            earlier: row.earlier,
            dead: DeadLettered {
                delivery: DeliveryId(row.id),
                at: row.created_at,
                company: CompanyId(row.company_id.unwrap_or_default()),
                webhook: WebhookId(row.webhook_id.unwrap_or_default()),
                name: row.name,
                event: row.event_id.map(EventId),
                event_type: row.event_type,
                reason: row.reason,
                attempts: row.attempts,
                outcome: row.outcome,
                response_status: row.response_status,
            },
        })
        .collect())
}

/// Records that deliveries given up are announced, or need not be.
pub async fn dead_letters_announced(pool: &PgPool, deliveries: &[DeliveryId]) -> sqlx::Result<()> {
    let mut ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    ids.sort_unstable();
    sqlx::query!(
        "-- dead_letters.announced
        update dead_letters l
        set announced = true
        from (select id from dead_letters where id = any($1) and not announced order by id for update) t
        where l.id = t.id",
        &ids,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Pauses webhooks that have failed for `after` without one success, with more than one event, and were tried since:
/// one that had nothing to send for days may work again. A pause, or a time when it was inactive, restarts the clock.
/// Returns those that it paused.
pub async fn pause_failing(pool: &PgPool, after: Duration, rows_max: i64) -> sqlx::Result<Vec<WebhookId>> {
    let paused = sqlx::query_scalar!(
        r#"-- webhooks.pause_failing
        with old as materialized (
            -- First of all, so that webhooks are looked up for these few only.
            select webhook_id, failing_since, last_success_at, opened_at, probes, next_probe_at
            from lanes
            where failing_since < now() - make_interval(secs => $1) and failing_many
            order by failing_since
        ), failing as (
            select l.webhook_id, l.failing_since
            from old l
            join webhooks w on w.id = l.webhook_id and w.paused_at is null and w.active and w.deleted_at is null
            where (l.last_success_at is null or l.last_success_at < l.failing_since)
              and not exists (select
                              from webhook_versions v
                              where v.webhook_id = l.webhook_id
                                and (v.paused or not v.active)
                                and v.valid_to >= now() - make_interval(secs => $1))
              -- A failed probe sets the time of the next.
              and (coalesce(l.opened_at is not null and l.probes > 0
                            and l.next_probe_at >= l.failing_since + make_interval(secs => $1), false)
                   or exists (select
                              from (select d.attempted_at
                                    from webhook_deliveries d
                                    where d.webhook_id = l.webhook_id
                                    order by d.id desc
                                    limit $3) d
                              where d.attempted_at >= l.failing_since + make_interval(secs => $1)))
            order by l.failing_since
            limit $2
        ), locked as (
            select w.id, f.failing_since
            from webhooks w
            join failing f on f.webhook_id = w.id
            order by w.id
            for update of w
        )
        update webhooks w
        set paused_at = now(),
            paused_by = 'xtwebhooks',
            pause_reason = 'no attempt has succeeded since '
                || to_char(l.failing_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')
                || '; resume it when the receiver is mended',
            updated_at = now()
        from locked l
        where w.id = l.id and w.paused_at is null and w.active and w.deleted_at is null
        returning w.id"#,
        after.as_secs_f64(),
        rows_max,
        LOOKED_AT_MAX,
    )
    .fetch_all(pool)
    .await?;
    Ok(paused.into_iter().map(WebhookId).collect())
}
