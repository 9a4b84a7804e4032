//! What came of one request: a value, never an error.
//!
//! The receiver or the network decides the outcome; `retry_policy` derives the next step from it. Every outcome is
//! one of the classes below, and each carries the facts that its description needs.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words::words;

/// The class of an outcome, as it appears in the ledger, the log and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeClass {
    /// 2xx: the receiver took it.
    Accepted,
    /// 410: the receiver is gone for good.
    Gone,
    /// The address is one that we do not connect to.
    Blocked,
    /// The request could not be made: a fault of ours or of the webhook's settings.
    Fault,
    /// 3xx: redirects are not followed.
    Redirected,
    /// Any other 4xx.
    Refused,
    /// 429.
    Throttled,
    /// 5xx.
    ServerError,
    /// No whole answer within the webhook's timeout.
    TimedOut,
    /// No connection, or one that broke before the first byte of an answer.
    Unreachable,
    /// The answer began and broke off.
    Cut,
}

impl OutcomeClass {
    /// Every class, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::Accepted,
        Self::Gone,
        Self::Blocked,
        Self::Fault,
        Self::Redirected,
        Self::Refused,
        Self::Throttled,
        Self::ServerError,
        Self::TimedOut,
        Self::Unreachable,
        Self::Cut,
    ];
}

words!(OutcomeClass {
    Accepted = "accepted",
    Gone = "gone",
    Blocked = "blocked",
    Fault = "fault",
    Redirected = "redirected",
    Refused = "refused",
    Throttled = "throttled",
    ServerError = "server_error",
    TimedOut = "timed_out",
    Unreachable = "unreachable",
    Cut = "cut",
});

/// How a receiver could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreachable {
    /// Its name has no address.
    Dns,
    /// No connection could be opened.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The connection broke before the first byte of an answer.
    Reset,
}

/// Where an attempt stood when its time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AwaitedPhase {
    /// For an address or a connection.
    Connection,
    /// For the first byte of the answer.
    Answer,
    /// For the rest of the answer.
    Rest,
}

/// What came of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 2xx.
    Accepted { status: u16 },
    /// 410.
    Gone,
    /// The host, or an address it resolves to, is in a network that is not allowed.
    Blocked { target: String, network: String },
    /// The request could not be made.
    Fault { reason: String },
    /// 3xx, with its target.
    Redirected { status: u16, location: Option<String> },
    /// A 4xx that is neither 410 nor 429.
    Refused { status: u16 },
    /// 429, with the wait that it asks for by `Retry-After` or as Discord does.
    Throttled { retry_after: Option<Duration> },
    /// 5xx; a 503 may carry a `Retry-After`.
    ServerError { status: u16, retry_after: Option<Duration> },
    /// The webhook's timeout passed.
    TimedOut { after: Duration, waiting: AwaitedPhase },
    /// No connection, or one that broke before an answer.
    Unreachable { how: Unreachable, address: Option<SocketAddr>, detail: String },
    /// The answer broke off after its head.
    Cut { status: u16, detail: String },
}

impl Outcome {
    #[must_use]
    pub const fn class(&self) -> OutcomeClass {
        match self {
            Self::Accepted { .. } => OutcomeClass::Accepted,
            Self::Gone => OutcomeClass::Gone,
            Self::Blocked { .. } => OutcomeClass::Blocked,
            Self::Fault { .. } => OutcomeClass::Fault,
            Self::Redirected { .. } => OutcomeClass::Redirected,
            Self::Refused { .. } => OutcomeClass::Refused,
            Self::Throttled { .. } => OutcomeClass::Throttled,
            Self::ServerError { .. } => OutcomeClass::ServerError,
            Self::TimedOut { .. } => OutcomeClass::TimedOut,
            Self::Unreachable { .. } => OutcomeClass::Unreachable,
            Self::Cut { .. } => OutcomeClass::Cut,
        }
    }

    /// How long the receiver asked to wait before a retry.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after } | Self::ServerError { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}
