//! `xtwebhooks replay`: sends deliveries again, selected by their ids or by a filter.
//!
//! The order is a row. The service processes it at the requested rate, whether or not this command waits. Receivers see the same `webhook-id` as before, and `X-XTSystems-Trigger: replay`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    args::instant,
    client::Remote,
    failure::CommandFailure,
    output::{Output, fields, time},
};
use crate::{
    api::replays::{IDS_MAX, NewReplay, RATE_DEFAULT, Replay},
    model::{DeliveryStatus, EventType, WebhookId, replay::ReplayStatus},
};

/// How often `--wait` checks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What to send again.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    remote: Remote,
    /// Ids of deliveries and dead letters
    #[arg(value_name = "ID", conflicts_with_all = ["webhook", "event_type", "status", "since", "until"])]
    ids: Vec<Uuid>,
    /// All deliveries of this webhook
    #[arg(long, value_name = "ID")]
    webhook: Option<WebhookId>,
    /// All deliveries of this event type
    #[arg(long, value_name = "TYPE")]
    event_type: Option<EventType>,
    /// All deliveries with this status: dead, delivered, cancelled, held or pending [default: dead]
    #[arg(long, value_name = "STATUS")]
    status: Option<DeliveryStatus>,
    /// All deliveries of events since this time: RFC 3339, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<DateTime<Utc>>,
    /// All deliveries of events before this time
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<DateTime<Utc>>,
    /// Deliveries to send per second
    #[arg(long, value_name = "PER_SECOND", default_value_t = RATE_DEFAULT, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    rate: i32,
    /// Wait until all of them have ended
    #[arg(long)]
    wait: bool,
}

pub(super) async fn execute(args: Args, output: Output) -> Result<(), CommandFailure> {
    check(&args)?;
    let client = args.remote.client()?;
    let request = NewReplay {
        deliveries: Some(args.ids).filter(|ids| !ids.is_empty()),
        webhook_id: args.webhook.map(WebhookId::uuid),
        event_type: args.event_type.map(String::from),
        status: args.status,
        since: args.since,
        until: args.until,
        rate: Some(args.rate),
    };
    let mut replay = client.post::<Replay>("/v1/replays", &request).await?.body;
    let address = format!("/v1/replays/{}", replay.id);
    if args.wait {
        eprintln!("replay {} has started; interrupting this command does not stop it", replay.id);
    }
    while args.wait && replay.status != ReplayStatus::Done {
        tokio::time::sleep(LOOK_EVERY).await;
        replay = client.get::<Replay>(&address, &[]).await?.body;
    }
    Ok(output.show(&replay, page_of)?)
}

/// Refuses arguments that do not fit together, before anything is sent to the API.
fn check(args: &Args) -> Result<(), CommandFailure> {
    let narrowed = args.webhook.is_some()
        || args.event_type.is_some()
        || args.status.is_some()
        || args.since.is_some()
        || args.until.is_some();
    if args.ids.is_empty() && !narrowed {
        return Err(CommandFailure::Usage("no deliveries are selected; give ids, or at least one of --webhook, --event-type, --status, --since, --until".to_owned()));
    }
    if args.ids.len() > IDS_MAX {
        return Err(CommandFailure::Usage(format!(
            "{} ids are too many; give at most {IDS_MAX}, or use a filter",
            args.ids.len()
        )));
    }
    if let (Some(since), Some(until)) = (args.since, args.until)
        && since >= until
    {
        return Err(CommandFailure::Usage("--since must be before --until".to_owned()));
    }
    Ok(())
}

pub(super) fn page_of(replay: &Replay) -> String {
    fields(&[
        ("id", Some(replay.id.to_string())),
        ("status", Some(replay.status.to_string())),
        ("filter", replay.filter.as_ref().map(|filter| filter.get().to_owned())),
        ("rate", Some(format!("{} per second", replay.rate))),
        ("requested", Some(format!("{} by {}", time(replay.started_at), replay.requested_by))),
        ("ended", replay.ended_at.map(time)),
        ("deliveries created", Some(replay.made.to_string())),
        ("not ended yet", replay.open.map(|n| n.to_string())),
        ("nothing left to send", Some(replay.skipped).filter(|&n| n > 0).map(|n| n.to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Replay_ {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn an_order_says_what_it_is_about() {
        let usual = ["x", "--api-key=k", "--company=00000000-0000-0000-0000-000000000007"];
        let parse =
            |more: &[&str]| Replay_::try_parse_from([&usual, more].concat()).map(|parsed| parsed.args);
        let one = "00000000-0000-0000-0000-000000000001";
        let taken = |more: &[&str]| parse(more).is_ok_and(|args| check(&args).is_ok());
        assert!(taken(&[one]));
        assert!(taken(&["--status=dead", "--since=2h"]));
        assert!(!taken(&[]), "the whole history is never replayed by accident");
        assert!(!taken(&[one, "--status=dead"]));
        assert!(!taken(&["--since=1h", "--until=2h"]));
        assert!(!taken(&["--status=dead", "--rate=0"]));
        assert!(!taken(&vec![one; IDS_MAX + 1]));
    }
}
