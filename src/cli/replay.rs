//! `xtwebhooks replay`: asks for deliveries to be sent again, by their ids or by what they have in common.
//!
//! The order is a row; the service works on it, in its own time and at the rate asked for, whether or not anybody
//! waits here. Receivers see the same `webhook-id` as before, and `X-XTSystems-Trigger: replay`.

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

/// How often `--wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What is to be sent again.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    remote: Remote,
    /// Deliveries and dead letters
    #[arg(value_name = "ID", conflicts_with_all = ["webhook", "event_type", "status", "since", "until"])]
    ids: Vec<Uuid>,
    /// All of this webhook
    #[arg(long, value_name = "ID")]
    webhook: Option<WebhookId>,
    /// All of this type
    #[arg(long, value_name = "TYPE")]
    event_type: Option<EventType>,
    /// All in this state: dead, delivered, cancelled, held or pending [default: dead]
    #[arg(long, value_name = "STATE")]
    status: Option<DeliveryStatus>,
    /// All of events since then: a time, or `2h` for two hours ago
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<DateTime<Utc>>,
    /// All of events before then
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<DateTime<Utc>>,
    /// How many are sent a second
    #[arg(long, value_name = "PER_SECOND", default_value_t = RATE_DEFAULT, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    rate: i32,
    /// Wait until the last of them has ended
    #[arg(long)]
    wait: bool,
}

pub(super) async fn execute(args: Args, output: Output) -> Result<(), CommandFailure> {
    check(&args)?;
    let client = args.remote.client()?;
    let wanted = NewReplay {
        deliveries: Some(args.ids).filter(|ids| !ids.is_empty()),
        webhook_id: args.webhook.map(WebhookId::uuid),
        event_type: args.event_type.map(String::from),
        status: args.status,
        since: args.since,
        until: args.until,
        rate: Some(args.rate),
    };
    let mut replay = client.post::<Replay>("/v1/replays", &wanted).await?.body;
    let address = format!("/v1/replays/{}", replay.id);
    if args.wait {
        eprintln!("replay {} is on its way; interrupting this command does not stop it", replay.id);
    }
    while args.wait && replay.status != ReplayStatus::Done {
        tokio::time::sleep(LOOK_EVERY).await;
        replay = client.get::<Replay>(&address, &[]).await?.body;
    }
    Ok(output.show(&replay, page_of)?)
}

/// What does not go together, before anything is asked of the ledger.
fn check(args: &Args) -> Result<(), CommandFailure> {
    let narrowed = args.webhook.is_some()
        || args.event_type.is_some()
        || args.status.is_some()
        || args.since.is_some()
        || args.until.is_some();
    if args.ids.is_empty() && !narrowed {
        return Err(CommandFailure::Usage("nothing says what to send again; give ids, or one of --webhook, --event-type, --status, --since, --until".to_owned()));
    }
    if args.ids.len() > IDS_MAX {
        return Err(CommandFailure::Usage(format!(
            "{} ids; at most {IDS_MAX} are taken, beyond that use a filter",
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
        ("state", Some(replay.status.to_string())),
        ("what", replay.filter.as_ref().map(|filter| filter.get().to_owned())),
        ("rate", Some(format!("{} a second", replay.rate))),
        ("asked", Some(format!("{} by {}", time(replay.started_at), replay.requested_by))),
        ("ended", replay.ended_at.map(time)),
        ("deliveries made", Some(replay.made.to_string())),
        ("not yet ended", replay.open.map(|n| n.to_string())),
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
        assert!(!taken(&[]), "everything there ever was is asked for by no accident");
        assert!(!taken(&[one, "--status=dead"]));
        assert!(!taken(&["--since=1h", "--until=2h"]));
        assert!(!taken(&["--status=dead", "--rate=0"]));
        assert!(!taken(&vec![one; IDS_MAX + 1]));
    }
}
