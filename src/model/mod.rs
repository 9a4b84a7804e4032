//! The domain: plain types and decisions. No IO, and no clock is read here; instants are arguments.

pub(crate) mod address;
pub(crate) mod attempt;
pub mod breaker;
pub(crate) mod dead_letter;
pub(crate) mod delivery;
pub(crate) mod envelope;
pub(crate) mod event;
pub(crate) mod event_schema;
pub(crate) mod fields;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod id;
pub(crate) mod job;
pub mod lane;
pub(crate) mod next_step;
pub(crate) mod operational;
pub(crate) mod outcome;
pub(crate) mod payload;
pub(crate) mod replay;
pub(crate) mod request;
pub(crate) mod retry_policy;
pub mod signature;
pub(crate) mod subscription;
pub(crate) mod trace;
pub(crate) mod webhook;
pub(crate) mod why;
pub(crate) mod words;

pub use attempt::Exchange;
pub use delivery::{DeliveryStatus, Trigger};
pub use id::{CompanyId, DeliveryId, EventId, ReplayId, WebhookId};
pub use job::{Job, JobClass};
pub use next_step::RetryTier;
pub use outcome::{AwaitedPhase, Outcome, OutcomeClass, Unreachable};
pub use payload::Payload;
pub use webhook::Webhook;

pub(crate) use attempt::{Attempt, Phases, Response};

pub(crate) use envelope::{Decoded, EnvelopeLimits, Incoming, Placed, Rejected};
pub(crate) use event::{Event, EventType};
pub(crate) use next_step::{DeadReason, NextStep, Wait};
pub(crate) use retry_policy::RetryPolicy;
pub(crate) use signature::Secret;
pub(crate) use subscription::NonMatch;
