//! Decides about each delivery of a job: by the webhook's present state it is held or cancelled, parked if its lane
//! lets nothing start, or otherwise offered to its lane.
//!
//! The state can change while a task waits in its lane. The task is then checked here again before it starts.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use chrono::TimeDelta;

use super::{
    DeliverWorker,
    lane::Offer,
    task::{JobHandle, Task},
};
use crate::{
    broker::{self, Message, watermarks::Watermark},
    model::{
        DeliveryId, JobClass, Trigger,
        lane::{May, Standing},
    },
    store::{dispose::Disposition, test_delivery::NOT_IN_TIME, watermarks},
    telemetry::labels::JobResult,
};

/// How old a test may be when it starts: no caller waits longer for one than the longest timeout plus five seconds.
pub const TEST_BEGINS_WITHIN: TimeDelta = TimeDelta::seconds(65);

impl DeliverWorker {
    /// Handles a message of a deliveries queue: a job, a watermark, or neither.
    pub(super) async fn take(self: &Arc<Self>, message: Message, class: JobClass) {
        if let Some(mark) = broker::watermarks::decode(&message) {
            self.watermark(mark, message);
            return;
        }
        match broker::jobs::decode(&message) {
            Ok(job) => {
                let number = self.jobs.fetch_add(1, Ordering::Relaxed);
                self.take_job(JobHandle::new(job, number, class, message.redelivered, message.receipt)).await;
            }
            Err(bad) => {
                tracing::error!(%bad, "a message in a deliveries queue is not a valid job; it was dead-lettered");
                self.metrics.deliver_jobs.inc(JobResult::Bad);
                message.receipt.reject();
            }
        }
    }

    /// Records that a watermark has passed. If that fails, the next one says the same.
    fn watermark(&self, mark: Watermark, message: Message) {
        let pool = self.ledger.pool().clone();
        self.shutdown.spawn(async move {
            if let Err(error) = watermarks::through(&pool, mark.shard, mark.number).await {
                tracing::debug!(%error, "a watermark was not recorded");
            }
            message.receipt.ack();
        });
    }

    /// Checks the present state of each webhook, holds or cancels what may not be sent, and offers the rest to the
    /// lanes.
    async fn take_job(self: &Arc<Self>, handle: Arc<JobHandle>) {
        let mut missing = Vec::new();
        let mut known = HashMap::with_capacity(handle.job.deliveries.len());
        for (_, webhook) in &handle.job.deliveries {
            match self.webhooks.cached(*webhook).await {
                Some(found) => drop(known.insert(*webhook, found)),
                None => missing.push(*webhook),
            }
        }
        if !missing.is_empty() {
            match self.webhooks.read(&missing).await {
                Ok(read) => known.extend(read),
                Err(bad) => {
                    // The job stays unacknowledged and comes back with the next connection.
                    tracing::error!(%bad, "cannot read the webhooks of a job");
                    return;
                }
            }
        }
        for &(delivery, webhook) in &handle.job.deliveries {
            match known.get(&webhook) {
                Some(known) => {
                    let (handle, known) = (Arc::clone(&handle), Arc::clone(known));
                    self.admit(Task {
                        handle,
                        delivery,
                        known,
                        waits: None,
                        slot: None,
                        probe: None,
                        started: None,
                    });
                }
                None => self.cancel(&handle, delivery, "webhook unknown"),
            }
        }
        self.start_what_may();
    }

    fn admit(self: &Arc<Self>, task: Task) {
        let webhook = &task.known.webhook;
        let test = task.handle.job.trigger == Trigger::Test;
        if webhook.company != task.handle.job.company {
            self.cancel(&task.handle, task.delivery, "webhook unknown");
        } else if webhook.deleted {
            self.cancel(&task.handle, task.delivery, "webhook deleted");
        } else if test && self.clock.now() - task.delivery.time() > TEST_BEGINS_WITHIN {
            // The caller is gone; in case it died before it could withdraw the test, the worker does so.
            self.cancel(&task.handle, task.delivery, NOT_IN_TIME);
        } else if !webhook.settings.active && !test {
            self.cancel(&task.handle, task.delivery, "webhook inactive");
        } else if webhook.pause.is_some() && !test {
            self.metrics.deliver_jobs.inc(JobResult::Held);
            self.dispositions.send(&task.handle, task.delivery, Disposition::Held, false);
        } else if test || task.probe.is_some() || webhook.lane == Standing::default() {
            // A test asks for the receiver's state now.
            self.offer(task);
        } else {
            let now = self.clock.now();
            let standing = webhook.lane;
            match standing.may(now) {
                May::Start => self.offer(task),
                May::Wait(until) => self.park_until(&task, until, standing.why_not(now).into()),
                May::Probe => self.probe(task, now),
            }
        }
    }

    /// Puts a task into its lane, where it waits for its turn.
    pub(super) fn offer(&self, mut task: Task) {
        task.waits = Some(self.backlogs.join(task.handle.class));
        let webhook = &task.known.webhook;
        let offer = Offer {
            company: webhook.company,
            webhook: webhook.id,
            job: task.handle.number,
            limit: webhook.settings.in_flight_max().unwrap_or(self.lane_in_flight_max),
            rate: webhook.settings.rate_limit,
        };
        self.lanes(|lanes| lanes.offer(offer, Instant::now(), task));
        if offer.rate.is_some() {
            self.pacing.look();
        }
    }

    /// Admits a task again whose webhook has changed since it was offered to its lane.
    pub(super) fn admit_again(self: &Arc<Self>, mut task: Task) {
        let worker = Arc::clone(self);
        tokio::spawn(async move {
            let id = task.known.webhook.id;
            let known = match worker.webhooks.cached(id).await {
                Some(known) => Some(known),
                None => match worker.webhooks.read(&[id]).await {
                    Ok(mut read) => read.remove(&id),
                    Err(bad) => {
                        // The job stays unacknowledged and comes back with the next connection.
                        tracing::error!(%bad, "cannot read the webhook of a job");
                        return;
                    }
                },
            };
            let Some(known) = known else {
                worker.cancel(&task.handle, task.delivery, "webhook unknown");
                return;
            };
            (task.known, task.slot) = (known, None);
            worker.admit(task);
            worker.start_what_may();
        });
    }

    fn cancel(&self, handle: &Arc<JobHandle>, delivery: DeliveryId, reason: &'static str) {
        self.metrics.deliver_jobs.inc(JobResult::Cancelled);
        self.dispositions.send(handle, delivery, Disposition::Cancelled(reason), false);
    }
}
