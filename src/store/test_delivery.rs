//! The delivery of a test: written on request, watched until it has ended, and withdrawn if it has not started in time.
//!
//! It is a delivery like any other except for its trigger: it has one attempt, leaves no dead letter, and changes
//! nothing about its lane.

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};

use super::{
    Result,
    fault::{Fault, fault},
    partitions,
};
use crate::model::{CompanyId, DeliveryId, DeliveryStatus, Event, WebhookId};

/// The reason of a test that is cancelled because it could not start in time.
pub const NOT_IN_TIME: &str = "test not begun in time";

/// Writes the event of a test and its one delivery, marked as queued; returns the instant of that.
///
/// # Errors
/// When the ledger does not take it.
pub async fn write(
    pool: &PgPool,
    event: &Event,
    delivery: DeliveryId,
    webhook: WebhookId,
) -> Result<DateTime<Utc>> {
    match insert(pool, event, delivery, webhook).await {
        Err(error) if fault(&error) == Fault::NoPartition => {
            partitions::ensure(pool, event.id.time().date_naive(), 1).await?;
            Ok(insert(pool, event, delivery, webhook).await?)
        }
        written => Ok(written?),
    }
}

async fn insert(
    pool: &PgPool,
    event: &Event,
    delivery: DeliveryId,
    webhook: WebhookId,
) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(
        r#"
        -- test_delivery.write
        with event as (
            insert into events (id, company_id, event_type, message_id, "timestamp", data, body_hash, matched,
                                matched_as_of, fanned_out)
            values ($1, $2, $3, $4, $5, $6::text::json, $7, 1, now(), true)
        )
        insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, queued_at)
        values ($8, $2, $9, $1, $3, 'test', 'pending', now())
        returning queued_at as "queued_at!"
        "#,
        event.id.uuid(),
        event.company.uuid(),
        event.event_type.as_str(),
        event.message_id,
        event.timestamp,
        event.data,
        event.body_hash,
        delivery.uuid(),
        webhook.uuid(),
    )
    .fetch_one(pool)
    .await
}

/// The state of a test.
#[derive(Clone, Debug)]
pub struct TestProgress {
    /// `pending` until it has ended.
    pub status: DeliveryStatus,
    /// The reason of its state, if the status does not say.
    pub reason: Option<String>,
    /// Attempts that have ended.
    pub attempts: i32,
    /// Whether its request may be in flight.
    pub is_claimed: bool,
    pub response_status: Option<i32>,
    /// What came of the attempt, in a sentence.
    pub why: Option<String>,
    /// How long the attempt took, in microseconds.
    pub total_us: Option<i32>,
}

/// The present state of a test; `None` if the company has none with that id.
pub async fn standing(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    delivery: DeliveryId,
) -> Result<Option<TestProgress>> {
    let row = sqlx::query_as!(
        TestProgress,
        r#"
        -- test_delivery.standing
        select status as "status: DeliveryStatus", reason, attempts, coalesce(claimed_until > now(), false) as "is_claimed!", response_status, why,
               total_us
        from webhook_deliveries
        where id = $1
            and company_id = $2
            and trigger = 'test'
        "#,
        delivery.uuid(),
        company.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
}

/// Withdraws a test that has not started; says whether it was so.
pub async fn cancel(db: impl PgExecutor<'_>, company: CompanyId, delivery: DeliveryId) -> Result<bool> {
    let done = sqlx::query!(
        "
        -- test_delivery.cancel
        update webhook_deliveries
        set status = 'cancelled',
            reason = $3,
            queued_at = null
        where id = $1
            and company_id = $2
            and trigger = 'test'
            and status in ('pending', 'held')
            and attempts = 0
            and coalesce(claimed_until, '-infinity') < now()
        ",
        delivery.uuid(),
        company.uuid(),
        NOT_IN_TIME,
    );
    Ok(done.execute(db).await?.rows_affected() > 0)
}
