//! Carries XTSystems' domain events to the HTTP servers of customers: signed, retried, recorded, replayable.
//!
//! **A job is only a hint; the ledger decides whether a request may start, and it holds whatever cannot start soon.**
//!
//! The way of an event, and the module that takes each step:
//!
//! 1. **Publish.** XTSystems publishes a message to a topic exchange. The queue of events holds it ([`broker`]).
//! 2. **Ingest** ([`ingest`]) decodes the message ([`model::envelope`]), asks a cache which webhooks of the company want
//!    the event ([`model::subscription`]), and writes the event and one delivery for each of those webhooks in one
//!    statement ([`store::ingest_batch`]). After the commit it publishes jobs, and acknowledges the message when the
//!    broker has confirmed them.
//! 3. **Jobs.** A job ([`model::job`]) names deliveries of one event and carries the event's `data` and time. It waits in
//!    a deliveries queue, or in a prompt queue while its company has few jobs. A lost job costs time, never a delivery.
//! 4. **Deliver** ([`deliver`]) consumes the job and checks the present state of each webhook: a paused webhook holds its
//!    deliveries, a deleted one cancels them, a lane that lets nothing start parks them in the ledger ([`model::lane`]).
//!    An admitted delivery waits in its lane for a permit and, if the webhook has a rate limit, for a slot
//!    ([`store::lanes`]). A fresh job starts at once; any other job must claim its delivery first ([`store::claim`]).
//! 5. **Attempt.** Body and headers are made of the payload ([`model::payload`]) and signed ([`model::request`],
//!    [`model::signature`]). [`egress`] resolves the host, checks the address, connects and posts. The result is an
//!    outcome ([`model::outcome`]), never an error. The retry policy turns it into the next step
//!    ([`model::retry_policy`], [`model::next_step`]).
//! 6. **Record.** Attempts and next steps are committed in batches ([`store::record_attempts`]); the same statement
//!    updates the lane and its breaker ([`model::breaker`]). Then the job is acknowledged.
//! 7. **Retry.** A short wait is spent in a retry queue. Every other wait is in the ledger, and [`schedule`] makes a job
//!    when it is due and its lane has room. It does the same for deliveries that were held, that are replayed, and whose
//!    job was lost. It also publishes operational events ([`model::operational`]).
//! 8. **Dead letter.** A delivery that is given up becomes *dead*, and in the same statement a trigger of the ledger
//!    writes its dead letter. [`dead_letter`] stores the messages that the broker dead-letters, or puts a message that
//!    may end its workers into quarantine, where it is tried alone.
//! 9. **Replay.** An order in `replays` makes new deliveries of old events ([`model::replay`]); [`schedule`] expands it
//!    at its rate.
//! 10. [`prune`] creates the partitions of the coming days, drops those past the retention, and erases companies. [`api`]
//!     is where companies manage webhooks, publish events and read the history.
//!
//! `docs/architecture.md` says the same in more detail, with a glossary, the states and the guarantees. A stage never
//! imports another: stages meet in queues, tables and [`model`].

// A module is public only where tests or benchmarks need it, so that the compiler reports everything else that is unused.

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
