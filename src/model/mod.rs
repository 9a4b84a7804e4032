//! The domain: plain types and decisions. No IO, and no clock is read here; instants come in as arguments.

pub mod address;
pub mod attempt;
pub mod breaker;
pub mod delivery;
pub mod envelope;
pub mod event;
pub mod event_schema;
#[cfg(test)]
pub(crate) mod fixtures;
pub mod id;
pub mod job;
pub mod lane;
pub mod next_step;
pub mod operational;
pub mod outcome;
pub mod request;
pub mod retry_policy;
pub mod signature;
pub mod subscription;
pub mod trace;
pub mod webhook;
pub mod why;

pub use address::{BadUrl, Forbidden, Networks};
pub use attempt::{Attempt, Exchange, Phases, Response};
pub use delivery::{Status, Trigger};
pub use envelope::{Decoded, Incoming, Limits, Placed, Rejected};
pub use event::{Event, EventType};
pub use id::{CompanyId, DeliveryId, EventId, ReplayId, WebhookId};
pub use job::Job;
pub use next_step::{DeadReason, NextStep, RetryTier, Wait};
pub use outcome::{Outcome, OutcomeClass, Unreachable, Waiting};
pub use request::Sealed;
pub use retry_policy::RetryPolicy;
pub use signature::Secret;
pub use subscription::NonMatch;
pub use webhook::{Pause, Webhook};
pub use why::{Move, Why};
