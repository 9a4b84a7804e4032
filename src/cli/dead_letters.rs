//! `xtwebhooks dead-letters …`: what was given up, and why.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    args::{Ledger, instant},
    failure::Failure,
    output::{Output, Table, fields},
    shapes::{DeadLetter, time},
};
use crate::{
    model::{CompanyId, WebhookId},
    store::dead_letters as table,
};

/// What is looked at.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List dead letters, newest first
    List(List),
    /// Show one dead letter with what it carried
    Show(Show),
}

/// What may have become of a dead letter.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Status {
    /// Nothing yet.
    Open,
    /// It was asked for anew.
    Replayed,
    /// It is not wanted any more.
    Discarded,
}

impl Status {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Replayed => "replayed",
            Self::Discarded => "discarded",
        }
    }
}

/// Whose dead letters: of a company, or all, with those that say no company.
#[derive(clap::Args, Debug)]
#[group(required = true, multiple = false)]
struct Scope {
    /// Of this company
    #[arg(long, value_name = "ID")]
    company: Option<CompanyId>,
    /// Of all companies, with those that say none: for whoever runs the service
    #[arg(long)]
    all: bool,
}

/// A page of dead letters.
#[derive(clap::Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    scope: Scope,
    /// Only of this webhook
    #[arg(long, value_name = "ID")]
    webhook: Option<WebhookId>,
    /// Only those that this became of
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// Only whose reason begins so
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only given up since then: a time, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<DateTime<Utc>>,
    /// Only given up before then
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<DateTime<Utc>>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=table::PAGE_MAX))]
    limit: i64,
    /// Only those before this one: the last of the page before
    #[arg(long, value_name = "ID")]
    before: Option<Uuid>,
}

/// One dead letter.
#[derive(clap::Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    scope: Scope,
    /// The dead letter
    #[arg(value_name = "ID")]
    id: Uuid,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(args, output).await,
        Command::Show(args) => show(args, output).await,
    }
}

async fn list(args: List, output: Output) -> Result<(), Failure> {
    let db = args.ledger.open().await?;
    let before = match args.before {
        Some(id) => {
            let last = table::get(&db, args.scope.company, id).await?.ok_or_else(not_found)?;
            Some((last.created_at, last.id))
        }
        None => None,
    };
    let page = table::Page {
        company: args.scope.company,
        webhook: args.webhook,
        status: args.status.map(|status| status.as_str().to_owned()),
        reason: args.reason,
        since: args.since,
        until: args.until,
        before,
        limit: args.limit,
    };
    let letters: Vec<DeadLetter> = table::list(&db, &page).await?.into_iter().map(Into::into).collect();
    output.show(&letters, |letters| table_of(letters))?;
    if let Some(last) = letters.last().filter(|_| i64::try_from(letters.len()).is_ok_and(|n| n == args.limit))
    {
        eprintln!("older ones: --before {}", last.id);
    }
    Ok(())
}

async fn show(args: Show, output: Output) -> Result<(), Failure> {
    let row = table::get(&args.ledger.open().await?, args.scope.company, args.id).await?;
    let letter: DeadLetter = row.ok_or_else(not_found)?.into();
    Ok(output.show(&letter, page_of)?)
}

fn not_found() -> Failure {
    Failure::NotFound("Dead letter not found".to_owned())
}

fn table_of(letters: &[DeadLetter]) -> String {
    let mut table =
        Table::new(&["ID", "GIVEN UP", "KIND", "EVENT TYPE", "STATUS", "ATTEMPTS", "ANSWER", "REASON"]);
    for letter in letters {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row([
            letter.id.to_string(),
            time(letter.created_at),
            letter.kind.clone(),
            or_dash(letter.event_type.clone()),
            letter.status.clone(),
            letter.attempts.to_string(),
            or_dash(letter.response_status.map(|status| status.to_string())),
            reason_of(letter),
        ]);
    }
    table.render("no dead letters")
}

fn reason_of(letter: &DeadLetter) -> String {
    match &letter.field {
        // The reason as it was told to the publisher begins with the field already.
        Some(field) if !letter.reason.starts_with('`') => format!("`{field}` {}", letter.reason),
        _ => letter.reason.clone(),
    }
}

fn page_of(letter: &DeadLetter) -> String {
    let id = |id: Option<Uuid>| id.map(|id| id.to_string());
    let replayed = letter
        .replayed_at
        .map(|at| format!("{} by replay {}", time(at), id(letter.replay_id).unwrap_or_default()));
    fields(&[
        ("id", Some(letter.id.to_string())),
        ("kind", Some(letter.kind.clone())),
        ("status", Some(letter.status.clone())),
        ("reason", Some(reason_of(letter))),
        ("given up", Some(time(letter.created_at))),
        ("replayed", replayed),
        ("company", id(letter.company_id)),
        ("webhook", id(letter.webhook_id)),
        ("event", id(letter.event_id)),
        ("event type", letter.event_type.clone()),
        ("attempts", Some(letter.attempts.to_string())),
        ("outcome", letter.outcome.clone()),
        ("answer", letter.response_status.map(|status| status.to_string())),
        ("routing key", letter.routing_key.clone()),
        ("message id", letter.message_id.clone()),
        ("headers", letter.headers.as_ref().map(|headers| headers.get().to_owned())),
        ("body", letter.body.clone()),
    ])
}
