//! Finds deliveries whose job was lost, by watermarks; `store::watermarks` explains how that can be known.

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use super::{ROWS_MAX, Round, Scheduler};
use crate::{
    broker::watermarks::{encode, shards},
    store::{
        waiting::BEGINNING,
        watermarks::{self, MARK_SLACK, RESCUE_DOUBLINGS_MAX, Through},
    },
};

/// How long a statement may take to commit what it has marked as queued at its begin; statements have 30 s.
const COMMIT_MAX: TimeDelta = TimeDelta::seconds(60);
/// How often rescue looks through the whole index.
const FROM_START_EVERY: Duration = Duration::from_mins(10);

impl Scheduler {
    /// Publishes a watermark into each deliveries queue. The next one makes up for a lost one.
    pub(super) async fn publish_marks(&self) -> sqlx::Result<()> {
        let number = watermarks::number(self.ledger.pool()).await?;
        let marks = shards(self.shards).map(|shard| encode(shard, number)).collect();
        let publisher = self.publisher.clone();
        self.shutdown.spawn(async move { publisher.publish(marks).await });
        Ok(())
    }

    /// Gives deliveries without a job back to the ledger, where the next round finds them.
    pub(super) async fn rescue(&self, round: &mut Round) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let now = self.clock.now();
        let shards: Vec<i16> = shards(self.shards).map(i16::from).collect();
        let through = watermarks::list(pool, &shards).await?;
        if let Some(newest) = through.first() {
            let age = (now - newest.published_at).num_milliseconds();
            #[expect(clippy::cast_precision_loss, reason = "milliseconds of an age")]
            self.metrics.watermark_age_seconds.set(age as f64 / 1000.0);
        }
        let before = thresholds(&through, round.undisturbed_since, now, self.config.rescue_grace);
        let from = round.rescue_from.get();
        let rescued = watermarks::rescue(pool, round.low, from, &before, ROWS_MAX).await?;
        let count = rescued.len();
        if count > 0 {
            tracing::warn!(rescued = count, "deliveries had lost their job; making new jobs");
            self.metrics.schedule_rescued.inc_by(count as u64);
            round.cursors.forget_all();
            round.visits.add(rescued);
        }
        if i64::try_from(count).is_ok_and(|count| count >= ROWS_MAX) {
            // A whole broker may be lost: the others are looked for in the next round.
            round.next.rescue = Instant::now();
        } else if let Some(newest) = before.iter().flatten().max() {
            let oldest = watermarks::oldest_queued(pool, round.low, from).await?;
            round.rescue_from.advance(oldest.map_or(*newest, |oldest| oldest.min(*newest)));
        }
        watermarks::forget(pool, self.config.rescue_grace * 2_u32.pow(RESCUE_DOUBLINGS_MAX + 1)).await
    }
}

/// From which time on jobs are looked for that may be lost. Until the next vacuum the index is full of entries of what has
/// been delivered since; without a bound that moves, each look would read all of them.
pub(super) struct From {
    from: DateTime<Utc>,
    began: Instant,
}

impl From {
    /// From the beginning of the ledger.
    pub(super) fn start() -> Self {
        Self { from: BEGINNING, began: Instant::now() }
    }

    /// The bound. It returns to the beginning now and then: what a clock that was set back has written lies before it.
    fn get(&mut self) -> DateTime<Utc> {
        if self.began.elapsed() >= FROM_START_EVERY {
            *self = Self::start();
        }
        self.from
    }

    /// Nothing has been queued since before `oldest`.
    fn advance(&mut self, oldest: DateTime<Utc>) {
        self.from = self.from.max(oldest - COMMIT_MAX);
    }
}

/// For each number of rescues, the instant before which a delivery must have been queued for its job to be missing:
/// that of the newest mark whose grace, doubled so often, is over. The grace counts from when the mark came through,
/// or from the last interruption of the ledger.
fn thresholds(
    through: &[Through],
    undisturbed_since: DateTime<Utc>,
    now: DateTime<Utc>,
    grace: Duration,
) -> Vec<Option<DateTime<Utc>>> {
    let slack = TimeDelta::from_std(MARK_SLACK).unwrap_or(TimeDelta::MAX);
    (0..=RESCUE_DOUBLINGS_MAX)
        .map(|doublings| {
            let grace = TimeDelta::from_std(grace * 2_u32.pow(doublings)).unwrap_or(TimeDelta::MAX);
            let over = |mark: &&Through| mark.through_at.max(undisturbed_since) + grace <= now;
            // The watermarks come newest first.
            through.iter().find(over).map(|mark| mark.published_at - slack)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_missing_a_grace_after_a_later_mark_came_through() {
        let at = |s: i64| DateTime::from_timestamp(1_700_000_000 + s, 0).expect("a time");
        let mark = |published, through| Through { published_at: at(published), through_at: at(through) };
        let marks = [mark(100, 101), mark(50, 90), mark(10, 11)];
        let grace = Duration::from_mins(1);
        let check = |since, now, expected: [Option<i64>; 3]| {
            let thresholds = thresholds(&marks, at(since), at(now), grace);
            assert_eq!(thresholds[..3], expected.map(|s| s.map(at)), "at {now}");
        };
        // The first mark's grace ends at 71, doubled at 131; the slack of 5 s goes off.
        check(0, 70, [None, None, None]);
        check(0, 71, [Some(5), None, None]);
        check(0, 131, [Some(5), Some(5), None]);
        check(0, 150, [Some(45), Some(5), None]);
        check(0, 161, [Some(95), Some(5), None]);
        // An interruption at 140 restarts the grace of all of them.
        check(140, 161, [None, None, None]);
        check(140, 200, [Some(95), None, None]);
    }
}
