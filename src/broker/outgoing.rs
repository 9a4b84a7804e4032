//! A message on its way out, and where it goes.

use bytes::Bytes;

use super::{Headers, Queue};
use crate::{
    model::{Job, retry_policy::RetryTier},
    telemetry::labels::QueueKind,
};

/// Where a message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To the deliveries queue of a bucket.
    Deliveries {
        /// 0 to 63.
        bucket: u8,
    },
    /// To a retry queue, and from there to the deliveries queue of a bucket.
    Retry {
        /// Which wait.
        tier: RetryTier,
        /// 0 to 63.
        bucket: u8,
    },
    /// To a queue by its name.
    Queue(Queue),
    /// To XTSystems' exchange, as XTSystems would.
    Events { event_type: String },
}

impl Destination {
    /// The kind of queue it leads to.
    pub(super) const fn kind(&self) -> QueueKind {
        match self {
            Self::Deliveries { .. } | Self::Queue(Queue::Deliveries(_)) => QueueKind::Deliveries,
            Self::Queue(Queue::Prompt(_)) => QueueKind::Prompt,
            Self::Retry { .. } | Self::Queue(Queue::Retry(_)) => QueueKind::Retry,
            Self::Queue(Queue::DeadLetters) => QueueKind::DeadLetters,
            Self::Queue(Queue::QuarantineEvents | Queue::QuarantineJobs) => QueueKind::Quarantine,
            Self::Events { .. } | Self::Queue(Queue::Events) => QueueKind::Events,
        }
    }
}

impl From<&Job> for Destination {
    /// The deliveries queue of its bucket.
    fn from(job: &Job) -> Self {
        Self::Deliveries { bucket: job.bucket() }
    }
}

/// A message to be published.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub to: Destination,
    /// Identifies returned messages, so it should be unique among what a channel has in flight.
    pub message_id: String,
    /// AMQP's `type`; left out if it is empty.
    pub kind: &'static str,
    /// Its time in seconds since 1970, if it has one.
    pub timestamp: Option<u64>,
    pub headers: Headers,
    pub body: Bytes,
}
