//! An event type as callers see it, and as it is registered.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, Schema, Type, schema::SchemaType},
};

use crate::{
    api::problem::{FieldError, Problem},
    model::event_schema::{OnViolation, SCHEMA_BYTES_MAX, TypeSchemas, VERSIONS_MAX},
    store::event_types,
};

/// The longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 1_000;
/// The longest sample, in bytes of its JSON.
const SAMPLE_BYTES_MAX: usize = 64 * 1024;

/// An event type.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = EventType)]
pub struct EventTypeBody {
    /// The name of the type.
    pub name: String,
    /// Whether the type is registered; if not, it was only published.
    pub registered: bool,
    /// What the event means.
    #[schema(required = true)]
    pub description: Option<String>,
    /// A sample of `data`.
    #[schema(required = true, value_type = Option<serde_json::Value>)]
    pub sample: Option<Box<RawValue>>,
    /// JSON Schemas of `data` by version number, starting at 1. An event is valid if it matches one of them.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    pub schemas: BTreeMap<u32, Box<RawValue>>,
    /// What happens to an event that matches none of the schemas.
    pub on_violation: OnViolation,
    /// How many events of this type the company published in the last 7 days; null if the request names no company.
    #[schema(required = true)]
    pub events_7d: Option<i64>,
    /// How many of these matched no webhook.
    #[schema(required = true)]
    pub unmatched_7d: Option<i64>,
    /// When the last of these was ingested, to the minute.
    #[schema(required = true)]
    pub last_seen_at: Option<DateTime<Utc>>,
    /// When it was registered.
    #[schema(required = true)]
    pub created_at: Option<DateTime<Utc>>,
    /// When it was last changed.
    #[schema(required = true)]
    pub updated_at: Option<DateTime<Utc>>,
}

/// Confirms a deletion.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EventTypeDeleted {
    /// The message.
    pub message: String,
}

/// The registration of an event type. Omitted fields stay unchanged, null resets a field, unknown fields are ignored.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct EventTypeUpdate {
    /// What the event means, in 1 to 1,000 characters. Required for a new type, and cannot be removed.
    #[schema(
        required = false,
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00]*$",
        example = "New ticket created"
    )]
    pub description: Option<String>,
    /// A sample of `data`, up to 64 KiB; null for none.
    #[serde(default, deserialize_with = "named")]
    #[schema(required = false, value_type = Option<serde_json::Value>)]
    pub sample: Option<Box<RawValue>>,
    /// All JSON Schemas of `data` by version, each up to 64 KiB; null for none. A `$ref` must point into the same
    /// schema. A `pattern` cannot use look-around or back-references.
    #[serde(default, deserialize_with = "named")]
    #[schema(required = false, schema_with = versions)]
    pub schemas: Option<Box<RawValue>>,
    /// What happens to an event that matches none of the schemas; null for `flag`.
    #[serde(default, deserialize_with = "named")]
    #[schema(required = false, value_type = Option<OnViolation>)]
    pub on_violation: Option<Box<RawValue>>,
}

fn versions() -> Schema {
    let version = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[1-9][0-9]{0,8}$"));
    let schema = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Object, Type::Boolean]));
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::Object, Type::Null]))
        .property_names(Some(version))
        .additional_properties(Some(schema))
        .max_properties(Some(VERSIONS_MAX))
        .description(Some(
            "All JSON Schemas of `data` by version, each up to 64 KiB; null for none. A `$ref` must point into the same \
             schema. A `pattern` cannot use look-around or back-references.",
        ))
        .into()
}

/// A field that is present, even if null, which differs from an omitted one.
fn named<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// The registration after a change.
#[derive(Debug)]
pub(super) struct Changed {
    pub description: String,
    pub sample: Option<String>,
    pub schemas: String,
    pub on_violation: OnViolation,
}

impl EventTypeUpdate {
    /// The result of the change, or every invalid field.
    pub(super) fn apply(self, before: Option<&EventTypeBody>) -> Result<Changed, Problem> {
        let mut wrong = Vec::new();
        let former = before.and_then(|before| before.description.clone());
        let description = self.description.or(former).unwrap_or_default();
        if !(1..=DESCRIPTION_CHARS_MAX).contains(&description.chars().count()) {
            let message = format!("must have 1 to {DESCRIPTION_CHARS_MAX} characters");
            wrong.push(FieldError::new("description", message));
        } else if description.contains('\0') {
            wrong.push(FieldError::new("description", "must not contain the character U+0000"));
        }
        let sample = match self.sample {
            None => before.and_then(|before| before.sample.as_ref()).map(|sample| sample.get().to_owned()),
            Some(sample) if sample.get() == "null" => None,
            Some(sample) => Some(sample.get().to_owned()),
        };
        if let Some(sample) = &sample {
            // A sample must be readable by PostgreSQL's parser and by ours.
            let readable = serde_json::from_str::<serde_json::Value>(sample).is_ok();
            if sample.len() > SAMPLE_BYTES_MAX || !readable {
                let message = format!(
                    "must be JSON of at most {SAMPLE_BYTES_MAX} bytes, nested at most 127 levels deep"
                );
                wrong.push(FieldError::new("sample", message));
            }
        }
        let on_violation = match self.on_violation {
            None => before.map(|before| before.on_violation).unwrap_or_default(),
            Some(word) if word.get() == "null" => OnViolation::default(),
            Some(word) => serde_json::from_str(word.get()).unwrap_or_else(|_| {
                wrong.push(FieldError::new("on_violation", "must be `flag` or `dead_letter`"));
                OnViolation::default()
            }),
        };
        let schemas = match self.schemas {
            None => before.map(|before| serde_json::to_string(&before.schemas).unwrap_or_default()),
            Some(schemas) if schemas.get() == "null" => None,
            Some(schemas) => Some(checked(schemas.get(), on_violation, &mut wrong)),
        };
        let schemas = schemas.unwrap_or_else(|| "{}".to_owned());
        if wrong.is_empty() {
            Ok(Changed { description, sample, schemas, on_violation })
        } else {
            Err(Problem::invalid(wrong))
        }
    }
}

/// Schemas by version, as they are stored.
fn checked(text: &str, on_violation: OnViolation, wrong: &mut Vec<FieldError>) -> String {
    let mut report = |version: Option<u32>, message: String| {
        let field = version.map_or_else(|| "schemas".to_owned(), |version| format!("schemas.{version}"));
        wrong.push(FieldError::new(field, message));
        "{}".to_owned()
    };
    let Ok(kept) = serde_json::from_str::<BTreeMap<u32, Box<RawValue>>>(text) else {
        return report(None, "must be an object whose keys are versions: whole numbers from 1".to_owned());
    };
    if kept.len() > VERSIONS_MAX || kept.contains_key(&0) {
        return report(None, format!("must have at most {VERSIONS_MAX} versions, numbered from 1"));
    }
    let mut parsed = BTreeMap::new();
    for (version, schema) in &kept {
        let value = serde_json::from_str(schema.get()).ok();
        let Some(value) = value.filter(|_| schema.get().len() <= SCHEMA_BYTES_MAX) else {
            return report(
                Some(*version),
                format!("must be JSON of at most {SCHEMA_BYTES_MAX} bytes, nested at most 127 levels deep"),
            );
        };
        parsed.insert(*version, value);
    }
    if let Err((version, bad)) = TypeSchemas::compile(&parsed, on_violation) {
        return report(Some(version), bad);
    }
    serde_json::to_string(&kept).unwrap_or_default()
}

impl From<event_types::EventTypeRow> for EventTypeBody {
    fn from(row: event_types::EventTypeRow) -> Self {
        let on_violation = row.on_violation.as_deref().map(OnViolation::from_word).unwrap_or_default();
        let schemas = row.schemas.and_then(|schemas| serde_json::from_str(&schemas).ok());
        Self {
            name: row.name,
            registered: row.registered,
            description: row.description,
            sample: row.sample.and_then(|sample| RawValue::from_string(sample).ok()),
            schemas: schemas.unwrap_or_default(),
            on_violation,
            events_7d: row.events,
            unmatched_7d: row.unmatched,
            last_seen_at: row.last_seen_at,
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_wrong_field_of_a_type_is_named() {
        let check = |body: serde_json::Value, expected: &[&str]| {
            let update: EventTypeUpdate = serde_json::from_str(&body.to_string()).unwrap();
            let problem = format!("{:?}", update.apply(None).unwrap_err());
            assert!(expected.iter().all(|text| problem.contains(text)), "{body}: {problem}");
        };
        check(json!({}), &["\"description\""]);
        check(
            json!({"description": "d", "on_violation": "drop", "schemas": {"1": {"type": "text"}}}),
            &["\"on_violation\"", "\"schemas.1\""],
        );
        check(json!({"description": "d", "schemas": {"one": {}}}), &["\"schemas\"", "versions"]);
        check(json!({"description": "d", "schemas": {"0": {}}}), &["\"schemas\"", "numbered"]);
        check(
            json!({"description": "d", "schemas": {"1": {"$ref": "http://x.test/s"}}}),
            &["schemas.1", "x.test"],
        );
        check(json!({"description": "d\u{0}"}), &["U+0000"]);
    }

    #[test]
    fn what_is_left_out_stays_and_null_resets() {
        let apply = |before: Option<&EventTypeBody>, body: serde_json::Value| {
            serde_json::from_str::<EventTypeUpdate>(&body.to_string()).unwrap().apply(before).unwrap()
        };
        let made = apply(
            None,
            json!({"description": "d", "sample": {"b": 1, "a": 2}, "schemas": {"1": {}}, "on_violation": "dead_letter"}),
        );
        assert_eq!((made.schemas.as_str(), made.on_violation), (r#"{"1":{}}"#, OnViolation::DeadLetter));
        let before = EventTypeBody {
            name: "a.b".to_owned(),
            registered: true,
            description: Some(made.description),
            sample: made.sample.and_then(|sample| RawValue::from_string(sample).ok()),
            schemas: serde_json::from_str(&made.schemas).unwrap(),
            on_violation: made.on_violation,
            events_7d: None,
            unmatched_7d: None,
            last_seen_at: None,
            created_at: None,
            updated_at: None,
        };
        let kept = apply(Some(&before), json!({"description": "e"}));
        assert_eq!((kept.schemas.as_str(), kept.on_violation), (r#"{"1":{}}"#, OnViolation::DeadLetter));
        assert!(kept.sample.is_some() && kept.description == "e");
        let reset = apply(Some(&before), json!({"sample": null, "schemas": null, "on_violation": null}));
        assert_eq!((reset.schemas.as_str(), reset.on_violation), ("{}", OnViolation::Flag));
        assert!(reset.sample.is_none() && reset.description == "d");
    }
}
