//! `xtwebhooks dead-letters …`: what was given up, and why; to replay or to discard.

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    args::{instant, rfc3339},
    client::Remote,
    failure::CommandFailure,
    output::{Output, OutputTable, fields, time},
    replay,
};
use crate::{
    api::{dead_letters::DeadLetter, pagination, replays::Replay},
    model::{WebhookId, dead_letter::DeadLetterStatus},
};

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List dead letters, newest first
    List(ListDeadLetters),
    /// Show one dead letter with its body
    Show(DeadLetterArg),
    /// Replay a dead letter: send the delivery again, or ingest the message again
    Replay(DeadLetterArg),
    /// Discard a dead letter that is no longer needed
    Discard(DeadLetterArg),
}

/// A page of dead letters.
#[derive(clap::Args, Debug)]
pub(super) struct ListDeadLetters {
    #[command(flatten)]
    remote: Remote,
    /// Dead letters of all companies and of none; needs a key for all companies with the scope admin
    #[arg(long, conflicts_with = "company")]
    all: bool,
    /// Only these kinds: delivery, event, message
    #[arg(long, value_name = "KINDS")]
    kind: Option<String>,
    /// Only dead letters of this webhook
    #[arg(long, value_name = "ID")]
    webhook: Option<WebhookId>,
    /// Only dead letters with this status
    #[arg(long, value_enum)]
    status: Option<DeadLetterStatus>,
    /// Only dead letters whose reason begins with this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only dead letters given up since this time: RFC 3339, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<DateTime<Utc>>,
    /// Only dead letters given up before this time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<DateTime<Utc>>,
    /// Maximum number of dead letters to list
    #[arg(long, value_name = "N", default_value_t = pagination::PAGE_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(pagination::PAGE_MAX)))]
    limit: u32,
    /// Continue after the previous page, with the cursor that it printed
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// One dead letter.
#[derive(clap::Args, Debug)]
pub(super) struct DeadLetterArg {
    #[command(flatten)]
    remote: Remote,
    /// Find the dead letter in any company, or in none
    #[arg(long, conflicts_with = "company")]
    all: bool,
    /// Id of the dead letter
    #[arg(value_name = "ID")]
    id: Uuid,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    match command {
        Command::List(args) => list(args, output).await,
        Command::Show(args) => {
            let letter = args.remote.client()?.get::<DeadLetter>(&address(args.id, ""), &[]).await?;
            Ok(output.show(&letter.body, page_of)?)
        }
        Command::Replay(args) => {
            let path = address(args.id, "/replay");
            let order = args.remote.client()?.post::<Replay>(&path, &json!({})).await?;
            Ok(output.show(&order.body, replay::page_of)?)
        }
        Command::Discard(args) => {
            let path = address(args.id, "/discard");
            let letter = args.remote.client()?.post::<DeadLetter>(&path, &json!({})).await?;
            Ok(output.show(&letter.body, page_of)?)
        }
    }
}

fn address(id: Uuid, verb: &str) -> String {
    format!("/v1/dead-letters/{id}{verb}")
}

async fn list(args: ListDeadLetters, output: Output) -> Result<(), CommandFailure> {
    let query = [
        ("kind", args.kind),
        ("status", args.status.map(|status| status.as_str().to_owned())),
        ("webhook_id", args.webhook.map(|id| id.to_string())),
        ("reason", args.reason),
        ("since", args.since.map(rfc3339)),
        ("until", args.until.map(rfc3339)),
        ("limit", Some(args.limit.to_string())),
        ("cursor", args.cursor),
    ];
    let page = args.remote.client()?.get::<Vec<DeadLetter>>("/v1/dead-letters", &query).await?;
    output.show(&page.body, |dead_letters| table_of(dead_letters))?;
    if let Some(cursor) = page.cursor() {
        eprintln!("for older ones: --cursor {cursor}");
    }
    Ok(())
}

fn table_of(dead_letters: &[DeadLetter]) -> String {
    let mut table = OutputTable::new(&[
        "ID",
        "GIVEN UP",
        "KIND",
        "EVENT TYPE",
        "STATUS",
        "ATTEMPTS",
        "RESPONSE",
        "REASON",
    ]);
    for letter in dead_letters {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        table.row([
            letter.id.to_string(),
            time(letter.created_at),
            letter.kind.to_string(),
            or_dash(letter.event_type.clone()),
            letter.status.to_string(),
            letter.attempts.to_string(),
            or_dash(letter.response_status.map(|status| status.to_string())),
            reason_of(letter),
        ]);
    }
    table.render("no dead letters")
}

fn reason_of(letter: &DeadLetter) -> String {
    match &letter.field {
        // The reason that the publisher was given already begins with the field.
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
        ("kind", Some(letter.kind.to_string())),
        ("status", Some(letter.status.to_string())),
        ("reason", Some(reason_of(letter))),
        ("given up", Some(time(letter.created_at))),
        ("replayed", replayed),
        ("company", id(letter.company_id)),
        ("webhook", id(letter.webhook_id)),
        ("event", id(letter.event_id)),
        ("event type", letter.event_type.clone()),
        ("attempts", Some(letter.attempts.to_string())),
        ("outcome", letter.outcome.map(|outcome| outcome.to_string())),
        ("response", letter.response_status.map(|status| status.to_string())),
        ("routing key", letter.routing_key.clone()),
        ("message id", letter.message_id.clone()),
        ("headers", letter.headers.as_ref().map(|headers| headers.get().to_owned())),
        ("body", letter.body.clone()),
    ])
}
