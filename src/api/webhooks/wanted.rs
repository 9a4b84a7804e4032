//! The bodies of requests about webhooks, as the document describes them.
//!
//! What comes is taken field by field by `check`, so that every wrong one is named at once; these shapes say what may
//! come.

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
            "A webhook to be made. Fields that are not named here are ignored, with a warning.",
        )
    }
}

impl PartialSchema for WebhookUpdate {
    fn schema() -> RefOr<Schema> {
        described(
            Settings::request_schema(false),
            "A change: what is not named stays as it is, and `null` resets to the default. Fields that are not named here \
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

/// A pause.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Pause)]
pub struct PauseBody {
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
    pub held: Option<Held>,
    /// How many of them are sent a second [default: 50].
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub rate: Option<i32>,
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
