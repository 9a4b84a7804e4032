//! The table `webhooks`: which events each webhook wants, and how.
//!
//! A company's own calls get [`WebhookRow`], the row as it is. The pipeline gets [`Webhook`], made from it. The table's
//! trigger notifies the caches of every change, whatever makes it; nothing here has to.

use sqlx::PgExecutor;
use uuid::Uuid;

use super::Result;
use crate::model::{CompanyId, Webhook, WebhookId, webhook::Settings};

mod row;

pub use row::WebhookRow;

/// The most webhooks that one listing gives.
pub const LIST_MAX: i64 = 10_000;

/// What the constraints of the table say about a value, by the constraint's name.
pub(super) const CONSTRAINTS: &[(&str, &str, &str)] = &[
    ("webhooks_name_length", "name", "must have 1 to 255 characters"),
    ("webhooks_events_not_empty", "events", "must name at least one event type, or `*` for all"),
    ("webhooks_retry_count_range", "retry_count", "must be from 1 to 20"),
    ("webhooks_timeout_range", "timeout_seconds", "must be from 1 to 60"),
    ("webhooks_max_attempt_age_range", "max_attempt_age_seconds", "must be from 60 to 2592000"),
    ("webhooks_max_in_flight_range", "max_in_flight", "must be from 1 to 10000"),
    ("webhooks_rate_limit_range", "rate_limit", "must be from 0.01 to 100000 per second"),
];

/// Runs a statement whose first part makes the rows `webhook`, and reads those.
///
/// A trigger counts `version` up with every change of the row.
macro_rules! webhooks {
    ($($sql:literal)+ $(, $argument:expr)* $(,)?) => {
        sqlx::query!(
            $($sql +)+ r#"
            select
                id as "id!",
                webhook.company_id as "company_id!",
                name as "name!",
                description,
                url as "url!",
                events as "events!",
                active as "active!",
                secret as "secret!",
                headers::text as "headers!",
                retry_count as "retry_count!",
                retry_schedule,
                timeout_seconds as "timeout_seconds!",
                max_attempt_age_seconds,
                max_in_flight,
                rate_limit,
                auto_recover as "auto_recover!",
                metadata::text as "metadata!",
                coalesce(previous_secret, '') as "previous_secret!",
                previous_secret_until,
                guide_signature_is_previous as "guide_signature_is_previous!",
                paused_at,
                paused_by,
                pause_reason,
                created_at as "created_at!",
                updated_at as "updated_at!",
                created_by,
                deleted_at,
                version as "version!",
                l.opened_at as "opened_at?",
                l.next_probe_at as "next_probe_at?",
                l.held_back_until as "rate_limited_until?"
            from webhook
            left join lanes l on l.webhook_id = webhook.id
            order by name, id
            "#,
            $($argument),*
        )
        .map(|row| $crate::store::webhooks::WebhookRow {
            id: $crate::model::WebhookId(row.id),
            company_id: $crate::model::CompanyId(row.company_id),
            settings: $crate::model::webhook::Settings {
                name: row.name,
                description: row.description,
                url: row.url,
                events: row.events,
                active: row.active,
                secret: $crate::model::Secret::new(row.secret),
                headers: $crate::store::webhooks::row::headers(&row.headers),
                retry_count: row.retry_count,
                retry_schedule: row.retry_schedule,
                timeout_seconds: row.timeout_seconds,
                max_attempt_age_seconds: row.max_attempt_age_seconds,
                max_in_flight: row.max_in_flight,
                rate_limit: row.rate_limit,
                auto_recover: row.auto_recover,
                metadata: $crate::store::webhooks::row::object(&row.metadata),
            },
            previous_secret: row.previous_secret,
            previous_secret_until: row.previous_secret_until,
            guide_signature_is_previous: row.guide_signature_is_previous,
            paused_at: row.paused_at,
            paused_by: row.paused_by,
            pause_reason: row.pause_reason,
            created_at: row.created_at,
            updated_at: row.updated_at,
            created_by: row.created_by,
            deleted_at: row.deleted_at,
            version: row.version,
            lane: $crate::model::lane::Standing {
                open: row.opened_at.map(|since| $crate::model::lane::OpenBreaker {
                    since,
                    next_probe_at: row.next_probe_at.unwrap_or(since),
                }),
                rate_limited_until: row.rate_limited_until,
            },
        })
    };
}

/// Runs a statement that writes all settings: between the three parts are the columns and the values. The values begin
/// at `$4`.
macro_rules! save {
    ($before:literal, $between:literal, $after:literal, $settings:expr, $first:expr, $second:expr, $third:expr $(,)?) => {
        webhooks!(
            $before
            "name, description, url, events, active, secret, headers, retry_count, retry_schedule, timeout_seconds,
             max_in_flight, rate_limit, auto_recover, metadata, max_attempt_age_seconds"
            $between
            "$4, $5, $6, $7, $8, $9, $10::text::json, $11, $12, $13, $14, $15, $16, $17::text::json, $18"
            $after,
            $first,
            $second,
            $third,
            $settings.name,
            $settings.description.as_deref(),
            $settings.url,
            &$settings.events,
            $settings.active,
            $settings.secret.expose(),
            json(&$settings.headers),
            $settings.retry_count,
            $settings.retry_schedule.as_deref(),
            $settings.timeout_seconds,
            $settings.max_in_flight,
            $settings.rate_limit,
            $settings.auto_recover,
            json(&$settings.metadata),
            $settings.max_attempt_age_seconds,
        )
    };
}

mod transitions;

pub use transitions::{pause, resume, rotate_secret};

/// A webhook to be saved.
#[derive(Clone, Copy, Debug)]
pub enum Saved<'a> {
    /// A new one.
    New {
        /// Who makes it.
        by: &'a str,
    },
    /// One whose row the transaction has locked.
    Locked {
        id: WebhookId,
        /// Whether its secret is replaced: then no earlier secret signs any more.
        replaces_secret: bool,
    },
}

/// Writes all settings of a webhook; `None` if there is none to change.
///
/// # Errors
/// [`super::Error::NameTaken`], and [`super::Error::Refused`] for a value out of its range.
pub async fn save(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    webhook: Saved<'_>,
    settings: &Settings,
) -> Result<Option<WebhookRow>> {
    let row = match webhook {
        Saved::New { by } => {
            let row = save!(
                "
                -- webhooks.create
                with webhook as (
                    insert into webhooks (company_id, id, created_by, ",
                ") values ($1, $2, $3, ",
                ") returning *
                )",
                settings,
                company.uuid(),
                Uuid::new_v4(),
                by,
            );
            row.fetch_optional(db).await?
        }
        Saved::Locked { id, replaces_secret } => {
            let row = save!(
                "
                -- webhooks.update
                with webhook as (
                    update webhooks
                    set previous_secret = case when $3 then null else previous_secret end,
                        previous_secret_until = case when $3 then null else previous_secret_until end,
                        updated_at = now(),
                        (",
                ") = (",
                ")
                    where company_id = $1
                        and id = $2
                        and deleted_at is null
                    returning *
                )",
                settings,
                company.uuid(),
                id.uuid(),
                replaces_secret,
            );
            row.fetch_optional(db).await?
        }
    };
    Ok(row)
}

/// The webhooks of a company that are not deleted, by name, at most [`LIST_MAX`].
pub async fn list(db: impl PgExecutor<'_>, company: CompanyId) -> Result<Vec<WebhookRow>> {
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

/// A page of them: those after `after`, a name with its id, at most `limit`.
pub async fn page(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    after: Option<(&str, WebhookId)>,
    limit: i64,
) -> Result<Vec<WebhookRow>> {
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

/// How many webhooks that are not deleted a company has, counted up to `max`.
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

/// One webhook of a company that is not deleted, locked until the transaction ends.
pub async fn lock(db: impl PgExecutor<'_>, company: CompanyId, id: WebhookId) -> Result<Option<WebhookRow>> {
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

/// One webhook of a company that is not deleted.
pub async fn get(db: impl PgExecutor<'_>, company: CompanyId, id: WebhookId) -> Result<Option<WebhookRow>> {
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

/// Marks a webhook deleted; its name is free again, its history stays. `None` if there is none.
pub async fn delete(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: WebhookId,
) -> Result<Option<WebhookRow>> {
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

/// The value for a column of JSON.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("texts, and what was JSON before, always make JSON")
}
