//! A job that a worker holds until each of its deliveries is settled or parked.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{consume::WaitGuard, session::Started, slow::JobNumber, webhooks::CachedWebhook};
use crate::{
    broker::Receipt,
    model::{DeliveryId, Job, JobClass, WebhookId},
    store::{lanes, ledger::Ledger},
    telemetry::{Metrics, labels::ProbeFate},
};

/// A job that is not settled yet.
pub(super) struct JobHandle {
    pub job: Job,
    /// Identifies it among the worker's jobs.
    pub number: JobNumber,
    pub class: JobClass,
    /// Whether the broker handed it out before.
    redelivered: bool,
    open: AtomicUsize,
    died: AtomicBool,
    receipt: Mutex<Option<Receipt>>,
}

impl JobHandle {
    pub(super) fn new(
        job: Job,
        number: JobNumber,
        class: JobClass,
        redelivered: bool,
        receipt: Receipt,
    ) -> Arc<Self> {
        Arc::new(Self {
            number,
            class,
            redelivered,
            open: AtomicUsize::new(job.deliveries.len()),
            died: AtomicBool::new(false),
            receipt: Mutex::new(Some(receipt)),
            job,
        })
    }

    /// Whether this is the job's first way through the broker.
    pub(super) fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// Whether the request may start without asking the ledger: the job brings its payload, comes straight from the
    /// ingest that wrote its row, for the first time, and is too young to have been rescued.
    pub(super) fn is_fresh(&self, now: DateTime<Utc>, fresh_max: TimeDelta) -> bool {
        !self.redelivered
            && self.job.attempt == 1
            && self.job.payload.is_some()
            && now - self.job.queued_at <= fresh_max
            && self.is_ours()
    }

    /// Whether the job is still ours: if the connection was lost, the broker has handed it to another worker.
    fn is_ours(&self) -> bool {
        self.receipt.lock().is_ok_and(|receipt| receipt.as_ref().is_some_and(Receipt::is_open))
    }

    /// One of its deliveries no longer needs this job. With the last one the job is acknowledged, or rejected if one
    /// was given up, so that the broker dead-letters it.
    pub(super) fn settle(&self, died: bool) {
        if died {
            self.died.store(true, Ordering::Release);
        }
        if self.open.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let receipt = self.receipt.lock().ok().and_then(|mut receipt| receipt.take());
        match receipt {
            Some(receipt) if self.died.load(Ordering::Acquire) => receipt.reject(),
            Some(receipt) => receipt.ack(),
            None => {}
        }
    }
}

/// One delivery of a job on its way through the worker.
pub(super) struct Task {
    pub handle: Arc<JobHandle>,
    pub delivery: DeliveryId,
    pub known: Arc<CachedWebhook>,
    /// Counts it while it waits in its lane.
    pub waits: Option<WaitGuard>,
    /// Its slot, if its lane has a pace and it has got one.
    pub slot: Option<DateTime<Utc>>,
    /// Set if this is the probe of an open breaker.
    pub probe: Option<ProbeLease>,
    /// Set if its request began without a claim.
    pub started: Option<Started>,
}

/// A leased probe. If it is dropped before it is spent, it is returned.
pub(super) struct ProbeLease {
    ledger: Ledger,
    webhook: WebhookId,
    until: DateTime<Utc>,
    metrics: Metrics,
    spent: bool,
}

impl ProbeLease {
    pub(super) fn new(ledger: Ledger, webhook: WebhookId, until: DateTime<Utc>, metrics: Metrics) -> Self {
        Self { ledger, webhook, until, metrics, spent: false }
    }

    /// The request was made: its outcome ends the lease.
    pub(super) fn spend(mut self) {
        self.spent = true;
    }
}

impl Drop for ProbeLease {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and the lease expires.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.spent {
            return;
        }
        let (pool, webhook, until) = (self.ledger.pool().clone(), self.webhook, self.until);
        self.metrics.deliver_probes.inc(ProbeFate::Returned);
        runtime.spawn(async move {
            if let Err(error) = lanes::release_probe(&pool, webhook, until).await {
                tracing::debug!(%error, %webhook, "a probe was not returned; its lease will expire");
            }
        });
    }
}
