//! What matching needs of the webhooks of a company.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::model::{CompanyId, WebhookId};

/// An active webhook, as ingest sees it.
#[derive(Clone, Debug)]
pub struct Subscribed {
    pub id: WebhookId,
    /// The event types it wants, with wildcards.
    pub events: Vec<String>,
    /// Whether its deliveries begin held.
    pub paused: bool,
    /// Whether schedule has more for it than fits its window, or its lane lets nothing start: new deliveries are left
    /// to schedule as well.
    pub backlog: bool,
}

/// What is known about a company at an instant.
#[derive(Clone, Debug)]
pub struct OfCompany {
    /// The instant.
    pub as_of: DateTime<Utc>,
    /// Its active webhooks.
    pub webhooks: Vec<Subscribed>,
    /// Whether it is being erased: nothing is taken in for it any more.
    pub erased: bool,
}

/// The active webhooks of a company, and the instant at which they were read.
pub async fn of_company(pool: &PgPool, company: CompanyId) -> sqlx::Result<OfCompany> {
    let rows = sqlx::query!(
        r#"-- webhooks.subscribed
        select t.now as "now!", w.id as "id?", w.events as "events?", w.paused_at is not null as "paused!",
               exists (select from erasures where company_id = $1) as "erased!",
               coalesce(l.waiting > 0 or l.opened_at is not null or l.held_back_until > now(), false) as "backlog!"
        from (select now() as now) t
        left join webhooks w on w.company_id = $1 and w.active and w.deleted_at is null
        left join lanes l on l.webhook_id = w.id
        order by w.id"#,
        company.0,
    )
    .fetch_all(pool)
    .await?;
    let erased = rows.first().is_some_and(|row| row.erased);
    let as_of = rows.first().map_or(DateTime::<Utc>::MIN_UTC, |row| row.now);
    let webhooks = rows
        .into_iter()
        .filter_map(|row| {
            Some(Subscribed {
                id: WebhookId(row.id?),
                events: row.events?,
                paused: row.paused,
                backlog: row.backlog,
            })
        })
        .collect();
    Ok(OfCompany { as_of, webhooks, erased })
}
