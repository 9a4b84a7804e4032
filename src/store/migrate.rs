//! The tables, as the embedded migrations create them.
//!
//! They are applied by their own command, never at the start of a role: a deployment migrates once, then rolls out.
//! A role only checks that the migrations it knows have been applied; those of a newer release do no harm.

use std::collections::HashSet;

use sqlx::{Connection, PgPool, migrate::Migrator, postgres::PgConnection};

use super::{Error, Result};

/// How long a migration waits for a lock on a table before it gives way to those waiting behind it.
const LOCK_TIMEOUT: &str = "set lock_timeout = '10s'";

fn migrator() -> Migrator {
    sqlx::migrate!("./migrations")
}

/// Applies what is missing; returns how many that were. Safe to call from several processes at once.
///
/// # Errors
/// When the database cannot be reached, or a migration fails or was changed after it had been applied.
pub async fn migrate(pool: &PgPool) -> Result<usize> {
    super::pool::check_server(pool).await?;
    // A separate connection: its settings do not go back into the pool.
    let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut connection).await?;
    let before = applied(&mut connection).await?.len();
    migrator().run(&mut connection).await.map_err(Error::Migrate)?;
    let after = applied(&mut connection).await?.len();
    connection.close().await?;
    Ok(after.saturating_sub(before))
}

/// Checks that every migration that this program knows has been applied.
///
/// # Errors
/// [`Error::NotMigrated`] when one is missing.
pub async fn check(pool: &PgPool) -> Result<()> {
    let mut connection = pool.acquire().await?;
    let applied = applied(&mut connection).await?;
    let migrator = migrator();
    let known = migrator.iter().count();
    let missing = migrator.iter().filter(|migration| !applied.contains(&migration.version)).count();
    if missing == 0 { Ok(()) } else { Err(Error::NotMigrated { missing, known }) }
}

/// The versions that have been applied. Not a checked statement: the table is the migrator's own, and is not there
/// before its first run.
async fn applied(connection: &mut PgConnection) -> Result<HashSet<i64>> {
    let statement = "
        -- migrate.applied
        select version
        from _sqlx_migrations
        where success";
    match sqlx::query_scalar::<_, i64>(statement).fetch_all(connection).await {
        Ok(versions) => Ok(versions.into_iter().collect()),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Ok(HashSet::new()),
        Err(error) => Err(error.into()),
    }
}
