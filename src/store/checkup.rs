//! What a checkup asks the ledger: which server it is, which partitions exist for the coming days, and what is late.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgPool;

use super::Result;

/// How many webhooks are checked for the most overdue delivery.
pub const WEBHOOKS_LOOKED_AT_MAX: i32 = 1_000;

/// The server and its settings that matter here.
#[derive(Clone, Debug)]
pub struct ServerReport {
    /// As it calls itself.
    pub version: String,
    pub is_standby: bool,
    pub synchronous_commit: String,
    pub fsync: String,
    pub full_page_writes: String,
    pub autovacuum: String,
    pub max_connections: i32,
    /// Reserved for superusers.
    pub reserved: i32,
    /// Connections of clients now, ours included.
    pub connected: i64,
    /// Of those, the service's with this database.
    pub ours: i64,
}

/// Queries which server it is.
pub async fn server(pool: &PgPool) -> Result<ServerReport> {
    let server = sqlx::query_as!(
        ServerReport,
        r#"-- checkup.server
        select current_setting('server_version') as "version!",
               pg_is_in_recovery() as "is_standby!",
               current_setting('synchronous_commit') as "synchronous_commit!",
               current_setting('fsync') as "fsync!",
               current_setting('full_page_writes') as "full_page_writes!",
               current_setting('autovacuum') as "autovacuum!",
               current_setting('max_connections')::integer as "max_connections!",
               current_setting('superuser_reserved_connections')::integer as "reserved!",
               (select count(*) from pg_stat_activity where backend_type = 'client backend') as "connected!",
               (select count(*)
                from pg_stat_activity
                where backend_type = 'client backend'
                  and datname = current_database()
                  and application_name like 'xtwebhooks/%') as "ours!""#
    );
    Ok(server.fetch_one(pool).await?)
}

/// Today by the database's clock, and the days from then on for which all three partitions are attached.
pub async fn days_ahead(pool: &PgPool) -> Result<(NaiveDate, Vec<NaiveDate>)> {
    let row = sqlx::query!(
        r#"-- checkup.days_ahead
        select to_char(now() at time zone 'UTC', 'YYYYMMDD') as "today!",
               array(select right(c.relname, 8)
                     from pg_inherits i
                     join pg_class c on c.oid = i.inhrelid
                     join pg_class p on p.oid = i.inhparent
                     where p.relname in ('events', 'webhook_deliveries', 'webhook_delivery_attempts')
                       and p.relnamespace = current_schema()::regnamespace
                       and right(c.relname, 8) >= to_char(now() at time zone 'UTC', 'YYYYMMDD')
                     group by 1
                     having count(*) = 3
                     order by 1) as "days!""#
    )
    .fetch_one(pool)
    .await?;
    let day = |text: &String| NaiveDate::parse_from_str(text, "%Y%m%d").ok();
    Ok((day(&row.today).unwrap_or_default(), row.days.iter().filter_map(day).collect()))
}

/// The holder of a lease.
#[derive(Clone, Debug)]
pub struct Lease {
    pub name: String,
    pub holder: String,
    pub taken_at: DateTime<Utc>,
    /// Whether it has not expired.
    pub is_held: bool,
}

/// Every lease that was ever taken.
pub async fn leases(pool: &PgPool) -> Result<Vec<Lease>> {
    let leases = sqlx::query_as!(
        Lease,
        r#"-- checkup.leases
        select name, holder, taken_at, held_until >= now() as "is_held!"
        from leases
        order by name"#
    );
    Ok(leases.fetch_all(pool).await?)
}

/// What is late, in seconds by the database's clock.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    /// How long the most overdue delivery is overdue, of those that nothing blocks: neither a pause nor a breaker
    /// nor a rate limit of the receiver.
    pub overdue_seconds: Option<f64>,
    /// How long ago the oldest job should have been consumed by a worker.
    pub oldest_job_seconds: Option<f64>,
    /// How long ago the latest watermark passed its queue.
    pub tide_mark_seconds: Option<f64>,
}

/// Queries what is late. Walks indexes and stops; a backlog is not counted.
pub async fn late(pool: &PgPool) -> Result<Late> {
    let late = sqlx::query_as!(
        Late,
        r#"-- checkup.late
        with recursive w as (
            (select webhook_id, 1 as n
             from webhook_deliveries
             where status = 'pending' and queued_at is null
             order by webhook_id
             limit 1)
            union all
            select (select d.webhook_id
                    from webhook_deliveries d
                    where d.status = 'pending' and d.queued_at is null and d.webhook_id > w.webhook_id
                    order by d.webhook_id
                    limit 1), w.n + 1
            from w
            where w.webhook_id is not null and w.n < $1
        ), free as (
            select w.webhook_id
            from w
            join webhooks h on h.id = w.webhook_id
            left join lanes l on l.webhook_id = w.webhook_id
            where h.paused_at is null
              and l.opened_at is null
              and coalesce(l.held_back_until, '-infinity') < now()
        ), due as (
            select (select d.due_at
                    from webhook_deliveries d
                    where d.webhook_id = f.webhook_id and (case when d.replay_id is null then 0 else 1 end) = 0
                      and d.status = 'pending' and d.queued_at is null
                    order by d.due_at
                    limit 1) as due_at
            from free f
        )
        select extract(epoch from (select now() - min(due_at) from due where due_at <= now()))::double precision
                   as "overdue_seconds?",
               extract(epoch from (select now() - greatest(queued_at, due_at)
                                   from webhook_deliveries
                                   where status = 'pending' and queued_at is not null
                                   order by greatest(queued_at, due_at)
                                   limit 1))::double precision as "oldest_job_seconds?",
               extract(epoch from (select now() - max(through_at) from tide_marks))::double precision
                   as "tide_mark_seconds?""#,
        WEBHOOKS_LOOKED_AT_MAX,
    );
    Ok(late.fetch_one(pool).await?)
}
