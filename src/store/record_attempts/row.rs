//! A finished attempt as its row will show it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::model::{DeliveryId, WebhookId, breaker::Heard};

/// What becomes of the delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// Accepted.
    Delivered,
    /// The next attempt follows after the wait; `queued` when a retry queue holds it, else the ledger does.
    Retried {
        /// The time until the next attempt.
        wait: Duration,
        /// Whether a retry queue waits it out.
        queued: bool,
    },
    /// The receiver answered 410: the webhook is paused for that reason, and the delivery held.
    Held {
        /// Why the webhook is paused.
        why: String,
    },
    Dead {
        /// The reason in the dead letter.
        reason: &'static str,
    },
}

/// A finished attempt as its row will show it.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    pub delivery: DeliveryId,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// Where it went.
    pub webhook: WebhookId,
    /// What becomes of the delivery.
    pub becomes: Becomes,
    /// When the request began.
    pub attempted_at: DateTime<Utc>,
    /// The outcome's word.
    pub outcome: &'static str,
    /// The outcome in a sentence.
    pub why: Option<String>,
    pub url: Option<String>,
    /// The address connected to.
    pub address: Option<String>,
    /// The headers as sent, a line each.
    pub request_head: Option<String>,
    pub response_status: Option<i32>,
    /// The answer's headers, a line each.
    pub response_head: Option<String>,
    /// The answer's body, as far as it is kept.
    pub response_body: Option<String>,
    /// Whether there was more of it.
    pub response_truncated: Option<bool>,
    /// Whether a reset on a reused connection was repeated.
    pub repeated: bool,
    /// Phases in microseconds: DNS, connect, TLS, first byte, all.
    pub phases_us: [Option<i32>; 5],
    /// What it means for the webhook's lane; a test means nothing.
    pub heard: Option<Heard>,
}

impl AttemptRow {
    /// The same row without any text that came from outside, for an answer that the ledger rejects.
    #[must_use]
    pub fn without_texts(mut self) -> Self {
        self.why = None;
        self.url = None;
        self.address = None;
        self.request_head = None;
        self.response_head = None;
        self.response_body = None;
        if let Becomes::Held { why } = &mut self.becomes {
            "the receiver answered 410".clone_into(why);
        }
        self
    }
}
