//! Carries XTSystems' domain events to other people's servers: signed, retried, recorded, replayable.
//!
//! The way of one event, and the module that takes each step:
//!
//! 1. XTSystems publishes it to a topic exchange. [`broker`] hands the message to [`ingest`], which reads it
//!    ([`model::envelope`]), asks which webhooks want it ([`model::subscription`]), and writes the event with one
//!    delivery for each of them in one statement ([`store::ingest_batch`]). Only then is the message acknowledged.
//! 2. For each new delivery a *job* is published: a hint that an attempt is owed. Losing it costs time, never the
//!    delivery, for the ledger says what is owed. Those of a company that has few go by queues of their own, past the
//!    backlog of any other.
//! 3. [`deliver`] takes the job, looks at the webhook's present state and whether its lane lets anything start
//!    ([`model::lane`]), waits for a place in it and, where it has a pace, for a slot ([`store::lanes`]); unless the job
//!    is fresh it claims the delivery in the ledger ([`store::claim`]). [`egress`] posts the signed request
//!    ([`model::request`], [`model::signature`]) to an address that it has judged.
//! 4. What came of it is an outcome ([`model::outcome`]), never an error; the retry policy makes the next step of it
//!    ([`model::retry_policy`]). Both are committed ([`store::record_attempts`]) before the job is acknowledged, and with
//!    them what the outcome does to the lane: failures open its breaker, a success closes it ([`model::breaker`]).
//! 5. A short wait is spent in a retry queue. Every other wait is in the ledger, and [`feed`] makes a job of it when
//!    its time has come and its lane has room; so it does for what was held, is replayed, or has lost its job. It also
//!    makes known what happened to webhooks and deliveries ([`model::operational`]).
//! 6. What is given up is a dead letter. The ledger writes it with the delivery's last state; [`keep`] counts it, and
//!    keeps what the broker gives up by itself. From there it can be asked for anew.
//! 7. [`prune`] makes the days of the history ahead, drops those past the retention after ending what they owe, empties
//!    bodies that need not be kept so long, and erases companies.
//! 8. [`api`] is where companies manage webhooks, publish events, read histories and ask for deliveries anew.
//!
//! `docs/architecture.md` tells the same with its states and guarantees. Stages never call each other: they meet in
//! queues, tables and [`model`].

// A module is public only where tests and benchmarks reach it: of everything else the compiler says what nothing uses.

pub mod model;

pub mod broker;
pub mod egress;
pub mod store;

pub mod ingest;

mod deliver;

mod dead_letter;

mod schedule;

mod prune;

pub mod api;

pub mod telemetry;

mod clock;
pub mod shutdown;

pub mod cli;
