//! What finished attempts mean for their lanes, and who is notified of lanes that changed.
//!
//! The recorder asks here before it writes and reports here afterwards. In between, only the share of failures of
//! webhooks that failed lately is kept in memory; everything else about a lane is in the ledger.

use std::time::{Duration, Instant};

use super::attempt::Finished;
use crate::{
    model::{
        OutcomeClass, Trigger,
        breaker::{self, FailureRatios, Heard, Policy},
    },
    shutdown::Shutdown,
    store::{
        changes,
        ledger::Ledger,
        record_attempts::{LaneChanged, News},
    },
    telemetry::{Metrics, labels::LaneChange},
};

/// How outcomes are judged, and the shares of this worker.
pub(super) struct Outcomes {
    pub policy: Policy,
    retry_after_max: Duration,
    shares: FailureRatios,
}

impl Outcomes {
    pub(super) fn new(policy: Policy, retry_after_max: Duration) -> Self {
        Self { policy, retry_after_max, shares: FailureRatios::new(Instant::now()) }
    }

    /// What an attempt means for its lane. A test changes nothing.
    pub(super) fn hear(&mut self, finished: &Finished) -> Option<Heard> {
        let attempt = &finished.attempt;
        if attempt.trigger == Trigger::Test {
            return None;
        }
        let class = attempt.exchange.outcome.class();
        Some(Heard {
            company: attempt.company,
            event: attempt.event,
            operational: class != OutcomeClass::Accepted && attempt.event_type.is_reserved(),
            class,
            probe: finished.probe,
            rate_limited_for: attempt.exchange.rate_limited_for.map(|wait| wait.min(self.retry_after_max)),
            share: self.shares.note(
                attempt.webhook,
                finished.version,
                breaker::counts(class),
                Instant::now(),
            ),
        })
    }

    /// Counts and logs what changed, and wakes every cache in the background.
    pub(super) fn report(
        &mut self,
        lanes: Vec<LaneChanged>,
        ledger: &Ledger,
        metrics: &Metrics,
        shutdown: &Shutdown,
    ) {
        if lanes.is_empty() {
            return;
        }
        for LaneChanged { company, webhook, news } in &lanes {
            match news {
                News::Opened { reason, failing_since } => {
                    metrics.deliver_lane_changes.inc(LaneChange::Opened);
                    let since = failing_since.map(tracing::field::display);
                    tracing::warn!(%company, %webhook, since, reason, "the breaker of a lane opened");
                    self.shares.forget(*webhook);
                }
                News::Closed { opened_at } => {
                    metrics.deliver_lane_changes.inc(LaneChange::Closed);
                    let since = opened_at.map(tracing::field::display);
                    tracing::info!(%company, %webhook, since, "the breaker of a lane closed");
                    self.shares.forget(*webhook);
                }
                News::RateLimited { until } => {
                    metrics.deliver_lane_changes.inc(LaneChange::RateLimited);
                    let until = until.map(tracing::field::display);
                    tracing::info!(%company, %webhook, until, "the receiver asked to wait; its lane is rate-limited");
                }
            }
        }
        let pool = ledger.pool().clone();
        shutdown.spawn(async move {
            let changed: Vec<_> = lanes.iter().map(|lane| (lane.company, lane.webhook)).collect();
            if let Err(error) = changes::notify_all(&pool, &changed).await {
                tracing::debug!(%error, "caches were not notified of changed lanes; they refresh when they expire");
            }
        });
    }
}
