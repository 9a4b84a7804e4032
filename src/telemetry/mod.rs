//! Logs, metrics and health checks.
//!
//! Every role has all three. They are fed by handles that the stages are given. Nothing here reaches into a stage,
//! and nothing here is static, so each test has its own.
//!
//! Begin with `metrics.rs`: its list of names shows what can be observed.

#[cfg(test)]
mod documentation;
pub mod labels;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod probes;

pub(crate) use metrics::Metrics;
pub(crate) use probes::Health;
