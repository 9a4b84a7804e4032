//! The table `dead_letters`: what was given up, with its own copy of the data, so that it can be replayed after its
//! event has left the ledger.
//!
//! A delivery's row is written by the trigger `dead_letter_of_delivery` in the statement that gives the delivery up,
//! and has the delivery's id. What is written here comes from the broker or the recorder: messages that are not events,
//! events that ended their worker, and attempts of deliveries that the ledger does not know. All of it may come twice,
//! and is stored once.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Result;
use crate::model::{
    Attempt, CompanyId, DeadReason, EventType, OutcomeClass, Payload,
    dead_letter::{DeadLetterKind, DeadLetterStatus},
    request,
};

/// A row of `dead_letters`; its content only if one row was asked for.
#[derive(Clone, Debug)]
pub struct DeadLetterRow {
    /// For a delivery the delivery's id.
    pub id: Uuid,
    pub kind: DeadLetterKind,
    pub status: DeadLetterStatus,
    /// The company; `None` for a message that does not say.
    pub company_id: Option<Uuid>,
    /// The webhook, for a delivery.
    pub webhook_id: Option<Uuid>,
    /// The event, if there is one.
    pub event_id: Option<Uuid>,
    pub event_type: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// The field that could not be read, for a message.
    pub field: Option<String>,
    /// How many attempts were made.
    pub attempts: i32,
    /// The class of the last one's outcome.
    pub outcome: Option<OutcomeClass>,
    /// The status of the last answer.
    pub response_status: Option<i32>,
    /// For a message the bytes that came; for a delivery given up by release 0.3.0 or earlier the bytes to be posted.
    pub body: Option<Vec<u8>>,
    /// For a delivery the event's `data`, as text.
    pub data: Option<String>,
    /// For a delivery the event's time, in whole seconds since 1970.
    pub timestamp: Option<i64>,
    /// The headers of a message, as JSON text.
    pub headers: Option<String>,
    /// The routing key of a message.
    pub routing_key: Option<String>,
    /// The id that the publisher gave.
    pub message_id: Option<String>,
    /// When it was given up.
    pub created_at: DateTime<Utc>,
    pub replayed_at: Option<DateTime<Utc>>,
    pub replay_id: Option<Uuid>,
}

impl DeadLetterRow {
    /// What was to be sent, as the receiver would have got it, or what came.
    #[must_use]
    pub fn take_standard_body(&mut self) -> Option<Bytes> {
        let payload = Payload::of_columns(self.body.take(), self.data.take(), self.timestamp)?;
        match &payload {
            Payload::Rendered(body) => Some(body.clone()),
            Payload::Event { .. } => {
                let event_type: EventType = self.event_type.as_deref()?.parse().ok()?;
                Some(request::standard_body(&payload, &event_type, CompanyId(self.company_id?)))
            }
        }
    }
}

/// These dead letters, newest first, without their bodies; of a company, or of all for the operator.
pub async fn by_ids(
    db: impl PgExecutor<'_>,
    company: Option<CompanyId>,
    ids: &[Uuid],
) -> Result<Vec<DeadLetterRow>> {
    let rows = sqlx::query_as!(
        DeadLetterRow,
        r#"
        -- dead_letters.by_ids
        select
            id,
            kind as "kind: DeadLetterKind",
            status as "status: DeadLetterStatus",
            company_id,
            webhook_id,
            event_id,
            event_type,
            reason,
            field,
            attempts,
            outcome as "outcome: OutcomeClass",
            response_status,
            null::bytea as body,
            null::text as data,
            null::bigint as timestamp,
            headers::text as headers,
            routing_key,
            message_id,
            created_at,
            replayed_at,
            replay_id
        from dead_letters
        where id = any($2)
            and ($1::uuid is null or company_id = $1)
        order by created_at desc, id desc
        "#,
        company.map(CompanyId::uuid),
        ids,
    );
    Ok(rows.fetch_all(db).await?)
}

/// One dead letter with its body; of a company, or of any for the operator.
pub async fn get(
    db: impl PgExecutor<'_>,
    company: Option<CompanyId>,
    id: Uuid,
) -> Result<Option<DeadLetterRow>> {
    let row = sqlx::query_as!(
        DeadLetterRow,
        r#"
        -- dead_letters.get
        select
            id,
            kind as "kind: DeadLetterKind",
            status as "status: DeadLetterStatus",
            company_id,
            webhook_id,
            event_id,
            event_type,
            reason,
            field,
            attempts,
            outcome as "outcome: OutcomeClass",
            response_status,
            body,
            data::text as data,
            "timestamp",
            headers::text as headers,
            routing_key,
            message_id,
            created_at,
            replayed_at,
            replay_id
        from dead_letters
        where id = $2
            and ($1::uuid is null or company_id = $1)
        "#,
        company.map(CompanyId::uuid),
        id,
    );
    Ok(row.fetch_optional(db).await?)
}

/// Discards an open dead letter; says whether it was open.
pub async fn discard(db: impl PgExecutor<'_>, company: Option<CompanyId>, id: Uuid) -> Result<bool> {
    let done = sqlx::query!(
        "
        -- dead_letters.discard
        update dead_letters
        set status = 'discarded'
        where id = $2
            and ($1::uuid is null or company_id = $1)
            and status = 'open'
        ",
        company.map(CompanyId::uuid),
        id,
    );
    Ok(done.execute(db).await?.rows_affected() > 0)
}

/// A message given up, as dead-letter found it in the queue of dead letters.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Derived from the message, so that the same one is stored once.
    pub id: Uuid,
    /// `message`, or `event` for one that could be read.
    pub kind: &'static str,
    /// The company, if it says so.
    pub company: Option<CompanyId>,
    /// Its type, if it says so.
    pub event_type: Option<String>,
    /// Why it was given up.
    pub reason: String,
    /// The field that could not be read.
    pub field: Option<String>,
    /// The bytes that came.
    pub body: Vec<u8>,
    /// Its headers, as a JSON object.
    pub headers: String,
    pub routing_key: String,
    /// The id that the publisher gave.
    pub message_id: Option<String>,
}

/// Stores a message; says whether it was new. One that was replayed and given up again is open again.
pub async fn insert_message(db: impl PgExecutor<'_>, message: &NewMessage) -> Result<bool> {
    let done = sqlx::query!(
        "
        -- dead_letters.insert_message
        insert into dead_letters (
            id, kind, company_id, event_type, reason, field, body, headers, routing_key, message_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9, $10)
        on conflict (id) do update
        set status = 'open', created_at = now(), replayed_at = null, replay_id = null
        where dead_letters.status = 'replayed'
        ",
        message.id,
        message.kind,
        message.company.map(CompanyId::uuid),
        message.event_type,
        message.reason,
        message.field,
        message.body,
        message.headers,
        message.routing_key,
        message.message_id,
    );
    Ok(done.execute(db).await?.rows_affected() > 0)
}

/// Stores attempts of deliveries that the ledger does not know because it was restored from a backup; returns how many
/// were new.
pub async fn insert_unknown(db: impl PgExecutor<'_>, attempts: &[Attempt]) -> Result<u64> {
    // By id, so that two writers lock in the same order; each once, because the statement may not touch a row twice.
    let mut attempts: Vec<&Attempt> = attempts.iter().collect();
    attempts.sort_by_key(|attempt| (attempt.delivery, std::cmp::Reverse(attempt.number)));
    attempts.dedup_by_key(|attempt| attempt.delivery);
    let uuids = |of: fn(&Attempt) -> Uuid| attempts.iter().map(|attempt| of(attempt)).collect::<Vec<_>>();
    let done = sqlx::query!(
        "
        -- dead_letters.insert_unknown
        insert into dead_letters (
            id, kind, company_id, webhook_id, event_id, event_type, reason, attempts, outcome, response_status)
        select id, 'delivery', company_id, webhook_id, event_id, event_type, $8, attempts, outcome, response_status
        from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::int[], $7::text[], $9::int[])
            as t (id, company_id, webhook_id, event_id, event_type, attempts, outcome, response_status)
        on conflict do nothing
        ",
        &uuids(|a| a.delivery.uuid()),
        &uuids(|a| a.company.uuid()),
        &uuids(|a| a.webhook.uuid()),
        &uuids(|a| a.event.uuid()),
        &attempts.iter().map(|a| a.event_type.to_string()).collect::<Vec<_>>(),
        &attempts.iter().map(|a| i32::try_from(a.number).unwrap_or(i32::MAX)).collect::<Vec<_>>(),
        &attempts.iter().map(|a| a.exchange.outcome.class().to_string()).collect::<Vec<_>>(),
        DeadReason::UnknownDelivery.as_str(),
        &attempts.iter().map(|a| a.exchange.response.as_ref().map(|r| i32::from(r.status))).collect::<Vec<_>>()
            as &[Option<i32>],
    );
    Ok(done.execute(db).await?.rows_affected())
}

/// Which of these ids are dead letters of the company, each with its kind.
pub async fn known(db: impl PgExecutor<'_>, company: CompanyId, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>> {
    let rows = sqlx::query!(
        "
        -- dead_letters.known
        select id, kind
        from dead_letters
        where company_id = $1
            and id = any($2)
        ",
        company.uuid(),
        ids,
    );
    Ok(rows.fetch_all(db).await?.into_iter().map(|row| (row.id, row.kind)).collect())
}
