//! The table `replays`: orders to send again, and to resume what a pause held.
//!
//! An order is a row and nothing more. Schedule expands it in chunks and at a rate, so it survives any
//! crash and no caller waits for it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Result;
use crate::model::{
    CompanyId, DeliveryStatus, ReplayId, Trigger, WebhookId,
    replay::{ReplayKind, ReplayStatus},
    webhook::Held,
};

/// Up to how many open deliveries of a replay are counted.
pub const OPEN_COUNTED_MAX: i64 = 10_000;

/// What to send again: what is listed, else everything that matches all other fields. Times are those of the
/// deliveries' ids, that is, of their events.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplayFilter {
    /// Just these, by the id of the delivery or of its dead letter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Uuid>,
    /// Just these dead letters that are not deliveries: messages and events, to be published again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Uuid>,
    /// Only of this webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_id: Option<Uuid>,
    /// Only of this type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// Only in this state; by default dead ones, because asking for everything means what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<DeliveryStatus>,
    /// Only from then on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    /// Only before then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Of a recovery: only what was given up then or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_since: Option<DateTime<Utc>>,
    /// Of a recovery: only what was given up then or before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_until: Option<DateTime<Utc>>,
}

/// A replay that still makes or releases something, as schedule works on it.
#[derive(Clone, Debug)]
pub struct Open {
    pub id: ReplayId,
    pub company: CompanyId,
    /// What it is for.
    pub kind: ReplayKind,
    /// The webhook it is limited to.
    pub webhook: Option<WebhookId>,
    /// What to send again.
    pub filter: ReplayFilter,
    /// For a resume: what becomes of what is held.
    pub held: Held,
    /// Deliveries a second.
    pub rate: i32,
    /// When it began; its deliveries are placed there.
    pub started_at: DateTime<Utc>,
    /// Expanded up to this source.
    pub cursor: Uuid,
}

impl Open {
    /// Why the deliveries that it makes exist.
    pub(super) fn trigger(&self) -> Trigger {
        match self.kind {
            ReplayKind::Recovery => Trigger::Recovery,
            ReplayKind::Replay | ReplayKind::Resume => Trigger::Replay,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ReplayRow {
    pub id: ReplayId,
    pub company_id: CompanyId,
    pub kind: ReplayKind,
    /// The webhook, if it is about one.
    pub webhook_id: Option<Uuid>,
    /// A [`ReplayFilter`] as JSON; for a resume `{"held":"deliver"}` or `{"held":"discard"}`.
    pub filter: String,
    /// Deliveries a second.
    pub rate: i32,
    /// Who asked.
    pub requested_by: String,
    pub status: ReplayStatus,
    /// When it was asked.
    pub started_at: DateTime<Utc>,
    /// When the last of its deliveries was made.
    pub expanded_at: Option<DateTime<Utc>>,
    /// When the last of them ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// How many it made.
    pub made: i64,
    /// How many sources had nothing left to send.
    pub skipped: i64,
}

/// Asks for deliveries to be sent again.
///
/// # Errors
/// [`super::Error::Refused`] for a rate out of its range.
pub async fn create(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    kind: ReplayKind,
    webhook: Option<WebhookId>,
    filter: &ReplayFilter,
    rate: i32,
    requested_by: &str,
) -> Result<ReplayId> {
    let id = ReplayId(Uuid::new_v4());
    let done = sqlx::query!(
        "
        -- replays.create
        insert into replays (id, company_id, kind, webhook_id, filter, rate, requested_by)
        values ($1, $2, $3, $4, $5::text::json, $6, $7)
        ",
        id.uuid(),
        company.uuid(),
        kind.as_str(),
        webhook.map(WebhookId::uuid),
        as_json(filter),
        rate,
        requested_by,
    );
    done.execute(db).await?;
    Ok(id)
}

/// Runs a statement whose first part makes the rows `replay`, and reads those.
macro_rules! replays {
    ($sql:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            ReplayRow,
            $sql + r#"
            select
                id as "id!",
                company_id as "company_id!",
                kind as "kind!: ReplayKind",
                webhook_id,
                filter::text as "filter!",
                rate as "rate!",
                requested_by as "requested_by!",
                status as "status!: ReplayStatus",
                started_at as "started_at!",
                expanded_at,
                ended_at,
                made as "made!",
                skipped as "skipped!"
            from replay
            order by started_at, id
            "#,
            $($argument),*
        )
    };
}

/// One order of a company.
pub async fn get(db: impl PgExecutor<'_>, company: CompanyId, id: ReplayId) -> Result<Option<ReplayRow>> {
    let row = replays!(
        "
            -- replays.get
            with replay as (
                select *
                from replays
                where company_id = $1
                    and id = $2
            )",
        company.uuid(),
        id.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
}

/// Which replays of a company are wanted. What is absent does not filter.
#[derive(Clone, Debug, Default)]
pub struct ReplayListQuery {
    /// Of these kinds.
    pub kinds: Option<Vec<String>>,
    /// In these states.
    pub statuses: Option<Vec<String>>,
    pub webhook: Option<WebhookId>,
    /// Older than this one: the last of the previous page.
    pub before: Option<(DateTime<Utc>, Uuid)>,
}

/// A page of a company's orders, newest first.
pub async fn list(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    query: &ReplayListQuery,
    limit: i64,
) -> Result<Vec<ReplayRow>> {
    let rows = replays!(
        "
            -- replays.list
            with replay as (
                select *
                from replays
                where company_id = $1
                    and ($2::text[] is null or kind = any($2))
                    and ($3::text[] is null or status = any($3))
                    and ($4::uuid is null or webhook_id = $4)
                    and (started_at, id) < (coalesce($5, 'infinity'::timestamptz), coalesce($6, $8::uuid))
                order by started_at desc, id desc
                limit $7
            )",
        company.uuid(),
        query.kinds.as_deref() as _,
        query.statuses.as_deref() as _,
        query.webhook.map(WebhookId::uuid),
        query.before.map(|(at, _)| at),
        query.before.map(|(_, id)| id),
        limit,
        Uuid::max(),
    );
    Ok(row_order(rows.fetch_all(db).await?))
}

/// Newest first; the statement's common part orders the other way.
fn row_order(mut rows: Vec<ReplayRow>) -> Vec<ReplayRow> {
    rows.reverse();
    rows
}

/// How many orders of a company are wanted, up to `rows_max`.
pub async fn count(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    query: &ReplayListQuery,
    rows_max: i64,
) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"
        -- replays.count
        select count(*) as "count!"
        from (
            select
            from replays
            where company_id = $1
                and ($2::text[] is null or kind = any($2))
                and ($3::text[] is null or status = any($3))
                and ($4::uuid is null or webhook_id = $4)
            limit $5
        ) as found
        "#,
        company.uuid(),
        query.kinds.as_deref() as _,
        query.statuses.as_deref() as _,
        query.webhook.map(WebhookId::uuid),
        rows_max,
    );
    Ok(count.fetch_one(db).await?)
}

/// How many of its deliveries have not ended yet, up to [`OPEN_COUNTED_MAX`].
pub async fn open(db: impl PgExecutor<'_>, company: CompanyId, id: ReplayId) -> Result<i64> {
    let open = sqlx::query_scalar!(
        r#"
        -- replays.open_deliveries
        select count(*) as "open!"
        from (
            select
            from webhook_deliveries
            where replay_id = $2
                and company_id = $1
                and status in ('pending', 'held')
            limit $3
        ) as unended
        "#,
        company.uuid(),
        id.uuid(),
        OPEN_COUNTED_MAX,
    );
    Ok(open.fetch_one(db).await?)
}

/// The open order that is resuming a webhook of a company.
pub async fn resuming(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    webhook: WebhookId,
) -> Result<Option<ReplayRow>> {
    let row = replays!(
        "
            -- replays.resuming
            with replay as (
                select *
                from replays
                where company_id = $1
                    and webhook_id = $2
                    and kind = 'resume'
                    and status <> 'done'
            )",
        company.uuid(),
        webhook.uuid(),
    );
    Ok(row.fetch_optional(db).await?)
}

fn as_json(filter: &ReplayFilter) -> String {
    serde_json::to_string(filter).expect("ids, words and times always make JSON")
}
