//! The database that each test's own is copied from.

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::process::Command;

use super::app::{database_url, eventually};

/// The migrated database that others are copied from, made once a day for each state of the migrations. A run of the
/// tests that made its own would leave it behind: nothing tells when its last test is over.
pub(super) async fn template() -> &'static str {
    static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
    TEMPLATE.get_or_init(make_template).await
}

async fn make_template() -> String {
    let today = chrono::Utc::now().format("%Y%m%d");
    let name = format!("xt_template_{today}_{:016x}", migrations());
    let mut admin = PgConnection::connect(&database_url()).await.expect("the database answers");
    // Held by this connection: other runs wait for the one that makes it.
    admin.execute("select pg_advisory_lock(hashtext('xt_template'))").await.expect("locked");
    let there: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
        .bind(&name)
        .fetch_one(&mut admin)
        .await
        .expect("answered");
    if !there {
        // It gets its name when it is whole.
        let making = format!("{name}_making");
        for statement in
            [format!("drop database if exists {making} with (force)"), format!("create database {making}")]
        {
            admin.execute(AssertSqlSafe(statement)).await.expect("a database can be made");
        }
        let migrated = Command::new(env!("CARGO_BIN_EXE_xtwebhooks"))
            .arg("migrate")
            .env("DATABASE_URL", with_database(&database_url(), &making))
            .output()
            .await
            .expect("it starts");
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let rename = format!("alter database {making} rename to {name}");
        eventually("the new template can be renamed", async || {
            admin.execute(AssertSqlSafe(rename.clone())).await.ok().map(drop)
        })
        .await;
    }
    let _ = admin.close().await;
    name
}

/// A number that changes with any of the migrations.
fn migrations() -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the migrations")
        .map(|entry| std::fs::read(entry.expect("an entry").path()).expect("a migration"))
        .collect();
    files.sort_unstable();
    let mut hash = DefaultHasher::new();
    files.hash(&mut hash);
    hash.finish()
}

pub(super) fn with_database(url: &str, name: &str) -> String {
    let mut url = url::Url::parse(url).expect("DATABASE_URL is a URL");
    url.set_path(&format!("/{name}"));
    url.into()
}
