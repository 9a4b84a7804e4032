//! Publishes the jobs of new deliveries in the background, on two channels.
//!
//! Prompt jobs have their own channel and bound, so that the jobs of a greedy company, which can fill the other channel
//! with a whole window, never delay them.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Semaphore;

use crate::{
    broker::{Destination, Fate, Outgoing, Publisher, Queue, Window},
    model::{CompanyId, DeliveryId, Job, JobClass, id::BUCKETS},
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

/// The jobs of a batch, by the way they go.
#[derive(Default)]
pub(super) struct PendingJobs {
    pub ordinary: Vec<Job>,
    pub prompt: Vec<Job>,
}

impl PendingJobs {
    pub(super) fn of(&mut self, class: JobClass) -> &mut Vec<Job> {
        match class {
            JobClass::Prompt => &mut self.prompt,
            JobClass::Ordinary => &mut self.ordinary,
        }
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

    /// Publishes jobs in the background, the prompt ones first. Whatever happens to them, the ledger knows what is
    /// owed: a returned job is left to schedule; one whose fate is unknown may be in its queue, and if it is not, its
    /// delivery is rescued.
    pub(super) async fn publish(&self, hints: PendingJobs) {
        let PendingJobs { ordinary, prompt } = hints;
        let Way { publisher, window, .. } = &self.prompt;
        let shard = |job: &Job| Queue::Prompt(window.shard(job.bucket()));
        let messages = publisher.encode(prompt.iter().map(|job| (job, Destination::Queue(shard(job)))));
        self.publish_by(&self.prompt, prompt, messages).await;
        for job in &ordinary {
            self.ordinary.window.took(job.bucket(), 1);
        }
        let messages = self.ordinary.publisher.encode(ordinary.iter().map(|job| (job, job.into())));
        self.publish_by(&self.ordinary, ordinary, messages).await;
    }

    async fn publish_by(&self, way: &Way, jobs: Vec<Job>, messages: Vec<Outgoing>) {
        if jobs.is_empty() {
            return;
        }
        let Ok(permit) = Arc::clone(&way.batches).acquire_owned().await else { return };
        let (worker, publisher) = (self.clone(), way.publisher.clone());
        // The messages hold what the jobs carry.
        let deliveries: Vec<_> = jobs.into_iter().map(|job| job.deliveries).collect();
        self.shutdown.spawn(async move {
            let fates = publisher.publish(messages).await;
            drop(permit);
            let returned: Vec<(DeliveryId, u32)> = (deliveries.iter().zip(fates))
                .filter(|(_, fate)| *fate == Fate::Returned)
                .flat_map(|(deliveries, _)| deliveries.iter().map(|(delivery, _)| (*delivery, 1)))
                .collect();
            if !returned.is_empty() {
                let returned = &returned;
                let unqueue = |pool| async move { dispose::unqueue(&pool, returned).await };
                // No row of ours can be bad here; if one is, its delivery is rescued.
                let _ = worker.ledger.persist("ingest", unqueue).await;
            }
        });
    }
}
