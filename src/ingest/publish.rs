//! Publishes the jobs of new deliveries in the background, on two channels, and acknowledges their events when the broker
//! has confirmed the jobs, or they are left to schedule.
//!
//! Prompt jobs have their own channel and bound, so that the jobs of a greedy company, which can fill the other channel
//! with a whole window, never delay them.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use crate::{
    broker::{Destination, Fate, Outgoing, Publisher, Queue, Receipt, Window},
    model::{CompanyId, DeliveryId, Job, JobClass, id::BUCKETS, job::AGAIN_TIER},
    store::dispose,
};

use super::{IngestWorker, PUBLISHING_BATCHES_MAX, fair_share::FairShares};

/// One of the two ways.
#[derive(Clone)]
pub(super) struct Way {
    pub publisher: Publisher,
    /// The room in its queues.
    pub window: Window,
    /// Batches under way.
    batches: Arc<Semaphore>,
}

impl Way {
    pub(super) fn new(publisher: Publisher, window: Window) -> Self {
        Self { publisher, window, batches: Arc::new(Semaphore::new(PUBLISHING_BATCHES_MAX)) }
    }

    /// Starts counting the room of every queue, for callers that never wait for that.
    pub(super) async fn look(&self) {
        for bucket in 0..BUCKETS {
            self.window.room(bucket).await;
        }
    }
}

/// The jobs of a batch, by the way they go, and the receipts of its events.
#[derive(Default)]
pub(super) struct PendingJobs {
    pub ordinary: Vec<Job>,
    pub prompt: Vec<Job>,
    /// Jobs that may have been published before, and so must claim; they wait in a retry queue.
    pub again: Vec<Job>,
    pub receipts: Receipts,
}

impl PendingJobs {
    pub(super) fn of(&mut self, class: JobClass) -> &mut Vec<Job> {
        match class {
            JobClass::Prompt => &mut self.prompt,
            JobClass::Ordinary => &mut self.ordinary,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deliveries().next().is_none()
    }

    /// The deliveries that these jobs are for.
    pub(super) fn deliveries(&self) -> impl Iterator<Item = DeliveryId> {
        let jobs = self.ordinary.iter().chain(&self.prompt).chain(&self.again);
        jobs.flat_map(|job| &job.deliveries).map(|(delivery, _)| *delivery)
    }

    /// Acknowledges an event: at once if it has no jobs, else when all jobs of its batch have their fate.
    pub(super) fn acknowledge(&self, receipts: Vec<Receipt>, has_jobs: bool) {
        if has_jobs {
            self.receipts.add(receipts);
        } else {
            receipts.into_iter().for_each(Receipt::ack);
        }
    }
}

/// The receipts of a batch, shared by all that publish its jobs. The last of them to release them acknowledges.
#[derive(Clone, Default)]
pub(super) struct Receipts(Arc<Mutex<Vec<Receipt>>>);

impl Receipts {
    fn add(&self, receipts: Vec<Receipt>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(receipts);
    }

    /// Says that the caller's jobs have their fate.
    pub(super) fn release(self) {
        let Some(receipts) = Arc::into_inner(self.0) else { return };
        let receipts = receipts.into_inner().unwrap_or_else(PoisonError::into_inner);
        receipts.into_iter().for_each(Receipt::ack);
    }
}

impl IngestWorker {
    /// The class of the jobs of an event: prompt if, as far as is known, there is room for all of them in the prompt
    /// queue, and its company has not used up its share. Prompt ones count from now on. Nothing waits for room here:
    /// what finds none goes to the ordinary queue.
    pub(super) fn class_of(&self, company: CompanyId, bucket: u8, jobs: usize) -> JobClass {
        let window = &self.prompt.window;
        if window.room_known(bucket) >= jobs && self.shares().take(company, jobs, Instant::now()) {
            window.took(bucket, jobs);
            JobClass::Prompt
        } else {
            JobClass::Ordinary
        }
    }

    fn shares(&self) -> MutexGuard<'_, FairShares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes jobs in the background, the prompt ones first, and leaves `hints` without jobs. Whatever happens to
    /// them, the ledger knows what is owed: a returned job is left to schedule; one whose fate is unknown may be in its
    /// queue, and so is published again as one that claims.
    pub(super) async fn publish(&self, hints: &mut PendingJobs) {
        let Way { publisher, window, .. } = &self.prompt;
        let shard = |job: &Job| Queue::Prompt(window.shard(job.bucket()));
        let prompt = std::mem::take(&mut hints.prompt);
        let messages = publisher.encode(prompt.iter().map(|job| (job, Destination::Queue(shard(job)))));
        self.publish_by(&self.prompt, prompt, messages, &hints.receipts).await;
        let ordinary = std::mem::take(&mut hints.ordinary);
        for job in &ordinary {
            self.ordinary.window.took(job.bucket(), 1);
        }
        let messages = self.ordinary.publisher.encode(ordinary.iter().map(|job| (job, job.into())));
        self.publish_by(&self.ordinary, ordinary, messages, &hints.receipts).await;
        let again = std::mem::take(&mut hints.again);
        if !again.is_empty() {
            let (worker, receipts) = (self.clone(), hints.receipts.clone());
            self.shutdown.spawn(async move {
                worker.publish_again(again).await;
                receipts.release();
            });
        }
    }

    async fn publish_by(&self, way: &Way, jobs: Vec<Job>, messages: Vec<Outgoing>, receipts: &Receipts) {
        if jobs.is_empty() {
            return;
        }
        let Ok(permit) = Arc::clone(&way.batches).acquire_owned().await else { return };
        let (worker, publisher, receipts) = (self.clone(), way.publisher.clone(), receipts.clone());
        // The messages hold what the jobs carry.
        let jobs: Vec<Job> = jobs.into_iter().map(|job| Job { payload: None, ..job }).collect();
        self.shutdown.spawn(async move {
            let fates = publisher.publish(messages).await;
            drop(permit);
            if fates.iter().all(|fate| *fate == Fate::Confirmed) {
                receipts.release();
                return;
            }
            let (mut returned, mut doubtful) = (Vec::new(), Vec::new());
            for (job, fate) in jobs.into_iter().zip(fates) {
                match fate {
                    Fate::Confirmed => {}
                    Fate::Returned => {
                        returned.extend(job.deliveries.iter().map(|(delivery, _)| (*delivery, 1)));
                    }
                    Fate::Refused | Fate::Unknown => doubtful.extend(one_each(&job)),
                }
            }
            worker.unqueue(&returned).await;
            // The events are not held any longer: while the broker takes nothing, ingest goes on with the next ones.
            receipts.release();
            let again = worker.doubtful(doubtful).await;
            worker.publish_again(again).await;
        });
    }

    /// Publishes jobs that claim through a retry queue. What that does not take is left to schedule, not sooner than it
    /// would have come out of the queue.
    async fn publish_again(&self, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let publisher = &self.ordinary.publisher;
        let to = |job: &Job| Destination::Retry { tier: AGAIN_TIER, bucket: job.bucket() };
        let fates = publisher.publish(publisher.encode(jobs.iter().map(|job| (job, to(job))))).await;
        let lost: Vec<(DeliveryId, u32)> = (jobs.iter().zip(fates))
            .filter(|(_, fate)| *fate != Fate::Confirmed)
            .flat_map(|(job, _)| job.deliveries.iter().map(|(delivery, _)| (*delivery, 1)))
            .collect();
        if !lost.is_empty() {
            tokio::time::sleep(Duration::from_secs(AGAIN_TIER.seconds().into())).await;
            self.unqueue(&lost).await;
        }
    }

    async fn unqueue(&self, deliveries: &[(DeliveryId, u32)]) {
        if deliveries.is_empty() {
            return;
        }
        let unqueue = |pool| async move { dispose::unqueue(&pool, deliveries).await };
        // No row of ours can be bad here; if one is, its delivery is rescued.
        let _ = self.ledger.persist("ingest", unqueue).await;
    }
}

/// A job for each delivery of a job: only what carries a payload is for several.
fn one_each(job: &Job) -> impl Iterator<Item = Job> {
    job.deliveries.iter().map(|delivery| Job { deliveries: vec![*delivery], ..job.clone() })
}
