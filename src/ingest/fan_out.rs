//! From an event to its deliveries, their commit, and the jobs that hint at them.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use futures_util::FutureExt;

use crate::{
    broker::{Receipt, WindowRoom},
    model::{
        DeliveryId, Event, EventId, Job, JobClass, Payload, Rejected, Trigger, id::bucket,
        job::JOB_DATA_BYTES_MAX, subscription,
    },
    store::{
        ingest_batch::{self, Begins, Continued, EventToInsert, Inserted, NewDelivery},
        ledger::{BadRow, bisect},
        subscribed::Subscribed,
    },
    telemetry::labels::{Intake, Queued},
};

use super::{
    IngestWorker,
    intake::{Original, TakenEvent},
    publish::PendingJobs,
};

/// Deliveries of one event that a statement writes; an event with more webhooks goes in chunks of so many.
pub const CHUNK_DELIVERIES_MAX: usize = 1_000;
/// Deliveries that a statement over several events writes.
pub const BATCH_DELIVERIES_MAX: usize = 5_000;

/// Jobs that an event may have beyond the remaining room, so that an ordinary event is not split between queue and
/// ledger. What an event with thousands of webhooks has beyond that is left in the ledger.
pub const BEYOND_WINDOW_JOBS_MAX: usize = 64;

/// An event with all it owes.
pub(super) struct Owed {
    event: Event,
    deliveries: Vec<NewDelivery>,
    matched_as_of: DateTime<Utc>,
    class: JobClass,
    violation: Option<String>,
    receipts: Vec<Receipt>,
    redelivered: bool,
    letter: Original,
}

impl IngestWorker {
    /// Matches each event against the webhooks of its company, decides where each delivery begins, and commits.
    pub(super) async fn fan_out(&self, taken: Vec<TakenEvent>) {
        let mut owed: Vec<Owed> = Vec::with_capacity(taken.len());
        let mut gathered = 0;
        let mut rooms: HashMap<u8, usize> = HashMap::new();
        for TakenEvent { event, violation, receipts, redelivered, letter } in taken {
            let company = self.subscriptions.of(event.company).await;
            let matching: Vec<&Subscribed> = company
                .webhooks
                .iter()
                .filter(|w| subscription::matches(&w.events, &event.event_type))
                .collect();
            let bucket = bucket(event.id.0);
            let shard = self.ordinary.window.shard(bucket);
            let bundle = self.bundle(event.data.len());
            let jobs = matching.iter().filter(|w| !w.paused && !w.backlog).count().div_ceil(bundle);
            let class = match jobs {
                0 => JobClass::Ordinary,
                _ => self.class_of(event.company, bucket, jobs),
            };
            let (mut room, mut found) = (jobs, 0);
            if jobs > 0 && class == JobClass::Ordinary {
                let mut left = rooms.get(&shard).copied();
                let would_wait =
                    || owed.iter().any(|o| o.class == JobClass::Prompt && o.event.company != event.company);
                if left == Some(0)
                    || left.is_none() && self.ordinary.window.room_known(bucket) == 0 && would_wait()
                {
                    // What this batch has so far need not wait for the room that the rest needs.
                    self.commit(std::mem::take(&mut owed)).await;
                    gathered = 0;
                    rooms.clear();
                    left = None;
                }
                room = match left {
                    Some(left) => left,
                    None => self.room(bucket).await,
                };
                found = room;
                if room > 0 {
                    room += BEYOND_WINDOW_JOBS_MAX;
                }
            }
            let mut queued = 0;
            let deliveries = matching
                .iter()
                .map(|webhook| NewDelivery {
                    id: DeliveryId::derive(event.id, webhook.id),
                    event: event.id,
                    webhook: webhook.id,
                    company: event.company,
                    event_type: event.event_type.clone(),
                    begins: begins(webhook, || takes_room(&mut room, &mut queued, bundle)),
                })
                .collect();
            if found > 0 {
                rooms.insert(shard, room.saturating_sub(BEYOND_WINDOW_JOBS_MAX));
            }
            gathered += matching.len();
            let violation = violation.map(|violation| violation.to_string());
            let matched_as_of = company.as_of;
            owed.push(Owed {
                event,
                deliveries,
                matched_as_of,
                class,
                violation,
                receipts,
                redelivered,
                letter,
            });
            // Five hundred events with ten thousand webhooks each would need too much memory.
            if gathered >= BATCH_DELIVERIES_MAX {
                self.commit(std::mem::take(&mut owed)).await;
                gathered = 0;
            }
        }
        self.commit(owed).await;
    }

    /// How many jobs may be published to a bucket's queue, once any may; none if it is stalled.
    async fn room(&self, bucket: u8) -> usize {
        match self.ordinary.window.wait_for_room(bucket).await {
            WindowRoom::Open => self.ordinary.window.room(bucket).await,
            WindowRoom::Stalled => 0,
        }
    }

    /// How many deliveries of an event of that size share a job: several if its data travels along.
    fn bundle(&self, data_bytes: usize) -> usize {
        if data_bytes <= JOB_DATA_BYTES_MAX { self.job_deliveries_max } else { 1 }
    }

    /// Commits a batch in as few statements as its bounds allow.
    async fn commit(&self, owed: Vec<Owed>) {
        self.metrics.ingest_batch_events.observe(f64::from(u32::try_from(owed.len()).unwrap_or(u32::MAX)));
        let mut batch = Vec::with_capacity(owed.len());
        let mut deliveries = 0;
        for owed in owed {
            let count = owed.deliveries.len().min(CHUNK_DELIVERIES_MAX);
            if deliveries + count > BATCH_DELIVERIES_MAX {
                self.commit_batch(std::mem::take(&mut batch)).await;
                deliveries = 0;
            }
            deliveries += count;
            batch.push(owed);
        }
        self.commit_batch(batch).await;
    }

    async fn commit_batch(&self, mut batch: Vec<Owed>) {
        // Two ingest processes that write the same rows in different orders would deadlock.
        batch.sort_unstable_by_key(|owed| owed.event.id);
        let writer = self.writer;
        let written = bisect(&batch, |part| {
            async move {
                self.ledger.persist("ingest", |pool| async move { insert(&pool, part, writer).await }).await
            }
            .boxed()
        })
        .await;
        let mut refused = HashMap::new();
        let mut at = HashMap::with_capacity(batch.len());
        for (part, result) in written {
            match result {
                Ok(inserted) => {
                    for event in inserted.events {
                        at.insert(event, inserted.at.unwrap_or_else(|| event.time()));
                    }
                }
                Err(bad) => {
                    refused.insert(part[0].event.id, bad);
                }
            }
        }
        let mut hints = PendingJobs::default();
        let mut known = Vec::new();
        for owed in batch {
            match (refused.remove(&owed.event.id), at.get(&owed.event.id)) {
                (Some(bad), _) => self.refuse(owed, &bad),
                (None, Some(at)) => self.finish_new(owed, *at, &mut hints).await,
                (None, None) => known.push(owed),
            }
        }
        self.publish(&mut hints).await;
        if !known.is_empty() {
            self.finish_known(known, &mut hints).await;
            self.publish(&mut hints).await;
        }
        hints.receipts.release();
    }

    /// Handles a row that PostgreSQL rejects: the message becomes a dead letter, its neighbours are committed.
    fn refuse(&self, owed: Owed, bad: &BadRow) {
        self.metrics.ingest_messages.inc(Intake::Refused);
        let rejected = Rejected { field: "data".into(), reason: bad.to_string() };
        self.give_up(owed.letter, rejected, owed.receipts);
    }

    /// The event and its first chunk are in the ledger: the other chunks follow. It is acknowledged with its jobs.
    async fn finish_new(&self, mut owed: Owed, at: DateTime<Utc>, hints: &mut PendingJobs) {
        self.metrics.ingest_messages.inc(Intake::Committed);
        let payload = Payload::take(&mut owed.event);
        let (first, rest) = owed.deliveries.split_at(owed.deliveries.len().min(CHUNK_DELIVERIES_MAX));
        let jobs = self.jobs(&owed.event, &payload, first, at);
        let has_jobs = !jobs.is_empty() || !rest.is_empty();
        hints.of(owed.class).extend(jobs);
        for (n, chunk) in rest.chunks(CHUNK_DELIVERIES_MAX).enumerate() {
            let last = (n + 1) * CHUNK_DELIVERIES_MAX >= rest.len();
            self.publish(hints).await;
            if self.go_on(&owed.event, &payload, chunk, last, hints.of(owed.class)).await.is_err() {
                return;
            }
        }
        // Until it is acknowledged the broker would hand the event to another process, which continues where this one
        // stopped.
        hints.acknowledge(owed.receipts, has_jobs);
    }

    /// Events that existed: repeats, those whose fan-out was not finished, and those whose process died before their jobs
    /// were confirmed.
    async fn finish_known(&self, known: Vec<Owed>, hints: &mut PendingJobs) {
        let (chunked, whole): (Vec<Owed>, Vec<Owed>) =
            known.into_iter().partition(|owed| owed.deliveries.len() > CHUNK_DELIVERIES_MAX);
        self.finish_whole(whole, hints).await;
        for owed in chunked {
            self.finish_chunked(owed, hints).await;
        }
    }

    /// Events that existed and whose deliveries fit into a statement together.
    async fn finish_whole(&self, mut known: Vec<Owed>, hints: &mut PendingJobs) {
        if known.is_empty() {
            return;
        }
        let payloads: Vec<Payload> = known.iter_mut().map(|owed| Payload::take(&mut owed.event)).collect();
        let written = bisect(&known, |part| {
            async move {
                self.ledger.persist("ingest", |pool| async move { go_on_all(&pool, part).await }).await
            }
            .boxed()
        })
        .await;
        let mut hashes = HashMap::with_capacity(known.len());
        let mut inserted = HashMap::new();
        for (part, result) in written {
            let Ok(Continued { at, known, deliveries }) = result else { continue };
            let at = at.unwrap_or_else(|| part[0].event.id.time());
            hashes.extend(known);
            inserted.extend(deliveries.into_iter().map(|delivery| (delivery, at)));
        }
        let mut doubtful = Vec::new();
        let mut done = Vec::with_capacity(known.len());
        for (owed, payload) in known.into_iter().zip(payloads) {
            // Otherwise its row was rejected: it stays unacknowledged.
            let Some(hash) = hashes.get(&owed.event.id) else { continue };
            let (mine, others): (Vec<NewDelivery>, Vec<NewDelivery>) =
                owed.deliveries.iter().cloned().partition(|d| inserted.contains_key(&d.id));
            if let Some(at) = mine.first().and_then(|first| inserted.get(&first.id)) {
                hints.of(owed.class).extend(self.jobs(&owed.event, &payload, &mine, *at));
            }
            self.repeated(&owed.event, *hash);
            if owed.redelivered {
                doubtful.extend(others.iter().map(|d| again(&owed.event, d)));
            }
            done.push(owed.receipts);
        }
        hints.again.extend(self.doubtful(doubtful).await);
        let has_jobs = !hints.is_empty();
        for receipts in done {
            hints.acknowledge(receipts, has_jobs);
        }
    }

    /// An event that existed, with more deliveries than a statement writes.
    async fn finish_chunked(&self, mut owed: Owed, hints: &mut PendingJobs) {
        let payload = Payload::take(&mut owed.event);
        let mut rest = owed.deliveries.as_slice();
        loop {
            let (chunk, after) = rest.split_at(rest.len().min(CHUNK_DELIVERIES_MAX));
            rest = after;
            match self.go_on(&owed.event, &payload, chunk, rest.is_empty(), hints.of(owed.class)).await {
                Ok(Some(hash)) if rest.is_empty() => {
                    self.repeated(&owed.event, hash);
                    break;
                }
                Ok(_) if rest.is_empty() => break,
                Ok(_) => {}
                Err(_bad) => return,
            }
        }
        if owed.redelivered {
            for chunk in owed.deliveries.chunks(CHUNK_DELIVERIES_MAX) {
                let new: HashSet<DeliveryId> = hints.deliveries().collect();
                let others = chunk.iter().filter(|d| !new.contains(&d.id));
                let doubtful = others.map(|d| again(&owed.event, d)).collect();
                hints.again.extend(self.doubtful(doubtful).await);
            }
        }
        let has_jobs = !hints.is_empty();
        hints.acknowledge(owed.receipts, has_jobs);
    }

    /// Those of these jobs whose delivery may have none, although it should; they claim, and go through a retry queue.
    pub(super) async fn doubtful(&self, jobs: Vec<Job>) -> Vec<Job> {
        if jobs.is_empty() {
            return jobs;
        }
        let ids: Vec<DeliveryId> =
            jobs.iter().flat_map(|job| &job.deliveries).map(|(delivery, _)| *delivery).collect();
        let ids = &ids;
        let found = self
            .ledger
            .persist("ingest", |pool| async move { ingest_batch::doubtful(&pool, ids).await })
            .await;
        // Nothing in these rows comes from outside, so none can be bad; if one is, its delivery is rescued.
        let found: HashMap<DeliveryId, DateTime<Utc>> = (found.unwrap_or_default().into_iter())
            .map(|doubtful| (doubtful.delivery, doubtful.queued_at))
            .collect();
        jobs.into_iter()
            .filter_map(|mut job| {
                let (delivery, _) = job.deliveries.first()?;
                job.queued_at = *found.get(delivery)?;
                Some(job)
            })
            .collect()
    }

    /// Writes a chunk of an event that is in the ledger; returns the hash of the body it was first taken in with.
    async fn go_on(
        &self,
        event: &Event,
        payload: &Payload,
        chunk: &[NewDelivery],
        last: bool,
        jobs: &mut Vec<Job>,
    ) -> Result<Option<i64>, BadRow> {
        let events = [(event.id, last)];
        let events = &events;
        let Continued { at, known, deliveries } =
            self.ledger
                .persist("ingest", |pool| async move {
                    ingest_batch::continue_fan_out(&pool, events, chunk).await
                })
                .await?;
        let mine: Vec<NewDelivery> = chunk.iter().filter(|d| deliveries.contains(&d.id)).cloned().collect();
        jobs.extend(self.jobs(event, payload, &mine, at.unwrap_or_else(|| event.id.time())));
        Ok(known.first().map(|(_, hash)| *hash))
    }

    /// The jobs of an event's new deliveries: several deliveries in one if the payload travels along, else one each.
    fn jobs(
        &self,
        event: &Event,
        payload: &Payload,
        deliveries: &[NewDelivery],
        queued_at: DateTime<Utc>,
    ) -> Vec<Job> {
        let count = |begins| deliveries.iter().filter(|d| d.begins == begins).count();
        self.metrics.ingest_deliveries.add(Queued::Job, count(Begins::Queued));
        self.metrics.ingest_deliveries.add(Queued::Ledger, count(Begins::Waiting));
        self.metrics.ingest_deliveries.add(Queued::Held, count(Begins::Held));
        let queued: Vec<_> =
            deliveries.iter().filter(|d| d.begins == Begins::Queued).map(|d| (d.id, d.webhook)).collect();
        let bundle = self.bundle(payload.size());
        let payload = Some(payload).filter(|payload| payload.size() <= JOB_DATA_BYTES_MAX);
        queued
            .chunks(bundle)
            .map(|deliveries| Job {
                company: event.company,
                event: event.id,
                event_type: event.event_type.clone(),
                deliveries: deliveries.to_vec(),
                attempt: 1,
                queued_at,
                trigger: Trigger::Event,
                traceparent: event.traceparent.clone(),
                payload: payload.cloned(),
            })
            .collect()
    }
}

/// The job of a delivery that may have had one: it claims, and so carries no payload.
fn again(event: &Event, delivery: &NewDelivery) -> Job {
    Job {
        company: event.company,
        event: event.id,
        event_type: event.event_type.clone(),
        deliveries: vec![(delivery.id, delivery.webhook)],
        attempt: 1,
        queued_at: event.id.time(),
        trigger: Trigger::Event,
        traceparent: event.traceparent.clone(),
        payload: None,
    }
}

/// Where the delivery to a webhook begins; `takes_room` says whether there is room for its job.
fn begins(webhook: &Subscribed, takes_room: impl FnOnce() -> bool) -> Begins {
    if webhook.paused {
        Begins::Held
    } else if webhook.backlog || !takes_room() {
        Begins::Waiting
    } else {
        Begins::Queued
    }
}

/// Whether one more delivery of an event may go into a job; every `bundle`th needs a new one.
fn takes_room(room: &mut usize, queued: &mut usize, bundle: usize) -> bool {
    if queued.is_multiple_of(bundle) {
        if *room == 0 {
            return false;
        }
        *room -= 1;
    }
    *queued += 1;
    true
}

/// Continues the events of a part, each with all its deliveries.
async fn go_on_all(pool: &sqlx::PgPool, part: &[Owed]) -> sqlx::Result<Continued> {
    let events: Vec<(EventId, bool)> = part.iter().map(|owed| (owed.event.id, true)).collect();
    let deliveries: Vec<NewDelivery> = part.iter().flat_map(|owed| owed.deliveries.iter().cloned()).collect();
    ingest_batch::continue_fan_out(pool, &events, &deliveries).await
}

/// Writes the events of a part, each with its first chunk.
async fn insert(pool: &sqlx::PgPool, part: &[Owed], writer: i32) -> sqlx::Result<Inserted> {
    let events: Vec<EventToInsert<'_>> = part
        .iter()
        .map(|owed| EventToInsert {
            event: &owed.event,
            matched: i32::try_from(owed.deliveries.len()).unwrap_or(i32::MAX),
            matched_as_of: owed.matched_as_of,
            last: owed.deliveries.len() <= CHUNK_DELIVERIES_MAX,
            violation: owed.violation.as_deref(),
        })
        .collect();
    let deliveries: Vec<NewDelivery> =
        part.iter().flat_map(|owed| owed.deliveries.iter().take(CHUNK_DELIVERIES_MAX).cloned()).collect();
    ingest_batch::ingest_batch(pool, &events, &deliveries, writer).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_go_into_jobs_until_the_room_is_used_up() {
        let check = |room: usize, bundle: usize, deliveries: usize, expected: (usize, usize)| {
            let (mut left, mut queued) = (room, 0);
            let taken = (0..deliveries).filter(|_| takes_room(&mut left, &mut queued, bundle)).count();
            assert_eq!((taken, left), expected, "{deliveries} by {bundle} into {room}");
        };
        check(10, 16, 1, (1, 9));
        check(10, 16, 17, (17, 8));
        check(2, 16, 100, (32, 0));
        check(2, 1, 100, (2, 0));
        check(0, 16, 3, (0, 0));
    }
}
