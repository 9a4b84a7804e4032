//! `xtwebhooks publish`: publishes events as XTSystems does, one from arguments or many from standard input.
//!
//! Each is confirmed by the broker, and mandatory: if no queue is bound to the exchange, it is returned and reported.
//! Nothing is declared here, because a publisher does not decide how the service is set up.

mod input;

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use self::input::{EventInput, Lines};
use super::{failure::CommandFailure, output::Output};
use crate::{
    broker::{self, Broker, ConnectionState, Destination, Fate, Headers, Outgoing, Publisher},
    clock::SystemClock,
    model::{CompanyId, EventType},
    shutdown::Shutdown,
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How many events are published at a time; each of them must be confirmed within the broker's time limit.
const BATCH_MAX: usize = 200;

/// What to publish, and where.
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    #[command(flatten)]
    broker: broker::Config,
    /// Event type, such as `ticket.created`; for standard input, the type of lines that name none
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<EventType>,
    /// Data of the event, a JSON value; without it, events are read from standard input, one JSON object per line
    #[arg(long, value_name = "JSON", requires_all = ["event_type", "company"])]
    data: Option<String>,
    /// Id of the company that the event belongs to
    #[arg(long, value_name = "ID", requires = "data")]
    company: Option<CompanyId>,
    /// Id that identifies the event if it is published again [default: a random id]
    #[arg(long, value_name = "TEXT", requires = "data")]
    event_id: Option<String>,
    /// Time of the event: seconds since 1970, or RFC 3339 [default: now]
    #[arg(long, value_name = "TIME", requires = "data")]
    timestamp: Option<String>,
    /// Publish lines unchecked, to see how the service handles invalid ones
    #[arg(long, conflicts_with = "data")]
    unchecked: bool,
}

/// What became of one event.
#[derive(Serialize)]
struct PublishSummary<'a> {
    event_id: &'a str,
    fate: &'static str,
}

/// How many events had which fate.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    confirmed: usize,
    returned: usize,
    refused: usize,
    unknown: usize,
    bad: usize,
}

pub(super) async fn execute(args: Args, output: Output) -> Result<(), CommandFailure> {
    let one = args.data.as_deref().map(|data| one_event(&args, data)).transpose()?;
    let broker = Broker::open_as_publisher(args.broker.clone(), Shutdown::default());
    connect(&broker).await?;
    let publisher = broker.publisher();
    let tally = match one {
        Some(event) => publish(&publisher, vec![event], output).await?,
        None => publish_lines(&args, &publisher, output).await?,
    };
    broker.close().await;
    eprintln!("{tally}");
    tally.verdict()
}

fn one_event(args: &Args, data: &str) -> Result<EventInput, CommandFailure> {
    let (Some(event_type), Some(company)) = (&args.event_type, args.company) else {
        return Err(CommandFailure::Usage("--data requires --type and --company".to_owned()));
    };
    let id = args.event_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let now = || SystemClock::local().timestamp().to_string();
    let timestamp = args.timestamp.clone().unwrap_or_else(now);
    let body = input::envelope(&id, event_type, data, company, &timestamp);
    EventInput::read(body, event_type.as_str()).map_err(|why| CommandFailure::Refused(why.to_string()))
}

async fn connect(broker: &Broker) -> Result<(), CommandFailure> {
    match tokio::time::timeout(CONNECT_TIMEOUT, broker.ready()).await {
        Ok(ready) => Ok(ready?),
        Err(_) => Err(match broker.state() {
            ConnectionState::Connecting { error: Some(error), .. } => error.into(),
            _ => CommandFailure::Unreachable(anyhow::anyhow!(
                "RabbitMQ does not answer; check that it is running, and check AMQP_URL"
            )),
        }),
    }
}

async fn publish_lines(args: &Args, publisher: &Publisher, output: Output) -> Result<Tally, CommandFailure> {
    let mut lines = Lines::from_stdin(args.event_type.clone(), args.unchecked);
    let mut tally = Tally::default();
    loop {
        let batch = lines.batch(BATCH_MAX).await?;
        for bad in &batch.bad {
            eprintln!("xtwebhooks: {bad}");
        }
        tally.bad += batch.bad.len();
        tally += publish(publisher, batch.events, output).await?;
        // After one missing answer the rest would only wait for theirs in turn.
        if batch.is_last || tally.unknown > 0 {
            return Ok(tally);
        }
    }
}

async fn publish(
    publisher: &Publisher,
    events: Vec<EventInput>,
    output: Output,
) -> Result<Tally, CommandFailure> {
    let ids: Vec<String> = events.iter().map(|event| event.id.clone()).collect();
    let fates = publisher.publish(events.into_iter().map(outgoing).collect()).await;
    let mut tally = Tally::default();
    for (id, fate) in ids.iter().zip(fates) {
        match fate {
            Fate::Confirmed => tally.confirmed += 1,
            Fate::Returned => tally.returned += 1,
            Fate::Refused => tally.refused += 1,
            Fate::Unknown => tally.unknown += 1,
        }
        let summary = PublishSummary { event_id: id, fate: fate.as_str() };
        output.show(&summary, |summary| match fate {
            Fate::Confirmed => summary.event_id.to_owned(),
            _ => format!("{}  {}", summary.event_id, summary.fate.to_uppercase()),
        })?;
    }
    Ok(tally)
}

fn outgoing(event: EventInput) -> Outgoing {
    Outgoing {
        to: Destination::Events { event_type: event.routing_key },
        message_id: event.id,
        kind: "",
        timestamp: u64::try_from(SystemClock::local().timestamp()).ok(),
        headers: Headers::default(),
        body: event.body,
    }
}

impl Tally {
    /// The exit code and its reason, by the worst fate.
    fn verdict(&self) -> Result<(), CommandFailure> {
        if self.unknown > 0 {
            let what = "the broker did not answer in time; unconfirmed events may have arrived, and can be published again with the same event id";
            return Err(CommandFailure::Unreachable(anyhow::anyhow!(what)));
        }
        if self.returned > 0 {
            let what = "no queue is bound to the exchange; start the service once, which binds its queue";
            return Err(CommandFailure::Failed(anyhow::anyhow!(what)));
        }
        if self.refused > 0 {
            return Err(CommandFailure::Refused(
                "the events queue is full (EVENTS_QUEUE_BYTES_MAX); try again later".to_owned(),
            ));
        }
        if self.bad > 0 {
            return Err(CommandFailure::Refused(format!(
                "{} lines are not valid events; all others were published",
                self.bad
            )));
        }
        Ok(())
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.confirmed += more.confirmed;
        self.returned += more.returned;
        self.refused += more.refused;
        self.unknown += more.unknown;
        self.bad += more.bad;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} confirmed", self.confirmed)?;
        let others = [
            (self.returned, "returned"),
            (self.refused, "refused"),
            (self.unknown, "unanswered"),
            (self.bad, "not published"),
        ];
        others.iter().filter(|(n, _)| *n > 0).try_for_each(|(n, word)| write!(f, ", {n} {word}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_that_happened_decides() {
        let check = |tally: Tally, text: &str, expected: Option<&str>| {
            assert_eq!(tally.to_string(), text);
            let verdict = tally.verdict().err().map(|failure| failure.to_string());
            assert_eq!(verdict.is_some(), expected.is_some(), "{text}");
            assert!(verdict.unwrap_or_default().contains(expected.unwrap_or_default()), "{text}");
        };
        check(Tally { confirmed: 2, ..Tally::default() }, "2 confirmed", None);
        check(
            Tally { returned: 1, ..Tally::default() },
            "0 confirmed, 1 returned",
            Some("no queue is bound"),
        );
        check(
            Tally { refused: 1, bad: 1, ..Tally::default() },
            "0 confirmed, 1 refused, 1 not published",
            Some("full"),
        );
        check(
            Tally { unknown: 3, returned: 1, ..Tally::default() },
            "0 confirmed, 1 returned, 3 unanswered",
            Some("did not answer"),
        );
        check(
            Tally { confirmed: 1, bad: 2, ..Tally::default() },
            "1 confirmed, 2 not published",
            Some("2 lines"),
        );
    }
}
