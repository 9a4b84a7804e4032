//! One event owed to one webhook, over all its attempts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::words;

/// The state of a delivery. The states `delivered`, `dead` and `cancelled` are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = DeliveryStatus)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    /// An attempt is owed. In from ingest, a replay, or `held`; out by an attempt, a pause, a cancellation.
    Pending,
    /// Its webhook is paused. Out by resume (`pending`), discard (`cancelled`) or age (`dead`).
    Held,
    /// A receiver accepted it. Final; removed with its partition.
    Delivered,
    /// Given up. Final; a `dead_letters` row stands beside it and can be replayed.
    Dead,
    /// No longer owed: its webhook is deleted or inactive, it was discarded or superseded. Final.
    Cancelled,
}

/// Why a delivery exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[schema(as = DeliveryTrigger)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// An event matched a webhook.
    Event,
    /// Somebody asked for a test.
    Test,
    /// A replay sends it again.
    Replay,
    /// Its webhook came back from an outage.
    Recovery,
}

words!(DeliveryStatus { Pending = "pending", Held = "held", Delivered = "delivered", Dead = "dead", Cancelled = "cancelled" });
words!(Trigger { Event = "event", Test = "test", Replay = "replay", Recovery = "recovery" });
