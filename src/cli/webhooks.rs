//! `xtwebhooks webhooks …`: register webhooks, look at them, change, pause and delete them.
//!
//! The arguments bear the names of the API's fields. `arguments` reads them, `check` says what is taken; the
//! commands themselves stand here, and `render` shows what they answer.

mod arguments;
mod check;
mod render;

use std::time::Duration;

use sqlx::PgPool;

use super::{
    args::{Actor, Company, Ledger, duration},
    failure::Failure,
    output::Output,
    shapes,
};
use crate::{
    model::{Secret, WebhookId},
    store::{
        replays,
        webhooks::{self as table, Held},
    },
};

/// What is done with webhooks.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Register a webhook; prints its secret, this once
    Create(arguments::Create),
    /// List the webhooks of a company
    List(List),
    /// Show one webhook
    Show(One),
    /// Change what is named; everything else stays as it is
    Update(arguments::Update),
    /// Delete a webhook: what is pending is cancelled, the history stays
    Delete(One),
    /// Send nothing until it is resumed; what comes meanwhile is held
    Pause(Pause),
    /// Go on sending, and deliver or discard what was held
    Resume(Resume),
    /// Give it a new secret; the old one signs too until the grace ends
    RotateSecret(RotateSecret),
}

/// All webhooks of a company.
#[derive(clap::Args, Debug)]
pub(super) struct List {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    company: Company,
}

/// One webhook.
#[derive(clap::Args, Debug)]
pub(super) struct One {
    #[command(flatten)]
    ledger: Ledger,
    #[command(flatten)]
    company: Company,
    /// The webhook
    #[arg(value_name = "ID")]
    id: WebhookId,
}

/// A pause.
#[derive(clap::Args, Debug)]
pub(super) struct Pause {
    #[command(flatten)]
    one: One,
    /// Why, for whoever sees it paused
    #[arg(long, value_name = "TEXT", default_value = "paused by hand")]
    reason: String,
    #[command(flatten)]
    actor: Actor,
}

/// What becomes of what was held.
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum HeldChoice {
    /// It is sent.
    Deliver,
    /// It is cancelled.
    Discard,
}

/// The end of a pause.
#[derive(clap::Args, Debug)]
pub(super) struct Resume {
    #[command(flatten)]
    one: One,
    /// What becomes of the deliveries that were held
    #[arg(long, value_enum, default_value_t = HeldChoice::Deliver)]
    held: HeldChoice,
    /// How many of them are sent a second
    #[arg(long, value_name = "PER_SECOND", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    rate: i32,
    #[command(flatten)]
    actor: Actor,
}

/// Which secret signs the guide's header, which has room for one.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum GuideSignature {
    /// The new one, at once.
    New,
    /// The previous one, until the grace ends.
    Previous,
}

/// A new secret.
#[derive(clap::Args, Debug)]
pub(super) struct RotateSecret {
    #[command(flatten)]
    one: One,
    /// The new secret [default: one is made]
    #[arg(long, env = "WEBHOOK_SECRET", value_name = "TEXT", hide_env_values = true)]
    secret: Option<String>,
    /// How long the old secret signs too
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    grace: Duration,
    /// Which secret signs the guide's header until then
    #[arg(long, value_enum, default_value_t = GuideSignature::New)]
    guide_signature: GuideSignature,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(args, output).await,
        Command::List(args) => list(args, output).await,
        Command::Show(args) => show(args, output).await,
        Command::Update(args) => update(args, output).await,
        Command::Delete(args) => delete(args, output).await,
        Command::Pause(args) => pause(args, output).await,
        Command::Resume(args) => resume(args, output).await,
        Command::RotateSecret(args) => rotate_secret(args, output).await,
    }
}

/// The guide's word for a webhook that is not there, or not this company's.
pub(super) fn not_found() -> Failure {
    Failure::NotFound("Webhook not found".to_owned())
}

async fn create(args: arguments::Create, output: Output) -> Result<(), Failure> {
    let (ledger, new) = args.checked()?;
    let row = table::create(&ledger.open().await?, new).await?;
    Ok(output.show(&shapes::Webhook::with_secret(row), render::one)?)
}

async fn list(args: List, output: Output) -> Result<(), Failure> {
    let rows = table::list(&args.ledger.open().await?, args.company.company).await?;
    let webhooks: Vec<shapes::Webhook> = rows.into_iter().map(Into::into).collect();
    Ok(output.show(&webhooks, |webhooks| render::many(webhooks))?)
}

async fn show(args: One, output: Output) -> Result<(), Failure> {
    let row = table::get(&args.ledger.open().await?, args.company.company, args.id).await?;
    answer(row, output)
}

async fn update(args: arguments::Update, output: Output) -> Result<(), Failure> {
    let (one, change) = args.checked()?;
    let row = table::update(&one.ledger.open().await?, one.company.company, one.id, change).await?;
    answer(row, output)
}

async fn delete(args: One, output: Output) -> Result<(), Failure> {
    let deleted = table::delete(&args.ledger.open().await?, args.company.company, args.id).await?;
    deleted.ok_or_else(not_found)?;
    let message = shapes::Message { message: "Webhook deleted successfully" };
    Ok(output.show(&message, |message| message.message.to_owned())?)
}

async fn pause(args: Pause, output: Output) -> Result<(), Failure> {
    let (db, company, id) = (args.one.ledger.open().await?, args.one.company.company, args.one.id);
    let paused = table::pause(&db, company, id, &args.actor.by, &args.reason).await?;
    answer(or_as_it_is(paused, &db, &args.one).await?, output)
}

async fn resume(args: Resume, output: Output) -> Result<(), Failure> {
    let (db, company, id) = (args.one.ledger.open().await?, args.one.company.company, args.one.id);
    let held = match args.held {
        HeldChoice::Deliver => Held::Deliver { rate: args.rate },
        HeldChoice::Discard => Held::Discard,
    };
    let resumed = table::resume(&db, company, id, &args.actor.by, held).await?;
    if resumed.is_some()
        && let Some(order) = replays::resuming(&db, company, id).await?
    {
        eprintln!("what was held is worked on as replay {}", order.id);
    }
    answer(or_as_it_is(resumed, &db, &args.one).await?, output)
}

async fn rotate_secret(args: RotateSecret, output: Output) -> Result<(), Failure> {
    let secret = args.secret.map_or_else(|| Ok(Secret::generate()), |text| check::secret(&text))?;
    let previous = args.guide_signature == GuideSignature::Previous;
    let (db, company, id) = (args.one.ledger.open().await?, args.one.company.company, args.one.id);
    let row = table::rotate_secret(&db, company, id, &secret, args.grace, previous).await?;
    let webhook = shapes::Webhook::with_secret(row.ok_or_else(not_found)?);
    Ok(output.show(&webhook, render::one)?)
}

/// A transition that changed nothing found the webhook where it was to go, or found none.
async fn or_as_it_is(
    changed: Option<table::Row>,
    db: &PgPool,
    one: &One,
) -> Result<Option<table::Row>, Failure> {
    match changed {
        Some(row) => Ok(Some(row)),
        None => Ok(table::get(db, one.company.company, one.id).await?),
    }
}

fn answer(row: Option<table::Row>, output: Output) -> Result<(), Failure> {
    let webhook: shapes::Webhook = row.ok_or_else(not_found)?.into();
    Ok(output.show(&webhook, render::one)?)
}
