//! The kinds of values that settings have: how each is read from a request, and how the document describes it.
//!
//! A kind has its bounds from the table in `settings`, and uses the same for both.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::model::{
    Secret,
    address::{self, Networks},
    event::EVENT_TYPE_BYTES_MAX,
    fields::{self, Wrong},
    request,
    retry_policy::{self, PRESETS, RetryPolicy},
    signature, subscription,
};

/// Text without control characters.
const PRINTABLE: &str = r"^[^\x00-\x1f\x7f-\x9f]*$";

/// The bounds that a schema may have.
const BOUNDS: [&str; 8] =
    ["minLength", "maxLength", "pattern", "minItems", "maxItems", "minimum", "maximum", "maxProperties"];

/// The names under which the document keeps what is inside the schemas.
const EVENT_PATTERN: &str = "EventPattern";
const WAIT_SECONDS: &str = "WaitSeconds";
const RETRY_SCHEDULE: &str = "RetrySchedule";
const PRESET: &str = "Preset";

/// Which receivers this service delivers to.
#[derive(Clone, Copy, Debug)]
pub struct Receivers<'a> {
    /// Networks that are allowed although they are private, loopback or reserved.
    pub allowed: &'a Networks,
    /// Whether a receiver without TLS is refused.
    pub require_https: bool,
}

type Read<T> = Box<dyn Fn(Value, &Receivers<'_>) -> Result<T, Wrong>>;

/// A kind of value that is read as a `T`.
pub(super) struct Kind<T> {
    /// Reads a value of a request, or says what is wrong with it.
    pub read: Read<T>,
    /// How the document describes it in a request.
    pub schema: Box<dyn Fn() -> Value>,
    /// How the document describes it in a response, if that differs from the schema without its bounds: an accepted value
    /// is shown even if the bounds have changed since.
    shown: Option<Value>,
    /// Whether it is required, because it has no default.
    pub is_required: bool,
    /// Whether the setting may have no value.
    is_optional: bool,
}

impl<T: 'static> Kind<T> {
    fn new<E: Into<Wrong>>(
        read: impl Fn(Value) -> Result<T, E> + 'static,
        schema: impl Fn() -> Value + 'static,
    ) -> Self {
        let read: Read<T> = Box::new(move |value, _| read(value).map_err(Into::into));
        Self { read, schema: Box::new(schema), shown: None, is_required: false, is_optional: false }
    }

    fn shown_as(self, shown: Value) -> Self {
        Self { shown: Some(shown), ..self }
    }

    /// The same kind, without a default.
    pub(super) fn required(self) -> Self {
        Self { is_required: true, ..self }
    }

    /// The same kind for a setting that may have no value.
    pub(super) fn or_none(self) -> Kind<Option<T>> {
        let read: Read<Option<T>> = Box::new(move |value, receivers| (self.read)(value, receivers).map(Some));
        Kind { read, schema: self.schema, shown: self.shown, is_required: false, is_optional: true }
    }

    /// How the document describes it in a response.
    pub(super) fn in_an_answer(&self) -> Value {
        let mut schema = self.shown.clone().unwrap_or_else(&self.schema);
        if let Some(schema) = schema.as_object_mut() {
            schema.retain(|word, _| !BOUNDS.contains(&word.as_str()));
        }
        if self.is_optional { nullable(schema) } else { schema }
    }

    /// How the document describes it in a request: what is not required may be null.
    pub(super) fn in_a_request(&self) -> Value {
        let schema = (self.schema)();
        if self.is_required { schema } else { nullable(schema) }
    }
}

/// The same schema, which also allows null.
fn nullable(mut schema: Value) -> Value {
    match schema.get_mut("type") {
        Some(of) => *of = json!([of, "null"]),
        None => schema = json!({"oneOf": [schema, {"type": "null"}]}),
    }
    schema
}

/// True or false.
pub(super) fn flag() -> Kind<bool> {
    Kind::new(fields::boolean, || json!({"type": "boolean"}))
}

/// A whole number of a range.
pub(super) fn whole(min: i32, max: i32) -> Kind<i32> {
    let schema = move || json!({"type": "integer", "format": "int32", "minimum": min, "maximum": max});
    Kind::new(fields::whole(min, max), schema)
}

/// A number of a range.
pub(super) fn number(min: f64, max: f64) -> Kind<f64> {
    let schema = move || json!({"type": "number", "format": "double", "minimum": min, "maximum": max});
    Kind::new(move |value| fields::number(min, max)(value), schema)
}

/// A line of text, not empty.
pub(super) fn line(characters_max: usize, example: &'static str) -> Kind<String> {
    let read = move |value| {
        let text = fields::text_of(characters_max)(value)?;
        if text.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if text.chars().any(char::is_control) {
            return Err("must not contain control characters, such as a line break".to_owned());
        }
        Ok(text)
    };
    Kind::new(read, move || {
        json!({"type": "string", "minLength": 1, "maxLength": characters_max,
            "pattern": PRINTABLE.replace('*', "+"), "example": example})
    })
}

/// Any text.
pub(super) fn note(characters_max: usize) -> Kind<String> {
    let schema = move || json!({"type": "string", "maxLength": characters_max, "pattern": r"^[^\x00]*$"});
    Kind::new(move |value| fields::text_of(characters_max)(value), schema)
}

/// A URL that deliveries may go to, as far as can be checked without resolving the host.
pub(super) fn url() -> Kind<String> {
    const EXAMPLE: &str = "https://bot.example.com/webhooks/xtsystems";
    let schema = || {
        json!({"type": "string", "format": "iri", "minLength": 1, "maxLength": address::URL_BYTES_MAX,
            "pattern": "^https?://", "example": EXAMPLE})
    };
    let read: Read<String> = Box::new(|value, receivers| {
        let text = fields::text(value)?;
        address::check_url(&text, receivers.allowed, receivers.require_https)
            .map_err(|wrong| wrong.to_string())?;
        if text.contains('\0') {
            return Err("has the character U+0000, which cannot be stored".to_owned().into());
        }
        Ok(text)
    });
    let shown = Some(json!({"type": "string", "example": EXAMPLE}));
    Kind { read, schema: Box::new(schema), shown, is_required: false, is_optional: false }
}

/// The maximum number of invalid patterns that an error describes.
const WRONG_PATTERNS_REPORTED_MAX: usize = 10;

/// Patterns of event types without repeats. Some of the `given_max` entries may be repeats; each is compared with those
/// before it.
pub(super) fn patterns(max: usize, given_max: usize) -> Kind<Vec<String>> {
    let schema = move || {
        json!({"type": "array", "items": reference(EVENT_PATTERN), "minItems": 1, "maxItems": max,
            "example": ["ticket.created", "asset.*"]})
    };
    Kind::new(move |value| read_patterns(value, max, given_max), schema)
        .shown_as(json!({"type": "array", "items": {"type": "string"}}))
}

fn read_patterns(value: Value, max: usize, given_max: usize) -> Result<Vec<String>, String> {
    let Value::Array(given) = value else {
        return Err(format!("must be an array of event types, not {}", fields::kind(&value)));
    };
    if given.is_empty() {
        return Err("must name at least one event type, or `*` for all".to_owned());
    }
    if given.len() > given_max {
        return Err(format!("has {} entries; at most {max} patterns are allowed", given.len()));
    }
    let mut once: Vec<String> = Vec::with_capacity(given.len().min(max));
    let mut wrong = Vec::new();
    for pattern in given {
        match fields::text(pattern).and_then(|text| subscription::check_pattern(&text).map(|()| text)) {
            Ok(pattern) if once.contains(&pattern) => {}
            Ok(pattern) => once.push(pattern),
            Err(why) => wrong.push(why),
        }
    }
    if !wrong.is_empty() {
        wrong.truncate(WRONG_PATTERNS_REPORTED_MAX);
        return Err(wrong.join("; "));
    }
    if once.len() > max {
        return Err(format!("has {} patterns; at most {max} are allowed", once.len()));
    }
    Ok(once)
}

/// A secret for signatures.
pub(super) fn secret() -> Kind<Secret> {
    let read = |value| {
        let text = fields::text(value)?;
        signature::check_secret(&text)?;
        Ok::<_, String>(Secret::new(text))
    };
    Kind::new(read, || {
        json!({"type": "string", "minLength": signature::SECRET_CHARACTERS_MIN,
            "maxLength": signature::SECRET_BYTES_MAX, "pattern": PRINTABLE})
    })
}

/// Headers by name. Each invalid header is named separately.
pub(super) fn headers(max: usize) -> Kind<BTreeMap<String, String>> {
    Kind::new(
        move |value| read_headers(value, max),
        move || {
            json!({"type": "object", "maxProperties": max, "additionalProperties": {"type": "string"},
            "propertyNames": {"type": "string"}})
        },
    )
}

fn read_headers(value: Value, max: usize) -> Result<BTreeMap<String, String>, Wrong> {
    let given = match value {
        Value::Object(given) => given,
        other => {
            let kind = fields::kind(&other);
            return Err(format!("must be an object of strings, not {kind}").into());
        }
    };
    if given.len() > max {
        return Err(format!("has {} headers; at most {max} are allowed", given.len()).into());
    }
    let (mut headers, mut wrong) = (BTreeMap::new(), Vec::new());
    for (name, value) in given {
        let twice = headers.keys().any(|known: &String| known.eq_ignore_ascii_case(&name));
        let checked = fields::text(value).and_then(|value| {
            let value = value.trim().to_owned();
            request::check_header(&name, &value).map(|()| value)
        });
        match checked {
            Ok(_) if twice => {
                wrong.push((format!(".{name}"), "appears twice, in different case; give it once".to_owned()));
            }
            Ok(value) => drop(headers.insert(name, value)),
            Err(why) => wrong.push((format!(".{name}"), why)),
        }
    }
    if !wrong.is_empty() {
        return Err(Wrong(wrong));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > request::OWN_HEADERS_BYTES_MAX {
        return Err(format!(
            "names and values have {bytes} bytes in all; at most {} are allowed",
            request::OWN_HEADERS_BYTES_MAX
        )
        .into());
    }
    Ok(headers)
}

/// Waits in seconds, as an array or the name of a preset.
pub(super) fn waits() -> Kind<Vec<i32>> {
    Kind::new(read_waits, || reference(RETRY_SCHEDULE))
        .shown_as(json!({"type": "array", "items": {"type": "integer", "format": "int32"}}))
}

fn read_waits(value: Value) -> Result<Vec<i32>, String> {
    let preset = value.as_str().and_then(retry_policy::preset);
    let waits = match (preset, value) {
        (Some(waits), _) => waits.to_vec(),
        (None, Value::Array(waits)) => {
            let wait = fields::whole(0, i64::from(u32::MAX));
            let seconds = waits.into_iter().map(|value| Ok(u32::try_from(wait(value)?).unwrap_or(u32::MAX)));
            seconds.collect::<Result<Vec<u32>, String>>()?
        }
        (None, other) => {
            let presets = PRESETS.map(|(name, _)| format!("`{name}`")).join(" or ");
            return Err(format!("must be an array of seconds or {presets}, not {}", fields::kind(&other)));
        }
    };
    RetryPolicy::from_schedule(waits.clone()).map_err(|wrong| wrong.to_string())?;
    Ok(waits.into_iter().map(|wait| i32::try_from(wait).unwrap_or(i32::MAX)).collect())
}

/// A JSON object.
pub(super) fn object(bytes_max: usize) -> Kind<Map<String, Value>> {
    let read = move |value: Value| match (value.to_string().len(), value) {
        (n, Value::Object(_)) if n > bytes_max => {
            Err(format!("has {n} bytes as JSON; at most {bytes_max} are allowed"))
        }
        (_, Value::Object(object)) => Ok(object),
        (_, other) => Err(format!("must be an object, not {}", fields::kind(&other))),
    };
    Kind::new(
        read,
        || json!({"type": "object", "additionalProperties": true, "propertyNames": {"type": "string"}}),
    )
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The schemas that other schemas refer to, by name.
pub(super) fn referred_to() -> [(&'static str, Value); 4] {
    let pattern = json!({"type": "string",
        "description": "An event type, all types with a common prefix (`ticket.*`), or all types (`*`).", "example": "ticket.*",
        "minLength": 1, "maxLength": EVENT_TYPE_BYTES_MAX,
        "pattern": r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/-]*(\.\*)?)$"});
    let wait = json!({"type": "integer", "format": "int32", "description": "A wait in seconds.", "example": 300,
        "minimum": 1, "maximum": retry_policy::SCHEDULE_WAIT_SECONDS_MAX});
    let preset = json!({"type": "string", "description": "The name of a predefined schedule.",
        "enum": PRESETS.map(|(name, _)| name)});
    let mut by_name = reference(PRESET);
    by_name["description"] = "The name of a preset.".into();
    let schedule = json!({"description": "The waits between attempts.", "oneOf": [
        {"type": "array", "items": reference(WAIT_SECONDS), "description": "Waits in seconds."}, by_name]});
    [(EVENT_PATTERN, pattern), (WAIT_SECONDS, wait), (RETRY_SCHEDULE, schedule), (PRESET, preset)]
}
