//! The table `webhooks`: who wants what, and how.
//!
//! A company's own calls get [`Row`], the row as it stands. The pipeline gets [`Webhook`], made of it. Every change
//! wakes the caches by the table's trigger, whoever makes it; nothing here has to remember that.

use std::collections::BTreeMap;

use sqlx::PgExecutor;
use uuid::Uuid;

use super::Result;
use crate::model::{CompanyId, Secret, Webhook, WebhookId};

mod row;

pub use row::{Change, Held, New, Row};

/// The most webhooks that one listing gives.
pub const LIST_MAX: i64 = 10_000;

/// Runs a statement whose first part makes the rows `webhook`, and reads those.
///
/// A trigger counts `version` up with every change of the row.
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
                metadata::text as "metadata!",
                paused_at,
                paused_by,
                pause_reason,
                created_at as "created_at!",
                updated_at as "updated_at!",
                created_by,
                deleted_at,
                version::text as "version!",
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

mod transitions;

pub use transitions::{pause, resume, rotate_secret};

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
                    auto_recover, metadata)
                values ($1, $2, $3, $4, $5, $6, $7, $8::text::json, $9, $10, $11, $12, $13, $14, $15,
                    $16::text::json)
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
        new.metadata,
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

/// A page of them: those behind `after`, a name with its id, at most `limit`.
pub async fn page(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    after: Option<(&str, WebhookId)>,
    limit: i64,
) -> Result<Vec<Row>> {
    let (name, id) = after.unzip();
    let rows = webhooks!(
        "
            -- webhooks.page
            with webhook as (
                select *
                from webhooks
                where company_id = $1
                    and deleted_at is null
                    and ($2::text is null or (name, id) > ($2, $3::uuid))
                order by name, id
                limit $4
            )",
        company.uuid(),
        name,
        id.map(WebhookId::uuid),
        limit,
    );
    Ok(rows.fetch_all(db).await?)
}

/// How many living webhooks a company has, counted up to `max`.
pub async fn count(db: impl PgExecutor<'_>, company: CompanyId, max: i64) -> Result<i64> {
    let counted = sqlx::query_scalar!(
        r#"
        -- webhooks.count
        select count(*) as "count!"
        from (
            select
            from webhooks
            where company_id = $1
                and deleted_at is null
            limit $2
        ) counted
        "#,
        company.uuid(),
        max,
    );
    Ok(counted.fetch_one(db).await?)
}

/// One living webhook of a company, which nobody else changes until the transaction ends.
pub async fn lock(db: impl PgExecutor<'_>, company: CompanyId, id: WebhookId) -> Result<Option<Row>> {
    let row = webhooks!(
        "
            -- webhooks.lock
            with webhook as (
                select *
                from webhooks
                where company_id = $1
                    and id = $2
                    and deleted_at is null
                for update
            )",
        company.uuid(),
        id.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
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
                    -- A secret given here replaces at once: none of those before it signs any more.
                    previous_secret = case when $9 is null then previous_secret end,
                    previous_secret_until = case when $9 is null then previous_secret_until end,
                    headers = coalesce($10::text::json, headers),
                    retry_count = coalesce($11, retry_count),
                    retry_schedule = case when $12 then $13 else retry_schedule end,
                    timeout_seconds = coalesce($14, timeout_seconds),
                    max_in_flight = case when $15 then $16 else max_in_flight end,
                    rate_limit = case when $17 then $18 else rate_limit end,
                    auto_recover = coalesce($19, auto_recover),
                    metadata = coalesce($20::text::json, metadata),
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
        change.metadata,
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
