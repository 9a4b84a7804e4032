//! Arguments that several commands have.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use sqlx::PgPool;

use super::failure::CommandFailure;
use crate::{
    clock::SystemClock,
    model::CompanyId,
    store::{self, migrate, pool},
};

/// How many connections a command needs at most.
const CONNECTIONS: u32 = 2;

/// The ledger's address, for a command.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct LedgerArgs {
    #[command(flatten)]
    config: store::Config,
}

impl LedgerArgs {
    /// Connects, and checks that the tables exist.
    pub(super) async fn open(&self) -> Result<PgPool, CommandFailure> {
        let pool = store::pool(&self.config, "cli", CONNECTIONS)?;
        pool::check_server(&pool).await?;
        migrate::check(&pool).await?;
        Ok(pool)
    }
}

/// The company that a command is about.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct CompanyArg {
    /// Id of the company
    #[arg(long, value_name = "ID")]
    pub(super) company: CompanyId,
}

/// On whose behalf something is changed.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Actor {
    /// Name to record in the audit log as the author of the change
    #[arg(long, env = "USER", value_name = "NAME", default_value = "command line", hide_env = true)]
    pub(super) by: String,
}

/// Reads a duration: `30s`, `5m`, `2h`, `5d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is not a duration; write 500ms, 30s, 5m, 2h or 5d"))
}

/// Reads a time: RFC 3339, or how long ago.
pub(super) fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.to_utc());
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| TimeDelta::from_std(ago).ok());
    ago.and_then(|ago| SystemClock::local().checked_sub_signed(ago))
        .ok_or_else(|| format!("`{text}` is not a time; write 2026-01-31T12:00:00Z, or 2h for two hours ago"))
}

/// An instant as the API reads it.
pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_a_date_or_how_long_ago() {
        assert_eq!(instant("2026-01-31T13:00:00+01:00").unwrap().to_rfc3339(), "2026-01-31T12:00:00+00:00");
        let then = instant("2h").unwrap();
        let ago = SystemClock::local() - then;
        assert!((7_200..7_260).contains(&ago.num_seconds()), "{ago}");
        for bad in ["", "yesterday", "2026-13-01T00:00:00Z", "-2h", "900000000000y"] {
            assert!(instant(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_duration_has_its_unit() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("30").is_err());
    }
}
