//! `xtwebhooks audit …`: who changed what.

use chrono::{DateTime, SecondsFormat, Utc};

use super::{
    args::instant,
    client::Remote,
    failure::CommandFailure,
    output::{Output, OutputTable, time},
};
use crate::api::{audit_log::AuditEntry, pagination::PAGE_MAX};

/// What to show.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List changes, newest first
    List(ListAudit),
}

/// Which changes.
#[derive(clap::Args, Debug)]
pub(super) struct ListAudit {
    #[command(flatten)]
    remote: Remote,
    /// Only changes by this actor: `key xtwh_ab12cd34`, `user 5f0c…`
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only changes with this action: `webhook.update`
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only changes to the object with this id
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// Only changes since this time: RFC 3339, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<DateTime<Utc>>,
    /// Only changes before this time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<DateTime<Utc>>,
    /// Maximum number of changes to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    let Command::List(args) = command;
    let at = |time: Option<DateTime<Utc>>| time.map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true));
    let query = [
        ("actor", args.actor),
        ("action", args.action),
        ("subject", args.subject),
        ("since", at(args.since)),
        ("until", at(args.until)),
        ("limit", Some(args.limit.min(PAGE_MAX).to_string())),
    ];
    let entries = args.remote.client()?.list("/v1/audit-log", &query, args.limit as usize).await?;
    Ok(output.show(&entries, table_of)?)
}

fn table_of(entries: &Vec<AuditEntry>) -> String {
    let mut table = OutputTable::new(&["TIME", "ACTOR", "ADDRESS", "ACTION", "SUBJECT", "BEFORE", "AFTER"]);
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for entry in entries {
        table.row([
            time(entry.at),
            entry.actor.clone(),
            or_dash(entry.address.clone()),
            entry.action.clone(),
            entry.subject.clone(),
            or_dash(entry.before.as_ref().map(ToString::to_string)),
            or_dash(entry.after.as_ref().map(ToString::to_string)),
        ]);
    }
    table.render("no changes")
}
