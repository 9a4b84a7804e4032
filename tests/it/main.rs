//! Everything that needs a real broker, a real database or a real receiver, in one binary.

#![allow(
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::duration_suboptimal_units,
    clippy::float_cmp,
    clippy::items_after_statements,
    clippy::needless_pass_by_value,
    clippy::single_match_else,
    clippy::too_many_lines,
    clippy::type_complexity,
    clippy::default_trait_access,
    reason = "tests live by the machine's clock, count small things, fill in many an AMQP default, and take `json!` as it comes"
)]

mod after_a_kill;
mod api;
mod attempt_age;
mod bad_messages;
mod bisect;
mod bounds;
mod broker;
mod cloud_events;
mod commands;
mod dead_letters;
mod dedupe;
mod demo;
mod doctor;
mod egress;
mod isolation;
mod job_versions;
mod k8s;
mod kills;
mod lane_commands;
mod lanes;
mod logs;
mod operational;
mod outcomes;
mod pause;
mod payloads;
mod pipeline;
mod plans;
mod poison;
mod prune;
mod raw_headers;
mod readiness;
mod readme;
mod replay;
mod rescue;
mod restarts;
mod schedule;
mod schedule_lanes;
mod support;
mod tidy;
mod upgrade;
mod upgrade_queues;
mod wire;
mod words;
