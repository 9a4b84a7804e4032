//! A job: the hint that the next attempt of a delivery is due.
//!
//! Losing one costs time, never a delivery: the ledger knows what is owed. `broker::jobs` defines how a job looks on
//! the broker; this is what it says.

use chrono::{DateTime, Utc};

use super::{
    delivery::Trigger,
    event::EventType,
    id::{CompanyId, DeliveryId, EventId, WebhookId, bucket},
    next_step::RetryTier,
    payload::Payload,
};

/// The longest `data` that travels in a job; a longer one is read from the ledger by the claim.
pub const JOB_DATA_BYTES_MAX: usize = 16 * 1024;

/// The retry queue through which a fresh job is published a second time, when nobody knows whether the first one is out.
/// By the end of its wait every worker knows that the first one must claim (`deliver/session.rs`).
pub const AGAIN_TIER: RetryTier = RetryTier::S2;

/// The deliveries queues that a job goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobClass {
    /// The prompt ones: its company has few jobs, and no other company's backlog is ahead of them.
    Prompt,
    /// The ordinary ones.
    Ordinary,
}

/// The next attempt of one delivery, or the first attempts of several deliveries of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    pub company: CompanyId,
    pub event: EventId,
    pub event_type: EventType,
    /// The deliveries, each with its webhook. More than one only on first attempts.
    pub deliveries: Vec<(DeliveryId, WebhookId)>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// When the job was recorded in the ledger, by the database's clock.
    pub queued_at: DateTime<Utc>,
    /// Why the deliveries exist.
    pub trigger: Trigger,
    /// The W3C trace context of the event.
    pub traceparent: Option<String>,
    /// What to send; `None` if the delivery must be claimed, and the claim reads it from the ledger.
    pub payload: Option<Payload>,
}

impl Job {
    /// The bucket that routes it: the event's if the payload travels along, else the delivery's.
    #[must_use]
    pub fn bucket(&self) -> u8 {
        match (self.payload.is_none(), self.deliveries.first()) {
            (true, Some((delivery, _))) => bucket(delivery.0),
            _ => bucket(self.event.0),
        }
    }
}
