//! Records finished attempts in batches: commit, then publish the retries, then settle the jobs.
//!
//! A batch is whatever finished while the last one was written: under load batches grow by themselves; at a low rate each
//! attempt is recorded at once. In between, where a commit would carry few, the recorder waits a moment for more
//! (`linger.rs`): it is not on the way of an event.
//!
//! The same statement updates the lanes by the outcomes: it counts, opens, closes and rate-limits them. Caches are
//! notified of changes in the background; one that misses the notification learns of the change when its entry expires.
//!
//! An attempt that the ledger rejects is written without the texts that came from outside, so no request is ever sent
//! again because its record could not be written.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::{
    attempt::Finished,
    linger::{LINGER, Linger},
    outcomes::Outcomes,
    task::JobHandle,
};
use crate::{
    broker::{Destination, Fate, Publisher},
    model::{DeliveryId, Job, NextStep, RetryTier, Trigger, Wait, why},
    shutdown::Shutdown,
    store::{
        self, dead_letters, dispose,
        ledger::{Ledger, bisect},
        record_attempts::{self, After, AttemptRow, Becomes, Made, Recorded},
    },
    telemetry::{Metrics, labels::Step},
};

/// Attempts recorded in one statement.
pub const RECORD_BATCH_MAX: usize = 500;

/// The task that records.
pub(super) struct Recorder {
    pub finished: mpsc::UnboundedReceiver<Finished>,
    pub ledger: Ledger,
    pub publisher: Publisher,
    pub metrics: Metrics,
    pub shutdown: Shutdown,
    pub outcomes: Outcomes,
}

impl Recorder {
    /// Records until the worker has nothing left to finish.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        let mut linger = Linger::starting(Instant::now());
        while self.finished.recv_many(&mut batch, RECORD_BATCH_MAX).await > 0 {
            if linger.pays(batch.len(), Instant::now()) {
                tokio::time::sleep(LINGER).await;
                while batch.len() < RECORD_BATCH_MAX
                    && let Ok(finished) = self.finished.try_recv()
                {
                    batch.push(finished);
                }
            }
            linger.recorded(batch.len());
            self.record(std::mem::take(&mut batch)).await;
        }
    }

    async fn record(&mut self, mut batch: Vec<Finished>) {
        let size = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        self.metrics.record_batch_attempts.observe(f64::from(size));
        let outcomes = &mut self.outcomes;
        let rows: Vec<AttemptRow> = batch.iter_mut().map(|finished| row(finished, outcomes)).collect();
        let Recorded { deliveries: recorded, lanes } = self.write(&rows).await;
        self.outcomes.report(lanes, &self.ledger, &self.metrics, &self.shutdown);
        for finished in &mut batch {
            // Recorded: nothing can claim it any more.
            drop(finished.started.take());
            // A test does not count: its end is neither a success nor a loss.
            if finished.attempt.trigger != Trigger::Test {
                self.metrics.deliver_next_steps.inc(step(&finished.next));
            }
        }
        let missing = self.follow(batch, &recorded);
        if missing.is_empty() {
            return;
        }
        // The answer to a commit may have been lost with its connection; the statement was then sent again.
        let ours = self.recorded_before(&missing).await;
        let missing = self.follow(missing, &ours);
        if !missing.is_empty() {
            self.not_found(missing).await;
        }
    }

    /// Publishes the retries of recorded attempts and settles the jobs of the others; returns the attempts that are not
    /// recorded.
    fn follow(&self, batch: Vec<Finished>, recorded: &HashMap<DeliveryId, After>) -> Vec<Finished> {
        let mut retries = Vec::new();
        let mut missing = Vec::new();
        for finished in batch {
            match (recorded.get(&finished.attempt.delivery), &finished.next) {
                (Some(After { queued_at: Some(queued_at) }), NextStep::Retry { wait: Wait::Tier(tier) }) => {
                    retries.push(Retry {
                        job: retry(&finished, *queued_at),
                        tier: *tier,
                        handle: finished.handle,
                    });
                }
                (Some(_), next) => {
                    let is_test = finished.attempt.trigger == Trigger::Test;
                    let died = matches!(next, NextStep::DeadLetter { .. }) && !is_test;
                    finished.handle.settle(died);
                }
                (None, _) => missing.push(finished),
            }
        }
        self.publish(retries);
        missing
    }

    /// Those of these attempts that the ledger has, as they were made here.
    async fn recorded_before(&self, missing: &[Finished]) -> HashMap<DeliveryId, After> {
        let made: Vec<Made> = missing
            .iter()
            .map(|Finished { attempt, .. }| Made {
                delivery: attempt.delivery,
                number: attempt.number,
                attempted_at: attempt.started_at,
            })
            .collect();
        let made = &made;
        let found = self
            .ledger
            .persist("record", |pool| async move { record_attempts::recorded_before(&pool, made).await })
            .await;
        // A query has no bad rows.
        found.unwrap_or_default()
    }

    /// Writes rows, in halves where one is bad; a row that is bad alone is written without its texts.
    async fn write(&self, rows: &[AttemptRow]) -> Recorded {
        let policy = &self.outcomes.policy;
        let parts = bisect(rows, |part| {
            async move {
                self.ledger
                    .persist("record", |pool| async move {
                        record_attempts::record_attempts(&pool, part, policy).await
                    })
                    .await
            }
            .boxed()
        })
        .await;
        let mut recorded = Recorded::default();
        for (part, result) in parts {
            match result {
                Ok(changed) => recorded.join(changed),
                Err(bad) => {
                    self.metrics.record_retries.inc();
                    let bare = [part[0].clone().without_texts()];
                    tracing::warn!(%bad, delivery = %bare[0].delivery, "recorded an attempt without the response's texts");
                    let bare = &bare;
                    let again = self.ledger.persist("record", |pool| async move {
                        record_attempts::record_attempts(&pool, bare, policy).await
                    });
                    match again.await {
                        Ok(changed) => recorded.join(changed),
                        Err(bad) => {
                            tracing::error!(%bad, delivery = %bare[0].delivery, "an attempt cannot be recorded");
                        }
                    }
                }
            }
        }
        recorded
    }

    /// Publishes retries in the background and settles their jobs, whatever becomes of them: a retry that the broker
    /// does not confirm in time waits in the ledger instead.
    fn publish(&self, retries: Vec<Retry>) {
        if retries.is_empty() {
            return;
        }
        let (publisher, ledger) = (self.publisher.clone(), self.ledger.clone());
        self.shutdown.spawn(async move {
            let messages = publisher.encode(retries.iter().map(|Retry { job, tier, .. }| {
                (job, Destination::Retry { tier: *tier, bucket: job.bucket() })
            }));
            let fates = publisher.publish(messages).await;
            let lost: Vec<(DeliveryId, u32)> = retries
                .iter()
                .zip(fates)
                .filter(|(_, fate)| *fate != Fate::Confirmed)
                .flat_map(|(retry, _)| retry.job.deliveries.iter().map(|(id, _)| (*id, retry.job.attempt)))
                .collect();
            if !lost.is_empty() {
                let lost = &lost;
                // No row of ours can be bad here; if one is, its delivery is rescued.
                let _ =
                    ledger.persist("record", |pool| async move { dispose::unqueue(&pool, lost).await }).await;
            }
            for retry in &retries {
                retry.handle.settle(false);
            }
        });
    }

    /// Attempts whose row was not in the expected state: repeats of a recorded attempt, or deliveries that the ledger
    /// does not know because it was restored from a backup.
    async fn not_found(&self, missing: Vec<Finished>) {
        let ids: Vec<DeliveryId> = missing.iter().map(|finished| finished.attempt.delivery).collect();
        let ids = &ids;
        let known = self
            .ledger
            .persist("record", |pool| async move { record_attempts::count_repeats(&pool, ids).await })
            .await
            .unwrap_or_default();
        for finished in missing {
            if !known.contains(&finished.attempt.delivery) {
                tracing::error!(delivery = %finished.attempt.delivery, "an attempt was made for a delivery that is not in the ledger");
                let attempt = std::slice::from_ref(&finished.attempt);
                // Nothing in it comes from outside, so no row can be bad.
                let _ = self
                    .ledger
                    .persist("record", |pool| async move {
                        dead_letters::insert_unknown(&pool, attempt).await.map_err(store::Error::into_sqlx)
                    })
                    .await;
            }
            finished.handle.settle(false);
        }
    }
}

/// A retry on its way to a retry queue, and the job to be settled after it.
struct Retry {
    job: Job,
    tier: RetryTier,
    handle: Arc<JobHandle>,
}

/// The job for the next attempt; its claim reads what is to be sent.
fn retry(finished: &Finished, queued_at: chrono::DateTime<chrono::Utc>) -> Job {
    let job = &finished.handle.job;
    Job {
        company: job.company,
        event: job.event,
        event_type: job.event_type.clone(),
        deliveries: vec![(finished.attempt.delivery, finished.attempt.webhook)],
        attempt: finished.attempt.number + 1,
        queued_at,
        trigger: job.trigger,
        traceparent: job.traceparent.clone(),
        payload: None,
    }
}

/// The row of an attempt. Its texts are moved into it, because nothing reads them afterwards.
fn row(finished: &mut Finished, outcomes: &mut Outcomes) -> AttemptRow {
    let heard = outcomes.hear(finished);
    let Finished { attempt, next, .. } = finished;
    let exchange = &mut attempt.exchange;
    let body = exchange.response.as_mut().map(|response| std::mem::take(&mut response.body));
    let response = exchange.response.as_ref();
    let us = |phase: Duration| i32::try_from(phase.as_micros()).unwrap_or(i32::MAX);
    let phases = &exchange.phases;
    AttemptRow {
        delivery: attempt.delivery,
        number: attempt.number,
        webhook: attempt.webhook,
        becomes: match next {
            NextStep::Done => Becomes::Delivered,
            NextStep::Hold { why } => Becomes::Held { why: why.clone() },
            NextStep::Retry { wait: Wait::Tier(tier) } => {
                Becomes::Retried { wait: Duration::from_secs(tier.seconds().into()), queued: true }
            }
            NextStep::Retry { wait: Wait::Ledger(wait) } => Becomes::Retried { wait: *wait, queued: false },
            NextStep::DeadLetter { reason } => Becomes::Dead { reason: reason.as_str() },
        },
        attempted_at: attempt.started_at,
        outcome: exchange.outcome.class().as_str(),
        why: Some(text(why::of_outcome(&exchange.outcome).sentence)),
        url: Some(std::mem::take(&mut attempt.url)),
        address: exchange.address.map(|address| address.to_string()),
        request_head: Some(std::mem::take(&mut attempt.request_head)),
        response_status: response.map(|response| response.status.into()),
        response_head: response.map(|response| head(&response.headers)),
        response_body: body.map(|body| {
            text(
                String::from_utf8(body)
                    .unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()),
            )
        }),
        response_truncated: response.map(|response| response.truncated),
        repeated: exchange.repeated,
        phases_us: [
            phases.dns.map(us),
            phases.connect.map(us),
            phases.tls.map(us),
            phases.first_byte.map(us),
            Some(us(phases.total)),
        ],
        heard,
    }
}

/// Headers, a line each.
fn head(headers: &[(String, String)]) -> String {
    let mut head = String::with_capacity(headers.iter().map(|(n, v)| n.len() + v.len() + 3).sum());
    for (name, value) in headers {
        head.push_str(name);
        head.push_str(": ");
        head.push_str(&value.replace('\0', "\u{fffd}"));
        head.push('\n');
    }
    head
}

/// Text without the one character that PostgreSQL cannot hold.
fn text(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}

/// The next step, for the metrics.
fn step(next: &NextStep) -> Step {
    match next {
        NextStep::Done => Step::Done,
        NextStep::Retry { wait: Wait::Tier(_) } => Step::RetryQueue,
        NextStep::Retry { wait: Wait::Ledger(_) } => Step::RetryLedger,
        NextStep::DeadLetter { .. } => Step::Dead,
        NextStep::Hold { .. } => Step::Hold,
    }
}
