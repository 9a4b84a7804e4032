//! The ledger: what is owed to whom, in PostgreSQL. All SQL of the service is in this folder.
//!
//! There is one file for each table or large statement, with functions over a pool or a connection and no state of
//! their own. A statement on behalf of a company names the company, so that no caller can forget it. A transition names
//! the state it expects. The first line of each statement is its name, which shows in `pg_stat_statements`.
//!
//! Begin with the folder `migrations`, which says what the tables mean, then read `webhooks.rs`.

pub mod api_keys;
pub(crate) mod audit_log;
pub(crate) mod changes;
pub(crate) mod checkup;
pub(crate) mod claim;
pub(crate) mod dead_letters;
pub mod dispose;
pub mod due;
pub(crate) mod erasures;
pub mod event_types;
pub(crate) mod events;
pub(crate) mod fault;
pub(crate) mod forget;
pub mod give_up;
pub mod history;
pub(crate) mod idempotency_keys;
pub(crate) mod ingest_batch;
pub(crate) mod intake_keys;
pub(crate) mod lane_report;
pub(crate) mod lane_transitions;
pub mod lanes;
pub(crate) mod lease;
pub(crate) mod ledger;
pub(crate) mod migrate;
pub mod partitions;
pub(crate) mod payloads;
pub(crate) mod pool;
pub mod record_attempts;
pub(crate) mod replay_rows;
pub(crate) mod replay_sources;
pub(crate) mod replays;
pub mod search;
pub(crate) mod sessions;
pub(crate) mod subscribed;
pub(crate) mod test_delivery;
pub(crate) mod time;
pub(crate) mod waiting;
pub(crate) mod watermarks;
pub(crate) mod webhooks;
mod words;

pub use pool::{Config, hot_pool, pool, reading_pool};

/// The errors of the ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another webhook of the company has the name.
    #[error(
        "`name` is taken by another webhook of this company; choose another name, or delete that webhook first"
    )]
    NameTaken,
    /// A value that a constraint of the tables rejects.
    #[error("`{field}` {reason}")]
    Refused {
        /// The field, as the API calls it.
        field: &'static str,
        /// What it must be.
        reason: &'static str,
    },
    /// The server did not answer, or accepts no connections at present.
    #[error("cannot reach the database; check that it is running and that DATABASE_URL is correct")]
    Unreachable(#[source] sqlx::Error),
    /// The server refused the login.
    #[error("the database refused the login; check user, password and database name in DATABASE_URL")]
    NotLetIn(#[source] sqlx::Error),
    /// `DATABASE_URL` is not valid.
    #[error("DATABASE_URL is not valid; it must have the form postgres://user:password@host:5432/database")]
    BadUrl(#[source] sqlx::Error),
    /// The server is too old for what the statements use.
    #[error("the server is PostgreSQL {found}; version {} or later is required", pool::VERSION_MIN)]
    TooOld {
        /// Its major version.
        found: u32,
    },
    /// The tables do not exist, or not all of them.
    #[error("the database lacks {missing} of {known} migrations; run `xtwebhooks migrate`")]
    NotMigrated {
        /// How many are not applied.
        missing: usize,
        /// How many this program knows.
        known: usize,
    },
    /// A migration could not be applied.
    #[error("the migrations could not be applied")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    #[error("the database reported an error")]
    Database(#[source] sqlx::Error),
}

impl Error {
    /// What sqlx said, for [`ledger::Ledger::persist`] to judge.
    #[must_use]
    pub fn into_sqlx(self) -> sqlx::Error {
        match self {
            Self::Unreachable(error)
            | Self::NotLetIn(error)
            | Self::BadUrl(error)
            | Self::Database(error) => error,
            other => sqlx::Error::Protocol(other.to_string()),
        }
    }

    /// The SQLSTATE, if the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Unreachable(error) | Self::NotLetIn(error) | Self::Database(error) => {
                error.as_database_error()?.code().map(Into::into)
            }
            _ => None,
        }
    }
}

/// What the constraints that a caller can violate say about the value, by the constraint's name; those of webhooks are
/// in their own file.
const CONSTRAINTS: &[(&str, &str, &str)] = &[
    ("company_erased", "company_id", "was erased, and nothing is kept for it any more"),
    ("replays_rate_range", "rate", "must be 1 to 10000 a second"),
];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        use sqlx::Error as E;
        match &error {
            E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => {
                Self::Unreachable(error)
            }
            E::Configuration(_) => Self::BadUrl(error),
            E::Database(refusal) => {
                let constraint = refusal.constraint().unwrap_or_default();
                if constraint == "webhooks_name_key" {
                    return Self::NameTaken;
                }
                let mut known = webhooks::CONSTRAINTS.iter().chain(CONSTRAINTS);
                if let Some(&(_, field, reason)) = known.find(|(name, ..)| *name == constraint) {
                    return Self::Refused { field, reason };
                }
                match refusal.code().as_deref().unwrap_or_default() {
                    // Invalid authorization, no such database.
                    code if code.starts_with("28") || code == "3D000" => Self::NotLetIn(error),
                    // Connection trouble, an administrator's or a crash's shutdown, too many connections.
                    code if code.starts_with("08") || code.starts_with("57P") || code == "53300" => {
                        Self::Unreachable(error)
                    }
                    _ => Self::Database(error),
                }
            }
            _ => Self::Database(error),
        }
    }
}

/// The result of every function of this folder.
pub type Result<T> = std::result::Result<T, Error>;
