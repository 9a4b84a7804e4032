//! `xtwebhooks keys …`: the API keys. `create` writes to the database, because the first key cannot come from the API.

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{
    args::{Actor, LedgerArgs, duration},
    client::Remote,
    failure::CommandFailure,
    output::{Output, OutputTable, fields, time},
};
use crate::{
    api::{
        access::{ApiKey, Scope},
        keys::{Key, NewKey},
    },
    clock::SystemClock,
    model::CompanyId,
    store::{api_keys as table, audit_log},
};

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Create a key, directly in the database; it is shown only this once
    Create(CreateKey),
    /// List keys, newest first
    List(ListKeys),
    /// Revoke a key; it is refused from the next call on
    Revoke(Revoke),
}

/// A key to create.
#[derive(clap::Args, Debug)]
pub(super) struct CreateKey {
    #[command(flatten)]
    ledger: LedgerArgs,
    #[command(flatten)]
    actor: Actor,
    /// Name of the key, for people
    #[arg(long, value_name = "NAME", default_value = "created on the command line")]
    name: String,
    /// Scopes of the key, separated by commas: `admin`, `webhooks:read,deliveries:read`
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true)]
    scope: Vec<Scope>,
    /// Id of the company that the key is valid for [default: all companies]
    #[arg(long, value_name = "ID")]
    company: Option<CompanyId>,
    /// Time after which the key expires, such as `90d` [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    expires_in: Option<std::time::Duration>,
}

/// The keys.
#[derive(clap::Args, Debug)]
pub(super) struct ListKeys {
    #[command(flatten)]
    remote: Remote,
    /// Maximum number of keys to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// A key to revoke.
#[derive(clap::Args, Debug)]
pub(super) struct Revoke {
    #[command(flatten)]
    remote: Remote,
    /// The eight characters after `xtwh_`
    #[arg(value_name = "ID")]
    id: String,
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    match command {
        Command::Create(args) => create(args, output).await,
        Command::List(args) => list(args, output).await,
        Command::Revoke(args) => revoke(args, output).await,
    }
}

async fn create(args: CreateKey, output: Output) -> Result<(), CommandFailure> {
    let (db, now) = (args.ledger.open().await?, SystemClock::local());
    let expires_at = args.expires_in.map(|length| expiry(now, length)).transpose()?;
    let words: Vec<String> = args.scope.iter().map(|scope| scope.as_str().to_owned()).collect();
    let new_key =
        NewKey { name: args.name, scopes: words, expires_at, all_companies: args.company.is_none() };
    new_key.check(now).map_err(|problem| CommandFailure::Refused(problem.detail().to_owned()))?;
    let key = ApiKey::generate();
    // Without a name, "command line" is not written twice.
    let actor = match args.actor.by.as_str() {
        unnamed @ "command line" => unnamed.to_owned(),
        by => format!("command line {by}"),
    };
    let new = table::KeyToInsert {
        id: &key.id,
        company: args.company.map(CompanyId::uuid),
        name: new_key.name.trim(),
        secret_sha256: &key.sha256,
        scopes: &new_key.scopes,
        created_by: Some(&actor),
        expires_at,
    };
    let mut tx = db.begin().await.map_err(crate::store::Error::from)?;
    let made = Key::from(table::create(&mut *tx, new).await?);
    let entry = audit_log::AuditRow {
        company: made.company_id,
        actor: actor.clone(),
        action: "key.create".to_owned(),
        subject: made.id.clone(),
        before: None,
        after: Some(json!(made).to_string()),
        address: None,
    };
    audit_log::write(&mut *tx, &entry).await?;
    tx.commit().await.map_err(crate::store::Error::from)?;
    let made = Key { key: Some(key.text.expose_secret().to_owned()), ..made };
    Ok(output.show(&made, one)?)
}

fn expiry(now: DateTime<Utc>, length: std::time::Duration) -> Result<DateTime<Utc>, CommandFailure> {
    let length = chrono::TimeDelta::from_std(length).ok();
    let end = length.and_then(|length| now.checked_add_signed(length));
    end.ok_or_else(|| CommandFailure::refused("expires_in", "is too long"))
}

async fn list(args: ListKeys, output: Output) -> Result<(), CommandFailure> {
    let page = args.limit.min(crate::api::pagination::PAGE_MAX).to_string();
    let client = args.remote.client()?;
    let keys: Vec<Key> = client.list("/v1/keys", &[("limit", Some(page))], args.limit as usize).await?;
    Ok(output.show(&keys, |keys| table_of(keys))?)
}

async fn revoke(args: Revoke, output: Output) -> Result<(), CommandFailure> {
    // Text that cannot be a key's id must not become part of a path.
    if !args.id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(CommandFailure::NotFound("Key not found".to_owned()));
    }
    let key = args.remote.client()?.delete::<Key>(&format!("/v1/keys/{}", args.id)).await?.body;
    Ok(output.show(&key, one)?)
}

fn company(key: &Key) -> String {
    key.company_id.map_or_else(|| "all".to_owned(), |id| id.to_string())
}

fn table_of(keys: &[Key]) -> String {
    let mut table =
        OutputTable::new(&["ID", "NAME", "COMPANY", "SCOPES", "CREATED", "LAST USED", "EXPIRES", "REVOKED"]);
    let or_dash = |at: Option<DateTime<Utc>>| at.map_or_else(|| "-".to_owned(), time);
    for key in keys {
        table.row([
            key.id.clone(),
            key.name.clone(),
            company(key),
            key.scopes.join(" "),
            time(key.created_at),
            or_dash(key.last_used_at),
            or_dash(key.expires_at),
            or_dash(key.revoked_at),
        ]);
    }
    table.render("no keys")
}

fn one(key: &Key) -> String {
    fields(&[
        ("id", Some(key.id.clone())),
        ("key", key.key.clone()),
        ("name", Some(key.name.clone())),
        ("company", Some(company(key))),
        ("scopes", Some(key.scopes.join(" "))),
        ("created", Some(time(key.created_at))),
        ("by", key.created_by.clone()),
        ("expires", key.expires_at.map(time)),
        ("last used", key.last_used_at.map(time)),
        ("revoked", key.revoked_at.map(time)),
    ])
}
