//! The table `event_types`, which describes types of events and is the same for every company; and the roll-up
//! `event_stats`, which says how many of each a company had.
//!
//! Unregistered types are accepted as well. So a company is shown the registered types and those that it has published;
//! figures come from the roll-up, never from the events themselves.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor};

use super::Result;
use crate::model::CompanyId;

/// The most types of a company besides the registered ones, for suggestions.
pub const UNREGISTERED_MAX: i64 = 1_000;

/// How far back the counts of a type go.
pub const COUNTED_DAYS: u8 = 7;

/// A type, with a company's counts.
#[derive(Clone, Debug)]
pub struct EventTypeRow {
    pub name: String,
    /// Whether it is registered; if not, it was only seen, and has only counts of what follows.
    pub registered: bool,
    /// What it announces.
    pub description: Option<String>,
    /// A sample of such an event's `data`, as JSON text.
    pub sample: Option<String>,
    /// JSON Schemas by version, as JSON text.
    pub schemas: Option<String>,
    /// What becomes of an event that fits none of them.
    pub on_violation: Option<String>,
    /// When it was registered.
    pub created_at: Option<DateTime<Utc>>,
    /// When it was changed last.
    pub updated_at: Option<DateTime<Utc>>,
    /// How many such events the company had within [`COUNTED_DAYS`]; `None` without a company.
    pub events: Option<i64>,
    /// How many of them no webhook wanted.
    pub unmatched: Option<i64>,
    /// When the last one was taken in, to the minute.
    pub last_seen_at: Option<DateTime<Utc>>,
}

/// Runs a statement whose first part makes the rows `named (name)`, and reads what is known of each.
///
/// Counts are read type by type, each along the roll-up's key.
macro_rules! types {
    ($sql:literal, $company:expr $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            EventTypeRow,
            $sql + r#"
            select n.name as "name!",
                   t.name is not null as "registered!",
                   t.description as "description?",
                   t.sample::text as "sample?",
                   t.schemas::text as "schemas?",
                   t.on_violation as "on_violation?",
                   t.created_at as "created_at?",
                   t.updated_at as "updated_at?",
                   case when $1::uuid is not null then s.events end as "events?",
                   case when $1::uuid is not null then s.unmatched end as "unmatched?",
                   s.last_seen_at as "last_seen_at?"
            from named n
            left join event_types t on t.name = n.name
            cross join lateral (select coalesce(sum(e.events), 0)::bigint as events,
                                       coalesce(sum(e.unmatched), 0)::bigint as unmatched,
                                       max(e.minute) as last_seen_at
                                from event_stats e
                                where e.company_id = $1
                                    and e.event_type = n.name
                                    and e.minute >= now() - $2::double precision * interval '1 day') s
            order by n.name"#,
            $company.map(CompanyId::uuid),
            f64::from(COUNTED_DAYS),
            $($argument),*
        )
    };
}

/// A page of the types of a company, by name: the registered ones, and those it has published.
pub async fn list(
    db: impl PgExecutor<'_>,
    company: Option<CompanyId>,
    after: &str,
    limit: i64,
) -> Result<Vec<EventTypeRow>> {
    let rows = types!(
        "-- event_types.list
        with recursive published as (
            (select e.event_type
             from event_stats e
             where e.company_id = $1 and e.event_type > $3
             order by e.event_type
             limit 1)
            union all
            select (select e.event_type
                    from event_stats e
                    where e.company_id = $1 and e.event_type > p.event_type
                    order by e.event_type
                    limit 1)
            from published p
            where p.event_type is not null
        ), named as (
            (select event_type as name from published where event_type is not null limit $4)
            union
            (select name from event_types where name > $3 order by name limit $4)
            order by name
            limit $4
        )",
        company,
        after,
        limit,
    );
    Ok(rows.fetch_all(db).await?)
}

/// What is known about a type; `None` if it is neither registered nor seen.
pub async fn get(
    db: impl PgExecutor<'_>,
    company: Option<CompanyId>,
    name: &str,
) -> Result<Option<EventTypeRow>> {
    let row = types!(
        "-- event_types.get
        with named as (
            select $3::text as name
            where exists (select from event_types where name = $3)
                or exists (select from event_stats where company_id = $1 and event_type = $3)
        )",
        company,
        name,
    );
    Ok(row.fetch_optional(db).await?)
}

/// The names that a company may mean: the registered ones, and those it has published, up to [`UNREGISTERED_MAX`].
pub async fn known(db: impl PgExecutor<'_>, company: CompanyId) -> Result<Vec<String>> {
    let names = sqlx::query_scalar!(
        r#"-- event_types.known
        with recursive published as (
            (select e.event_type from event_stats e where e.company_id = $1 order by e.event_type limit 1)
            union all
            select (select e.event_type
                    from event_stats e
                    where e.company_id = $1 and e.event_type > p.event_type
                    order by e.event_type
                    limit 1)
            from published p
            where p.event_type is not null
        )
        (select event_type as "name!" from published where event_type is not null limit $2)
        union
        select name from event_types"#,
        company.uuid(),
        UNREGISTERED_MAX,
    );
    Ok(names.fetch_all(db).await?)
}

/// What a type is registered with.
#[derive(Clone, Debug)]
pub struct Registration<'a> {
    pub name: &'a str,
    /// What it announces.
    pub description: &'a str,
    /// A sample of such an event's `data`, as JSON text.
    pub sample: Option<&'a str>,
    /// JSON Schemas by version, as JSON text.
    pub schemas: &'a str,
    /// What becomes of an event that fits none of them.
    pub on_violation: &'a str,
    pub by: &'a str,
}

/// Locks a type against another change until the transaction ends.
pub async fn lock(db: &mut PgConnection, name: &str) -> Result<()> {
    // By its name, because its row may not exist yet.
    sqlx::query!(
        "-- event_types.lock
        select pg_advisory_xact_lock(hashtextextended('event_types ' || $1, 0))",
        name,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Registers a type, or changes what it is registered with.
pub async fn put(db: &mut PgConnection, new: &Registration<'_>) -> Result<()> {
    sqlx::query!(
        "-- event_types.put
        insert into event_types as t (name, description, sample, schemas, on_violation, updated_by)
        values ($1, $2, $3::text::json, $4::text::json, $5, $6)
        on conflict (name) do update
        set description = excluded.description,
            sample = excluded.sample,
            schemas = excluded.schemas,
            on_violation = excluded.on_violation,
            updated_at = now(),
            updated_by = excluded.updated_by",
        new.name,
        new.description,
        new.sample,
        new.schemas,
        new.on_violation,
        new.by,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Removes a type from the registry; false if it was not there.
pub async fn delete(db: &mut PgConnection, name: &str) -> Result<bool> {
    let done = sqlx::query!(
        "-- event_types.delete
        delete from event_types
        where name = $1",
        name,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// The schemas of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithSchemas {
    pub name: String,
    /// JSON Schemas by version, as JSON text.
    pub schemas: String,
    /// What becomes of an event that fits none of them.
    pub on_violation: String,
}

/// Every type that has a schema.
pub async fn with_schemas(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<WithSchemas>> {
    sqlx::query_as!(
        WithSchemas,
        r#"-- event_types.with_schemas
        select name, schemas::text as "schemas!", on_violation
        from event_types
        where schemas::text <> '{}'"#,
    )
    .fetch_all(db)
    .await
}

/// Removes counts from before `until`, some at a time; returns how many rows.
pub async fn forget_counts(
    db: impl PgExecutor<'_>,
    until: DateTime<Utc>,
    rows_max: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query!(
        "-- event_stats.forget
        delete from event_stats
        where ctid in (select ctid from event_stats where minute < $1 limit $2)",
        until,
        rows_max,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
