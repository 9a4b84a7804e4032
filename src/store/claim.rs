//! Whether a request may start: what every job that is not fresh asks the ledger.
//!
//! Guarantee: of all jobs for one attempt of a delivery, however many the broker hands out, one is granted until
//! its lease ends, or until the session of its worker has ended. Times are the database's.

use std::time::Duration;

use sqlx::{PgPool, types::Uuid};

use crate::model::{CompanyId, DeliveryId, DeliveryStatus, EventId, Payload, WebhookId};

/// The claim of a job.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub delivery: DeliveryId,
    /// The attempt to claim, from 1.
    pub attempt: u32,
    /// How long no other task may start it: the webhook's timeout and a margin.
    pub lease: Duration,
}

/// The ledger's answer.
#[derive(Clone, Debug)]
pub enum ClaimAnswer {
    /// The attempt may start.
    Granted {
        /// What to send, from the event, else from a dead letter. `None` if neither has it any more.
        payload: Option<Payload>,
        /// The trace context of the event.
        traceparent: Option<String>,
    },
    /// Settled, superseded, held, or never written: there is nothing to do.
    Superseded,
    /// This attempt is recorded, and a job for the next one should be on its way.
    Recorded,
    /// Its time has not come.
    NotYetDue,
    /// Another task holds it.
    Claimed,
}

/// The ledger's answer to one claim.
#[derive(Clone, Debug)]
pub struct GrantedClaim {
    /// The delivery claimed.
    pub delivery: DeliveryId,
    pub answer: ClaimAnswer,
}

/// Claims a batch for a session; answers in the order of the ids, in which the rows are also locked, so that two batches
/// cannot deadlock. Where the session has run out, the claims are held by their leases alone.
pub async fn claim(pool: &PgPool, questions: &[Question], session: Uuid) -> sqlx::Result<Vec<GrantedClaim>> {
    let mut sorted = questions.to_vec();
    sorted.sort_unstable_by_key(|q| q.delivery);
    let ids: Vec<Uuid> = sorted.iter().map(|q| q.delivery.0).collect();
    let attempts: Vec<i32> = sorted.iter().map(|q| i32::try_from(q.attempt).unwrap_or(i32::MAX)).collect();
    let leases: Vec<f64> = sorted.iter().map(|q| q.lease.as_secs_f64()).collect();
    let rows = sqlx::query!(
        r#"-- deliveries.claim
        with requested as (
            select * from unnest($1::uuid[], $2::integer[], $3::double precision[]) as w (id, attempt, lease)
        ), claimed as (
            update webhook_deliveries d
            set claimed_until = now() + make_interval(secs => w.lease),
                claimed_by = (select id from worker_sessions where id = $4),
                session_claim_until = now() + make_interval(secs => w.lease),
                -- Whoever records or sets aside ends its claim. One that ran out had nobody left to do so.
                deaths = least(d.deaths + (d.claimed_until is not null)::integer, 32767)
            from requested w
            where d.id = w.id
              and d.status = 'pending'
              and d.attempts = w.attempt - 1
              and d.due_at <= now()
              and (coalesce(d.claimed_until, '-infinity') < now()
                   or (d.claimed_until = d.session_claim_until
                       and d.claimed_by is not null
                       and not exists (select from worker_sessions s where s.id = d.claimed_by)))
            returning d.id
        )
        select w.id as "id!",
               w.id in (select id from claimed) as "granted!",
               d.status as "status?",
               d.attempts = w.attempt - 1 as "current?",
               d.status = 'pending' and d.attempts = w.attempt and d.queued_at is not null as "retry_queued?",
               case when d.claimed_until >= now() then d.claimed_until end as "claimed_until?",
               case when e.data is not null then e.data else l.data end::text as "data?",
               case when e.data is not null then e."timestamp" else l."timestamp" end as "timestamp?",
               e.traceparent as "traceparent?",
               l.body as "body?"
        from requested w
        left join webhook_deliveries d on d.id = w.id
        left join events e on e.id = d.event_id
        -- First whether the event is there, so that then nothing is looked for: a webhook may have any number of dead letters.
        -- Each branch is the predicate of an index; dead letters of 0.3.0 and before have a rendered body.
        left join lateral (
            (select data, "timestamp", null::bytea as body
             from dead_letters
             where e.data is null and d.replay_id is not null
               and event_id = d.event_id and webhook_id = d.webhook_id and data is not null
             limit 1)
            union all
            (select null, null, body
             from dead_letters
             where e.data is null and d.replay_id is not null
               and event_id = d.event_id and webhook_id = d.webhook_id and body is not null
             limit 1)
            limit 1
        ) l on true
        order by w.id"#,
        &ids,
        &attempts,
        &leases,
        session,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| GrantedClaim {
            delivery: DeliveryId(row.id),
            answer: if row.granted {
                let payload = Payload::of_columns(row.body, row.data, row.timestamp);
                ClaimAnswer::Granted { payload, traceparent: row.traceparent }
            } else {
                let status = row.status.and_then(|status| status.parse().ok());
                let is_next = status == Some(DeliveryStatus::Pending) && row.current == Some(true);
                refusal(is_next, row.claimed_until.is_some(), row.retry_queued == Some(true))
            },
        })
        .collect())
}

/// Why a claim is not granted: `is_next` says that the delivery is pending and this attempt is its next.
fn refusal(is_next: bool, is_claimed: bool, retry_is_queued: bool) -> ClaimAnswer {
    match (is_next, is_claimed) {
        (true, true) => ClaimAnswer::Claimed,
        (true, false) => ClaimAnswer::NotYetDue,
        _ if retry_is_queued => ClaimAnswer::Recorded,
        _ => ClaimAnswer::Superseded,
    }
}

/// What a job needs to know of its delivery, for messages that the broker gave up.
#[derive(Clone, Debug)]
pub struct DeliveryStanding {
    pub delivery: DeliveryId,
    pub company: CompanyId,
    /// Where it goes.
    pub webhook: WebhookId,
    /// What it carries.
    pub event: EventId,
    /// Its state.
    pub status: DeliveryStatus,
    /// Recorded attempts.
    pub attempts: u32,
}

/// The state of deliveries. One that is missing from the answer is not in the ledger.
pub async fn standing(pool: &PgPool, deliveries: &[DeliveryId]) -> sqlx::Result<Vec<DeliveryStanding>> {
    let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    let rows = sqlx::query!(
        "-- deliveries.standing
        select d.id, d.company_id, d.webhook_id, d.event_id, d.status, d.attempts
        from unnest($1::uuid[]) as w (id)
        join webhook_deliveries d on d.id = w.id",
        &ids,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| DeliveryStanding {
            delivery: DeliveryId(row.id),
            company: CompanyId(row.company_id),
            webhook: WebhookId(row.webhook_id),
            event: EventId(row.event_id),
            status: row.status.parse().unwrap_or(DeliveryStatus::Pending),
            attempts: u32::try_from(row.attempts).unwrap_or(0),
        })
        .collect())
}
