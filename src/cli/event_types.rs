//! `xtwebhooks event-types …`: the event types, with their samples and schemas.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    client::Remote,
    failure::CommandFailure,
    output::{Output, OutputTable, fields, time},
};
use crate::{
    api::event_types::{EventTypeBody, EventTypeDeleted},
    model,
};

/// The most types that are listed.
const TYPES_MAX: usize = 10_000;

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// List event types, by name
    List(ListEventTypes),
    /// Show one event type with its sample and schemas
    Show(EventTypeArg),
    /// Register an event type or change it; needs a key for all companies
    Set(Box<SetEventType>),
    /// Remove an event type from the registry; needs a key for all companies
    Delete(EventTypeArg),
}

/// All types.
#[derive(clap::Args, Debug)]
pub(super) struct ListEventTypes {
    #[command(flatten)]
    remote: Remote,
}

/// One type.
#[derive(clap::Args, Debug)]
pub(super) struct EventTypeArg {
    #[command(flatten)]
    remote: Remote,
    /// The event type, such as `ticket.created`
    #[arg(value_name = "TYPE")]
    name: model::EventType,
}

/// The settings of an event type; those that are not given stay as they are.
#[derive(clap::Args, Debug)]
pub(super) struct SetEventType {
    #[command(flatten)]
    one: EventTypeArg,
    /// What the event means; required for a new type
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Sample of the event's data, a JSON value; `null` removes it
    #[arg(long, value_name = "JSON", value_parser = json)]
    sample: Option<Box<RawValue>>,
    /// JSON Schema of a version, read from a file; repeatable; the schemas given replace all existing ones
    #[arg(long = "schema", value_name = "VERSION=FILE", value_parser = version)]
    schemas: Vec<(u32, PathBuf)>,
    /// Remove all schemas
    #[arg(long, conflicts_with = "schemas")]
    no_schema: bool,
    /// What to do with an event that fits no version
    #[arg(long, value_name = "ACTION", value_parser = ["flag", "dead_letter"])]
    on_violation: Option<String>,
}

/// The body of a change.
#[derive(Serialize)]
struct EventTypeChange {
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sample: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schemas: Option<BTreeMap<u32, Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_violation: Option<String>,
}

fn json(text: &str) -> Result<Box<RawValue>, String> {
    RawValue::from_string(text.trim().to_owned()).map_err(|bad| format!("not valid JSON: {bad}"))
}

fn version(text: &str) -> Result<(u32, PathBuf), String> {
    let parsed = text.split_once('=').and_then(|(version, file)| Some((version.parse().ok()?, file.into())));
    parsed.ok_or_else(|| "write a version and a file, such as 1=ticket.schema.json".to_owned())
}

pub(super) async fn execute(command: Command, output: Output) -> Result<(), CommandFailure> {
    match command {
        Command::List(args) => list(&args, output).await,
        Command::Show(args) => {
            let shown: EventTypeBody = args.remote.client()?.get(&path(&args.name), &[]).await?.body;
            Ok(output.show(&shown, text_of)?)
        }
        Command::Set(args) => set(*args, output).await,
        Command::Delete(args) => {
            let deleted: EventTypeDeleted = args.remote.client()?.delete(&path(&args.name)).await?.body;
            Ok(output.show(&deleted, |deleted| deleted.message.clone())?)
        }
    }
}

/// Of the characters that a type may have, only the slash has a meaning in a path.
fn path(name: &model::EventType) -> String {
    format!("/v1/event-types/{}", name.as_str().replace('/', "%2F"))
}

async fn list(args: &ListEventTypes, output: Output) -> Result<(), CommandFailure> {
    let query = [("limit", Some("500".to_owned()))];
    let types: Vec<EventTypeBody> = args.remote.client()?.list("/v1/event-types", &query, TYPES_MAX).await?;
    Ok(output.show(&types, |types| {
        let mut table = OutputTable::new(&["TYPE", "EVENTS (7 DAYS)", "UNMATCHED", "SCHEMAS", "DESCRIPTION"]);
        for row in types {
            let versions: Vec<String> = row.schemas.keys().map(u32::to_string).collect();
            table.row([
                row.name.clone(),
                row.events_7d.map(|events| events.to_string()).unwrap_or_default(),
                row.unmatched_7d.map(|events| events.to_string()).unwrap_or_default(),
                versions.join(","),
                row.description.clone().unwrap_or_else(|| "(not registered)".to_owned()),
            ]);
        }
        table.render("no event types")
    })?)
}

async fn set(args: SetEventType, output: Output) -> Result<(), CommandFailure> {
    let mut schemas = BTreeMap::new();
    for (version, file) in args.schemas {
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read the schema of version {version}: {}", file.display()))?;
        let schema =
            json(&text).map_err(|bad| CommandFailure::Usage(format!("{}: {bad}", file.display())))?;
        schemas.insert(version, schema);
    }
    let update = EventTypeChange {
        description: args.description,
        sample: args.sample,
        schemas: (args.no_schema || !schemas.is_empty()).then_some(schemas),
        on_violation: args.on_violation,
    };
    let changed: EventTypeBody = args.one.remote.client()?.put(&path(&args.one.name), &update).await?.body;
    Ok(output.show(&changed, text_of)?)
}

fn text_of(shown: &EventTypeBody) -> String {
    let mut text = fields(&[
        ("type", Some(shown.name.clone())),
        ("description", shown.description.clone()),
        ("events (7 days)", shown.events_7d.map(|events| events.to_string())),
        ("unmatched (7 days)", shown.unmatched_7d.map(|events| events.to_string())),
        ("last seen", shown.last_seen_at.map(time)),
        ("sample", shown.sample.as_ref().map(|sample| sample.get().to_owned())),
        ("on violation", (!shown.schemas.is_empty()).then(|| shown.on_violation.as_str().to_owned())),
    ]);
    for (version, schema) in &shown.schemas {
        let _ = write!(text, "\nschema {version}  {schema}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_comes_with_its_file() {
        assert_eq!(version("2=a=b.json"), Ok((2, PathBuf::from("a=b.json"))));
        for bad in ["a.json", "x=a.json", "-1=a.json", "="] {
            assert!(version(bad).is_err(), "{bad}");
        }
        assert_eq!(path(&"x/y:z".parse().unwrap()), "/v1/event-types/x%2Fy:z");
    }
}
