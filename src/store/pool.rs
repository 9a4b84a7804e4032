//! Connections to PostgreSQL, with the bounds that every role has.
//!
//! A pool connects on first use, so a role starts and answers its probes while the database is unreachable.

use std::{net::IpAddr, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Executor, PgPool,
    postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode},
};

use super::{Error, Result};

/// The oldest PostgreSQL that the statements run on.
pub const VERSION_MIN: u32 = 15;

/// How long a caller waits for a connection of the pool; also bounds connecting.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// After this the server ends a statement: no batch takes this long.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// After this a read for the API is ended, and the caller is told to ask for less.
pub const READING_TIMEOUT: Duration = Duration::from_secs(5);

/// After this an idle transaction is ended and its locks are released.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);

/// After this a connection is replaced, so that a failover or a new load balancer is noticed.
const LIFETIME_MAX: Duration = Duration::from_mins(30);

/// The assumed cost of reading a row in a hot statement, in pages; the server's default is a hundredth of a page. So
/// even a small ledger is never scanned as a whole for the few rows of a batch: the plan made then would be kept while
/// the ledger grows.
const ROW_COST: u8 = 1;

/// Planning one of the large statements over all partitions takes as long as running it for a hundred rows, and the
/// plan is the same for all values. By default PostgreSQL would plan each time.
const PLAN_ONCE: &str = "set plan_cache_mode = force_generic_plan";

/// How readers' statements are planned: with their values, and walking rather than sorting.
const WALK: &str = "set plan_cache_mode = force_custom_plan; set enable_sort = off";

/// Where the ledger is.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Ledger")]
#[group(skip)]
pub struct Config {
    /// PostgreSQL database of the ledger: postgres://user:password@host:5432/database
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: SecretString,
    /// URL of the ledger that bypasses any connection pooler, for LISTEN [default: DATABASE_URL]
    #[arg(long, env = "DATABASE_LISTEN_URL", value_name = "URL", hide_env_values = true)]
    pub database_listen_url: Option<SecretString>,
}

impl Config {
    /// How a listener connects: directly, because a pooler would lose its notifications.
    pub fn listen_options(&self, role: &str) -> Result<PgConnectOptions> {
        options(self.database_listen_url.as_ref().unwrap_or(&self.database_url), role)
    }
}

/// A pool of at most `connections` for a role; nothing is connected yet.
///
/// # Errors
/// When the URL cannot be read.
pub fn pool(config: &Config, role: &str, connections: u32) -> Result<PgPool> {
    Ok(build(session_settings(), connections).connect_lazy_with(options(&config.database_url, role)?))
}

/// A pool for the statements that each batch runs.
///
/// Joins over the partitions must go row by row there, by nested loops over an index: only then does PostgreSQL prune
/// for each id. It would rather hash a day's partition, which costs four times as much, or, while it has no statistics
/// of a day that has just begun, keep a whole day in memory and scan it for each row of the batch: seconds instead of
/// milliseconds. Testing a connection before each use would be a round trip; a broken connection shows by its error,
/// and the batch is retried anyway.
///
/// # Errors
/// When the URL cannot be read.
pub fn hot_pool(config: &Config, role: &str, connections: u32) -> Result<PgPool> {
    let row_by_row =
        ["hashjoin", "mergejoin", "material", "seqscan"].map(|way| format!("set enable_{way} = off"));
    let settings = [
        session_settings(),
        row_by_row.join("; "),
        format!("set cpu_tuple_cost = {ROW_COST}"),
        PLAN_ONCE.to_owned(),
    ]
    .join("; ");
    let pool = build(settings, connections).test_before_acquire(false);
    Ok(pool.connect_lazy_with(options(&config.database_url, role)?))
}

/// A pool for readers of the history: their statements are bounded more tightly, and change nothing.
///
/// Each is planned with its values: a page lies in a day or two, and only such a plan leaves out the other partitions
/// from the start. And a page is found by walking an index in its order. By its statistics PostgreSQL might rather
/// gather everything and sort it, which is quick while there is little; but statistics are hours old, and a history
/// grows.
///
/// # Errors
/// When the URL cannot be read.
pub fn reading_pool(config: &Config, role: &str, connections: u32) -> Result<PgPool> {
    let settings = format!(
        "{}; set statement_timeout = {}; set default_transaction_read_only = on; {WALK}",
        session_settings(),
        READING_TIMEOUT.as_millis()
    );
    Ok(build(settings, connections).connect_lazy_with(options(&config.database_url, role)?))
}

/// Connects once, outside the pool, and checks that the server can be used.
///
/// A pool only reports a timeout; this reports why.
///
/// # Errors
/// When the server does not answer, refuses the login, or is too old.
pub async fn check_server(pool: &PgPool) -> Result<()> {
    let options = pool.connect_options();
    let connected = tokio::time::timeout(ACQUIRE_TIMEOUT, options.connect()).await;
    let connection: PgConnection = connected.map_err(|_| Error::Unreachable(sqlx::Error::PoolTimedOut))??;
    let version = connection.server_version_num().unwrap_or_default() / 10_000;
    // The result of closing does not matter; the answer is here.
    let _ = connection.close().await;
    if version < VERSION_MIN { Err(Error::TooOld { found: version }) } else { Ok(()) }
}

fn options(url: &SecretString, role: &str) -> Result<PgConnectOptions> {
    let mut options = PgConnectOptions::from_str(url.expose_secret()).map_err(Error::BadUrl)?;
    if matches!(options.get_ssl_mode(), PgSslMode::Prefer) && is_this_machine(options.get_host()) {
        options = options.ssl_mode(PgSslMode::Disable);
    }
    Ok(options.application_name(&format!("xtwebhooks/{role}")))
}

/// Whether a host is the machine itself. Encrypting what never leaves it protects nothing, and costs a third of a
/// burst's throughput: TLS cuts a batch into records of 16 KiB, and sqlx 0.9.0 leaves Nagle's algorithm on
/// (transact-rs/sqlx#4335), so the last of them waits up to 40 ms for an acknowledgement. `sslmode=require` turns it on
/// all the same.
fn is_this_machine(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Set by a statement after connecting, not as options of the connection: poolers refuse those.
///
/// Nothing is compiled: over many partitions a plan looks dearer than it is, and compiling it takes longer than
/// the statement.
fn session_settings() -> String {
    format!(
        "set statement_timeout = {}; set idle_in_transaction_session_timeout = {}; set jit = off",
        STATEMENT_TIMEOUT.as_millis(),
        IDLE_IN_TRANSACTION_TIMEOUT.as_millis()
    )
}

fn build(settings: String, connections: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .max_lifetime(LIFETIME_MAX)
        .after_connect(move |connection, _| {
            // Made above from numbers only.
            let settings = AssertSqlSafe(settings.clone());
            Box::pin(async move { connection.execute(settings).await.map(drop) })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Config {
        Config { database_url: url.into(), database_listen_url: None }
    }

    #[tokio::test]
    async fn a_url_that_is_none_is_refused_without_showing_its_password() {
        for url in ["", "not a url", "postgres://user:geheim@host:port/db"] {
            let error = pool(&config(url), "test", 1).unwrap_err();
            assert!(matches!(error, Error::BadUrl(_)), "{url}: {error:?}");
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
    }

    #[test]
    fn only_a_server_on_this_machine_is_spoken_to_in_plain_and_only_where_nobody_says_otherwise() {
        let check = |url: &str, plain: bool| {
            let options = options(&url.into(), "test").unwrap();
            assert_eq!(matches!(options.get_ssl_mode(), PgSslMode::Disable), plain, "{url}");
        };
        check("postgres://u@127.0.0.1/db", true);
        check("postgres://u@localhost:5433/db", true);
        check("postgres://u@[::1]/db", true);
        check("postgres://u@localhost/db?sslmode=require", false);
        check("postgres://u@db.example.com/db", false);
        check("postgres://u@10.0.0.7/db", false);
        check("postgres://u@db.example.com/db?sslmode=disable", true);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_called_unreachable() {
        // Port 1 is reserved, and nothing listens there.
        let pool = pool(&config("postgres://nobody@127.0.0.1:1/none"), "test", 1).unwrap();
        assert!(matches!(check_server(&pool).await, Err(Error::Unreachable(_))));
    }
}
