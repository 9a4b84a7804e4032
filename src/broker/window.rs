//! How much room is left in the deliveries queues.
//!
//! The broker holds a short window of what is due; everything else waits in the ledger, where it is scheduled fairly.
//! The room of a queue is `WINDOW_JOBS` minus the jobs ready in it, counted by a passive declaration at most every
//! [`COUNT_EVERY`], minus what this process has published since. The prompt queues have their own windows of
//! `PROMPT_JOBS`; nothing waits for room in them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lapin::{Channel, options::QueueDeclareOptions, types::FieldTable};
use tokio::time::{Instant, sleep_until, timeout};

use super::{BrokerInner, Error, Queue, error::on_channel};

/// How long a count is good.
pub const COUNT_EVERY: Duration = Duration::from_millis(50);

/// How long a full queue may stand still before callers no longer wait for it.
pub const STALLED_AFTER: Duration = Duration::from_secs(1);

/// How long the server may take to count.
const COUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// What waiting for room led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowRoom {
    /// There is some.
    Open,
    /// The queue is full and has not moved for [`STALLED_AFTER`]: the jobs are better left to schedule.
    Stalled,
}

/// The room in each deliveries queue, or in each prompt one; clones share what they know.
#[derive(Clone)]
pub struct Window {
    inner: Arc<BrokerInner>,
    /// The queue of a shard.
    queue: fn(u8) -> Queue,
    jobs_max: usize,
    shards: Arc<[Shard]>,
}

#[derive(Default)]
struct Shard {
    known: Mutex<QueueLevel>,
    /// One task counts at a time, and the others use its result.
    counting: tokio::sync::Mutex<Option<Channel>>,
    /// Whether a background count is in progress.
    asking: AtomicBool,
}

/// What is known of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct QueueLevel {
    /// Unknown while the broker cannot be asked.
    ready: Option<usize>,
    /// Published here since the count.
    took: usize,
    counted_at: Option<Instant>,
    /// Since when it is full, or unknown, without having moved.
    still_since: Option<Instant>,
}

impl QueueLevel {
    fn room(&self, jobs_max: usize) -> usize {
        self.ready.map_or(0, |ready| jobs_max.saturating_sub(ready + self.took))
    }

    fn next_count(&self) -> Option<Instant> {
        self.counted_at.map(|counted_at| counted_at + COUNT_EVERY)
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.next_count().is_none_or(|next| next <= now)
    }

    /// Records a count that began when `took` jobs had been published since the last one. A queue that has less than it
    /// had and was given has moved.
    fn count(&mut self, ready: Option<usize>, took: usize, jobs_max: usize, now: Instant) {
        let has_moved = matches!((self.ready, ready), (Some(before), Some(ready)) if ready < before + took);
        self.ready = ready;
        if ready.is_some() {
            self.took -= took.min(self.took);
        }
        self.counted_at = Some(now);
        let is_full = self.room(jobs_max) == 0;
        self.still_since = is_full.then(|| self.still_since.filter(|_| !has_moved).unwrap_or(now));
    }

    fn is_stalled(&self, now: Instant) -> bool {
        self.still_since.is_some_and(|since| since + STALLED_AFTER <= now)
    }
}

impl Window {
    pub(super) fn new(inner: Arc<BrokerInner>, queue: fn(u8) -> Queue, jobs_max: u32) -> Self {
        let shards = (0..inner.shared.topology.shards()).map(|_| Shard::default()).collect();
        Self { inner, queue, jobs_max: jobs_max as usize, shards }
    }

    /// How many jobs may still be published to a bucket's queue. None while the broker cannot be asked.
    ///
    /// While there is room by the last count, callers do not wait for the next one: a quorum queue may take a tenth of
    /// a second to answer, and what this process publishes meanwhile is subtracted.
    pub async fn room(&self, bucket: u8) -> usize {
        if self.level(bucket).room(self.jobs_max) == 0 {
            self.refresh(bucket).await;
        }
        self.room_known(bucket)
    }

    /// The same by what is known now, for callers that never wait.
    #[must_use]
    pub fn room_known(&self, bucket: u8) -> usize {
        let level = *self.level(bucket);
        if level.is_stale(Instant::now()) && !self.shard_of(bucket).asking.swap(true, Ordering::AcqRel) {
            let window = self.clone();
            tokio::spawn(async move {
                window.refresh(bucket).await;
                window.shard_of(bucket).asking.store(false, Ordering::Release);
            });
        }
        level.room(self.jobs_max)
    }

    /// Records that jobs are being published to a bucket's queue.
    pub fn took(&self, bucket: u8, jobs: usize) {
        self.level(bucket).took += jobs;
    }

    /// Waits until there is room for a job, but not for a queue that stands still: once it is stalled, every call says
    /// so at once until it moves.
    pub async fn wait_for_room(&self, bucket: u8) -> WindowRoom {
        loop {
            if self.room(bucket).await > 0 {
                return WindowRoom::Open;
            }
            let level = *self.level(bucket);
            if level.is_stalled(Instant::now()) {
                return WindowRoom::Stalled;
            }
            let next_count = level.next_count().unwrap_or_else(Instant::now);
            tokio::select! {
                () = sleep_until(next_count) => {}
                () = self.inner.shutdown.requested() => return WindowRoom::Stalled,
            }
        }
    }

    #[must_use]
    pub fn shard(&self, bucket: u8) -> u8 {
        self.inner.shared.topology.shard(bucket)
    }

    async fn refresh(&self, bucket: u8) {
        if !self.level(bucket).is_stale(Instant::now()) {
            return;
        }
        let mut channel = self.shard_of(bucket).counting.lock().await;
        let now = Instant::now();
        let (is_stale, took) = {
            let level = self.level(bucket);
            (level.is_stale(now), level.took)
        };
        if !is_stale {
            return;
        }
        let ready = self.count(self.shard(bucket), &mut channel).await.inspect_err(|error| {
            tracing::debug!(%error, "could not count the ready jobs");
        });
        if ready.is_err() {
            *channel = None;
        }
        self.level(bucket).count(ready.ok(), took, self.jobs_max, Instant::now());
    }

    fn shard_of(&self, bucket: u8) -> &Shard {
        &self.shards[usize::from(self.shard(bucket))]
    }

    fn level(&self, bucket: u8) -> MutexGuard<'_, QueueLevel> {
        self.shard_of(bucket).known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts on the connection that consumes: the other may be blocked.
    async fn count(&self, shard: u8, channel: &mut Option<Channel>) -> Result<usize, Error> {
        let count = async {
            if channel.as_ref().is_none_or(|channel| !channel.status().connected()) {
                *channel = Some(self.inner.consume.current().ok_or(Error::Closed)?.channel().await?);
            }
            let Some(channel) = channel else { return Err(Error::Closed) };
            let name = self.inner.shared.topology.name((self.queue)(shard));
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let queue = channel.queue_declare(name.into(), options, FieldTable::default()).await;
            queue.map(|queue| queue.message_count() as usize).map_err(|error| on_channel(&error))
        };
        timeout(COUNT_TIMEOUT, count)
            .await
            .unwrap_or_else(|_| Err(Error::silent("counting messages", COUNT_TIMEOUT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOBS_MAX: usize = 10;

    /// Counts at each millisecond: what is ready, what was taken before, and then the room and whether it stalled.
    fn check(steps: &[(u64, Option<usize>, usize, usize, bool)]) {
        let (mut level, start) = (QueueLevel::default(), Instant::now());
        for (ms, ready, took, room, is_stalled) in steps {
            let now = start + Duration::from_millis(*ms);
            level.took += took;
            level.count(*ready, *took, JOBS_MAX, now);
            assert_eq!(
                (level.room(JOBS_MAX), level.is_stalled(now)),
                (*room, *is_stalled),
                "{ms} of {steps:?}"
            );
        }
    }

    #[test]
    fn a_queue_stalls_when_it_is_full_and_stands_still() {
        check(&[(0, Some(10), 0, 0, false), (999, Some(10), 0, 0, false), (1000, Some(10), 0, 0, true)]);
        // It moved, although it is still full.
        check(&[(0, Some(12), 0, 0, false), (900, Some(11), 0, 0, false), (1800, Some(11), 0, 0, false)]);
        // What was published into it makes up for what left it.
        check(&[(0, Some(10), 0, 0, false), (900, Some(10), 3, 0, false), (1800, Some(10), 0, 0, false)]);
        // It grows, and nothing leaves it.
        check(&[(0, Some(10), 0, 0, false), (900, Some(13), 3, 0, false), (1800, Some(13), 0, 0, true)]);
        // Once there is room nothing is remembered.
        check(&[(0, Some(10), 0, 0, false), (1000, Some(10), 0, 0, true), (1001, Some(9), 0, 1, false)]);
    }

    #[test]
    fn a_broker_that_cannot_be_asked_has_no_room_and_stalls() {
        check(&[(0, Some(1), 0, 9, false), (50, None, 0, 0, false), (1050, None, 0, 0, true)]);
        check(&[(0, None, 0, 0, false), (50, Some(1), 0, 9, false)]);
    }

    #[test]
    fn what_is_published_during_a_count_is_not_forgotten() {
        let mut level = QueueLevel::default();
        level.count(Some(0), 0, JOBS_MAX, Instant::now());
        level.took += 4;
        let took = level.took;
        level.took += 3;
        level.count(Some(4), took, JOBS_MAX, Instant::now());
        assert_eq!(level.room(JOBS_MAX), 10 - 4 - 3);
    }
}
