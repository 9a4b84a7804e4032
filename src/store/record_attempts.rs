//! Writes finished attempts and what follows from them, in one statement that commits itself.
//!
//! The statement moves the attempt before to its own table, puts the new one in its place, sets the next due time
//! or the final state, writes the dead letter of what is given up, and pauses webhooks that are gone. A row that
//! is no longer where the attempt found it changes nothing: a late duplicate is counted, not recorded twice.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Uuid};

use crate::model::{DeliveryId, WebhookId};

/// What becomes of the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// Accepted.
    Delivered,
    /// The next attempt follows after the wait; `queued` when a retry queue holds it, else the ledger does.
    Retried {
        /// The time until the next attempt.
        wait: Duration,
        /// Whether a retry queue waits it out.
        queued: bool,
    },
    /// The webhook is gone: it is paused for that reason, and the delivery held.
    Held {
        /// Why the webhook is paused.
        why: String,
    },
    /// Given up.
    Dead {
        /// The reason that stands in the dead letter.
        reason: &'static str,
    },
}

/// A finished attempt as its row will show it.
#[derive(Clone, Debug)]
pub struct Row {
    /// The delivery.
    pub delivery: DeliveryId,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// Where it went.
    pub webhook: WebhookId,
    /// What becomes of the delivery.
    pub becomes: Becomes,
    /// When the request began.
    pub attempted_at: DateTime<Utc>,
    /// The outcome's word.
    pub outcome: &'static str,
    /// The outcome in a sentence.
    pub why: Option<String>,
    /// The URL requested.
    pub url: Option<String>,
    /// The address connected to.
    pub address: Option<String>,
    /// The headers as sent, a line each.
    pub request_head: Option<String>,
    /// The answer's status.
    pub response_status: Option<i32>,
    /// The answer's headers, a line each.
    pub response_head: Option<String>,
    /// The answer's body, as far as it is kept.
    pub response_body: Option<String>,
    /// Whether there was more of it.
    pub response_truncated: Option<bool>,
    /// Whether a reset on a reused connection was repeated.
    pub repeated: bool,
    /// Phases in microseconds: DNS, connect, TLS, first byte, all.
    pub phases_us: [Option<i32>; 5],
}

impl Row {
    /// The same row without any text that came from outside, for an answer that the ledger refuses to hold.
    #[must_use]
    pub fn without_texts(mut self) -> Self {
        self.why = None;
        self.url = None;
        self.address = None;
        self.request_head = None;
        self.response_head = None;
        self.response_body = None;
        if let Becomes::Held { why } = &mut self.becomes {
            "the receiver answered 410".clone_into(why);
        }
        self
    }
}

/// What a batch changed: the deliveries it found as expected, with when their next job is due if the ledger holds
/// them ready for one. What is missing was not found so.
pub type Recorded = HashMap<DeliveryId, After>;

/// How a delivery stands after its attempt was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// Whether a retry may be published: still pending, with `queued_at` set to this instant.
    pub queued_at: Option<DateTime<Utc>>,
}

/// Records a batch.
#[expect(clippy::too_many_lines, reason = "one statement, one array for each of its columns")]
pub async fn record_attempts(pool: &PgPool, rows: &[Row]) -> sqlx::Result<Recorded> {
    let mut sorted: Vec<&Row> = rows.iter().collect();
    // Two recorders that lock the same rows in different orders would dead-lock.
    sorted.sort_unstable_by_key(|row| (row.delivery, row.number, row.becomes != Becomes::Delivered));
    // The same attempt twice, after a lost connection: it counts once, and what was accepted stays so.
    sorted.dedup_by_key(|row| (row.delivery, row.number));
    let rows = sorted;
    let ids: Vec<Uuid> = rows.iter().map(|r| r.delivery.0).collect();
    let numbers: Vec<i32> = rows.iter().map(|r| i32::try_from(r.number).unwrap_or(i32::MAX)).collect();
    let mut statuses = Vec::with_capacity(rows.len());
    let mut reasons = Vec::with_capacity(rows.len());
    let mut waits = Vec::with_capacity(rows.len());
    let mut queued = Vec::with_capacity(rows.len());
    let (mut gone, mut gone_why) = (Vec::new(), Vec::new());
    for row in &rows {
        let (status, reason, wait, in_queue) = match &row.becomes {
            Becomes::Delivered => ("delivered", None, Duration::ZERO, false),
            Becomes::Retried { wait, queued } => ("pending", None, *wait, *queued),
            Becomes::Held { why } => {
                gone.push(row.webhook.0);
                gone_why.push(why.as_str());
                ("held", Some("paused"), Duration::ZERO, false)
            }
            Becomes::Dead { reason } => ("dead", Some(*reason), Duration::ZERO, false),
        };
        statuses.push(status);
        reasons.push(reason);
        waits.push(wait.as_secs_f64());
        queued.push(in_queue);
    }
    let attempted: Vec<DateTime<Utc>> = rows.iter().map(|r| r.attempted_at).collect();
    let outcomes: Vec<&str> = rows.iter().map(|r| r.outcome).collect();
    let text = |f: fn(&Row) -> Option<&str>| rows.iter().map(|r| f(r)).collect::<Vec<Option<&str>>>();
    let whys = text(|r| r.why.as_deref());
    let urls = text(|r| r.url.as_deref());
    let addresses = text(|r| r.address.as_deref());
    let request_heads = text(|r| r.request_head.as_deref());
    let response_heads = text(|r| r.response_head.as_deref());
    let response_bodies = text(|r| r.response_body.as_deref());
    let response_statuses: Vec<Option<i32>> = rows.iter().map(|r| r.response_status).collect();
    let truncated: Vec<Option<bool>> = rows.iter().map(|r| r.response_truncated).collect();
    let repeated: Vec<bool> = rows.iter().map(|r| r.repeated).collect();
    let phase = |i: usize| rows.iter().map(|r| r.phases_us[i]).collect::<Vec<Option<i32>>>();
    let (dns, connect, tls, first_byte, total) = (phase(0), phase(1), phase(2), phase(3), phase(4));
    let recorded = sqlx::query!(
        r#"-- deliveries.record_attempts
        with made as (
            select *
            from unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::double precision[], $6::boolean[],
                        $7::timestamptz[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
                        $13::integer[], $14::text[], $15::text[], $16::boolean[], $17::boolean[],
                        $18::integer[], $19::integer[], $20::integer[], $21::integer[], $22::integer[])
                as m (id, number, status, reason, wait, queued, attempted_at, outcome, why, url, address,
                      request_head, response_status, response_head, response_body, response_truncated, repeated,
                      dns_us, connect_us, tls_us, first_byte_us, total_us)
        ), moved as (
            insert into webhook_delivery_attempts
                (delivery_id, number, attempted_at, outcome, why, url, address, request_head, response_status,
                 response_head, response_body, response_truncated, repeated,
                 dns_us, connect_us, tls_us, first_byte_us, total_us)
            select d.id, d.attempts, d.attempted_at, d.outcome, d.why, d.url, d.address, d.request_head,
                   d.response_status, d.response_head, d.response_body, d.response_truncated, d.repeated,
                   d.dns_us, d.connect_us, d.tls_us, d.first_byte_us, d.total_us
            from made m
            join webhook_deliveries d on d.id = m.id
            where m.number > 1
              and d.attempts = m.number - 1
              and d.status in ('pending', 'held')
              and d.outcome is not null
            on conflict do nothing
        ), recorded as (
            update webhook_deliveries d
            set attempts = m.number,
                status = case when m.status = 'pending' then d.status else m.status end,
                reason = case when m.status = 'pending' then d.reason else m.reason end,
                due_at = case when m.status = 'pending' then now() + make_interval(secs => m.wait) else d.due_at end,
                queued_at = case when m.queued and d.status = 'pending' then now() + make_interval(secs => m.wait) end,
                claimed_until = null,
                deaths = 0,
                delivered_at = case when m.status = 'delivered' then now() end,
                attempted_at = m.attempted_at,
                outcome = m.outcome,
                why = m.why,
                url = m.url,
                address = m.address,
                request_head = m.request_head,
                response_status = m.response_status,
                response_head = m.response_head,
                response_body = m.response_body,
                response_truncated = m.response_truncated,
                repeated = m.repeated,
                dns_us = m.dns_us,
                connect_us = m.connect_us,
                tls_us = m.tls_us,
                first_byte_us = m.first_byte_us,
                total_us = m.total_us
            from made m
            where d.id = m.id
              and d.attempts = m.number - 1
              and d.status in ('pending', 'held')
            returning d.id, d.company_id, d.webhook_id, d.event_id, d.event_type, d.trigger, d.status, d.reason,
                      d.attempts, d.queued_at, d.outcome, d.response_status
        ), given_up as (
            insert into dead_letters (id, kind, company_id, webhook_id, event_id, event_type, reason, attempts,
                                      outcome, response_status, body)
            select r.id, 'delivery', r.company_id, r.webhook_id, r.event_id, r.event_type, r.reason, r.attempts,
                   r.outcome, r.response_status,
                   convert_to('{"event_type":' || to_json(e.event_type) || ',"data":' || e.data
                       || ',"company_id":"' || e.company_id || '","timestamp":' || e."timestamp" || '}', 'UTF8')
            from recorded r
            left join events e on e.id = r.event_id
            where r.status = 'dead' and r.trigger <> 'test'
            on conflict (id) do nothing
        ), paused as (
            update webhooks w
            set paused_at = now(), paused_by = 'xtwebhooks', pause_reason = g.why, updated_at = now()
            from (select distinct on (id) id, why from unnest($23::uuid[], $24::text[]) as g (id, why)) g
            where w.id = g.id and w.paused_at is null and w.deleted_at is null
        )
        select id as "id!", queued_at
        from recorded"#,
        &ids,
        &numbers,
        &statuses as _,
        &reasons as _,
        &waits,
        &queued,
        &attempted,
        &outcomes as _,
        &whys as _,
        &urls as _,
        &addresses as _,
        &request_heads as _,
        &response_statuses as _,
        &response_heads as _,
        &response_bodies as _,
        &truncated as _,
        &repeated,
        &dns as _,
        &connect as _,
        &tls as _,
        &first_byte as _,
        &total as _,
        &gone,
        &gone_why as _,
    )
    .fetch_all(pool)
    .await?;
    Ok(recorded.into_iter().map(|row| (DeliveryId(row.id), After { queued_at: row.queued_at })).collect())
}

/// Counts attempts whose number was recorded already; returns those of `deliveries` that exist.
pub async fn count_repeats(pool: &PgPool, deliveries: &[DeliveryId]) -> sqlx::Result<Vec<DeliveryId>> {
    let mut ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    ids.sort_unstable();
    let found = sqlx::query_scalar!(
        "-- deliveries.count_repeats
        update webhook_deliveries d
        set repeats = least(d.repeats + 1, 32767)
        from unnest($1::uuid[]) as w (id)
        where d.id = w.id
        returning d.id",
        &ids,
    )
    .fetch_all(pool)
    .await?;
    Ok(found.into_iter().map(DeliveryId).collect())
}
