//! What a company sees of its events: pages of them, and one event with what became of it.
//!
//! Ids begin with the event's time, so times bound ids, and a page is a walk backwards along one index of only those
//! days. Each filter that has its own index has its own statement, because no single plan would suit all of them. Types
//! have no index: they are checked on the way, and a page of rare types is given up after so many rows, as with any
//! other filter ([`search`]).

mod filtered;

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgExecutor, PgPool};
use uuid::Uuid;

use super::{Result, search};
use crate::model::{CompanyId, DeliveryId, DeliveryStatus, EventId, ReplayId, Trigger, WebhookId};

/// The most webhooks of a company for which an event's deliveries are looked up: as many as a company may list.
pub const WEBHOOKS_MAX: i64 = 10_000;
/// The most replays, newest first, for which an event's deliveries are looked up.
pub const REPLAYS_MAX: i64 = 100;
/// The most deliveries of an event that are shown.
pub const DELIVERIES_MAX: i64 = 1_000;

/// An event as it is in the ledger.
#[derive(Clone, Debug)]
pub struct EventRow {
    pub id: Uuid,
    pub company_id: Uuid,
    pub event_type: String,
    /// What makes it the same event when it is published again.
    pub message_id: String,
    /// Its time as it is sent.
    pub timestamp: i64,
    /// When it was taken in.
    pub received_at: DateTime<Utc>,
    /// As published; `None` unless it was asked for.
    pub data: Option<String>,
    /// How many webhooks wanted it.
    pub matched: i32,
    /// The instant of the subscriptions it was matched with.
    pub matched_as_of: DateTime<Utc>,
    /// How it violates its type's schema.
    pub violation: Option<String>,
    /// The trace it was published in.
    pub traceparent: Option<String>,
}

/// Which events are wanted. Every statement applies all of it except what belongs to another statement.
#[derive(Clone, Debug, Default)]
pub struct EventsPage {
    pub event_type: Option<String>,
    /// Only of types with this prefix.
    pub type_prefix: Option<String>,
    /// Only these.
    pub ids: Option<Vec<Uuid>>,
    /// Only with this id of the publisher.
    pub message_id: Option<String>,
    /// Only those that no webhook wanted, or only those that one did.
    pub unmatched: Option<bool>,
    /// Only from this id on.
    pub from: Uuid,
    /// Only before this id: the end of the time asked for, or the last of the page before.
    pub before: Uuid,
    /// Whether `data` is wanted, too.
    pub data: bool,
    /// How many at most.
    pub limit: i64,
}

macro_rules! events {
    ($sql:literal, $company:expr, $page:expr $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            EventRow,
            $sql + r#"
                and id >= $2
                and id < $3
                and ($4::text is null or event_type = $4)
                and ($5::text is null or starts_with(event_type, $5))
                and ($6::boolean is null or (matched = 0) = $6)
            order by id desc
            limit $7"#,
            $company.uuid(),
            $page.from,
            $page.before,
            $page.event_type,
            $page.type_prefix,
            $page.unmatched,
            $page.limit,
            $page.data,
            $($argument),*
        )
    };
}

/// What a page found.
#[derive(Clone, Debug)]
pub struct FoundEvent {
    /// Newest first.
    pub rows: Vec<EventRow>,
    /// The id before which the next page begins; `None` at the end.
    pub next: Option<Uuid>,
}

/// A page of a company's events.
pub async fn list(db: &PgPool, company: CompanyId, page: &EventsPage) -> Result<FoundEvent> {
    let is_few = page.message_id.is_some() || page.ids.is_some();
    let is_filtered =
        page.event_type.is_some() || page.type_prefix.is_some() || page.unmatched == Some(false);
    if is_filtered && !is_few {
        return filtered::list(db, company, page).await;
    }
    let more = EventsPage { limit: page.limit + 1, ..page.clone() };
    let mut rows = if let Some(message_id) = &page.message_id {
        by_message(db, company, &more, message_id).await?
    } else if let Some(ids) = &page.ids {
        by_ids(db, company, &more, ids).await?
    } else if page.unmatched == Some(true) {
        unmatched(db, company, &more).await?
    } else {
        all(db, company, &more).await?
    };
    let is_more = i64::try_from(rows.len()).is_ok_and(|found| found > page.limit);
    rows.truncate(usize::try_from(page.limit).unwrap_or_default());
    let next = if is_more { rows.last().map(|row| row.id) } else { None };
    Ok(FoundEvent { rows, next })
}

async fn all(db: impl PgExecutor<'_>, company: CompanyId, page: &EventsPage) -> Result<Vec<EventRow>> {
    let rows = events!(
        r#"-- events.list
        select id, company_id, event_type, message_id, "timestamp", received_at, matched, matched_as_of, violation,
               traceparent, case when $8 then data::text end as data
        from events
        where company_id = $1"#,
        company,
        page,
    );
    Ok(rows.fetch_all(db).await?)
}

async fn by_message(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    page: &EventsPage,
    message_id: &str,
) -> Result<Vec<EventRow>> {
    // `offset 0` keeps order and bounds out: PostgreSQL would rather walk the company's events along them than look one
    // up in each day.
    let rows = events!(
        r#"-- events.by_message
        select id, company_id, event_type, message_id, "timestamp", received_at, matched, matched_as_of, violation,
               traceparent, case when $8 then data::text end as data
        from (select *
              from events
              where company_id = $1
                  and message_id = $9
              offset 0) e
        where ($10::uuid[] is null or id = any($10))"#,
        company,
        page,
        message_id,
        page.ids.as_deref(),
    );
    Ok(rows.fetch_all(db).await?)
}

async fn by_ids(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    page: &EventsPage,
    ids: &[Uuid],
) -> Result<Vec<EventRow>> {
    // `any` alone would read every partition.
    let least = ids.iter().min().copied().unwrap_or_default().max(page.from);
    let page = EventsPage { from: least, ..page.clone() };
    let rows = events!(
        r#"-- events.by_ids
        select id, company_id, event_type, message_id, "timestamp", received_at, matched, matched_as_of, violation,
               traceparent, case when $8 then data::text end as data
        from events
        where company_id = $1
            and id = any($9)
            and id <= $10"#,
        company,
        page,
        ids,
        ids.iter().max().copied().unwrap_or_default(),
    );
    Ok(rows.fetch_all(db).await?)
}

async fn unmatched(db: impl PgExecutor<'_>, company: CompanyId, page: &EventsPage) -> Result<Vec<EventRow>> {
    let rows = events!(
        r#"-- events.unmatched
        select id, company_id, event_type, message_id, "timestamp", received_at, matched, matched_as_of, violation,
               traceparent, case when $8 then data::text end as data
        from events
        where company_id = $1
            and matched = 0"#,
        company,
        page,
    );
    Ok(rows.fetch_all(db).await?)
}

/// How many there are, at most `page.limit`; `None` if counting takes longer.
pub async fn count(
    db: &PgPool,
    company: CompanyId,
    page: &EventsPage,
    time_max: Duration,
) -> Result<Option<i64>> {
    let mut tx = db.begin().await?;
    search::within(&mut tx, time_max).await?;
    let count = sqlx::query_scalar!(
        r#"-- events.count
        select count(*) as "count!"
        from (select from events
              where company_id = $1
                  and id >= $2
                  and id < $3
                  and ($4::text is null or event_type = $4)
                  and ($5::text is null or starts_with(event_type, $5))
                  and ($6::boolean is null or (matched = 0) = $6)
                  and ($8::uuid[] is null or id = any($8))
                  and ($9::text is null or message_id = $9)
              limit $7) e"#,
        company.uuid(),
        page.from,
        page.before,
        page.event_type,
        page.type_prefix,
        page.unmatched,
        page.limit,
        page.ids.as_deref(),
        page.message_id,
    );
    search::known_in_time(count.fetch_one(&mut *tx).await)
}

/// One event of a company.
pub async fn get(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    id: EventId,
    data: bool,
) -> Result<Option<EventRow>> {
    let row = sqlx::query_as!(
        EventRow,
        r#"-- events.get
        select id, company_id, event_type, message_id, "timestamp", received_at, matched, matched_as_of, violation,
               traceparent, case when $3 then data::text end as data
        from events
        where company_id = $1
            and id = $2"#,
        company.uuid(),
        id.uuid(),
        data,
    );
    Ok(row.fetch_optional(db).await?)
}

/// A delivery in short.
#[derive(Clone, Debug)]
pub struct Sent {
    pub id: Uuid,
    /// Where it goes.
    pub webhook_id: Uuid,
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
    /// When a job was made for it.
    pub queued_at: Option<DateTime<Utc>>,
    /// The status of the latest answer.
    pub response_status: Option<i32>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was accepted.
    pub delivered_at: Option<DateTime<Utc>>,
}

/// The deliveries of an event, newest first: its own, and those of the newest replays.
///
/// Their ids are derived from the event, its company's webhooks and those replays, so each is looked up where it must
/// be. No index of deliveries by event is needed, which would add to the cost of every event.
pub async fn deliveries(db: &sqlx::PgPool, company: CompanyId, event: EventId) -> Result<Vec<Sent>> {
    let webhooks = sqlx::query_scalar!(
        "-- events.webhooks
        select id
        from webhooks
        where company_id = $1
        order by id
        limit $2",
        company.uuid(),
        WEBHOOKS_MAX,
    );
    let webhooks: Vec<Uuid> = webhooks.fetch_all(db).await?;
    let own: Vec<Uuid> =
        webhooks.iter().map(|webhook| DeliveryId::derive(event, WebhookId(*webhook)).0).collect();
    let mut found = sent(db, company, event, &own).await?;
    let orders = sqlx::query!(
        "-- events.replays
        select id, webhook_id, started_at
        from replays
        where company_id = $1
            and kind in ('replay', 'recovery')
            and started_at >= $2
        order by started_at desc
        limit $3",
        company.uuid(),
        // Nothing is sent again before it was taken in; an event may be dated an hour ahead.
        event.time() - crate::model::envelope::PLACED_FUTURE_MAX,
        REPLAYS_MAX,
    );
    let mut again = Vec::new();
    for order in orders.fetch_all(db).await? {
        let of = |sent: &&Sent| order.webhook_id.is_none_or(|webhook| webhook == sent.webhook_id);
        again.extend(found.iter().filter(of).map(|sent| {
            let webhook = WebhookId(sent.webhook_id);
            DeliveryId::of_replay(ReplayId(order.id), order.started_at, event, webhook).0
        }));
    }
    again.truncate(usize::try_from(WEBHOOKS_MAX).unwrap_or_default());
    found.extend(sent(db, company, event, &again).await?);
    found.sort_unstable_by_key(|sent| std::cmp::Reverse((sent.created_at, sent.id)));
    found.truncate(usize::try_from(DELIVERIES_MAX).unwrap_or_default());
    Ok(found)
}

async fn sent(db: &sqlx::PgPool, company: CompanyId, event: EventId, ids: &[Uuid]) -> Result<Vec<Sent>> {
    let (Some(least), Some(greatest)) = (ids.iter().min(), ids.iter().max()) else {
        return Ok(Vec::new());
    };
    let rows = sqlx::query_as!(
        Sent,
        r#"-- events.sent
        select id, webhook_id, trigger as "trigger: Trigger", status as "status: DeliveryStatus", reason, attempts, due_at, queued_at, response_status, created_at,
               delivered_at
        from webhook_deliveries
        where company_id = $1
            and event_id = $2
            and id = any($3)
            and id between $4 and $5"#,
        company.uuid(),
        event.uuid(),
        ids,
        *least,
        *greatest,
    );
    Ok(rows.fetch_all(db).await?)
}

/// The state of a webhook at some time, as far as matching depends on it.
#[derive(Clone, Debug)]
pub struct Version {
    pub webhook_id: Uuid,
    /// What it wanted; `None` if it did not exist yet.
    pub events: Option<Vec<String>>,
    pub active: Option<bool>,
    pub deleted: Option<bool>,
}

/// The webhooks of a company as they were at `at`: one of them, or the first `limit`. One created later has nothing but
/// its id.
pub async fn versions(
    db: impl PgExecutor<'_>,
    company: CompanyId,
    webhook: Option<WebhookId>,
    at: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Version>> {
    let rows = sqlx::query_as!(
        Version,
        r#"-- events.versions
        select w.id as webhook_id, v.events as "events?", v.active as "active?", v.deleted as "deleted?"
        from webhooks w
        left join lateral (select *
                           from webhook_versions v
                           where v.webhook_id = w.id
                               and v.valid_from <= $3
                               and v.valid_to > $3
                           order by v.valid_from desc
                           limit 1) v on true
        where w.company_id = $1
            and ($2::uuid is null or w.id = $2)
            and ($2::uuid is not null or w.deleted_at is null or not coalesce(v.deleted, true))
        order by w.id
        limit $4"#,
        company.uuid(),
        webhook.map(WebhookId::uuid),
        at,
        limit,
    );
    Ok(rows.fetch_all(db).await?)
}
