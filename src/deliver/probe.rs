//! Probes: while a breaker is open, one request at a time tries whether the receiver is back.
//!
//! The ledger leases the probe, so that only one of all workers sends it. The task that got the lease is handled like
//! any other. The recorder ends the lease with the outcome, and a probe that does not start returns it. After a crash
//! the lease expires.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};

use super::{
    DeliverWorker, PARKED_FOR,
    task::{ProbeLease, Task},
};
use crate::{
    model::{WebhookId, lane::May},
    store::lanes::{self, ProbeLeaseRequest as Answer},
    telemetry::labels::{ParkedFor, ProbeFate},
};

/// The shortest time between two requests of a worker for the probe of a webhook.
pub const ASK_EVERY: Duration = Duration::from_secs(1);

/// The webhooks whose probes were requested in the last [`ASK_EVERY`].
#[derive(Debug, Default)]
pub(super) struct ProbeRequests(Mutex<HashMap<WebhookId, Instant>>);

impl ProbeRequests {
    /// Whether to send a request now; if so, no other task sends one for a while.
    fn may_request(&self, webhook: WebhookId, now: Instant) -> bool {
        let mut requests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        requests.retain(|_, at| now.duration_since(*at) < ASK_EVERY);
        let first = !requests.contains_key(&webhook);
        requests.entry(webhook).or_insert(now);
        first
    }
}

impl DeliverWorker {
    /// Makes a task the probe if the ledger leases it; otherwise parks it.
    pub(super) fn probe(self: &Arc<Self>, task: Task, now: DateTime<Utc>) {
        if !self.probe_requests.may_request(task.known.webhook.id, Instant::now()) {
            self.park_until(&task, now, ParkedFor::Breaker);
            return;
        }
        let worker = Arc::clone(self);
        tokio::spawn(async move { worker.request_probe(task).await });
    }

    async fn request_probe(self: &Arc<Self>, mut task: Task) {
        let webhook = task.known.webhook.id;
        let lease = self.timeout(&task) + self.lease_margin;
        let answer = self
            .ledger
            .persist("probe", |pool| async move { lanes::lease_probe(&pool, webhook, lease).await })
            .await;
        let (standing, leased_until) = match answer {
            Ok(Answer::Granted { until }) => {
                self.metrics.deliver_probes.inc(ProbeFate::Leased);
                let (ledger, metrics) = (self.ledger.clone(), self.metrics.clone());
                task.probe = Some(ProbeLease::new(ledger, webhook, until, metrics));
                self.offer(task);
                self.start_what_may();
                return;
            }
            Ok(Answer::Refused { standing, leased_until }) => (standing, leased_until),
            Err(bad) => {
                // Nothing here comes from outside; if it is rejected all the same, the job comes back.
                tracing::error!(%bad, "the ledger rejected the lease of a probe");
                return;
            }
        };
        self.metrics.deliver_probes.inc(ProbeFate::Refused);
        let now = self.clock.now();
        match standing.may(now) {
            May::Start => {
                self.offer(task);
                self.start_what_may();
            }
            May::Wait(until) => self.park_until(&task, until, standing.why_not(now).into()),
            // Another task has it. Its outcome will most likely be known before its lease ends.
            May::Probe => {
                let soon = now + super::pace::delta(PARKED_FOR);
                let until = leased_until.map_or(soon, |until| until.min(soon));
                self.park_until(&task, until, ParkedFor::Breaker);
            }
        }
    }
}
