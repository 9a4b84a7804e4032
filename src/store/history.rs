//! What a company sees of its deliveries: those whose ids [`search`](super::search) found, and one with all its
//! attempts.
//!
//! Bodies are read only for callers who may see them, because they are most of a row's size.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Result;
use crate::model::{CompanyId, DeliveryId, DeliveryStatus, EventId, OutcomeClass, Trigger, WebhookId};

/// Up to how many deliveries ahead of one in its lane are counted.
pub const AHEAD_COUNTED_MAX: i64 = 10_000;

/// A delivery with its latest attempt.
#[derive(Clone, Debug)]
pub struct DeliveryRow {
    pub id: DeliveryId,
    pub company_id: CompanyId,
    /// The webhook it goes to.
    pub webhook_id: WebhookId,
    /// The event it carries.
    pub event_id: EventId,
    pub event_type: String,
    /// Why it exists.
    pub trigger: Trigger,
    /// The state.
    pub status: DeliveryStatus,
    /// What the state alone does not say.
    pub reason: Option<String>,
    /// How many attempts are recorded.
    pub attempts: i32,
    /// When the next may start.
    pub due_at: DateTime<Utc>,
    /// When a job was made for it; `None` while it waits in the ledger.
    pub queued_at: Option<DateTime<Utc>>,
    /// How often its job was found missing.
    pub rescues: i16,
    /// How many attempts were made whose number was already recorded.
    pub repeats: i16,
    /// The replay that made it.
    pub replay_id: Option<Uuid>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was accepted.
    pub delivered_at: Option<DateTime<Utc>>,
    /// The event's data as published; `None` once the event is gone from the ledger.
    pub data: Option<String>,
    /// The event's time as it is sent.
    pub timestamp: Option<i64>,
    /// The trace context that the event was published with.
    pub traceparent: Option<String>,
    /// The latest attempt's start; `None` before the first.
    pub attempted_at: Option<DateTime<Utc>>,
    /// As in [`RecordedAttempt`], like those that follow.
    pub outcome: Option<OutcomeClass>,
    pub why: Option<String>,
    pub url: Option<String>,
    pub address: Option<String>,
    pub request_head: Option<String>,
    pub response_status: Option<i32>,
    pub response_head: Option<String>,
    pub response_body: Option<String>,
    pub response_truncated: Option<bool>,
    pub repeated: Option<bool>,
    pub dns_us: Option<i32>,
    pub connect_us: Option<i32>,
    pub tls_us: Option<i32>,
    pub first_byte_us: Option<i32>,
    pub total_us: Option<i32>,
}

/// One recorded attempt.
#[derive(Clone, Debug)]
pub struct RecordedAttempt {
    /// Counts from 1.
    pub number: i32,
    /// When its request began.
    pub attempted_at: DateTime<Utc>,
    pub outcome: OutcomeClass,
    /// The outcome in a sentence.
    pub why: Option<String>,
    /// Where it was sent.
    pub url: Option<String>,
    /// The address connected to.
    pub address: Option<String>,
    /// The headers sent.
    pub request_head: Option<String>,
    /// `None` if there was no answer.
    pub response_status: Option<i32>,
    /// The headers of the answer.
    pub response_head: Option<String>,
    /// The body of the answer, as far as it is kept.
    pub response_body: Option<String>,
    /// Whether there was more of it.
    pub response_truncated: Option<bool>,
    /// Whether a reset on a reused connection was repeated on a fresh one.
    pub repeated: Option<bool>,
    /// The time of each phase in microseconds; `None` where it did not happen.
    pub dns_us: Option<i32>,
    pub connect_us: Option<i32>,
    pub tls_us: Option<i32>,
    pub first_byte_us: Option<i32>,
    pub total_us: Option<i32>,
}

impl DeliveryRow {
    /// The latest attempt, as one of the list.
    #[must_use]
    pub fn latest(&self) -> Option<RecordedAttempt> {
        Some(RecordedAttempt {
            number: self.attempts,
            attempted_at: self.attempted_at?,
            outcome: self.outcome?,
            why: self.why.clone(),
            url: self.url.clone(),
            address: self.address.clone(),
            request_head: self.request_head.clone(),
            response_status: self.response_status,
            response_head: self.response_head.clone(),
            response_body: self.response_body.clone(),
            response_truncated: self.response_truncated,
            repeated: self.repeated,
            dns_us: self.dns_us,
            connect_us: self.connect_us,
            tls_us: self.tls_us,
            first_byte_us: self.first_byte_us,
            total_us: self.total_us,
        })
    }
}

/// Runs a statement whose first part makes the rows `delivery`, and reads those together with their events. `$1` is the
/// company, `$2` whether bodies are read.
///
/// The event is read by subqueries, so that it is looked up by its id, in its one partition, however the planner would
/// join.
macro_rules! deliveries {
    ($sql:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            DeliveryRow,
            $sql + r#"
            select
                id as "id!",
                company_id as "company_id!",
                webhook_id as "webhook_id!",
                event_id as "event_id!",
                event_type as "event_type!",
                trigger as "trigger!: Trigger",
                status as "status!: DeliveryStatus",
                reason,
                attempts as "attempts!",
                due_at as "due_at!",
                queued_at,
                rescues as "rescues!",
                repeats as "repeats!",
                replay_id,
                created_at as "created_at!",
                delivered_at,
                case when $2 then (select data::text from events where events.id = delivery.event_id) end as data,
                (select "timestamp" from events where events.id = delivery.event_id) as "timestamp",
                (select traceparent from events where events.id = delivery.event_id) as traceparent,
                attempted_at,
                outcome as "outcome: OutcomeClass",
                why,
                url,
                address,
                request_head,
                response_status,
                response_head,
                case when $2 then response_body end as response_body,
                response_truncated,
                repeated,
                dns_us,
                connect_us,
                tls_us,
                first_byte_us,
                total_us
            from delivery
            order by id desc
            "#,
            $($argument),*
        )
    };
}

/// These deliveries of a company, newest first.
pub async fn by_ids(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    bodies: bool,
    ids: &[Uuid],
) -> Result<Vec<DeliveryRow>> {
    let rows = deliveries!(
        "
            -- history.by_ids
            with delivery as (
                select *
                from webhook_deliveries
                where company_id = $1
                    and id = any($3)
                    and id between $4 and $5
            )",
        company.uuid(),
        bodies,
        ids,
        // `any` alone would read every partition.
        ids.iter().min().copied().unwrap_or_default(),
        ids.iter().max().copied().unwrap_or_default(),
    );
    Ok(rows.fetch_all(db).await?)
}

/// One delivery of a company.
pub async fn get(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    bodies: bool,
    id: DeliveryId,
) -> Result<Option<DeliveryRow>> {
    let row = deliveries!(
        "
            -- history.get
            with delivery as (
                select *
                from webhook_deliveries
                where company_id = $1
                    and id = $3
            )",
        company.uuid(),
        bodies,
        id.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
}

/// How many deliveries come before one that waits in the ledger for its turn, up to [`AHEAD_COUNTED_MAX`].
pub async fn ahead(db: impl PgExecutor<'_>, company: CompanyId, delivery: &DeliveryRow) -> Result<i64> {
    let ahead = sqlx::query_scalar!(
        r#"
        -- history.ahead
        select count(*) as "ahead!"
        from (
            select
            from webhook_deliveries
            where company_id = $1
                and webhook_id = $2
                and status = 'pending'
                and queued_at is null
                and ((case when replay_id is null then 0 else 1 end), due_at, id) < ($3, $4, $5)
            limit $6
        ) as before
        "#,
        company.uuid(),
        delivery.webhook_id.uuid(),
        i32::from(delivery.replay_id.is_some()),
        delivery.due_at,
        delivery.id.uuid(),
        AHEAD_COUNTED_MAX,
    );
    Ok(ahead.fetch_one(db).await?)
}

/// Whether a company has or had such a webhook: the history of a deleted one stays.
pub async fn has_webhook(db: impl PgExecutor<'_>, company: CompanyId, webhook: WebhookId) -> Result<bool> {
    let known = sqlx::query_scalar!(
        r#"
        -- history.has_webhook
        select exists (select from webhooks where company_id = $1 and id = $2) as "known!"
        "#,
        company.uuid(),
        webhook.uuid(),
    );
    Ok(known.fetch_one(db).await?)
}

/// The attempts of a delivery before its latest, in their order.
pub async fn earlier_attempts(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    bodies: bool,
    id: DeliveryId,
) -> Result<Vec<RecordedAttempt>> {
    let rows = sqlx::query_as!(
        RecordedAttempt,
        r#"
        -- history.earlier_attempts
        select
            number,
            attempted_at,
            outcome as "outcome!: OutcomeClass",
            why,
            url,
            address,
            request_head,
            response_status,
            response_head,
            case when $3 then response_body end as response_body,
            response_truncated,
            repeated,
            dns_us,
            connect_us,
            tls_us,
            first_byte_us,
            total_us
        from webhook_delivery_attempts
        where delivery_id = $2
            and exists (select from webhook_deliveries where id = $2 and company_id = $1)
        order by number
        "#,
        company.uuid(),
        id.uuid(),
        bodies,
    );
    Ok(rows.fetch_all(db).await?)
}

/// Which of these ids are deliveries of the company.
pub async fn known(db: impl PgExecutor<'_>, company: CompanyId, ids: &[Uuid]) -> Result<Vec<Uuid>> {
    let ids = sqlx::query_scalar!(
        "
        -- history.known
        select id
        from webhook_deliveries
        where company_id = $1
            and id = any($2)
            and id between $3 and $4
        ",
        company.uuid(),
        ids,
        // `any` alone would read every partition.
        ids.iter().min().copied().unwrap_or_default(),
        ids.iter().max().copied().unwrap_or_default(),
    );
    Ok(ids.fetch_all(db).await?)
}
