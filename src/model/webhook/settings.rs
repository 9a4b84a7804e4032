//! The settings of a webhook: one table for the type, the default, the bounds and the description of each field.
//!
//! The table makes the struct that ledger, API and command line share, the reader of requests, and the schemas of the
//! document. A creation and a change are read the same way: each field is absent, null or a value. An absent field stays
//! as it is, null resets it to its default, and a creation starts from the defaults.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

pub use super::kinds::Receivers;
use super::kinds::{
    self, Kind, flag, line, note, number, object, patterns, referred_to, secret, url, waits, whole,
};
use crate::model::{
    RetryPolicy, Secret,
    fields::Fields,
    request::OWN_HEADERS_MAX,
    retry_policy::{ATTEMPTS_DEFAULT, ATTEMPTS_MAX},
};

/// The longest name, in characters, as the guide's column has it.
pub const NAME_CHARACTERS_MAX: usize = 255;
/// The longest description, in characters.
pub const DESCRIPTION_CHARACTERS_MAX: usize = 2_000;
/// The maximum number of patterns of one webhook.
pub const EVENTS_MAX: usize = 100;
/// The maximum number of entries of `events` in a request, some of which may be repeats.
pub const EVENTS_GIVEN_MAX: usize = 10 * EVENTS_MAX;
/// The maximum size of a webhook's metadata, in bytes of JSON.
pub const METADATA_BYTES_MAX: usize = 8 * 1024;
/// The timeout of an attempt, in seconds: by default, and at most.
pub const TIMEOUT_SECONDS_DEFAULT: i32 = 30;
pub const TIMEOUT_SECONDS_MAX: i32 = 60;
/// The range of the age at which a retry may still start, in seconds: a minute to 30 days.
pub const MAX_ATTEMPT_AGE_SECONDS_MIN: i32 = 60;
pub const MAX_ATTEMPT_AGE_SECONDS_MAX: i32 = 30 * 24 * 60 * 60;
/// The maximum of concurrent requests that a webhook may set.
pub const MAX_IN_FLIGHT_MAX: i32 = 10_000;
/// The range of a rate limit, in requests per second.
pub const RATE_LIMIT_MIN: f64 = 0.01;
pub const RATE_LIMIT_MAX: f64 = 100_000.0;

/// Makes a field of each row: its description, name, type and default, and the kind that reads and describes it.
macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $(#[serde($($serde:tt)+)])? $name:ident: $type:ty = $default:expr, $kind:expr;)+) => {
        /// Everything that the owner of a webhook may set.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct Settings {
            $($(#[doc = $doc])+ $(#[serde($($serde)+)])? pub $name: $type,)+
        }

        impl Default for Settings {
            /// The defaults; the fields without one are empty.
            fn default() -> Self {
                Self { $($name: $default),+ }
            }
        }

        impl Settings {
            /// Reads the settings in a request. An invalid field is recorded and stays unchanged; in a new webhook, a
            /// missing required field is recorded too.
            pub fn read(&mut self, fields: &mut Fields, is_new: bool, receivers: &Receivers<'_>) {
                $(
                    let read = take(fields, stringify!($name), &$kind, is_new, receivers, || $default);
                    if let Some(value) = read {
                        self.$name = value;
                    }
                )+
            }

            fn table() -> Vec<Row> {
                let default = serde_json::to_value(Self::default()).unwrap_or_default();
                vec![$({
                    let name = stringify!($name);
                    Row::of(name, concat!($($doc),+).trim(), &$kind, default.get(name).cloned())
                }),+]
            }
        }
    };
}

settings! {
    /// The name, unique in the company, without control characters.
    name: String = String::new(),
        line(NAME_CHARACTERS_MAX, "Discord Bot Integration").required();
    /// Where events are posted: an http or https URL without user name and password.
    url: String = String::new(), url().required();
    /// The event types to send: `ticket.created`, `ticket.*`, or `*` for all.
    events: Vec<String> = Vec::new(),
        patterns(EVENTS_MAX, EVENTS_GIVEN_MAX).required();
    /// The secret that signs every request; no control characters. If it is null, or omitted in a new webhook, a secret of
    /// the form `whsec_…` is generated and shown only in this response. In an update, the new secret replaces the old one
    /// immediately.
    #[serde(skip, default = "Secret::not_shown")]
    secret: Secret = Secret::generate(), secret();
    /// Additional request headers: `{"Authorization": "Bearer …"}`. An update replaces all of them.
    headers: BTreeMap<String, String> = BTreeMap::new(), kinds::headers(OWN_HEADERS_MAX);
    /// Whether events are matched with the webhook. If it is inactive, its pending deliveries are cancelled.
    active: bool = true, flag();
    /// The total number of attempts, with waits of 1, 2, 4 … 64 s between them. Ignored if `retry_schedule` is set.
    retry_count: i32 = ATTEMPTS_DEFAULT.cast_signed(), whole(1, ATTEMPTS_MAX.cast_signed());
    /// The timeout of an attempt, in seconds.
    timeout_seconds: i32 = TIMEOUT_SECONDS_DEFAULT, whole(1, TIMEOUT_SECONDS_MAX);
    /// How long after the event a retry may start, in seconds; for a replay, how long after the replay was requested. A
    /// delivery whose next retry would start later is given up as too old. The first attempt is always made. Null for
    /// no limit.
    max_attempt_age_seconds: Option<i32> = None,
        whole(MAX_ATTEMPT_AGE_SECONDS_MIN, MAX_ATTEMPT_AGE_SECONDS_MAX).or_none();
    /// A note for human readers.
    description: Option<String> = None, note(DESCRIPTION_CHARACTERS_MAX).or_none();
    /// The waits between attempts in seconds, used instead of `retry_count`. A request may name a preset. Null to use
    /// `retry_count`.
    retry_schedule: Option<Vec<i32>> = None, waits().or_none();
    /// The maximum number of concurrent requests from each worker; null for the service's default.
    max_in_flight: Option<i32> = None, whole(1, MAX_IN_FLIGHT_MAX).or_none();
    /// The maximum number of requests per second over all workers; null for no limit.
    rate_limit: Option<f64> = None, number(RATE_LIMIT_MIN, RATE_LIMIT_MAX).or_none();
    /// Whether deliveries given up during an outage are sent again when the outage ends.
    auto_recover: bool = false, flag();
    /// A JSON object of at most 8 KiB for the owner's own use. The service only returns it. An update replaces all of
    /// it.
    metadata: Map<String, Value> = Map::new(), object(METADATA_BYTES_MAX);
}

impl Settings {
    /// The retry policy; the default if the table contains an invalid one.
    #[must_use]
    pub fn retry(&self) -> RetryPolicy {
        let count = u32::try_from(self.retry_count).unwrap_or(0);
        let by_count = || RetryPolicy::from_count(count).unwrap_or_default();
        let Some(schedule) = &self.retry_schedule else { return by_count() };
        let waits = schedule.iter().map(|&seconds| u32::try_from(seconds).unwrap_or(0)).collect();
        RetryPolicy::from_schedule(waits).unwrap_or_else(|_| by_count())
    }

    /// The timeout of an attempt.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.timeout_seconds).unwrap_or_default())
    }

    /// When the last retry of a delivery that was placed at `made` may start; `None` where there is no limit.
    #[must_use]
    pub fn retries_end(&self, made: DateTime<Utc>) -> Option<DateTime<Utc>> {
        made.checked_add_signed(TimeDelta::seconds(self.max_attempt_age_seconds?.into()))
    }

    /// The maximum of concurrent requests from a worker; `None` for the service's default.
    #[must_use]
    pub fn in_flight_max(&self) -> Option<usize> {
        self.max_in_flight.and_then(|max| usize::try_from(max).ok())
    }

    /// The schema of a body that creates a webhook, or with `is_new` false, of one that updates a webhook.
    #[must_use]
    pub fn request_schema(is_new: bool) -> RefOr<Schema> {
        let table = Self::table();
        let required = table.iter().filter(|row| is_new && row.is_required).map(|row| row.name).collect();
        let doc = |row: &Row| match &row.default {
            Some(default) => format!("{} Default: {default}.", row.doc),
            None => row.doc.clone(),
        };
        described(table.iter().map(|row| (row.name, row.request.clone(), doc(row))).collect(), required)
    }
}

impl ToSchema for Settings {
    /// What the schemas of the requests refer to.
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.extend(referred_to().map(|(name, value)| (name.to_owned(), schema(value))));
    }
}

impl PartialSchema for Settings {
    /// The schema of a response.
    fn schema() -> RefOr<Schema> {
        let mut table = Self::table();
        table.retain(|row| row.name != "secret");
        let required = table.iter().map(|row| row.name).collect();
        described(table.into_iter().map(|row| (row.name, row.shown, row.doc)).collect(), required)
    }
}

/// A field as the document describes it.
struct Row {
    name: &'static str,
    doc: String,
    is_required: bool,
    request: Value,
    shown: Value,
    /// The default, where it says something in a word.
    default: Option<Value>,
}

impl Row {
    fn of<T: 'static>(name: &'static str, doc: &str, kind: &Kind<T>, default: Option<Value>) -> Self {
        Self {
            name,
            doc: doc.to_owned(),
            is_required: kind.is_required,
            request: kind.in_a_request(),
            shown: kind.in_an_answer(),
            default: default.filter(|value| value.is_boolean() || value.is_number()),
        }
    }
}

/// An object of these properties, each with its description.
fn described(properties: Vec<(&str, Value, String)>, required: Vec<&str>) -> RefOr<Schema> {
    let mut made = utoipa::openapi::Object::new();
    made.required = required.into_iter().map(str::to_owned).collect();
    for (name, mut value, doc) in properties {
        // Of one of several schemas the first is described: null needs no words.
        let described = if value.get("oneOf").is_some() { &mut value["oneOf"][0] } else { &mut value };
        described["description"] = doc.into();
        made.properties.insert(name.to_owned(), schema(value));
    }
    Schema::Object(made).into()
}

fn schema(value: Value) -> RefOr<Schema> {
    serde_json::from_value(value).expect("what is written here as a schema is one")
}

/// The new value of a field after a request; `None` if it stays unchanged.
fn take<T>(
    fields: &mut Fields,
    name: &'static str,
    kind: &Kind<T>,
    is_new: bool,
    receivers: &Receivers<'_>,
    default: impl FnOnce() -> T,
) -> Option<T> {
    let read = |value| (kind.read)(value, receivers);
    match (kind.is_required, is_new) {
        (true, true) => fields.need(name, read),
        (true, false) => fields.not_null(name, read),
        (false, _) => fields.read(name, read).or_default(default),
    }
}

/// Reads a required URL like the setting of that name.
pub fn read_url(fields: &mut Fields, receivers: &Receivers<'_>) -> Option<String> {
    fields.need("url", |value| (url().read)(value, receivers))
}

/// Reads a secret like the setting of that name.
pub fn read_secret(fields: &mut Fields, receivers: &Receivers<'_>) -> Option<Secret> {
    fields.read("secret", |value| (secret().read)(value, receivers)).given()
}
