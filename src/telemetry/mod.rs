//! What the service says of itself: log lines, metrics, and the two questions an orchestrator asks.
//!
//! Every role has all three. They are fed by handles that the stages are given; nothing here reaches into a stage,
//! and nothing here is a static, so a test has its own.
//!
//! Begin with `metrics.rs`: the list of its names is a map of what can be seen.

#[cfg(test)]
mod documentation;
pub mod labels;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod probes;

pub(crate) use metrics::Metrics;
pub(crate) use probes::Health;
