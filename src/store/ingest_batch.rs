//! Writes a batch of events, each with its deliveries, in one statement that commits itself.
//!
//! Guarantees: an event is in the ledger only together with its first chunk of deliveries; what exists is
//! never written again; only the caller whose statement inserted a delivery learns so, and may publish its job.
//!
//! `(… in (…)) is true` keeps PostgreSQL from turning it into a join, which on this pool would compare every delivery
//! with every event; this way it looks each one up in a hash.
//!
//! An event with more webhooks than fit into a statement is written in chunks. `fanned_out` is set with the last one.
//! Until then a chunk after the first, or a process that takes the message over, still inserts deliveries
//! ([`continue_fan_out`]); afterwards nothing does, so a late repeat reaches no webhook created since.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Uuid};

use crate::model::{CompanyId, DeliveryId, Event, EventId, EventType, WebhookId};

/// An event to be written.
#[derive(Clone, Debug)]
pub struct EventToInsert<'a> {
    pub event: &'a Event,
    /// How many webhooks want it.
    pub matched: i32,
    /// The instant of the subscriptions it was matched with.
    pub matched_as_of: DateTime<Utc>,
    /// Whether the deliveries given with it are the last.
    pub last: bool,
    /// How it violates its type's schema.
    pub violation: Option<&'a str>,
}

/// The initial state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begins {
    /// A job is published right after the commit.
    Queued,
    /// It waits in the ledger for schedule.
    Waiting,
    /// Its webhook is paused.
    Held,
}

/// A delivery to be written.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// Derived from event and webhook.
    pub id: DeliveryId,
    /// The event it carries.
    pub event: EventId,
    /// Where it goes.
    pub webhook: WebhookId,
    pub company: CompanyId,
    pub event_type: EventType,
    /// Its initial state.
    pub begins: Begins,
}

/// What a statement wrote.
#[derive(Debug, Default)]
pub struct Inserted {
    /// The database's time of the statement, if it wrote anything.
    pub at: Option<DateTime<Utc>>,
    /// The events that were new.
    pub events: HashSet<EventId>,
}

/// Writes new events with their deliveries, and counts them. An event that exists is left as it is, and so are its
/// deliveries.
///
/// `writer` is this process. Rows of counts are locked last and in the order of their key, when every event of the
/// batch is written: a process that waits for one of our events holds none of them.
pub async fn ingest_batch(
    pool: &PgPool,
    events: &[EventToInsert<'_>],
    deliveries: &[NewDelivery],
    writer: i32,
) -> sqlx::Result<Inserted> {
    let e = EventColumns::of(events);
    let d = Columns::of(deliveries);
    let rows = sqlx::query_file!(
        "src/store/ingest_batch/batch.sql",
        &e.ids,
        &e.companies,
        &e.types as _,
        &e.messages as _,
        &e.timestamps,
        &e.data as _,
        &e.hashes,
        &e.traces as _,
        &e.matched,
        &e.as_of,
        &e.last,
        &d.ids,
        &d.companies,
        &d.webhooks,
        &d.events,
        &d.types as _,
        &d.statuses as _,
        &d.reasons as _,
        &d.queued,
        &e.violations as _,
        writer,
    )
    .fetch_all(pool)
    .await?;
    Ok(Inserted {
        at: rows.first().map(|row| row.now),
        events: rows.into_iter().map(|row| EventId(row.id)).collect(),
    })
}

/// What the ledger knew of events that were not new.
#[derive(Debug, Default)]
pub struct Continued {
    /// The database's time of the statement.
    pub at: Option<DateTime<Utc>>,
    /// Each known event with the hash of the body it was first published with.
    pub known: Vec<(EventId, i64)>,
    /// The deliveries that this statement inserted.
    pub deliveries: HashSet<DeliveryId>,
}

/// Continues events whose fan-out is not finished, and finds those that are finished.
pub async fn continue_fan_out(
    pool: &PgPool,
    events: &[(EventId, bool)],
    deliveries: &[NewDelivery],
) -> sqlx::Result<Continued> {
    let (ids, last): (Vec<Uuid>, Vec<bool>) = events.iter().map(|(id, last)| (id.0, *last)).unzip();
    let d = Columns::of(deliveries);
    let row = sqlx::query!(
        r#"-- ingest.continue
        with arrived as (
            select * from unnest($1::uuid[], $2::boolean[]) as a (id, last)
        ), known as (
            select e.id, e.body_hash, e.fanned_out
            from arrived a
            join events e on e.id = a.id
        ), owed as (
            insert into webhook_deliveries (id, company_id, webhook_id, event_id, event_type, trigger, status, reason,
                                            queued_at)
            select id, company_id, webhook_id, event_id, event_type, 'event', status, reason,
                   case when queued then now() end
            from unnest($3::uuid[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::text[], $9::text[],
                        $10::boolean[])
                as d (id, company_id, webhook_id, event_id, event_type, status, reason, queued)
            where (event_id in (select id from known where not fanned_out)) is true
            on conflict (id) do nothing
            returning id
        ), finished as (
            update events e
            set fanned_out = true
            from arrived a
            where e.id = a.id and a.last and not e.fanned_out
        )
        select now() as "now!",
               array(select id from known order by id) as "known!",
               array(select body_hash from known order by id) as "hashes!",
               array(select id from owed) as "owed!""#,
        &ids,
        &last,
        &d.ids,
        &d.companies,
        &d.webhooks,
        &d.events,
        &d.types as _,
        &d.statuses as _,
        &d.reasons as _,
        &d.queued,
    )
    .fetch_one(pool)
    .await?;
    Ok(Continued {
        at: Some(row.now),
        known: row.known.into_iter().map(EventId).zip(row.hashes).collect(),
        deliveries: row.owed.into_iter().map(DeliveryId).collect(),
    })
}

/// A delivery whose first job may never have been published.
#[derive(Clone, Copy, Debug)]
pub struct Doubtful {
    pub delivery: DeliveryId,
    /// When that job was to be published.
    pub queued_at: DateTime<Utc>,
}

/// Those of `deliveries` that should have had a first job and that nobody has claimed or recorded. From now on that job is
/// not fresh, wherever it is.
pub async fn doubtful(pool: &PgPool, deliveries: &[DeliveryId]) -> sqlx::Result<Vec<Doubtful>> {
    let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.0).collect();
    let rows = sqlx::query!(
        r#"-- ingest.doubtful
        with doubtful as materialized (
            select d.id, d.queued_at
            from unnest($1::uuid[]) as w (id)
            join webhook_deliveries d on d.id = w.id
            where d.status = 'pending'
              and d.attempts = 0
              and d.queued_at is not null
              and coalesce(d.claimed_until, '-infinity') < now()
        ), limited as (
            update fresh_limit
            set queued_upto = (select max(queued_at) from doubtful)
            where queued_upto < (select max(queued_at) from doubtful)
        )
        select id as "id!", queued_at as "queued_at!" from doubtful"#,
        &ids,
    )
    .fetch_all(pool)
    .await?;
    let doubtful = |id, queued_at| Doubtful { delivery: DeliveryId(id), queued_at };
    Ok(rows.into_iter().map(|row| doubtful(row.id, row.queued_at)).collect())
}

/// One array for each column of `events`.
struct EventColumns<'a> {
    ids: Vec<Uuid>,
    companies: Vec<Uuid>,
    types: Vec<&'a str>,
    messages: Vec<&'a str>,
    timestamps: Vec<i64>,
    data: Vec<&'a str>,
    hashes: Vec<i64>,
    traces: Vec<Option<&'a str>>,
    matched: Vec<i32>,
    as_of: Vec<DateTime<Utc>>,
    last: Vec<bool>,
    violations: Vec<Option<&'a str>>,
}

impl<'a> EventColumns<'a> {
    fn of(new: &'a [EventToInsert<'a>]) -> Self {
        Self {
            ids: new.iter().map(|new| new.event.id.0).collect(),
            companies: new.iter().map(|new| new.event.company.0).collect(),
            types: new.iter().map(|new| new.event.event_type.as_str()).collect(),
            messages: new.iter().map(|new| new.event.message_id.as_str()).collect(),
            timestamps: new.iter().map(|new| new.event.timestamp).collect(),
            data: new.iter().map(|new| new.event.data.as_str()).collect(),
            hashes: new.iter().map(|new| new.event.body_hash).collect(),
            traces: new.iter().map(|new| new.event.traceparent.as_deref()).collect(),
            matched: new.iter().map(|new| new.matched).collect(),
            as_of: new.iter().map(|new| new.matched_as_of).collect(),
            last: new.iter().map(|new| new.last).collect(),
            violations: new.iter().map(|new| new.violation).collect(),
        }
    }
}

/// One array for each column of `webhook_deliveries`.
struct Columns<'a> {
    ids: Vec<Uuid>,
    companies: Vec<Uuid>,
    webhooks: Vec<Uuid>,
    events: Vec<Uuid>,
    types: Vec<&'a str>,
    statuses: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    queued: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn of(deliveries: &'a [NewDelivery]) -> Self {
        let uuids = |f: fn(&NewDelivery) -> Uuid| deliveries.iter().map(f).collect::<Vec<_>>();
        let held = |d: &NewDelivery| d.begins == Begins::Held;
        Self {
            ids: uuids(|d| d.id.0),
            companies: uuids(|d| d.company.0),
            webhooks: uuids(|d| d.webhook.0),
            events: uuids(|d| d.event.0),
            types: deliveries.iter().map(|d| d.event_type.as_str()).collect(),
            statuses: deliveries.iter().map(|d| if held(d) { "held" } else { "pending" }).collect(),
            reasons: deliveries.iter().map(|d| held(d).then_some("paused")).collect(),
            queued: deliveries.iter().map(|d| d.begins == Begins::Queued).collect(),
        }
    }
}
