//! `xtwebhooks deliveries …`: what was sent to whom, and what came of it.

use crate::{
    clock::SystemClock,
    model::{DeliveryId, EventType, Status, WebhookId, why},
    store::{dead_letters, history, webhooks as table},
};

use super::{
    args::{Company, Ledger},
    failure::Failure,
    output::{Output, Table, fields},
    shapes::{Attempt, Delivery, time},
    webhooks,
};

/// What is looked at.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List a webhook's deliveries, newest first
    List(List),
    /// Show one delivery with all its attempts
    Show(Show),
}

/// A page of a webhook's deliveries.
#[derive(clap::Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    company: Company,
    /// Whose deliveries
    #[arg(long, value_name = "ID")]
    webhook: WebhookId,
    /// Only in this state: pending, held, delivered, dead or cancelled
    #[arg(long, value_name = "STATE")]
    status: Option<Status>,
    /// Only of this type
    #[arg(long, value_name = "TYPE")]
    event_type: Option<EventType>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=history::PAGE_MAX))]
    limit: i64,
    /// Only those before this one: the last of the page before
    #[arg(long, value_name = "ID")]
    before: Option<DeliveryId>,
}

/// One delivery.
#[derive(clap::Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    company: Company,
    /// The delivery
    #[arg(value_name = "ID")]
    id: DeliveryId,
    /// Also print what was sent and what was answered; headers may hold a token
    #[arg(long)]
    full: bool,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(args, output).await,
        Command::Show(args) => show(args, output).await,
    }
}

async fn list(args: List, output: Output) -> Result<(), Failure> {
    let (db, company) = (args.ledger.open().await?, args.company.company);
    // A deleted webhook has a history as well, so it is not looked for among the living.
    let known = table::by_ids(&db, &[args.webhook.uuid()]).await?;
    if !known.iter().any(|webhook| webhook.company == company) {
        return Err(webhooks::not_found());
    }
    let page = history::Page {
        status: args.status,
        event_type: args.event_type.map(String::from),
        before: args.before,
        limit: args.limit,
    };
    let rows = history::list(&db, company, args.webhook, &page).await?;
    let is_full = i64::try_from(rows.len()).is_ok_and(|n| n == args.limit);
    let last = rows.last().filter(|_| is_full).map(|row| row.id);
    let now = SystemClock::local();
    let deliveries: Vec<Delivery> = rows.into_iter().map(|row| Delivery::at(now, row)).collect();
    output.show(&deliveries, |deliveries| table_of(deliveries))?;
    if let Some(last) = last {
        eprintln!("older ones: --before {last}");
    }
    Ok(())
}

async fn show(args: Show, output: Output) -> Result<(), Failure> {
    let (db, company) = (args.ledger.open().await?, args.company.company);
    let row = history::get(&db, company, args.id).await?;
    let row = row.ok_or_else(|| Failure::NotFound("Delivery not found".to_owned()))?;
    let earlier = history::earlier_attempts(&db, company, args.id).await?;
    let attempts = earlier.into_iter().chain(row.latest()).map(Attempt::from).collect();
    let now = SystemClock::local();
    let mut delivery = Delivery::at(now, row);
    delivery.history = Some(attempts);
    if delivery.status == Status::Pending.as_str() {
        // What holds up its whole lane explains more than its own time does.
        let webhook = table::by_ids(&db, &[delivery.webhook_id.uuid()]).await?.pop();
        if let Some(why) = webhook.and_then(|webhook| why::of_lane(&webhook.lane, None, None, now)) {
            delivery.why = why.sentence;
            delivery.next_move = why.next.as_str();
        }
    }
    if delivery.payload.is_none() {
        // The event has left the ledger; what was given up has a copy of its own.
        let copy =
            dead_letters::get(&db, Some(company), args.id.uuid()).await?.and_then(|letter| letter.body);
        let text = copy.and_then(|body| String::from_utf8(body).ok());
        delivery.payload = text.and_then(|text| serde_json::value::RawValue::from_string(text).ok());
    }
    Ok(output.show(&delivery, |delivery| page_of(delivery, args.full))?)
}

fn table_of(deliveries: &[Delivery]) -> String {
    let mut table = Table::new(&["ID", "CREATED", "EVENT TYPE", "STATE", "ATTEMPTS", "ANSWER", "WHY"]);
    for delivery in deliveries {
        // Of what is not over, the state says more than the latest attempt.
        let why = match (&*delivery.status, &delivery.outcome_why) {
            ("delivered" | "dead", Some(why)) => why,
            _ => &delivery.why,
        };
        table.row([
            delivery.id.to_string(),
            time(delivery.created_at),
            delivery.event_type.clone(),
            delivery.status.clone(),
            delivery.attempts.to_string(),
            delivery.response_status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            why.clone(),
        ]);
    }
    table.render("no deliveries")
}

fn page_of(delivery: &Delivery, full: bool) -> String {
    let waits = matches!(&*delivery.status, "pending" | "held");
    let mut page = fields(&[
        ("id", Some(delivery.id.to_string())),
        ("webhook", Some(delivery.webhook_id.to_string())),
        ("event", Some(format!("{} {}", delivery.event_type, delivery.event_id))),
        ("trigger", Some(delivery.trigger.clone())),
        ("state", Some(state_of(delivery))),
        ("created", Some(time(delivery.created_at))),
        ("delivered", delivery.delivered_at.map(time)),
        ("due", Some(time(delivery.due_at)).filter(|_| waits)),
        ("attempts", Some(delivery.attempts.to_string())),
        ("replay", delivery.replay_id.map(|id| id.to_string())),
        ("rescued", Some(delivery.rescues).filter(|&n| n > 0).map(|n| format!("{n} times"))),
        ("repeated", Some(delivery.repeats).filter(|&n| n > 0).map(|n| format!("{n} times"))),
        ("payload", delivery.payload.as_ref().filter(|_| full).map(|payload| payload.get().to_owned())),
    ]);
    for attempt in delivery.history.iter().flatten() {
        page.push_str("\n\n");
        page.push_str(&attempt_of(attempt, full));
    }
    page
}

/// The state with its reason and whose move is next, as far as there is something to say of either.
fn state_of(delivery: &Delivery) -> String {
    let why = if delivery.why == delivery.status { String::new() } else { format!(": {}", delivery.why) };
    let next = if delivery.next_move == "nobody" {
        String::new()
    } else {
        format!(" (next: {})", delivery.next_move)
    };
    format!("{}{why}{next}", delivery.status)
}

fn attempt_of(attempt: &Attempt, full: bool) -> String {
    let why = attempt.why.as_deref().unwrap_or(&attempt.outcome);
    let head =
        format!("attempt {}  {}  {}: {why}", attempt.number, time(attempt.attempted_at), attempt.outcome);
    let details = fields(&[
        (
            "  to",
            Some(
                [attempt.url.as_deref(), attempt.address.as_deref()]
                    .into_iter()
                    .flatten()
                    .collect::<Vec<_>>()
                    .join(" at "),
            ),
        ),
        ("  took", Some(phases(attempt))),
        (
            "  note",
            attempt
                .repeated
                .filter(|&is| is)
                .map(|_| "a kept connection broke; repeated once on a fresh one".to_owned()),
        ),
        ("  answer", attempt.response_body.clone().filter(|body| full && !body.is_empty())),
    ]);
    let heads = [("request", &attempt.request_head), ("answer", &attempt.response_head)];
    let heads = heads.iter().filter(|_| full).filter_map(|(name, head)| {
        let lines: Vec<_> = head.as_ref()?.lines().map(|line| format!("\n    {}", line.trim_end())).collect();
        Some(format!("\n  {name}'s headers{}", lines.concat()))
    });
    format!("{head}\n{details}{}", heads.collect::<String>())
}

fn phases(attempt: &Attempt) -> String {
    let phases = [
        ("name", attempt.dns_us),
        ("connection", attempt.connect_us),
        ("tls", attempt.tls_us),
        ("first byte", attempt.first_byte_us),
        ("in all", attempt.total_us),
    ];
    let text =
        |(name, us): (&str, Option<i32>)| us.map(|us| format!("{name} {:.1} ms", f64::from(us) / 1_000.0));
    phases.into_iter().filter_map(text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_says_what_happened_and_where_the_time_went() {
        let attempt = Attempt {
            number: 2,
            attempted_at: "2026-01-31T12:00:00Z".parse().unwrap(),
            outcome: "server_error".to_owned(),
            why: Some("the receiver answered 503, an error of its own".to_owned()),
            url: Some("https://example.com/h".to_owned()),
            address: Some("203.0.113.9:443".to_owned()),
            request_head: Some("Authorization: Bearer t\r\nX: 1\r\n".to_owned()),
            response_status: Some(503),
            response_head: None,
            response_body: Some("busy".to_owned()),
            response_truncated: Some(false),
            repeated: Some(false),
            dns_us: None,
            connect_us: Some(1_250),
            tls_us: None,
            first_byte_us: Some(9_000),
            total_us: Some(10_000),
        };
        let expected = "attempt 2  2026-01-31 12:00:00  server_error: the receiver answered 503, an error of its own\n  \
             to    https://example.com/h at 203.0.113.9:443\n  \
             took  connection 1.2 ms, first byte 9.0 ms, in all 10.0 ms";
        assert_eq!(attempt_of(&attempt, false), expected);
        let full = attempt_of(&attempt, true);
        assert!(
            full.ends_with("  answer  busy\n  request's headers\n    Authorization: Bearer t\n    X: 1"),
            "{full}"
        );
    }
}
