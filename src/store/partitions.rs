//! The days of the history: created ahead, and dropped when nothing in them is owed any more.

use chrono::NaiveDate;
use sqlx::{AssertSqlSafe, PgPool, types::Uuid};

use crate::model::id::first_of_day;

/// The parents, in the order in which a day is dropped: what refers to an event goes before the event.
pub const PARENTS: [&str; 3] = ["webhook_delivery_attempts", "webhook_deliveries", "events"];

/// Creates missing partitions of `days` days from `first` on; returns how many it created.
pub async fn ensure(pool: &PgPool, first: NaiveDate, days: i32) -> sqlx::Result<i32> {
    let made = sqlx::query_scalar!(
        r#"-- partitions.ensure
        select ensure_partitions($1::text::date, $2) as "made!""#,
        first.to_string(),
        days,
    )
    .fetch_one(pool)
    .await?;
    Ok(made)
}

/// The days that have partitions, oldest first.
pub async fn days(pool: &PgPool) -> sqlx::Result<Vec<NaiveDate>> {
    let names = sqlx::query_scalar!(
        r#"-- partitions.days
        select distinct right(c.relname, 8) as "name!"
        from pg_class c
        -- By their names, so that what a crash left detached or half dropped is found as well.
        where c.relkind = 'r' and c.relnamespace = current_schema()::regnamespace
          and c.relname ~ '^(events|webhook_deliveries|webhook_delivery_attempts)_[0-9]{8}$'
        order by 1"#
    )
    .fetch_all(pool)
    .await?;
    Ok(names.iter().filter_map(|day| NaiveDate::parse_from_str(day, "%Y%m%d").ok()).collect())
}

/// Ends what a day still owes: dead, reason *expired*, each with the dead letter that the ledger writes for it. Some at a time; returns how many.
pub async fn expire(pool: &PgPool, day: NaiveDate, rows_max: i64) -> sqlx::Result<u64> {
    let (first, end) = bounds(day);
    let done = sqlx::query!(
        r#"-- partitions.expire
        with owed as (
            select id
            from webhook_deliveries
            where id >= $1 and id < $2 and status in ('pending', 'held')
            order by id
            limit $3
            for update
        )
        update webhook_deliveries d
        set status = 'dead', reason = 'expired', queued_at = null, claimed_until = null
        from owed o
        where d.id = o.id and d.id >= $1 and d.id < $2"#,
        first,
        end,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Drops a day: each partition is detached without blocking, then dropped.
pub async fn drop_day(pool: &PgPool, day: NaiveDate) -> sqlx::Result<()> {
    for parent in PARENTS {
        let name = format!("{parent}_{}", day.format("%Y%m%d"));
        let attached = sqlx::query_scalar!(
            r#"-- partitions.attached
            select i.inhdetachpending as "pending!"
            from pg_inherits i
            where i.inhrelid = to_regclass($1)"#,
            &name,
        )
        .fetch_optional(pool)
        .await?;
        // The names are made of a constant and a date, so nothing foreign gets into the statement.
        match attached {
            Some(false) => {
                execute(pool, format!("alter table {parent} detach partition {name} concurrently")).await?;
            }
            // A prune that died in the middle left it half detached.
            Some(true) => {
                execute(pool, format!("alter table {parent} detach partition {name} finalize")).await?;
            }
            None => {}
        }
        execute(pool, format!("drop table if exists {name}")).await?;
    }
    Ok(())
}

async fn execute(pool: &PgPool, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(pool).await?;
    Ok(())
}

fn bounds(day: NaiveDate) -> (Uuid, Uuid) {
    (first_of_day(day), first_of_day(day.succ_opt().unwrap_or(NaiveDate::MAX)))
}
