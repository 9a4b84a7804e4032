//! `xtwebhooks deliveries …`: deliveries and their attempts.

use chrono::{DateTime, Utc};

use super::{
    args::{instant, rfc3339},
    client::{ApiClient, Remote},
    failure::CommandFailure,
    output::{Output, OutputTable, fields, time},
};
use crate::{
    api::{
        deliveries::{AttemptBody, Delivery},
        pagination,
    },
    model::{DeliveryId, DeliveryStatus, WebhookId},
};

/// What to show.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List deliveries of one webhook or of all, newest first
    List(ListDeliveries),
    /// Show one delivery with all its attempts
    Show(ShowDelivery),
}

/// A page of deliveries.
#[derive(clap::Args, Debug)]
pub(super) struct ListDeliveries {
    #[command(flatten)]
    remote: Remote,
    /// Only deliveries of this webhook [default: all webhooks]
    #[arg(long, value_name = "ID")]
    webhook: Option<WebhookId>,
    /// Only deliveries with these statuses: pending, held, delivered, dead, cancelled
    #[arg(long, value_name = "STATUSES", value_delimiter = ',')]
    status: Vec<DeliveryStatus>,
    /// Only deliveries of these event types: `ticket.created,asset.*`
    #[arg(long, value_name = "TYPES")]
    event_type: Option<String>,
    /// Only deliveries whose latest response had one of these statuses: `500,502`
    #[arg(long, value_name = "STATUSES")]
    response_status: Option<String>,
    /// Only deliveries whose latest attempt had one of these outcomes: `timed_out,unreachable`
    #[arg(long, value_name = "OUTCOMES")]
    outcome: Option<String>,
    /// Only deliveries whose reason begins with this text
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only deliveries with these triggers: event, test, replay, recovery
    #[arg(long, value_name = "TRIGGERS")]
    trigger: Option<String>,
    /// Only deliveries of events since this time: RFC 3339, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<DateTime<Utc>>,
    /// Only deliveries of events before this time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<DateTime<Utc>>,
    /// Maximum number of deliveries to list
    #[arg(long, value_name = "N", default_value_t = pagination::PAGE_DEFAULT, value_parser = clap::value_parser!(u32).range(1..=i64::from(pagination::PAGE_MAX)))]
    limit: u32,
    /// Continue after the previous page, with the cursor that it printed
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

/// One delivery.
#[derive(clap::Args, Debug)]
pub(super) struct ShowDelivery {
    #[command(flatten)]
    remote: Remote,
    /// Id of the delivery
    #[arg(value_name = "ID")]
    id: DeliveryId,
    /// Also print requests and responses; headers may contain a token
    #[arg(long)]
    full: bool,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    match command {
        Command::List(args) => list(args, output).await,
        Command::Show(args) => show(args, output).await,
    }
}

async fn list(args: ListDeliveries, output: Output) -> Result<(), CommandFailure> {
    let client = args.remote.client()?;
    let path = match args.webhook {
        Some(webhook) => format!("/v1/webhooks/{webhook}/deliveries"),
        None => "/v1/deliveries".to_owned(),
    };
    let statuses: Vec<&str> = args.status.iter().map(|status| status.as_str()).collect();
    let query = [
        ("status", Some(statuses.join(",")).filter(|_| !statuses.is_empty())),
        ("event_type", args.event_type),
        ("response_status", args.response_status),
        ("outcome", args.outcome),
        ("reason", args.reason),
        ("trigger", args.trigger),
        ("since", args.since.map(rfc3339)),
        ("until", args.until.map(rfc3339)),
        ("limit", Some(args.limit.to_string())),
        ("cursor", args.cursor),
    ];
    let page = client.get::<Vec<Delivery>>(&path, &query).await?;
    output.show(&page.body, |deliveries| table_of(deliveries))?;
    if let Some(cursor) = page.cursor() {
        eprintln!("for older ones: --cursor {cursor}");
    }
    Ok(())
}

async fn show(args: ShowDelivery, output: Output) -> Result<(), CommandFailure> {
    let client: ApiClient = args.remote.client()?;
    let delivery = client.get::<Delivery>(&format!("/v1/deliveries/{}", args.id), &[]).await?.body;
    Ok(output.show(&delivery, |delivery| page_of(delivery, args.full))?)
}

fn table_of(deliveries: &[Delivery]) -> String {
    let mut table =
        OutputTable::new(&["ID", "CREATED", "EVENT TYPE", "STATUS", "ATTEMPTS", "RESPONSE", "WHY"]);
    for delivery in deliveries {
        // Of a delivery that has not ended, the status says more than the latest attempt.
        let why = match (delivery.status, &delivery.outcome_why) {
            (DeliveryStatus::Delivered | DeliveryStatus::Dead, Some(why)) => why,
            _ => &delivery.why,
        };
        table.row([
            delivery.id.to_string(),
            time(delivery.created_at),
            delivery.event_type.clone(),
            delivery.status.to_string(),
            delivery.attempts.to_string(),
            delivery.response_status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
            why.clone(),
        ]);
    }
    table.render("no deliveries")
}

fn page_of(delivery: &Delivery, full: bool) -> String {
    let waits = matches!(delivery.status, DeliveryStatus::Pending | DeliveryStatus::Held);
    let mut page = fields(&[
        ("id", Some(delivery.id.to_string())),
        ("webhook", Some(delivery.webhook_id.to_string())),
        ("event", Some(format!("{} {}", delivery.event_type, delivery.event_id))),
        ("trigger", Some(delivery.trigger.to_string())),
        ("status", Some(state_of(delivery))),
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

/// The status with its reason and who must act next, as far as there is something to say about either.
fn state_of(delivery: &Delivery) -> String {
    let why =
        if delivery.why == delivery.status.as_str() { String::new() } else { format!(": {}", delivery.why) };
    let next =
        if delivery.next_move == "none" { String::new() } else { format!(" (next: {})", delivery.next_move) };
    format!("{}{why}{next}", delivery.status)
}

fn attempt_of(attempt: &AttemptBody, full: bool) -> String {
    let why = attempt.why.as_deref().unwrap_or(attempt.outcome.as_str());
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
            attempt.repeated.filter(|&is| is).map(|_| {
                "a reused connection broke; the request was repeated once on a new connection".to_owned()
            }),
        ),
        ("  response", attempt.response_body.clone().filter(|body| full && !body.is_empty())),
    ]);
    let heads = [("request", &attempt.request_head), ("response", &attempt.response_head)];
    let heads = heads.iter().filter(|_| full).filter_map(|(name, head)| {
        let lines: Vec<_> = head.as_ref()?.lines().map(|line| format!("\n    {}", line.trim_end())).collect();
        Some(format!("\n  {name}'s headers{}", lines.concat()))
    });
    format!("{head}\n{details}{}", heads.collect::<String>())
}

fn phases(attempt: &AttemptBody) -> String {
    let phases = [
        ("DNS", attempt.dns_us),
        ("connect", attempt.connect_us),
        ("TLS", attempt.tls_us),
        ("first byte", attempt.first_byte_us),
        ("total", attempt.total_us),
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
        let attempt = AttemptBody {
            number: 2,
            attempted_at: "2026-01-31T12:00:00Z".parse().unwrap(),
            outcome: crate::model::OutcomeClass::ServerError,
            why: Some("the receiver answered 503, a server error".to_owned()),
            url: Some("https://example.com/h".to_owned()),
            address: Some("203.0.113.9:443".to_owned()),
            request_head: Some("Authorization: Bearer t\r\nX: 1\r\n".to_owned()),
            traceparent: None,
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
        let expected = "attempt 2  2026-01-31 12:00:00  server_error: the receiver answered 503, a server error\n  \
             to    https://example.com/h at 203.0.113.9:443\n  \
             took  connect 1.2 ms, first byte 9.0 ms, total 10.0 ms";
        assert_eq!(attempt_of(&attempt, false), expected);
        let full = attempt_of(&attempt, true);
        assert!(
            full.ends_with("  response  busy\n  request's headers\n    Authorization: Bearer t\n    X: 1"),
            "{full}"
        );
    }
}
