//! What happens to a webhook besides changes of its fields: pauses, their ends, rotations of the secret.

use std::time::Duration;

use sqlx::PgExecutor;
use uuid::Uuid;

use super::WebhookRow;
use crate::{
    model::{CompanyId, ReplayId, Secret, WebhookId, webhook::Held},
    store::Result,
};

/// Pauses a webhook. One that is already paused keeps its first reason, and gives `None`.
pub async fn pause(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: WebhookId,
    by: &str,
    why: &str,
) -> Result<Option<WebhookRow>> {
    let row = webhooks!(
        "
            -- webhooks.pause
            with webhook as (
                update webhooks
                set paused_at = now(),
                    paused_by = $3,
                    pause_reason = $4,
                    updated_at = now()
                where company_id = $1
                    and id = $2
                    and deleted_at is null
                    and paused_at is null
                returning *
            )",
        company.uuid(),
        id.uuid(),
        by,
        why,
    );
    Ok(row.fetch_optional(db).await?)
}

/// Ends a pause, and orders in the same statement what becomes of what it held. `None` if nothing was paused.
///
/// The order is a row of `replays` of the kind `resume`, whose filter is `{"held":"deliver"}` or `{"held":"discard"}`,
/// at most `rate` deliveries a second; schedule works on it. One that is still open gets the new order.
pub async fn resume(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: WebhookId,
    by: &str,
    held: Held,
    rate: i32,
) -> Result<Option<WebhookRow>> {
    let (filter, rate) = match held {
        Held::Deliver => (r#"{"held":"deliver"}"#, rate),
        Held::Discard => (r#"{"held":"discard"}"#, DISCARD_RATE),
    };
    let row = webhooks!(
        "
            -- webhooks.resume
            with webhook as (
                update webhooks
                set paused_at = null,
                    paused_by = null,
                    pause_reason = null,
                    updated_at = now()
                where company_id = $1
                    and id = $2
                    and deleted_at is null
                    and paused_at is not null
                returning *
            ),
            ordered as (
                insert into replays (id, company_id, kind, webhook_id, filter, rate, requested_by)
                select $3, company_id, 'resume', id, $4::text::json, $5, $6
                from webhook
                on conflict (webhook_id) where kind = 'resume' and status <> 'done' do update
                set filter = excluded.filter,
                    rate = excluded.rate,
                    requested_by = excluded.requested_by,
                    status = 'expanding',
                    started_at = now(),
                    cursor = null,
                    expanded_at = null
            )",
        company.uuid(),
        id.uuid(),
        ReplayId(Uuid::new_v4()).uuid(),
        filter,
        rate,
        by,
    );
    Ok(row.fetch_optional(db).await?)
}

/// The rate written if nothing is sent; the column requires one.
const DISCARD_RATE: i32 = 10_000;

/// Gives a webhook a new secret; the previous one also signs until `grace` has passed.
pub async fn rotate_secret(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: WebhookId,
    secret: &Secret,
    grace: Duration,
    guide_signature_is_previous: bool,
) -> Result<Option<WebhookRow>> {
    let row = webhooks!(
        "
            -- webhooks.rotate_secret
            with webhook as (
                update webhooks
                set previous_secret = secret,
                    previous_secret_until = now() + make_interval(secs => $4),
                    guide_signature_is_previous = $5,
                    secret = $3,
                    updated_at = now()
                where company_id = $1
                    and id = $2
                    and deleted_at is null
                returning *
            )",
        company.uuid(),
        id.uuid(),
        secret.expose(),
        grace.as_secs_f64(),
        guide_signature_is_previous,
    );
    Ok(row.fetch_optional(db).await?)
}
