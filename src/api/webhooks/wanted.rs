//! The bodies of requests that make and change webhooks, as the document describes them.
//!
//! What comes is taken field by field by `check`, so that every wrong one is named at once; these shapes say what may
//! come, and whoever calls from Rust can write a body with them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A webhook to be made. Fields that are not named here are ignored, with a warning.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WebhookCreate {
    /// A name, unique in the company; no control characters.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = r"^[^\x00-\x1f\x7f-\x9f]+$",
        example = "Discord Bot Integration"
    )]
    pub name: String,
    /// Where to post: http or https, without user name and password.
    #[schema(
        min_length = 1,
        max_length = 2048,
        format = "iri",
        pattern = r"^https?://",
        example = "https://bot.example.com/webhooks/xtsystems"
    )]
    pub url: String,
    /// The event types wanted: `ticket.created`, `ticket.*`, or `*` for all.
    #[schema(value_type = Vec<EventPattern>, min_items = 1, max_items = 100, example = json!(["ticket.created", "asset.*"]))]
    pub events: Vec<String>,
    /// Signs every request: 16 to 255 bytes, no control characters. Left out or null: one is made, of the form `whsec_…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 16, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub secret: Option<String>,
    /// Headers of its own, 32 at most: `{"Authorization": "Bearer …"}`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Whether events are matched with it [default: true].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Attempts in all, where there is no schedule, with waits of 1, 2, 4 … 64 s between them [default: 3].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 20)]
    pub retry_count: Option<i32>,
    /// The whole time an attempt may take, in seconds [default: 30].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60)]
    pub timeout_seconds: Option<i32>,
    /// A note for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000, pattern = r"^[^\x00]*$")]
    pub description: Option<String>,
    /// Waits between attempts instead of a count: seconds, each 1 to 86,400, or `patient` for three days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_schedule: Option<RetrySchedule>,
    /// Requests at once from each worker [default: the service's].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub max_in_flight: Option<i32>,
    /// Requests a second over all workers [default: no limit].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.01, maximum = 100_000.0)]
    pub rate_limit: Option<f64>,
    /// Whether the end of an outage sends again what was given up in it [default: false].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_recover: Option<bool>,
    /// Whatever you keep beside it: a JSON object of 8 KiB at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

/// A change: what is not named stays as it is, and `null` resets to the default. Fields that are not named here are
/// ignored, with a warning.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct WebhookUpdate {
    /// A name, unique in the company; no control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    pub name: Option<String>,
    /// Where to post: http or https, without user name and password.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, min_length = 1, max_length = 2048, format = "iri", pattern = r"^https?://")]
    pub url: Option<String>,
    /// The event types wanted: `ticket.created`, `ticket.*`, or `*` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<EventPattern>>, nullable = false, min_items = 1, max_items = 100)]
    pub events: Option<Vec<String>>,
    /// Another secret, which replaces at once: 16 to 255 bytes. null: one is made, and shown this once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 16, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub secret: Option<String>,
    /// The headers of its own, all of them, 32 at most; null for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// Whether events are matched with it. What is pending of an inactive one is cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<bool>,
    /// Attempts in all; counts where there is no schedule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 20)]
    pub retry_count: Option<i32>,
    /// The whole time an attempt may take, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60)]
    pub timeout_seconds: Option<i32>,
    /// A note for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2000, pattern = r"^[^\x00]*$")]
    pub description: Option<String>,
    /// Waits between attempts instead of a count: seconds, each 1 to 86,400, or `patient`; null for the count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_schedule: Option<RetrySchedule>,
    /// Requests at once from each worker; null for the service's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub max_in_flight: Option<i32>,
    /// Requests a second over all workers; null for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.01, maximum = 100_000.0)]
    pub rate_limit: Option<f64>,
    /// Whether the end of an outage sends again what was given up in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_recover: Option<bool>,
    /// Whatever you keep beside it, the whole of it: a JSON object of 8 KiB at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
}

/// An event type, all that begin alike (`ticket.*`), or all (`*`).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(
    min_length = 1,
    max_length = 100,
    pattern = r"^(\*|[A-Za-z0-9][A-Za-z0-9._:/-]*(\.\*)?)$",
    example = "ticket.*"
)]
pub struct EventPattern(pub String);

/// A wait in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[schema(minimum = 1, maximum = 86_400, example = 300)]
pub struct WaitSeconds(pub u32);

/// Waits between attempts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum RetrySchedule {
    /// Each in seconds.
    Seconds(Vec<WaitSeconds>),
    /// A preset by its name.
    Preset(Preset),
}

/// A schedule that has a name.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h.
    Patient,
}

/// A pause.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Pause {
    /// Why, for whoever sees it paused [default: paused by hand].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000, pattern = r"^[^\x00]*$")]
    pub reason: Option<String>,
}

/// The end of a pause.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Resume {
    /// What becomes of what was held: `deliver` or `discard` [default: deliver].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<HeldChoice>,
    /// How many of them are sent a second [default: 50].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub rate: Option<i32>,
}

/// What becomes of what was held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HeldChoice {
    /// It is sent.
    Deliver,
    /// It is cancelled.
    Discard,
}

/// A new secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RotateSecret {
    /// The new secret: 16 to 255 bytes. Left out or null: one is made, of the form `whsec_…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 16, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub secret: Option<String>,
    /// How long the old secret signs too, in seconds, 30 days at most [default: 24 hours].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_592_000)]
    pub grace_seconds: Option<i64>,
    /// Which secret signs the guide's header until then, which has room for one: `new` or `previous` [default: new].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guide_signature: Option<GuideSignature>,
}

/// Which secret signs the guide's header during a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuideSignature {
    /// The new one, at once.
    New,
    /// The previous one, until the grace ends.
    Previous,
}

/// A URL to be looked at.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckUrl {
    /// Where events would be posted to.
    #[schema(
        min_length = 1,
        max_length = 2048,
        format = "iri",
        pattern = r"^https?://",
        example = "https://bot.example.com/webhooks/xtsystems"
    )]
    pub url: String,
}
