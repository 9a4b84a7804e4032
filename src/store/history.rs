//! What a company sees of its deliveries: the newest of a webhook, and one with all its attempts.
//!
//! Pages are by key, not by offset: ids begin with their time, so a page is a walk backwards along one index,
//! and costs the same at the hundredth page as at the first.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Result;
use crate::model::{CompanyId, DeliveryId, EventId, Status, WebhookId};

/// The most deliveries on one page.
pub const PAGE_MAX: i64 = 1_000;

/// A delivery with its latest attempt.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// Whose it is.
    pub company_id: CompanyId,
    /// The webhook it goes to.
    pub webhook_id: WebhookId,
    /// The event it carries.
    pub event_id: EventId,
    /// Its type.
    pub event_type: String,
    /// Why it exists.
    pub trigger: String,
    /// The state.
    pub status: String,
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
    /// How often an attempt was made whose number was recorded already.
    pub repeats: i16,
    /// The replay that made it.
    pub replay_id: Option<Uuid>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was accepted.
    pub delivered_at: Option<DateTime<Utc>>,
    /// The event's data as published; `None` once the event is gone from the ledger.
    pub data: Option<String>,
    /// The event's time on the wire.
    pub timestamp: Option<i64>,
    /// The latest attempt's start; `None` before the first.
    pub attempted_at: Option<DateTime<Utc>>,
    /// As in [`Attempt`], like those that follow.
    pub outcome: Option<String>,
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
pub struct Attempt {
    /// Counts from 1.
    pub number: i32,
    /// When its request began.
    pub attempted_at: DateTime<Utc>,
    /// The class of its outcome.
    pub outcome: String,
    /// The outcome in a sentence.
    pub why: Option<String>,
    /// Where it was sent.
    pub url: Option<String>,
    /// The address connected to.
    pub address: Option<String>,
    /// The headers sent.
    pub request_head: Option<String>,
    /// `None` where nobody answered.
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

impl Delivery {
    /// The latest attempt, as one of the list.
    #[must_use]
    pub fn latest(&self) -> Option<Attempt> {
        Some(Attempt {
            number: self.attempts,
            attempted_at: self.attempted_at?,
            outcome: self.outcome.clone()?,
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

/// Which deliveries of a webhook are wanted.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Only in this state.
    pub status: Option<Status>,
    /// Only of this type.
    pub event_type: Option<String>,
    /// Only those before this one: the last of the page before.
    pub before: Option<DeliveryId>,
    /// How many, [`PAGE_MAX`] at most.
    pub limit: i64,
}

/// Runs a statement whose first part makes the rows `delivery`, and reads those with what their events say.
///
/// The event is read by subqueries, so that it is looked up by its id, in its one partition, whatever the planner
/// thinks of a join.
macro_rules! deliveries {
    ($sql:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Delivery,
            $sql + r#"
            select
                id as "id!",
                company_id as "company_id!",
                webhook_id as "webhook_id!",
                event_id as "event_id!",
                event_type as "event_type!",
                trigger as "trigger!",
                status as "status!",
                reason,
                attempts as "attempts!",
                due_at as "due_at!",
                queued_at,
                rescues as "rescues!",
                repeats as "repeats!",
                replay_id,
                created_at as "created_at!",
                delivered_at,
                (select data::text from events where events.id = delivery.event_id) as data,
                (select "timestamp" from events where events.id = delivery.event_id) as "timestamp",
                attempted_at,
                outcome,
                why,
                url,
                address,
                request_head,
                response_status,
                response_head,
                response_body,
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

/// A page of a webhook's deliveries, newest first. The history of a deleted webhook is there as well.
pub async fn list(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    webhook: WebhookId,
    page: &Page,
) -> Result<Vec<Delivery>> {
    let rows = deliveries!(
        "
            -- history.list
            with delivery as (
                select *
                from webhook_deliveries
                where company_id = $1
                    and webhook_id = $2
                    and id < $3
                    and ($4::text is null or status = $4)
                    and ($5::text is null or event_type = $5)
                order by id desc
                limit $6
            )",
        company.uuid(),
        webhook.uuid(),
        // The greatest there can be: the first page has no other bound, and the index is walked all the same.
        page.before.map_or(Uuid::max(), DeliveryId::uuid),
        page.status.map(Status::as_str),
        page.event_type,
        page.limit.clamp(1, PAGE_MAX),
    );
    Ok(rows.fetch_all(db).await?)
}

/// One delivery of a company.
pub async fn get(db: impl PgExecutor<'_>, company: CompanyId, id: DeliveryId) -> Result<Option<Delivery>> {
    let row = deliveries!(
        "
            -- history.get
            with delivery as (
                select *
                from webhook_deliveries
                where company_id = $1
                    and id = $2
            )",
        company.uuid(),
        id.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
}

/// The attempts of a delivery before its latest, in their order.
pub async fn earlier_attempts(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: DeliveryId,
) -> Result<Vec<Attempt>> {
    let rows = sqlx::query_as!(
        Attempt,
        "
        -- history.earlier_attempts
        select
            number,
            attempted_at,
            outcome,
            why,
            url,
            address,
            request_head,
            response_status,
            response_head,
            response_body,
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
        ",
        company.uuid(),
        id.uuid(),
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
        // `any` alone would look into every partition.
        ids.iter().min().copied().unwrap_or_default(),
        ids.iter().max().copied().unwrap_or_default(),
    );
    Ok(ids.fetch_all(db).await?)
}
