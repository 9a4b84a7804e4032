//! `xtwebhooks doctor`: checks with the service's own settings that the database and the broker are set up as it needs
//! them, and says for each finding what to do. It changes nothing: nothing is declared, migrated or created.
//!
//! This module asks the servers; `ledger` and `broker` judge the answers, as pure functions. If one of the two servers
//! cannot be reached, the other is checked all the same.

mod broker;
mod ledger;

use anyhow::anyhow;
use serde::Serialize;
use sqlx::PgPool;

use super::{
    failure::CommandFailure,
    output::{Output, OutputTable},
    run::{self, Role},
};
use crate::{
    broker::inspect::inspect,
    clock::SystemClock,
    store::{self, checkup, migrate, pool, time},
};

/// The settings of the service, and how many processes it has.
#[derive(clap::Args, Debug)]
#[group(skip)]
pub(super) struct Args {
    #[command(flatten)]
    settings: run::Args,
    /// Number of processes of each role, if roles run in separate processes: `ingest=2,deliver=4,schedule=2,dead-letter=1,prune=1`
    /// [default: one process with the roles of `--role`]
    #[arg(long, value_name = "ROLE=COUNT", value_delimiter = ',', value_parser = replicas)]
    replicas: Vec<(Role, u32)>,
}

impl Args {
    /// How many connections to the database all processes open at most.
    fn connections(&self) -> u32 {
        if self.replicas.is_empty() {
            return run::connections(&self.settings.role);
        }
        let of = |(role, count): &(Role, u32)| run::connections(&[*role]).saturating_mul(*count);
        self.replicas.iter().map(of).fold(0, u32::saturating_add)
    }
}

fn replicas(text: &str) -> Result<(Role, u32), String> {
    let bad = || format!("`{text}` is invalid; write a role and a number, such as `deliver=4`");
    let (role, count) = text.split_once('=').ok_or_else(bad)?;
    let role = clap::ValueEnum::from_str(role, true).map_err(|_| format!("unknown role `{role}`"))?;
    Ok((role, count.parse().map_err(|_| bad())?))
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// As it should be.
    Ok,
    /// It cannot be checked from here.
    Unknown,
    /// The service runs, but needs attention.
    Warning,
    /// The service cannot do its work.
    Fault,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    /// What was checked.
    check: &'static str,
    level: Severity,
    /// What was found, in a sentence.
    found: String,
    /// What to do about it.
    #[serde(rename = "do")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Severity::Ok, found: found.into(), remedy: None }
    }

    fn bad(
        level: Severity,
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, level, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// All that was found.
#[derive(Default)]
struct Report {
    findings: Vec<Finding>,
    /// A server could not be reached.
    is_unreachable: bool,
}

pub(super) async fn execute(args: Args, output: Output) -> Result<(), CommandFailure> {
    let mut report = Report::default();
    report.findings.push(match args.settings.check() {
        Ok(()) => Finding::ok("settings", "the settings are consistent"),
        Err(failure) => Finding::bad(
            Severity::Fault,
            "settings",
            failure.to_string(),
            "correct the settings; the service does not start with them",
        ),
    });
    look_at_ledger(&args, &mut report).await?;
    look_at_broker(&args, &mut report).await?;
    output.show(&report.findings, |findings| text(findings))?;
    let faults = report.findings.iter().filter(|finding| finding.level == Severity::Fault).count();
    match (report.is_unreachable, faults) {
        (true, _) => Err(CommandFailure::Unreachable(anyhow!(
            "some checks were skipped because a server does not answer"
        ))),
        (false, 0) => Ok(()),
        (false, faults) => Err(CommandFailure::Failed(anyhow!("faults found: {faults}"))),
    }
}

async fn look_at_ledger(args: &Args, report: &mut Report) -> Result<(), CommandFailure> {
    let pool = store::pool(&args.settings.store, "doctor", 1)?;
    if let Err(error) = pool::check_server(&pool).await {
        report.is_unreachable |= !matches!(error, store::Error::TooOld { .. });
        let remedy = "check the server and DATABASE_URL; the other checks of the database were skipped";
        report.findings.push(Finding::bad(
            Severity::Fault,
            "database",
            CommandFailure::from(error).to_string(),
            remedy,
        ));
        return Ok(());
    }
    if let Err(error) = of_ledger(args, &pool, &mut report.findings).await {
        report.is_unreachable |= matches!(error, store::Error::Unreachable(_));
        let remedy = "check the server's log; the connection was lost during the checks, or the user lacks a permission";
        report.findings.push(Finding::bad(
            Severity::Fault,
            "database",
            CommandFailure::from(error).to_string(),
            remedy,
        ));
    }
    Ok(())
}

async fn of_ledger(args: &Args, pool: &PgPool, findings: &mut Vec<Finding>) -> store::Result<()> {
    let server = checkup::server(pool).await?;
    findings.extend(ledger::of_server(&server));
    findings.push(ledger::of_connections(&server, args.connections()));
    let clock = SystemClock::default();
    time::measure(pool, &clock).await?;
    findings.push(ledger::of_clock(clock.offset()));
    match migrate::check(pool).await {
        Ok(()) => findings.push(Finding::ok("migrations", "all migrations of this version are applied")),
        Err(error @ store::Error::NotMigrated { .. }) => {
            let remedy = "run `xtwebhooks migrate`; the checks of the tables were skipped";
            findings.push(Finding::bad(Severity::Fault, "migrations", error.to_string(), remedy));
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    let (today, days) = checkup::days_ahead(pool).await?;
    findings.push(ledger::of_days(today, &days));
    findings.extend(ledger::of_leases(&checkup::leases(pool).await?));
    let late = checkup::late(pool).await?;
    findings.extend(ledger::of_late(&late, args.settings.schedule.watermark_every));
    Ok(())
}

async fn look_at_broker(args: &Args, report: &mut Report) -> Result<(), CommandFailure> {
    use crate::broker::Error;
    match inspect(&args.settings.broker).await {
        Ok(inspection) => report.findings.extend(broker::of_inspection(&inspection, &args.settings)),
        Err(error @ Error::Url(_)) => return Err(error.into()),
        Err(error) => {
            report.is_unreachable |= !matches!(error, Error::TooOld { .. });
            let remedy = "check the server and AMQP_URL; the other checks of the broker were skipped";
            report.findings.push(Finding::bad(Severity::Fault, "broker", error.to_string(), remedy));
        }
    }
    Ok(())
}

fn text(findings: &[Finding]) -> String {
    let mut table = OutputTable::new(&["", "CHECK", "FOUND"]);
    for finding in findings {
        table.row([finding.level.as_str().to_owned(), finding.check.to_owned(), finding.found.clone()]);
        if let Some(remedy) = &finding.remedy {
            table.row([String::new(), String::new(), format!("→ {remedy}")]);
        }
    }
    table.render("no checks were made")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Doctor {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn connections_are_summed_over_the_processes_of_each_role() {
        let check = |arguments: &[&str], expected: u32| {
            let all = ["x", "--database-url=postgres://h/d"].iter().chain(arguments);
            assert_eq!(
                Doctor::try_parse_from(all).expect("good").args.connections(),
                expected,
                "{arguments:?}"
            );
        };
        check(&[], 34);
        check(&["--role=schedule"], 6);
        let replicas = "--replicas=ingest=2,deliver=2,dead-letter=1,schedule=2,prune=1,api=2";
        check(&[replicas], 2 * 7 + 2 * 7 + 6 + 2 * 6 + 3 + 2 * 16);
        for bad in ["deliver", "deliver=x", "nobody=1", "deliver=-1"] {
            assert!(super::replicas(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_to_do_stands_below_what_was_found() {
        let shown = text(&[
            Finding::ok("clock", "0.2 ms off"),
            Finding::bad(Severity::Fault, "migrations", "2 lack", "run migrate"),
        ]);
        let expected =
            "         CHECK       FOUND\nok       clock       0.2 ms off\nfault    migrations  2 lack\n";
        assert!(shown.lines().count() == 4 && shown.contains("→ run migrate"), "{shown}");
        assert_eq!(shown.lines().next().map(str::trim), expected.lines().next().map(str::trim));
    }
}
