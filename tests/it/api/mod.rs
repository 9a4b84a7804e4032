//! The REST API, as the programs that call it see it.

mod access;
mod audit_log;
mod boundaries;
mod check_url;
mod clients;
mod companies;
mod conformance;
mod dead_letters;
mod deliveries;
mod event_commands;
mod event_types;
mod events;
mod events_seen;
mod guide;
mod keys;
mod lanes;
mod limits;
mod problems;
mod readers;
mod replays;
mod test_delivery;
mod tokens;
mod userinfo;
mod webhook_changes;
mod webhook_fields;
mod webhooks;
