//! One round over the webhooks that have something due.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use sqlx::types::Uuid;

use super::{ROWS_MAX, Round, Scheduler, WEBHOOKS_MAX, is_full, lanes};
use crate::{
    broker::{Destination, Fate, Queue},
    model::{DeliveryId, Job, Trigger, WebhookId, id::BUCKETS},
    store::{
        dispose,
        due::{self as rows, DueDelivery},
        waiting::{self, Since, WaitingDeliveries, WebhookBacklog, Which},
    },
};

/// How often schedule looks for webhooks with waiting deliveries while the known ones keep it busy.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The webhooks that a round handles.
pub(super) struct DuePage {
    at: Instant,
    webhooks: Vec<WebhookId>,
    /// Whether there are no others.
    is_whole: bool,
    /// Whether the last round made jobs.
    is_busy: bool,
}

impl DuePage {
    /// Before the first look.
    pub(super) fn none() -> Self {
        Self { at: Instant::now(), webhooks: Vec::new(), is_whole: false, is_busy: false }
    }
}

/// A webhook for which something waits, and what it gets of it in this round.
struct Served<'a> {
    waiting: &'a WaitingDeliveries,
    /// What its lane allows; nothing where nothing is due.
    lane_room: i64,
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
        let whole = self.look(round).await?;
        let now = Instant::now();
        let queried: Vec<(WebhookId, Since)> = round
            .page
            .webhooks
            .iter()
            .map(|webhook| (*webhook, round.cursors.since(*webhook, now)))
            .collect();
        let waiting = waiting::standing(pool, round.low, &queried).await?;
        for closed in waiting.iter().filter(|w| w.standing == WebhookBacklog::Closed) {
            rows::cancel(pool, round.low, closed.webhook, "webhook deleted or inactive", ROWS_MAX).await?;
        }
        // A webhook whose next retry is hours away, or whose lane is shut, takes no share from those that can go on.
        let mut served: Vec<Served<'_>> = (waiting.iter().filter(|w| w.standing == WebhookBacklog::Open))
            .map(|waiting| {
                let due = waiting.due || waiting.again_due;
                let lane_room = if due { round.lanes.room(waiting.webhook, &waiting.lane, now) } else { 0 };
                Served { waiting, lane_room, got: 0 }
            })
            .collect();
        let share = self.share(served.iter().filter(|s| s.lane_room > 0).count()).await;
        let rooms: Vec<rows::LaneRoom> = (served.iter())
            .map(|s| (s.waiting.webhook, s.lane_room.min(share)))
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
        round.page.is_busy = !taken.is_empty();
        self.flag(round, flags(&served, share, &round.flagged, whole)).await?;
        let count = taken.len();
        if self.publish(taken).await? > 0 {
            round.cursors.forget_all();
        }
        Ok(count)
    }

    /// Finds the webhooks that this round handles; says whether these are all with waiting deliveries. While those of
    /// the last round are in progress, they are not looked for again each time.
    async fn look(&self, round: &mut Round) -> sqlx::Result<bool> {
        let now = Instant::now();
        let page = &round.page;
        if page.is_busy && page.is_whole && now.saturating_duration_since(page.at) < LOOK_EVERY {
            return Ok(true);
        }
        let webhooks =
            waiting::webhooks(self.ledger.pool(), Which::Waiting, round.low, round.after.0, WEBHOOKS_MAX)
                .await?;
        let is_whole = round.after.0.is_nil() && !is_full(&webhooks);
        round.after = match webhooks.last() {
            Some(last) if is_full(&webhooks) => *last,
            _ => WebhookId(Uuid::nil()),
        };
        round.page = DuePage { at: now, webhooks, is_whole, is_busy: false };
        Ok(is_whole)
    }

    /// How many jobs each of `webhooks` may have now.
    async fn share(&self, webhooks: usize) -> i64 {
        if webhooks == 0 {
            return 0;
        }
        let mut room = usize::MAX;
        for shard in 0..self.shards.min(BUCKETS) {
            // Bucket n belongs to shard n, as long as there are no more shards than buckets.
            room = room.min(self.window.room(shard).await);
        }
        if room == 0 {
            return 0;
        }
        let share = i64::try_from(room / webhooks).unwrap_or(i64::MAX);
        share.clamp(1, self.lane_jobs_max)
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
/// has not is freed. A `share` of zero says nothing about any. If the `whole` set of webhooks with waiting deliveries
/// is known, every webhook outside it is freed too.
fn flags(served: &[Served<'_>], share: i64, flagged: &HashSet<WebhookId>, whole: bool) -> Flags {
    let mut flags = Flags::default();
    for Served { waiting, lane_room, got } in served {
        let webhook = waiting.webhook;
        let backlog = if waiting.due && *lane_room == 0 {
            Some(true)
        } else if !waiting.due && lanes::is_shut(&waiting.lane) {
            // What is parked has the time of the next probe; new deliveries go behind that time.
            None
        } else if waiting.due && share == 0 {
            None
        } else {
            Some(waiting.due && *got >= (*lane_room).min(share))
        };
        match (backlog, flagged.contains(&webhook)) {
            (Some(true), false) => flags.more.push(webhook),
            (Some(false), true) => flags.none.push(webhook),
            _ => {}
        }
    }
    if whole {
        let present: HashSet<WebhookId> = served.iter().map(|s| s.waiting.webhook).collect();
        flags.none.extend(flagged.difference(&present));
    }
    flags
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::{model::lane, store::waiting::LaneSnapshot};

    #[test]
    fn a_webhook_is_flagged_while_more_is_due_than_it_may_have() {
        let id = WebhookId(Uuid::from_u128(1));
        let waiting = |due: bool, shut: bool| {
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
                webhook: id,
                standing: WebhookBacklog::Open,
                resuming: false,
                due,
                again_due: true,
                lane,
            }
        };
        let check = |(due, shut): (bool, bool), lane_room, got, share, was: bool, expected: Option<bool>| {
            let waiting = waiting(due, shut);
            let served = [Served { waiting: &waiting, lane_room, got }];
            let flagged: HashSet<WebhookId> = was.then_some(id).into_iter().collect();
            let flags = flags(&served, share, &flagged, false);
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
        let flagged = HashSet::from([id]);
        assert_eq!(flags(&[], 0, &flagged, true).none, [id]);
        assert_eq!(flags(&[], 0, &flagged, false), Flags::default());
    }
}
