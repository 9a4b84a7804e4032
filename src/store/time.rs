//! The database's clock, measured.

use sqlx::PgPool;

use crate::clock::SystemClock;

/// Queries the database's time and corrects `clock` by it.
pub async fn measure(pool: &PgPool, clock: &SystemClock) -> sqlx::Result<()> {
    let before = SystemClock::local();
    let database = sqlx::query_scalar!(
        r#"-- clock.measure
        select clock_timestamp() as "now!""#
    )
    .fetch_one(pool)
    .await?;
    clock.measured(before, database, SystemClock::local());
    Ok(())
}
