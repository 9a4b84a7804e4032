//! `xtwebhooks lanes …`: how each webhook's receiver does, and what waits for it.
//!
//! The commands stand here, the shape of what they answer in `shape`, its tables in `render`.

mod render;
mod shape;

use super::{args::Ledger, failure::Failure, output::Output, webhooks};
use crate::{
    model::{CompanyId, WebhookId},
    store::{lane_report as table, webhooks as registry},
};

/// What is looked at.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List lanes: of a company, or of all those that are not healthy
    List(List),
    /// Show one lane, field by field
    Show(Show),
    /// List the times at which a lane opened and closed, and its webhook was paused and resumed; newest first
    History(History),
}

/// Lanes of a company, or those of all that need somebody's eye.
#[derive(clap::Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    ledger: Ledger,
    /// Of this company; needed unless only those that are not healthy are asked for
    #[arg(long, value_name = "ID", required_unless_present = "failing")]
    company: Option<CompanyId>,
    /// Only those that are not healthy: open, held back, failing or paused
    #[arg(long)]
    failing: bool,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(1..=table::PAGE_MAX))]
    limit: i64,
    /// Only those behind this webhook: the last of the page before
    #[arg(long, value_name = "ID")]
    after: Option<WebhookId>,
}

/// One lane.
#[derive(clap::Args, Debug)]
pub(super) struct Show {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    which: Which,
}

/// The past of one lane.
#[derive(clap::Args, Debug)]
pub(super) struct History {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    which: Which,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=table::HISTORY_MAX))]
    limit: i64,
}

/// Whose lane.
#[derive(clap::Args, Clone, Copy, Debug)]
struct Which {
    /// The webhook
    #[arg(long, value_name = "ID")]
    webhook: WebhookId,
    /// Only if it is this company's
    #[arg(long, value_name = "ID")]
    company: Option<CompanyId>,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::List(args) => list(args, output).await,
        Command::Show(args) => show(args, output).await,
        Command::History(args) => history(args, output).await,
    }
}

async fn list(args: List, output: Output) -> Result<(), Failure> {
    let wanted =
        table::Wanted { company: args.company, webhook: None, failing: args.failing, after: args.after };
    let rows = table::list(&args.ledger.open().await?, &wanted, args.limit).await?;
    let lanes: Vec<shape::Lane> = rows.into_iter().map(Into::into).collect();
    output.show(&lanes, |lanes| render::many(lanes))?;
    if let Some(last) = lanes.last().filter(|_| i64::try_from(lanes.len()).is_ok_and(|n| n == args.limit)) {
        eprintln!("more: --after {}", last.webhook_id);
    }
    Ok(())
}

async fn show(args: Show, output: Output) -> Result<(), Failure> {
    let Which { webhook, company } = args.which;
    let wanted = table::Wanted { company, webhook: Some(webhook), ..table::Wanted::default() };
    let row = table::list(&args.ledger.open().await?, &wanted, 1).await?.pop();
    let lane: shape::Lane = row.ok_or_else(webhooks::not_found)?.into();
    Ok(output.show(&lane, render::one)?)
}

async fn history(args: History, output: Output) -> Result<(), Failure> {
    let (db, Which { webhook, company }) = (args.ledger.open().await?, args.which);
    // A deleted webhook has a past as well, so it is not looked for among the living.
    let known = registry::by_ids(&db, &[webhook.uuid()]).await?;
    if !known.iter().any(|known| company.is_none_or(|company| known.company == company)) {
        return Err(webhooks::not_found());
    }
    let rows = table::history(&db, company, webhook, args.limit).await?;
    let transitions: Vec<shape::Transition> = rows.into_iter().map(Into::into).collect();
    Ok(output.show(&transitions, |transitions| render::history(transitions))?)
}
