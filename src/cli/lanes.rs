//! `xtwebhooks lanes …`: the state of each webhook's receiver, and what waits for it.
//!
//! This module has the commands, `render` the tables of their results.

mod render;

use super::{client::Remote, failure::CommandFailure, output::Output};
use crate::{
    api::{
        lanes::{Lane, Transition},
        pagination::PAGE_MAX,
    },
    model::WebhookId,
};

/// The most lanes of one result.
const LANES_MAX: u32 = 10_000;

/// What to show.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List the lanes of a company, or of all companies
    List(ListLanes),
    /// Show one lane, field by field
    Show(ShowLane),
    /// List when a lane opened and closed and its webhook was paused and resumed, newest first
    History(History),
}

/// Lanes of a company, or of all companies if the key is valid for all and none is named.
#[derive(clap::Args, Debug)]
pub(super) struct ListLanes {
    #[command(flatten)]
    remote: Remote,
    /// Only lanes that are not healthy: open, rate-limited, failing or paused
    #[arg(long)]
    failing: bool,
    /// Maximum number of lanes to list
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(LANES_MAX)))]
    limit: u32,
    /// Continue after this webhook, the last one of the previous page
    #[arg(long, value_name = "ID")]
    after: Option<WebhookId>,
}

/// One lane.
#[derive(clap::Args, Debug)]
pub(super) struct ShowLane {
    #[command(flatten)]
    remote: Remote,
    /// Id of the webhook
    #[arg(long, value_name = "ID")]
    webhook: WebhookId,
}

/// The transitions of one lane.
#[derive(clap::Args, Debug)]
pub(super) struct History {
    #[command(flatten)]
    remote: Remote,
    /// Id of the webhook
    #[arg(long, value_name = "ID")]
    webhook: WebhookId,
    /// Maximum number of transitions to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_MAX)))]
    limit: u32,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    match command {
        Command::List(args) => list(args, output).await,
        Command::Show(args) => show(args, output).await,
        Command::History(args) => history(args, output).await,
    }
}

async fn list(args: ListLanes, output: Output) -> Result<(), CommandFailure> {
    let query = [
        ("failing", args.failing.then(|| "true".to_owned())),
        ("after", args.after.map(|after| after.to_string())),
        ("limit", Some(args.limit.min(PAGE_MAX).to_string())),
    ];
    let rows_max = args.limit as usize;
    let lanes: Vec<Lane> = args.remote.client()?.list("/v1/lanes", &query, rows_max).await?;
    output.show(&lanes, |lanes| render::many(lanes))?;
    if let Some(last) = lanes.last().filter(|_| lanes.len() == rows_max) {
        eprintln!("for more: --after {}", last.webhook_id);
    }
    Ok(())
}

async fn show(args: ShowLane, output: Output) -> Result<(), CommandFailure> {
    let path = format!("/v1/webhooks/{}/lane", args.webhook);
    let lane: Lane = args.remote.client()?.get(&path, &[]).await?.body;
    Ok(output.show(&lane, render::one)?)
}

async fn history(args: History, output: Output) -> Result<(), CommandFailure> {
    let path = format!("/v1/webhooks/{}/lane/transitions", args.webhook);
    let query = [("limit", Some(args.limit.to_string()))];
    let transitions: Vec<Transition> = args.remote.client()?.get(&path, &query).await?.body;
    Ok(output.show(&transitions, |transitions| render::history(transitions))?)
}
