//! The days of the history: created ahead, and dropped when nothing in them is owed any more.

use std::time::Duration;

use chrono::NaiveDate;
use sqlx::{AssertSqlSafe, PgConnection, PgPool, types::Uuid};

use super::fault::is_lock_timeout;
use crate::model::id::first_of_day;

/// How long a step of dropping a day waits for a lock. What waits for an exclusive lock holds up everything behind it.
/// Creating a day has the same limit, in the function `ensure_partition`.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The parents, in the order in which a day is dropped: what refers to an event goes before the event.
pub const PARENTS: [&str; 3] = ["webhook_delivery_attempts", "webhook_deliveries", "events"];

/// Creates missing partitions of `days` days from `first` on; returns how many it created.
///
/// Each is a transaction by itself and waits for no reader or writer. It does wait, briefly, for what changes its parent;
/// one that had to give up does not prevent the others, and its error is returned.
pub async fn ensure(pool: &PgPool, first: NaiveDate, days: i32) -> sqlx::Result<i32> {
    let missing = sqlx::query!(
        r#"-- partitions.missing
        select parent as "parent!", to_char(first + day, 'YYYY-MM-DD') as "day!"
        from (select $1::text::date as first) f, generate_series(0, $2 - 1) day, unnest($3::text[]) parent
        where to_regclass(parent || '_' || to_char(first + day, 'YYYYMMDD')) is null
        -- An event's row comes before its deliveries', theirs before the attempts'.
        order by day, array_position($3, parent) desc"#,
        first.to_string(),
        days,
        &PARENTS.map(ToOwned::to_owned) as &[String],
    )
    .fetch_all(pool)
    .await?;
    let (mut made, mut failed) = (0, None);
    for row in missing {
        let done = sqlx::query_scalar!(
            r#"-- partitions.ensure
            select ensure_partition($1, $2::text::date) as "made!""#,
            row.parent,
            row.day,
        )
        .fetch_one(pool)
        .await;
        match done {
            Ok(is_made) => made += i32::from(is_made),
            Err(error) if is_lock_timeout(&error) => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    failed.map_or(Ok(made), Err)
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

/// Ends what a day still owes: dead, reason *expired*, each with the dead letter that the ledger writes for it. Some at a
/// time; returns how many.
pub async fn expire(pool: &PgPool, day: NaiveDate, rows_max: i64) -> sqlx::Result<u64> {
    let (first, end) = bounds(day);
    let done = sqlx::query!(
        r#"-- partitions.expire
        update webhook_deliveries d
        set status = 'dead', reason = 'expired', queued_at = null, claimed_until = null
        from (select id, status
              from (
                  -- Each along its own index, which holds nothing else; together they would read the whole day.
                  (select id, status
                   from webhook_deliveries
                   where id >= $1 and id < $2 and status = 'pending' and queued_at is null
                   limit $3)
                  union all
                  (select id, status
                   from webhook_deliveries
                   where id >= $1 and id < $2 and status = 'pending' and queued_at is not null
                   limit $3)
                  union all
                  (select id, status
                   from webhook_deliveries
                   where id >= $1 and id < $2 and status = 'held'
                   limit $3)
              ) owed
              order by id
              limit $3) o
        where d.id = o.id and d.id >= $1 and d.id < $2 and d.status = o.status"#,
        first,
        end,
        rows_max,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}

/// Drops a day: each partition is detached without blocking, then dropped. None of the steps waits long for a lock: behind
/// a dump they fail, and the next pass continues with what is left.
pub async fn drop_day(pool: &PgPool, day: NaiveDate) -> sqlx::Result<()> {
    // Its setting does not go back into the pool, whatever happens.
    let mut connection = pool.acquire().await?;
    connection.close_on_drop();
    let connection = &mut *connection;
    execute(connection, format!("set lock_timeout = {}", LOCK_TIMEOUT.as_millis())).await?;
    for parent in PARENTS {
        let name = format!("{parent}_{}", day.format("%Y%m%d"));
        let attached = sqlx::query_scalar!(
            r#"-- partitions.attached
            select i.inhdetachpending as "pending!"
            from pg_inherits i
            where i.inhrelid = to_regclass($1)"#,
            &name,
        )
        .fetch_optional(&mut *connection)
        .await?;
        // The names are made of a constant and a date, so nothing foreign gets into the statement.
        match attached {
            Some(false) => {
                execute(connection, format!("alter table {parent} detach partition {name} concurrently"))
                    .await?;
            }
            // A prune that died in the middle left it half detached.
            Some(true) => {
                execute(connection, format!("alter table {parent} detach partition {name} finalize")).await?;
            }
            None => {}
        }
        execute(connection, format!("drop table if exists {name}")).await?;
    }
    Ok(())
}

async fn execute(connection: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await?;
    Ok(())
}

fn bounds(day: NaiveDate) -> (Uuid, Uuid) {
    (first_of_day(day), first_of_day(day.succ_opt().unwrap_or(NaiveDate::MAX)))
}
