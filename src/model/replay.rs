//! Replays: orders to send old events again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::words;

/// The purpose of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayKind {
    /// Somebody asked for deliveries again.
    Replay,
    /// A paused webhook goes on.
    Resume,
    /// A webhook came back from an outage.
    Recovery,
}

/// The progress of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayStatus {
    /// It makes deliveries.
    Expanding,
    /// All are made, and some of them have not ended.
    Running,
    /// All have ended.
    Done,
}

words!(ReplayKind { Replay = "replay", Resume = "resume", Recovery = "recovery" });
words!(ReplayStatus { Expanding = "expanding", Running = "running", Done = "done" });
