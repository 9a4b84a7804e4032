//! Every metric of the service: its name, its unit and its help, in one place.
//!
//! A name starts with `xtwebhooks_` and the stage it belongs to. Stages get a [`Metrics`] and add to its fields;
//! `probes` serves it as OpenMetrics text.

use std::{hash::Hash, ops::Deref, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::labels::{
    AnnouncementFate, ConnectionKind, DeadLetterKind, Emptied, Fate, Intake, JobResult, LaneChange,
    ParkedFor, PartitionAction, ProbeFate, QueueKind, Queued, SlotFate, StatusClass, Step, TRIGGERS,
};
use crate::model::{OutcomeClass, Trigger};

/// Bounds of the buckets of a duration in seconds: from one local round trip to the longest timeout.
const SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Bounds of the buckets of a batch's size in rows.
const ROWS: [f64; 11] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// A counter for each value of a closed set of labels.
#[derive(Clone, Debug)]
pub struct Counts<L: Copy + Hash + Eq>(Family<L, Counter>);

impl<L: Copy + Hash + Eq> Counts<L> {
    /// Adds one.
    pub fn inc(&self, label: L) {
        self.add(label, 1);
    }

    /// Adds so many.
    pub fn add(&self, label: L, count: usize) {
        self.0.get_or_create(&label).inc_by(count as u64);
    }

    /// How many so far.
    pub fn get(&self, label: L) -> u64 {
        self.0.get_or_create(&label).get()
    }
}

/// A gauge that is 1 or 0.
#[derive(Clone, Debug, Default)]
pub struct Flag(gauge::Gauge);

impl Flag {
    /// Sets it to 1 or 0.
    pub fn set(&self, holds: bool) {
        self.0.set(i64::from(holds));
    }
}

/// A gauge of a number of things.
pub type Gauge = gauge::Gauge;

/// A gauge for each value of a closed set of labels.
#[derive(Clone, Debug)]
pub struct Gauges<L: Copy + Hash + Eq>(Family<L, Gauge>);

impl<L: Copy + Hash + Eq> Gauges<L> {
    /// Sets this one to 1 or 0.
    pub fn set(&self, label: L, holds: bool) {
        self.0.get_or_create(&label).set(i64::from(holds));
    }
}

/// A gauge of seconds.
pub type Seconds = gauge::Gauge<f64, AtomicU64>;

/// A histogram of seconds for each class of outcome.
#[derive(Clone, Debug)]
pub struct Timings(Family<OutcomeClass, Histogram, fn() -> Histogram>);

impl Timings {
    /// Records one duration.
    pub fn observe(&self, outcome: OutcomeClass, took: Duration) {
        self.0.get_or_create(&outcome).observe(took.as_secs_f64());
    }
}

/// Requests to the API, by route and by class of status. Routes are those of the router, so there are no more series
/// than it has.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ApiRequest {
    /// The route, with the names of its parameters.
    route: String,
    method: String,
    /// The class of the answer's status.
    status: &'static str,
}

/// The handles of every metric, as fields; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

impl Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What [`Metrics`] is made of.
#[derive(Debug)]
pub struct Families {
    registry: Registry,
    /// `ingest_messages_total`
    pub ingest_messages: Counts<Intake>,
    /// `ingest_batch_events`
    pub ingest_batch_events: Histogram,
    /// `ingest_deliveries_total`
    pub ingest_deliveries: Counts<Queued>,
    /// `deliver_attempts_total`
    pub deliver_attempts: Counts<(OutcomeClass, Trigger)>,
    /// `deliver_attempt_seconds`
    pub deliver_attempt_seconds: Timings,
    /// `deliver_in_flight`
    pub deliver_in_flight: Gauge,
    /// `deliver_jobs_total`
    pub deliver_jobs: Counts<JobResult>,
    /// `deliver_parked_total`
    pub deliver_parked: Counts<ParkedFor>,
    /// `deliver_slots_total`
    pub deliver_slots: Counts<SlotFate>,
    /// `deliver_probes_total`
    pub deliver_probes: Counts<ProbeFate>,
    /// `deliver_next_steps_total`
    pub deliver_next_steps: Counts<Step>,
    /// `deliver_lane_changes_total`
    pub deliver_lane_changes: Counts<LaneChange>,
    /// `record_batch_attempts`
    pub record_batch_attempts: Histogram,
    /// `record_retries_total`
    pub record_retries: Counter,
    /// `schedule_jobs_total`
    pub schedule_jobs: Counter,
    /// `schedule_rescued_total`
    pub schedule_rescued: Counter,
    /// `schedule_waiting`
    pub schedule_waiting: Gauge,
    /// `schedule_round_seconds`
    pub schedule_round_seconds: Histogram,
    /// `schedule_announced_total`
    pub schedule_announced: Counts<AnnouncementFate>,
    /// `schedule_recoveries_total`
    pub schedule_recoveries: Counter,
    /// `schedule_auto_paused_total`
    pub schedule_auto_paused: Counter,
    /// `schedule_active`
    pub schedule_active: Flag,
    /// `watermark_age_seconds`
    pub watermark_age_seconds: Seconds,
    /// `dead_letter_stored_total`
    pub dead_letter_stored: Counts<DeadLetterKind>,
    /// `prune_partitions_total`
    pub prune_partitions: Counts<PartitionAction>,
    /// `prune_emptied_total`
    pub prune_emptied: Counts<Emptied>,
    /// `api_requests_total`
    api_requests: Family<ApiRequest, Counter>,
    /// `api_request_seconds`
    api_request_seconds: Histogram,
    /// What the connections to RabbitMQ did; given to them when they are opened.
    pub broker: BrokerMetrics,
    /// `ledger_failing`
    pub ledger_failing: Flag,
    /// `clock_offset_seconds`
    pub clock_offset_seconds: Seconds,
}

/// What the connections to the broker did; clones share what they count.
#[derive(Clone, Debug)]
pub struct BrokerMetrics {
    /// `broker_published_total`
    pub published: Counts<(QueueKind, Fate)>,
    /// `broker_consumed_total`
    pub consumed: Counter,
    /// `broker_reconnects_total`
    pub reconnects: Counter,
    /// `broker_connected`
    pub connected: Gauges<ConnectionKind>,
    /// `broker_blocked`
    pub blocked: Gauge,
}

impl Metrics {
    /// Every metric at zero, with every series present from the start.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one line or two for each metric")]
    pub fn new() -> Self {
        let mut names = Names(Registry::with_prefix("xtwebhooks"));
        let families = Families {
            ingest_messages: names.counts(
                "ingest_messages",
                "Messages consumed from the queue of events, by result",
                Intake::ALL,
            ),
            ingest_batch_events: names.histogram(
                "ingest_batch_events",
                "Events committed in one statement",
                ROWS,
            ),
            ingest_deliveries: names.counts(
                "ingest_deliveries",
                "Deliveries created by ingest, by where their first attempt waits",
                Queued::ALL,
            ),
            deliver_attempts: names.counts(
                "deliver_attempts",
                "Requests to receivers, by outcome and trigger",
                &pairs(&OutcomeClass::ALL, TRIGGERS),
            ),
            deliver_attempt_seconds: names
                .timings("deliver_attempt", "Time from the start of a request to its end, by outcome"),
            deliver_in_flight: names.gauge("deliver_in_flight", "Requests in flight"),
            deliver_jobs: names.counts("deliver_jobs", "Deliveries found in jobs, by result", JobResult::ALL),
            deliver_parked: names.counts(
                "deliver_parked",
                "Deliveries parked in the ledger without an attempt, by reason",
                ParkedFor::ALL,
            ),
            deliver_slots: names.counts(
                "deliver_slots",
                "Slots of paced lanes, by what became of them",
                SlotFate::ALL,
            ),
            deliver_probes: names.counts(
                "deliver_probes",
                "Probes of open breakers that workers requested, by what became of them",
                ProbeFate::ALL,
            ),
            deliver_next_steps: names.counts("deliver_next_steps", "Next steps after attempts", Step::ALL),
            deliver_lane_changes: names.counts(
                "deliver_lane_changes",
                "Changes of lanes caused by outcomes: opened, closed or rate-limited",
                LaneChange::ALL,
            ),
            record_batch_attempts: names.histogram(
                "record_batch_attempts",
                "Attempts recorded in one statement",
                ROWS,
            ),
            record_retries: names
                .counter("record_retries", "Batches of attempts that had to be written again"),
            schedule_jobs: names
                .counter("schedule_jobs", "Jobs made for deliveries that waited in the ledger"),
            schedule_rescued: names
                .counter("schedule_rescued", "Deliveries rescued because their job was lost"),
            schedule_waiting: names.gauge(
                "schedule_waiting",
                "Webhooks with a backlog, whose new deliveries wait in the ledger for schedule",
            ),
            schedule_round_seconds: names.histogram(
                "schedule_round_seconds",
                "How long a round took that makes jobs of what is due",
                SECONDS,
            ),
            schedule_announced: names.counts(
                "schedule_announced",
                "Operational events, by result",
                AnnouncementFate::ALL,
            ),
            schedule_recoveries: names
                .counter("schedule_recoveries", "Recoveries started because an outage ended"),
            schedule_auto_paused: names
                .counter("schedule_auto_paused", "Webhooks paused because they failed for too long"),
            schedule_active: names
                .flag("schedule_active", "1 in the process whose schedule role is active, else 0"),
            watermark_age_seconds: names.seconds(
                "watermark_age",
                "Age of the latest watermark that has passed every deliveries queue",
            ),
            dead_letter_stored: names.counts(
                "dead_letter_stored",
                "Dead letters stored, by kind",
                DeadLetterKind::ALL,
            ),
            prune_partitions: names.counts(
                "prune_partitions",
                "Partitions created ahead and dropped",
                PartitionAction::ALL,
            ),
            prune_emptied: names.counts(
                "prune_emptied",
                "Rows emptied or removed before their day was dropped, by kind",
                Emptied::ALL,
            ),
            api_requests: names
                .family("api_requests", "Requests to the API, by route, method and class of status"),
            api_request_seconds: names.histogram(
                "api_request_seconds",
                "Time from the head of an API request to its response",
                SECONDS,
            ),
            broker: BrokerMetrics {
                published: names.counts(
                    "broker_published",
                    "Messages published, by kind of queue and what the broker did with them",
                    &pairs(QueueKind::ALL, Fate::ALL),
                ),
                consumed: names.counter("broker_consumed", "Messages delivered to stages"),
                reconnects: names
                    .counter("broker_reconnects", "Connections to the broker that were lost or failed"),
                connected: names.gauges(
                    "broker_connected",
                    "1 while connected to the broker, else 0",
                    ConnectionKind::ALL,
                ),
                blocked: names
                    .gauge("broker_blocked", "Connections that the broker currently blocks from publishing"),
            },
            ledger_failing: names.flag("ledger_failing", "1 while the ledger accepts no commits, else 0"),
            clock_offset_seconds: names
                .seconds("clock_offset", "Difference between this machine's clock and the database's"),
            registry: names.0,
        };
        Self(Arc::new(families))
    }

    /// Records an answer of the API.
    pub fn api_request(&self, route: &str, method: &str, status: StatusClass, took: Duration) {
        let labels =
            ApiRequest { route: route.to_owned(), method: method.to_owned(), status: status.as_str() };
        self.api_requests.get_or_create(&labels).inc();
        self.api_request_seconds.observe(took.as_secs_f64());
    }

    /// The whole as OpenMetrics text.
    ///
    /// # Panics
    /// Never: writing to a string cannot fail.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}

fn pairs<A: Copy, B: Copy>(a: &[A], b: &[B]) -> Vec<(A, B)> {
    a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b))).collect()
}

/// The registry while it is filled. OpenMetrics puts `_total` behind a counter's name and the unit behind any.
struct Names(Registry);

impl Names {
    fn counts<L>(&mut self, name: &str, help: &str, labels: &[L]) -> Counts<L>
    where
        L: Copy + Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
    {
        let family = Family::<L, Counter>::default();
        for label in labels {
            drop(family.get_or_create(label));
        }
        self.0.register(name, help, family.clone());
        Counts(family)
    }

    fn family(&mut self, name: &str, help: &str) -> Family<ApiRequest, Counter> {
        let family = Family::default();
        self.0.register(name, help, family.clone());
        family
    }

    fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.0.register(name, help, counter.clone());
        counter
    }

    fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.0.register(name, help, gauge.clone());
        gauge
    }

    fn gauges<L>(&mut self, name: &str, help: &str, labels: &[L]) -> Gauges<L>
    where
        L: Copy + Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
    {
        let family = Family::<L, Gauge>::default();
        for label in labels {
            drop(family.get_or_create(label));
        }
        self.0.register(name, help, family.clone());
        Gauges(family)
    }

    fn flag(&mut self, name: &str, help: &str) -> Flag {
        Flag(self.gauge(name, help))
    }

    fn seconds(&mut self, name: &str, help: &str) -> Seconds {
        let gauge = Seconds::default();
        self.0.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        gauge
    }

    fn histogram(&mut self, name: &str, help: &str, bounds: impl IntoIterator<Item = f64>) -> Histogram {
        let histogram = Histogram::new(bounds);
        self.0.register(name, help, histogram.clone());
        histogram
    }

    fn timings(&mut self, name: &str, help: &str) -> Timings {
        let family = Family::new_with_constructor((|| Histogram::new(SECONDS)) as fn() -> Histogram);
        for outcome in &OutcomeClass::ALL {
            drop(family.get_or_create(outcome));
        }
        self.0.register_with_unit(name, help, Unit::Seconds, family.clone());
        Timings(family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_is_there_before_anything_has_happened() {
        let text = Metrics::new().encode();
        let check = |line: &str| assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        check(r#"xtwebhooks_ingest_messages_total{result="committed"} 0"#);
        check(r#"xtwebhooks_broker_published_total{queue="dead_letters",fate="refused"} 0"#);
        check(r#"xtwebhooks_deliver_attempts_total{outcome="server_error",trigger="replay"} 0"#);
        check(r#"xtwebhooks_deliver_attempt_seconds_count{outcome="timed_out"} 0"#);
        check(r#"xtwebhooks_deliver_attempt_seconds_bucket{le="60.0",outcome="cut"} 0"#);
        check("xtwebhooks_deliver_in_flight 0");
        check("xtwebhooks_record_retries_total 0");
        check(r#"xtwebhooks_broker_connected{connection="publish"} 0"#);
        check("xtwebhooks_clock_offset_seconds 0.0");
    }

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.ingest_messages.add(Intake::Repeated, 3);
        metrics.deliver_attempts.inc((OutcomeClass::Gone, Trigger::Event));
        metrics.schedule_active.set(true);
        metrics.clone().broker.connected.set(ConnectionKind::Consume, true);
        let text = metrics.encode();
        assert!(text.contains("xtwebhooks_ingest_messages_total{result=\"repeated\"} 3\n"), "{text}");
        assert!(text.contains("outcome=\"gone\",trigger=\"event\"} 1\n"), "{text}");
        assert!(text.contains("xtwebhooks_schedule_active 1\n"), "{text}");
        assert!(text.contains("{connection=\"consume\"} 1\n"), "{text}");
        assert_eq!(metrics.ingest_messages.get(Intake::Repeated), 3);
    }
}
