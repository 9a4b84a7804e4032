//! A company's registered URL, with the event types it wants and how it wants them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    id::{CompanyId, WebhookId},
    lane::Standing,
    signature::Secret,
};

mod kinds;
pub mod settings;

pub use settings::Settings;

/// Why, since when and by whom the webhook is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// When it was paused, by the database's clock.
    pub since: DateTime<Utc>,
    /// Who paused it: a person, or `xtwebhooks` itself.
    pub by: String,
    /// The reason, in words for a person.
    pub why: String,
}

/// What happens to the deliveries that were held during a pause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = HeldChoice)]
pub enum Held {
    /// They are sent at a limited rate.
    #[default]
    Deliver,
    /// They are cancelled.
    Discard,
}

impl Held {
    /// The words for them.
    pub const WORDS: &[(&str, Self)] = &[("deliver", Self::Deliver), ("discard", Self::Discard)];
}

/// A webhook as the pipeline needs it at each attempt.
#[derive(Clone, Debug)]
pub struct Webhook {
    pub id: WebhookId,
    pub company: CompanyId,
    /// What its owner has set, without the metadata and the description, which are not needed here.
    pub settings: Settings,
    /// The secret before the last rotation and the end of its grace.
    pub previous_secret: Option<(Secret, DateTime<Utc>)>,
    /// Whether the guide's header has the previous secret's signature until the grace ends.
    pub guide_signature_is_previous: bool,
    /// The state of its lane.
    pub lane: Standing,
    /// Set while it is paused.
    pub pause: Option<Pause>,
    /// Deleted: its open deliveries are cancelled, its history stays.
    pub deleted: bool,
}
