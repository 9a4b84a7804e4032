//! `xtwebhooks webhooks …`: creates, shows, changes, pauses, tests and deletes webhooks, over the API.
//!
//! The arguments have the names of the API's fields. `arguments` reads them, the API validates them; this module has
//! the commands, and `render` shows their results.

mod arguments;
mod render;

use std::time::Duration;

use serde_json::json;

use super::{
    args::duration,
    client::{ApiClient, Remote},
    failure::CommandFailure,
    output::Output,
};
use crate::{
    api::webhooks::{
        CheckedUrl, MessageBody, Resumed, Tested, Warning, WebhookBody,
        requests::{self, CheckUrl},
    },
    model::{WebhookId, webhook::Held},
};

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Create a webhook; its secret is shown only this once
    Create(arguments::CreateWebhook),
    /// List the webhooks of a company
    List(ListWebhooks),
    /// Show one webhook
    Show(WebhookArg),
    /// Change a webhook; settings that are not given stay as they are
    Update(arguments::UpdateWebhook),
    /// Delete a webhook; its pending deliveries are cancelled, its history stays
    Delete(WebhookArg),
    /// Pause a webhook; its deliveries are held until it is resumed
    Pause(PauseWebhook),
    /// Resume a webhook, and deliver or discard what was held
    Resume(ResumeWebhook),
    /// Replace the secret; the previous one also signs until the grace period ends
    RotateSecret(RotateWebhookSecret),
    /// Send a test event and show the result
    Test(WebhookArg),
    /// Check a URL without sending anything: its addresses and its certificate
    CheckUrl(CheckUrlCommand),
}

/// All webhooks of a company.
#[derive(clap::Args, Debug)]
pub(super) struct ListWebhooks {
    #[command(flatten)]
    remote: Remote,
}

/// One webhook.
#[derive(clap::Args, Debug)]
pub(super) struct WebhookArg {
    #[command(flatten)]
    remote: Remote,
    /// Id of the webhook
    #[arg(value_name = "ID")]
    id: WebhookId,
}

impl WebhookArg {
    /// A client, and the webhook's path followed by this.
    fn at(&self, behind: &str) -> Result<(ApiClient, String), CommandFailure> {
        Ok((self.remote.client()?, format!("/v1/webhooks/{}{behind}", self.id)))
    }
}

/// A pause.
#[derive(clap::Args, Debug)]
pub(super) struct PauseWebhook {
    #[command(flatten)]
    one: WebhookArg,
    /// Reason, shown with the paused webhook
    #[arg(long, value_name = "TEXT", default_value = "paused by hand")]
    reason: String,
}

/// The end of a pause.
#[derive(clap::Args, Debug)]
pub(super) struct ResumeWebhook {
    #[command(flatten)]
    one: WebhookArg,
    /// What to do with the deliveries that were held
    #[arg(long, value_enum, default_value_t = Held::Deliver)]
    held: Held,
    /// Held deliveries to send per second, 1 to 10,000
    #[arg(long, value_name = "PER_SECOND", default_value_t = 50)]
    rate: i32,
}

/// Which secret signs the guide's header, which carries only one signature.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum GuideSignatureArg {
    /// The new secret, at once.
    New,
    /// The previous secret, until the grace period ends.
    Previous,
}

/// A new secret.
#[derive(clap::Args, Debug)]
pub(super) struct RotateWebhookSecret {
    #[command(flatten)]
    one: WebhookArg,
    /// The new secret [default: a generated one]
    #[arg(long, env = "WEBHOOK_SECRET", value_name = "TEXT", hide_env_values = true)]
    secret: Option<String>,
    /// Grace period, in which the previous secret also signs
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    grace: Duration,
    /// Which secret signs the header `X-XTSystems-Signature` in the grace period
    #[arg(long, value_enum, default_value_t = GuideSignatureArg::New)]
    guide_signature: GuideSignatureArg,
}

/// A check of a URL.
#[derive(clap::Args, Debug)]
pub(super) struct CheckUrlCommand {
    #[command(flatten)]
    remote: Remote,
    /// URL to check
    #[arg(value_name = "URL")]
    url: String,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    match command {
        Command::Create(args) => create(args, output).await,
        Command::List(args) => list(args, output).await,
        Command::Show(args) => show(args, output).await,
        Command::Update(args) => update(args, output).await,
        Command::Delete(args) => delete(args, output).await,
        Command::Pause(args) => pause(args, output).await,
        Command::Resume(args) => resume(args, output).await,
        Command::RotateSecret(args) => rotate_secret(args, output).await,
        Command::Test(args) => test(args, output).await,
        Command::CheckUrl(args) => check_url(args, output).await,
    }
}

async fn create(args: arguments::CreateWebhook, output: Output) -> Result<(), CommandFailure> {
    let (remote, body) = args.request()?;
    answer(&remote.client()?.post::<WebhookBody>("/v1/webhooks", &body).await?.body, output)
}

async fn list(args: ListWebhooks, output: Output) -> Result<(), CommandFailure> {
    let webhooks: Vec<WebhookBody> = args.remote.client()?.get("/v1/webhooks", &[]).await?.body;
    Ok(output.show(&webhooks, |webhooks| render::many(webhooks))?)
}

async fn show(args: WebhookArg, output: Output) -> Result<(), CommandFailure> {
    let (client, path) = args.at("")?;
    answer(&client.get::<WebhookBody>(&path, &[]).await?.body, output)
}

async fn update(args: arguments::UpdateWebhook, output: Output) -> Result<(), CommandFailure> {
    let (one, body) = args.request()?;
    let (client, path) = one.at("")?;
    answer(&client.put::<WebhookBody>(&path, &body).await?.body, output)
}

async fn delete(args: WebhookArg, output: Output) -> Result<(), CommandFailure> {
    let (client, path) = args.at("")?;
    let message: MessageBody = client.delete(&path).await?.body;
    Ok(output.show(&message, |message| message.message.clone())?)
}

async fn pause(args: PauseWebhook, output: Output) -> Result<(), CommandFailure> {
    let (client, path) = args.one.at("/pause")?;
    let body = requests::PauseBody { reason: Some(args.reason) };
    answer(&client.post::<WebhookBody>(&path, &body).await?.body, output)
}

async fn resume(args: ResumeWebhook, output: Output) -> Result<(), CommandFailure> {
    let (client, path) = args.one.at("/resume")?;
    let body = requests::Resume { held: Some(args.held), rate: Some(args.rate) };
    let resumed: Resumed = client.post(&path, &body).await?.body;
    if let Some(replay) = resumed.replay_id {
        eprintln!("the held deliveries are processed as replay {replay}");
    }
    answer(&resumed.webhook, output)
}

async fn rotate_secret(args: RotateWebhookSecret, output: Output) -> Result<(), CommandFailure> {
    let (client, path) = args.one.at("/rotate-secret")?;
    let guide_signature = match args.guide_signature {
        GuideSignatureArg::New => requests::GuideSignature::New,
        GuideSignatureArg::Previous => requests::GuideSignature::Previous,
    };
    let body = requests::RotateSecret {
        secret: args.secret,
        grace_seconds: Some(i64::try_from(args.grace.as_secs()).unwrap_or(i64::MAX)),
        guide_signature: Some(guide_signature),
    };
    answer(&client.post::<WebhookBody>(&path, &body).await?.body, output)
}

async fn test(args: WebhookArg, output: Output) -> Result<(), CommandFailure> {
    let (client, path) = args.at("/test")?;
    let tested: Tested = client.post(&path, &json!({})).await?.body;
    Ok(output.show(&tested, render::tested)?)
}

async fn check_url(args: CheckUrlCommand, output: Output) -> Result<(), CommandFailure> {
    let body = CheckUrl { url: args.url };
    let checked: CheckedUrl = args.remote.client()?.post("/v1/webhooks/check-url", &body).await?.body;
    note(&checked.warnings);
    Ok(output.show(&checked, render::checked)?)
}

fn answer(webhook: &WebhookBody, output: Output) -> Result<(), CommandFailure> {
    note(&webhook.warnings);
    Ok(output.show(webhook, render::one)?)
}

/// Prints warnings to standard error, where they do not disturb programs.
fn note(warnings: &[Warning]) {
    for Warning { field, message } in warnings {
        eprintln!("note: `{field}` {message}");
    }
}
