//! One round over the webhooks that have something due.

use bytes::Bytes;

use super::{Feed, ROWS_MAX, Round, WEBHOOKS_MAX, is_full};
use crate::{
    broker::{Destination, Fate, Outgoing, Queue, jobs::encode},
    model::{DeliveryId, Job, Trigger, WebhookId, id::BUCKETS},
    store::{
        feed::{self as rows, Due, Standing, Waiting, Which},
        set_aside,
    },
};

impl Feed {
    /// Feeds what is due, an equal share to each webhook, while the window has room; returns how much.
    pub(super) async fn due(&self, round: &mut Round) -> sqlx::Result<usize> {
        let pool = self.ledger.pool();
        let waiting = rows::webhooks(pool, Which::Waiting, round.low, round.after.0, WEBHOOKS_MAX).await?;
        let whole = round.after.0.is_nil() && !is_full(&waiting);
        round.after = match waiting.last() {
            Some(last) if is_full(&waiting) => last.webhook,
            _ => WebhookId(uuid::Uuid::nil()),
        };
        for closed in waiting.iter().filter(|w| w.standing == Standing::Closed) {
            rows::cancel(pool, round.low, closed.webhook, "webhook deleted or inactive", ROWS_MAX).await?;
        }
        // A webhook whose next retry is hours away takes no share from those that have something due.
        let open: Vec<&Waiting> = waiting.iter().filter(|w| w.standing == Standing::Open && w.due).collect();
        let share = self.share(open.len()).await;
        let fed = if share == 0 {
            Vec::new()
        } else {
            let rooms: Vec<(WebhookId, i64)> = open.iter().map(|w| (w.webhook, share)).collect();
            rows::take(pool, round.low, &rooms).await?
        };
        let idle: Vec<WebhookId> = waiting.iter().filter(|w| !w.due).map(|w| w.webhook).collect();
        self.flag(round, &open, &fed, share, &idle, whole).await?;
        let count = fed.len();
        self.publish(fed).await?;
        Ok(count)
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
        share.clamp(1, self.lane_feed_max)
    }

    /// Keeps `lanes.waiting`: a webhook that has more due than its share is flagged, so that ingest puts what is new
    /// behind it; one that has not is freed.
    async fn flag(
        &self,
        round: &mut Round,
        open: &[&Waiting],
        fed: &[Due],
        share: i64,
        idle: &[WebhookId],
        whole: bool,
    ) -> sqlx::Result<()> {
        let pool = self.ledger.pool();
        let mut more = Vec::new();
        let mut none: Vec<WebhookId> = Vec::new();
        for waiting in open {
            let got = fed
                .iter()
                .filter(|due| due.webhook == waiting.webhook && due.trigger == Trigger::Event)
                .count();
            let backlog = share == 0 || i64::try_from(got).unwrap_or(i64::MAX) >= share;
            match (backlog, round.flagged.contains(&waiting.webhook)) {
                (true, false) if share > 0 => more.push(waiting.webhook),
                (false, true) => none.push(waiting.webhook),
                _ => {}
            }
        }
        none.extend(idle.iter().filter(|id| round.flagged.contains(id)));
        if whole {
            let gone = |id: &&WebhookId| !open.iter().any(|waiting| waiting.webhook == **id);
            none.extend(round.flagged.iter().filter(gone));
        }
        if !more.is_empty() {
            rows::flag(pool, &more, 1).await?;
            round.flagged.extend(more);
        }
        if !none.is_empty() {
            rows::flag(pool, &none, 0).await?;
            round.flagged.retain(|id| !none.contains(id));
        }
        self.metrics.feed_waiting.set(i64::try_from(round.flagged.len()).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Publishes the jobs of rows that are marked. Such a job claims, so one too many does no harm: whatever is not
    /// confirmed goes back to the ledger and is fed again.
    async fn publish(&self, due: Vec<Due>) -> sqlx::Result<()> {
        let due = self.without_killers(due).await?;
        if due.is_empty() {
            return Ok(());
        }
        let alone: Vec<bool> = due.iter().map(Self::is_suspect).collect();
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
                body: Bytes::new(),
            })
            .collect();
        for job in &jobs {
            self.window.took(job.bucket(), 1);
        }
        let messages = jobs.iter().zip(alone).map(|(job, alone)| {
            let message = encode(job);
            if alone { Outgoing { to: Destination::Queue(Queue::SuspectJobs), ..message } } else { message }
        });
        let fates = self.publisher.publish(messages.collect()).await;
        let confirmed = fates.iter().filter(|fate| **fate == Fate::Confirmed).count();
        self.metrics.feed_fed.inc_by(confirmed as u64);
        let lost: Vec<(DeliveryId, u32)> = (jobs.iter().zip(fates))
            .filter(|(_, fate)| *fate != Fate::Confirmed)
            .flat_map(|(job, _)| job.deliveries.iter().map(|(delivery, _)| (*delivery, job.attempt)))
            .collect();
        if !lost.is_empty() {
            set_aside::unqueue(self.ledger.pool(), &lost).await?;
        }
        Ok(())
    }
}
