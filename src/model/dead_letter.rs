//! What was given up, and what became of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::words;

/// What was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterKind {
    /// A delivery, under its own id.
    Delivery,
    /// An event that ended its worker.
    Event,
    /// A message that says no event.
    Message,
}

/// What happened to a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterStatus {
    /// Nothing yet.
    Open,
    /// It was sent or published again.
    Replayed,
    /// It is not wanted any more.
    Discarded,
}

words!(DeadLetterKind { Delivery = "delivery", Event = "event", Message = "message" });
words!(DeadLetterStatus { Open = "open", Replayed = "replayed", Discarded = "discarded" });
