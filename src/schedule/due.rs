//! One round over the webhooks that have something due.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use sqlx::types::Uuid;

use super::{ROWS_MAX, Round, Scheduler, is_due, lanes};
use crate::{
    broker::{Destination, Fate, Queue},
    model::{
        CompanyId, DeliveryId, Job, Trigger, WebhookId,
        id::{BUCKETS, first_of_day},
    },
    store::{
        dispose,
        due::{self as rows, DueDelivery},
        waiting::{self, BEGINNING, Since, WaitingDeliveries, WebhookBacklog, Which},
    },
};

/// Deliveries among which one round looks for what came due.
pub const DUE_LOOKED_AT_MAX: i64 = 5_000;
/// How often schedule looks again at what came due lately, for what was committed late.
const LATE_EVERY: Duration = Duration::from_secs(2);
/// How late: longer than a commit of ingest or of the recorder should take.
const LATE: TimeDelta = TimeDelta::seconds(10);
/// How often some webhooks are visited for which nothing is known to be due.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// Webhooks of one sweep. It finds what no look at what came due finds: what waits since before the index was there,
/// webhooks that were deleted, commits that were very late.
pub const SWEEP_MAX: i64 = 200;

/// What came due, and where schedule looks for it next.
pub(super) struct DueCursor {
    from: DateTime<Utc>,
    /// The least id that the index over all webhooks has.
    low: Uuid,
    /// The webhook after which the next sweep begins.
    swept: Uuid,
    is_all: bool,
    next_late: Instant,
    next_sweep: Instant,
}

impl DueCursor {
    /// Whether there was more than was looked at.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_all
    }

    /// From the beginning of the days from `first` on, which have the index.
    pub(super) fn from_day(first: NaiveDate) -> Self {
        let now = Instant::now();
        Self {
            from: BEGINNING,
            low: first_of_day(first),
            swept: Uuid::nil(),
            is_all: false,
            next_late: now,
            next_sweep: now,
        }
    }
}

/// A webhook for which something waits, and what it gets of it in this round.
struct Served<'a> {
    waiting: &'a WaitingDeliveries,
    /// What its lane allows; nothing where nothing is due.
    lane_room: i64,
    /// Its share of the window: the companies have equal shares, and then the lanes of each.
    share: i64,
    /// What it gets of its backlog, that is of neither replays nor recoveries.
    got: i64,
}

/// Which webhooks ingest must leave to schedule from now on, and which no longer.
#[derive(Debug, Default, PartialEq, Eq)]
struct Flags {
    more: Vec<WebhookId>,
    none: Vec<WebhookId>,
}

impl Scheduler {
    /// Makes jobs of what is due, an equal share for each webhook, while the window has room and as far as the lanes
    /// allow; returns how many.
    pub(super) async fn due(&self, round: &mut Round) -> sqlx::Result<usize> {
        let pool = self.ledger.pool();
        self.find_due(round).await?;
        let now = Instant::now();
        let page = round.visits.page(now);
        let queried: Vec<(WebhookId, Since)> =
            page.into_iter().map(|webhook| (webhook, round.cursors.since(webhook, now))).collect();
        let waiting = waiting::standing(pool, round.low, &queried).await?;
        // A webhook whose next retry is hours away, or whose lane is shut, takes no share from those that can go on.
        let mut served: Vec<Served<'_>> = (waiting.iter().filter(|w| w.standing == WebhookBacklog::Open))
            .map(|waiting| {
                let due = waiting.due || waiting.again_due;
                let lane_room = if due { round.lanes.room(waiting.webhook, &waiting.lane, now) } else { 0 };
                Served { waiting, lane_room, share: 0, got: 0 }
            })
            .collect();
        if served.iter().any(|s| s.lane_room > 0) {
            share_out(&mut served, self.window_room().await, self.lane_jobs_max);
        }
        let rooms: Vec<rows::LaneRoom> = (served.iter())
            .map(|s| (s.waiting.webhook, s.lane_room.min(s.share)))
            .filter(|(_, deliveries_max)| *deliveries_max > 0)
            .map(|(webhook, deliveries_max)| rows::LaneRoom {
                webhook,
                deliveries_max,
                since: round.cursors.since(webhook, now),
            })
            .collect();
        let taken = if rooms.is_empty() { Vec::new() } else { rows::take(pool, round.low, &rooms).await? };
        let counts = count(&taken);
        for served in &mut served {
            let WaitingDeliveries { webhook, lane, .. } = served.waiting;
            let (all, of_backlog) = counts.get(webhook).copied().unwrap_or_default();
            round.lanes.jobs_made(*webhook, lane, all, now);
            served.got = of_backlog;
        }
        round.cursors.advance(&taken);
        let mut flags = flags(&served, &round.flagged);
        // A webhook that may send nothing has no backlog to go behind.
        let closed = waiting.iter().filter(|visited| visited.standing != WebhookBacklog::Open);
        flags.none.extend(closed.map(|visited| visited.webhook).filter(|id| round.flagged.contains(id)));
        self.flag(round, flags).await?;
        let lane_rooms = served.iter().map(|s| (s.waiting.webhook, s.lane_room)).collect();
        self.after_visits(round, &waiting, &lane_rooms).await?;
        let count = taken.len();
        if self.publish(taken).await? > 0 {
            round.cursors.forget_all();
        }
        Ok(count)
    }

    /// Finds the webhooks for which something came due since the last round.
    async fn find_due(&self, round: &mut Round) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let cursor = &mut round.due;
        if cursor.is_all && is_due(&mut cursor.next_late, LATE_EVERY) {
            cursor.from -= LATE;
        }
        let low = round.low.max(cursor.low);
        let due = waiting::became_due(pool, low, cursor.from, DUE_LOOKED_AT_MAX).await?;
        (cursor.from, cursor.is_all) = (due.upto, due.is_all);
        round.visits.add(due.webhooks);
        if is_due(&mut cursor.next_sweep, SWEEP_EVERY) {
            let swept = waiting::webhooks(pool, Which::Waiting, round.low, cursor.swept, SWEEP_MAX).await?;
            let is_last = i64::try_from(swept.len()).is_ok_and(|n| n < SWEEP_MAX);
            cursor.swept = swept.last().filter(|_| !is_last).map_or(Uuid::nil(), |webhook| webhook.0);
            round.visits.add(swept);
            // Whether one still has a backlog is judged by its lane as well.
            round.visits.add(round.flagged.iter().copied());
        }
        Ok(())
    }

    /// Which of the visited webhooks are visited again, and when.
    async fn after_visits(
        &self,
        round: &mut Round,
        waiting: &[WaitingDeliveries],
        rooms: &HashMap<WebhookId, i64>,
    ) -> sqlx::Result<()> {
        let now = Instant::now();
        for visited in waiting {
            let (webhook, due) = (visited.webhook, visited.due || visited.again_due);
            match visited.standing {
                WebhookBacklog::Closed => {
                    let low = round.low_held;
                    let pool = self.ledger.pool();
                    let cancelled =
                        rows::cancel(pool, low, webhook, "webhook deleted or inactive", ROWS_MAX).await?;
                    match (cancelled, due) {
                        (0, false) => round.visits.done(webhook),
                        // What a worker has claimed cannot be cancelled yet.
                        (0, true) => round.visits.shut(webhook, now),
                        _ => {}
                    }
                }
                _ if !due => round.visits.done(webhook),
                WebhookBacklog::Paused => round.visits.shut(webhook, now),
                WebhookBacklog::Open => {
                    let room = rooms.get(&webhook).copied().unwrap_or_default();
                    if room == 0 && !lanes::is_paced(&visited.lane) {
                        round.visits.shut(webhook, now);
                    }
                }
            }
        }
        Ok(())
    }

    /// How many jobs the window has room for, if they all went to the fullest queue.
    async fn window_room(&self) -> usize {
        let mut room = usize::MAX;
        for shard in 0..self.shards.min(BUCKETS) {
            // Bucket n belongs to shard n, as long as there are no more shards than buckets.
            room = room.min(self.window.room(shard).await);
        }
        room
    }

    /// Keeps `lanes.waiting`.
    async fn flag(&self, round: &mut Round, flags: Flags) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let Flags { more, none } = flags;
        if !more.is_empty() {
            waiting::flag(pool, &more, 1).await?;
            round.flagged.extend(more);
        }
        if !none.is_empty() {
            waiting::flag(pool, &none, 0).await?;
            for webhook in &none {
                round.flagged.remove(webhook);
            }
        }
        self.metrics.schedule_waiting.set(i64::try_from(round.flagged.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Publishes the jobs of marked rows. Such a job claims, so a surplus one does no harm: what is not confirmed goes
    /// back to the ledger and gets another job; returns how many.
    async fn publish(&self, due: Vec<DueDelivery>) -> sqlx::Result<usize> {
        let due = self.without_killers(due).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let alone: Vec<bool> = due.iter().map(Self::is_for_quarantine).collect();
        let jobs: Vec<Job> = due
            .into_iter()
            .map(|due| Job {
                company: due.company,
                event: due.event,
                event_type: due.event_type,
                deliveries: vec![(due.delivery, due.webhook)],
                attempt: due.attempt,
                queued_at: due.queued_at,
                trigger: due.trigger,
                traceparent: None,
                payload: None,
            })
            .collect();
        for job in &jobs {
            self.window.took(job.bucket(), 1);
        }
        let messages = self.publisher.encode(jobs.iter().zip(alone).map(|(job, alone)| {
            (job, if alone { Destination::Queue(Queue::QuarantineJobs) } else { job.into() })
        }));
        let fates = self.publisher.publish(messages).await;
        let confirmed = fates.iter().filter(|fate| **fate == Fate::Confirmed).count();
        self.metrics.schedule_jobs.inc_by(confirmed as u64);
        let lost: Vec<(DeliveryId, u32)> = (jobs.iter().zip(fates))
            .filter(|(_, fate)| *fate != Fate::Confirmed)
            .flat_map(|(job, _)| job.deliveries.iter().map(|(delivery, _)| (*delivery, job.attempt)))
            .collect();
        if !lost.is_empty() {
            dispose::unqueue(self.ledger.pool(), &lost).await?;
        }
        Ok(lost.len())
    }
}

/// Gives each company with room in its lanes an equal share of the window, and each of its lanes an equal share of that; at
/// least one job, unless the window is full.
fn share_out(served: &mut [Served<'_>], window_room: usize, lane_jobs_max: i64) {
    let mut lanes: HashMap<CompanyId, usize> = HashMap::new();
    for s in served.iter().filter(|s| s.lane_room > 0) {
        *lanes.entry(s.waiting.company).or_default() += 1;
    }
    let of_a_company = window_room / lanes.len().max(1);
    for s in served.iter_mut().filter(|s| s.lane_room > 0 && window_room > 0) {
        let of_a_lane = of_a_company / lanes.get(&s.waiting.company).copied().unwrap_or(1);
        s.share = i64::try_from(of_a_lane).unwrap_or(i64::MAX).clamp(1, lane_jobs_max);
    }
}

/// How many of the jobs belong to each webhook: in all, and of its backlog.
fn count(taken: &[DueDelivery]) -> HashMap<WebhookId, (i64, i64)> {
    let mut counts: HashMap<WebhookId, (i64, i64)> = HashMap::new();
    for due in taken {
        let (all, of_backlog) = counts.entry(due.webhook).or_default();
        *all += 1;
        *of_backlog += i64::from(!matches!(due.trigger, Trigger::Replay | Trigger::Recovery));
    }
    counts
}

/// A webhook that has more due than it may have now is flagged, so that ingest puts new deliveries behind it; one that
/// has not is freed. A share of zero says nothing about it. Flagged webhooks are visited until they are freed.
fn flags(served: &[Served<'_>], flagged: &HashSet<WebhookId>) -> Flags {
    let mut flags = Flags::default();
    for Served { waiting, lane_room, share, got } in served {
        let webhook = waiting.webhook;
        let backlog = if waiting.due && *lane_room == 0 {
            Some(true)
        } else if !waiting.due && lanes::is_shut(&waiting.lane) {
            // What is parked has the time of the next probe; new deliveries go behind that time.
            None
        } else if waiting.due && *share == 0 {
            None
        } else {
            Some(waiting.due && *got >= (*lane_room).min(*share))
        };
        match (backlog, flagged.contains(&webhook)) {
            (Some(true), false) => flags.more.push(webhook),
            (Some(false), true) => flags.none.push(webhook),
            _ => {}
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::{model::lane, store::waiting::LaneSnapshot};

    #[test]
    fn companies_have_equal_shares_and_then_their_lanes() {
        let waiting: Vec<WaitingDeliveries> = (0..101)
            .map(|n| WaitingDeliveries {
                webhook: WebhookId(Uuid::from_u128(n)),
                company: CompanyId(Uuid::from_u128(n / 100)),
                ..waiting(true, false)
            })
            .collect();
        let check = |window_room, lane_jobs_max, first: i64, last: i64| {
            let mut served: Vec<Served<'_>> =
                waiting.iter().map(|waiting| Served { waiting, lane_room: 99, share: 0, got: 0 }).collect();
            share_out(&mut served, window_room, lane_jobs_max);
            assert_eq!((served[0].share, served[100].share), (first, last), "{window_room}, {lane_jobs_max}");
        };
        check(1_000, 1_000, 5, 500);
        check(1_000, 32, 5, 32);
        check(10, 32, 1, 5);
        check(0, 32, 0, 0);
    }

    /// A webhook of which something is due or not, and whose lane is shut or not.
    fn waiting(due: bool, shut: bool) -> WaitingDeliveries {
        let now = DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        let standing = lane::Standing {
            open: None,
            rate_limited_until: shut.then(|| now + chrono::TimeDelta::seconds(9)),
        };
        let lane = LaneSnapshot {
            now,
            standing,
            probe_leased_until: None,
            rate_limit: None,
            next_slot_at: None,
            full_at: None,
        };
        WaitingDeliveries {
            webhook: WebhookId(Uuid::from_u128(1)),
            company: CompanyId(Uuid::nil()),
            standing: WebhookBacklog::Open,
            resuming: false,
            due,
            again_due: true,
            lane,
        }
    }

    #[test]
    fn a_webhook_is_flagged_while_more_is_due_than_it_may_have() {
        let id = WebhookId(Uuid::from_u128(1));
        let check = |(due, shut): (bool, bool), lane_room, got, share, was: bool, expected: Option<bool>| {
            let waiting = waiting(due, shut);
            let served = [Served { waiting: &waiting, lane_room, share, got }];
            let flagged: HashSet<WebhookId> = was.then_some(id).into_iter().collect();
            let flags = flags(&served, &flagged);
            let expected = match expected {
                Some(true) => Flags { more: vec![id], none: Vec::new() },
                Some(false) => Flags { more: Vec::new(), none: vec![id] },
                None => Flags::default(),
            };
            assert_eq!(
                flags, expected,
                "due {due}, shut {shut}, room {lane_room}, got {got} of {share}, {was}"
            );
        };
        let (due, nothing_due, due_and_shut, shut) =
            ((true, false), (false, false), (true, true), (false, true));
        check(due, i64::MAX, 32, 32, false, Some(true));
        check(due, i64::MAX, 31, 32, true, Some(false));
        check(due, 5, 5, 32, false, Some(true));
        check(due, 5, 4, 32, true, Some(false));
        check(due, 0, 0, 32, false, Some(true));
        check(due_and_shut, 0, 0, 32, false, Some(true));
        check(shut, 0, 0, 32, true, None);
        check(due, i64::MAX, 0, 0, false, None);
        check(due, i64::MAX, 0, 0, true, None);
        // Only replays are due.
        check(nothing_due, i64::MAX, 0, 32, true, Some(false));
        check(nothing_due, 0, 0, 32, false, None);
        assert_eq!(flags(&[], &HashSet::from([id])), Flags::default());
    }
}
