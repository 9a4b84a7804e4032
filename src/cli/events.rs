//! `xtwebhooks events …`: events, and what became of them.

use std::fmt::Write;

use chrono::{DateTime, Utc};

use super::{
    args::instant,
    client::Remote,
    failure::CommandFailure,
    output::{Output, OutputTable, fields, time},
};
use crate::{
    api::events::{EventBody, EventShown},
    model::{EventId, WebhookId},
};

/// The most rows that a page of the API has.
const PAGE_MAX: usize = 500;

/// What to show.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List events, newest first
    List(ListEvents),
    /// Show one event with its deliveries, or why it has none
    Show(ShowEvent),
}

/// Events of a company.
#[derive(clap::Args, Debug)]
pub(super) struct ListEvents {
    #[command(flatten)]
    remote: Remote,
    /// Only events of this type; `ticket.*` for all types with this prefix
    #[arg(long, value_name = "TYPE")]
    event_type: Option<String>,
    /// Only events since this time: RFC 3339, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<DateTime<Utc>>,
    /// Only events before this time: RFC 3339, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<DateTime<Utc>>,
    /// Only events with this id from the publisher
    #[arg(long, value_name = "TEXT")]
    event_id: Option<String>,
    /// Only events that matched no webhook
    #[arg(long)]
    unmatched: bool,
    /// Maximum number of events to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

/// One event.
#[derive(clap::Args, Debug)]
pub(super) struct ShowEvent {
    #[command(flatten)]
    remote: Remote,
    /// Id of the event
    #[arg(value_name = "ID")]
    id: EventId,
    /// Show only this webhook: its deliveries, or why it has none
    #[arg(long, value_name = "ID")]
    webhook: Option<WebhookId>,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    match command {
        Command::List(args) => list(args, output).await,
        Command::Show(args) => show(args, output).await,
    }
}

async fn list(args: ListEvents, output: Output) -> Result<(), CommandFailure> {
    let limit = args.limit as usize;
    let instant = |time: Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339());
    let query = [
        ("event_type", args.event_type),
        ("since", instant(args.since)),
        ("until", instant(args.until)),
        ("event_id", args.event_id),
        ("unmatched", args.unmatched.then(|| "true".to_owned())),
        ("limit", Some(limit.min(PAGE_MAX).to_string())),
    ];
    let events: Vec<EventBody> = args.remote.client()?.list("/v1/events", &query, limit).await?;
    Ok(output.show(&events, |events| {
        let mut table = OutputTable::new(&["ID", "TYPE", "RECEIVED", "MATCHED", "EVENT ID", "VIOLATION"]);
        for event in events {
            table.row([
                event.id.to_string(),
                event.event_type.clone(),
                time(event.received_at),
                event.matched.to_string(),
                event.event_id.clone(),
                event.violation.clone().unwrap_or_default(),
            ]);
        }
        table.render("no events")
    })?)
}

async fn show(args: ShowEvent, output: Output) -> Result<(), CommandFailure> {
    let query = [("webhook_id", args.webhook.map(|webhook| webhook.to_string()))];
    let path = format!("/v1/events/{}", args.id);
    let shown: EventShown = args.remote.client()?.get(&path, &query).await?.body;
    Ok(output.show(&shown, text_of)?)
}

fn text_of(shown: &EventShown) -> String {
    let event = &shown.event;
    let mut text = fields(&[
        ("id", Some(event.id.to_string())),
        ("type", Some(event.event_type.clone())),
        ("event id", Some(event.event_id.clone())),
        ("received", Some(time(event.received_at))),
        ("matched", Some(event.matched.to_string())),
        ("violation", event.violation.clone()),
        ("data", event.data.as_ref().map(|data| data.get().to_owned())),
    ]);
    let mut table = OutputTable::new(&["DELIVERY", "WEBHOOK", "TRIGGER", "STATUS", "ATTEMPTS", "WHY"]);
    for delivery in &shown.deliveries {
        table.row([
            delivery.id.to_string(),
            delivery.webhook_id.to_string(),
            delivery.trigger.to_string(),
            delivery.status.to_string(),
            delivery.attempts.to_string(),
            delivery.why.clone(),
        ]);
    }
    text.push_str("\n\n");
    text.push_str(&table.render("no deliveries"));
    for not_sent in &shown.not_sent {
        let _ = write!(text, "\n{}  {}", not_sent.webhook_id, not_sent.why);
    }
    text
}
