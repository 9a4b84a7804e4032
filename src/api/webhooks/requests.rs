//! The bodies of requests for webhooks, as the document describes them.
//!
//! `check` reads the bodies field by field, so that every invalid field is named at once; these shapes describe what may be
//! sent.

use serde::{Deserialize, Serialize};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::model::webhook::{Held, Settings};

/// The body that makes a webhook, which `model::webhook::settings` describes.
#[derive(Clone, Copy, Debug)]
pub struct WebhookCreate;

/// The body that changes a webhook: the same fields, none of them required.
#[derive(Clone, Copy, Debug)]
pub struct WebhookUpdate;

impl PartialSchema for WebhookCreate {
    fn schema() -> RefOr<Schema> {
        described(
            Settings::request_schema(true),
            "A new webhook. Unknown fields are ignored, with a warning.",
        )
    }
}

impl PartialSchema for WebhookUpdate {
    fn schema() -> RefOr<Schema> {
        described(
            Settings::request_schema(false),
            "An update of a webhook. Omitted fields stay unchanged, `null` resets a field to its default. Unknown fields \
             are ignored, with a warning.",
        )
    }
}

impl ToSchema for WebhookCreate {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Settings::schemas(schemas);
    }
}

impl ToSchema for WebhookUpdate {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Settings::schemas(schemas);
    }
}

fn described(mut schema: RefOr<Schema>, description: &str) -> RefOr<Schema> {
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        object.description = Some(description.to_owned());
    }
    schema
}

/// The reason for a pause.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Pause)]
pub struct PauseBody {
    /// Why the webhook is paused, for human readers [default: paused by hand].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 1000, pattern = r"^[^\x00]*$")]
    pub reason: Option<String>,
}

/// How to resume a webhook.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Resume {
    /// What to do with the held deliveries: `deliver` or `discard` [default: deliver].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// How many held deliveries are sent per second [default: 50].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub rate: Option<i32>,
}

/// How to rotate a secret.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct RotateSecret {
    /// The new secret, 16 to 255 bytes. If it is omitted or null, one of the form `whsec_…` is generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 16, max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub secret: Option<String>,
    /// How long the old secret also signs, in seconds, at most 30 days [default: 24 hours].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2_592_000)]
    pub grace_seconds: Option<i64>,
    /// Which secret signs the guide's header until then; it has room for one signature: `new` or `previous`
    /// [default: new].
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

/// A URL to check.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckUrl {
    /// The URL that events would be posted to.
    #[schema(
        min_length = 1,
        max_length = 2048,
        format = "iri",
        pattern = r"^https?://",
        example = "https://bot.example.com/webhooks/xtsystems"
    )]
    pub url: String,
}
