//! One event on its way to one webhook, over all its attempts.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The state of a delivery. The final ones never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// An event matched a webhook.
    Event,
    /// Somebody asked for a test.
    Test,
    /// Somebody asked for it anew.
    Replay,
    /// Its webhook came back from an outage.
    Recovery,
}

macro_rules! words {
    ($type:ident { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The word that stands in the ledger, on the wire and in the log.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text { $($word => Ok(Self::$variant),)+ _ => Err(UnknownWord(text.to_owned())) }
            }
        }
    };
}

/// A word that is none of those expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a known word here")]
pub struct UnknownWord(pub String);

words!(Status { Pending = "pending", Held = "held", Delivered = "delivered", Dead = "dead", Cancelled = "cancelled" });
words!(Trigger { Event = "event", Test = "test", Replay = "replay", Recovery = "recovery" });
