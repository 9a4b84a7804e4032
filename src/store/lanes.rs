//! What the workers ask of the lanes: slots of a pace, and the one probe of an open breaker.
//!
//! Each is given once: a slot to one worker, a probe to one task until its lease ends. Times are the database's,
//! read after the row was locked, so that a worker that waited for another continues from where that one ended.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Uuid};

use crate::model::{
    WebhookId,
    lane::{OpenBreaker, SLOTS_AHEAD, Standing},
};

/// What a worker asks for of a lane's pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlotRequest {
    pub webhook: WebhookId,
    /// The distance of two slots.
    pub every: Duration,
    /// How many slots at most.
    pub slots: usize,
}

/// What it got.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reserved {
    pub webhook: WebhookId,
    /// The first slot; each other one is a whole interval later.
    pub first: DateTime<Utc>,
    /// How many; zero if the next is further ahead than [`SLOTS_AHEAD`].
    pub slots: u32,
    /// The next free slot.
    pub next_at: DateTime<Utc>,
}

/// Reserves slots, none sooner than `lead` from now and none later than [`SLOTS_AHEAD`]. A lane without a row gets no
/// answer.
///
/// Slots only move forward. The exception is a next slot that the present pace cannot have caused (it was slower, or
/// the clock was set back): it is moved closer; otherwise a webhook freed from a slow pace would still wait for it.
pub async fn reserve_slots(
    pool: &PgPool,
    requests: &[SlotRequest],
    lead: Duration,
) -> sqlx::Result<Vec<Reserved>> {
    let mut sorted = requests.to_vec();
    sorted.sort_unstable_by_key(|requests| requests.webhook);
    let webhooks: Vec<Uuid> = sorted.iter().map(|requests| requests.webhook.0).collect();
    let every: Vec<f64> = sorted.iter().map(|requests| requests.every.as_secs_f64()).collect();
    let slots: Vec<i32> = sorted.iter().map(|w| i32::try_from(w.slots).unwrap_or(i32::MAX)).collect();
    let rows = sqlx::query!(
        r#"-- lanes.reserve_slots
        with locked as materialized (
            select l.webhook_id, l.next_slot_at, w.every, w.slots
            from unnest($1::uuid[], $2::double precision[], $3::integer[]) as w (id, every, slots)
            join lanes l on l.webhook_id = w.id
            order by l.webhook_id
            for update of l
        ), timed as materialized (
            select webhook_id, next_slot_at, every, slots, clock_timestamp() as at
            from locked
        ), free as (
            select webhook_id, next_slot_at, every, slots, at,
                   greatest(least(coalesce(next_slot_at, at), at + make_interval(secs => $5 + every)),
                            at + make_interval(secs => $4)) as first
            from timed
        ), given as (
            select webhook_id, next_slot_at, every, first,
                   case when first > at + make_interval(secs => $5) then 0
                        else least(slots, 1 + floor(
                            (extract(epoch from at - first)::double precision + $5) / every))::integer
                   end as slots
            from free
        ), moved as (
            update lanes l
            set next_slot_at = g.first + make_interval(secs => g.every * g.slots)
            from given g
            where l.webhook_id = g.webhook_id and (g.slots > 0 or g.first < g.next_slot_at)
        )
        select webhook_id as "webhook!", first as "first!", slots as "slots!",
               first + make_interval(secs => every * slots) as "next_at!"
        from given"#,
        &webhooks,
        &every,
        &slots,
        lead.as_secs_f64(),
        SLOTS_AHEAD.as_secs_f64(),
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Reserved {
            webhook: WebhookId(row.webhook),
            first: row.first,
            slots: u32::try_from(row.slots).unwrap_or(0),
            next_at: row.next_at,
        })
        .collect())
}

/// Creates missing lanes: only a manual change of the table removes one.
pub async fn make(pool: &PgPool, webhooks: &[WebhookId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = webhooks.iter().map(|webhook| webhook.0).collect();
    sqlx::query!(
        "-- lanes.make
        insert into lanes (webhook_id, company_id)
        select id, company_id
        from webhooks
        where id = any($1)
        order by id
        on conflict do nothing",
        &ids,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The ledger's answer to a request for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeLeaseRequest {
    /// The caller has the lease, until then.
    Granted {
        /// The end of the lease, which also names it.
        until: DateTime<Utc>,
    },
    /// Another task has it, or it is not needed.
    Refused {
        /// The state of the lane.
        standing: Standing,
        /// The end of the current lease.
        leased_until: Option<DateTime<Utc>>,
    },
}

/// Leases the probe of an open breaker, if it is due and not leased.
pub async fn lease_probe(
    pool: &PgPool,
    webhook: WebhookId,
    lease: Duration,
) -> sqlx::Result<ProbeLeaseRequest> {
    let row = sqlx::query!(
        r#"-- lanes.lease_probe
        with leased as (
            update lanes
            set probe_leased_until = now() + make_interval(secs => $2)
            where webhook_id = $1
              and opened_at is not null
              and coalesce(next_probe_at, opened_at) <= now()
              and coalesce(probe_leased_until, '-infinity') < now()
              and coalesce(held_back_until, '-infinity') <= now()
            returning webhook_id, probe_leased_until
        )
        select leased.probe_leased_until as "granted_until?",
               l.opened_at, l.next_probe_at, l.held_back_until as rate_limited_until, l.probe_leased_until
        from lanes l
        left join leased on leased.webhook_id = l.webhook_id
        where l.webhook_id = $1"#,
        webhook.0,
        lease.as_secs_f64(),
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else {
        return Ok(ProbeLeaseRequest::Refused { standing: Standing::default(), leased_until: None });
    };
    if let Some(until) = row.granted_until {
        return Ok(ProbeLeaseRequest::Granted { until });
    }
    let open =
        row.opened_at.map(|since| OpenBreaker { since, next_probe_at: row.next_probe_at.unwrap_or(since) });
    let standing = Standing { open, rate_limited_until: row.rate_limited_until };
    Ok(ProbeLeaseRequest::Refused { standing, leased_until: row.probe_leased_until })
}

/// Returns the lease of a probe that was not sent. One that has ended meanwhile stays as it is.
pub async fn release_probe(pool: &PgPool, webhook: WebhookId, until: DateTime<Utc>) -> sqlx::Result<()> {
    sqlx::query!(
        "-- lanes.release_probe
        update lanes
        set probe_leased_until = null
        where webhook_id = $1 and probe_leased_until = $2",
        webhook.0,
        until,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Reports that lanes of this worker have no room. One that another process is just changing is reported the next time.
pub async fn report_full(pool: &PgPool, webhooks: &[WebhookId]) -> sqlx::Result<()> {
    let ids: Vec<Uuid> = webhooks.iter().map(|webhook| webhook.0).collect();
    sqlx::query!(
        "-- lanes.report_full
        with full_ones as materialized (
            select webhook_id
            from lanes
            where webhook_id = any($1)
              and coalesce(full_at, '-infinity') < now() - interval '200 milliseconds'
            order by webhook_id
            for update skip locked
        )
        update lanes l
        set full_at = now()
        from full_ones f
        where l.webhook_id = f.webhook_id",
        &ids,
    )
    .execute(pool)
    .await?;
    Ok(())
}
