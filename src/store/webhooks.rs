//! The table `webhooks`: who wants what, and how.
//!
//! A company's own calls get [`Row`], the row as it stands. The pipeline gets [`Webhook`], made of it. Every change
//! wakes the caches by the table's trigger, whoever makes it; nothing here has to remember that.

use std::{collections::BTreeMap, time::Duration};

use sqlx::PgExecutor;
use uuid::Uuid;

use super::Result;
use crate::model::{CompanyId, ReplayId, Secret, Webhook, WebhookId};

mod row;

pub use row::{Change, Held, New, Row};

/// The most webhooks that one listing gives.
pub const LIST_MAX: i64 = 10_000;

/// Runs a statement whose first part makes the rows `webhook`, and reads those.
macro_rules! webhooks {
    ($sql:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Row,
            $sql + r#"
            select
                id as "id!",
                webhook.company_id as "company_id!",
                name as "name!",
                description,
                url as "url!",
                events as "events!",
                active as "active!",
                secret as "secret!",
                coalesce(previous_secret, '') as "previous_secret!",
                previous_secret_until,
                guide_signature_is_previous as "guide_signature_is_previous!",
                headers::text as "headers!",
                retry_count as "retry_count!",
                retry_schedule,
                timeout_seconds as "timeout_seconds!",
                max_in_flight,
                rate_limit,
                auto_recover as "auto_recover!",
                paused_at,
                paused_by,
                pause_reason,
                created_at as "created_at!",
                updated_at as "updated_at!",
                created_by,
                deleted_at,
                l.opened_at as "opened_at?",
                l.next_probe_at as "next_probe_at?",
                l.held_back_until as "held_back_until?"
            from webhook
            left join lanes l on l.webhook_id = webhook.id
            order by name, id
            "#,
            $($argument),*
        )
    };
}

/// Makes a webhook.
///
/// # Errors
/// [`super::Error::NameTaken`], and [`super::Error::Refused`] for a value out of its range.
pub async fn create(db: impl PgExecutor<'_>, new: New) -> Result<Row> {
    let row = webhooks!(
        "
            -- webhooks.create
            with webhook as (
                insert into webhooks (
                    company_id, name, description, url, events, active, secret, headers,
                    retry_count, retry_schedule, timeout_seconds, max_in_flight, rate_limit, created_by,
                    auto_recover)
                values ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9, $10, $11, $12, $13, $14, $15)
                returning *
            )",
        new.company.uuid(),
        new.name,
        new.description,
        new.url,
        &new.events,
        new.active,
        new.secret.expose(),
        as_json(&new.headers),
        new.retry_count,
        new.retry_schedule.as_deref(),
        new.timeout_seconds,
        new.max_in_flight,
        new.rate_limit,
        new.created_by,
        new.auto_recover,
    );
    Ok(row.fetch_one(db).await?)
}

/// The living webhooks of a company by name, [`LIST_MAX`] at most.
pub async fn list(db: impl PgExecutor<'_>, company: CompanyId) -> Result<Vec<Row>> {
    let rows = webhooks!(
        "
            -- webhooks.list
            with webhook as (
                select *
                from webhooks
                where company_id = $1
                    and deleted_at is null
                order by name, id
                limit $2
            )",
        company.uuid(),
        LIST_MAX,
    );
    Ok(rows.fetch_all(db).await?)
}

/// One living webhook of a company.
pub async fn get(db: impl PgExecutor<'_>, company: CompanyId, id: WebhookId) -> Result<Option<Row>> {
    let row = webhooks!(
        "
            -- webhooks.get
            with webhook as (
                select *
                from webhooks
                where company_id = $1
                    and id = $2
                    and deleted_at is null
            )",
        company.uuid(),
        id.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
}

/// Changes what is named; `None` where the company has no such webhook.
///
/// # Errors
/// As [`create`].
pub async fn update(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: WebhookId,
    change: Change,
) -> Result<Option<Row>> {
    let row = webhooks!(
        "
            -- webhooks.update
            with webhook as (
                update webhooks
                set name = coalesce($3, name),
                    description = case when $4 then $5 else description end,
                    url = coalesce($6, url),
                    events = coalesce($7, events),
                    active = coalesce($8, active),
                    secret = coalesce($9, secret),
                    headers = coalesce($10::text::json, headers),
                    retry_count = coalesce($11, retry_count),
                    retry_schedule = case when $12 then $13 else retry_schedule end,
                    timeout_seconds = coalesce($14, timeout_seconds),
                    max_in_flight = case when $15 then $16 else max_in_flight end,
                    rate_limit = case when $17 then $18 else rate_limit end,
                    auto_recover = coalesce($19, auto_recover),
                    updated_at = now()
                where company_id = $1
                    and id = $2
                    and deleted_at is null
                returning *
            )",
        company.uuid(),
        id.uuid(),
        change.name,
        change.description.is_some(),
        change.description.flatten(),
        change.url,
        change.events.as_deref(),
        change.active,
        change.secret.as_ref().map(Secret::expose),
        change.headers.as_ref().map(as_json),
        change.retry_count,
        change.retry_schedule.is_some(),
        change.retry_schedule.as_ref().and_then(Option::as_deref),
        change.timeout_seconds,
        change.max_in_flight.is_some(),
        change.max_in_flight.flatten(),
        change.rate_limit.is_some(),
        change.rate_limit.flatten(),
        change.auto_recover,
    );
    Ok(row.fetch_optional(db).await?)
}

/// Marks a webhook deleted; its name is free again, its history stays. `None` where there is none.
pub async fn delete(db: impl PgExecutor<'_>, company: CompanyId, id: WebhookId) -> Result<Option<Row>> {
    let row = webhooks!(
        "
            -- webhooks.delete
            with webhook as (
                update webhooks
                set deleted_at = now(),
                    updated_at = now()
                where company_id = $1
                    and id = $2
                    and deleted_at is null
                returning *
            )",
        company.uuid(),
        id.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
}

/// Pauses a webhook. One that is paused already keeps its first reason, and is not among the answers: `None`.
pub async fn pause(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: WebhookId,
    by: &str,
    why: &str,
) -> Result<Option<Row>> {
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

/// Ends a pause, and orders in the same statement what becomes of what it held. `None` where nothing was paused.
///
/// The order is a row of `replays` of the kind `resume`, whose filter is `{"held":"deliver"}` or
/// `{"held":"discard"}`; feed works on it. One that is still open is given the new order.
pub async fn resume(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: WebhookId,
    by: &str,
    held: Held,
) -> Result<Option<Row>> {
    let (filter, rate) = match held {
        Held::Deliver { rate } => (r#"{"held":"deliver"}"#, rate),
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

/// The rate written where nothing is sent; the column wants one.
const DISCARD_RATE: i32 = 10_000;

/// Gives a webhook a new secret; the one it had signs too until `grace` has passed.
pub async fn rotate_secret(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: WebhookId,
    secret: &Secret,
    grace: Duration,
    guide_signature_is_previous: bool,
) -> Result<Option<Row>> {
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

/// Every living webhook of a company, active or not: what ingest matches with.
pub async fn of_company(db: impl PgExecutor<'_>, company: CompanyId) -> Result<Vec<Webhook>> {
    let rows = webhooks!(
        "
            -- webhooks.of_company
            with webhook as (
                select *
                from webhooks
                where company_id = $1
                    and deleted_at is null
            )",
        company.uuid(),
    );
    Ok(rows.fetch_all(db).await?.into_iter().map(Webhook::from).collect())
}

/// Webhooks by id, deleted ones too: what a worker asks, which has the ids from jobs and compares the company.
pub async fn by_ids(db: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<Webhook>> {
    let rows = webhooks!(
        "
            -- webhooks.by_ids
            with webhook as (
                select *
                from webhooks
                where id = any($1)
            )",
        ids,
    );
    Ok(rows.fetch_all(db).await?.into_iter().map(Webhook::from).collect())
}

fn as_json(headers: &BTreeMap<String, String>) -> String {
    serde_json::to_string(headers).expect("texts by text always make JSON")
}
