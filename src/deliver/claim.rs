//! Claims deliveries in the ledger for jobs that are not fresh, in batches of whatever has arrived.

use std::{
    sync::{
        Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::{DeliverWorker, Permit, attempt, task::Task};
use crate::{
    model::DeliveryId,
    shutdown::Shutdown,
    store::{
        claim::{self, ClaimAnswer, Question},
        dispose::{self, Disposition},
        ledger::{BadRow, Ledger},
    },
    telemetry::labels::{JobResult, ParkedFor},
};

/// The most claims in one statement.
pub const CLAIM_BATCH_MAX: usize = 200;

type ClaimRequest = (Task, Permit);

/// A task whose job has nothing more to do, and why schedule makes the next one.
enum LeftToSchedule {
    /// Another task has claimed the delivery, or did so before it died.
    Claim(Task),
    /// The attempt is recorded, and its retry may never have been published.
    Retry(Task),
}

/// The way to the task that asks. What waits here has a permit in a lane, and so a bound.
pub(super) struct Claims(mpsc::UnboundedSender<ClaimRequest>);

impl Claims {
    pub(super) fn start(worker: Weak<DeliverWorker>, ledger: Ledger, shutdown: &Shutdown) -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        shutdown.spawn(claim_batches(worker, ledger, requests));
        Self(sender)
    }

    /// Claims for a task, which starts as soon as the claim is granted.
    pub(super) fn send(&self, task: Task, permit: Permit) {
        // The task lives as long as this sender.
        let _ = self.0.send((task, permit));
    }
}

async fn claim_batches(
    worker: Weak<DeliverWorker>,
    ledger: Ledger,
    mut requests: mpsc::UnboundedReceiver<ClaimRequest>,
) {
    let mut batch = Vec::new();
    while requests.recv_many(&mut batch, CLAIM_BATCH_MAX).await > 0 {
        let Some(worker) = worker.upgrade() else { return };
        // Two jobs for one delivery in a batch: the second claims with the next batch, when the first holds the claim.
        batch.sort_unstable_by_key(|(task, _)| task.delivery);
        let mut again = Vec::new();
        let mut last = None;
        for request in batch.drain(..) {
            let delivery = request.0.delivery;
            if last == Some(delivery) {
                worker.claims.send(request.0, request.1);
            } else {
                last = Some(delivery);
                again.push(request);
            }
        }
        worker.claim(&ledger, again).await;
    }
}

impl DeliverWorker {
    async fn claim(self: &std::sync::Arc<Self>, ledger: &Ledger, requests: Vec<ClaimRequest>) {
        let requests = self.without_own(requests);
        if requests.is_empty() {
            return;
        }
        let questions: Vec<Question> = requests
            .iter()
            .map(|(task, _)| Question {
                delivery: task.delivery,
                attempt: task.handle.job.attempt,
                lease: self.timeout(task) + self.lease_margin,
            })
            .collect();
        let (questions, session) = (&questions, self.session.id);
        let began = Instant::now();
        let tries = AtomicU32::new(0);
        let ask = |pool| {
            tries.fetch_add(1, Ordering::Relaxed);
            async move { claim::claim(&pool, questions, session).await }.boxed()
        };
        let answers = ledger.persist("claim", ask).await;
        let again = tries.load(Ordering::Relaxed) > 1;
        self.pacing.claimed_within(began.elapsed());
        let answers = match answers {
            Ok(answers) => answers,
            Err(bad) => {
                // Nothing in a claim comes from outside; if it is rejected all the same, the jobs come back.
                tracing::error!(%bad, "the ledger rejected a claim query");
                return;
            }
        };
        let (mut leased, mut recorded) = (Vec::new(), Vec::new());
        for ((task, permit), answer) in requests.into_iter().zip(answers) {
            debug_assert_eq!(task.delivery, answer.delivery, "answers come in the order of the questions");
            match self.answered(task, permit, answer.answer, again) {
                None => {}
                Some(LeftToSchedule::Claim(task)) => leased.push(task),
                Some(LeftToSchedule::Retry(task)) => recorded.push(task),
            }
        }
        self.leave_retries(ledger, recorded).await;
        if leased.is_empty() {
            return;
        }
        let waits: Vec<(DeliveryId, u32)> =
            leased.iter().map(|t| (t.delivery, t.handle.job.attempt)).collect();
        let waits = &waits;
        let parked: Result<(), BadRow> = ledger
            .persist("claim", |pool| async move { dispose::await_lease(&pool, waits, session).await })
            .await;
        if parked.is_ok() {
            for task in &leased {
                task.handle.settle(false);
            }
        }
    }

    /// Drops the jobs of first attempts that began here without a claim and are not recorded: each is a second job, and the
    /// first one is still held. While the ledger is away nothing else would tell so.
    fn without_own(&self, requests: Vec<ClaimRequest>) -> Vec<ClaimRequest> {
        let is_own = |task: &Task| {
            task.handle.job.attempt == 1
                && !task.handle.redelivered()
                && self.session.has_started(task.delivery)
        };
        let (own, others): (Vec<ClaimRequest>, Vec<ClaimRequest>) =
            requests.into_iter().partition(|(task, _)| is_own(task));
        for (task, _) in own {
            task.handle.settle(false);
            self.metrics.deliver_jobs.inc(JobResult::Busy);
        }
        others
    }

    /// Leaves retries to schedule whose worker may have died before it published them. If it did publish one, there are
    /// two jobs, of which one is granted the claim.
    async fn leave_retries(&self, ledger: &Ledger, recorded: Vec<Task>) {
        if recorded.is_empty() {
            return;
        }
        let next: Vec<(DeliveryId, u32)> =
            recorded.iter().map(|t| (t.delivery, t.handle.job.attempt + 1)).collect();
        let next = &next;
        let left: Result<(), BadRow> =
            ledger.persist("claim", |pool| async move { dispose::unqueue(&pool, next).await }).await;
        if left.is_ok() {
            for task in &recorded {
                task.handle.settle(false);
            }
        }
    }

    /// Acts on the ledger's answer. A task is returned if schedule must take its delivery over. `again` says that the
    /// claim was sent before and its answer was lost.
    fn answered(
        self: &std::sync::Arc<Self>,
        task: Task,
        permit: Permit,
        answer: ClaimAnswer,
        again: bool,
    ) -> Option<LeftToSchedule> {
        let (handle, delivery) = (&task.handle, task.delivery);
        let result = match answer {
            ClaimAnswer::Granted { payload, traceparent } => {
                let Some(payload) = payload else {
                    self.dispositions.send(handle, delivery, Disposition::Expired, true);
                    self.metrics.deliver_jobs.inc(JobResult::Superseded);
                    return None;
                };
                self.metrics.deliver_jobs.inc(JobResult::Claimed);
                tokio::spawn(attempt::attempt(task, payload, traceparent, permit, true));
                return None;
            }
            // Whoever had this job died with it, after the commit and perhaps before the retry was published.
            ClaimAnswer::Recorded if handle.redelivered() => {
                self.metrics.deliver_jobs.inc(JobResult::Superseded);
                return Some(LeftToSchedule::Retry(task));
            }
            ClaimAnswer::Superseded | ClaimAnswer::Recorded => {
                handle.settle(false);
                JobResult::Superseded
            }
            // The lost answer may be that of a statement that was still committing: then the second one found its row
            // locked, and does not see the claim it waited for. What is really not yet due waits in the ledger as well.
            ClaimAnswer::NotYetDue if again => {
                self.metrics.deliver_jobs.inc(JobResult::Busy);
                return Some(LeftToSchedule::Claim(task));
            }
            ClaimAnswer::NotYetDue => {
                self.metrics.deliver_parked.inc(ParkedFor::NotDue);
                self.dispositions.send(handle, delivery, Disposition::Parked(Duration::ZERO), false);
                JobResult::Parked
            }
            // The holder of the claim may have died with this job, or the claim is our own, granted by an answer that
            // was lost with its connection: then only schedule will ask again.
            ClaimAnswer::Claimed if again || handle.redelivered() => {
                self.metrics.deliver_jobs.inc(JobResult::Busy);
                return Some(LeftToSchedule::Claim(task));
            }
            ClaimAnswer::Claimed => {
                handle.settle(false);
                JobResult::Busy
            }
        };
        self.metrics.deliver_jobs.inc(result);
        None
    }

    /// How long an attempt of this task may take.
    pub(super) fn timeout(&self, task: &Task) -> Duration {
        task.known.webhook.settings.timeout().min(self.timeout_max)
    }
}
